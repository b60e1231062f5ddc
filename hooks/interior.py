"""A view of a model that can be read and written everywhere: its weights, our attention, nothing of it changed."""

import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..core import InputError
from .backends.transformer_lens import is_bridged, unbridged
from .cut_view import shallow, view
from .sites import Block, SiteMap, attention_of, site_map

NAME = "loadbearing"
# What the model's own attention function gives for queries, keys, values and a mask: z `[batch, pos, head, d_head]`,
# and the pattern where it makes one.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
# (layer, attend, queries, keys, values, mask) -> what `attend` gives.
Attention = Callable[[int, Attend, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
# (site, layer, value) -> the value to go on with, or None for the same.
Listener = Callable[[str, int, Tensor], Tensor | None]
# (layer, arguments of the block besides the hidden state, by name)
BlockCall = Callable[[int, dict[str, Any]], None]


class Done(BaseException):
    """Raised by a handler to leave a block early; BaseException, so that no model code catches it."""


def _plain(_: int, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Any:
    return attend(q, k, v, mask)


@dataclass
class _Handlers:
    """What is asked at every site now; empty between passes."""

    attention: Attention = _plain
    listen: Listener | None = None
    block_call: BlockCall | None = None


@dataclass
class _Place:
    """What an attention module of a view knows: its layer, the handlers, and the implementation it had."""

    layer: int
    handlers: _Handlers
    implementation: str


@dataclass
class Interior:
    """Views of a model's blocks, and of the whole model around them, whose sites call back.

    Sites told to the listener: `resid_pre`, `attn_out`, `mlp_out`, `neurons` (what enters the MLP's last projection),
    `resid_post`. The attention function sees queries and keys as they meet: normed and rotated.
    """

    module: nn.Module
    blocks: tuple[nn.Module, ...]
    down: tuple[nn.Module | None, ...]
    _handlers: _Handlers = field(repr=False)

    @classmethod
    def of(cls, module: nn.Module, sites: SiteMap) -> "Interior":
        """Open a decoder. Raises InputError where attention does not go through transformers' attention interface.

        A bridge is opened as the plain model inside it, which shares its weights; InputError where the two differ.
        """
        if is_bridged(module):
            module = unbridged(module)
            sites = site_map(module)
        handlers = _Handlers()
        opened = [_open(layer, block, handlers) for layer, block in enumerate(sites.blocks)]
        blocks = tuple(made for made, _ in opened)
        whole = view(module, sites.layers_path, nn.ModuleList(blocks))
        return cls(whole, blocks, tuple(down for _, down in opened), handlers)

    @contextmanager
    def using(
        self,
        *,
        attention: Attention | None = None,
        listen: Listener | None = None,
        block_call: BlockCall | None = None,
    ) -> Iterator[None]:
        """Call these at every site while the block lasts."""
        before = dict(vars(self._handlers))
        vars(self._handlers).update(attention=attention or _plain, listen=listen, block_call=block_call)
        try:
            yield
        finally:
            vars(self._handlers).update(before)


def _open(layer: int, block: Block, handlers: _Handlers) -> tuple[nn.Module, nn.Module | None]:
    """A view of one block, and the last projection of its MLP (None where none is known)."""
    made = shallow(block.block)
    attention = attention_of(block.block)
    implementation = _register(attention)
    own = shallow(attention)
    config: Any = copy.copy(attention.config)
    config._attn_implementation_internal = NAME
    own.config = config
    own.loadbearing = _Place(layer, handlers, implementation)  # type: ignore[assignment]
    paths = {id(part): path for path, part in block.block.named_modules()}
    changed: dict[str, nn.Module] = {paths[id(attention)]: own}
    down = _last_projection(block.block)

    def changeable(module: nn.Module) -> nn.Module:
        path = paths[id(module)]
        changed.setdefault(path, shallow(module))
        return changed[path]

    def after(site: str) -> Any:
        return lambda _module, _args, output: _tell_after(handlers, site, layer, output)

    for site, part in (("attn_out", block.attn_out), ("mlp_out", block.mlp_out)):
        if part is not None:
            changeable(part).register_forward_hook(after(site))
    if down is not None:
        changeable(down).register_forward_pre_hook(
            lambda _module, args: _tell_before(handlers, "neurons", layer, args, {})[0]
        )
    for path in sorted(changed, key=lambda path: path.count(".")):  # a part inside of another goes into its view
        made = view(made, path, changed[path])

    names = list(inspect.signature(type(block.block).forward).parameters)[1:]

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if handlers.block_call is not None:
            given = dict(zip(names, args, strict=False)) | kwargs
            handlers.block_call(layer, {name: value for name, value in given.items() if name != "hidden_states"})
        return _tell_before(handlers, "resid_pre", layer, args, kwargs)

    made.register_forward_pre_hook(before, with_kwargs=True)
    made.register_forward_hook(after("resid_post"))
    return made, down


def _tell_after(handlers: _Handlers, site: str, layer: int, output: Any) -> Any:
    if handlers.listen is None:
        return None
    first = output[0] if isinstance(output, tuple) else output
    given = handlers.listen(site, layer, first)
    if given is None:
        return None
    return (given, *output[1:]) if isinstance(output, tuple) else given


def _tell_before(
    handlers: _Handlers, site: str, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if handlers.listen is not None:
        given = handlers.listen(site, layer, args[0] if args else kwargs["hidden_states"])
        if given is not None:
            return ((given, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": given})
    return args, kwargs


def _last_projection(block: nn.Module) -> nn.Module | None:
    """The projection that ends the MLP, whose inputs are the neurons; None for mixtures of experts and others."""
    mlp = next((part for name in ("mlp", "feed_forward", "ffn") if (part := getattr(block, name, None))), None)
    names = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "w2")
    found = [getattr(mlp, name) for name in names if isinstance(getattr(mlp, name, None), nn.Module)]
    return found[0] if len(found) == 1 and hasattr(found[0], "weight") else None


def _register(attention: nn.Module) -> str:
    """Make our attention known to transformers; the name of the implementation that this module has."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config: Any = getattr(attention, "config", None)
    own = getattr(config, "_attn_implementation", None)
    if own == NAME:
        raise InputError("this model is edited (hooks.edited): give the model that it was made from")
    if own not in ("eager", "sdpa"):
        raise InputError(
            f"{type(attention).__name__} has attention {own!r}: expected 'eager' or 'sdpa', whose masks can be read; "
            "load the model with attention='eager'"
        )
    if NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    return str(own)


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
    """transformers' attention function of a view: the handler's, which may call the model's own."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    place: _Place = module.loadbearing
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    own: Any = ALL_ATTENTION_FUNCTIONS.get_interface(place.implementation, eager)

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Any:
        return own(module, q, k, v, mask, **options)

    return place.handlers.attention(place.layer, attend, query, key, value, mask)
