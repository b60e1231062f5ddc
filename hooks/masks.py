"""Attention masks for batches of unequal length, built from positions, one for each attention type of a model."""

import inspect
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn


def position_mask(
    module: nn.Module,
    queries: Int[Tensor, "batch query"],
    keys: Int[Tensor, "batch key"],
    dtype: torch.dtype,
    visible: Bool[Tensor, "batch query key"] | None = None,
) -> Any:
    """An additive mask for queries and keys at these positions (-1: padding), or a dict of them by attention type.

    visible: what may be seen besides, where positions do not tell (branches that continue one text side by side)

    A key is seen from its own position on, by sliding layers only within their window. Windows count positions, not
    places in the cache: a model's own mask counts places, which are not the same where a batch is padded.
    """
    # Queries by keys is large on long texts: booleans, and in place, instead of distances in int64.
    causal = queries[:, :, None] >= keys[:, None, :]
    causal &= (keys >= 0)[:, None, :]
    if visible is not None:
        causal &= visible
    lowest = torch.finfo(dtype).min

    def additive(allowed: Tensor) -> Tensor:
        return torch.full(allowed.shape, lowest, dtype=dtype, device=allowed.device).masked_fill_(allowed, 0)[:, None]

    window, kinds = attention_kinds(module)
    masks = {"full_attention": causal}
    if "sliding_attention" in kinds and window is not None:
        masks["sliding_attention"] = (keys[:, None, :] > queries[:, :, None] - window).logical_and_(causal)
    if len(kinds) > 1:
        return {kind: additive(masks[kind]) for kind in kinds}
    return additive(masks[next(iter(kinds))])


def attention_kinds(module: nn.Module) -> tuple[int | None, tuple[str, ...]]:
    """The window of sliding layers, and the attention types that occur."""
    config: Any = getattr(module, "config", None)
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types:
        return window, tuple(sorted(set(types)))
    return window, ("sliding_attention",) if window is not None else ("full_attention",)


def takes_logits_to_keep(kind: Any) -> bool:
    """Whether a model class can compute the logits of the last positions only."""
    return "logits_to_keep" in inspect.signature(kind.forward).parameters
