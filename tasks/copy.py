"""`copy`: one value and one token of chain of thought, for models whose weights are set by hand."""

from collections.abc import Mapping
from itertools import product
from typing import Any, ClassVar

import numpy as np

from ..core import InputError, check_name
from .problem import Pair, Pairs, Piece, Problem, Split, Step, Target, Task, count_of, draw_pairs, parse_options


class Copy(Task):
    """A prompt with one value, a chain of thought of one token, an answer.

    `cot="same"` writes the value; `cot="independent"` writes a token drawn independently, which is then a variable of
    its own (`written`): an input where the answer is the sum, a distractor where it is not. `answer="value"` copies the
    value, `answer="sum"` adds value and token. Nothing is trained on this task: every problem is a test problem.

    >>> task = Copy("copy:cot=independent,answer=sum,values=8")
    >>> task.problem(3, 7).answer
    '2'
    """

    name: ClassVar[str] = "copy"
    defaults: ClassVar[dict[str, Any]] = {"values": 16, "cot": "same", "answer": "value"}

    def __init__(self, spec: str = "copy") -> None:
        options = parse_options(spec, self.defaults)
        self.modulus: int = options["values"]
        if self.modulus < 2:
            raise InputError(f"task {spec!r}: expected values >= 2")
        self.independent = check_name("cot", options["cot"], ["same", "independent"]) == "independent"
        self.adds = check_name("answer", options["answer"], ["value", "sum"]) == "sum"
        changed = [f"{key}={value}" for key, value in options.items() if value != self.defaults[key]]
        self.spec = ":".join(filter(None, [self.name, ",".join(changed)]))
        self.inputs = ("value", "written") if self.adds and self.independent else ("value",)
        self.distractors = ("written",) if self.independent and not self.adds else ()
        self.intermediates = ("v_1",)
        self.answer_steps = ()

    def problem(self, value: int, token: int | None = None) -> Problem:
        """The problem with this value, and this token as its gold chain of thought."""
        token = value if token is None else token
        answer = (value + token) % self.modulus if self.adds else value
        values = {"value": str(value), "written": str(token), "v_1": str(answer)}
        pieces = (Piece("copy"), Piece(f" {value}", "value"))
        return Problem(f"copy {value} {token}", pieces, str(answer), (Piece(f" {token}", "step.1"),), values, self)

    def problems(self, n: int, seed: int = 0, split: Split = "test") -> list[Problem]:
        if check_name("split", split, ["train", "test"]) == "train":
            raise InputError(f"task {self.spec!r} has no train split: its models are set by hand")
        found = self.all_problems()
        if count_of(n) > len(found):
            raise InputError(f"task {self.spec!r} has {len(found)} test problems, {n} were asked for")
        return [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:n]]

    def pairs(self, n: int, seed: int = 0, vary: str | None = None, tokenizer: Any = None) -> Pairs:
        chosen = (
            self.inputs if vary is None else (check_name("variable", vary, [*self.inputs, *self.distractors, "all"]),)
        )
        items: list[Pair] = []
        for variable in chosen:
            rng = np.random.default_rng([seed, len(variable)])
            problems = self.all_problems()
            order = rng.permutation(len(problems) ** 2)
            drawn = ((problems[i // len(problems)], problems[i % len(problems)]) for i in order)
            candidates = (pair for pair in drawn if self._differ(*pair, variable))
            items += draw_pairs(candidates, count_of(n), variable, self.spec, tokenizer)
        return Pairs(tuple(items), self)

    def parse_steps(self, text: str) -> list[Step]:
        word = text.strip()
        start = len(text) - len(text.lstrip())
        return [Step(1, word, start, start + len(word))] if word.isdecimal() else []

    def parse_answer(self, text: str) -> str | None:
        words = text.split()
        return words[0] if words and words[0].isdecimal() else None

    def program(self, problem: Problem, written: Mapping[int, str], target: Target) -> str | None:
        token = int(written.get(1, problem.values["written"]))
        value = int(problem.values["value"])
        if target == 1:
            return str(token)
        if self.adds:
            return str((value + token) % self.modulus)
        return str(value if self.independent else token)

    def replace(self, problem: Problem, variable: str, value: str) -> Problem:
        check_name("variable", variable, [*self.inputs, *self.distractors])
        values = {**problem.values, variable: value}
        return self.problem(int(values["value"]), int(values["written"]) if self.independent else None)

    def states(self, target: Target) -> str | None:
        return "v_1" if target == "answer" or not self.independent else "written"

    def words(self) -> list[str]:
        return [str(value) for value in range(self.modulus)] + ["copy"]

    def all_problems(self, split: Split | None = None) -> list[Problem]:
        """Every problem, in a fixed order."""
        values = range(self.modulus)
        return [self.problem(v, t) for v, t in product(values, values) if self.independent or v == t]

    def _differ(self, one: Problem, other: Problem, variable: str) -> bool:
        changed = {name for name in ("value", "written") if one.values[name] != other.values[name]}
        if not self.independent:
            changed.discard("written")
        wanted = set(self.inputs) if variable == "all" else {variable}
        return changed == wanted and (one.answer != other.answer or variable in self.distractors)
