"""Plain torch hooks on a Hugging Face model: exact, and nothing of the model is changed."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..sites import Site, SiteMap, n_heads, site_map
from .base import PLACES, Backend, Changes, Edit, inputs_of, place_of, plan, position_ids


class _Stop(BaseException):
    """Raised by the last hook that is needed; BaseException, so that no model code catches it."""


class TorchBackend(Backend):
    """Forward hooks that are removed when the pass ends, also by an error."""

    name = "torch"

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._map: SiteMap | None = None

    def module(self) -> nn.Module:
        return self._module

    @property
    def map(self) -> SiteMap:
        """The blocks of the model, found at the first use."""
        if self._map is None:
            self._map = site_map(self._module)
        return self._map

    @torch.no_grad()
    def read(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        sites: Sequence[Site],
        rows: Int[Tensor, "rows 2"],
    ) -> dict[Site, Float[Tensor, "rows d_model"]]:
        wanted = {self.map.check(site) for site in sites}
        kept: dict[tuple[str, int], Tensor] = {}
        last = max(site.layer for site in wanted)
        with ExitStack() as stack:
            for layer in sorted({site.layer for site in wanted}):
                names = {site.name for site in wanted if site.layer == layer}
                self._hook_block(stack, layer, names, kept, rows)
            stack.enter_context(_stop_after(self.map.blocks[last].block))
            with suppress(_Stop):  # every layer that was asked for has run
                self._module(
                    input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False
                )
        for site in wanted:
            if site.name == "resid_mid":
                kept[site.name, site.layer] = kept["resid_pre", site.layer] + kept["attn_out", site.layer]
        return {site: kept[site.name, site.layer] for site in sites}

    def _hook_block(
        self, stack: ExitStack, layer: int, names: set[str], kept: dict[tuple[str, int], Tensor], rows: Tensor
    ) -> None:
        block = self.map.blocks[layer]

        def keep(name: str, value: Any) -> None:
            hidden = value[0] if isinstance(value, tuple) else value
            kept[name, layer] = _at(hidden, rows)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep("resid_pre", args[0] if args else kwargs["hidden_states"])

        def after(name: str) -> Any:
            return lambda _module, _args, output: keep(name, output)

        if names & {"resid_pre", "resid_mid"}:
            handle = block.block.register_forward_pre_hook(before, with_kwargs=True)
            stack.callback(handle.remove)
        for name, module, needed in (
            ("attn_out", block.attn_out, names & {"attn_out", "resid_mid"}),
            ("mlp_out", block.mlp_out, names & {"mlp_out"}),
            ("resid_post", block.block, names & {"resid_post"}),
        ):
            if needed and module is not None:
                stack.callback(module.register_forward_hook(after(name)).remove)

    @torch.no_grad()
    def read_heads(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        layers: Sequence[int],
        rows: Int[Tensor, "rows 2"],
    ) -> dict[Site, Float[Tensor, "rows head d_head"]]:
        sites = [self.map.check(Site("z", layer)) for layer in layers]
        kept: dict[int, Tensor] = {}

        def keep(layer: int) -> Any:
            return lambda _, args: kept.__setitem__(layer, _at(args[0], rows))

        with ExitStack() as stack:
            for layer in layers:
                hook = place_of(self.map, layer, "z").register_forward_pre_hook(keep(layer))
                stack.callback(hook.remove)
            stack.enter_context(_stop_after(self.map.blocks[max(layers)].block))
            with suppress(_Stop):
                self._module(**inputs_of(self._module, ids, mask, rows)[0])
        return {site: kept[site.layer].unflatten(-1, (n_heads(self._module), -1)) for site in sites}

    @torch.no_grad()
    def write(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        edits: Sequence[Edit],
        rows: Int[Tensor, "rows 2"],
    ) -> Float[Tensor, "rows vocab"]:
        changes = Changes(edits)

        def before(actions: Any) -> Any:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                if args:
                    return (changes.make(args[0], actions), *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": changes.make(kwargs["hidden_states"], actions)}

            return hook

        def after(actions: Any) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> Any:
                if isinstance(output, tuple):
                    return (changes.make(output[0], actions), *output[1:])
                return changes.make(output, actions)

            return hook

        with ExitStack() as stack:
            for (layer, place), actions in plan(self._module, self.map, ids, edits).items():
                module = place_of(self.map, layer, place)
                if PLACES[place]:
                    handle = module.register_forward_pre_hook(before(actions), with_kwargs=True)
                else:
                    handle = module.register_forward_hook(after(actions))
                stack.callback(handle.remove)
            inputs, first = inputs_of(self._module, ids, mask, rows)
            logits: Tensor = self._module(**inputs).logits
        return logits[rows[:, 0], rows[:, 1] - first].float()


def _at(hidden: Float[Tensor, "batch pos d"], rows: Int[Tensor, "rows 2"]) -> Float[Tensor, "rows d"]:
    """The states at some places, where those are; indexing copies, so that only what was asked for stays."""
    batch, position = rows.to(hidden.device).unbind(1)
    return hidden[batch, position].to(rows.device)


def _stop_after(block: nn.Module) -> ExitStack:
    def stop(*_: Any) -> None:
        raise _Stop

    stack = ExitStack()
    stack.callback(block.register_forward_hook(stop).remove)
    return stack
