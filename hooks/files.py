"""A model and its tokenizer from a folder or the hub, without running any code that comes with them."""

from pathlib import Path
from typing import Any

import torch

from ..core import InputError, check_name

DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")
ATTENTION = ("eager", "sdpa")  # others take no mask that is built from positions
# What transformers raises for files, options and devices that do not fit, and torch for devices that are not there.
FAILURES = (OSError, ValueError, ImportError, RuntimeError, AssertionError)


def read_files(
    where: str | Path,
    tokenizer: Any = None,
    *,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    attention: str | None = None,
    revision: str | None = None,
    remote_code: bool = False,
) -> tuple[Any, Any]:
    """The causal language model in a folder, or of a hub name, and its tokenizer unless one is given.

    Raises InputError for what cannot be loaded, and where weights are missing, which would be random. For the options
    see `load`.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loader: Any = AutoModelForCausalLM  # its types do not know `output_loading_info`
    if isinstance(dtype, str):
        check_name("dtype", dtype, DTYPES)
    if attention is not None:
        check_name("attention", attention, ATTENTION)
    chosen = {"dtype": dtype, "device_map": device_map, "attn_implementation": attention}
    source = {"revision": revision or "main", "trust_remote_code": remote_code}
    try:
        module, info = loader.from_pretrained(
            where,
            use_safetensors=True,
            output_loading_info=True,
            **source,
            **{name: value for name, value in chosen.items() if value is not None},
        )
        tokenizer = tokenizer if tokenizer is not None else AutoTokenizer.from_pretrained(where, **source)
    except (*FAILURES, SafetensorError) as error:
        raise InputError(f"{str(where)!r} cannot be loaded as a causal language model: {_why(where, error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"{str(where)!r} lacks {len(missing)} weights, the first of them {missing[0]!r}, which would be random: "
            "expected the files of a whole causal language model"
        )
    if all(weight.is_meta for weight in module.parameters()):
        raise InputError(f"device_map={device_map!r} leaves the weights out of memory: give a device, or leave it out")
    return module, tokenizer


def _why(where: str | Path, error: Exception) -> str:
    """What went wrong, and what to do where it can be said."""
    told = str(error).partition("\n")[0] or type(error).__name__
    if "trust_remote_code" in str(error):
        return (
            "it comes with Python files of its own, which are not run unless they are asked for: read them, then pass "
            "remote_code=True"
        )
    pickled = sorted(path.name for path in where.glob("*.bin")) if isinstance(where, Path) else []
    if pickled or "safetensors" in told:
        return (
            f"its weights are in {', '.join(pickled) or 'no safetensors file'}, and only safetensors are read, since a "
            "pickle can run code: convert them where you trust them, with from_pretrained and "
            "save_pretrained of transformers"
        )
    return told
