"""A model as every operation sees it: what runs, its tokenizer, the texts around its reasoning, its card."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..tasks import Task
from ..tasks import load as load_task
from .backends.base import Backend
from .card import Card
from .format import Format, Mode
from .sites import SiteMap, site_map


@dataclass(frozen=True, eq=False)
class Model:
    """A causal language model ready to be measured; made by `load`. The object that it was made from is not changed."""

    name: str
    backend: Backend
    tokenizer: Any = field(repr=False)
    format: Format = field(repr=False)
    card: Card | None = field(default=None, repr=False)
    fingerprint: str = field(default="", repr=False)

    @property
    def module(self) -> nn.Module:
        """The torch module that runs."""
        return self.backend.module()

    @cached_property
    def sites(self) -> SiteMap:
        """Where the residual stream and its parts are in this model."""
        return site_map(self.module)

    @property
    def n_layers(self) -> int:
        """The number of decoder layers."""
        return len(self.sites.blocks)

    @property
    def device(self) -> torch.device:
        """Where token ids must be."""
        return next(self.module.parameters()).device

    @property
    def task(self) -> Task | None:
        """The task that an organism was made for."""
        return None if self.card is None else load_task(self.card.task)

    def supports(self, mode: Mode) -> bool:
        """Whether the model was made for a mode; a model without a card is taken to know every mode."""
        return self.card is None or mode in self.card.modes

    def with_format(self, **changes: Any) -> "Model":
        """The same model with other texts around its reasoning."""
        return replace(self, format=replace(self.format, **changes))

    def identity(self) -> dict[str, Any]:
        """The manifest keys that must agree before results of this model are mixed."""
        config: Any = getattr(self.module, "config", None)
        return {
            "model": self.name,
            "fingerprint": self.fingerprint,
            "dtype": str(next(self.module.parameters()).dtype).removeprefix("torch."),
            "attention": str(getattr(config, "_attn_implementation", None)),
            "format": {k: v for k, v in vars(self.format).items()},
        }


def fingerprint_of(module: nn.Module) -> str:
    """A hash of the configuration and of the first 4096 values of every weight: the same weights, the same text.

    Taken before a backend wraps the model: a bridge renames weights, and splits those of queries, keys and values.
    """
    digest = hashlib.sha256()
    config: Any = getattr(module, "config", None)
    described = config.to_dict() if config is not None else {}
    shown = {k: v for k, v in described.items() if k not in {"architectures", "transformers_version", "_name_or_path"}}
    digest.update(json.dumps(shown, sort_keys=True, default=str).encode())
    for weight in module.parameters():
        digest.update(repr(tuple(weight.shape)).encode())
        digest.update(weight.detach().flatten()[:4096].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
