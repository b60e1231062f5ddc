"""What a study of the user's own model says: what was used, the table, and why figures are missing."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from .. import hooks
from ..tasks import Questions
from .measured import Measured
from .own_steps import Subject
from .told import LEGEND, checks, printed, withheld

Counts = dict[str, dict[str, int]]
ABLATED = "wires set to nothing (ablation, neutral baseline)"


def used(subject: Subject, found: Measured) -> Counts:
    """How many questions, problems, runs and pairs there were, and of those that were not used, why."""
    drawn = subject.drawn
    asked = {problem.key for problem in drawn.problems}
    unknown = sum(not problem.answer for problem in drawn.problems)
    counts: Counts = {}
    if isinstance(drawn.task, Questions):
        counts["questions of the task"] = {name: n for name, n in drawn.task.counts().items() if n}
    counts["problems"] = {"asked": len(asked), "gold answer unknown": unknown, **_left_out(drawn.left_out)}
    for name, runs in (("chains of thought", subject.runs), ("answers at once", subject.direct)):
        if runs is not None:
            counts[name] = _ended(runs)
    others = len({p.key for p in drawn.all} - asked)
    counts["pairs"] = {
        "usable": len(drawn.pairs),
        "with a made partner": drawn.made,
        "further problems in them": others,
    }
    counts["pairs"] |= _left_out(drawn.pairs.left_out)
    channels = found.results.get("channels")
    if channels is not None:
        facts = channels.manifest.circumstance
        counts["pairs in the channels"] = {"measured": len(channels.arrays()["variable"])}
        for variable, reasons in facts["dropped"].items():
            counts["pairs in the channels"] |= {f"dropped, {variable}: {why}": n for why, n in reasons.items()}
    return {name: {k: n for i, (k, n) in enumerate(told.items()) if n or not i} for name, told in counts.items()}


def _left_out(reasons: Mapping[str, int]) -> dict[str, int]:
    return {f"left out: {reason}": count for reason, count in reasons.items()}


def _ended(runs: hooks.Runs) -> dict[str, int]:
    told = runs.notes()
    whole = sum(run.finished and run.answer is not None for run in runs)
    return {"runs": told.pop("runs"), "of problems": told.pop("problems"), "finished with an answer": whole, **told}


def told(table: pd.DataFrame, label: str, found: Measured, counts: Counts, notes: list[str]) -> str:
    """All that is printed."""
    lines = ["what was used:", *(f"- {name}: {_counted(each)}" for name, each in counts.items()), ""]
    lines += printed(table)
    if "ablation" in found.results:
        ablation: Any = found.results["ablation"]
        why = "the channels could not be measured" if counts["pairs"]["usable"] else "no counterfactual partners"
        lines += [f"{why}: {ABLATED}:", ablation.table().to_string(index=False), ""]
    lines += [*LEGEND] if found.results else []
    lines += [f"- {text}" for text in [*checks({label: found}), *notes]]
    return "\n".join(lines) + "\n"


def _counted(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{name}: {n}" for name, n in counts.items())


def notes_of(subject: Subject, found: Measured) -> list[str]:
    """Why figures are missing, and what else is to be known of those that are there."""
    return [*_general(subject, found), *(f"{step}: {why}" for step, why in found.reasons.items()), *withheld(found)]


def _general(subject: Subject, found: Measured) -> Iterator[str]:
    if subject.runs is not None and {"channels", "ablation", "patch-cot"} & set(found.results):
        target, why = subject.target
        if why:
            yield f"wires are measured at the {target}, not at the onset: {why}"
    if subject.options.cot != "model":
        yield f"chains of thought are not the model's own ({subject.options.cot}), its answers after them are"
    doctor: Any = found.results.get("doctor")
    if doctor is not None:
        verdicts = [gate.verdict for gate in doctor.gates]
        yield f"doctor: {verdicts.count('pass')} of {len(verdicts)} gates pass"
        for gate in doctor.gates:
            if gate.verdict != "pass":
                measured = f"{gate.measured:.2g}, limit {gate.limit:.2g}"
                yield f"doctor: {gate.name}: {gate.verdict} ({measured}): {gate.advice}"
