"""Where `beyond` looks: the runs and positions that it can use, and how far ahead of a value each place is."""

import math
from dataclasses import replace

from ..core import InputError
from ..hooks import Run, Runs

TENTHS = 10


def usable(runs: Runs) -> tuple[Runs, int]:
    """Runs with a chain of thought, and how many have none."""
    kept = tuple(run for run in runs if "cot" in run.spans)
    if not kept:
        raise InputError("no run has a chain of thought: use a model that writes one, or cot='task'")
    return Runs(kept, runs.mode, runs.model), len(runs) - len(kept)


def marked(runs: Runs) -> tuple[Runs, list[str]]:
    """The positions to look at; for runs without steps the tenths of their chains are marked."""
    start = ["prompt[-1]", *(["open[-1]"] if all("open" in run.spans for run in runs) else [])]
    if any(run.values for run in runs):
        return runs, [*start, "step.*[-1]", "cue[-1]"]
    marked = []
    for run in runs:
        first, stop = run.spans["cot"]
        ends = [first + max(1, math.ceil((stop - first) * k / TENTHS)) for k in range(1, TENTHS + 1)]
        tenths = {f"tenth.{k}": (end - 1, end) for k, end in enumerate(ends, start=1)}
        marked.append(replace(run, spans={**run.spans, **tenths}))
    return Runs(tuple(marked), runs.mode, runs.model), [*start, "tenth.*[-1]", "cue[-1]"]


def lead_of(run: Run, name: str, at: int) -> tuple[float, float]:
    """Tokens and steps from a position until a run states the value of a variable.

    Infinite where it never does, NaN where the task does not say where it would. Where the run has no steps that the
    task can read, a step is a token.
    """
    task, value = run.problem.task, run.problem.values[name]
    stated: dict[int, str | None] = {
        run.spans[f"step.{k}"][0]: run.values[k] for k in run.values if task.states(k) == name
    }
    if task.states("answer") == name and "answer" in run.spans:
        stated[run.spans["answer"][0]] = run.answer
    if not stated and not any(task.states(target) for target in (*run.values, "answer")):  # type: ignore[arg-type]
        return math.nan, math.nan
    found = [first for first in sorted(stated) if stated[first] == value]
    if not found:
        return math.inf, math.inf
    ends = [run.spans[f"step.{k}"][1] for k in run.values]
    if not ends:
        return float(found[0] - at), float(found[0] - at)
    finished = sum(end <= at + 1 for end in ends)
    return float(found[0] - at), float(1 + sum(end <= found[0] for end in ends) - finished)
