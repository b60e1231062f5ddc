"""What is written into a run, and where the patched run begins to differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Write:
    """One activation that is set: a site of a layer at positions, to `values(runs)` `[run, position, ...]`.

    units: heads of `z`, or neurons; None for all of them
    """

    site: str
    layer: int
    positions: tuple[int, ...]
    values: Callable[[Int[Tensor, " row"]], Tensor]
    units: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Entry:
    """A cell and the runs that it is written in.

    layer: where it joins; point: whether only what is written changes there, so that the positions after it can wait
    """

    cell: int
    writes: tuple[Write, ...]
    runs: Int[Tensor, " row"]
    layer: int
    start: int
    point: bool

    @classmethod
    def of(cls, cell: int, writes: Sequence[Write], runs: Int[Tensor, " row"]) -> "Entry":
        """Where a cell joins: a `resid_post` is the `resid_pre` of the layer above."""
        own = tuple(
            Write("resid_pre", w.layer + 1, w.positions, w.values) if w.site == "resid_post" else w for w in writes
        )
        layer = min(write.layer for write in own)
        point = all(write.site != "resid_pre" for write in own if write.layer == layer)
        return cls(cell, own, runs, layer, min(p for write in own for p in write.positions), point)

    def at(self, layer: int) -> tuple[int, ...]:
        """The positions that are written in a layer."""
        return tuple(sorted({p for write in self.writes if write.layer == layer for p in write.positions}))

    def tokens(self, length: int) -> int:
        """How many tokens are under way at most."""
        return len(self.runs) * (length - self.start)
