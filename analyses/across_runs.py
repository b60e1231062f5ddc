"""The two runs of a problem, with and without reasoning, and the places of each that match."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core import InputError
from ..hooks import Model, Run, generate, resolve
from ..tasks import Problem
from .targets import cot_runs, count_reasons


@dataclass(frozen=True)
class Both:
    """Both runs of a problem up to the answer: the one that is written and the other, with the places of each.

    answer: the tokens of the CoT run's own answer, said: those of the run that states are taken from; spare: places of
    that run's CoT (of its prompt where it has none) that a shuffled state is taken from
    """

    key: str
    base: tuple[int, ...]
    source: tuple[int, ...]
    answer: tuple[int, ...]
    said: tuple[int, ...]
    same: bool
    places: tuple[tuple[int, ...], ...]
    source_places: tuple[tuple[int, ...], ...]
    spare: tuple[int, ...]


def both_runs(
    model: Model, problems: Sequence[Problem], names: Mapping[str, str], direction: str, cot: Any, progress: bool
) -> tuple[list[Both], dict[str, int]]:
    """Both runs of every problem, and why others were left out."""
    if not problems:
        raise InputError("no problems to measure")
    reasoned = cot_runs(model, problems, cot, progress).by_problem()
    direct = generate(model, problems, "answer-only", progress=progress).by_problem()
    found: list[Both] = []
    reasons: list[str] = []
    for problem in problems:
        run, other = reasoned[problem.key], direct[problem.key]
        if run.answer is None or not run.finished:
            reasons.append("no answer of the CoT run that the task can read")
            continue
        base, source = (run, other) if direction == "into-cot" else (other, run)
        places, source_places = _places(base, list(names)), _places(source, list(names.values()))
        if late := [name for name, at in zip(names, places, strict=True) if max(at) >= base.spans["cue"][1]]:
            raise InputError(f"position {late[0]!r} is part of the answer: name places before it")
        for name, its, own, other_own in zip(names, names.values(), places, source_places, strict=True):
            if len(own) != len(other_own):
                raise InputError(
                    f"position {name!r} has {len(own)} tokens, {its!r} of the other run has {len(other_own)} (problem "
                    f"{problem.key!r}): name places of as many tokens"
                )
        spare = range(*source.spans.get("cot", source.spans["prompt"]))
        taken = {place for each in source_places for place in each}
        found.append(
            Both(
                problem.key,
                _before_answer(base),
                _before_answer(source),
                run.tokens("answer"),
                source.tokens("answer") if "answer" in source.spans else (),
                other.answer == run.answer,
                places,
                source_places,
                tuple(place for place in spare if place not in taken),
            )
        )
    if not found:
        raise InputError(f"no problem is left to patch: {count_reasons(reasons)}")
    return found, count_reasons(reasons)


def _before_answer(run: Run) -> tuple[int, ...]:
    return run.ids[: run.spans["cue"][1]]


def _places(run: Run, names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    try:
        return tuple(tuple(place.position for place in resolve(run.spans, name)) for name in names)
    except InputError as error:
        raise InputError(f"the {run.mode} run of {run.problem.key!r}: {error}") from error
