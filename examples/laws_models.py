"""The small models of examples/laws.py: a task of our own, cells to train, and what is counted in a trained one."""

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from loadbearing import hooks
from loadbearing.core import InputError
from loadbearing.hooks.sites import Site
from loadbearing.hooks.sweep import open_interior
from loadbearing.hooks.trace import trace
from loadbearing.organisms.data import Stream
from loadbearing.organisms.specs import FORMAT, Part, Supervised, Trained
from loadbearing.organisms.supervised import held_out_problems, new_model, train_supervised
from loadbearing.organisms.tokenizer import build_tokenizer
from loadbearing.tasks import Piece, Problem, Step, load
from loadbearing.tasks.problem import Pairs, Split, Task, in_test_split, parse_options, write_spec
from loadbearing.tasks.registry import TASKS


class Match3(Task):
    """Do three of the numbers add up to 0 modulo `modulus`? A chain of thought writes the sum of every two.

    A shrunk 3SUM (arXiv:2404.15758). Every sum reads the prompt alone, so the chain is parallelisable. Half of the
    problems are "1" (they do), drawn at random among all; one in ten is held out, by a hash of its text.

    >>> problem = Match3("match3:terms=4,modulus=10").problem((1, 2, 7, 9))
    >>> problem.prompt, problem.cot, problem.answer
    ('1 2 7 9', ' 3 8 0 9 1 6', '1')
    """

    name: ClassVar[str] = "match3"
    defaults: ClassVar[Mapping[str, Any]] = {"terms": 6, "modulus": 10}
    serial = False

    def __init__(self, spec: str = name) -> None:
        options = parse_options(spec, self.defaults)
        self.spec = write_spec(self.name, options, self.defaults)
        self.terms, self.modulus = int(options["terms"]), int(options["modulus"])
        self.inputs = tuple(f"operand.{k}" for k in range(1, self.terms + 1))
        self.intermediates = tuple(f"v_{k}" for k in range(1, self.terms * (self.terms - 1) // 2 + 1))

    def problem(self, numbers: Sequence[int]) -> Problem:
        """The problem of these numbers."""
        words = [str(number) for number in numbers]
        pieces = [Piece(word if k == 0 else f" {word}", name) for k, (word, name) in enumerate(zip(words, self.inputs, strict=True))]
        sums = [str((one + other) % self.modulus) for one, other in itertools.combinations(numbers, 2)]
        found = any(sum(three) % self.modulus == 0 for three in itertools.combinations(numbers, 3))
        steps = tuple(Piece(f" {value}", f"step.{k}") for k, value in enumerate(sums, start=1))
        values = dict(zip(self.inputs, words, strict=True)) | dict(zip(self.intermediates, sums, strict=True))
        return Problem(" ".join(words), tuple(pieces), str(int(found)), steps, values, self)

    def problems(self, n: int, seed: int = 0, split: Split = "test") -> list[Problem]:
        return list(itertools.islice(self._distinct(np.random.default_rng(seed), split, n), n))

    def _distinct(self, rng: np.random.Generator, split: Split, n: int) -> Iterator[Problem]:
        """Different problems, as many of each answer, in random order."""
        seen: set[str] = set()
        left = {"0": (n + 1) // 2, "1": n // 2}
        while any(left.values()):
            problem = self.problem(rng.integers(self.modulus, size=self.terms).tolist())
            if left[problem.answer] and problem.key not in seen and in_test_split(problem.key) == (split == "test"):
                seen.add(problem.key)
                left[problem.answer] -= 1
                yield problem

    def pairs(self, n: int, seed: int = 0, vary: str | None = None, tokenizer: Any = None) -> Pairs:
        raise InputError(f"task {self.spec!r} makes no pairs")

    def parse_steps(self, text: str) -> list[Step]:
        return []

    def parse_answer(self, text: str) -> str | None:
        return text.strip() or None

    def words(self) -> list[str]:
        return [str(number) for number in range(self.modulus)]


cast("dict[str, type[Task]]", TASKS)[Match3.name] = Match3  # so that training finds it by its spec
