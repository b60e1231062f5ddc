"""The plain way of patching: one whole pass a cell, by the backend's own means, where none can be resumed midway."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core import InputError
from ..hooks import Model
from ..hooks.backends.base import WRITABLE, Edit
from ..hooks.sites import Site
from .metrics import Forcing, Meter, forcings
from .patch_board import Board, Plan, Work

ROWS = 64  # patched runs that share a pass


def check_plain(plan: Plan, why: str) -> None:
    """Raise InputError for a site that cannot be patched the plain way."""
    if plan.site not in WRITABLE or (plan.each and plan.site != "z"):
        raise InputError(
            f"site {plan.site!r} needs a model that can be resumed midway, and this one cannot: {why}. "
            f"Sites that can be patched in whole passes: {', '.join(WRITABLE)}"
        )


def measure_plainly(model: Model, work: Work, plan: Plan, board: Board, bar: Any) -> None:
    """One batch of pairs, every cell in a whole pass."""
    batch, n = work.batch, len(board.keys)
    sides = (batch.recipient, batch.donor) if plan.direction == "denoising" else (batch.donor, batch.recipient)
    pairs = torch.arange(len(batch.index), device=batch.changed.device)
    meter: Meter | None = None
    for own, other in zip(forcings(batch, sides[0]), forcings(batch, sides[1]), strict=True):
        plain, source = (_logits(model, forcing.ids, [], forcing.keep) for forcing in (own, other))
        meter = meter or Meter(plan.metric, batch, n + 3, plain[:, 0])
        read = meter.reader(own)
        for cell, logits in ((n, plain), (n + 1, source)):
            read(torch.full_like(pairs, cell), pairs, logits)
        board.forwards += 2 * len(pairs)
        given = _states(model, work, plan, other.ids)
        try:
            for cells, runs in _chunks(work, pairs):
                edits = _edits(work, plan, given, cells, runs)
                read(cells, runs, _logits(model, own.ids[runs], edits, own.keep))
                board.forwards += len(runs)
                bar.update(len(runs))
            read(torch.full_like(pairs, n + 2), pairs, _identity(model, own))
        finally:
            if own.last:
                board.take(work, meter)
    assert meter is not None
    board.take_plain(work, meter, plan.direction)


def _logits(model: Model, ids: Int[Tensor, "run pos"], edits: list[Edit], keep: int) -> Float[Tensor, "run keep vocab"]:
    """The last `keep` positions' logits of a whole pass."""
    runs, length = ids.shape
    rows = torch.cartesian_prod(torch.arange(runs), torch.arange(length - keep, length)).to(ids.device)
    return model.backend.write(ids, torch.ones_like(ids, dtype=torch.bool), edits, rows).view(runs, keep, -1)


def _states(model: Model, work: Work, plan: Plan, ids: Int[Tensor, "run pos"]) -> dict[Site, Tensor]:
    """The source's states of the site, `[run, pos, ...]`, in every layer that is written."""
    runs, length = ids.shape
    rows = torch.cartesian_prod(torch.arange(runs), torch.arange(length)).to(ids.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    if plan.site == "z":
        read = model.backend.read_heads(ids, mask, work.layers, rows)
    else:
        read = model.backend.read(ids, mask, [Site(plan.site, layer) for layer in work.layers], rows)
    return {site: values.unflatten(0, (runs, length)) for site, values in read.items()}


def _chunks(work: Work, pairs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Cells and runs that are wanted, so many at a time."""
    cells, runs = np.nonzero(work.wanted)
    for start in range(0, len(cells), ROWS):
        part = slice(start, start + ROWS)
        yield torch.from_numpy(cells[part]).to(pairs.device), torch.from_numpy(runs[part]).to(pairs.device)


def _edits(work: Work, plan: Plan, given: dict[Site, Tensor], cells: Tensor, runs: Tensor) -> list[Edit]:
    """What is written in the runs of a chunk, which may be of several cells."""
    edits = []
    for cell in dict.fromkeys(cells.tolist()):
        first, at, unit = work.keys[cell]
        here = (cells == cell).nonzero()[:, 0]
        own, source = work.places(at)
        rows = torch.stack([here.repeat_interleave(len(own)), torch.tensor(own * len(here), device=here.device)], dim=1)
        for layer in work.window(first):
            values = given[Site(plan.site, layer)][runs[here]][:, list(source)].flatten(0, 1)
            heads = None if unit is None else (unit,)
            edits.append(Edit(Site(plan.site, layer), rows, values if unit is None else values[:, [unit]], heads))
    return edits


def _identity(model: Model, own: Forcing) -> Tensor:
    """The runs with one state in the middle written with what it was."""
    runs, length = own.ids.shape
    at = torch.tensor([(run, length // 2) for run in range(runs)], device=own.ids.device)
    site = Site("resid_pre", model.n_layers // 2)
    values = model.backend.read(own.ids, torch.ones_like(own.ids, dtype=torch.bool), [site], at)[site]
    return _logits(model, own.ids, [Edit(site, at, values)], own.keep)
