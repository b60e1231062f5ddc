"""A model's own good chains as training examples (rejection sampling)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core import InputError, check_name
from ..hooks import Model, Run, generate
from ..hooks.format import decode
from .chains import CONNECTIVES
from .data import Examples, Pool, problems_of, render_examples
from .specs import Supervised

SAMPLES = 8


def _explained(run: Run, text: str) -> bool:
    """A connecting word before every value."""
    words = text.split()
    values = [text[step.start : step.end] for step in run.problem.task.parse_steps(text)]
    return bool(values) and words[1::2] == values and all(word in CONNECTIVES for word in words[::2])


FILTERS: dict[str, Callable[[Run, str], bool]] = {"right": lambda run, text: True, "explained": _explained}


def own_examples(model: Model, stage: Supervised, seed: int, progress: bool = False) -> Pool:
    """Chains that the model samples at temperature 1 on train problems, of those that end in the right answer and pass
    the stage's filter; raises InputError where none does.
    """
    assert model.task is not None
    good = FILTERS[check_name("filter of own chains", str(stage.own), FILTERS)]
    problems = problems_of(model.task, stage.pool, seed)
    options: dict[str, Any] = {"samples": SAMPLES, "temperature": 1.0, "seed": seed, "progress": progress}
    length = 2 * len(problems[0].steps) + 4
    runs = generate(model, problems, "cot", max_new_tokens=length, batch_size=1024, **options)
    kept, chains = [], []
    for run in runs:
        text = decode(model.tokenizer, run.tokens("cot")) if "cot" in run.spans else ""
        if run.finished and run.correct and good(run, f" {text.strip()}"):
            kept.append(run.problem)
            chains.append((f" {text.strip()}", run.problem.answer))
    if not kept:
        raise InputError(f"none of {len(runs)} sampled chains is right and passes the filter {stage.own!r}")
    examples: Examples = render_examples(model.tokenizer, model.format, kept, chains)
    return Pool({0: examples}, np.zeros(len(kept)))
