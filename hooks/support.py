"""What an analysis needs of a model, and what to do where a model does not have it."""

import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..core import InputError
from .backends.base import ELSEWHERE
from .model import Model

# Attention whose state is one key and one value a position, and nothing else.
_PLAIN = ("full_attention", "sliding_attention", "chunked_attention")
_INDEXED = ("indexed_attention", "compressed_sparse_attention", "heavily_compressed_attention", "minimax_m3_sparse")
# What recurrent models of transformers call the state that they take and give back.
_STATES = ("cache_params", "state")
# What the forward pass of anyone's model may raise when it is given a cache that it does not take.
FAILURES = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError, NotImplementedError)
_PROBE = 5
_KNOWN: "WeakKeyDictionary[nn.Module, str]" = WeakKeyDictionary()


def check_here(model: Model, what: str) -> None:
    """Raise InputError, by the name of what is asked for, where it needs a model's weights and they are elsewhere.

    >>> from loadbearing.hooks import load
    >>> check_here(load("organism:copy-tokens"), "generate")
    """
    if model.backend.remote:
        raise InputError(f"{what} cannot be run with {model.name}: {ELSEWHERE}")


def check_spliceable(model: Model) -> None:
    """Raise InputError, by the model's class, where a key/value cache does not hold all that earlier tokens leave.

    Splicing puts caches of several runs together, and patching takes a run up from its own: every layer must keep one
    key and one value a position in the `DynamicCache` that it is given. Multi-head latent attention does (its latents
    are what is cached); running states, cross-attention and index caches do not. The rest is measured, once a model, on
    a text of five tokens; that the spliced run is the plain one is a gate (`run_gates`).

    >>> from loadbearing.hooks import load
    >>> check_spliceable(load("organism:copy-tokens"))
    """
    check_here(model, "splicing (channels, ledger, exact patch sweeps)")
    if why := unspliceable(model):
        raise InputError(f"{type(model.module).__name__} cannot be spliced (channels, ledger, patch): {why}")


def unspliceable(model: Model) -> str:
    """Why a model cannot be spliced, and what would be needed; empty where it can."""
    module = model.module
    if module not in _KNOWN:
        _KNOWN[module] = _lacks_by_kind(module) or _lacks_by_trial(model)
    return _KNOWN[module]


def _lacks_by_kind(module: nn.Module) -> str:
    """What is in the way by the kind of the model, and what would be needed; empty for an attention-only decoder."""
    config: Any = getattr(module, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        return (
            "it is an encoder-decoder, whose prompt reaches every layer through cross-attention, a wire that the eight "
            "cells do not set. Needed: a decoder-only model"
        )
    types = list(getattr(config, "layer_types", None) or [])
    odd = sorted(set(types) - set(_PLAIN))
    share = f"{sum(kind in odd for kind in types)} of its {len(types)} layers ({', '.join(odd)})"
    if odd and set(odd) <= set(_INDEXED):
        return (
            f"{share} choose what they attend to by an index that is cached beside keys and values. Needed: the index "
            "spliced with them, which is not supported; or a model with plain attention"
        )
    taken = [name for name in _STATES if name in inspect.signature(type(module).forward).parameters]
    if odd or taken:
        who = share if odd else f"its forward takes {taken[0]}: its layers"
        return (
            f"{who} keep a running state, which mixes prompt and chain of thought, so that neither can be exchanged "
            "alone. Needed: a model whose layers all keep keys and values a position (attention); generate and "
            "behaviour need no splicing"
        )
    return ""


@torch.no_grad()
def _lacks_by_trial(model: Model) -> str:
    """What goes wrong when a short text is run over a bare DynamicCache."""
    from transformers import DynamicCache

    config: Any = getattr(model.module, "config", None)
    ids = torch.full((1, _PROBE), (getattr(config, "vocab_size", None) or 2) // 2, device=model.device)
    given: Any = DynamicCache()
    given.token_ids = ids[:, :0]  # a model with a cut wire must know which tokens a cache is of
    needed = "Needed: a forward that keeps the keys and values of every position in the DynamicCache it is given"
    try:
        run: Any = model.module
        run(input_ids=ids, position_ids=torch.arange(_PROBE)[None].to(ids), past_key_values=given, use_cache=True)
    except FAILURES as error:
        told = str(error).partition("\n")[0]
        return f"over a DynamicCache its forward fails ({type(error).__name__}: {told}). {needed}"
    if not given.layers:
        return f"it leaves the DynamicCache that it is given empty. {needed}"
    kept = {tuple(part.shape[2:3]) for layer in given.layers for part in (layer.keys, layer.values)}
    if kept != {(_PROBE,)}:
        return f"its cache does not hold one key and one value a position. {needed}"
    return ""


def check_loadable(module: nn.Module) -> None:
    """Raise InputError for a model in training mode, of quantised weights, or whose weights are offloaded.

    Such models run, but what they give has not been tested here. One that is spread over several devices may be loaded;
    an analysis that needs it on one asks `check_one_device`.
    """
    name = type(module).__name__
    training = next((path or "it" for path, part in module.named_modules() if part.training), None)
    if training is not None:
        where = "the model" if module.training else f"a part of the model ({training})"
        raise InputError(f"{where} is in training mode (dropout is on): call model.eval() first")
    config: Any = getattr(module, "config", None)
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        given = quantised if isinstance(quantised, dict) else vars(quantised)
        method = getattr(given.get("quant_method"), "value", given.get("quant_method"))
        raise InputError(
            f"{name} is quantised ({method or 'its config has a quantization_config'}): expected float weights, since "
            "rounding is larger than the limits of the gates. Load the unquantised weights, in bfloat16 where memory "
            "is short, or call model.dequantize() first"
        )
    weights = list(module.parameters())
    absent = sum(weight.is_meta for weight in weights)
    if absent:
        mapped = {str(place) for place in (getattr(module, "hf_device_map", None) or {}).values()}
        raise InputError(
            f"{name}: {absent} of its {len(weights)} weight tensors are offloaded (device map: "
            f"{', '.join(sorted(mapped)) or 'none'}): expected all weights in the memory of devices that run them. "
            "Give it more GPUs, load it in bfloat16 (dtype=), or run all of it on the CPU (device_map='cpu')"
        )


def check_one_device(module: nn.Module, what: str) -> None:
    """Raise InputError, by the name of what is asked for, where it needs all weights on one device and they are not.

    >>> from loadbearing.hooks import load
    >>> check_one_device(load("organism:copy-tokens").module, "paths")
    """
    devices = sorted({str(weight.device) for weight in module.parameters()})
    if len(devices) > 1:
        raise InputError(
            f"{what} cannot be run with {type(module).__name__}, which is spread over {', '.join(devices)}: expected "
            'all weights on one device. Load it on one (device_map={"": "cuda:0"}), in bfloat16 where memory is short'
        )
