"""Chains: tasks whose steps are a left fold over the inputs, so that every step follows from the one before it."""

import itertools
import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
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
    write_spec,
)

ENUMERABLE = 200_000
PATIENCE = 100_000  # draws in a row that give nothing new
Row = tuple[int, ...]


class Chain(Task):
    """A left fold: state k follows from state k-1 and the inputs that step k reads; step k writes state k.

    A problem is a row of choices: an item of the alphabet for each variable, then what no pair varies (operators).
    `cot="short"` stops one step short, `cot="last-2"` writes the last two steps only, `cot="every-2"` every second one,
    counted back from the last; steps keep their numbers. `style` says how steps and answer are written, the prompt
    never changes. Values are canonical everywhere (`"7"`, whatever the style). One problem in ten is held out, by a
    hash of its text.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"cot": "full", "style": "digits"}
    number: ClassVar[str] = ""
    """A pattern of further values, for tasks whose values are numbers."""

    def __init__(self, spec: str) -> None:
        self.options = parse_options(spec, self.defaults)
        self.spec = write_spec(self.name, self.options, self.defaults)

    def _define(
        self,
        uses: Mapping[str, int | None],
        alphabet: Sequence[str],
        length: int,
        forms: Mapping[str, Sequence[str]],
        others: Sequence[int] = (),
    ) -> None:
        """Fix the shape of the task.

        uses: the variables of a row and the first step that reads each; alphabet: the values that they can have
        length: the number of steps; forms: how every state is written, by style, the canonical style first
        others: the number of choices of each further place of a row
        """
        self._uses, self._alphabet, self.length, self._forms = uses, tuple(alphabet), length, forms
        self._names = tuple(uses)
        self._sizes = (len(alphabet),) * len(uses) + tuple(others)
        self._values = tuple(next(iter(forms.values())))
        self._states = {value: state for state, value in enumerate(self._values)}
        # The places of the variables that are listed before each v_k: those that it is the first to read.
        places = [[i for i, use in enumerate(uses.values()) if (use or 1) == k] for k in range(1, length + 1)]
        self._read = list(enumerate(places, start=1))
        self.style = check_name("style", self.options["style"], forms)
        self.styles = (self.style, *(style for style in forms if style != self.style))
        self.inputs = self._names
        self.intermediates = tuple(f"v_{k}" for k in range(1, length + 1))
        self.written = self._kept(str(self.options["cot"]), length)
        self.answer_steps = (length,) if length in self.written else ()
        self._meant = {word: self._values[i] for words in forms.values() for i, word in enumerate(words)}
        longest_first = sorted(map(re.escape, self._meant), key=len, reverse=True)
        exact = rf"(?<![\w-])(?:{'|'.join(longest_first)})(?![\w-])"
        self._word = re.compile("|".join(filter(None, [self.number, exact])))

    def _kept(self, cot: str, length: int) -> tuple[int, ...]:
        """The numbers of the steps that a chain of thought writes."""
        every = range(1, length + 1)
        found = re.fullmatch(r"(last|every)-(\d+)", cot)
        if found is None:
            known = check_name("cot", cot, ["full", "short", "last-N", "every-N"])
            return tuple(every if known == "full" else every[:-1])
        count = int(found[2])
        if not 1 <= count <= length:
            raise InputError(f"task {self.spec!r}, cot={cot!r}: expected a number from 1 to {length}")
        return tuple(every[-count:] if found[1] == "last" else every[::-1][::count][::-1])

    @abstractmethod
    def _pieces(self, row: Row) -> list[Piece]:
        """The prompt."""

    @abstractmethod
    def _start(self, row: Row) -> int:
        """State 0: what step 1 begins with."""

    @abstractmethod
    def _next(self, state: int, k: int, row: Row) -> int:
        """State k from state k-1."""

    @abstractmethod
    def _prompt_words(self) -> list[str]:
        """Every word that a prompt can hold."""

    def _answer(self, states: Sequence[int]) -> str:
        return self._values[states[-1]]

    def _state(self, value: str) -> int | None:
        """The state that a value stands for; None for one that no step can have."""
        return self._states.get(value)

    def _others(self, problem: Problem) -> Row:
        """What a problem's row holds after its variables."""
        return ()

    def _suits(self, problem: Problem, variable: str) -> bool:
        """Whether pairs that differ in the variable are made from a problem."""
        return True

    def _proper(self, row: Row) -> bool:
        """Whether a row that was drawn or altered is a problem of the task."""
        return True

    def _held_out(self, key: str) -> bool:
        """Whether the problem of this text belongs to the test split."""
        return in_test_split(key)

    def _build(self, row: Row) -> Problem:
        """The problem of a row."""
        pieces = tuple(self._pieces(row))
        states = [self._start(row)]
        values, steps = {}, []
        for k, places in self._read:
            states.append(self._next(states[-1], k, row))
            for place in places:
                values[self._names[place]] = self._alphabet[row[place]]
            value = values[self.intermediates[k - 1]] = self._values[states[-1]]
            steps.append(Piece(f" {self.say(value)}", f"step.{k}"))
        kept = [steps[k - 1] for k in self.written]
        key = "".join(piece.text for piece in pieces)
        return Problem(key, pieces, self._answer(states), tuple(kept), values, self)

    def _drawn(self, row: Row) -> Problem:
        """The problem of a row that was drawn or altered: `_build`, or what a task makes of it."""
        return self._build(row)

    def _row(self, problem: Problem) -> Row:
        return (*(self._alphabet.index(problem.values[name]) for name in self._uses), *self._others(problem))

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
        every = map(self._drawn, filter(self._proper, map(self._numbered, range(self._space()))))
        return [problem for problem in every if split is None or self._held_out(problem.key) == (split == "test")]

    def pairs(self, n: int, seed: int = 0, vary: str | None = None, tokenizer: Any = None) -> Pairs:
        known = [*self.inputs, *self.distractors, "all"]
        chosen = self.inputs if vary is None else (check_name("variable", vary, known),)
        items = []
        for variable in chosen:
            rng = np.random.default_rng([seed, len(variable), *variable.encode()])
            items += draw_pairs(self._candidates(rng, variable), count_of(n), variable, self.spec, tokenizer)
        return Pairs(tuple(items), self)

    def parse_steps(self, text: str) -> list[Step]:
        numbers = itertools.chain(self.written, itertools.count(self.written[-1] + 1 if self.written else 1))
        found = zip(numbers, self._word.finditer(text), strict=False)
        return [Step(item, self._canonical(match[0]), match.start(), match.end()) for item, match in found]

    def parse_answer(self, text: str) -> str | None:
        match = re.match(rf"\s*({self._word.pattern})(?!\w)", text)
        return self._canonical(match[1]) if match else None

    def _canonical(self, word: str) -> str:
        return self._meant[word] if word in self._meant else str(int(word))

    def say(self, value: str, style: str | None = None) -> str:
        words = self._forms[self.style if style is None else check_name("style", style, self.styles)]
        return words[self._states[value]] if value in self._states else value

    def program(self, problem: Problem, written: Mapping[int, str], target: Target) -> str | None:
        last = self.length if target == "answer" else target
        row = self._row(problem)
        item = max((k for k in written if k <= last), default=0)
        state = self._state(written[item]) if item else self._start(row)
        if state is None:
            return None
        for k in range(item + 1, min(last, self.length) + 1):
            state = self._next(state, k, row)
        return self._values[state]

    def replace(self, problem: Problem, variable: str, value: str) -> Problem:
        place = list(self._uses).index(check_name("variable", variable, self._uses))
        choice = self._alphabet.index(check_name(f"value of {variable}", value, self._alphabet))
        row = self._row(problem)
        return self._drawn((*row[:place], choice, *row[place + 1 :]))

    def states(self, target: Target) -> str | None:
        return f"v_{self.length if target == 'answer' else target}"

    def first_use(self, variable: str) -> Target | None:
        return self._uses[variable] if check_name("variable", variable, [*self._uses, "all"]) != "all" else None

    def words(self) -> list[str]:
        return list(dict.fromkeys([*self._prompt_words(), *self._forms[self.style]]))

    def all_words(self) -> list[str]:
        return list(dict.fromkeys([*self._prompt_words(), *itertools.chain(*self._forms.values())]))

    def _space(self) -> int:
        return math.prod(self._sizes)

    def _numbered(self, number: int) -> Row:
        row = []
        for size in self._sizes:
            number, choice = divmod(number, size)
            row.append(choice)
        return tuple(row)

    def _rows(self, rng: np.random.Generator) -> Iterator[Row]:
        """Every row in random order, or, in a large space, random ones for ever."""
        space = self._space()
        if space <= ENUMERABLE:
            yield from map(self._numbered, rng.permutation(space).tolist())
            return
        while True:
            # A number that a machine word cannot hold is drawn place by place.
            fits = space < 2**63
            yield self._numbered(int(rng.integers(space))) if fits else tuple(rng.integers(self._sizes).tolist())

    def _distinct(self, rng: np.random.Generator, split: Split) -> Iterator[Problem]:
        seen: set[str] = set()
        misses = 0
        for row in self._rows(rng):
            misses += 1
            if misses > PATIENCE:  # a large space whose split is used up
                return
            if not self._proper(row):
                continue
            text = "".join(piece.text for piece in self._pieces(row))  # a problem is only made if its text is wanted
            if text not in seen and self._held_out(text) == (split == "test"):
                seen.add(text)
                misses = 0
                yield self._drawn(row)

    def _candidates(self, rng: np.random.Generator, variable: str) -> Iterator[tuple[Problem, Problem]]:
        """Pairs from the test split, in random order, that differ in one variable ("all": in every one) and in the
        answer."""
        misses = 0
        for recipient, donors in self._tries(rng, variable):
            misses += 1
            if misses > PATIENCE:  # a large space in which hardly any two problems differ as asked
                return
            for donor in donors:
                if donor.answer != recipient.answer or variable in self.distractors:
                    misses = 0
                    yield recipient, donor

    def _tries(self, rng: np.random.Generator, variable: str) -> Iterator[tuple[Problem, Iterator[Problem]]]:
        """Problems of the test split, each with those that differ from it as asked."""
        problems = (problem for problem in self._distinct(rng, "test") if self._suits(problem, variable))
        if variable == "all":
            for one, other in itertools.pairwise(problems):
                yield one, iter([other] if all(one.values[name] != other.values[name] for name in self.inputs) else [])
            return
        for problem in problems:
            values = [self._alphabet[choice] for choice in rng.permutation(len(self._alphabet)).tolist()]
            others = (self.replace(problem, variable, value) for value in values)
            yield problem, (other for other in others if self._held_out(other.key) and self._proper(self._row(other)))
