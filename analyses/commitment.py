"""Commitment: when is the answer settled, in the state, in what the model would say now, and in the text alone."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import InputError, Manifest, check_name, circumstance
from ..hooks import Model, Run, Runs
from ..hooks.memory import MEMORY
from ..probes import group_folds
from ..probes.information import LN2
from ..tasks import Problem
from .behaviour import readable
from .commitment_lines import SITE, Asked, forced_curve, kept_states, probe_curve, shuffled_probe, text_curve
from .commitment_table import CONDITIONS, LINES, QUANTITIES, Commitment
from .controls import random_twin
from .gold import accuracy_of, scores
from .tamper import content_free, step_ends
from .targets import cot_runs


def commitment(
    model: Model,
    problems: Sequence[Problem],
    *,
    cot: str | Runs | Mapping[str, Any] = "model",
    parts: int | None = None,
    lines: Sequence[str] = LINES,
    folds: int = 5,
    shuffles: int = 20,
    twin: bool = True,
    filler: str | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    max_new_tokens: int = 256,
    batch_size: int = 256,
    memory: float = MEMORY,
    progress: bool = False,
) -> Commitment:
    """Ask for the run's own final answer after each step, in three ways, and beside each over content-free text.

    k = 0 is prompt and open, k = n the whole chain of thought. *Probe*: a ridge probe on `resid_post` at the last token
    of the kept text (no cue follows), its layer the one with the lowest held-out loss inside each training fold.
    *Forced*: the cue follows, and the answer is decoded greedily (early answering, Lanham et al. 2023, 2307.13702).
    *Text*: a reader of the kept tokens that sees neither prompt nor model. Probe and text are fitted out of fold, folds
    grouped by problem, for each k by itself. "Reasoning Theater" (2603.05488) has the same three lines, its text read
    by a language model; the first passage as a share of the chain is the self-commitment latency of 2606.05625.
    *Content-free*: as many tokens, drawn at random from all chains (or `filler`, repeated), with a probe and a reader
    of its own (all that such a text gives away is its length): truncating breaks the format too, and what the written
    steps do is the difference between the two.

    parts: keep so many equal parts of the tokens instead of the steps that the task reads: for any text
    lines: which of "probe", "forced", "text"; the others stay NaN
    shuffles: permutations of the answers that the probe is given, at the layer chosen most often
    twin: whether a copy of the model with random weights is probed too
    layers: those that the probe may choose from; all without it
    memory: gigabytes for a batch, as in `generate` and `record`

    Raises InputError where no chain states a step, for fewer problems than folds, and where all own answers are one.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> found = commitment(model, model.task.problems(60), lines=["forced"])
    >>> found.rate("forced", "truncated", 3)[0], found.rate("forced", "truncated", 2)[0] < 0.3
    (1.0, True)
    """
    began = time.perf_counter()
    for line in lines:
        check_name("line", line, LINES)
    runs = cot_runs(model, problems, cot, progress, max_new_tokens, memory=memory)
    kept, dropped = _usable(runs, parts)
    asked = _asked(kept, parts, folds, seed)
    rng = np.random.default_rng(seed)
    texts = (kept, [_with_cot(run, ids) for run, ids in zip(kept, content_free(model, kept, filler, rng), strict=True)])
    limits: dict[str, Any] = {"batch_size": batch_size, "memory": memory, "progress": progress}
    values = asked.blank(len(QUANTITIES), len(LINES), len(CONDITIONS))
    if "forced" in lines:
        values[:, LINES.index("forced")] = np.stack(
            [forced_curve(model, each, asked, limits) for each in texts], axis=1
        )
    if "text" in lines:
        # Random tokens tell a reader nothing but how many they are.
        word = kept[0].tokens("cot")[:1]
        counted = [_with_cot(run, word * len(run.tokens("cot"))) for run in kept]
        values[:, LINES.index("text")] = np.stack(
            [text_curve(model, each, asked, seed, progress) for each in (kept, counted)], axis=1
        )
    controls = {"shuffled": np.full((len(QUANTITIES), len(asked.ks), 0), np.nan), "twin": asked.blank(len(QUANTITIES))}
    picks: list[int | None] = []
    if "probe" in lines:
        other = random_twin(model, seed) if twin else None
        values[:, LINES.index("probe")], picks, found = _probed(
            model, other, texts, asked, layers, shuffles, rng, limits
        )
        controls |= found
    whole = [values[0, LINES.index("forced"), 0, len(ends) - 1, row] for row, ends in enumerate(asked.ends)]
    facts = {
        "seed": seed,
        "folds": folds,
        "dropped": dropped,
        **accuracy_of(runs),
        "replayed": float(np.mean(whole)) if "forced" in lines else None,
        "layers": [None if at is None else list(layers or range(model.n_layers))[at] for at in picks],
    }
    options = {"cot": cot if isinstance(cot, str) else "given", "parts": parts, "filler": filler}
    identity = {**model.identity(), "task": kept[0].problem.task.spec, **options, "site": SITE, "probe": "ridge"}
    return Commitment(
        coords={
            "line": LINES,
            "condition": CONDITIONS,
            "quantity": QUANTITIES,
            "k": tuple(asked.ks),
            "problem": tuple(run.problem.key for run in kept),
        },
        manifest=Manifest(identity, circumstance(began, **facts)),
        hit=values[0],
        bits=values[1],
        steps=np.array([len(ends) - 1.0 for ends in asked.ends]),
        majority=(asked.y == np.bincount(asked.y).argmax()).astype(float),
        null=-asked.null / LN2,
        correct=scores(kept),
        **controls,
    )


def _probed(
    model: Model,
    twin: Model | None,
    texts: tuple[Sequence[Run], Sequence[Run]],
    asked: Asked,
    layers: Sequence[int] | None,
    shuffles: int,
    rng: np.random.Generator,
    limits: Mapping[str, Any],
) -> tuple[NDArray[Any], list[int | None], dict[str, NDArray[Any]]]:
    """Hit and bits of the probe over both texts, the layer chosen for every k, and its controls."""
    states = [kept_states(model, each, asked, layers, limits) for each in texts]
    probed = [probe_curve(each, asked, limits["progress"]) for each in states]
    picks = probed[0][1]
    controls = {"shuffled": shuffled_probe(states[0], picks, asked, shuffles, rng, limits["progress"])}
    if twin is not None:
        controls["twin"] = probe_curve(kept_states(twin, texts[0], asked, layers, limits), asked, limits["progress"])[0]
    return np.stack([found for found, _ in probed], axis=1), picks, controls


def _usable(runs: Runs, parts: int | None) -> tuple[list[Run], dict[str, int]]:
    """The runs that have an answer, and steps where these are what is kept."""
    if parts is not None and parts < 1:
        raise InputError(f"parts={parts}: expected a number of parts from 1 on, such as parts=10")
    advice = "Use a task whose parse_steps reads this text, or parts=10 to keep equal parts of its tokens"
    aim = "commitment asks for the answer after each step" if parts is None else "commitment asks for the own answer"
    return readable(runs, aim, advice if parts is None else "Look at the format", steps=parts is None)


def _asked(runs: Sequence[Run], parts: int | None, folds: int, seed: int) -> Asked:
    """Places, own answers and folds."""
    keys = np.array([run.problem.key for run in runs])
    found = len(set(keys.tolist()))
    if folds < 3 or found < folds:
        raise InputError(
            f"{found} problems with a usable chain and {folds} folds: expected at least 3 folds, and a problem for "
            "each; give more problems or another number of folds"
        )
    answers, y = np.unique([str(run.answer) for run in runs], return_inverse=True)
    if len(answers) < 2:
        raise InputError(
            f"the own answer is {str(answers[0])!r} in all {len(y)} runs, so that there is nothing to settle: expected "
            "different answers; give other problems"
        )
    ends = [step_ends(run) if parts is None else _equal_parts(run, parts) for run in runs]
    return Asked(ends, y, group_folds(keys, folds, seed), answers)


def _equal_parts(run: Run, parts: int) -> list[int]:
    """Where each of so many parts of the tokens ends, from 0 on."""
    start, stop = run.spans["cot"]
    return [start + round(k * (stop - start) / parts) for k in range(parts + 1)]


def _with_cot(run: Run, text: tuple[int, ...]) -> Run:
    """The run with as many other tokens for its chain of thought."""
    start, stop = run.spans["cot"]
    return replace(run, ids=run.ids[:start] + text + run.ids[stop:])
