"""Interventions on a batch of pairs, measured: what every cell says, beside the two plain runs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from ..hooks import Model
from ..hooks.interior import Interior
from ..hooks.sites import Site
from ..hooks.sweep import Cell, Sweep
from ..hooks.trace import Trace, trace
from .aligned import Batch
from .metrics import Meter, Metric, forcings


@dataclass(frozen=True)
class Measured:
    """Figures and outcomes (see `metrics.OUTCOMES`) `[cell, pair]`, figures of the plain runs `[pair]`, and the work in
    plain forward passes."""

    values: NDArray[Any]
    outcomes: NDArray[Any]
    recipient: NDArray[Any]
    donor: NDArray[Any]
    plain_outcome: NDArray[Any]
    forwards: float


def swept(
    model: Model,
    interior: Interior,
    meter: Meter,
    cells: Callable[[Trace, Trace], Sequence[Cell]],
    *,
    direction: str = "denoising",
    base_sites: Iterable[Site] = (),
    source_sites: Iterable[Site] = (),
    memory: int = 1 << 30,
) -> Iterator[int]:
    """Run the cells that `cells(base's trace, source's trace)` makes, and tell the meter, with each answer forced.

    The base is the run that is written into, the source the one that values are taken from. Yields the number of rows
    that each chunk has done. sites: what the traces keep besides residual stream and heads
    """
    for own, other in forcings(meter.batch, direction):
        with torch.no_grad():
            source = trace(model, interior, other.ids, keep=other.keep, sites=source_sites)
            base = trace(model, interior, own.ids, keep=own.keep, sites=base_sites)
        read = meter.reader(own, base.logits, source.logits)
        sweep = Sweep(model, interior, base, own.keep, memory)
        try:
            yield from sweep.run(cells(base, source), read)
        finally:
            meter.forwards += sweep.forwards


def measure(
    model: Model,
    interior: Interior,
    batch: Batch,
    count: int,
    cells: Callable[[Trace, Trace], Sequence[Cell]],
    *,
    metric: Metric = "log-odds",
    sites: Sequence[Site] = (),
    memory: int = 1 << 30,
) -> Measured:
    """Run the `count` cells that `cells(recipients' trace, donors' trace)` makes into the recipients' runs.

    sites: what both traces keep besides residual stream and heads
    """
    meter = Meter(metric, batch, count)
    for _ in swept(model, interior, meter, cells, base_sites=sites, source_sites=sites, memory=memory):
        pass
    values, outcomes = meter.values, meter.outcomes
    return Measured(values[:count], outcomes[:count], values[-2], values[-1], outcomes[-2], meter.forwards)
