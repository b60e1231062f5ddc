"""Runs of problems in both modes, one a problem: the model's own, written now, or runs that there are already."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..core import InputError
from ..hooks import MODES, Mode, Model, Runs, generate
from ..tasks import Problem
from .targets import cot_runs


def both_modes(
    model: Model,
    problems: Sequence[Problem],
    cot: str | Runs | Mapping[str, Any] = "model",
    direct: Runs | None = None,
    always: Sequence[Mode] = (),
    **limits: Any,
) -> dict[Mode, Runs]:
    """A run of every problem, in their order, in each mode that the model was made for, or that runs are given for.

    cot: as in `behaviour`; direct: answer-only runs; of several runs of a problem the first is taken
    always: modes to ask a model for whatever it was made for; limits: of `generate`

    Raises InputError for runs of another mode, or that lack a problem.
    """
    sources: dict[Mode, Any] = {"answer-only": "model" if direct is None else direct, "cot": cot}
    found: dict[Mode, Runs] = {}
    for mode in MODES:
        source = sources[mode]
        if isinstance(source, Runs) and source.mode != mode:
            raise InputError(f"expected {mode} runs, got {source.mode} runs: pass CoT runs as cot, others as direct")
        if source != "model":
            first = cot_runs(model, problems, source, bool(limits.get("progress"))).by_problem()
            found[mode] = Runs(tuple(first[problem.key] for problem in problems), mode, model)
        elif model.supports(mode) or mode in always:
            found[mode] = generate(model, problems, mode, **limits)
    return found
