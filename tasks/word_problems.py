"""`word-problems`: short arithmetic in words, for chat models: every value is known."""

import itertools
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from ..core import InputError, check_name
from .chain import Chain, Row
from .problem import Piece, Problem, Step, Target, Task
from .rules import NUMBER, canonical_number

LIMIT = 1000  # every value lies below: three digits, which most tokenizers hold in one token
PEOPLE = {"Tom": "he", "Anna": "she", "Ben": "he", "Maria": "she", "Ivan": "he", "Mei": "she", "Omar": "he"}
THINGS = ("apples", "books", "coins", "marbles", "pencils", "stickers", "shells", "cards")
VERBS = {"+": ("buys", "finds", "gets", "wins"), "-": ("gives away", "loses", "sells")}
_EQUALS = re.compile(rf"=[^\S\n]*[*$]*({NUMBER.pattern})")
_NUMBERED = re.compile(r"\s*(?:[-*]\s+)?(?:\**Step\s+)?[0-9]+\s*[.:)]\s", re.IGNORECASE)


class WordProblems(Chain):
    """A person has some things, then gets more or gives some away: `terms` numbers from 1 to `largest`.

    `ops="+-"` draws for each step whether something comes or goes; `ops="+"` lets it only come. Values are never
    negative and below 1000. Person, thing and verbs are drawn, and the problems of a pair share them. The gold chain
    writes one equation a line. `cot` leaves lines out as in every `Chain`.

    In what a model writes, the number behind each "=" is a step. A line without "=" is one if it holds two numbers at
    least (a number of the line, as in "Step 2:", left out): its value is the last, as in "12 plus 7 is 19". The answer
    is the number behind the last "=" of its text, else the first number.

    Whether it is serial is not known: two additions are well within one pass of a large model, and sums of signed
    numbers are parallel in theory, but reading a story may take steps of its own.

    >>> task = WordProblems()
    >>> problem = task.problem((12, 7, 4), "+-")
    >>> problem.prompt
    'Tom has 12 apples. He buys 7 more. Then he gives away 4. How many apples does Tom have now?'
    >>> print(problem.cot.strip())
    12 + 7 = 19.
    19 - 4 = 15.
    >>> task.parse_steps("12 plus 7 is 19, and 19 - 4 = 15.")[0].value, task.program(problem, {1: "9"}, "answer")
    ('15', '5')
    """

    name: ClassVar[str] = "word-problems"
    defaults: ClassVar[Mapping[str, Any]] = {"terms": 3, "largest": 20, "ops": "+-", **Chain.defaults}
    number: ClassVar[str] = r"-?\d+"
    serial = None

    def __init__(self, spec: str = name) -> None:
        super().__init__(spec)
        self.terms: int = self.options["terms"]
        self.largest: int = self.options["largest"]
        self.ops: str = check_name("ops", self.options["ops"], ["+", "+-"])
        if self.terms < 2 or self.largest < 2 or self.terms * self.largest >= LIMIT:
            raise InputError(f"task {spec!r}: expected terms >= 2, largest >= 2, and terms * largest below {LIMIT}")
        uses = {f"operand.{k}": max(1, k - 1) for k in range(1, self.terms + 1)}
        self._verbs = [(op, verb) for op in self.ops for verb in VERBS[op]]
        others = [len(PEOPLE), len(THINGS), *[len(self._verbs)] * (self.terms - 1)]
        operands = [str(value) for value in range(1, self.largest + 1)]
        self._define(uses, operands, self.terms - 1, {"digits": list(map(str, range(LIMIT)))}, others)

    def problem(
        self, operands: tuple[int, ...], operators: str, person: str = "Tom", thing: str = THINGS[0]
    ) -> Problem:
        """The problem of these numbers and operators ("+-"), with the first verb of each."""
        check_name("person", person, PEOPLE)
        check_name("thing", thing, THINGS)
        drawable = [op for op, _ in self._verbs]
        verbs = [drawable.index(check_name("operator", op, self.ops)) for op in operators]
        row = (*(n - 1 for n in operands), list(PEOPLE).index(person), THINGS.index(thing), *verbs)
        inside = all(1 <= n <= self.largest for n in operands)
        if (len(operands), len(operators)) != (self.terms, self.terms - 1) or not inside or not self._proper(row):
            raise InputError(
                f"task {self.spec!r}: expected {self.terms} numbers from 1 to {self.largest}, an operator between any "
                f"two, and no value below 0, got {operands} with {operators!r}"
            )
        return self._build(row)

    def out_of_distribution(self) -> dict[str, Task]:
        return {"longer": self.changed(terms=self.terms + 2)}

    def parse_steps(self, text: str) -> list[Step]:
        found: list[Step] = []
        numbers = itertools.chain(self.written, itertools.count(self.written[-1] + 1 if self.written else 1))
        for line in re.finditer(r"[^\n]+", text):
            values = [(match[1], match.start(1)) for match in _EQUALS.finditer(line[0])]
            if not values and "=" not in line[0]:
                values = self._told(line[0])
            for value, start in values:
                at = line.start() + start
                found.append(Step(next(numbers), canonical_number(value), at, at + len(value)))
        return found

    def _told(self, line: str) -> list[tuple[str, int]]:
        """The last number of a line that holds two, and where it starts."""
        label = _NUMBERED.match(line)
        numbers = list(NUMBER.finditer(line, label.end() if label else 0))
        return [(numbers[-1][0], numbers[-1].start())] if len(numbers) > 1 else []

    def parse_answer(self, text: str) -> str | None:
        equal = [match[1] for match in _EQUALS.finditer(text)]
        found = equal[-1:] or NUMBER.findall(text)[:1]
        return canonical_number(found[0]) if found else None

    def program(self, problem: Problem, written: Mapping[int, str], target: Target) -> str | None:
        last = self.length if target == "answer" else target
        row = self._row(problem)
        item = max((k for k in written if k <= last), default=0)
        if item and not re.fullmatch(r"-?[0-9]+", written[item]):
            return None
        state = int(written[item]) if item else self._start(row)
        for k in range(item + 1, min(last, self.length) + 1):
            state = self._next(state, k, row)
        return str(state)

    def _build(self, row: Row) -> Problem:
        pieces = tuple(self._pieces(row))
        state = self._start(row)
        values = {name: str(row[place] + 1) for place, name in enumerate(self._names)}
        lines = []
        for k in range(1, self.length + 1):
            before, state = state, self._next(state, k, row)
            values[f"v_{k}"] = str(state)
            lines.append(Piece(f"\n{before} {self._operator(k, row)} {row[k] + 1} = {state}.", f"step.{k}"))
        kept = tuple(lines[k - 1] for k in self.written)
        return Problem("".join(piece.text for piece in pieces), pieces, str(state), kept, values, self)

    def _pieces(self, row: Row) -> list[Piece]:
        """The prompt; what is drawn stands in pieces of its own, from which `_others` reads it again."""
        person, thing = list(PEOPLE)[row[self.terms]], THINGS[row[self.terms + 1]]
        pieces = [Piece(person), Piece(" has "), Piece(str(row[0] + 1), "operand.1"), Piece(" "), Piece(thing)]
        for k in range(1, self.length + 1):
            who = f"Then {PEOPLE[person]}" if k > 1 else PEOPLE[person].capitalize()
            op, verb = self._verb(k, row)
            pieces += [Piece(f". {who} "), Piece(verb), Piece(" "), Piece(str(row[k] + 1), f"operand.{k + 1}")]
            pieces += [Piece(" more")] if op == "+" else []
        return [*pieces, Piece(f". How many {thing} does {person} have now?")]

    def _others(self, problem: Problem) -> Row:
        texts = [piece.text for piece in problem.pieces]
        verbs = {verb: place for place, (_, verb) in enumerate(self._verbs)}
        drawn = tuple(verbs[text] for text in texts if text in verbs)
        return (list(PEOPLE).index(texts[0]), THINGS.index(texts[4]), *drawn)

    def _proper(self, row: Row) -> bool:
        states = [self._start(row)]
        for k in range(1, self.length + 1):
            states.append(self._next(states[-1], k, row))
        return min(states) >= 0

    def _start(self, row: Row) -> int:
        return row[0] + 1

    def _next(self, state: int, k: int, row: Row) -> int:
        return state + (row[k] + 1) * (1 if self._operator(k, row) == "+" else -1)

    def _verb(self, k: int, row: Row) -> tuple[str, str]:
        return self._verbs[row[self.terms + 1 + k]]

    def _operator(self, k: int, row: Row) -> str:
        return self._verb(k, row)[0]

    def _prompt_words(self) -> list[str]:
        raise InputError(f"task {self.spec!r} has no closed vocabulary: it is meant for models of text")
