"""Where in the table: the cells by the layer at which they are read, and relay by the position that carries it."""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..core import InputError, Manifest, circumstance
from ..hooks import Model, Runs
from ..hooks.cache import Layers
from ..hooks.gates import enforce, judge
from ..hooks.splice import Job
from ..tasks import Pairs
from .cells import N_CELLS
from .detail_table import ByLayer, RelayByPosition
from .eight import BOTH, Key, Spliced, answers_of, plain_log_p, splice_pairs
from .gates import ADVICE, GATE_PAIRS
from .prepare import Cut, Cuts, prepare
from .score import score
from .targets import Aim

PARTS = 8  # a CoT whose steps are not those of its partner is split into so many equal stretches


def by_layer(
    model: Model,
    pairs: Pairs,
    *,
    target: str = "onset",
    cot: str | Runs | Mapping[str, Any] = "model",
    seed: int = 0,
    batch_size: int = 16,
    max_new_tokens: int = 256,
    progress: bool = False,
) -> ByLayer:
    """The table by layer at read time: reader layers from l on see the cell's keys and values, those below the
    recipient's.

    At l = 0 it is the table of `channels`; what is read first at layer l is lost from l + 1 on. The reader's own token
    is T's at every l. Only pairs whose CoTs have equal length; the others are counted as left out.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> found = by_layer(model, model.task.pairs(8), target="answer", cot="task")
    >>> (found.wire("direct")[:, 0].round(3) + 0.0).tolist()  # its second layer reads the prompt
    [1.0, 1.0, 0.0]
    """
    began = time.perf_counter()
    cuts = prepare(model, pairs, target, cot, seed=seed, max_new_tokens=max_new_tokens, progress=progress)
    rows = [row for row in cuts.rows if len(row[1].cot) == len(row[2].cot)]
    if not rows:
        raise InputError("no pair has CoTs of equal length: layers cannot be mixed over different positions")
    levels = model.n_layers + 1

    def cells(spliced: Spliced, i: int, row: int, aims: tuple[Aim, Aim]) -> Iterator[tuple[Key, Job]]:
        for level, start, cell in product(range(levels), BOTH, range(N_CELLS)):
            base = start * (N_CELLS - 1)  # the recipient's own cell
            past = spliced.readers[i, cell ^ base].past
            mixed = [
                _add(spliced, (key, other, level), other, _from_layer(spliced, key, other, level))
                for key, other in zip(spliced.readers[i, base].past, past, strict=True)
            ]
            yield (row, level, start, cell), Job(tuple(mixed), aims[start ^ (cell >> 2)].reader)

    log_odds = _log_odds(model, rows, cells, (levels, 2, N_CELLS), batch_size, progress)
    log_odds[:, :, 1] *= -1  # there the first run is the donor
    gates = _gates(model, rows, log_odds[:, 0, 0, 0])
    left_out = {"CoTs of unequal length": len(cuts.rows) - len(rows)}
    facts = {**cuts.counts(), "left_out": left_out, "seed": seed, "gates": gates}
    return ByLayer(
        coords={"variable": pairs.variables, "layer": tuple(range(levels)), "cell": tuple(range(N_CELLS))},
        manifest=Manifest(_identity(model, pairs, target, cot), circumstance(began, **facts)),
        variable=np.array([pairs.variables.index(pair.variable) for pair, _, _ in rows]),
        log_odds=np.moveaxis(log_odds, 0, 1),
    )


def relay_by_position(
    model: Model,
    pairs: Pairs,
    *,
    target: str = "onset",
    cot: str | Runs | Mapping[str, Any] = "model",
    seed: int = 0,
    batch_size: int = 16,
    max_new_tokens: int = 256,
    progress: bool = False,
) -> RelayByPosition:
    """Relay by the CoT position that carries it: only the keys and values of one part of the CoT are the donor's.

    Parts are the steps, with what stands before each; where two CoTs have other steps, eight equal stretches.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-relay")
    >>> found = relay_by_position(model, model.task.pairs(8), target="answer", cot="task")
    >>> found.frame()[["part", "estimate"]].round(2).values.tolist()
    [['step.1', 1.0], ['all', 1.0]]
    """
    began = time.perf_counter()
    cuts = prepare(model, pairs, target, cot, seed=seed, max_new_tokens=max_new_tokens, progress=progress)
    names, places = _parts(cuts)

    def cells(spliced: Spliced, i: int, row: int, aims: tuple[Aim, Aim]) -> Iterator[tuple[Key, Job]]:
        for side in BOTH:  # whose prompt and tokens are held, while states at the CoT come from the other
            own, other = ("C", i, side, side), ("C", i, 1 - side, side)
            whole = (0, spliced.caches.length(own))
            for number, place in enumerate([(0, 0), *places[row][side], whole]):
                mixed = _add(spliced, (own, number), own, _in_place(spliced, own, other, place))
                yield (row, side, number), Job((("P", i, side), mixed), aims[side].reader)

    log_odds = _log_odds(model, cuts.rows, cells, (2, 2 + len(names)), batch_size, progress)
    gates = _gates(model, cuts.rows, log_odds[:, 0, 0])
    # In the other direction the second run is the recipient, and its own answer counts as the recipient's.
    alone = (log_odds[:, :, 1:] - log_odds[:, :, :1]) * np.array([1, -1])[:, None]
    facts = {**cuts.counts(), "seed": seed, "gates": gates}
    return RelayByPosition(
        coords={"variable": pairs.variables, "part": (*names, "all")},
        manifest=Manifest(_identity(model, pairs, target, cot), circumstance(began, **facts)),
        variable=np.array([pairs.variables.index(pair.variable) for pair, _, _ in cuts.rows]),
        alone=alone,
        total=log_odds[:, 1, 0] - log_odds[:, 0, 0],
    )


Cells = Callable[[Spliced, int, int, tuple[Aim, Aim]], Iterator[tuple[Key, Job]]]


def _log_odds(
    model: Model, rows: Sequence[Cut], cells: Cells, shape: tuple[int, ...], batch_size: int, progress: bool
) -> NDArray[Any]:
    """log p(second run's answer) - log p(first's) of all readers that `cells` lays out over a row's caches."""
    found = np.full((len(rows), *shape), np.nan)
    for start in tqdm(range(0, len(rows), batch_size), desc="cells", disable=not progress, leave=False):
        chunk = rows[start : start + batch_size]
        spliced = splice_pairs(model, [(one, other) for _, one, other in chunk])
        jobs: dict[Key, Job] = {}
        for i, (_, one, other) in enumerate(chunk):
            jobs.update(cells(spliced, i, start + i, (one, other)))
        answers = {key: answers_of((rows[key[0]][1], rows[key[0]][2]))[:2] for key in jobs}
        for key, reading in score(model, jobs, answers, spliced.caches).items():
            found[key] = reading.log_p[1] - reading.log_p[0]
    return found


def _add(spliced: Spliced, key: Key, like: Hashable, layers: Layers) -> Key:
    """Keep mixed layers under a new key."""
    spliced.caches.add([("mixed", *key)], layers, [spliced.caches.ids([like])])
    return ("mixed", *key)


def _from_layer(spliced: Spliced, below: Hashable, above: Hashable, level: int) -> Layers:
    """The cache of one segment in layers below `level`, of another from there on."""
    return [*spliced.caches.layers(below)[:level], *spliced.caches.layers(above)[level:]]


def _in_place(spliced: Spliced, own: Key, other: Key, place: tuple[int, int]) -> Layers:
    """The cache of one segment, but of another in a range of its positions."""
    mixed: Layers = []
    for ours, theirs in zip(spliced.caches.layers(own), spliced.caches.layers(other), strict=True):
        keys, values = (part.clone() for part in ours)
        keys[:, :, slice(*place)], values[:, :, slice(*place)] = (part[:, :, slice(*place)] for part in theirs)
        mixed.append((keys, values))
    return mixed


def _parts(cuts: Cuts) -> tuple[list[str], list[tuple[list[tuple[int, int]], ...]]]:
    """The names of the parts of a CoT before its reader, and their ranges in both runs of every row."""
    runs = cuts.runs.by_problem()
    sizes = [[len(aim.body) for aim in row[1:] if isinstance(aim, Aim)] for row in cuts.rows]
    if not all(size for pair in sizes for size in pair):
        raise InputError("a CoT has no token before its reader: relay has no position")
    steps = [[sorted(a.written) for a in row[1:] if isinstance(a, Aim)] for row in cuts.rows]
    common = steps[0][0]
    if not common or any(own != common for pair in steps for own in pair):
        edges = [[np.linspace(0, size, PARTS + 1).round().astype(int).tolist() for size in pair] for pair in sizes]
        names = [f"cot {number}/{PARTS}" for number in range(1, PARTS + 1)]
    else:
        names = [f"step.{k}" for k in common]
        edges = []
        for (pair, *_), own in zip(cuts.rows, sizes, strict=True):
            edges.append([])
            for problem, size in zip((pair.recipient, pair.donor), own, strict=True):
                run = runs[problem.key]
                stops = [min(run.spans[name][1] - run.spans["cot"][0], size) for name in names]
                edges[-1].append([0, *stops])
        rest = [[(own[-1], size) for own, size in zip(*both, strict=True)] for both in zip(edges, sizes, strict=True)]
        if any(start < stop for pair in rest for start, stop in pair):
            names.append("after the last step")
            edges = [
                [[*own, stop] for own, (_, stop) in zip(*both, strict=True)] for both in zip(edges, rest, strict=True)
            ]
    return names, [tuple([*pairwise(own)] for own in pair) for pair in edges]


def _gates(model: Model, rows: Sequence[Cut], own: NDArray[Any]) -> list[dict[str, Any]]:
    """The first run's own cell is its plain run: else GateError."""
    errors = []
    for (_, one, other), log_odds in zip(rows[:GATE_PAIRS], own, strict=False):
        end = one.end if one.end == other.end else None
        plain = plain_log_p(model, one, other.answer, end) - plain_log_p(model, one, one.answer, end)
        errors.append(abs(plain - log_odds))
    gate = judge("own-cache splice = plain run", float(np.max(errors)), 2 * float(np.abs(own).mean()), ADVICE)
    enforce([gate])
    return [gate.asdict()]


def _identity(model: Model, pairs: Pairs, target: str, cot: Any) -> dict[str, Any]:
    return {
        **model.identity(),
        "task": pairs.task.spec,
        "target": target,
        "cot": cot if isinstance(cot, str) else "given",
    }
