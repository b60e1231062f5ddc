"""Knock-outs: which positions must be read by which, in which layers and heads, for the own answer."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ..core import InputError, Manifest, check_name, circumstance
from ..hooks import Model, Run, resolve
from ..hooks.cut import check_layers
from ..hooks.edges import HOW, check_heads
from ..hooks.edits import LATER
from ..hooks.gates import enforce, judge_limit
from ..hooks.sites import n_heads
from .knockout_batch import Batch, Passes, Where, Wire
from .knockout_table import QUANTITIES, KnockOutEffect
from .targets import count_reasons

EACH = ("all", "layer", "head")
ADVICE = "This model cannot be taken up in the middle here; use hooks.edited, which runs it whole"


def knockout(
    model: Model,
    runs: Sequence[Run],
    queries: str,
    keys: str,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    how: str = "renormalise",
    each: str = "all",
    window: int = 1,
    controls: int = 5,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> KnockOutEffect:
    """Measure what the run's own answer loses when `queries` cannot read `keys`, tokens and positions being kept.

    The own answer is forced; its probability, and whether it is still the most likely one, are compared with those of
    the run as it is. Nothing is generated again: where an early position is knocked out, the later tokens stay.

    queries, keys: positions of each run (`cue`, `step.2`, `prompt[-1]`; several joined with "+"); queries may be
        "later", every position after the first key that is no key: then the keys are as if they had never been
    layers, heads: where; all without them. each: "all" of them at once, or one knock-out a "layer" (or for each
        `window` of layers that follow one another), or one a "head" of a layer
    how: "renormalise" takes edges out before the softmax: the other positions are read more, so that an effect may
        come from them; a position always sees itself. "zero" sets the pattern's entries to 0 after it: other reads
        stay, but a head puts out less than it ever did in training, and the keys still draw weight
        (attention knockout of Geva et al. 2023, 2304.14767, is the first; ablating a pattern, the second)
    controls: how many times as many other keys are drawn at random among the positions that the queries see (all of
        them where there are fewer): a knock-out is judged against cutting as many keys elsewhere (for "later", later
        keys have fewer readers, so the controls cut fewer edges). The first token counts as any other, though some
        models need to see it whatever it says.

    Only positions from the first query on, in layers from the first knocked-out one on, are computed again. Runs
    without an answer, and without anything to cut, are left out and counted.

    >>> from loadbearing.hooks import generate, load
    >>> model = load("organism:sft")
    >>> runs = generate(model, model.task.problems(16))
    >>> blind, deaf = (knockout(model, runs, "cue", keys).effect("kept")[0].item() for keys in ("cot", "operand.*"))
    >>> blind < 0.5, deaf
    (True, 1.0)
    """
    began = time.perf_counter()
    check_name("how", how, HOW)
    where = _where(model, layers, heads, check_name("each", each, EACH), window)
    if not isinstance(controls, int) or controls < 0:
        raise InputError(f"controls={controls}: expected a number of draws, 0 for none")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: expected 1 or more runs")
    wires, dropped = _usable(runs, queries, keys, how)
    rng = np.random.default_rng(seed)
    for wire in wires:
        for _ in range(controls):
            wire.drawn.append(rng.permutation(wire.others)[: len(wire.keys)])
    passes = Passes(model, how, controls)
    values, plain, replayed = _measure(passes, wires, where, batch_size, progress)
    limit = max(1e-3, 16 * torch.finfo(next(model.module.parameters()).dtype).eps)
    gate = judge_limit("resumed = plain run", passes.error, limit, ADVICE, "knockout")
    enforce([gate])
    facts = {"seed": seed, "dropped": dropped, "gates": [gate.asdict()], "replayed": float(replayed.mean())}
    facts |= {"forwards": round(passes.forwards, 1)}
    options = {"queries": queries, "keys": keys, "how": how, "each": each, "window": window, "controls": controls}
    options |= {"layers": list(layers) if layers else None, "heads": list(heads) if heads else None}
    return _result(model, where, wires, values, plain, options, circumstance(began, **facts))


def _measure(
    passes: Passes, wires: Sequence[Wire], where: Sequence[Where], batch_size: int, progress: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Quantities `[quantity, true and controls, knock-out, run]`; of the plain runs log p, and whether it is greedy."""
    values = np.full((3, 1 + passes.controls, len(where), len(wires)), np.nan)
    plain, replayed = np.zeros(len(wires)), np.zeros(len(wires))
    order = sorted(range(len(wires)), key=lambda i: len(wires[i].run.ids))
    with tqdm(total=len(wires) * len(where), desc="knockout", disable=not progress, leave=False) as bar:
        for start in range(0, len(order), batch_size):
            chunk = order[start : start + batch_size]
            batch = Batch(passes, [wires[i] for i in chunk], batch_size)
            plain[chunk], replayed[chunk] = batch.plain, batch.replayed
            if not start:
                passes.error = batch.error(where[0])
            for cells, found in batch.run(where):
                values[:, :, cells[:, None], chunk] = found
                bar.update(len(cells) * len(chunk))
    values[:, 1:, :, [not wire.others for wire in wires]] = np.nan
    return values, plain, replayed


def _result(
    model: Model,
    where: Sequence[Where],
    wires: Sequence[Wire],
    values: NDArray[Any],
    plain: NDArray[Any],
    options: dict[str, Any],
    facts: dict[str, Any],
) -> KnockOutEffect:
    by_layer, by_head = (tuple(dict.fromkeys(name[i] for name, _, _ in where)) for i in (0, 1))
    shaped = values.reshape(3, values.shape[1], len(by_layer), len(by_head), len(wires))
    arrays = {name: shaped[i, 0] for i, name in enumerate(QUANTITIES)}
    arrays |= {f"control_{name}": shaped[i, 1:] for i, name in enumerate(QUANTITIES)}
    task = wires[0].run.problem.task.spec
    return KnockOutEffect(
        coords={"layer": by_layer, "head": by_head, "run": tuple(wire.run.problem.key for wire in wires)},
        manifest=Manifest({**model.identity(), "task": task, **options}, facts),
        plain=plain,
        keys=np.array([len(wire.keys) for wire in wires]),
        drawn=np.array([min(len(wire.keys), len(wire.others)) for wire in wires]),
        **arrays,
    )


def _where(
    model: Model, layers: Sequence[int] | None, heads: Sequence[int] | None, each: str, window: int
) -> list[Where]:
    """Every knock-out: its label, layers and heads."""
    chosen, some = check_layers(layers, model.n_layers), check_heads(model, heads)
    if window != 1 and each != "layer":
        raise InputError(f'window={window} is for each="layer", got each={each!r}')
    if not 1 <= window <= len(chosen):
        raise InputError(f"window={window}: expected 1 to {len(chosen)}, the number of layers")
    if each == "all":
        return [(("all", "all"), chosen, some)]
    if each == "layer":
        spans = [chosen[i : i + window] for i in range(len(chosen) - window + 1)]
        if any(span[-1] - span[0] != window - 1 for span in spans):
            raise InputError(f"layers={list(chosen)} in windows of {window}: give layers that follow one another")
        return [((span[0], "all"), span, some) for span in spans]
    own = range(n_heads(model.module)) if some is None else some
    return [((layer, head), (layer,), (head,)) for layer in chosen for head in own]


def _usable(runs: Sequence[Run], queries: str, keys: str, how: str) -> tuple[list[Wire], dict[str, int]]:
    """The runs that have an answer and something to cut, and why the others are left out."""
    if not len(runs):
        raise InputError("no runs to measure")
    found = [_wire(run, queries, keys, how) for run in runs]
    wires = [wire for wire in found if isinstance(wire, Wire)]
    dropped = count_reasons([wire for wire in found if isinstance(wire, str)])
    if not wires:
        told = " and ".join(f"{n} with {reason}" for reason, n in dropped.items())
        raise InputError(f"no run is left in which {queries!r} could be kept from reading {keys!r}: {told}")
    return wires, dropped


def _wire(run: Run, queries: str, keys: str, how: str) -> Wire | str:
    if "answer" not in run.spans:
        return "no answer"
    read = run.spans["answer"][1] - 1
    cut = set(_positions(run, keys))
    if not cut:
        return "no such keys"
    asking = set(range(min(cut), read)) - cut if queries == LATER else {p for p in _positions(run, queries) if p < read}
    seen = {key for key in cut if any(key < p or (key == p and how == "zero") for p in asking)}
    if not asking:
        return "no query that the answer could feel"
    if not seen:
        return "queries that all stand before the keys, which nothing reads ahead"
    others = sorted(set(range(max(asking))) - cut)
    return Wire(run, tuple(sorted(asking)), tuple(sorted(cut)), tuple(others))


def _positions(run: Run, names: str) -> list[int]:
    return [place.position for name in names.split("+") for place in resolve(run.spans, name.strip())]
