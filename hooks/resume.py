"""Run a model from a layer and a position on, with everything before taken from a cache."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..core import InputError
from .cache import Layers
from .cut_view import view
from .model import Model


class _Skip(nn.Module):
    """Stands for a layer whose work is done."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


class _Start(nn.Module):
    """A layer that takes the given state for what reaches it: embedding scale and positions are in it already."""

    def __init__(self, block: nn.Module, hidden: Tensor) -> None:
        super().__init__()
        self.block = block
        self.hidden = hidden

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.block(self.hidden, *args, **kwargs)


@torch.no_grad()
def resume(
    model: Model,
    layer: int,
    hidden: Float[Tensor, "batch pos d_model"],
    past: Layers,
    keep: int = 1,
    ids: Int[Tensor, "batch run"] | None = None,
) -> Float[Tensor, "batch keep vocab"]:
    """Logits of the last `keep` positions when `hidden` is the `resid_pre` of `layer` at the last positions of a run.

    past: the run's cache of all layers at the positions before (an empty list for none); layers below `layer` and
    positions before `hidden` are not computed again. ids: the tokens of the whole run, for a model with a cut wire.
    """
    from transformers import DynamicCache

    blocks = [block.block for block in model.sites.blocks]
    if not 0 <= layer < len(blocks):
        raise InputError(f"layer {layer}: this model has layers 0 to {len(blocks) - 1}")
    layers = nn.ModuleList([*(_Skip() for _ in range(layer)), _Start(blocks[layer], hidden), *blocks[layer + 1 :]])
    resumed: Any = view(model.module, model.sites.layers_path, layers)
    cache: Any = DynamicCache()
    cache.token_ids = ids
    for index, (keys, values) in enumerate(past):
        cache.update(keys, values, index)
    before = past[0][0].shape[2] if past else 0
    positions = torch.arange(before, before + hidden.shape[1], device=hidden.device).expand(hidden.shape[0], -1)
    output = resumed(
        inputs_embeds=hidden, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=keep
    )
    logits: Tensor = output.logits
    return logits.float()
