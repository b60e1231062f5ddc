"""The plain way of patching: one whole pass a cell, by the backend's own means, where none can be resumed midway."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core import InputError
from ..hooks import Model
from ..hooks.backends.base import WRITABLE, Edit
from ..hooks.sites import Site
from .metrics import Forcing, Meter, forcings
from .patch_board import Plan, Work

ROWS = 64  # patched runs that share a pass


def check_plain(plan: Plan, why: str) -> None:
    """Raise InputError for a site that cannot be patched the plain way."""
    if plan.site not in WRITABLE or (plan.each and plan.site != "z"):
        raise InputError(
            f"site {plan.site!r} needs a model that can be resumed midway, and this one cannot: {why}. "
            f"Sites that can be patched in whole passes: {', '.join(WRITABLE)}"
        )


def swept_plainly(model: Model, work: Work, meter: Meter) -> Iterator[int]:
    """Run the cells of a batch of pairs in whole passes, and tell the meter; yields the number of rows of each pass."""
    plan, identity = work.plan, len(work.keys)
    pairs = torch.arange(len(work.batch.index), device=work.batch.changed.device)
    for own, other in forcings(work.batch, plan.direction):
        read = meter.reader(own, *(_logits(model, forcing.ids, [], forcing.keep) for forcing in (own, other)))
        given = _states(model, plan, other.ids)
        for cells, runs in _chunks(work, pairs):
            read(cells, runs, _logits(model, own.ids[runs], _edits(work, given, cells, runs), own.keep))
            meter.forwards += len(runs)
            yield len(runs)
        read(torch.full_like(pairs, identity), pairs, _identity(model, own))


def _logits(model: Model, ids: Int[Tensor, "run pos"], edits: list[Edit], keep: int) -> Float[Tensor, "run keep vocab"]:
    """The last `keep` positions' logits of a whole pass."""
    runs, length = ids.shape
    rows = torch.cartesian_prod(torch.arange(runs), torch.arange(length - keep, length)).to(ids.device)
    return model.backend.write(ids, torch.ones_like(ids, dtype=torch.bool), edits, rows).view(runs, keep, -1)


def _states(model: Model, plan: Plan, ids: Int[Tensor, "run pos"]) -> dict[Site, Tensor]:
    """The source's states of the site, `[run, pos, ...]`, in every layer that is written."""
    runs, length = ids.shape
    rows = torch.cartesian_prod(torch.arange(runs), torch.arange(length)).to(ids.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    if plan.site == "z":
        read = model.backend.read_heads(ids, mask, plan.written, rows)
    else:
        read = model.backend.read(ids, mask, [Site(plan.site, layer) for layer in plan.written], rows)
    return {site: values.unflatten(0, (runs, length)) for site, values in read.items()}


def _chunks(work: Work, pairs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Cells and runs that are wanted, so many at a time."""
    cells, runs = np.nonzero(work.wanted)
    for start in range(0, len(cells), ROWS):
        part = slice(start, start + ROWS)
        yield torch.from_numpy(cells[part]).to(pairs.device), torch.from_numpy(runs[part]).to(pairs.device)


def _edits(work: Work, given: dict[Site, Tensor], cells: Tensor, runs: Tensor) -> list[Edit]:
    """What is written in the runs of a chunk, which may be of several cells."""
    edits = []
    for cell in dict.fromkeys(cells.tolist()):
        first, at, unit = work.keys[cell]
        here = (cells == cell).nonzero()[:, 0]
        own, source = work.places(at)
        rows = torch.stack([here.repeat_interleave(len(own)), torch.tensor(own * len(here), device=here.device)], dim=1)
        for site in (Site(work.plan.site, layer) for layer in work.plan.reach(first)):
            values = given[site][runs[here]][:, list(source)].flatten(0, 1)
            edits.append(Edit(site, rows, values) if unit is None else Edit(site, rows, values[:, [unit]], (unit,)))
    return edits


def _identity(model: Model, own: Forcing) -> Tensor:
    """The runs with one state in the middle written with what it was."""
    runs, length = own.ids.shape
    at = torch.tensor([(run, length // 2) for run in range(runs)], device=own.ids.device)
    site = Site("resid_pre", model.n_layers // 2)
    values = model.backend.read(own.ids, torch.ones_like(own.ids, dtype=torch.bool), [site], at)[site]
    return _logits(model, own.ids, [Edit(site, at, values)], own.keep)
