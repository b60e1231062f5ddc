"""The words of a task: pieces, problems, pairs, steps, and what a task must be able to say."""

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..core import InputError, check_name

Split = Literal["train", "test"]
# What is computed from what: an intermediate step by its number from 1, or the answer after the cue.
Target = int | Literal["answer"]


@dataclass(frozen=True)
class Piece:
    """A piece of text, with the name of the span that it becomes (None for connecting words)."""

    text: str
    name: str | None = None


@dataclass(frozen=True)
class Step:
    """A step found in a text: its number from 1, its value, and the characters `text[start:end]` that state it."""

    item: int
    value: str
    start: int
    end: int


@dataclass(frozen=True, repr=False)
class Problem:
    """A prompt in named pieces, its gold answer, gold steps, and the value of every variable.

    `answer` is "" where the gold answer is not known.
    `values` holds the input variables that pairs vary (`operand.1`) and the intermediate ones that probes read (`v_1`);
    `partner` is the key of the problem that this one is paired with, where the user gives pairs by hand.
    """

    key: str
    pieces: tuple[Piece, ...]
    answer: str
    steps: tuple[Piece, ...]
    values: Mapping[str, str]
    task: "Task" = field(repr=False, compare=False)
    partner: str | None = None

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<problem {self.key!r} -> {self.answer!r}>"

    @property
    def prompt(self) -> str:
        """The prompt as text."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def cot(self) -> str:
        """The gold chain of thought as text."""
        return "".join(piece.text for piece in self.steps)

    def score(self, answer: str | None) -> float:
        """1 for the gold answer and 0 for any other or none; NaN where it is not known: neither right nor wrong."""
        return float(answer == self.answer) if self.answer else math.nan


@dataclass(frozen=True)
class Pair:
    """Two problems of which the donor differs from the recipient in `variable` ("all": in everything)."""

    recipient: Problem
    donor: Problem
    variable: str


@dataclass(frozen=True)
class Pairs(Sequence[Pair]):
    """Counterfactual pairs, and how many problems were left out of them, by reason."""

    items: tuple[Pair, ...]
    task: "Task"
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that the pairs vary, in order of first appearance."""
        return tuple(dict.fromkeys(pair.variable for pair in self.items))

    @property
    def problems(self) -> list[Problem]:
        """The recipients and donors, each problem once, in order of first appearance."""
        return list(dict.fromkeys(problem for pair in self.items for problem in (pair.recipient, pair.donor)))


class Task(ABC):
    """Problems of one kind, and the reference program that says what any prompt and any edited steps imply.

    A task is deterministic under a seed. Values are strings, as they are written.
    """

    name: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Every option of a spec, with its default; empty for a task that is not made from a spec."""
    spec: str
    inputs: tuple[str, ...]
    """Input variables, what pairs vary."""
    distractors: tuple[str, ...] = ()
    """Variables that pairs can vary and that the answer does not depend on."""
    intermediates: tuple[str, ...]
    """Intermediate variables `v_1..v_k`; the answer is the last."""
    answer_steps: tuple[int, ...] | None = None
    """Numbers of the gold steps that state the answer: the slots of the onset. None where the task reads no steps."""
    styles: tuple[str, ...] = ()
    """Surface styles of a chain of thought, the task's own first; empty where it cannot be restyled."""
    serial: bool | None = None
    """What theory expects: True needs serial steps, False one pass of constant depth can do, None is not known."""

    @abstractmethod
    def problems(self, n: int, seed: int = 0, split: Split = "test") -> list[Problem]:
        """`n` different problems of a split, the same for the same seed."""

    def all_problems(self, split: Split | None = None) -> list[Problem]:
        """Every problem, or every one of a split, in a fixed order."""
        raise InputError(f"task {self.spec!r} cannot list its problems")

    @abstractmethod
    def pairs(self, n: int, seed: int = 0, vary: str | None = None, tokenizer: Any = None) -> Pairs:
        """`n` counterfactual pairs for `vary`, or for every input variable in turn; both problems from the test
        split."""

    @abstractmethod
    def parse_steps(self, text: str) -> list[Step]:
        """The steps that a chain of thought states, in order, with the characters of each value."""

    @abstractmethod
    def parse_answer(self, text: str) -> str | None:
        """The value that an answer states, or None where it states none."""

    def program(self, problem: Problem, written: Mapping[int, str], target: Target) -> str | None:
        """The value of `target` that a prompt and the written steps imply; None where the program cannot say."""
        return None

    def replace(self, problem: Problem, variable: str, value: str) -> Problem:
        """The problem with one input variable set to another value."""
        raise InputError(f"task {self.spec!r} cannot set a variable of a problem")

    def states(self, target: Target) -> str | None:
        """The variable whose value a step or the answer states: a copy edge joins two that state the same."""
        return None

    def first_use(self, variable: str) -> Target | None:
        """The first step whose program reads an input variable; None where the program does not say."""
        return None

    def onset(self, text: str, answer: str) -> tuple[int, int] | None:
        """The characters of a chain of thought that first state an answer, for tasks that read no steps.

        By default the first match of the whole value; its chance rate is measured before it is used.
        """
        match = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text)
        return match.span() if match else None

    def words(self) -> list[str]:
        """Every word that the task's texts hold, for a word-level tokenizer."""
        raise InputError(f"task {self.spec!r} has no closed vocabulary")

    def all_words(self) -> list[str]:
        """The words of every style and of a hint: the same list for all models of the task, whatever their style."""
        return self.words()

    def say(self, value: str, style: str | None = None) -> str:
        """A value ("7") as it is written in a style ("seven"), by default the task's own."""
        if style is not None:
            check_name("style", style, self.styles)
        return value

    def restyle(self, text: str, style: str) -> str:
        """A chain of thought with every value said in `style`; other words stay."""
        check_name("style", style, self.styles)
        parts, end = [], 0
        for step in self.parse_steps(text):
            parts += [text[end : step.start], self.say(step.value, style)]
            end = step.end
        return "".join([*parts, text[end:]])

    def changed(self, **options: Any) -> "Task":
        """The task of the same name with some options replaced."""
        if not self.defaults:
            raise InputError(f"task {self.spec!r} has no options to change")
        for option in options:
            check_name(f"option of task {self.name!r}", option, self.defaults)
        kind: Any = type(self)
        made: Task = kind(write_spec(self.name, {**parse_options(self.spec, self.defaults), **options}))
        return made

    def out_of_distribution(self) -> dict[str, "Task"]:
        """Harder tasks of the same kind, by name."""
        return {}

    def __repr__(self) -> str:
        return f"<task {self.spec}>"


def in_test_split(key: str, one_in: int = 10) -> bool:
    """Whether a problem is held out: by a hash of its text, so for every seed and every number of problems.

    >>> sum(in_test_split(f"{i} + {j}") for i in range(100) for j in range(100))
    1002
    """
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) % one_in == 0


def parse_options(spec: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a spec `name:key=value,key=value`, each of the type of its default.

    >>> parse_options("modular-sum:terms=3", {"terms": 4, "modulus": 10})
    {'terms': 3, 'modulus': 10}
    """
    options = dict(defaults)
    _, _, text = spec.partition(":")
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        check_name(f"option of task {spec.partition(':')[0]!r}", key, defaults)
        if not equals:
            raise InputError(f"task option {part!r}: expected key=value")
        if isinstance(defaults[key], int):
            if not re.fullmatch(r"-?\d+", value):
                raise InputError(f"task option {key}={value!r}: expected a whole number")
            options[key] = int(value)
        else:
            options[key] = value
    return options


def write_spec(name: str, options: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> str:
    """The spec of a task with these options, in their order; those that have their default are left out.

    >>> write_spec("modular-sum", {"modulus": 10, "terms": 3}, {"modulus": 10, "terms": 4})
    'modular-sum:terms=3'
    """
    given = [f"{key}={value}" for key, value in options.items() if not defaults or value != defaults[key]]
    return ":".join(filter(None, [name, ",".join(given)]))


def count_of(n: int) -> int:
    """`n` if it is a positive number of problems, else an error."""
    if n < 1:
        raise InputError(f"expected a positive number of problems, got {n}")
    return n


def draw_pairs(
    candidates: Iterator[tuple[Problem, Problem]], n: int, variable: str, spec: str, tokenizer: Any = None
) -> list[Pair]:
    """The first `n` candidate pairs, first those in which no problem occurs twice, then others; none twice.

    With a tokenizer, only pairs whose prompts have the same number of tokens.
    Disjoint pairs are independent, which the bootstrap over pairs takes for granted; small task spaces run out of them.
    """
    disjoint: list[Pair] = []
    others: list[Pair] = []
    used: set[str] = set()
    seen: set[frozenset[str]] = set()
    for recipient, donor in candidates:
        keys = frozenset((recipient.key, donor.key))
        if len(keys) < 2 or keys in seen:
            continue
        if tokenizer is not None and len(tokenizer(recipient.prompt)["input_ids"]) != len(
            tokenizer(donor.prompt)["input_ids"]
        ):
            continue
        seen.add(keys)
        if used.isdisjoint(keys):
            disjoint.append(Pair(recipient, donor, variable))
            used |= keys
        else:
            others.append(Pair(recipient, donor, variable))
        if len(disjoint) == n:
            break
    chosen = (disjoint + others)[:n]
    if len(chosen) < n:
        raise InputError(f"task {spec!r} has {len(chosen)} pairs that differ in {variable!r}, {n} were asked for")
    return chosen
