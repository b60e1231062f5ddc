"""nnsight: a wrapped model is read through a trace; splicing runs on the module inside it."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..sites import Site, SiteMap, site_map
from .base import Backend, position_ids


class NnsightBackend(Backend):
    """An nnsight model (`TransformersModel` or `NNsight`), used as it is."""

    name = "nnsight"

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped
        self._map: SiteMap | None = None

    @classmethod
    def around(cls, module: nn.Module, tokenizer: Any) -> "NnsightBackend":
        """A wrapper around a module that may be changed: nnsight gives every submodule a forward of its own."""
        from nnsight import NNsight

        return cls(NNsight(module))

    def module(self) -> nn.Module:
        inner: nn.Module = self.wrapped._module
        return inner

    @torch.no_grad()
    def read(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        sites: Sequence[Site],
        rows: Int[Tensor, "rows 2"],
    ) -> dict[Site, Float[Tensor, "rows d_model"]]:
        if self._map is None:
            self._map = site_map(self.module())
        paths = {id(part): path for path, part in self.module().named_modules()}
        blocks = {site: self._map.blocks[self._map.check(site).layer] for site in sites}
        modules = {part for block in blocks.values() for part in (block.block, block.attn_out, block.mlp_out) if part}
        envoys = [_envoy(self.wrapped, paths[id(module)]) for module in modules]
        inputs = {
            "input_ids": ids,
            "attention_mask": mask.long(),
            "position_ids": position_ids(mask),
            "use_cache": False,
        }
        with self.wrapped.trace(**inputs) as tracer:
            cache = tracer.cache(modules=envoys, device=ids.device, include_inputs=True)

        def output(module: nn.Module | None) -> Tensor:
            value = cache[f"model.{paths[id(module)]}"].output
            hidden: Tensor = value[0] if isinstance(value, tuple) else value
            return hidden

        def before(module: nn.Module) -> Tensor:
            args, kwargs = cache[f"model.{paths[id(module)]}"].inputs
            hidden: Tensor = args[0] if args else kwargs["hidden_states"]
            return hidden

        read = {
            "resid_pre": lambda block: before(block.block),
            "attn_out": lambda block: output(block.attn_out),
            "resid_mid": lambda block: before(block.block) + output(block.attn_out),
            "mlp_out": lambda block: output(block.mlp_out),
            "resid_post": lambda block: output(block.block),
        }
        return {site: read[site.name](block)[rows[:, 0], rows[:, 1]] for site, block in blocks.items()}


def _envoy(wrapped: Any, path: str) -> Any:
    for name in path.split("."):
        wrapped = wrapped[int(name)] if name.isdigit() else getattr(wrapped, name)
    return wrapped
