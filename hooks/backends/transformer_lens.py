"""TransformerLens: a `TransformerBridge` is read and written by its own means; splicing runs on the model inside it."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...core import InputError
from ..cut_view import shallow
from ..sites import Site, SiteMap, site_map
from .base import Backend, Changes, Edit, plan

_NAMES = {"z": "attn.hook_z"}  # of places whose hook is not called hook_PLACE
_PROBE = 5  # tokens
_CLOSE = 1e-4  # of the spread of logits


class TransformerLensBackend(Backend):
    """A bridge, used as it is. No weights are processed, unless the bridge was told to."""

    name = "transformer_lens"

    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge
        self._map: SiteMap | None = None

    @classmethod
    def around(cls, module: nn.Module, tokenizer: Any) -> "TransformerLensBackend":
        """A bridge around a module that may be changed: bridging replaces its submodules in place."""
        from transformer_lens.model_bridge import TransformerBridge

        from ..support import check_one_device

        check_one_device(module, "backend='transformer_lens'")
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

    @property
    def map(self) -> SiteMap:
        """The blocks of the model, found at the first use."""
        if self._map is None:
            self._map = site_map(self.module())
        return self._map

    @torch.no_grad()
    def read(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        sites: Sequence[Site],
        rows: Int[Tensor, "rows 2"],
    ) -> dict[Site, Float[Tensor, "rows d_model"]]:
        return self._read(ids, mask, sites, rows)

    @torch.no_grad()
    def read_heads(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        layers: Sequence[int],
        rows: Int[Tensor, "rows 2"],
    ) -> dict[Site, Float[Tensor, "rows head d_head"]]:
        return self._read(ids, mask, [self.map.check(Site("z", layer)) for layer in layers], rows)

    def _read(self, ids: Tensor, mask: Tensor, sites: Sequence[Site], rows: Tensor) -> dict[Site, Tensor]:
        names = {site: _hook(site.layer, site.name) for site in sites}
        # The padding is on the right, so positions need no correction. The cache holds references: indexing copies.
        _, cache = self.bridge.run_with_cache(
            ids,
            attention_mask=mask.long(),
            names_filter=list(names.values()),
            stop_at_layer=max(site.layer for site in sites) + 1,
        )
        return {site: cache[name][rows[:, 0], rows[:, 1]] for site, name in names.items()}

    @torch.no_grad()
    def write(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        edits: Sequence[Edit],
        rows: Int[Tensor, "rows 2"],
    ) -> Float[Tensor, "rows vocab"]:
        changes = Changes(edits)

        def change(actions: Any) -> Any:
            return lambda hidden, hook: changes.make(hidden, actions)

        # `hook_resid_mid` is the input of the second norm alone: what is written there would not go on.
        places = plan(self.module(), self.map, ids, edits).items()
        hooks = [(_hook(layer, place), change(actions)) for (layer, place), actions in places]
        logits: Tensor = self.bridge.run_with_hooks(ids, attention_mask=mask.long(), fwd_hooks=hooks)
        return logits[rows[:, 0], rows[:, 1]].float()


def _hook(layer: int, name: str) -> str:
    return f"blocks.{layer}.{_NAMES.get(name, f'hook_{name}')}"


@torch.no_grad()
def unbridged(module: nn.Module) -> nn.Module:
    """The plain model inside a bridged one: a view that shares its weights, without the bridge's own attention.

    Raises InputError where the bridge gives something else than the model that it was made from.
    """
    plain = _unwrap(module, {})
    config: Any = module.config
    device = next(module.parameters()).device
    ids = (7 * torch.arange(_PROBE, device=device) % config.vocab_size)[None]
    one, other = (made(input_ids=ids, use_cache=False).logits.float() for made in (plain, module))
    eps = torch.finfo(next(module.parameters()).dtype).eps
    if not bool((one - other).abs().max() <= max(_CLOSE, 8 * eps) * other.std()):
        raise InputError(
            "this TransformerBridge does not compute what the model inside it does (its weights were processed, or "
            "hooks were put on it): exact sweeps need a bridge as it was made; pass the Hugging Face model instead"
        )
    return plain


def is_bridged(module: nn.Module) -> bool:
    """Whether parts of a module are those of TransformerLens."""
    return any(type(part).__module__.startswith("transformer_lens.") for part in module.modules())


def _unwrap(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    if id(module) not in known:
        inner = module._modules.get("_original_component")
        made = shallow(module if inner is None else inner)
        known[id(module)] = made
        for name, value in vars(module).items():  # hooks of a view (a cut) stand on the bridge's part
            if inner is not None and name.startswith("_forward") and isinstance(value, dict):
                vars(made)[name].update(value)
        for name, part in made._modules.items():
            made._modules[name] = None if part is None else _unwrap(part, known)
    return known[id(module)]
