"""What a patching sweep has to do and what it has done: kept when it is interrupted, taken up by the next call."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ..core import InputError, Interrupted, load_result
from ..hooks import Model
from ..hooks.interior import Interior
from ..hooks.sweep import Cell, out_of_memory
from ..hooks.trace import Trace
from ..hooks.writes import Write
from .aligned import Aligned, Batch
from .metrics import Meter, Metric
from .patch_cells import Writer, unit_count
from .patch_table import PatchMap

Key = tuple[int, int, int | None]  # layer, number of the place, head or neuron


@dataclass(frozen=True)
class Plan:
    """What is asked of a map: one site, in windows of layers, at places, of single units or whole."""

    site: str
    layers: tuple[int, ...]
    window: int
    each: bool
    units: tuple[int, ...] | None
    direction: str
    metric: Metric
    n_layers: int

    def reach(self, layer: int) -> range:
        """The layers that are written for a cell of this one."""
        return range(layer, min(layer + self.window, self.n_layers))

    @property
    def written(self) -> list[int]:
        """All layers that are written, windows included."""
        return sorted({at for layer in self.layers for at in self.reach(layer)})


@dataclass
class Board:
    """Figures of every cell and pair, NaN until they are measured; natural: of the recipients' and donors' own runs.

    chosen: the cells `[cell]` that are run
    """

    keys: tuple[Key, ...]
    units: tuple[int, ...]
    places: int
    values: NDArray[Any]
    outcome: NDArray[Any]
    natural: NDArray[Any]
    chosen: NDArray[Any]
    error: float = 0.0
    forwards: float = 0.0

    @classmethod
    def of(cls, plan: Plan, model: Model, interior: Interior | None, aligned: Aligned) -> "Board":
        """An empty board."""
        count = unit_count(plan.site, model, interior) if plan.each else 0
        numbers = tuple(range(count)) if plan.units is None else plan.units
        if not set(numbers) <= set(range(count)):
            raise InputError(f"units={list(numbers)}: site {plan.site!r} has units 0 to {count - 1} in every layer")
        units: tuple[int | None, ...] = numbers if plan.each else (None,)
        keys = tuple((layer, at, u) for layer in plan.layers for at in range(len(aligned.labels)) for u in units)
        size = (len(keys), len(aligned.pairs))
        values, outcome = np.full(size, np.nan), np.zeros(size, dtype=np.int8)
        natural, chosen = np.full((2, size[1]), np.nan), np.ones(size[0], dtype=bool)
        return cls(keys, numbers, len(aligned.labels), values, outcome, natural, chosen)

    def shape(self, plan: Plan) -> tuple[int, ...]:
        """Layers, places, units where there are any, pairs."""
        return (len(plan.layers), self.places, *((len(self.units),) if plan.each else ()), self.values.shape[1])

    def take(self, work: "Work", meter: Meter) -> None:
        """Keep what a batch has measured so far; where nothing can differ it is the plain run's."""
        n, index = len(self.keys), np.array(work.batch.index)
        values, outcome = meter.values[:n].copy(), meter.outcomes[:n].copy()
        plain = ~work.wanted & ~work.done & meter.done[-2]
        values[plain] = np.broadcast_to(meter.values[-2], values.shape)[plain]
        outcome[plain] = np.broadcast_to(meter.outcomes[-2], values.shape)[plain]
        ready = (meter.done[:n] & work.wanted) | plain
        cells, pairs = np.nonzero(ready)
        self.values[cells, index[pairs]], self.outcome[cells, index[pairs]] = values[ready], outcome[ready]
        self.forwards += meter.forwards

    def take_plain(self, work: "Work", meter: Meter) -> None:
        """Keep the figures of the plain runs, and how far the identity patch, the cell after all others, is off."""
        index = list(work.batch.index)
        identity, *both = meter.values[len(self.keys) :]
        self.natural[:, index] = both if work.plan.direction == "denoising" else both[::-1]
        self.error = max(self.error, float(np.abs(identity - both[0]).max()))
        self.outcome[np.ix_(np.flatnonzero(~self.chosen), np.array(index))] = meter.outcomes[-2]


def can_change(batch: Batch, plan: Plan, board: Board) -> NDArray[np.bool_]:
    """Where something can change, `[cell, pair]`: not before the first token in which a pair differs, nor in the last
    layer where nothing that is written is read."""
    places, ids = batch.spots(plan.direction)[0], batch.texts(plan.direction)[0]
    last = np.array([places[at][-1] for _, at, _ in board.keys])
    top = np.array(
        [layer == plan.n_layers - 1 and plan.site not in ("resid_pre", "k", "v") for layer, _, _ in board.keys]
    )
    unread = top & (last < ids.shape[1] - 1)
    return np.asarray((last[:, None] >= batch.changed.cpu().numpy()) & ~unread[:, None])


@dataclass(frozen=True)
class Work:
    """What there is to do in one batch. wanted: cells and pairs that are run; done: those that were before."""

    batch: Batch
    plan: Plan
    keys: tuple[Key, ...]
    wanted: NDArray[Any]
    done: NDArray[Any]

    @classmethod
    def of(cls, batch: Batch, plan: Plan, board: Board) -> "Work":
        """What can change something, is chosen, and has not been done."""
        done = np.isfinite(board.values[:, list(batch.index)]) | ~board.chosen[:, None]
        return cls(batch, plan, board.keys, can_change(batch, plan, board) & ~done, done)

    @property
    def rows(self) -> int:
        """How many patched runs there are, one for each scored answer."""
        single = all(answer.shape[1] == 1 for answer in self.batch.answers)
        return int(self.wanted.sum()) * (1 if single else 2)

    def places(self, at: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens of a place in the run that is written, and in the one that values are taken from."""
        base, source = self.batch.spots(self.plan.direction)
        return base[at], source[at]

    def cells(self, writer: Writer) -> list[Cell]:
        """One cell a key, in the pairs in which it is wanted."""
        wanted = torch.from_numpy(self.wanted).to(self.batch.changed.device)
        cells = [Cell((), wanted.new_empty(0, dtype=torch.long))] * len(self.keys)
        for number in np.flatnonzero(self.wanted.any(1)):
            first, at, unit = self.keys[number]
            own, source = self.places(at)
            writes = tuple(writer.write(layer, own, source, unit) for layer in self.plan.reach(first))
            cells[number] = Cell(writes, wanted[number].nonzero()[:, 0])
        return cells

    def identity(self, base: Trace) -> Cell:
        """A cell in the middle, written with what it was."""
        layer, at = self.plan.n_layers // 2, base.ids.shape[1] // 2

        def values(runs: Int[Tensor, " row"]) -> Tensor:
            return base.residual[layer][runs][:, [at]]

        pairs = torch.arange(len(self.batch.index), device=base.ids.device)
        return Cell((Write("resid_pre", layer, (at,), values),), pairs)


def read_partial(resume: str | Path | PatchMap | None, empty: PatchMap, plan: Plan, board: Board) -> Path | None:
    """Take over what an interrupted sweep has done; the path to keep this one at, if one was given.

    empty: what this sweep makes, before anything is measured
    """
    path = Path(resume) if isinstance(resume, str | Path) else None
    if path is not None and callable(plan.metric):
        raise InputError("resume: what a function measures cannot be told from another's: use a named metric")
    if path is not None and path.suffix != ".safetensors":
        raise InputError(f"resume={str(path)!r}: expected the name of a .safetensors file")
    known = (
        resume if isinstance(resume, PatchMap) else load_result(path) if path is not None and path.is_file() else None
    )
    if known is None:
        return path
    if not isinstance(known, PatchMap) or (path is None and not np.isnan(known.values).any()):
        raise InputError(f"resume={path or known!r}: expected an interrupted sweep, which has cells that are not done")
    checked = ("pairs", "weights")
    expected, found = (
        {**of.manifest.identity, **of.coords, **{key: of.manifest.circumstance.get(key) for key in checked}}
        for of in (empty, known)
    )
    if other := sorted(key for key in expected if found.get(key) != expected[key]):
        raise InputError(
            f"resume={str(path or known)!r} is of another sweep ({', '.join(other)} differ): give the arguments that "
            "it was made with, or another file"
        )
    values = known.values.reshape(-1, known.values.shape[-1])
    board.values, board.outcome = values.copy(), known.outcome.reshape(values.shape).copy()
    return path


def keep_partial(error: BaseException, path: Path | None, board: Board, made: Callable[[], PatchMap]) -> None:
    """Save what is done; where memory ran out, raise an error that holds it."""
    done = int(np.isfinite(board.values).sum())
    if path is not None and done:
        made().save(path)
    if out_of_memory(error):
        where = (
            f"it is kept in {path}; give the same `resume` again" if path else "resume=error.partial goes on from it"
        )
        raise Interrupted(
            f"memory ran out after {done} of {board.values.size} patched runs ({error}): {where}, with less `memory`",
            made(),
        ) from error
