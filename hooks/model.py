"""A model as every operation sees it: what runs, its tokenizer, the texts around its reasoning, its card."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..tasks import Task
from ..tasks import load as load_task
from .backends.base import Backend
from .card import Card
from .cut import Cut, apply_cuts, joined
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
    cuts: tuple[Cut, ...] = field(default=(), repr=False)

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
        changed = replace(self, format=replace(self.format, **changes))
        return apply_cuts(changed, self.cuts) if self.cuts else changed

    def cut(
        self,
        queries: str | Iterable[str] = "cue",
        keys: str | Iterable[str] = "prompt",
        layers: Iterable[int] | None = None,
    ) -> "Model":
        """The model with one more wire cut for good: `queries` can never attend to `keys`, in all or the given layers.

        queries, keys: parts of a run (`prompt`, `open`, `cot`, `cue`, `answer`) or, for a model that has a task, places
        that are the same in all of its problems (`operand.2`, `step.1`, `cot[0]`); several as a list, or joined with
        "+". What is cut is masked before the softmax, which renormalises; a position always sees itself. Parts are
        found in the tokens: the first `open` of the format, then the first cue.

        Every operation honours it, and the card keeps it, so that `load` cuts again. Weights are shared: this model and
        its module stay what they are, and gradients flow through `module`, so that it can be trained under the cut.

        Raises InputError for a name that is no fixed place, a cut that no position could feel, a format without `open`.

        >>> from loadbearing.hooks import generate, load
        >>> model = load("organism:sft")
        >>> blind = model.cut(queries="cue", keys="cot")
        >>> problems = model.task.problems(16)
        >>> generate(model, problems).accuracy, generate(blind, problems).accuracy < 0.5
        (1.0, True)
        """
        only = None if layers is None else tuple(sorted(set(layers)))
        return apply_cuts(self, (*self.cuts, Cut(joined(queries), joined(keys), only)))

    def identity(self) -> dict[str, Any]:
        """The manifest keys that must agree before results of this model are mixed."""
        config: Any = getattr(self.module, "config", None)
        return {
            "model": self.name,
            "fingerprint": self.fingerprint,
            "dtype": str(next(self.module.parameters()).dtype).removeprefix("torch."),
            "attention": str(getattr(config, "_attn_implementation", None)),
            "format": self.format.asdict(),
            "cut": [cut.asdict() for cut in self.cuts],
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
