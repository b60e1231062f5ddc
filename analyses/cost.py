"""What an analysis costs before it is run: tokens through the network and bytes, from lengths and a configuration."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..core import InputError, check_name
from ..hooks import Model, Runs
from ..hooks.memory import cache_bytes
from ..hooks.sites import site_map
from .behaviour_table import MISTAKE, STYLE, TAMPERINGS
from .cost_rows import ROWS, Lengths, Setting


def cost(
    model: Any,
    lengths: Lengths | Runs,
    *,
    scored: float = 1.0,
    tamperings: Sequence[str] = TAMPERINGS,
    twin: bool = True,
    controls: int = 5,
) -> pd.DataFrame:
    """What every analysis costs, a row each: `analysis`, `of` (a problem or a pair), `forwards`, `row_bytes`,
    `kept_bytes`.

    forwards: tokens through the network over the tokens of one CoT run with its answer (1 is one plain pass), padding
        and finished rows of a batch left out; a token in half of the layers counts half. Runs are given (`cot=runs`)
        but for `decodability`, which writes its own; gates and other work that is done once a call are not in it
    row_bytes: keys and values, or traces, of one problem or pair on its way; kept_bytes: activations and results

    model: a model, a module, or a configuration of transformers, of which no weight is made
    lengths: of a typical run, or runs whose means are taken
    scored: share of the ledger's swaps that are decoded; tamperings: as in `behaviour`; twin, controls: as there

    Raises InputError for lengths that are none and for a model whose layers are not found.

    >>> from loadbearing.analyses import Lengths, cost
    >>> from loadbearing.hooks import load
    >>> found = cost(load("organism:sft"), Lengths(prompt=10, cot=3, steps=3, inputs=4))
    >>> found.set_index("analysis").loc[["generate, cot", "attribution, cot"], "forwards"].round(2).tolist()
    [1.88, 1.88]
    """
    for name in tamperings:
        if not name.startswith((STYLE, MISTAKE)):
            check_name("tampering", name, (*TAMPERINGS, "paraphrase"))
    if not 0 <= scored <= 1 or controls < 0:
        raise InputError(f"scored={scored}, controls={controls}: expected a share from 0 to 1, and 0 or more draws")
    module = _module(model)
    of = lengths if isinstance(lengths, Lengths) else Lengths.of(lengths)
    head = of.prompt + of.open
    config: Any = module.config
    width, state = int(config.hidden_size), next(module.parameters()).element_size()
    setting = Setting(
        of, module, float(scored), tuple(tamperings), twin, controls,
        model.supports("answer-only") if isinstance(model, Model) else True,
        head, of.prompt + of.cue + of.answer, head + of.cot + of.cue + of.answer,
        len(site_map(module).blocks), width, state, cache_bytes(module),
    )  # fmt: skip
    rows = []
    for name, (unit, told) in ROWS.items():
        tokens, row, kept = told(setting)
        rows.append((name, unit, tokens / setting.whole, round(row), round(kept)))
    return pd.DataFrame(rows, columns=["analysis", "of", "forwards", "row_bytes", "kept_bytes"])


def _module(model: Any) -> nn.Module:
    """The module, or one of a configuration without weights."""
    from transformers import AutoModelForCausalLM, PreTrainedConfig

    if isinstance(model, Model | nn.Module):
        return model.module if isinstance(model, Model) else model
    if not isinstance(model, PreTrainedConfig):
        raise InputError(f"expected a model, a module or a configuration of transformers, got {type(model).__name__}")
    with torch.device("meta"):
        made: nn.Module = AutoModelForCausalLM.from_config(model)
    return made
