"""Training examples as token ids, in the words and the order of a measured run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from ..core import InputError, check_name
from ..hooks import Format, Mode
from ..tasks import Problem, Task, load
from .chains import WRITERS
from .specs import Part, Supervised

IGNORED = -100


@dataclass(frozen=True)
class Examples:
    """Token ids and labels `[problem, pos]`, filled up on the right; `free` marks digits drawn anew at each update."""

    ids: Int[np.ndarray, "problem pos"]
    labels: Int[np.ndarray, "problem pos"]
    free: tuple[int, int] = (0, 0)


def render_examples(
    tokenizer: Any, form: Format, problems: Sequence[Problem], chains: Sequence[tuple[str, str] | None]
) -> Examples:
    """Examples whose labels cover what the model is to write: the chain of thought, the cue after it, the answer.

    chains: text between prompt and answer, and the answer; None for an answer-only example, whose cue is template text
    and carries no label. The tokenizer is a word-level one: the words of a text are those of its parts.
    """
    starts, ends = [], []
    for problem, chain in zip(problems, chains, strict=True):
        mode: Mode = "answer-only" if chain is None else "cot"
        cot, answer = chain if chain is not None else ("", problem.answer)
        silent = problem.prompt + (form.direct_open + form.cue_of(mode) if chain is None else form.open)
        starts.append(silent)
        ends.append(f"{'' if chain is None else cot + form.cue_of(mode)} {answer}")
    head = tokenizer(starts)["input_ids"]
    tail = tokenizer(ends, add_special_tokens=False)["input_ids"]
    rows = [[*first, *last, tokenizer.eos_token_id] for first, last in zip(head, tail, strict=True)]
    if any(tokenizer.unk_token_id in row for row in rows):
        at = next(i for i, row in enumerate(rows) if tokenizer.unk_token_id in row)
        raise InputError(f"{(starts[at] + ends[at])!r} holds a word outside the tokenizer's vocabulary")
    ids = np.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id)
    labels = np.full(ids.shape, IGNORED)
    for i, (row, silent_ids) in enumerate(zip(rows, head, strict=True)):
        ids[i, : len(row)] = row
        labels[i, len(silent_ids) : len(row)] = row[len(silent_ids) :]
    return Examples(ids, labels)


def problems_of(task: Task, limit: int, seed: int = 0) -> list[Problem]:
    """`limit` train problems of a task, or all of them where there are fewer."""
    try:
        return task.problems(limit, seed, "train")
    except InputError:  # there are fewer
        return task.all_problems("train")


def examples_of(
    part: Part, task: Task, problems: Sequence[Problem], tokenizer: Any, form: Format, seed: int
) -> Examples:
    """The examples of a part; a text with a draw in it is drawn once for every problem."""
    if part.write == "nothing":
        return render_examples(tokenizer, form, problems, [None] * len(problems))
    write = WRITERS[check_name("writing of examples", part.write, WRITERS)]
    rng = np.random.default_rng([seed, 1])
    chains = [write(problem, rng) for problem in problems]
    if part.style is not None:
        chains = [(task.restyle(text, part.style), answer) for text, answer in chains]
    found = render_examples(tokenizer, form, problems, chains)
    if part.write == "random":
        first = int((found.labels[0] == IGNORED).sum())
        found = replace(found, free=(first, first + len(problems[0].steps)))
    return found


@dataclass(frozen=True)
class Pool:
    """The problems of one task, with the examples of every part that draws from it."""

    parts: dict[int, Examples]
    easiness: NDArray[Any]

    @cached_property
    def size(self) -> int:
        return len(self.easiness)


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    """The training examples of a stage in order, decided by the seed alone."""

    def __init__(self, stage: Supervised, tokenizer: Any, form: Format, seed: int, pools: Sequence[Pool] = ()) -> None:
        """`pools` take the place of the stage's own examples."""
        self.stage, self.seed = stage, seed
        self.pools = list(pools)
        self.problems: list[Problem] = []
        for spec in () if pools else dict.fromkeys(part.task for part in stage.parts):
            task = load(spec)
            problems = problems_of(task, stage.pool)
            parts = {
                number: examples_of(part, task, problems, tokenizer, form, seed)
                for number, part in enumerate(stage.parts)
                if part.task == spec
            }
            zeros = [[problem.values[name] == "0" for name in task.inputs] for problem in problems]
            self.pools.append(Pool(parts, np.array(zeros).sum(1) / len(task.inputs)))
            self.problems += problems
        digits = {p.values[name] for p in self.problems[:5000] for name in p.task.intermediates}
        self.digits = np.array(sorted(tokenizer.convert_tokens_to_ids(sorted(digits))))
        self.width = max(part.ids.shape[1] for pool in self.pools for part in pool.parts.values())
        self.fill = tokenizer.pad_token_id

    def weights(self, pool: Pool, progress: float) -> NDArray[Any] | None:
        """The chance of every problem at a point of the stage (0 to 1): easy ones first; None: all the same."""
        strength = max(0.0, 1.0 - progress / self.stage.easy) if self.stage.easy else 0.0
        weights = np.exp(8.0 * strength * pool.easiness)
        return np.asarray(weights / weights.sum()) if self.stage.easy else None

    def cycle(self, progress: float) -> list[int]:
        """The parts that the examples of an update belong to, in turn."""
        return [n for n, part in enumerate(self.stage.parts) if progress >= part.since for _ in range(part.share)]

    def update(self, number: int, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """The ids and labels `[batch, pos]` of one update."""
        progress = number / self.stage.updates
        turns = np.resize(self.cycle(progress), self.stage.batch)
        ids = np.full((self.stage.batch, self.width), self.fill)
        labels = np.full(ids.shape, IGNORED)
        for pool in self.pools:
            mine = np.flatnonzero(np.isin(turns, list(pool.parts)))
            chosen = rng.choice(pool.size, len(mine), p=self.weights(pool, progress))
            for part, examples in pool.parts.items():
                rows, problems = mine[turns[mine] == part], chosen[turns[mine] == part]
                size = examples.ids.shape[1]
                ids[rows, :size], labels[rows, :size] = examples.ids[problems], examples.labels[problems]
                first, stop = examples.free
                if stop and len(rows):
                    drawn = rng.choice(self.digits, (len(rows), stop - first))
                    ids[rows, first:stop] = drawn
                    labels[rows, first:stop] = drawn if number >= self.stage.silent * self.stage.updates else IGNORED
        return ids, labels

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng(self.seed)
        for number in range(self.stage.updates):
            for row, wanted in zip(*map(torch.from_numpy, self.update(number, rng)), strict=True):
                yield {"input_ids": row, "labels": wanted}
