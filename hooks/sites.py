"""Where in the model: named sites, and the modules that hold them, found by structure and checked by arithmetic."""

import inspect
import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..core import InputError, check_name

RESIDUAL_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
_ALIAS = re.compile(r"blocks\.(\d+)\.hook_(\w+)")


@dataclass(frozen=True, order=True)
class Site:
    """A named activation of one layer, `[batch, pos, d_model]`; `attn_out` and `mlp_out` are what is *added* to the
    residual stream (after a sandwich norm, where there is one)."""

    name: str
    layer: int


def site_name(text: str) -> tuple[str, int | None]:
    """The site of a name, and its layer where the spelling gives one (`blocks.3.hook_resid_post`).

    >>> site_name("resid_post"), site_name("blocks.3.hook_resid_post")
    (('resid_post', None), ('resid_post', 3))
    """
    match = _ALIAS.fullmatch(text)
    name, layer = (match[2], int(match[1])) if match else (text, None)
    return check_name("site", name, RESIDUAL_SITES), layer


@dataclass(frozen=True)
class Block:
    """The modules of one decoder layer: `attn_out` and `mlp_out` are the modules whose output is added.

    None where there is no such module: in a layer without attention, or where what a module gives is not what is added.
    """

    block: nn.Module
    attn_out: nn.Module | None
    mlp_out: nn.Module | None
    parallel: bool


@dataclass(frozen=True)
class SiteMap:
    """A decoder's blocks, and the path of the list that holds them."""

    decoder: nn.Module
    layers_path: str
    blocks: tuple[Block, ...]

    def check(self, site: Site) -> Site:
        """Return the site if this model has it."""
        if not 0 <= site.layer < len(self.blocks):
            raise InputError(f"layer {site.layer}: this model has layers 0 to {len(self.blocks) - 1}")
        block = self.blocks[site.layer]
        config: Any = getattr(self.decoder, "config", None)
        scale = getattr(config, "residual_multiplier", 1.0)
        if site.name in _PARTS and scale != 1.0:
            raise InputError(
                f"{type(block.block).__name__} adds {scale:g} times what attention and MLP put out, so {site.name} is "
                "not read here; record resid_pre and resid_post instead"
            )
        for part in _PARTS.get(site.name, ()):
            if getattr(block, part) is None:
                raise InputError(
                    f"{type(block.block).__name__} (layer {site.layer}) has no {site.name}: no module known here "
                    f"puts out {part}, what is added to the residual stream; record resid_pre and resid_post instead"
                )
        if site.name == "resid_mid" and block.parallel:
            raise InputError("this model has no resid_mid: attention and MLP are added to the residual stream at once")
        return site


def n_heads(module: nn.Module, site: str = "z") -> int:
    """How many heads every layer has; of `k` and `v`, which several heads of queries may share, their own number."""
    config: Any = module.config
    shared = getattr(config, "num_key_value_heads", None) if site in ("k", "v") else None
    return int(shared or config.num_attention_heads)


def d_head(module: nn.Module) -> int:
    """The size of a head."""
    config: Any = module.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def mlp_width(module: nn.Module) -> int:
    """How wide an MLP is inside."""
    config: Any = module.config
    return int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size)


def site_map(module: nn.Module) -> SiteMap:
    """Find the decoder's blocks in a Hugging Face causal language model, by structure.

    The list of blocks is the outermost ModuleList as long as the configuration's number of layers; the names of
    attention and MLP are those that Hugging Face uses. Layers without them (recurrent, hybrid) have `resid_pre` and
    `resid_post` only. Raises InputError for an encoder-decoder, and where there is no such list or more than one.
    """
    config: Any = getattr(module, "config", None)
    n_layers = getattr(config, "num_hidden_layers", None)
    if n_layers is None or getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{type(module).__name__} is not a decoder-only language model of transformers: its sites are unknown"
        )
    long = [
        (path, part)
        for path, part in module.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == n_layers
    ]
    lists = [(path, part) for path, part in long if not any(path.startswith(f"{other}.") for other, _ in long)]
    if len(lists) > 1:  # other lists of this length are not made of blocks
        lists = [(path, part) for path, part in lists if any(_part(layer, _ATTENTION) for layer in part)]
    if len(lists) != 1:
        raise InputError(
            f"{type(module).__name__}: expected one list of {n_layers} blocks (config.num_hidden_layers), found "
            f"{len(lists)}: its sites are unknown"
        )
    path, layers = lists[0]
    parent = module.get_submodule(path.rpartition(".")[0])
    return SiteMap(parent, path, tuple(_block(layer) for layer in layers))


_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "block_sparse_moe", "ffn")
# Norms after attention and after the MLP: Gemma 2 and 3, OLMo 2 and 3; GLM 4.
_SANDWICHES = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
)
_PARTS = {"attn_out": ("attn_out",), "mlp_out": ("mlp_out",), "resid_mid": ("attn_out",)}


def _part(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    # getattr, not named_children: a bridge keeps the original module behind attributes.
    return next((part for name in names if isinstance(part := getattr(module, name, None), nn.Module)), None)


def attention_of(layer: nn.Module) -> nn.Module:
    """The attention module of a decoder layer: what is given the attention mask."""
    attention = _part(layer, _ATTENTION)
    if attention is None:
        raise InputError(f"{type(layer).__name__} has no attention that is known here, so no wire of it can be cut")
    return attention


def _block(layer: nn.Module) -> Block:
    attention, mlp = _adds(_part(layer, _ATTENTION)), _adds(_part(layer, _MLP))
    for after_attention, after_mlp in _SANDWICHES:
        if (after := _part(layer, (after_mlp,))) is not None:  # what is added is the norm's output
            attention, mlp = _part(layer, (after_attention,)), after
    norms = sum("norm" in type(part).__name__.lower() for part in layer.children())
    config: Any = getattr(layer, "config", None)  # Falcon's two norms may feed both at once
    told = getattr(layer, "use_parallel_residual", False) or getattr(config, "parallel_attn", False)
    return Block(layer, attention, mlp, bool(told) or norms < 2)  # one norm feeds both


def _adds(part: nn.Module | None) -> nn.Module | None:
    """The module, unless it is given the residual stream and adds to it itself (BLOOM, MPT)."""
    given = part is not None and "residual" in inspect.signature(type(part).forward).parameters
    return None if given else part
