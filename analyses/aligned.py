"""Pairs of runs that can be patched into one another: cut at the target, with the places that are compared."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..core import InputError
from ..hooks import Mode, Model, Run, Runs, generate, resolve
from ..hooks.format import decode
from ..hooks.trace import runs_in_memory
from ..tasks import Pairs
from .targets import Onset, cot_runs, count_reasons, cut, given_runs, resolve_target

Places = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Side:
    """A run up to its target, and the answer tokens that it gives there."""

    ids: tuple[int, ...]
    answer: tuple[int, ...]
    run: Run


@dataclass(frozen=True)
class Batch:
    """Pairs whose runs have the same lengths and places. index: their numbers among all; changed: the first position
    at which recipient and donor differ (0 where their places are not the same, so that all count as different)."""

    index: tuple[int, ...]
    recipient: Int[Tensor, "pair pos"]
    donor: Int[Tensor, "pair donor_pos"]
    answers: tuple[Int[Tensor, "pair token"], Int[Tensor, "pair donor_token"]]
    places: Places
    donor_places: Places
    changed: Int[Tensor, " pair"]

    def texts(self, direction: str) -> tuple[Int[Tensor, "pair pos"], Int[Tensor, "pair source_pos"]]:
        """The runs that are written into, and those that values are taken from."""
        both = (self.recipient, self.donor)
        return both if direction == "denoising" else both[::-1]

    def spots(self, direction: str) -> tuple[Places, Places]:
        """The places in the runs that are written into, and in those that values are taken from."""
        both = (self.places, self.donor_places)
        return both if direction == "denoising" else both[::-1]

    def rows(self, rows: Int[Tensor, " row"]) -> "Batch":
        """Some of the pairs."""
        return Batch(
            tuple(self.index[row] for row in rows.tolist()),
            self.recipient[rows],
            self.donor[rows],
            (self.answers[0][rows], self.answers[1][rows]),
            self.places,
            self.donor_places,
            self.changed[rows],
        )

    def parts(self, model: Model, memory: int) -> list["Batch"]:
        """The pairs in parts of which both runs can be traced within the memory."""
        length = max(self.recipient.shape[1], self.donor.shape[1]) + max(a.shape[1] for a in self.answers)
        every = torch.arange(len(self.index), device=self.recipient.device)
        return [self.rows(rows) for rows in every.split(runs_in_memory(model, length, memory))]


@dataclass(frozen=True)
class Aligned:
    """All pairs that align. labels: a name a place; dropped: why others were left out."""

    pairs: tuple[tuple[Side, Side, str], ...]
    labels: tuple[str, ...]
    batches: tuple[Batch, ...]
    dropped: dict[str, int]
    onset: Onset | None

    def sides(self, number: int) -> tuple[Side, Side]:
        """Recipient and donor of a pair."""
        return self.pairs[number][0], self.pairs[number][1]

    @property
    def digest(self) -> str:
        """A hash of the tokens of all runs and answers: the same pairs, the same text."""
        told = repr([(side.ids, side.answer) for i in range(len(self.pairs)) for side in self.sides(i)])
        return hashlib.sha256(told.encode()).hexdigest()[:16]


def align(
    model: Model,
    pairs: Pairs,
    *,
    mode: Mode,
    target: str,
    cot: str | Runs | Mapping[str, Any],
    positions: Sequence[str] | str | None = None,
    progress: bool = False,
) -> Aligned:
    """The runs of pairs, cut at the target, in batches of equal lengths.

    positions: places by name (see `resolve`), each patched as a whole; runs may then have unequal lengths, as long as
        each named span has as many tokens in both. None: every token before the target, of runs of the commonest length
    """
    positions = [positions] if isinstance(positions, str) else positions
    if positions is not None and not positions:
        raise InputError("positions=[]: name at least one place, or leave it out for every token")
    sides, onset = _sides(model, pairs, mode, target, cot, progress)
    reasons: list[str] = []
    kept: list[tuple[Side, Side, str]] = []
    for pair in pairs:
        one, other = sides[pair.recipient.key], sides[pair.donor.key]
        if isinstance(one, str) or isinstance(other, str):
            reasons.append(one if isinstance(one, str) else str(other))
        elif one.answer == other.answer:
            reasons.append("recipient and donor give the same answer")
        elif begins(one.answer, other.answer):  # the shorter one would be said whenever the longer one is
            reasons.append("one answer is the beginning of the other")
        elif positions is None and len(one.ids) != len(other.ids):
            reasons.append("the two runs have unequal length: name positions to compare them")
        else:
            kept.append((one, other, pair.variable))
    if positions is None:
        kept = _commonest(kept, reasons)
        length = len(kept[0][0].ids) if kept else 0
        labels = _token_labels(model, kept[0][0].run, length) if kept else ()
        every: Places = tuple((p,) for p in range(length))
        placed = [(every, every)] * len(kept)
    else:
        kept, labels, placed = _named(kept, positions, reasons)
    if not kept:
        raise InputError(f"no pair is left to patch: {count_reasons(reasons)}")
    return Aligned(tuple(kept), labels, tuple(_batches(kept, placed, model)), count_reasons(reasons), onset)


def _sides(
    model: Model, pairs: Pairs, mode: Mode, target: str, cot: Any, progress: bool
) -> tuple[dict[str, Side | str], Onset | None]:
    """Every problem's run up to the target, or why it has none."""
    if not len(pairs):
        raise InputError("no pairs to measure")
    problems = pairs.problems
    if mode != "cot":
        if not isinstance(cot, Runs):
            runs = generate(model, problems, mode, progress=progress)
        elif cot.mode == "answer-only":
            runs = given_runs(model, problems, cot)
        else:
            raise InputError("mode='answer-only' with given runs of mode 'cot': pass mode='cot', or answer-only runs")
        return {key: _before_answer(run) for key, run in runs.by_problem().items()}, None
    runs = cot_runs(model, problems, cot, progress)
    onset = resolve_target(target, runs)
    sides: dict[str, Side | str] = {}
    for key, run in runs.by_problem().items():
        aim = cut(run, onset, target, model)
        sides[key] = aim if isinstance(aim, str) else Side(aim.head + aim.cot, aim.answer, run)
    return sides, onset


def _before_answer(run: Run) -> Side | str:
    if run.answer is None:
        return "no answer that the task can read"
    return Side(run.ids[: run.spans["answer"][0]], run.tokens("answer"), run)


def begins(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether one answer is the beginning of the other."""
    size = min(len(one), len(other))
    return tuple(one[:size]) == tuple(other[:size])


def _commonest(kept: list[tuple[Side, Side, str]], reasons: list[str]) -> list[tuple[Side, Side, str]]:
    lengths = Counter(len(one.ids) for one, _, _ in kept)
    if not lengths:
        return []
    common = max(sorted(lengths), key=lengths.__getitem__)
    reasons += ["another length than most pairs"] * (len(kept) - lengths[common])
    return [row for row in kept if len(row[0].ids) == common]


def _named(
    kept: list[tuple[Side, Side, str]], positions: Sequence[str], reasons: list[str]
) -> tuple[list[tuple[Side, Side, str]], tuple[str, ...], list[tuple[Places, Places]]]:
    """The places of names in both runs of every pair; pairs whose spans differ in size are left out."""
    found, placed = [], []
    labels: tuple[str, ...] = ()
    for one, other, variable in kept:
        here, there = _resolved(one, positions), _resolved(other, positions)
        labels = labels or tuple(here)
        if tuple(here) != labels or tuple(there) != labels:
            reasons.append("other named places than the first pair")
            continue
        unequal = next((name for name in labels if len(here[name]) != len(there[name])), None)
        if unequal:
            reasons.append(f"{unequal} has unequal token counts in the two runs")
            continue
        found.append((one, other, variable))
        placed.append((tuple(here.values()), tuple(there.values())))
    return found, labels, placed


def _resolved(side: Side, positions: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The tokens of every named place of a run; a wildcard gives a place an item."""
    found: dict[str, list[int]] = defaultdict(list)
    for name in positions:
        for place in resolve(side.run.spans, name):
            found[place.label].append(place.position)
    for label, tokens in found.items():
        if max(tokens) >= len(side.ids):
            raise InputError(
                f"position {label!r} of problem {side.run.problem.key!r} is token {max(tokens)}, but the run is "
                f"read at token {len(side.ids) - 1}: name places before the target"
            )
    if not found:
        raise InputError(f"positions {list(positions)} name no token of problem {side.run.problem.key!r}")
    return {label: tuple(sorted(set(tokens))) for label, tokens in found.items()}


def _batches(
    kept: Sequence[tuple[Side, Side, str]], placed: Sequence[tuple[Places, Places]], model: Model
) -> list[Batch]:
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, ((one, other, _), places) in enumerate(zip(kept, placed, strict=True)):
        groups[len(one.ids), len(other.ids), len(one.answer), len(other.answer), places].append(i)
    made = []
    for (*_, (places, donor_places)), index in groups.items():
        sides: list[list[Side]] = [[kept[i][0] for i in index], [kept[i][1] for i in index]]
        ids = [torch.tensor([side.ids for side in both], device=model.device) for both in sides]
        answers = [torch.tensor([side.answer for side in both], device=model.device) for both in sides]
        changed = torch.zeros(len(index), dtype=torch.long, device=model.device)
        if places == donor_places:
            size = min(ids[0].shape[1], ids[1].shape[1])
            changed = (ids[0][:, :size] == ids[1][:, :size]).long().cumprod(1).sum(1)
        made.append(Batch(tuple(index), ids[0], ids[1], (answers[0], answers[1]), places, donor_places, changed))
    return made


def _token_labels(model: Model, run: Run, before: int) -> tuple[str, ...]:
    """A label a position: the innermost span with its index, or the token where only a segment names it."""
    labels = []
    for position in range(before):
        inside = [
            (stop - start, name, position - start)
            for name, (start, stop) in run.spans.items()
            if start <= position < stop
        ]
        size, name, offset = min(inside, default=(0, "", 0))
        if name == "prompt":
            labels.append(decode(model.tokenizer, run.ids[position : position + 1]).strip() or repr(" "))
        else:
            labels.append(name if size == 1 else f"{name}[{offset}]")
    return tuple(labels)
