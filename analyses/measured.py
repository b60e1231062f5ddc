"""Interventions on a batch of pairs, measured: what every cell says, beside the two plain runs."""

from collections.abc import Callable, Iterable, Sequence
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


def measure(
    model: Model,
    interior: Interior,
    batch: Batch,
    cells: Callable[[Trace, Trace], Sequence[Cell]],
    *,
    metric: Metric = "log-odds",
    sites: Iterable[Site] = (),
    memory: int = 1 << 30,
) -> Measured:
    """Run the cells that `cells(recipients' trace, donors' trace)` makes into the recipients' runs.

    sites: what the donors' trace keeps besides residual stream and heads
    """
    pairs = torch.arange(len(batch.index), device=model.device)
    wanted = list(sites)
    meter: Meter | None = None
    n, forwards = 0, 0.0
    for own, other in zip(forcings(batch, batch.recipient), forcings(batch, batch.donor), strict=True):
        with torch.no_grad():
            base = trace(model, interior, own.ids, keep=own.keep, sites=wanted)
            source = trace(model, interior, other.ids, keep=other.keep, sites=wanted)
        made = list(cells(base, source))
        n = len(made)
        meter = meter or Meter(metric, batch, n + 2, base.logits[:, 0])
        read = meter.reader(own)
        for cell, logits in ((n, base.logits), (n + 1, source.logits)):
            read(torch.full_like(pairs, cell), pairs, logits)
        sweep = Sweep(model, interior, base, own.keep, memory)
        for _ in sweep.run(made, read):
            pass
        forwards += sweep.forwards + 2 * len(pairs)
    assert meter is not None
    values, outcomes = meter.values, meter.outcomes
    return Measured(values[:n], outcomes[:n], values[n], values[n + 1], outcomes[n], forwards)
