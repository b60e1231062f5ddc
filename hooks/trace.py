"""One plain pass over runs of equal length, with everything inside kept that a sweep starts from."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core import InputError
from .interior import Attend, Attention, Done, Interior, Listener
from .masks import takes_logits_to_keep
from .model import Model
from .sites import Site, d_head, n_heads

HEAD_SITES = ("q", "k", "v", "z", "pattern")


@dataclass(frozen=True)
class Trace:
    """The inside of one plain forward pass.

    residual: `resid_pre` of every layer and, last, the `resid_post` of the last one, each `[batch, pos, d_model]`
    attention: queries, keys, values `[batch, head, pos, d_head]` (keys rotated and normed; not repeated for groups of
        query heads) and z `[batch, pos, head, d_head]`, a dict a layer
    masks: the attention mask of every layer `[batch or 1, head or 1, pos, pos]`, added to scores or, boolean, of what
        is seen; with what a cut has taken out
    attend: the model's own attention function of every layer, with all that it takes besides
    calls: what each block was called with besides the hidden state
    kept: other sites, by `Site`

    What is of a layer is where that layer's weights are; the logits are where `ids` are.
    """

    ids: Int[Tensor, "batch pos"]
    residual: list[Tensor]
    attention: list[dict[str, Tensor]]
    masks: list[Tensor]
    attend: list[Attend]
    calls: list[dict[str, Any]]
    logits: Float[Tensor, "batch keep vocab"]
    kept: dict[Site, Tensor] = field(repr=False)

    def get(self, name: str, layer: int) -> Tensor:
        """A site of a layer: `[batch, pos, d]`, `[batch, pos, head, d_head]`, pattern `[batch, pos, head, key]`."""
        if name in ("resid_pre", "resid_post"):
            return self.residual[layer + (name == "resid_post")]
        if name in ("q", "k", "v"):
            return self.attention[layer][name].transpose(1, 2)
        if name == "z":
            return self.attention[layer]["z"]
        if name == "resid_mid":
            return self.residual[layer] + self.kept[Site("attn_out", layer)]
        return self.kept[Site(name, layer)]

    def call_at(self, layer: int, positions: Int[Tensor, " token"]) -> dict[str, Any]:
        """What a block is called with besides the hidden state, for tokens at these positions in one row; no mask."""
        calls = self.calls[layer]
        return {k: None if k == "attention_mask" else _at(v, positions, self.ids.shape) for k, v in calls.items()}


def trace(
    model: Model,
    interior: Interior,
    ids: Int[Tensor, "batch pos"],
    *,
    keep: int = 1,
    sites: Iterable[Site] = (),
) -> Trace:
    """Run `ids` plainly and keep its inside; float32 logits of the last `keep` positions.

    sites: what is kept besides residual stream, queries, keys, values and z
    """
    n_layers = len(interior.blocks)
    wanted = {Site("attn_out", site.layer) if site.name == "resid_mid" else site for site in sites}
    wanted = {site for site in wanted if site.name in ("attn_out", "mlp_out", "neurons", "pattern")}
    residual: list[Tensor] = [None] * (n_layers + 1)  # type: ignore[list-item]
    attention: list[dict[str, Tensor]] = [{} for _ in range(n_layers)]
    masks: list[Tensor] = [ids] * n_layers
    calls: list[dict[str, Any]] = [{} for _ in range(n_layers)]
    own: list[Attend] = [None] * n_layers  # type: ignore[list-item]
    kept: dict[Site, Tensor] = {}

    def attend(layer: int, call: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Any:
        own[layer] = call
        z, pattern = call(q, k, v, mask)
        attention[layer] = {"q": q, "k": k.contiguous(), "v": v.contiguous(), "z": z}
        masks[layer] = _own(mask, ids.shape[1], q)
        if Site("pattern", layer) in wanted:
            if pattern is None:
                raise InputError(
                    "site 'pattern': sdpa attention makes no pattern; load the model with attention='eager'"
                )
            kept[Site("pattern", layer)] = pattern.transpose(1, 2)
        return z, pattern

    def listen(name: str, layer: int, value: Tensor) -> None:
        if name == "resid_pre":
            residual[layer] = value
        elif name == "resid_post":
            residual[layer + 1] = value
        elif Site(name, layer) in wanted:
            kept[Site(name, layer)] = value

    options: dict[str, Any] = {"logits_to_keep": keep} if takes_logits_to_keep(type(model.module)) else {}
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    with interior.using(attention=attend, listen=listen, block_call=calls.__setitem__):
        output = interior.module(input_ids=ids, position_ids=positions, use_cache=False, **options)
    if not all(attention):
        raise InputError(f"{type(model.module).__name__}: its attention does not go through transformers' interface")
    return Trace(ids, residual, attention, masks, own, calls, output.logits[:, -keep:].float(), kept)


def call_block(
    interior: Interior,
    base: Trace,
    layer: int,
    hidden: Float[Tensor, "run pos d_model"],
    positions: Sequence[int],
    attention: Attention,
    listen: Listener | None,
) -> None:
    """Run a block on states at positions of a trace's runs, until a handler raises `Done`."""
    at = torch.tensor(positions, device=hidden.device)
    with suppress(Done), interior.using(attention=attention, listen=listen):
        interior.blocks[layer](hidden, **base.call_at(layer, at))


def runs_in_memory(model: Model, length: int, memory: int) -> int:
    """How many pairs of runs of a length may be traced at once, so that both traces take half of the memory at most."""
    module: Any = model.module
    heads = n_heads(module) + n_heads(module, "k")
    wide = 2 * module.config.hidden_size + 2 * heads * d_head(module)  # residual stream, another site, q, z, k, v
    size = next(module.parameters()).element_size()
    return max(1, int(memory // 2 // (2 * model.n_layers * length * wide * size)))


def _own(mask: Tensor | None, length: int, like: Tensor) -> Tensor:
    """The mask of a layer, one row where all are the same; None stands for a plainly causal one."""
    if mask is None:
        return torch.ones(length, length, dtype=torch.bool, device=like.device).tril()[None, None]
    return mask[:1] if (mask == mask[:1]).all() else mask


def _at(value: Any, positions: Int[Tensor, " token"], shape: Sequence[int]) -> Any:
    """What a block is told of positions (`[batch, pos, ...]` or `[pos]`), for these."""
    if isinstance(value, tuple | list):
        return type(value)(_at(part, positions, shape) for part in value)
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    positions = positions.to(value.device)
    if value.ndim == 1:
        return value[positions] if len(value) == shape[1] else value
    return value[:1, positions] if value.shape[0] in (1, shape[0]) and value.shape[1] == shape[1] else value
