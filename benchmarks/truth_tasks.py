"""`truth-sum`: sums whose chain of thought states chosen partial sums only, or random digits."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from loadbearing.core import InputError
from loadbearing.tasks import TASKS, ModularSum, Piece, Problem, Target


class TruthSum(ModularSum):
    """`modular-sum` with a chain of thought that states v_first to v_last (v_0 is the first operand).

    The operands up to number last + 1 are in the last step; the others are added at the answer. With `digits=n` the
    chain of thought is n digits drawn by the problem's text, which no program reads.

    >>> task = TruthSum("truth-sum:first=1,last=2")
    >>> problem = task.problem((6, 2, 9, 1))
    >>> problem.cot, problem.answer, task.program(problem, {2: "5"}, "answer")
    (' 8 7', '8', '6')
    """

    name: ClassVar[str] = "truth-sum"
    defaults: ClassVar[dict[str, Any]] = {**ModularSum.defaults, "first": 1, "last": 3, "digits": 0}

    def __init__(self, spec: str = name) -> None:
        super().__init__(spec)
        options = dict(part.split("=") for part in spec.partition(":")[2].split(",") if part)
        self.digits = int(options.get("digits", 0))
        self.first = int(options.get("first", 1))
        self.last = int(options.get("last", self.defaults["last"]))
        if not self.digits and not 0 <= self.first <= self.last < self.terms:
            raise InputError(f"task {spec!r}: expected 0 <= first <= last < terms")
        self.steps = 0 if self.digits else self.last - self.first + 1
        whole = not self.digits and self.last == self.terms - 1
        self.answer_steps = (self.steps,) if whole else ()

    def problem(self, operands: tuple[int, ...], signs: tuple[int, ...] | None = None) -> Problem:
        made = super().problem(operands, signs)
        if self.digits:
            drawn = hashlib.blake2b(made.key.encode(), digest_size=self.digits).digest()
            written = [str(byte % self.modulus) for byte in drawn]
        else:
            written = [made.values[f"v_{k}" if k else "operand.1"] for k in range(self.first, self.last + 1)]
        return replace(made, steps=tuple(Piece(f" {text}", f"step.{k}") for k, text in enumerate(written, start=1)))

    def program(self, problem: Problem, written: Mapping[int, str], target: Target) -> str | None:
        if self.digits:
            return super().program(problem, {}, target) if target == "answer" else None
        sums = {self.first + item - 1: value for item, value in written.items() if item <= self.steps}
        goal = self.terms - 1 if target == "answer" else self.first + target - 1
        operands, signs = self._numbers(problem)
        item = max((k for k in sums if k <= goal), default=None)
        value = operands[0] if item is None else int(sums[item])
        for k in range(0 if item is None else item, goal):
            value += signs[k] * operands[k + 1]
        return str(value % self.modulus)

    def states(self, target: Target) -> str | None:
        if target == "answer":
            return super().states(target)
        return None if self.digits else f"v_{self.first + target - 1}"

    def first_use(self, variable: str) -> Target | None:
        used = super().first_use(variable)
        if used is None or self.digits:
            return None if used is None else self.digits + 1
        assert isinstance(used, int)
        return max(1, used - max(1, self.first) + 1) if int(variable[-1]) <= self.last + 1 else self.steps + 1


TASKS[TruthSum.name] = TruthSum
