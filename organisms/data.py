"""Training examples as token ids, rendered by the same code that renders a measured run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from ..hooks import Format, Mode
from ..hooks.format import render_prompt, tokenize
from ..tasks import ModularSum, Piece, Problem
from .specs import Style, Trained

IGNORED = -100


@dataclass(frozen=True)
class Examples:
    """All examples of one style: token ids and labels `[problem, pos]`; `free` marks positions drawn at random."""

    ids: Int[np.ndarray, "problem pos"]
    labels: Int[np.ndarray, "problem pos"]
    free: slice


def cot_text(problem: Problem, style: Style) -> str:
    """The chain of thought of a style; random digits are filled in per update."""
    if style == "nothing":
        return ""
    return problem.cot if style != "dots" else " ." * len(problem.steps)


def render_examples(tokenizer: Any, form: Format, problems: list[Problem], style: Style) -> Examples:
    """Examples whose labels cover what the model is to write: the chain of thought, the cue after it, the answer.

    In an answer-only example the cue is template text and carries no label.
    """
    mode: Mode = "answer-only" if style == "nothing" else "cot"
    rows, labels = [], []
    free = slice(0, 0)
    cue = tokenize(tokenizer, [Piece(form.cue_of(mode))]).ids
    for problem in problems:
        start = render_prompt(tokenizer, form, problem, mode).ids
        text = cot_text(problem, style)
        cot = tokenize(tokenizer, [Piece(text)]).ids if text else ()
        answer = (*tokenize(tokenizer, [Piece(" " + problem.answer)]).ids, tokenizer.eos_token_id)
        rows.append(start + cot + cue + answer)
        silent = len(start) + (0 if cot else len(cue))
        labels.append((IGNORED,) * silent + rows[-1][silent:])
        if style == "random":
            free = slice(len(start), len(start) + len(cot))
    return Examples(np.array(rows), np.array(labels), free)


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    """The training examples of a whole run in order, decided by the seed alone."""

    def __init__(self, spec: Trained, tokenizer: Any, form: Format, task: ModularSum) -> None:
        self.spec = spec
        self.problems = task.all_problems("train")
        self.parts = [render_examples(tokenizer, form, self.problems, style) for style in spec.styles]
        self.digits = np.array([tokenizer.convert_tokens_to_ids(str(d)) for d in range(task.modulus)])
        self.width = max(part.ids.shape[1] for part in self.parts)
        self.fill = tokenizer.pad_token_id
        zeros = np.array([[problem.values[name] == "0" for name in task.inputs] for problem in self.problems]).sum(1)
        self.easiness = zeros / len(task.inputs)

    def weights(self, progress: float) -> NDArray[Any]:
        """The chance of every problem at a point of the training (0 to 1): easy ones first, uniform later."""
        strength = max(0.0, 1.0 - progress / self.spec.easy) if self.spec.easy else 0.0
        weights = np.exp(8.0 * strength * self.easiness)
        return np.asarray(weights / weights.sum())

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng(self.spec.seed)
        for update in range(self.spec.updates):
            chosen = rng.choice(len(self.problems), self.spec.batch, p=self.weights(update / self.spec.updates))
            for number, problem in enumerate(chosen):
                part = self.parts[number % len(self.parts)]
                ids = np.full(self.width, self.fill)
                labels = np.full(self.width, IGNORED)
                size = part.ids.shape[1]
                ids[:size], labels[:size] = part.ids[problem], part.labels[problem]
                if part.free.stop:
                    ids[part.free] = rng.choice(self.digits, part.free.stop - part.free.start)
                    labels[part.free] = ids[part.free] if update >= self.spec.silent * self.spec.updates else IGNORED
                yield {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
