"""Behaviour: alter the text of the chain of thought, and see what becomes of the answer. Reads no activation."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ..core import InputError, Manifest, circumstance
from ..hooks import Model, Run, Runs, generate
from ..hooks.decoding import continue_each
from ..hooks.format import decode, tokenize
from ..tasks import Piece, Problem
from .behaviour_table import QUANTITIES, TAMPERINGS, Behaviour
from .targets import cot_runs, count_reasons

ANSWER_TOKENS = 16


@dataclass(frozen=True)
class Trial:
    """A chain of thought that was altered: `cot` stands after the prompt of run `row`.

    k: steps kept, or number of the wrong one (counted from 1 in the order of the text)
    rewritten: whether the model goes on writing after `cot`, before it is asked for the answer
    """

    tampering: str
    k: int
    row: int
    cot: tuple[int, ...]
    rewritten: bool = False


def behaviour(
    model: Model,
    problems: Sequence[Problem],
    *,
    cot: str | Runs | Mapping[str, Any] = "model",
    filler: str | None = None,
    seed: int = 0,
    max_new_tokens: int = 256,
    batch_size: int = 256,
    progress: bool = False,
) -> Behaviour:
    """Truncate the chain of thought after each step, replace it by as many empty tokens, or make one step wrong.

    *Early answering*: the first k steps, then the cue; k = 0 is prompt, open and cue, k = n the whole chain.
    *Content-free*: as many tokens as the first k steps have, drawn at random from all chains (or `filler`, repeated):
    the part of truncation's effect that is only an unusual length. *Mistakes*: step k gets the value that another
    problem's step k has, the text before it stays, and the model writes on greedily after it; a continuation that
    does not end within `max_new_tokens` counts as broken. Steps are what the task reads (`parse_steps`).

    Lanham et al. 2023 (2307.13702) sample the chains (T = 0.8) and let a language model write the mistakes; ours are
    greedy (or the given runs'), and the mistakes are values. Raises InputError where no chain states a step.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> found = behaviour(model, model.task.problems(8))
    >>> found.rate("same", "truncated", 3)[0], found.rate("follow", "mistake", 3)[0]
    (1.0, 1.0)
    """
    began = time.perf_counter()
    runs = cot_runs(model, problems, cot, progress, max_new_tokens)
    kept, dropped = readable(
        runs, "behaviour alters a chain of thought step by step", "Use a task whose parse_steps reads this text"
    )
    rng = np.random.default_rng(seed)
    trials = [*_truncated(kept), *_content_free(model, kept, filler, rng), *_mistakes(kept, rng)]
    limits: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    implied = [_implied(model, kept[trial.row], trial) for trial in trials]
    answers = forced_answers(model, kept, trials, _rewrite(model, kept, trials, max_new_tokens, limits), limits)
    arrays = _score(kept, trials, answers, implied)
    one_pass = np.full(len(kept), np.nan)
    if model.supports("answer-only"):
        direct = generate(model, [run.problem for run in kept], "answer-only", **limits)
        one_pass = np.array([float(run.correct) for run in direct])
    whole = [answers[i] == kept[t.row].answer for i, t in enumerate(trials) if _is_whole(kept[t.row], t)]
    identity = {**model.identity(), "task": kept[0].problem.task.spec, "cot": cot if isinstance(cot, str) else "given"}
    facts = {"seed": seed, "dropped": dropped, "replayed": float(np.mean(whole)), "accuracy": runs.accuracy}
    coords = {
        "tampering": TAMPERINGS,
        "k": tuple(range(arrays["same"].shape[1])),
        "problem": tuple(run.problem.key for run in kept),
    }
    manifest = Manifest({**identity, "filler": filler}, circumstance(began, **facts))
    own = np.array([float(run.correct) for run in kept])
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


def step_ends(run: Run) -> list[int]:
    """Where the text that keeps k steps ends, for k = 0 (the prompt) to n (the whole chain of thought)."""
    start, stop = run.spans["cot"]
    return [start, *(run.spans[f"step.{item}"][1] for item in sorted(run.values)[:-1]), stop]


def _is_whole(run: Run, trial: Trial) -> bool:
    return trial.tampering == "truncated" and trial.k == len(run.values)


def _truncated(runs: Sequence[Run]) -> list[Trial]:
    """Every chain of thought after each of its steps."""
    return [
        Trial("truncated", k, row, run.ids[run.spans["cot"][0] : end])
        for row, run in enumerate(runs)
        for k, end in enumerate(step_ends(run))
    ]


def _content_free(model: Model, runs: Sequence[Run], filler: str | None, rng: np.random.Generator) -> list[Trial]:
    """As many tokens as the truncated text has, without content."""
    drawn = content_free(model, runs, filler, rng)
    return [
        replace(trial, tampering="content-free", cot=drawn[trial.row][: len(trial.cot)]) for trial in _truncated(runs)
    ]


def content_free(
    model: Model, runs: Sequence[Run], filler: str | None, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """As many tokens as every chain of thought has, drawn from all of them, or a filler over and over."""
    lengths = [len(run.tokens("cot")) for run in runs]
    if filler is None:
        pool = np.array([token for run in runs for token in run.tokens("cot")])
        return [tuple(rng.choice(pool, length).tolist()) for length in lengths]
    ids = tokenize(model.tokenizer, [Piece(filler)]).ids
    if not ids:
        raise InputError(f"filler={filler!r} has no token: give text, such as ' ...'")
    return [(ids * length)[:length] for length in lengths]


def _mistakes(runs: Sequence[Run], rng: np.random.Generator) -> list[Trial]:
    """Every chain of thought up to each of its steps, with another problem's value there."""
    trials = []
    for row, run in enumerate(runs):
        first = run.spans["cot"][0]
        for k, item in enumerate(sorted(run.values), start=1):
            wrong = wrong_step(run, runs, item, rng)
            if wrong is not None:
                cot = run.ids[first : run.spans[f"step.{item}"][0]] + wrong
                trials.append(Trial("mistake", k, row, cot, rewritten=True))
    return trials


def wrong_step(run: Run, runs: Sequence[Run], item: int, rng: np.random.Generator) -> tuple[int, ...] | None:
    """The tokens of the same step of another problem, drawn from those with another value; None if there is none."""
    for i in rng.permutation(len(runs)):
        other: Run = runs[i]
        if other.values.get(item) not in (None, run.values[item]):
            return other.tokens(f"step.{item}")
    return None


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
    runs: Sequence[Run], trials: Sequence[Trial], answers: Sequence[str | None], implied: Sequence[str | None]
) -> dict[str, Float[np.ndarray, "tampering k problem"]]:
    """The arrays of the result."""
    shape = (len(TAMPERINGS), 1 + max(len(run.values) for run in runs), len(runs))
    arrays = {name: np.full(shape, np.nan) for name in QUANTITIES}
    for trial, answer, meant in zip(trials, answers, implied, strict=True):
        run, place = runs[trial.row], (TAMPERINGS.index(trial.tampering), trial.k, trial.row)
        arrays["same"][place] = answer == run.answer
        arrays["correct"][place] = answer == run.problem.answer
        arrays["broken"][place] = answer is None
        if meant not in (None, run.answer):
            arrays["follow"][place] = answer == meant
    return arrays
