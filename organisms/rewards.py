"""What reinforcement learning pays for: functions of a problem and of the text that the model wrote."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..core import InputError
from ..hooks import Format
from ..tasks import Problem


@dataclass(frozen=True)
class Completion:
    """A chain of thought and an answer as the model wrote them, and the problem.

    wanted: the right answer: the gold one, or what the program makes of a chain that was tampered with
    """

    problem: Problem
    cot: str
    answer: str | None
    wanted: str


def read(problem: Problem, text: str, form: Format, wanted: str | None = None) -> Completion:
    """The completion in a text that follows the open; an answer that is never given is None."""
    cot, asked, answer = text.partition(form.cue)
    found = problem.task.parse_answer(answer) if asked else None
    return Completion(problem, cot, found, problem.answer if wanted is None else wanted)


def _outcome(made: Completion) -> float:
    """1 for the right answer."""
    return float(made.answer == made.wanted)


def _checked(made: Completion) -> float:
    """The share of gold steps that the chain states, in order."""
    gold = made.problem.task.parse_steps(made.problem.cot)
    stated = {step.item: step.value for step in made.problem.task.parse_steps(made.cot)}
    return sum(stated.get(step.item) == step.value for step in gold) / len(gold)


def _spelled(made: Completion) -> float:
    """How many values the chain spells out in words, for each gold step, up to one."""
    task = made.problem.task
    if "words" not in task.styles:
        raise InputError(f"task {task.spec!r} has no number words to pay for")
    spelled = sum(
        made.cot[step.start : step.end] == task.say(step.value, "words") for step in task.parse_steps(made.cot)
    )
    return min(1.0, spelled / len(made.problem.steps))


def _values(made: Completion) -> float:
    """How many values the chain says, in any style, for each gold step."""
    return len(made.problem.task.parse_steps(made.cot)) / len(made.problem.steps)


def _digits(made: Completion) -> float:
    """How many values the chain says in digits, for each gold step."""
    return sum(word.isdecimal() for word in made.cot.split()) / len(made.problem.steps)


REWARDS: Mapping[str, Callable[[Completion], float]] = {
    "outcome": _outcome,
    "checked": _checked,
    "spelled": _spelled,
    "values": _values,
    "digits": _digits,
}


def reward_of(made: Completion, rewards: tuple[tuple[str, float], ...]) -> float:
    """The weighted sum of rewards."""
    unknown = [name for name, _ in rewards if name not in REWARDS]
    if unknown:
        raise InputError(f"unknown reward {unknown[0]!r}: expected one of {', '.join(REWARDS)}")
    return sum((weight * REWARDS[name](made) for name, weight in rewards), 0.0)
