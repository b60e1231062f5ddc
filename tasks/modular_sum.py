"""`modular-sum`: "6 + 2 + 9 + 1 mod 10", with a chain of thought of partial sums. Parallel: one pass can do it."""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from ..core import InputError, check_name
from .problem import (
    Pairs,
    Piece,
    Problem,
    Split,
    Step,
    Target,
    Task,
    count_of,
    draw_pairs,
    in_test_split,
    parse_options,
)

ENUMERABLE = 200_000
PATIENCE = 100_000  # draws in a row that give nothing new


class ModularSum(Task):
    """Sums of `terms` numbers below `modulus`; a step writes its partial sum only.

    With n terms the intermediates are v_1 = x_1 ± x_2, ..., v_(n-1) = the answer, and step n-1 states the answer.
    `signs="+-"` draws the sign of every term after the first; `cot="short"` stops one step short of the answer.
    One problem in ten is held out, by a hash of its text.

    >>> task = ModularSum("modular-sum:terms=4,modulus=10")
    >>> problem = task.problem((6, 2, 9, 1))
    >>> problem.prompt, problem.cot, problem.answer
    ('6 + 2 + 9 + 1 mod 10', ' 8 7 8', '8')
    >>> task.program(problem, {2: "5"}, 3)  # the partial sum as written, plus the last operand
    '6'
    """

    name: ClassVar[str] = "modular-sum"
    defaults: ClassVar[dict[str, Any]] = {"modulus": 10, "terms": 4, "signs": "+", "cot": "full"}

    def __init__(self, spec: str = "modular-sum") -> None:
        options = parse_options(spec, self.defaults)
        self.modulus: int = options["modulus"]
        self.terms: int = options["terms"]
        self.signs = check_name("signs", options["signs"], ["+", "-", "+-"])
        self.cot_style = check_name("cot", options["cot"], ["full", "short"])
        if self.modulus < 2 or self.terms < 2:
            raise InputError(f"task {spec!r}: expected terms >= 2 and modulus >= 2")
        changed = [f"{key}={value}" for key, value in options.items() if value != self.defaults[key]]
        self.spec = ":".join(filter(None, [self.name, ",".join(changed)]))
        self.inputs = tuple(f"operand.{k}" for k in range(1, self.terms + 1))
        self.intermediates = tuple(f"v_{k}" for k in range(1, self.terms))
        self.answer_steps = (self.terms - 1,) if self.cot_style == "full" else ()

    def problem(self, operands: tuple[int, ...], signs: tuple[int, ...] | None = None) -> Problem:
        """The problem with these operands; `signs` (+1 or -1) belong to the terms after the first."""
        signs = signs or (-1 if self.signs == "-" else 1,) * (self.terms - 1)
        pieces = [Piece(str(operands[0]), "operand.1")]
        partial = operands[0]
        values = {"operand.1": str(operands[0])}
        steps = []
        for k, (sign, operand) in enumerate(zip(signs, operands[1:], strict=True), start=1):
            pieces += [Piece(" + " if sign > 0 else " - "), Piece(str(operand), f"operand.{k + 1}")]
            partial = (partial + sign * operand) % self.modulus
            values[f"operand.{k + 1}"] = str(operand)
            values[f"v_{k}"] = str(partial)
            steps.append(Piece(f" {partial}", f"step.{k}"))
        pieces.append(Piece(f" mod {self.modulus}"))
        kept = steps if self.cot_style == "full" else steps[:-1]
        key = "".join(piece.text for piece in pieces)
        return Problem(key, tuple(pieces), str(partial), tuple(kept), values, self)

    def problems(self, n: int, seed: int = 0, split: Split = "test") -> list[Problem]:
        check_name("split", split, ["train", "test"])
        found = list(itertools.islice(self._distinct(np.random.default_rng(seed), split), count_of(n)))
        if len(found) < n:
            raise InputError(f"task {self.spec!r} has {len(found)} {split} problems, {n} were asked for")
        return found

    def all_problems(self, split: Split | None = None) -> list[Problem]:
        """Every problem, or every one of a split, in a fixed order."""
        if self._space() > ENUMERABLE:
            raise InputError(f"task {self.spec!r} has {self._space()} problems: too many to list, draw some")
        every = map(self._numbered, range(self._space()))
        return [p for p in every if split is None or in_test_split(p.key) == (split == "test")]

    def pairs(self, n: int, seed: int = 0, vary: str | None = None, tokenizer: Any = None) -> Pairs:
        chosen = self.inputs if vary is None else (check_name("variable", vary, [*self.inputs, "all"]),)
        items = []
        for variable in chosen:
            rng = np.random.default_rng([seed, len(variable), *variable.encode()])
            items += draw_pairs(self._candidates(rng, variable), count_of(n), variable, self.spec, tokenizer)
        return Pairs(tuple(items), self)

    def parse_steps(self, text: str) -> list[Step]:
        found = enumerate(re.finditer(r"\d+", text), start=1)
        return [Step(item, str(int(match[0])), match.start(), match.end()) for item, match in found]

    def parse_answer(self, text: str) -> str | None:
        match = re.match(r"\s*(\d+)\b", text)
        return str(int(match[1])) if match else None

    def program(self, problem: Problem, written: Mapping[int, str], target: Target) -> str | None:
        last = self.terms - 1 if target == "answer" else target
        operands, signs = self._numbers(problem)
        item = max((k for k in written if k <= last), default=0)
        value = int(written[item]) if item else operands[0]
        for sign, operand in zip(signs[item:last], operands[item + 1 : last + 1], strict=True):
            value += sign * operand
        return str(value % self.modulus)

    def replace(self, problem: Problem, variable: str, value: str) -> Problem:
        check_name("variable", variable, self.inputs)
        if not value.isdecimal() or int(value) >= self.modulus:
            raise InputError(f"{variable} = {value!r}: expected a number from 0 to {self.modulus - 1}")
        operands, signs = self._numbers(problem)
        index = int(variable.partition(".")[2]) - 1
        return self.problem((*operands[:index], int(value), *operands[index + 1 :]), signs)

    def states(self, target: Target) -> str | None:
        return f"v_{self.terms - 1 if target == 'answer' else target}"

    def first_use(self, variable: str) -> Target | None:
        if check_name("variable", variable, [*self.inputs, "all"]) == "all":
            return None
        return max(1, int(variable.partition(".")[2]) - 1)

    def words(self) -> list[str]:
        return [str(value) for value in range(self.modulus + 1)] + ["+", "-", "mod"]

    def _numbers(self, problem: Problem) -> tuple[tuple[int, ...], tuple[int, ...]]:
        operands = tuple(int(problem.values[name]) for name in self.inputs)
        signs = tuple(-1 if piece.text == " - " else 1 for piece in problem.pieces[1:-1:2])
        return operands, signs

    def _choices(self) -> tuple[int, ...]:
        return {"+": (1,), "-": (-1,), "+-": (1, -1)}[self.signs]

    def _space(self) -> int:
        return int(self.modulus**self.terms * len(self._choices()) ** (self.terms - 1))

    def _numbered(self, number: int) -> Problem:
        operands, signs = [], []
        for _ in range(self.terms):
            number, operand = divmod(number, self.modulus)
            operands.append(operand)
        for _ in range(self.terms - 1):
            number, choice = divmod(number, len(self._choices()))
            signs.append(self._choices()[choice])
        return self.problem(tuple(operands), tuple(signs))

    def _numbers_drawn(self, rng: np.random.Generator) -> Iterator[int]:
        """Every number below the size of the space in random order, or, in a large space, random ones for ever."""
        if self._space() <= ENUMERABLE:
            yield from rng.permutation(self._space()).tolist()
        while self._space() > ENUMERABLE:
            yield int(rng.integers(self._space()))

    def _distinct(self, rng: np.random.Generator, split: Split) -> Iterator[Problem]:
        seen: set[str] = set()
        misses = 0
        for number in self._numbers_drawn(rng):
            misses += 1
            if misses > PATIENCE:  # a large space whose split is used up
                return
            problem = self._numbered(number)
            if problem.key not in seen and in_test_split(problem.key) == (split == "test"):
                seen.add(problem.key)
                misses = 0
                yield problem

    def _candidates(self, rng: np.random.Generator, variable: str) -> Iterator[tuple[Problem, Problem]]:
        """Pairs from the test split, in random order, that differ in one variable ("all": in every one) and in the
        answer."""
        problems = self._distinct(rng, "test")
        if variable == "all":
            for recipient, donor in itertools.pairwise(problems):
                if recipient.answer != donor.answer and self._differ_everywhere(recipient, donor):
                    yield recipient, donor
            return
        for recipient in problems:
            for value in rng.permutation(self.modulus).tolist():
                donor = self.replace(recipient, variable, str(value))
                if in_test_split(donor.key) and donor.answer != recipient.answer:
                    yield recipient, donor

    def _differ_everywhere(self, one: Problem, other: Problem) -> bool:
        return all(one.values[name] != other.values[name] for name in self.inputs)
