"""One entry that makes any organism from its spec."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..core import new_folder
from ..hooks import Card, generate, load, replay_gold
from ..tasks import Copy, ModularSum
from ..tasks import load as load_task
from .specs import FORMAT, HandSet, Trained, spec_of
from .tokenizer import build_tokenizer


def train(name: str, folder: str | Path, *, progress: bool = True) -> Card:
    """Make an organism and write it to a new folder: weights, tokenizer, card. Refuses to overwrite.

    On the same machine with the same number of threads the weights are the same; elsewhere the held-out accuracy agrees
    within 0.5 points. Raises UnknownNameError for a name that is no organism, InputError for a folder that is not
    empty.
    """
    spec = spec_of(name)
    task = load_task(spec.task)
    tokenizer = build_tokenizer(task, FORMAT)
    curve: tuple[Mapping[str, Any], ...] = ()
    with new_folder(folder) as temporary:
        if isinstance(spec, HandSet):
            from .handset import set_weights

            model: Any = set_weights(spec, tokenizer, task)
        else:
            from .supervised import train_supervised

            assert isinstance(task, ModularSum)
            model, curve = train_supervised(spec, tokenizer, FORMAT, task, temporary / "scratch", progress)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        card = _card(spec, curve)
        card.save(temporary)
        # Measured with the saved model as a user loads it, not with the one in memory.
        card = replace(card, accuracy=accuracies(temporary, spec))
        card.save(temporary)
        shutil.rmtree(temporary / "scratch", ignore_errors=True)
    return card


def _card(spec: Trained | HandSet, curve: tuple[Mapping[str, Any], ...]) -> Card:
    described = {"name", "summary", "task", "modes", "measure", "known", "seed"}
    recipe = json.loads(json.dumps({key: value for key, value in asdict(spec).items() if key not in described}))
    return Card(
        name=spec.name,
        summary=spec.summary,
        task=spec.task,
        modes=spec.modes,
        format=asdict(FORMAT),
        recipe={"kind": "set by hand" if isinstance(spec, HandSet) else "supervised", **recipe},
        seed=0 if isinstance(spec, HandSet) else spec.seed,
        measure=spec.measure,
        known=spec.known if isinstance(spec, HandSet) else {},
        curve=curve,
        versions={name: version(name) for name in ("loadbearing", "torch", "transformers")},
    )


def accuracies(folder: Path, spec: Trained | HandSet, n: int = 900) -> dict[str, float]:
    """Held-out accuracy of a saved model in its modes, when it writes everything itself.

    For hand-set weights: all problems, over the task's chain of thought where the card says `cot="task"`.
    """
    model = load(folder)
    assert model.task is not None
    if isinstance(spec, HandSet):
        assert isinstance(model.task, Copy)
        every = model.task.all_problems()
        runs = replay_gold(model, every) if spec.measure["cot"] == "task" else generate(model, every)
        return {"cot": runs.accuracy}
    assert isinstance(model.task, ModularSum)
    problems = model.task.problems(min(n, len(model.task.all_problems("test"))), seed=2)
    return {mode: generate(model, problems, mode, max_new_tokens=16).accuracy for mode in spec.modes}
