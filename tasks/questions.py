"""Your own problems, as a list: prompt, answer, and where you have one a counterfactual partner."""

import re
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from ..core import InputError, check_name
from .problem import Pair, Pairs, Piece, Problem, Split, Step, Task, count_of


class Questions(Task):
    """A task made of given questions; all of them are test problems.

    A problem without a partner is left out of the pairs and counted. Steps are not read: the target is the answer.

    >>> task = Questions()
    >>> task.add("q1", "What is 12 + 30?", "42", partner="q2")
    >>> task.add("q2", "What is 12 + 40?", "52", partner="q1")
    >>> task.add("q3", "What is 1 + 1?", "2")
    >>> pairs = task.pairs(1)
    >>> len(pairs), dict(pairs.left_out)
    (1, {'no counterfactual partner': 1})
    """

    name: ClassVar[str] = "questions"

    def __init__(self, name: str = "questions") -> None:
        self.spec = name
        self.inputs = ("question",)
        self.intermediates = ()
        self._problems: dict[str, Problem] = {}

    def add(
        self, key: str, prompt: str | Iterable[Piece], answer: str, cot: str = "", partner: str | None = None
    ) -> None:
        """Add a question; `partner` is the key of the question that it is paired with."""
        if key in self._problems:
            raise InputError(f"question {key!r} is there already: keys must be unique")
        if partner == key:
            raise InputError(f"question {key!r} is named as its own partner: pair it with another one")
        pieces = (Piece(prompt),) if isinstance(prompt, str) else tuple(prompt)
        steps = (Piece(cot),) if cot else ()
        self._problems[key] = Problem(key, pieces, answer, steps, {"v_1": answer}, self, partner)

    def problems(self, n: int, seed: int = 0, split: Split = "test") -> list[Problem]:
        if check_name("split", split, ["train", "test"]) == "train":
            raise InputError(f"task {self.spec!r} has no train split: all of its questions are test problems")
        found = list(self._problems.values())
        if count_of(n) > len(found):
            raise InputError(f"task {self.spec!r} has {len(found)} questions, {n} were asked for")
        return [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:n]]

    def pairs(self, n: int, seed: int = 0, vary: str | None = None, tokenizer: Any = None) -> Pairs:
        if vary is not None:
            check_name("variable", vary, self.inputs)
        items: dict[frozenset[str], Pair] = {}
        alone = 0
        for problem in self._problems.values():
            if problem.partner is None:
                alone += 1
                continue
            check_name(f"partner of question {problem.key!r}", problem.partner, self._problems)
            donor = self._problems[problem.partner]
            items.setdefault(frozenset((problem.key, donor.key)), Pair(problem, donor, "question"))
        if count_of(n) > len(items):
            raise InputError(
                f"task {self.spec!r} has {len(items)} pairs, {n} were asked for ({alone} without a partner)"
            )
        order = np.random.default_rng(seed).permutation(len(items))[:n]
        pairs = list(items.values())
        return Pairs(tuple(pairs[i] for i in order), self, {"no counterfactual partner": alone} if alone else {})

    def parse_steps(self, text: str) -> list[Step]:
        return []

    def parse_answer(self, text: str) -> str | None:
        return re.sub(r"\s+", " ", text).strip() or None
