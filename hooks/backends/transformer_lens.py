"""TransformerLens: a `TransformerBridge` is read through its own cache; splicing runs on the model inside it."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..sites import Site
from .base import Backend


class TransformerLensBackend(Backend):
    """A bridge, used as it is. No weights are processed, unless the bridge was told to."""

    name = "transformer_lens"

    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge

    @classmethod
    def around(cls, module: nn.Module, tokenizer: Any) -> "TransformerLensBackend":
        """A bridge around a module that may be changed: bridging replaces its submodules in place."""
        from transformer_lens.model_bridge import TransformerBridge

        device = str(next(module.parameters()).device)
        label = type(module).__name__
        config: Any = module.config
        config.architectures = config.architectures or [
            label
        ]  # a model made from a config has none, and the bridge asks
        # The bridge changes its tokenizer, and would load it again by its name; ours comes from ids and stays as it is.
        own = copy.deepcopy(tokenizer)
        own.init_kwargs |= {"name_or_path": "", "add_bos_token": True}
        bridge = TransformerBridge.boot_transformers(label, hf_model=module, tokenizer=own, device=device)
        return cls(bridge)

    def module(self) -> nn.Module:
        inner: nn.Module = self.bridge.original_model
        return inner

    @torch.no_grad()
    def read(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        sites: Sequence[Site],
        rows: Int[Tensor, "rows 2"],
    ) -> dict[Site, Float[Tensor, "rows d_model"]]:
        names = {site: f"blocks.{site.layer}.hook_{site.name}" for site in sites}
        # The padding is on the right, so positions need no correction. The cache holds references: indexing copies.
        _, cache = self.bridge.run_with_cache(
            ids,
            attention_mask=mask.long(),
            names_filter=list(names.values()),
            stop_at_layer=max(site.layer for site in sites) + 1,
        )
        return {site: cache[name][rows[:, 0], rows[:, 1]] for site, name in names.items()}
