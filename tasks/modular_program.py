"""`modular-program`: "3 + 2 * 4 + 5 mod 7" from left to right: the serial sibling of `modular-sum`."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ..core import check_name
from .arithmetic import Arithmetic
from .chain import Row
from .problem import Problem, Task


class ModularProgram(Arithmetic):
    """Additions and multiplications in turn, without precedence: "3 + 2 * 4" is (3 + 2) * 4.

    `ops="+*-"` also subtracts. Operators are connecting text: no pair varies them. What follows a "*" has no factor in
    common with the modulus, so that no step forgets the value before it and every operand moves the answer;
    `factors="any"` also draws the others ("* 0"), and then there is a short way round most of a problem. For `style`
    and `hint` see `Arithmetic`.

    Expected: serial, since a multiplication needs the value before it. Without a chain of thought constant depth stays
    within TC0; T steps of one reach what circuits of size T compute (Li et al., arXiv:2402.12875). But that separates
    the two only as length grows, and this task perhaps not even then: the maps x -> a x + b modulo a fixed number
    compose to maps of the same form, so a depth of the order of log(length) suffices (Merrill, arXiv:2503.03961, for
    regular languages), and their groups are solvable, for which no bound beyond TC0 is known (S5 in `permutations` is
    the hard case). A program of fixed length is a finite table. So what a depth can do here is to be measured.

    >>> task = ModularProgram()
    >>> problem = task.problem((3, 2, 4, 5), "+*+")
    >>> problem.prompt, problem.cot, problem.answer
    ('3 + 2 * 4 + 5 mod 7', ' 5 6 4', '4')
    >>> task.program(problem, {2: "1"}, "answer")  # 1 + 5
    '6'
    """

    name: ClassVar[str] = "modular-program"
    defaults: ClassVar[Mapping[str, Any]] = {
        "modulus": 7,
        "terms": 4,
        "ops": "+*",
        "factors": "units",
        "cot": "full",
        "style": "digits",
        "hint": "none",
    }
    serial = True

    def __init__(self, spec: str = name) -> None:
        super().__init__(spec)
        self.factors = check_name("factors", self.options["factors"], ["units", "any"])

    def problem(self, operands: tuple[int, ...], operators: str) -> Problem:
        """The problem with these operands and operators ("+*+"), from left to right."""
        return self._made(operands, operators)

    def out_of_distribution(self) -> dict[str, Task]:
        return self._harder(ops="+*-")

    def _drawable(self) -> str:
        return check_name("ops", self.options["ops"], ["+*", "+*-"])

    def _drawn(self, row: Row) -> Problem:
        return self.problem(*self._spelled(row))

    def _proper(self, row: Row) -> bool:
        operators = enumerate(self._spelled(row)[1], start=1)
        factors = [row[k] for k, operator in operators if operator == "*"]
        return self.factors == "any" or all(math.gcd(factor, self.modulus) == 1 for factor in factors)

    def _operator_words(self) -> list[str]:
        return ["+", "*", "-"]
