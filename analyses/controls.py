"""Controls that need a model: its copy with random weights."""

import copy
from typing import Any

import torch

from ..core import InputError
from ..hooks import Model
from ..hooks.backends.torch import TorchBackend
from ..hooks.cut import apply_cuts
from ..hooks.model import fingerprint_of


def random_twin(model: Model, seed: int = 0) -> Model:
    """The same architecture with weights as they are before training; same tokenizer, format and cut wires.

    What a probe reads of it, it would read of any network over these tokens: a random network mixes its inputs too
    (Zhang & Bowman 2018, 1809.10040). Raises InputError for a module that transformers cannot make from its
    configuration.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> twin = random_twin(model)
    >>> twin.n_layers == model.n_layers, twin.fingerprint == model.fingerprint
    (True, False)
    """
    from transformers import AutoModelForCausalLM

    config: Any = copy.deepcopy(getattr(model.module, "config", None))
    weight = next(model.module.parameters())
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = AutoModelForCausalLM.from_config(
                config, dtype=weight.dtype, attn_implementation=config._attn_implementation
            )
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"{model.name} has no random twin: transformers cannot make a {type(model.module).__name__} from its "
            f"configuration ({error}); leave this control out with twin=False"
        ) from error
    module = module.eval().to(weight.device)
    twin = Model(
        f"{model.name} (random)",
        TorchBackend(module),
        model.tokenizer,
        model.format,
        model.card,
        fingerprint_of(module),
    )
    return apply_cuts(twin, model.cuts) if model.cuts else twin
