"""From pairs to cut runs: what is measured, what was dropped and why, and how many pairs end as they should."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core import InputError, check_name
from ..hooks import Model, Run, Runs
from ..hooks.memory import MEMORY
from ..hooks.support import check_spliceable
from ..tasks import Pair, Pairs, Target
from .cells import MIXED
from .gold import accuracy_of, set_aside
from .targets import NO_TEXT, Aim, Onset, cot_runs, count_reasons, cut, resolve_target

KEEP = ("all", "correct")
Cut = tuple[Pair, Aim, Aim]
SAME_VALUE = "recipient and donor state the same value at the target"


@dataclass
class Cuts:
    """Usable pairs of cut runs, and per variable how many were asked for, ended in two answers, or were dropped.

    unit: which pair of problems a row is of; with several samples a pair of problems has several rows
    """

    runs: Runs
    onset: Onset
    rows: list[Cut] = field(default_factory=list)
    unit: list[int] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)

    @property
    def aims(self) -> list[tuple[Aim, Aim]]:
        """The two cut runs of every row."""
        return [(one, other) for _, one, other in self.rows]

    def counts(self) -> dict[str, Any]:
        """What a manifest says about the pairs and runs."""
        onset = {"slot": self.onset.slot, "agreement": self.onset.agreement, "chance": self.onset.chance}
        told = {"asked": self.asked, "ended": self.ended, "dropped": self.dropped, "onset": onset}
        return {**told, **accuracy_of(self.runs)}

    @property
    def dropped(self) -> dict[str, dict[str, int]]:
        """How many rows were dropped, by variable and reason."""
        return {name: count_reasons(told) for name, told in self.reasons.items() if told}


def prepare(
    model: Model,
    pairs: Pairs,
    target: str,
    cot: str | Runs | Mapping[str, Any],
    *,
    samples: int = 1,
    temperature: float = 0.0,
    keep: str = "all",
    seed: int = 0,
    max_new_tokens: int = 256,
    memory: float = MEMORY,
    progress: bool = False,
) -> Cuts:
    """Run both problems of every pair, and cut the runs at the target.

    Sample i of the recipient is paired with sample i of the donor. `keep="correct"` sets pairs aside in which an answer
    is not the gold one, or neither gold answer is known; they do not count as asked for. Raises InputError where no
    pair is left, and for pairs that no run can make right.
    """
    check_name("keep", keep, KEEP)
    check_spliceable(model)
    if not len(pairs):
        raise InputError("no pairs to measure")
    sampled: dict[str, Any] = {"samples": samples, "temperature": temperature, "seed": seed}
    runs = cot_runs(model, pairs.problems, cot, progress, max_new_tokens, memory=memory, **sampled)
    onset = resolve_target(target, runs)
    by = {(run.problem.key, run.sample): run for run in reversed(list(runs))}
    numbers = sorted({sample for _, sample in by})
    found = Cuts(runs, onset)
    for unit, pair in enumerate(pairs):
        for sample in numbers:
            one, other = by.get((pair.recipient.key, sample)), by.get((pair.donor.key, sample))
            if one is not None and other is not None:
                _add(found, unit, pair, one, other, (target, keep, model))
    if not found.rows and NO_TEXT in {text for told in found.reasons.values() for text in told}:
        raise InputError(f"{NO_TEXT}: the answer stands at the first token, relay and tokens have no position")
    if not found.rows:
        raise InputError(f"no pair is left for target {target!r}: {found.dropped}")
    return found


def _add(found: Cuts, unit: int, pair: Pair, one: Run, other: Run, how: tuple[str, str, Model]) -> None:
    """Cut a pair of runs and count it."""
    target, keep, model = how
    _check(pair, one, other)
    for counts in (found.asked, found.ended):
        counts.setdefault(pair.variable, 0)
    reasons = found.reasons.setdefault(pair.variable, [])
    if keep == "correct" and (reason := set_aside(one, other)):
        reasons.append(reason)
        return
    found.asked[pair.variable] += 1
    finished = one.finished and other.finished and one.answer is not None and other.answer is not None
    if finished and one.answer != other.answer:
        found.ended[pair.variable] += 1
    first, second = cut(one, found.onset, target, model), cut(other, found.onset, target, model)
    if isinstance(first, str) or isinstance(second, str):
        reasons.append(first if isinstance(first, str) else str(second))
    elif first.value == second.value or first.answer == second.answer:
        reasons.append(SAME_VALUE)
    elif _prefix(first.answer, second.answer) and (first.end is None or first.end != second.end):
        reasons.append("one answer is the beginning of the other, and they do not end in the same token")
    else:
        found.rows.append((pair, first, second))
        found.unit.append(unit)


def _prefix(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether one answer begins the other: without a common end token the shorter one would always win."""
    size = min(len(one), len(other))
    return one[:size] == other[:size]


def _check(pair: Pair, one: Run, other: Run) -> None:
    """Pairs that no run can make right are errors, not counts."""
    if pair.recipient.key == pair.donor.key:
        raise InputError(f"the pair {pair.recipient.key!r} is its own donor: pair two different problems")
    if pair.recipient.answer == pair.donor.answer != "":  # "": not known
        raise InputError(
            f"the pair {pair.recipient.key!r} / {pair.donor.key!r} has the same answer {pair.donor.answer!r}: "
            "log-odds would be 0 by identity; pair problems whose answers differ"
        )
    lengths = [run.spans["open" if "open" in run.spans else "prompt"][1] for run in (one, other)]
    if lengths[0] != lengths[1]:
        raise InputError(
            f"the prompts of the pair {pair.recipient.key!r} / {pair.donor.key!r} have {lengths[0]} and "
            f"{lengths[1]} tokens: wires can only be exchanged between prompts of equal length; choose partners "
            "of equal token count"
        )


def implied(row: Cut, cell: int, onset: Onset) -> str | None:
    """What the program makes of the prompt of D and the steps of T; None where the text holds no step to read."""
    pair, one, other = row
    problem = (pair.recipient, pair.donor)[cell & 1]
    written = (one, other)[cell >> 2 & 1].written
    target: Target = onset.slot if isinstance(onset.slot, int) else "answer"
    if not written and target != 1:
        return None
    return problem.task.program(problem, written, target)


def third_answers(cuts: Sequence[Cut], onset: Onset, seed: int) -> list[tuple[int, ...] | None]:
    """For each pair the answer tokens of another pair's problem that no cell of this one implies; None where there is
    none."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(cuts))
    thirds: list[tuple[int, ...] | None] = []
    for row in cuts:
        own = {row[1].value, row[2].value, *(implied(row, cell, onset) for cell in MIXED)}
        foreign = (aim for i in order for aim in cuts[i][1:] if isinstance(aim, Aim) and aim.value not in own)
        third = next(foreign, None)
        thirds.append(third.answer if third else None)
        order = np.roll(order, 1)
    return thirds


def gold_answers(cuts: Sequence[Cut], target: str) -> list[list[tuple[int, ...] | None]]:
    """For each pair the tokens of the recipient's and the donor's gold answer, as some run wrote them.

    None where the run's own answer is the gold one (it is scored already), where no run wrote it, and for steps.
    """
    if target.startswith("step."):
        return [[None, None] for _ in cuts]
    written = {aim.value: aim.answer for _, *aims in cuts for aim in aims}
    return [
        [
            None if aim.value == problem.answer else written.get(problem.answer)
            for problem, aim in ((pair.recipient, one), (pair.donor, other))
        ]
        for pair, one, other in cuts
    ]
