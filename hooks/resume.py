"""Run a model from a layer and a position on, with everything before taken from a cache."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core import InputError
from .cache import Layers
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


def _view(module: nn.Module, path: list[str], replacement: nn.Module) -> nn.Module:
    """A shallow copy of a module in which one submodule is another; weights are shared, the original is not touched."""
    if not path:
        return replacement
    view = copy.copy(module)
    view.__dict__.pop("forward", None)  # an instance's own forward (nnsight) would run the original
    view.__dict__["_modules"] = dict(module._modules)
    child = view._modules[path[0]]
    assert child is not None
    view._modules[path[0]] = _view(child, path[1:], replacement)
    return view


@torch.no_grad()
def resume(
    model: Model, layer: int, hidden: Float[Tensor, "batch pos d_model"], past: Layers, keep: int = 1
) -> Float[Tensor, "batch keep vocab"]:
    """Logits of the last `keep` positions when `hidden` is the `resid_pre` of `layer` at the last positions of a run.

    past: the run's cache of all layers at the positions before (an empty list for none); layers below `layer` and
    positions before `hidden` are not computed again.
    """
    from transformers import DynamicCache

    blocks = [block.block for block in model.sites.blocks]
    if not 0 <= layer < len(blocks):
        raise InputError(f"layer {layer}: this model has layers 0 to {len(blocks) - 1}")
    layers = nn.ModuleList([*(_Skip() for _ in range(layer)), _Start(blocks[layer], hidden), *blocks[layer + 1 :]])
    view: Any = _view(model.module, model.sites.layers_path.split("."), layers)
    cache = DynamicCache()
    for index, (keys, values) in enumerate(past):
        cache.update(keys, values, index)
    before = past[0][0].shape[2] if past else 0
    positions = torch.arange(before, before + hidden.shape[1], device=hidden.device).expand(hidden.shape[0], -1)
    output = view(
        inputs_embeds=hidden, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=keep
    )
    logits: Tensor = output.logits
    return logits.float()
