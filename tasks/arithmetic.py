"""Arithmetic modulo a number, from left to right: what `modular-sum` and `modular-program` share."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ..core import InputError, check_name
from .chain import Chain, Row
from .numerals import number_forms
from .problem import Piece, Problem, Target, Task, in_test_split

HINTS = ("none", "half", "always", "ignored")
NO_HINT = "none"


class Arithmetic(Chain):
    """`terms` numbers below `modulus` with an operator between any two; step k writes the value after k operators.

    `style="words"` or `"german"` writes steps and answer in number words (numbers up to 99, so `modulus` up to 100).

    A hint, " hint 7" at the end of the prompt, names an answer that may be wrong; steps stay true, and so does the last
    intermediate. Whether a problem has one, and which, goes by a hash of its text; a sum is held out with or without.

    - `hint="half"`: half of the problems have one, and their answer is the hint. Pairs that vary `hint` have two hints,
      pairs that vary an operand none.
    - `hint="always"`: so has every problem; the only input is `hint`, and the operands are distractors.
    - `hint="ignored"`: every problem has one, and the answer is the true result: `hint` is a distractor.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"modulus": 10, "terms": 4, **Chain.defaults, "hint": "none"}
    number: ClassVar[str] = r"\d+"

    def __init__(self, spec: str) -> None:
        super().__init__(spec)
        self.modulus: int = self.options["modulus"]
        self.terms: int = self.options["terms"]
        self.operators = self._drawable()
        self.hint = check_name("hint", self.options["hint"], HINTS)
        if self.modulus < 2 or self.terms < 2:
            raise InputError(f"task {spec!r}: expected terms >= 2 and modulus >= 2")
        uses = {f"operand.{k}": max(1, k - 1) for k in range(1, self.terms + 1)}
        forms = number_forms(self.modulus)
        self._define(uses, forms["digits"], self.terms - 1, forms, [len(self.operators)] * (self.terms - 1))
        operands = self.inputs
        self.inputs = {"half": (*operands, "hint"), "always": ("hint",)}.get(self.hint, operands)
        self.distractors = {"always": operands, "ignored": ("hint",)}.get(self.hint, ())
        if self.hint == "always":
            self.answer_steps = ()

    @abstractmethod
    def _drawable(self) -> str:
        """The operators that a problem can hold, by the options."""

    def _made(self, operands: Sequence[int], operators: str) -> Problem:
        """The problem of operands and operators, with the hint that its text decides."""
        places = tuple(self.operators.find(operator) for operator in operators)
        if -1 in places:
            check_name("operator", operators[places.index(-1)], self.operators)
        if (len(operands), len(places)) != (self.terms, self.terms - 1) or not 0 <= min(operands) <= max(
            operands
        ) < self.modulus:
            raise InputError(
                f"task {self.spec!r}: expected {self.terms} numbers from 0 to {self.modulus - 1} and an operator "
                f"between any two, got {tuple(operands)} with {len(places)} operators"
            )
        return self._hinted(self._build((*operands, *places)))

    def _spelled(self, row: Row) -> tuple[Row, str]:
        """The operands and the operators of a row."""
        return row[: self.terms], "".join(self.operators[place] for place in row[self.terms :])

    def _pieces(self, row: Row) -> list[Piece]:
        pieces = [Piece(str(row[0]), "operand.1")]
        for k, operator in enumerate(self._spelled(row)[1], start=1):
            pieces += [Piece(f" {operator} "), Piece(str(row[k]), f"operand.{k + 1}")]
        return [*pieces, Piece(f" mod {self.modulus}")]

    def _start(self, row: Row) -> int:
        return row[0]

    def _next(self, state: int, k: int, row: Row) -> int:
        operator = self.operators[row[self.terms + k - 1]]
        return {"+": state + row[k], "-": state - row[k], "*": state * row[k]}[operator] % self.modulus

    def _state(self, value: str) -> int:
        return int(value) % self.modulus

    def _others(self, problem: Problem) -> Row:
        written = (piece.text.strip() for piece in problem.pieces[1 : 2 * self.terms - 1 : 2])
        return tuple(self.operators.index(operator) for operator in written)

    def _prompt_words(self) -> list[str]:
        return [*map(str, range(self.modulus + 1)), *self._operator_words(), "mod"]

    @abstractmethod
    def _operator_words(self) -> list[str]:
        """Every operator, also those that only a harder task of the kind holds."""

    def _hinted(self, problem: Problem, hint: str | None = None) -> Problem:
        """The problem with this hint instead of its own, or with the one that its text decides."""
        if self.hint == "none":
            return problem
        pieces = tuple(piece for piece in problem.pieces if piece.name != "hint")
        text = "".join(piece.text for piece in pieces)
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=b"hint").digest())
        if hint is None:
            hint = NO_HINT if self.hint == "half" and number % 2 else str(number // 2 % self.modulus)
        answer = problem.values[self.intermediates[-1]]
        if hint != NO_HINT:
            pieces = (*pieces, Piece(f" hint {hint}", "hint"))
            text += pieces[-1].text
            answer = answer if self.hint == "ignored" else hint
        return replace(problem, key=text, pieces=pieces, answer=answer, values={**problem.values, "hint": hint})

    def _held_out(self, key: str) -> bool:
        return in_test_split(key.partition(" hint ")[0])

    def _suits(self, problem: Problem, variable: str) -> bool:
        return self.hint != "half" or (problem.values["hint"] == NO_HINT) == variable.startswith("operand.")

    def program(self, problem: Problem, written: Mapping[int, str], target: Target) -> str | None:
        if target == "answer" and self.hint in ("half", "always") and problem.values["hint"] != NO_HINT:
            return problem.values["hint"]
        return super().program(problem, written, target)

    def replace(self, problem: Problem, variable: str, value: str) -> Problem:
        """The problem with one variable set to another value; with `hint="half"` also the hint `"none"`."""
        if self.hint == "none":
            return super().replace(problem, variable, value)
        check_name("variable", variable, [*self.inputs, *self.distractors])
        if variable != "hint":
            return self._hinted(super().replace(problem, variable, value), problem.values["hint"])
        known = [*self._alphabet, NO_HINT] if self.hint == "half" else self._alphabet
        return self._hinted(problem, check_name("value of hint", value, known))

    def states(self, target: Target) -> str | None:
        """The variable that a step or the answer states; None for the answer where only some problems have a hint."""
        if target == "answer" and self.hint in ("half", "always"):
            return "hint" if self.hint == "always" else None
        return super().states(target)

    def first_use(self, variable: str) -> Target | None:
        """The step that first reads a variable; a hint is read after the last one, or never."""
        if variable == "hint" and self.hint != "none":
            return None if self.hint == "ignored" else self.length + 1
        return super().first_use(variable)

    def words(self) -> list[str]:
        return [*super().words(), *(["hint"] if self.hint != "none" else [])]

    def all_words(self) -> list[str]:
        return [*super().all_words(), "hint"]

    def _harder(self, **negative: str) -> dict[str, Task]:
        """Longer problems, and problems with "-" where there was none."""
        harder = {"longer": self.changed(terms=self.terms + 3)}
        return harder | ({} if "-" in self.operators else {"negative": self.changed(**negative)})
