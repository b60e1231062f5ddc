"""The problems and pairs of a study of the user's own model: as many as there are and can be used, the rest counted."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..core import InputError, check_name
from ..hooks import Model
from ..hooks.format import render_prompt
from ..hooks.memory import MEMORY
from ..tasks import Pair, Pairs, Problem, Questions, Task
from ..tasks.questions import GIVEN

COTS = ("model", "task", "given")
Drawing = TypeVar("Drawing")


@dataclass(frozen=True)
class Options:
    """What is asked for; all but `memory` is part of what a study is of.

    only: the steps to take, None for all that apply; memory: gigabytes for caches
    """

    problems: int = 128
    pairs: int = 64
    cot: str = "model"
    max_new_tokens: int = 256
    samples: int = 1
    temperature: float = 0.0
    only: tuple[str, ...] | None = None
    seed: int = 0
    memory: float = MEMORY

    def __post_init__(self) -> None:
        check_name("cot", self.cot, COTS)
        for name in ("problems", "pairs", "max_new_tokens", "samples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: expected 1 or more")
        if self.cot != "model" and (self.samples > 1 or self.temperature > 0):
            raise InputError(
                'samples and temperature are for cot="model": other chains of thought are taken as they are'
            )
        if not self.memory > 0:
            raise InputError(f"memory={self.memory}: expected gigabytes above 0")


@dataclass(frozen=True)
class Drawn:
    """Problems and pairs that can be used, and why others cannot.

    left_out: problems by reason; pairs: with their own `left_out`; no_pairs: why there is none, "" where there are
    """

    task: Task
    problems: list[Problem]
    left_out: dict[str, int]
    pairs: Pairs
    no_pairs: str = ""
    texts: dict[str, list[str]] = field(default_factory=dict)

    @property
    def all(self) -> list[Problem]:
        """Every problem that is run: those asked, then the others of the pairs."""
        return list(dict.fromkeys([*self.problems, *self.pairs.problems]))

    @property
    def made(self) -> int:
        """How many pairs have a partner that was made."""
        return sum(isinstance(self.task, Questions) and pair.variable != GIVEN for pair in self.pairs)


def draw(model: Model, task: Task, options: Options) -> Drawn:
    """The problems and pairs of a study, the same for the same seed; fewer than asked for where there are not so many.

    Raises InputError where no problem can be used.
    """
    texts = _texts(task, options.cot)
    usable: dict[Problem, str] = {}

    def why_not(problem: Problem) -> str:
        if problem not in usable:
            usable[problem] = _why_not(model, problem, options.cot, texts)
        return usable[problem]

    given = as_many(lambda n: task.problems(n, seed=options.seed), options.problems)
    left_out = Counter(reason for problem in given if (reason := why_not(problem)))
    problems = [problem for problem in given if not why_not(problem)]
    if not problems:
        raise InputError(f"no problem of {task.spec!r} can be used: {dict(left_out)}")
    try:
        pairs = as_many(lambda n: task.pairs(n, seed=options.seed, tokenizer=model.tokenizer), options.pairs)
    except InputError as error:
        return Drawn(task, problems, dict(left_out), Pairs((), task), str(error), texts)
    reasons: Counter[str] = Counter(pairs.left_out)
    kept = []
    for pair in pairs:
        reason = why_not(pair.recipient) or why_not(pair.donor) or _unequal(model, pair)
        if reason:
            reasons[reason] += 1
        else:
            kept.append(pair)
    none = "" if kept else "; ".join(f"{count} left out: {reason}" for reason, count in reasons.items())
    return Drawn(task, problems, dict(left_out), Pairs(tuple(kept), task, dict(reasons)), none, texts)


def as_many(give: Callable[[int], Drawing], n: int) -> Drawing:
    """What `give(n)` gives, or for the largest number below n for which it raises no InputError.

    >>> as_many(lambda n: [0] * n, 2)
    [0, 0]
    """
    try:
        return give(n)
    except InputError as error:
        reason, found = error, None
    enough, many = 0, n
    while many - enough > 1:
        middle = (enough + many) // 2
        try:
            found, enough = give(middle), middle
        except InputError as error:
            reason, many = error, middle
    if found is None:
        raise reason
    return found


def _texts(task: Any, cot: str) -> dict[str, list[str]]:
    """The given chains of thought by problem."""
    if cot != "given":
        return {}
    found = {key: [text for text in texts if text.strip()] for key, texts in getattr(task, "transcripts", {}).items()}
    if not any(found.values()):
        raise InputError(f"cot='given', but task {task.spec!r} has no transcripts: give them in the field 'transcript'")
    return {key: texts for key, texts in found.items() if texts}


def _why_not(model: Model, problem: Problem, cot: str, texts: dict[str, list[str]]) -> str:
    """Why a problem cannot be used; "" where it can."""
    if cot == "given" and problem.key not in texts:
        return "no transcript"
    if cot == "task" and not problem.steps:
        return "no gold chain of thought"
    try:
        for mode in ("answer-only", "cot"):
            render_prompt(model.tokenizer, model.format, problem, mode)
    except InputError as error:
        return f"the prompt cannot be given to this model: {error}"
    return ""


def _unequal(model: Model, pair: Pair) -> str:
    """Why a pair cannot be exchanged wire by wire, as the model is given it; "" where it can."""
    one, other = (
        len(render_prompt(model.tokenizer, model.format, problem, "cot").ids)
        for problem in (pair.recipient, pair.donor)
    )
    if one != other:
        return "the two prompts have unequal token counts"
    return "the two gold answers are the same" if pair.recipient.answer == pair.donor.answer != "" else ""
