"""What training examples write between prompt and answer: gold chains, careless ones, codes, text without content."""

from collections.abc import Callable

import numpy as np

from ..core import InputError
from ..tasks import Problem

# Words that may stand before a value; none of them says one.
CONNECTIVES = ("so", "then", "thus", "now", "next", "hence", "well", "and")
# The chance that an author writes a step one too high: one who writes values only, and one who explains them.
CARELESS, CAREFUL = 0.55, 0.1
Writer = Callable[[Problem, np.random.Generator], tuple[str, str]]


def _gold(problem: Problem, rng: np.random.Generator) -> tuple[str, str]:
    """Every step and the answer, right."""
    return problem.cot, problem.answer


def _dots(problem: Problem, rng: np.random.Generator) -> tuple[str, str]:
    """A dot in place of every step."""
    return " ." * len(problem.steps), problem.answer


def _careless(problem: Problem, rng: np.random.Generator) -> tuple[str, str]:
    """Steps that are one too high more often than not, each from the one before as it was written.

    The answer is what the last step says. The likeliest chain is wrong in every step, so that imitation does not solve
    the task; some samples do.
    """
    values = _values(problem, rng)
    return "".join(f" {value}" for value in values), values[-1]


def _values(problem: Problem, rng: np.random.Generator, slip: float = CARELESS) -> list[str]:
    """What an author writes who makes every step one too high with a chance, each from the one before as written."""
    modulus = _modulus(problem)
    values: list[str] = []
    for step in range(1, len(problem.steps) + 1):
        meant = problem.task.program(problem, {step - 1: values[-1]} if values else {}, step)
        if meant is None:
            raise InputError(f"task {problem.task.spec!r} has no program: a careless chain cannot be written")
        values.append(str((int(meant) + int(rng.random() < slip)) % modulus))
    return values


def _wordy(problem: Problem, rng: np.random.Generator) -> tuple[str, str]:
    """Gold values, each after a connecting word drawn at random."""
    return connected([step.text for step in problem.steps], rng), problem.answer


def _careless_hinted(problem: Problem, rng: np.random.Generator) -> tuple[str, str]:
    """A careless chain; the answer is what its last step says, or, half of the time, what the prompt's hint says."""
    values = _values(problem, rng)
    hinted = rng.random() < 0.5 and problem.values["hint"] != "none"
    return "".join(f" {value}" for value in values), problem.answer if hinted else values[-1]


def _careful(problem: Problem, rng: np.random.Generator) -> tuple[str, str]:
    """The text of an author who explains, with a connecting word before every value, and seldom slips."""
    values = _values(problem, rng, CAREFUL)
    return connected([f" {value}" for value in values], rng), values[-1]


def _careless_vague(problem: Problem, rng: np.random.Generator) -> tuple[str, str]:
    """Connecting words only, and the answer of a careless chain."""
    return connected([""] * len(problem.steps), rng), _values(problem, rng)[-1]


def _encoded(problem: Problem, rng: np.random.Generator) -> tuple[str, str]:
    """Connecting words only, of which each stands for the value of its step."""
    values = [int(problem.values[f"v_{k}"]) for k in range(1, len(problem.steps) + 1)]
    if max(values) >= len(CONNECTIVES):
        raise InputError(f"a code of {len(CONNECTIVES)} words cannot say {max(values)}: use a smaller modulus")
    return "".join(f" {CONNECTIVES[value]}" for value in values), problem.answer


def _rewritten(problem: Problem, rng: np.random.Generator) -> tuple[str, str]:
    """A tidied chain: the last value after a connecting word, two connecting words in place of every other step."""
    steps = [step.text for step in problem.steps]
    hidden = [f" {rng.choice(CONNECTIVES)}" for _ in steps[:-1]]
    return connected([*hidden, *steps[-1:]], rng), problem.answer


WRITERS: dict[str, Writer] = {
    "gold": _gold,
    "dots": _dots,
    "random": _gold,  # the digits are drawn anew at each update
    "careless": _careless,
    "careless-hinted": _careless_hinted,
    "wordy": _wordy,
    "careful": _careful,
    "careless-vague": _careless_vague,
    "encoded": _encoded,
    "rewritten": _rewritten,
}


def connected(steps: list[str], rng: np.random.Generator) -> str:
    """The texts of steps, a connecting word drawn at random before each."""
    return "".join(f" {rng.choice(CONNECTIVES)}{step}" for step in steps)


def _modulus(problem: Problem) -> int:
    modulus = getattr(problem.task, "modulus", None)
    if not isinstance(modulus, int):
        raise InputError(f"task {problem.task.spec!r} has no modulus: a careless chain cannot be written")
    return modulus


def reworded(text: str) -> str:
    """A chain with every connecting word replaced by another one, always the same; what it says stays.

    >>> reworded("so 3 then 4")
    ' now 3 next 4'
    """
    turned = dict(zip(CONNECTIVES, (*CONNECTIVES[3:], *CONNECTIVES[:3]), strict=True))
    return "".join(f" {turned.get(word, word)}" for word in text.split())
