"""`modular-sum`: "6 + 2 + 9 + 1 mod 10", with a chain of thought of partial sums. Parallel: one pass can do it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ..core import check_name
from .arithmetic import Arithmetic
from .chain import Row
from .problem import Problem, Task


class ModularSum(Arithmetic):
    """Sums of `terms` numbers below `modulus`; a step writes its partial sum only.

    With n terms the intermediates are v_1 = x_1 ± x_2, ..., v_(n-1) = the answer, and step n-1 states the answer.
    `signs="+-"` draws the sign of every term after the first; `cot="short"` stops one step short of the answer.
    One problem in ten is held out, by a hash of its text. For `style` and `hint` see `Arithmetic`.

    Expected: parallel. A sum modulo a fixed number is a symmetric function, which constant depth and threshold gates
    compute; in Li et al. (arXiv:2402.12875) transformers without a chain of thought learn modular addition at a
    sufficient depth, other than S5.

    >>> task = ModularSum("modular-sum:terms=4,modulus=10")
    >>> problem = task.problem((6, 2, 9, 1))
    >>> problem.prompt, problem.cot, problem.answer
    ('6 + 2 + 9 + 1 mod 10', ' 8 7 8', '8')
    >>> task.program(problem, {2: "5"}, 3)  # the partial sum as written, plus the last operand
    '6'
    >>> task.restyle(problem.cot, "words")
    ' eight seven eight'
    """

    name: ClassVar[str] = "modular-sum"
    defaults: ClassVar[Mapping[str, Any]] = {
        "modulus": 10,
        "terms": 4,
        "signs": "+",
        "cot": "full",
        "style": "digits",
        "hint": "none",
    }
    serial = False

    def __init__(self, spec: str = name) -> None:
        super().__init__(spec)
        self.signs: str = self.options["signs"]

    def problem(self, operands: tuple[int, ...], signs: tuple[int, ...] | None = None) -> Problem:
        """The problem with these operands; `signs` (+1 or -1) belong to the terms after the first."""
        signs = signs or (-1 if self.signs == "-" else 1,) * (self.terms - 1)
        return self._made(operands, "".join("+" if sign > 0 else "-" for sign in signs))

    def out_of_distribution(self) -> dict[str, Task]:
        return self._harder(signs="+-")

    def _drawable(self) -> str:
        return check_name("signs", self.options["signs"], ["+", "-", "+-"])

    def _drawn(self, row: Row) -> Problem:
        return self.problem(*self._signed(row))

    def _numbers(self, problem: Problem) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self._signed(self._row(problem))

    def _signed(self, row: Row) -> tuple[tuple[int, ...], tuple[int, ...]]:
        operands, operators = self._spelled(row)
        return operands, tuple(1 if operator == "+" else -1 for operator in operators)

    def _operator_words(self) -> list[str]:
        return ["+", "-"]
