"""Behaviour: alter the text of the chain of thought, and see what becomes of the answer. Reads no activation."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ..core import InputError, Manifest, circumstance
from ..hooks import Model, Run, Runs, generate
from ..hooks.decoding import continue_each
from ..hooks.format import decode
from ..tasks import Problem
from .behaviour_table import QUANTITIES, Behaviour
from .gold import accuracy_of, scores
from .tamper import Reword, Trial, names_of, tampered
from .targets import cot_runs, count_reasons

ANSWER_TOKENS = 16


def behaviour(
    model: Model,
    problems: Sequence[Problem],
    *,
    cot: str | Runs | Mapping[str, Any] = "model",
    tamperings: Sequence[str] | None = None,
    filler: str | None = None,
    paraphrase: Reword | None = None,
    seed: int = 0,
    max_new_tokens: int = 256,
    batch_size: int = 256,
    progress: bool = False,
) -> Behaviour:
    """Alter the chain of thought in every way that the task allows (or in those of `tamperings`), and ask again.

    - "truncated": the first k steps, then the cue (*early answering*); k = 0 is prompt, open and cue, k = n the whole.
    - "content-free": as many tokens as the first k steps have, drawn at random from all chains: the part of any effect
      that is only an unusual text of that length. "filler": the same of dots, or of `filler`, repeated.
    - "mistake": step k gets the value that another problem's step k has, the text before it stays, and the model
      writes on greedily; a continuation that does not end within `max_new_tokens` counts as broken.
    - "mistake:NAME": a mistake whose value is said in another style. "paraphrase": the whole chain as the given
      function says it.
    - "shuffled": the steps in another order; "repeated": the first one in every place. k = n only.
    - "style:NAME", for each surface style of the task that the model does not write in: the first k steps said in it
      (paraphrase, translation); for k < n the model writes on after them.

    Steps are what the task reads (`parse_steps`); where it reads none in any chain, each counts as one. What cannot be
    made (a word outside the model's vocabulary, a single step to shuffle) is left out and counted. All from Lanham et
    al. 2023 (2307.13702) but "shuffled" and "repeated"; they sample the chains (T = 0.8) and let a language model write
    mistakes and paraphrases; ours are greedy (or the given runs'), mistakes are values, and a style is the task's.
    Raises InputError where no chain can be used.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> found = behaviour(model, model.task.problems(8), tamperings=["truncated", "mistake"])
    >>> found.rate("same", "truncated", 3)[0], found.rate("follow", "mistake", 3)[0]
    (1.0, 1.0)
    """
    began = time.perf_counter()
    runs = cot_runs(model, problems, cot, progress, max_new_tokens)
    advice = "Use a task whose parse_answer reads its answers"
    kept, dropped = readable(runs, "behaviour alters chains of thought", advice, steps=any(run.values for run in runs))
    trials, left_out = tampered(model, kept, names_of(kept[0].problem.task, tamperings), filler, paraphrase, seed)
    if not trials:
        raise InputError(f"no tampering can be made ({left_out}): choose others (tamperings=)")
    limits: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    implied = [_implied(model, kept[trial.row], trial) for trial in trials]
    answers = forced_answers(model, kept, trials, _rewrite(model, kept, trials, max_new_tokens, limits), limits)
    made = tuple(dict.fromkeys(trial.tampering for trial in trials))
    arrays = _score(kept, made, trials, answers, implied)
    direct = generate(model, [run.problem for run in kept], "answer-only", max_new_tokens=max_new_tokens, **limits)
    one_pass = scores(direct)
    whole = [answers[i] == kept[t.row].answer for i, t in enumerate(trials) if _is_whole(kept[t.row], t)]
    identity = {**model.identity(), "task": kept[0].problem.task.spec, "cot": cot if isinstance(cot, str) else "given"}
    facts = {
        "seed": seed,
        "dropped": dropped,
        "left_out": left_out,
        "replayed": float(np.mean(whole)) if whole else None,
        **accuracy_of(runs),
        "elicited": dict(model.card.elicited) if model.card is not None else {},
    }
    coords = {
        "tampering": made,
        "k": tuple(range(arrays["same"].shape[1])),
        "problem": tuple(run.problem.key for run in kept),
    }
    manifest = Manifest({**identity, "filler": filler}, circumstance(began, **facts))
    own = scores(kept)
    return Behaviour(coords=coords, manifest=manifest, own=own, one_pass=one_pass, **arrays)


def readable(runs: Runs, aim: str, advice: str, steps: bool = True) -> tuple[list[Run], dict[str, int]]:
    """The runs with an answer (and at least one step, if `steps`), and the others counted by reason.

    aim: what the analysis does, advice: what to do about it, for the error where no run is left
    """
    kept, reasons = [], []
    for run in runs:
        if not run.finished or run.answer is None:
            reasons.append("no answer that the task can read, or a chain of thought that was cut off")
        elif steps and not run.values:
            reasons.append("no step that the task can read")
        else:
            kept.append(run)
    if not kept:
        first = runs[0]
        text = decode(runs.model.tokenizer, first.tokens("cot")) if "cot" in first.spans else ""
        found = " and ".join(f"{n} with {reason}" for reason, n in count_reasons(reasons).items())
        raise InputError(
            f"{aim}, and task {first.problem.task.spec!r} can use none of "
            f"{len(runs)} runs: {found} (the first chain is {text!r}). {advice}"
        )
    return kept, count_reasons(reasons)


def _is_whole(run: Run, trial: Trial) -> bool:
    return trial.tampering == "truncated" and trial.k == max(1, len(run.values))


def _implied(model: Model, run: Run, trial: Trial) -> str | None:
    """What the program makes of the prompt and the steps in the altered text; None if it cannot say."""
    task = run.problem.task
    written = {step.item: step.value for step in task.parse_steps(decode(model.tokenizer, trial.cot))}
    return task.program(run.problem, written, "answer")


def _head(run: Run) -> tuple[int, ...]:
    return run.ids[: run.spans["cot"][0]]


def _rewrite(
    model: Model, runs: Sequence[Run], trials: Sequence[Trial], max_new_tokens: int, limits: Mapping[str, Any]
) -> list[tuple[int, ...] | None]:
    """The chain of thought of every trial, gone on with where the model is to; None where it does not end."""
    prefixes = [_head(runs[t.row]) + t.cot for t in trials if t.rewritten]
    written = iter(continue_each(model, prefixes, model.format.close, max_new_tokens=max_new_tokens, **limits))
    cots: list[tuple[int, ...] | None] = []
    for trial in trials:
        more, end = next(written) if trial.rewritten else ((), -1)
        cots.append(trial.cot + more if end is not None else None)
    return cots


def forced_answers(
    model: Model, runs: Sequence[Run], trials: Sequence[Trial], cots: Sequence[Any], limits: Mapping[str, Any]
) -> list[str | None]:
    """The answer after every chain of thought and the cue; None where there is no chain or no answer to read."""
    asked = [(runs[t.row], cot) for t, cot in zip(trials, cots, strict=True) if cot is not None]
    prefixes = [_head(run) + cot + run.tokens("cue") for run, cot in asked]
    written = iter(continue_each(model, prefixes, model.format.end, max_new_tokens=ANSWER_TOKENS, **limits))
    found: list[str | None] = []
    for trial, cot in zip(trials, cots, strict=True):
        ids = next(written)[0] if cot is not None else ()
        found.append(runs[trial.row].problem.task.parse_answer(decode(model.tokenizer, ids)) if ids else None)
    return found


def _score(
    runs: Sequence[Run],
    names: Sequence[str],
    trials: Sequence[Trial],
    answers: Sequence[str | None],
    implied: Sequence[str | None],
) -> dict[str, Float[np.ndarray, "tampering k problem"]]:
    """The arrays of the result."""
    shape = (len(names), 1 + max(1, *(len(run.values) for run in runs)), len(runs))
    arrays = {name: np.full(shape, np.nan) for name in QUANTITIES}
    for trial, answer, meant in zip(trials, answers, implied, strict=True):
        run, place = runs[trial.row], (names.index(trial.tampering), trial.k, trial.row)
        arrays["same"][place] = answer == run.answer
        arrays["correct"][place] = run.problem.score(answer)
        arrays["broken"][place] = answer is None
        if meant not in (None, run.answer):
            arrays["follow"][place] = answer == meant
    return arrays
