"""Edges of attention that are taken out, for some rows and heads of a pass, and runs taken up from where they are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core import InputError
from .cut_view import added, without
from .interior import Attend, Interior
from .model import Model
from .sites import attention_of, n_heads
from .trace import Trace

# Before the softmax, which renormalises; or in the pattern, after it.
HOW = ("renormalise", "zero")


def check_heads(model: Model, heads: Iterable[int] | None) -> tuple[int, ...] | None:
    """The heads that are meant, in order; None stands for all."""
    if heads is None:
        return None
    chosen, count = tuple(heads), n_heads(model.module)
    if not chosen or not set(chosen) <= set(range(count)) or len(set(chosen)) < len(chosen):
        raise InputError(f"heads={list(chosen)}: this model has heads 0 to {count - 1}, each to be named once")
    return chosen


def in_heads(edges: Bool[Tensor, "row 1 query key"], heads: Sequence[int] | None, count: int) -> Bool[Tensor, "..."]:
    """Edges of all heads, as those of some of them `[row, head, query, key]`."""
    if heads is None:
        return edges
    chosen = torch.zeros(count, dtype=torch.bool, device=edges.device)
    chosen[list(heads)] = True
    return edges & chosen[:, None, None]


def give_patterns(interior: Interior, layers: Iterable[int]) -> None:
    """Make layers of a view use the eager attention, the one that gives its pattern; `literal` masks are for it."""
    for layer in layers:
        attention_of(interior.blocks[layer]).loadbearing.implementation = "eager"  # type: ignore[union-attr]


def attend_without(
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    blocked: dict[str, Tensor],
    *,
    literal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What queries read, and the pattern where there is one, without the edges that are blocked in either way.

    literal: whether the attention is an eager one, whatever the mask was made for
    """
    if "renormalise" in blocked:
        mask = without(mask, blocked["renormalise"], k.shape[2], q.dtype)
    if literal:
        nothing = torch.zeros(1, 1, q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        mask = added(without(mask, nothing, k.shape[2], q.dtype), q.dtype)
    z, pattern = attend(q, k, v, mask)
    if "zero" not in blocked:
        return z, pattern
    if pattern is None:
        raise InputError("how='zero': this attention gives no pattern; load the model with attention='eager'")
    out = blocked["zero"][..., -pattern.shape[-1] :]  # a sliding layer's cache drops its oldest keys
    kept = pattern.masked_fill(out, 0)
    return (kept @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)).transpose(1, 2), kept


@dataclass(frozen=True)
class Edges:
    """In every run `queries` do not read `keys`, in these layers and heads."""

    queries: Bool[Tensor, "run pos"]
    keys: Bool[Tensor, "run pos"]
    layers: tuple[int, ...]
    heads: tuple[int, ...] | None = None


@dataclass
class Resumed:
    """Runs of a trace taken up again with edges taken out: only positions from a run's start on, and only layers from
    the first one on in which an edge is missing, can differ, and nothing else is computed.

    starts: of each run, the first position that can differ or is read; tokens: how many went through a block so far
    """

    interior: Interior
    base: Trace
    starts: Int[Tensor, " run"]
    how: str = "renormalise"
    tokens: int = 0

    def __post_init__(self) -> None:
        length = self.base.ids.shape[1]
        size = length - int(self.starts.min())
        # Rows that start late end in copies of the last position, which are computed alike and not read.
        self.places = (self.starts[:, None] + torch.arange(size, device=self.starts.device)).clamp(max=length - 1)

    @torch.no_grad()
    def run(self, cells: Sequence[Edges]) -> Float[Tensor, "cell run pos d_model"]:
        """The last layer's output at `places`, of every cell and run."""
        runs, size = self.places.shape
        order = sorted(range(len(cells)), key=lambda i: cells[i].layers[0])
        row = torch.arange(runs, device=self.places.device)[:, None]
        hidden = self.base.residual[0].new_empty(0, size, self.base.residual[0].shape[-1])
        active: list[Edges] = []
        for layer in range(cells[order[0]].layers[0], len(self.interior.blocks)):
            joining = [cells[i] for i in order if cells[i].layers[0] == layer]
            states = self.base.residual[layer]
            plain = states[row.to(states.device), self.places.to(states.device)]
            hidden = torch.cat([hidden.to(states.device), plain.repeat(len(joining), 1, 1)])
            active += joining
            hidden = self._block(layer, hidden, active)
        found = torch.empty_like(hidden).view(len(cells), runs, size, -1)
        found[order] = hidden.view(len(cells), runs, size, -1)
        return found.to(self.places.device)

    def _block(self, layer: int, hidden: Tensor, cells: Sequence[Edges]) -> Tensor:
        """One block, over the tokens of all rows as one row of tokens."""
        own = self.places.to(hidden.device)
        places = own.repeat(len(cells), 1)
        row = torch.arange(len(places), device=places.device)[:, None]
        base = self.base.attention[layer]
        mask = self.base.masks[layer].expand(len(own), -1, -1, -1)[row[: len(own)], :, own]

        def attention(_: int, attend: Attend, q: Tensor, k: Tensor, v: Tensor, __: Any) -> Any:
            q, k, v = (part[0].unflatten(1, places.shape).transpose(0, 1) for part in (q, k, v))
            keys, values = (base[name].repeat(len(cells), 1, 1, 1) for name in ("k", "v"))
            keys[row, :, places], values[row, :, places] = k.transpose(1, 2), v.transpose(1, 2)
            given = mask.transpose(1, 2).repeat(len(cells), 1, 1, 1)
            blocked = {self.how: self._blocked(layer, cells, q.shape[1]).to(q.device)}
            z = attend_without(attend, q, keys, values, given, blocked, literal=self.how == "zero")[0]
            return z.flatten(0, 1)[None], None

        at = places.flatten()
        with self.interior.using(attention=attention):
            output = self.interior.blocks[layer](hidden.flatten(0, 1)[None], **self.base.call_at(layer, at))
        self.tokens += at.numel()
        states: Tensor = output[0] if isinstance(output, tuple) else output
        return states[0].view(hidden.shape)

    def _blocked(self, layer: int, cells: Sequence[Edges], heads: int) -> Bool[Tensor, "row head query key"]:
        """What is missing in a layer, of all rows."""
        whole = all(cell.heads is None for cell in cells)
        made = []
        for cell in cells:
            edges = (cell.queries.gather(1, self.places)[:, :, None] & cell.keys[:, None, :])[:, None]
            if self.how == "renormalise":  # a position always sees itself: a softmax over nothing is no number
                edges &= self.places[:, None, :, None] != torch.arange(cell.keys.shape[1], device=edges.device)
            edges &= layer in cell.layers
            made.append(edges if whole else in_heads(edges, cell.heads, heads).expand(-1, heads, -1, -1))
        return torch.cat(made)
