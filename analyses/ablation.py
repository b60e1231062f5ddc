"""Ablation: what is lost when a wire from the prompt is set to nothing, for problems without a partner."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core import InputError, Manifest, check_name, circumstance
from ..hooks import Model, Run, Runs
from ..hooks.cache import Caches, Layers
from ..hooks.format import tokenize
from ..hooks.gates import Gate, enforce, judge
from ..hooks.memory import MEMORY, batches, cache_bytes
from ..hooks.splice import Job, run_jobs
from ..hooks.support import check_spliceable
from ..tasks import Piece, Problem
from .ablation_table import Ablation
from .cells import N_CELLS
from .eight import Key, eight_cells, plain_log_p
from .gates import ADVICE, GATE_PAIRS
from .gold import accuracy_of, set_aside
from .prepare import KEEP
from .targets import Aim, cot_runs, count_reasons, cut, resolve_target

BASELINES = ("neutral", "mean", "zero")
TEXTS = ("filler", "shuffled", "repeated")
FEWEST = 8  # problems of one prompt length, for a mean


def ablation(
    model: Model,
    problems: Sequence[Problem],
    *,
    baseline: str = "neutral",
    text: str = "filler",
    filler: str = " .",
    target: str = "onset",
    cot: str | Runs | Mapping[str, Any] = "model",
    samples: int = 1,
    temperature: float = 0.0,
    keep: str = "all",
    seed: int = 0,
    batch_size: int = 64,
    memory: float = MEMORY,
    max_new_tokens: int = 256,
    progress: bool = False,
) -> Ablation:
    """Leave only some wires on, the others at a baseline: v(S) = log p(own answer) with the wires in S as they were.

    baseline: what direct and relay see instead of the prompt: "neutral" (a pass over a prompt of equal length whose
        variables are `filler`, or, where the task names none, all that prompts do not share at their start and end),
        "mean" (keys and values averaged over the problems of the same prompt length, position by position: at equal
        positions it does not matter whether before or after rotation) or "zero". Position 0, the attention sink, is
        never averaged or zeroed. Relay is recomputed over that prompt.
    text: what tokens are instead of the CoT, at its length: "filler", "shuffled" (its own tokens) or "repeated" (one)

    No donor's answer competes here, so nothing is said about shares: a loss tells that a wire was used, and a wire that
    alone keeps the answer that it suffices. Only this shows redundancy. Verdicts depend on the baseline (arXiv
    2605.30574: neutral keeps what zero destroys), so it stands in the manifest. Other arguments: see `channels`.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-redundant")
    >>> found = ablation(model, model.task.problems(8), target="answer", cot="task")
    >>> found.rate("kept", "direct")[0], found.rate("kept", "tokens")[0], found.rate("kept", "none")[0] < 0.5
    (1.0, 1.0, True)
    """
    began = time.perf_counter()
    check_spliceable(model)
    for name, value, known in (("baseline", baseline, BASELINES), ("text", text, TEXTS), ("keep", keep, KEEP)):
        check_name(name, value, known)
    drawn: dict[str, Any] = {"samples": samples, "temperature": temperature}
    runs = cot_runs(model, problems, cot, progress, max_new_tokens, seed=seed, memory=memory, **drawn)
    rows, dropped = _own(model, runs, target, keep)
    edit = None
    if baseline != "neutral":
        rows, edit, few = _edited(model, rows, baseline, batch_size, memory)
        dropped += few
    if not rows:
        raise InputError(f"no problem is left for target {target!r}: {count_reasons(dropped)}")
    pairs, unchanged = _off_and_on(model, rows, (baseline, text), filler, seed)
    limits: dict[str, Any] = {"batch_size": batch_size, "memory": memory, "progress": progress}
    scores = eight_cells(model, pairs, [None] * len(pairs), edit=edit, **limits)
    gate = _gate(model, rows, scores.log_p[..., 1])
    enforce([gate])
    task = rows[0][0].problem.task
    said = np.array([[task.parse_answer(said) for said in row] for row in scores.greedy], dtype=object)
    own = np.array([[aim.value] for _, aim in rows], dtype=object)
    keys = list(dict.fromkeys(run.problem.key for run, _ in rows))
    facts = {"seed": seed, "asked": len(runs), "dropped": count_reasons(dropped), "gates": [gate.asdict()]}
    facts |= {**accuracy_of(runs), "text_unchanged": unchanged}
    how = {"task": task.spec, "target": target, "baseline": baseline, "text": text, "filler": filler, "keep": keep}
    how |= {"cot": cot if isinstance(cot, str) else "given", **drawn}
    return Ablation(
        coords={"cell": tuple(range(N_CELLS)), "problem": tuple(keys)},
        manifest=Manifest({**model.identity(), **how}, circumstance(began, **facts)),
        unit=np.array([keys.index(run.problem.key) for run, _ in rows]),
        log_p=scores.log_p[..., 1],
        kept=(said == own).astype(float),
        broken=(said == None).astype(float),  # noqa: E711 - elementwise
    )


def _off_and_on(
    model: Model, rows: Sequence[tuple[Run, Aim]], how: tuple[str, str], filler: str, seed: int
) -> tuple[list[tuple[Aim, Aim]], int]:
    """Each run with every wire at its baseline, and as it is; and how many chains that leaves as they are."""
    fill = tokenize(model.tokenizer, [Piece(filler)]).ids[-1]
    rng = np.random.default_rng(seed)
    shared = _shared([aim.prompt for _, aim in rows])
    pairs = [(_off(run, aim, how, fill, shared, rng), aim) for run, aim in rows]
    unchanged = sum(off.cot == aim.cot for off, aim in pairs)
    if unchanged == len(pairs):
        raise InputError(f"text={how[1]!r} leaves every chain of thought as it is: take another baseline for the text")
    return pairs, unchanged


def _gate(model: Model, rows: Sequence[tuple[Run, Aim]], log_p: NDArray[Any]) -> Gate:
    """With every wire on, the cell is the plain run."""
    plain = [plain_log_p(model, aim, aim.answer, aim.end) for _, aim in rows[:GATE_PAIRS]]
    error = float(np.abs(log_p[: len(plain), -1] - plain).max())
    return judge("own-cache splice = plain run", error, float((log_p[:, -1] - log_p[:, 0]).mean()), ADVICE)


def _own(model: Model, runs: Runs, target: str, keep: str) -> tuple[list[tuple[Run, Aim]], list[str]]:
    """The runs that can be cut at the target, and why the others cannot."""
    onset = resolve_target(target, runs)
    rows: list[tuple[Run, Aim]] = []
    dropped: list[str] = []
    for run in runs:
        aim = cut(run, onset, target, model)
        if keep == "correct" and (reason := set_aside(run)):
            dropped.append(reason)
        elif isinstance(aim, str):
            dropped.append(aim)
        else:
            rows.append((run, aim))
    return rows, dropped


def _shared(prompts: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """How many tokens all prompts share at their start (one at least) and end: these say nothing of a problem."""

    def length(rows: Sequence[tuple[int, ...]]) -> int:
        return len(list(takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))))

    start = max(1, length(prompts))
    if start >= min(map(len, prompts)):
        return 1, 0  # one prompt only
    return start, min(length([prompt[::-1] for prompt in prompts]), min(map(len, prompts)) - start)


def _off(run: Run, aim: Aim, how: tuple[str, str], fill: int, shared: tuple[int, int], rng: np.random.Generator) -> Aim:
    """The run with every wire at its baseline; mean and zero edit the prompt's cache, not its tokens."""
    baseline, text = how
    in_cot = run.spans["cue"][0] >= len(aim.head + aim.cot)  # the reader is a token of the CoT, not the cue
    words = aim.cot if in_cot else aim.body
    if text == "filler":
        changed = (fill,) * len(words)
    elif text == "repeated":
        changed = (words[int(rng.integers(len(words)))],) * len(words)
    else:
        changed = words
        while changed == words and len(set(words)) > 1:  # of two tokens, half of all orders change nothing
            changed = tuple(words[i] for i in rng.permutation(len(words)))
    prompt = list(aim.prompt)
    if baseline == "neutral":
        named = [run.spans[name] for name in run.problem.task.inputs if name in run.spans]
        for start, stop in named or [(shared[0], len(prompt) - shared[1])]:
            prompt[start:stop] = [fill] * (stop - start)
    body, reader = (changed[:-1], changed[-1:]) if in_cot else (changed, aim.reader)
    return replace(aim, prompt=tuple(prompt), body=body, reader=reader)


def _edited(
    model: Model, rows: Sequence[tuple[Run, Aim]], baseline: str, batch_size: int, memory: float
) -> tuple[list[tuple[Run, Aim]], Callable[[Caches, Sequence[Key]], None], list[str]]:
    """The rows that a baseline exists for, and what sets the first side's prompt caches to it."""
    means: dict[int, Layers] = {}
    few: list[str] = []
    if baseline == "mean":
        heads: dict[int, list[tuple[int, ...]]] = {}
        for _, aim in rows:
            heads.setdefault(len(aim.head), []).append(aim.head)
        means = {size: _mean(model, own, batch_size, memory) for size, own in heads.items() if len(own) >= FEWEST}
        kept = [row for row in rows if len(row[1].head) in means]
        few = [f"fewer than {FEWEST} problems of the same prompt length, for a mean"] * (len(rows) - len(kept))
        rows = kept

    def edit(caches: Caches, keys: Sequence[Key]) -> None:
        for key in keys:
            if key[2] == 0:
                own = caches.layers(key)
                blank = means.get(caches.length(key)) or [(torch.zeros_like(k), torch.zeros_like(v)) for k, v in own]
                caches.add([key], list(map(_after_sink, own, blank)), [caches.ids([key])])

    return list(rows), edit, few


def _after_sink(own: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> Any:
    """Keys and values of `other`, but those of position 0, which most heads rest on, as they are."""
    return tuple(torch.cat([mine[:, :, :1], theirs[:, :, 1:]], dim=2) for mine, theirs in zip(own, other, strict=True))


def _mean(model: Model, heads: Sequence[tuple[int, ...]], batch_size: int, memory: float) -> Layers:
    """Keys and values averaged over prompts of one length."""
    total: list[torch.Tensor] = []
    each = [2.0 * len(head) * cache_bytes(model.module) for head in heads]  # kept, and put together
    for chunk in batches(range(len(heads)), each, batch_size, memory / 2):
        caches = Caches()
        run_jobs(model, {i: Job((), heads[i]) for i in chunk}, caches, memory=memory / 2)
        past, _ = caches.assemble([(i,) for i in chunk], 0)
        sums = [part.double().sum(0, keepdim=True) for pair in past for part in pair]
        total = list(map(torch.add, total, sums)) if total else sums
    means = [(part / len(heads)).to(next(model.module.parameters()).dtype) for part in total]
    return list(zip(means[::2], means[1::2], strict=True))
