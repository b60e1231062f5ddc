"""Channels: how much of a target's dependence on the prompt goes direct, by relay, and by tokens (the 2x2x2 table)."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import InputError, Manifest, circumstance
from ..hooks import Model, Run, Runs
from ..hooks.gates import enforce
from ..tasks import Pair, Pairs, Target
from .cells import MIXED, N_CELLS
from .channel_table import Channels
from .eight import Scores, eight_cells
from .estimates import OUTCOMES
from .gates import self_donor, splice_gates
from .targets import Aim, Onset, cot_runs, count_reasons, cut, resolve_target

Cut = tuple[Pair, Aim, Aim]


def channels(
    model: Model,
    pairs: Pairs,
    *,
    target: str = "onset",
    cot: str | Runs | Mapping[str, Any] = "model",
    boundary: bool | None = None,
    seed: int = 0,
    batch_size: int = 64,
    max_new_tokens: int = 256,
    progress: bool = False,
) -> Channels:
    """Set each of the three wires from the prompt to the target to the recipient's or the donor's value: eight cells.

    target: "onset" (where the answer is first stated; the default), "answer" (after the full CoT) or "step.K"
    cot: "model" (its own greedy CoT), "task" (gold, off-policy), runs, or transcripts by problem
    boundary: also measure with the opening text counted with the CoT (default: where the target is the onset)

    Raises InputError for pairs of unequal prompt length or equal answers, and where no pair is left; GateError where
    splicing does not reproduce the plain run. Source of the estimand: the mediation formulas of Pearl (2001) and Vig et
    al. (arXiv 2004.12265), for three wires at once, as Shapley values.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-tokens")
    >>> result = channels(model, model.task.pairs(8), target="answer")
    >>> [f"{abs(share):.3f}" for share in result.shares("value")]
    ['0.000', '0.000', '1.000']
    """
    began = time.perf_counter()
    if not len(pairs):
        raise InputError("no pairs to measure")
    problems = list(dict.fromkeys(p for pair in pairs for p in (pair.recipient, pair.donor)))
    runs = cot_runs(model, problems, cot, progress, max_new_tokens)
    onset = resolve_target(target, runs)
    cuts, dropped, asked, ended = _cut_pairs(model, pairs, runs.by_problem(), onset, target)
    if not cuts:
        raise InputError(f"no pair is left for target {target!r}: {dropped}")
    thirds = _third_answers(cuts, onset, seed)
    aims = [(one, other) for _, one, other in cuts]
    scores = eight_cells(model, aims, thirds, batch_size=batch_size, progress=progress)
    gates = splice_gates(model, aims, thirds, scores)
    enforce(gates)
    if boundary is None:
        boundary = target == "onset"
    moved = None
    if boundary:
        moved = eight_cells(model, aims, thirds, open_with_cot=True, batch_size=batch_size, progress=progress).log_p
    names = pairs.variables
    facts = {
        "seed": seed,
        "asked": asked,
        "ended": ended,
        "dropped": dropped,
        "left_out": dict(pairs.left_out),
        "gates": [gate.asdict() for gate in gates],
        "problems": {name: _distinct(cuts, name) for name in names},
        "onset": {"slot": onset.slot, "agreement": onset.agreement, "chance": onset.chance},
        "first_use": {name: pairs.task.first_use(name) for name in names},
        "last_step": _last_step(cuts, onset),
        "accuracy": runs.accuracy,
        "replayed": _replayed(cuts, scores),
        "self_donor": self_donor(model, aims, thirds),
        "distractor": _distractor(model, pairs, cot, target, seed) if isinstance(cot, str) else None,
        "device": str(model.device),
    }
    how = {"task": pairs.task.spec, "target": target, "cot": cot if isinstance(cot, str) else "given"}
    return Channels(
        coords={"variable": names, "cell": tuple(range(N_CELLS)), "outcome": OUTCOMES},
        manifest=Manifest({**model.identity(), **how}, circumstance(began, **facts)),
        variable=np.array([names.index(pair.variable) for pair, _, _ in cuts]),
        cots_differ=np.array([one.cot != other.cot for _, one, other in cuts]),
        **_arrays(cuts, scores, moved, onset, seed),
    )


def _cut_pairs(
    model: Model, pairs: Pairs, runs: Mapping[str, Run], onset: Onset, target: str
) -> tuple[list[Cut], dict[str, dict[str, int]], dict[str, int], dict[str, int]]:
    """Usable pairs, why others were dropped, how many were asked for, and how many end in two different answers."""
    cuts: list[Cut] = []
    reasons: dict[str, list[str]] = {name: [] for name in pairs.variables}
    asked = dict.fromkeys(pairs.variables, 0)
    ended = dict.fromkeys(pairs.variables, 0)
    for pair in pairs:
        one, other = runs[pair.recipient.key], runs[pair.donor.key]
        _check(pair, one, other)
        asked[pair.variable] += 1
        finished = one.finished and other.finished and one.answer is not None and other.answer is not None
        if finished and one.answer != other.answer:
            ended[pair.variable] += 1
        first, second = cut(one, onset, target, model), cut(other, onset, target, model)
        if isinstance(first, str) or isinstance(second, str):
            reasons[pair.variable].append(first if isinstance(first, str) else str(second))
        elif first.value == second.value or first.answer == second.answer:
            reasons[pair.variable].append("recipient and donor state the same value at the target")
        else:
            cuts.append((pair, first, second))
    if not cuts and any("no CoT before the onset" in told for told in reasons.values()):
        raise InputError(
            "no CoT before the onset: the answer stands at the first token, relay and tokens have no position"
        )
    return cuts, {name: count_reasons(told) for name, told in reasons.items() if told}, asked, ended


def _distinct(cuts: Sequence[Cut], variable: str) -> int:
    """How many different problems the pairs of a variable are made of: with fewer than two a pair they overlap."""
    pairs = [pair for pair, _, _ in cuts if pair.variable == variable]
    return len({problem.key for pair in pairs for problem in (pair.recipient, pair.donor)})


def _check(pair: Pair, one: Run, other: Run) -> None:
    """Pairs that no run can make right are errors, not counts."""
    if pair.recipient.answer == pair.donor.answer:
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


def _third_answers(cuts: Sequence[Cut], onset: Onset, seed: int) -> list[tuple[int, ...] | None]:
    """For each pair the answer tokens of another pair's problem that no cell of this one implies; None where there is
    none."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(cuts))
    thirds: list[tuple[int, ...] | None] = []
    for pair, one, other in cuts:
        own = {one.value, other.value, *(_implied((pair, one, other), cell, onset) for cell in MIXED)}
        foreign = (aim for i in order for aim in cuts[i][1:] if isinstance(aim, Aim) and aim.value not in own)
        third = next(foreign, None)
        thirds.append(third.answer if third else None)
        order = np.roll(order, 1)
    return thirds


def _distractor(model: Model, pairs: Pairs, cot: str, target: str, seed: int, n: int = 16) -> float | None:
    """The largest mean change (nats) of the own answer in any cell when a variable is varied that no answer depends on.

    None where the task has no such variable. (Log-odds of such a pair are 0 by identity, since its answers agree.)
    """
    task = pairs.task
    if not task.distractors:
        return None
    varied = task.pairs(n, seed=seed, vary=task.distractors[0])
    runs = cot_runs(model, list(dict.fromkeys(p for pair in varied for p in (pair.recipient, pair.donor))), cot)
    by, onset = runs.by_problem(), resolve_target(target, runs)
    cuts = [
        (cut(by[p.recipient.key], onset, target, model), cut(by[p.donor.key], onset, target, model)) for p in varied
    ]
    aims = [(one, other) for one, other in cuts if isinstance(one, Aim) and isinstance(other, Aim)]
    if not aims:
        return None
    log_p = eight_cells(model, aims, [None] * len(aims)).log_p[..., 0]
    return float(np.abs((log_p - log_p[:, :1]).mean(axis=0)).max())


def _replayed(cuts: Sequence[Cut], scores: Scores) -> float:
    """The share of natural runs whose greedy answer in the splice is the one that was generated."""
    parse = cuts[0][0].recipient.task.parse_answer
    same = [
        parse(scores.greedy[i, cell]) == aim.value
        for i, (_, one, other) in enumerate(cuts)
        for cell, aim in ((0, one), (N_CELLS - 1, other))
    ]
    return float(np.mean(same))


def _last_step(cuts: Sequence[Cut], onset: Onset) -> int | str | None:
    """The step at which the target is computed: its own number, or the one after the last that is written."""
    if isinstance(onset.slot, int):
        return onset.slot
    written = [max(aim.written, default=0) for _, one, other in cuts for aim in (one, other)]
    return max(set(written), key=written.count) + 1 if any(written) else None


def _arrays(
    cuts: Sequence[Cut], scores: Scores, moved: NDArray[Any] | None, onset: Onset, seed: int
) -> dict[str, NDArray[Any]]:
    """Rows [pair, direction, cell]: direction 0 is recipient to donor, 1 the same cells read the other way round."""
    rng = np.random.default_rng(seed)
    greedy = np.array(
        [[cuts[0][0].recipient.task.parse_answer(text) for text in row] for row in scores.greedy], dtype=object
    )
    implied = np.array([[_implied(row, cell, onset) for cell in range(N_CELLS)] for row in cuts], dtype=object)
    shuffled = implied[rng.permutation(len(cuts))]
    values = np.array([[one.value, other.value] for _, one, other in cuts], dtype=object)

    def directed(array: Any) -> NDArray[Any]:
        return np.stack([array, array[:, ::-1]], axis=1)  # the complement of a cell is its mirror image

    outcome = np.full((len(cuts), 2, N_CELLS), OUTCOMES.index("broken"), dtype=np.int8)
    program = np.zeros((len(cuts), 2, N_CELLS))
    for direction in (0, 1):
        said, meant = directed(greedy)[:, direction], directed(implied)[:, direction]
        donor, recipient = values[:, [1 - direction]], values[:, [direction]]
        for name, where in (("implied", said == meant), ("recipient's", said == recipient), ("donor's", said == donor)):
            outcome[:, direction][where & (said != None)] = OUTCOMES.index(name)  # noqa: E711 - elementwise
        program[:, direction] = (meant == donor).astype(float) - (meant == recipient)
    program[directed(implied) == None] = np.nan  # noqa: E711 - elementwise
    agrees = np.where(implied == None, np.nan, (greedy == implied).astype(float))  # noqa: E711
    agrees_shuffled = np.where(shuffled == None, np.nan, (greedy == shuffled).astype(float))  # noqa: E711
    return {
        "log_p": _directed_log_p(scores.log_p),
        "outcome": outcome,
        "program": program,
        "agrees": directed(agrees),
        "agrees_shuffled": directed(agrees_shuffled),
        "entropy": directed(scores.entropy),
        "log_p_boundary": _directed_log_p(scores.log_p * np.nan if moved is None else moved),
    }


def _directed_log_p(log_p: NDArray[Any]) -> NDArray[Any]:
    """Candidates of the first and second run, and a third, as donor's, recipient's, third in both directions."""
    return np.stack([log_p[..., [1, 0, 2]], log_p[:, ::-1]], axis=1)


def _implied(row: Cut, cell: int, onset: Onset) -> str | None:
    """What the program makes of the prompt of D and the steps of T; None where the text holds no step to read."""
    pair, one, other = row
    problem = (pair.recipient, pair.donor)[cell & 1]
    written = (one, other)[cell >> 2 & 1].written
    target: Target = onset.slot if isinstance(onset.slot, int) else "answer"
    if not written and target != 1:
        return None
    return problem.task.program(problem, written, target)
