"""Elicited one-pass accuracy: what a model answers at once after the same small answer-only fine-tune for everyone."""

import copy
import tempfile
from pathlib import Path
from typing import Any

from ..hooks import Model, generate, load
from .data import Stream
from .specs import Part, Supervised
from .supervised import held_out_problems, train_supervised

UPDATES = 300  # fixed before any organism was trained
BATCH = 256
RATE = 1e-3


def elicit(
    model: Model,
    *,
    updates: int | None = None,
    twin: float | None = None,
    seed: int = 0,
    n: int = 500,
    progress: bool = False,
) -> dict[str, float]:
    """Fine-tune a copy of a model on answers only, and measure its held-out one-pass accuracy.

    The budget is the same for every model: `updates` of 256 train problems of the model's task. Beside it stands a
    twin of the same size trained as long from random weights: what the fine-tune teaches by itself (`twin`, where it is
    known already). Returns "accuracy",
    "twin", "updates" and how many "problems" were asked. The model is not changed.

    >>> from loadbearing.hooks import load
    >>> found = elicit(load("organism:direct"), updates=2, n=50)
    >>> found["accuracy"] > 0.9, found["twin"] < 0.5
    (True, True)
    """
    assert model.task is not None
    updates = UPDATES if updates is None else updates
    stage = Supervised((Part(model.task.spec, "nothing"),), updates=updates, batch=BATCH, rate=RATE)
    stream = Stream(stage, model.tokenizer, model.format, seed)
    problems = held_out_problems(model.task, n, seed=2)
    found: dict[str, float] = {"updates": float(updates), "problems": float(len(problems))}
    starts = {"accuracy": copy.deepcopy(model.module)}
    if twin is None:
        starts["twin"] = _random(model, seed)
    else:
        found["twin"] = twin
    for name, module in starts.items():
        with tempfile.TemporaryDirectory() as scratch:
            arguments: dict[str, Any] = {"seed": seed, "stream": stream, "progress": progress}
            train_supervised(module, stage, model.tokenizer, model.format, Path(scratch), **arguments)
        tuned = load(module, tokenizer=model.tokenizer, format=model.format)
        found[name] = generate(tuned, problems, "answer-only", max_new_tokens=8).accuracy
    return found


def _random(model: Model, seed: int) -> Any:
    """A model of the same size with random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(model.module.config)
