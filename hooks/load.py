"""From a name, a folder or an object to a Model."""

import copy
import importlib.resources
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core import InputError, check_name
from .backends.base import Backend
from .backends.torch import TorchBackend
from .card import Card
from .files import read_files
from .format import Format
from .formats import format_for
from .model import Model, fingerprint_of
from .support import check_loadable

BACKENDS = ("torch", "transformer_lens", "nnsight")
ORGANISM = "organism:"


def shipped_folder() -> Path:
    """The folder of the organisms that come with the package (data; no code of that room is imported)."""
    return Path(str(importlib.resources.files("loadbearing") / "organisms" / "shipped"))


def organism_names() -> list[str]:
    """The names that `load("organism:NAME")` takes."""
    folder = shipped_folder()
    return (
        sorted(entry.name for entry in folder.iterdir() if (entry / "config.json").is_file()) if folder.is_dir() else []
    )


def organism_folder(name: str) -> Path:
    """The folder of a shipped organism."""
    return shipped_folder() / check_name("organism", name, organism_names())


def load(
    source: Any,
    *,
    backend: str | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    attention: str | None = None,
    tokenizer: Any = None,
    format: Format | str = "auto",
    revision: str | None = None,
    remote_code: bool = False,
    remote: bool | str = False,
) -> Model:
    """Make a Model from "organism:NAME", a local folder, a hub name, or a model object.

    source: a string or path, a Hugging Face causal language model, a TransformerLens `TransformerBridge`, or an nnsight
        model. An object is used as what it is; with another `backend` a deep copy is made, so it is never changed.
    backend: "torch" (default), "transformer_lens" or "nnsight": how activations are read
    dtype: as stored, unless it is given ("bfloat16"); the organisms, which are stored in half precision, in single
    device_map: as transformers takes it: "cpu", "cuda:0", "auto", which spreads a model over
        several GPUs; weights that it would leave on a disk, or on the CPU beside GPUs, are refused
    attention: the attention implementation, "sdpa" or "eager"
    tokenizer: needed for an object that brings none
    format: the texts around the reasoning, a `Format` or a name in `FORMATS`; "auto" takes the card's, else what the
        tokenizer's chat template and vocabulary are made for, else plain text
    revision: the branch, tag or commit of a hub name
    remote_code: whether a model's own Python files may be run; nothing else that is loaded can run code, since weights
        are read from safetensors files only
    remote: True to run an nnsight `TransformersModel` where nnsight serves it (its weights are then not needed here),
        "local" to rehearse that here. Such a model can be recorded, and patched one run at a time
        (`model.backend.write`); what else needs its weights says so. Runs to record are made with the same weights
        loaded here, or elsewhere: they are token ids and spans.

    `dtype`, `device_map`, `attention`, `revision` and `remote_code` say how files are loaded: an object is as it is.

    Raises UnknownNameError for an unknown organism, backend, dtype, attention or format, InputError for a folder that
    holds no model or not all of its weights, for weights in another format than safetensors, for a model that needs
    code of its own, and for a `remote` model that nnsight could not serve.

    >>> load("organism:copy-direct").task
    <task copy:cot=independent>
    """
    options = {
        "dtype": dtype,
        "device_map": device_map,
        "attention": attention,
        "revision": revision,
        "remote_code": remote_code or None,
    }
    given_options = {name: value for name, value in options.items() if value is not None}
    if given_options and (remote or not isinstance(source, str | Path)):
        raise InputError(
            f"{', '.join(given_options)} cannot be given for a {type(source).__name__}, which is loaded already: "
            "expected a name or a folder; give them where the model is made"
        )
    if remote:
        return _remote(source, remote, backend, tokenizer, format)
    card = None
    if isinstance(source, str | Path):
        module, tokenizer, card, name = _from_name(str(source), given_options, tokenizer)
        check_loadable(module)  # before weights are read: those that are offloaded cannot be
        fingerprint = fingerprint_of(module)
        made: Backend = _wrap(module, tokenizer, backend or "torch")
    else:
        given, module, found, name = _from_object(source)
        check_loadable(module)
        fingerprint = fingerprint_of(module)
        tokenizer = tokenizer if tokenizer is not None else found
        if backend is None or check_name("backend", backend, BACKENDS) == given.name:
            made = given
        elif given.name != "torch":
            raise InputError(f"a {given.name} model cannot become a {backend} one: pass the Hugging Face model instead")
        else:
            made = _wrap(copy.deepcopy(module), tokenizer, backend)
    model = Model(name, made, _given(tokenizer, source), _format(format, card, tokenizer), card, fingerprint)
    for wire in card.cut if card is not None else ():
        model = model.cut(**wire)
    return model


class _RemoteModel(Model):
    """A model whose weights are elsewhere: token ids stay here until they are sent."""

    @property
    def device(self) -> torch.device:
        """Where token ids must be."""
        return torch.device("cpu")


def _remote(source: Any, remote: bool | str, backend: str | None, tokenizer: Any, format: Format | str) -> Model:
    """A model that nnsight runs elsewhere; its module here may be without weights."""
    from nnsight.modeling.mixins.remotable import Remotable

    from .backends.nnsight import NnsightBackend

    if remote is not True:
        check_name("remote", str(remote), ["local"])
    if backend not in (None, "nnsight") or not isinstance(source, Remotable):
        what = f"a {type(source).__name__}" + ("" if backend in (None, "nnsight") else f" with backend={backend!r}")
        raise InputError(
            f"remote={remote!r} runs a model through nnsight, and {what} cannot be: pass "
            "nnsight.TransformersModel(name), or nnsight.TransformersModel(module, tokenizer=tokenizer)"
        )
    made = NnsightBackend(source, remote)
    module, name = made.module(), _name(made.module())
    tokenizer = _given(tokenizer if tokenizer is not None else getattr(source, "tokenizer", None), source)
    asked = f"remote {name}@{getattr(source, 'revision', None) or 'main'}"
    fingerprint = asked if _absent(module) else fingerprint_of(module)
    return _RemoteModel(name, made, tokenizer, _format(format, None, tokenizer), None, fingerprint)


def _absent(module: nn.Module) -> bool:
    return all(weight.is_meta for weight in module.parameters())


def _given(tokenizer: Any, source: Any) -> Any:
    if tokenizer is None:
        raise InputError(f"{type(source).__name__} brings no tokenizer: pass tokenizer=")
    return tokenizer


def _from_name(name: str, options: dict[str, Any], tokenizer: Any) -> tuple[nn.Module, Any, Card | None, str]:
    from transformers.utils import logging

    where: str | Path = name
    if name.startswith(ORGANISM):
        where = organism_folder(name.removeprefix(ORGANISM))
    elif os.path.exists(name):  # False for what no path can be
        where = Path(name)
        if not (where / "config.json").is_file():
            raise InputError(f"{name} is no model folder: expected config.json, weights and tokenizer files in it")
    elif name.startswith((".", "/", "~")):
        raise InputError(f"no folder at {name}")
    if isinstance(where, Path) and "revision" in options:
        raise InputError(f"revision={options['revision']!r} is of a hub name, and {name} is a folder: leave it out")
    card = Card.load(where) if isinstance(where, Path) else None
    if card is not None:
        options = {"dtype": torch.float32, **options}  # organisms are stored in half precision
    shown = logging.is_progress_bar_enabled()
    if name.startswith(ORGANISM):
        logging.disable_progress_bar()  # it would flash by for every small model
    try:
        module, tokenizer = read_files(where, tokenizer, **options)
    finally:
        if shown:
            logging.enable_progress_bar()
    return module.eval(), tokenizer, card, name.removeprefix(ORGANISM)


def _from_object(source: Any) -> tuple[Backend, nn.Module, Any, str]:
    """The backend that an object is used with, the module that runs, its tokenizer, its name."""
    origin = type(source).__module__.partition(".")[0]
    if origin == "transformer_lens":
        from .backends.transformer_lens import TransformerLensBackend

        bridge = TransformerLensBackend(source)
        return bridge, bridge.module(), source.tokenizer, _name(bridge.module())
    if origin == "nnsight":
        from .backends.nnsight import NnsightBackend

        wrapped = NnsightBackend(source)
        if _absent(wrapped.module()):
            raise InputError(
                f"the weights of this {type(source).__name__} are not loaded: call its dispatch() first, or pass "
                "remote=True to run it where nnsight serves it"
            )
        return wrapped, wrapped.module(), getattr(source, "tokenizer", None), _name(wrapped.module())
    if isinstance(source, nn.Module):
        return TorchBackend(source), source, None, _name(source)
    raise InputError(
        f"cannot load a {type(source).__name__}: expected a name, a folder, a Hugging Face model, a TransformerBridge "
        "or an nnsight model"
    )


def _wrap(module: nn.Module, tokenizer: Any, backend: str) -> Backend:
    """A backend around a module that is ours to change."""
    if check_name("backend", backend, BACKENDS) == "transformer_lens":
        from .backends.transformer_lens import TransformerLensBackend

        return TransformerLensBackend.around(module, tokenizer)
    if backend == "nnsight":
        from .backends.nnsight import NnsightBackend

        return NnsightBackend.around(module, tokenizer)
    return TorchBackend(module)


def _name(module: nn.Module) -> str:
    config: Any = getattr(module, "config", None)
    return str(getattr(config, "name_or_path", "") or type(module).__name__)


def _format(given: Format | str, card: Card | None, tokenizer: Any) -> Format:
    if isinstance(given, Format):
        return given
    return Format(**card.format) if given == "auto" and card is not None else format_for(given, tokenizer)
