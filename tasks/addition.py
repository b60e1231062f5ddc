"""`addition`: two numbers of several digits, with a chain of thought of column sums: carries."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..core import InputError
from .chain import Chain, Row
from .numerals import number_forms
from .problem import Piece, Problem, Target, Task

BASE = 10


class Addition(Chain):
    """Sums of two numbers of `digits` digits, a token each; step k writes column k's sum with the carry, units first.

    v_k = a_k + b_k + carry is 0 to 19; the inputs are `a.1` (the units) to `a.n` and `b.1` to `b.n`. The answer is
    written in n + 1 digits, the highest first, and no step states it. `cot="short"` leaves the highest column out.
    `style` is that of the column sums; the answer is always in digits.

    Expected: parallel. Every column has a carry or not by the columns below it, which one look at all pairs of columns
    decides (carry look-ahead: constant depth, AC0, in which transformers without a chain of thought are by Li et al.,
    arXiv:2402.12875, at constant precision); small transformers do learn it in one pass (Quirke, arXiv:2402.02619:
    cascades of carries take more than one layer).

    >>> task = Addition()
    >>> problem = task.problem(472, 539)
    >>> problem.prompt, problem.cot, problem.answer
    ('4 7 2 + 5 3 9', ' 11 11 10', '1 0 1 1')
    >>> task.program(problem, {1: "1"}, 2), task.program(problem, {1: "1"}, "answer")  # no carry
    ('10', '1 0 0 1')
    """

    name: ClassVar[str] = "addition"
    defaults: ClassVar[Mapping[str, Any]] = {"digits": 3, **Chain.defaults}
    number: ClassVar[str] = r"\d+"
    serial = False

    def __init__(self, spec: str = name) -> None:
        super().__init__(spec)
        self.digits: int = self.options["digits"]
        if self.digits < 2:
            raise InputError(f"task {spec!r}: expected digits >= 2")
        uses = {f"{number}.{k}": k for number in "ab" for k in range(1, self.digits + 1)}
        self._define(uses, list(map(str, range(BASE))), self.digits, number_forms(2 * BASE))
        self.answer_steps = ()

    def problem(self, a: int, b: int) -> Problem:
        """The sum of two numbers."""
        if not 0 <= min(a, b) <= max(a, b) < BASE**self.digits:
            raise InputError(
                f"task {self.spec!r}: expected two numbers from 0 to {BASE**self.digits - 1}, got {a}, {b}"
            )
        return self._build(tuple(int(digit) for number in (a, b) for digit in reversed(self._padded(number))))

    def out_of_distribution(self) -> dict[str, Task]:
        return {"longer": self.changed(digits=self.digits + 2)}

    def parse_answer(self, text: str) -> str | None:
        match = re.match(r"\s*(\d+(?:\s+\d+)*)(?!\w)", text)
        return " ".join(str(int("".join(match[1].split()))).zfill(self.digits + 1)) if match else None

    def program(self, problem: Problem, written: Mapping[int, str], target: Target) -> str | None:
        if target != "answer":
            return super().program(problem, written, target)
        sums = [super(Addition, self).program(problem, written, k) for k in range(1, self.digits + 1)]
        return None if None in sums else self._answer([0, *map(int, filter(None, sums))])

    def states(self, target: Target) -> str | None:
        return None if target == "answer" else super().states(target)

    def _answer(self, states: Sequence[int]) -> str:
        return " ".join(map(str, [states[-1] // BASE, *(state % BASE for state in states[:0:-1])]))

    def _padded(self, number: int) -> str:
        return str(number).zfill(self.digits)

    def _pieces(self, row: Row) -> list[Piece]:
        pieces: list[Piece] = []
        for name, digits in zip("ab", (row[: self.digits], row[self.digits :]), strict=True):
            pieces += [Piece(" + ")] if pieces else []
            for k in range(self.digits, 0, -1):
                space = " " if k < self.digits else ""
                pieces.append(Piece(f"{space}{digits[k - 1]}", f"{name}.{k}"))
        return pieces

    def _start(self, row: Row) -> int:
        return 0

    def _next(self, state: int, k: int, row: Row) -> int:
        return row[k - 1] + row[self.digits + k - 1] + state // BASE

    def _prompt_words(self) -> list[str]:
        return [*map(str, range(BASE)), "+"]
