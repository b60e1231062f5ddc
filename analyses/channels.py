"""Channels: how much of a target's dependence on the prompt goes direct, by relay, and by tokens (the 2x2x2 table)."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import InputError, Manifest, circumstance
from ..hooks import Model, Runs, generate
from ..hooks.gates import enforce
from ..hooks.memory import MEMORY
from ..tasks import Pairs, Problem
from .cell_parts import cells_in_parts
from .cells import N_CELLS
from .channel_table import Channels
from .eight import Scores, eight_cells, memory_of
from .estimates import OUTCOMES
from .gates import run_gates, self_donor
from .parts import Parts
from .prepare import Cut, Cuts, gold_answers, implied, prepare, third_answers
from .targets import Aim, Onset, cot_runs, cut, resolve_target


def channels(
    model: Model,
    pairs: Pairs | Sequence[Problem],
    *,
    target: str = "onset",
    cot: str | Runs | Mapping[str, Any] = "model",
    samples: int = 1,
    temperature: float = 0.0,
    keep: str = "all",
    open: str | None = None,
    boundary: bool | None = None,
    seed: int = 0,
    batch_size: int = 64,
    memory: float = MEMORY,
    max_new_tokens: int = 256,
    parts: Parts | str | Path | None = None,
    progress: bool = False,
) -> Channels:
    """Set each of the three wires from the prompt to the target to the recipient's or the donor's value: eight cells.

    target: "onset" (where the answer is first stated; the default), "answer" (after the full CoT) or "step.K"
    cot: "model" (its own greedy CoT), "task" (gold, off-policy), runs, or transcripts by problem
    samples, temperature: draw so many CoTs a problem instead of the greedy one; intervals are over pairs of problems
    keep: "all", or "correct": only pairs whose answers are the gold ones, as far as these are known, and one is
    open: another text that opens the answer-only run, whose accuracy is printed beside
    boundary: also measure with the opening text counted with the CoT (default: where the target is the onset)
    memory: gigabytes for every batch, that writes runs, reads cells or checks them: its caches, a pass over them, its
        logits (about); so many pairs share one as fit, `batch_size` at most, and one that does not fit is run alone
    parts: a folder in which the scores of each batch are kept, so that an interrupted call goes on; or `Parts`, to
        compute them by parts or by workers. The result is that of a call without, to the last bit

    Raises InputError for pairs of unequal prompt length or equal answers, and where no pair is left; GateError where
    splicing does not reproduce the plain run; Interrupted while other `parts` are missing. Problems without a partner:
    see `ablation`. Source of the estimand: the mediation formulas of Pearl (2001) and Vig et al. (arXiv 2004.12265),
    for three wires at once, as Shapley values.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-tokens")
    >>> result = channels(model, model.task.pairs(8), target="answer")
    >>> [f"{abs(share):.3f}" for share in result.shares("value")]
    ['0.000', '0.000', '1.000']
    """
    began = time.perf_counter()
    if not isinstance(pairs, Pairs):
        raise InputError(
            "expected pairs (task.pairs(n)): problems without a partner have no donor; for them see analyses.ablation"
        )
    drawn: dict[str, Any] = {"samples": samples, "temperature": temperature, "keep": keep}
    limits: dict[str, Any] = {"memory": memory, "progress": progress}
    cuts = prepare(model, pairs, target, cot, seed=seed, max_new_tokens=max_new_tokens, **limits, **drawn)
    thirds = third_answers(cuts.rows, cuts.onset, seed)
    golds, twice = gold_answers(cuts.rows, target), boundary or (boundary is None and target == "onset")
    given = (model, cuts.aims, thirds)
    limits["batch_size"] = batch_size
    if parts is not None:
        scores, moved = cells_in_parts(*given, golds, Parts.of(parts), moved=twice, **limits)
    else:
        scores, moved = eight_cells(*given, more=golds, **limits), None
    gates = run_gates(model, cuts.runs, cuts.aims, thirds, scores, memory)
    enforce(gates)
    if twice and moved is None:
        moved = eight_cells(*given, open_with_cot=True, **limits).log_p
    checked = {
        "gates": [gate.asdict() for gate in gates],
        "one_pass": one_pass(model, pairs, open, memory=memory),
        "replayed": _replayed(cuts.rows, scores),
        "self_donor": self_donor(*given, memory),
        "distractor": _distractor(model, pairs, cot, target, seed, memory) if isinstance(cot, str) else None,
        "cache_gigabytes_a_pair": memory_of(model, cuts.aims) / 1e9,
    }
    facts = {"seed": seed, **_counted(pairs, cuts), **checked, "device": str(model.device)}
    how = {"task": pairs.task.spec, "target": target, "cot": cot if isinstance(cot, str) else "given"}
    return Channels(
        coords={"variable": pairs.variables, "cell": tuple(range(N_CELLS)), "outcome": OUTCOMES},
        manifest=Manifest({**model.identity(), **how, **drawn}, circumstance(began, **facts)),
        variable=np.array([pairs.variables.index(pair.variable) for pair, _, _ in cuts.rows]),
        unit=np.array(cuts.unit),
        cots_differ=np.array([one.cot != other.cot for _, one, other in cuts.rows]),
        **_arrays(cuts.rows, scores, moved, cuts.onset, seed),
    )


def _counted(pairs: Pairs, cuts: Cuts) -> dict[str, Any]:
    """What a manifest says about pairs and variables before anything is scored."""
    return {
        **cuts.counts(),
        "left_out": dict(pairs.left_out),
        "problems": {name: _distinct(cuts.rows, name) for name in pairs.variables},
        "first_use": {name: pairs.task.first_use(name) for name in pairs.variables},
        "last_step": _last_step(cuts.rows, cuts.onset),
    }


def one_pass(model: Model, pairs: Pairs, open: str | None, n: int = 256, memory: float = MEMORY) -> dict[str, float]:
    """The accuracy of the answer-only run with nothing, the format's text and a given one as its opening text."""
    if not model.supports("answer-only"):
        return {}
    problems = pairs.problems[:n]
    opens = dict.fromkeys(["", model.format.direct_open, *([open] if open is not None else [])])
    runs = {
        text: generate(model.with_format(direct_open=text), problems, "answer-only", memory=memory) for text in opens
    }
    return {text: own.accuracy for text, own in runs.items()}


def _distinct(cuts: Sequence[Cut], variable: str) -> int:
    """How many different problems the pairs of a variable are made of: with fewer than two a pair they overlap."""
    pairs = [pair for pair, _, _ in cuts if pair.variable == variable]
    return len({problem.key for pair in pairs for problem in (pair.recipient, pair.donor)})


def _distractor(
    model: Model, pairs: Pairs, cot: str, target: str, seed: int, memory: float, n: int = 16
) -> float | None:
    """The largest mean change (nats) of the own answer in any cell when a variable is varied that no answer depends on.

    None where the task has no such variable. (Log-odds of such a pair are 0 by identity, since its answers agree.)
    """
    task = pairs.task
    if not task.distractors:
        return None
    varied = task.pairs(n, seed=seed, vary=task.distractors[0])
    runs = cot_runs(model, varied.problems, cot, memory=memory)
    by, onset = runs.by_problem(), resolve_target(target, runs)
    cuts = [
        (cut(by[p.recipient.key], onset, target, model), cut(by[p.donor.key], onset, target, model)) for p in varied
    ]
    aims = [(one, other) for one, other in cuts if isinstance(one, Aim) and isinstance(other, Aim)]
    if not aims:
        return None
    log_p = eight_cells(model, aims, [None] * len(aims), memory=memory).log_p[..., 0]
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
    meant_by = np.array([[implied(row, cell, onset) for cell in range(N_CELLS)] for row in cuts], dtype=object)
    shuffled = meant_by[rng.permutation(len(cuts))]
    values = np.array([[one.value, other.value] for _, one, other in cuts], dtype=object)

    def directed(array: Any) -> NDArray[Any]:
        return np.stack([array, array[:, ::-1]], axis=1)  # the complement of a cell is its mirror image

    outcome = np.full((len(cuts), 2, N_CELLS), OUTCOMES.index("broken"), dtype=np.int8)
    program = np.zeros((len(cuts), 2, N_CELLS))
    for direction in (0, 1):
        said, meant = directed(greedy)[:, direction], directed(meant_by)[:, direction]
        donor, recipient = values[:, [1 - direction]], values[:, [direction]]
        for name, where in (("implied", said == meant), ("recipient's", said == recipient), ("donor's", said == donor)):
            outcome[:, direction][where & (said != None)] = OUTCOMES.index(name)  # noqa: E711 - elementwise
        program[:, direction] = (meant == donor).astype(float) - (meant == recipient)
    program[directed(meant_by) == None] = np.nan  # noqa: E711 - elementwise
    agrees = np.where(meant_by == None, np.nan, (greedy == meant_by).astype(float))  # noqa: E711
    agrees_shuffled = np.where(shuffled == None, np.nan, (greedy == shuffled).astype(float))  # noqa: E711
    return {
        "log_p": _directed_log_p(scores.log_p[..., :3]),
        "log_p_gold": _directed_gold(cuts, scores.log_p),
        "distance": directed(distances(scores.state)),
        "outcome": outcome,
        "program": program,
        "agrees": directed(agrees),
        "agrees_shuffled": directed(agrees_shuffled),
        "entropy": directed(scores.entropy),
        "log_p_boundary": _directed_log_p(scores.log_p[..., :3] * np.nan if moved is None else moved[..., :3]),
    }


def _directed_log_p(log_p: NDArray[Any]) -> NDArray[Any]:
    """Candidates of the first and second run, and a third, as donor's, recipient's, third in both directions."""
    return np.stack([log_p[..., [1, 0, 2]], log_p[:, ::-1]], axis=1)


def _directed_gold(cuts: Sequence[Cut], log_p: NDArray[Any]) -> NDArray[Any]:
    """The donor's and the recipient's gold answer in both directions: the own answer's where that is the gold one.

    NaN where an own answer is wrong and no run wrote the gold one.
    """
    own = np.array([[a.value == p.answer for a, p in ((one, q.recipient), (other, q.donor))] for q, one, other in cuts])
    gold = np.where(own[:, None], log_p[..., :2], log_p[..., 3:5])
    return np.stack([gold[..., ::-1], gold[:, ::-1]], axis=1)


def distances(states: NDArray[Any]) -> NDArray[Any]:
    """How far the reader's state is from natural runs: the distance `[pair, cell]` to the nearest natural state of
    another pair, over the median of that distance for natural states themselves. 1 is on the map."""
    pairs = len(states)
    natural = states[:, [0, N_CELLS - 1]].reshape(2 * pairs, -1)
    owner = np.repeat(np.arange(pairs), 2)
    found = np.full(states.shape[:2], np.nan)
    for i in range(pairs) if pairs > 1 else ():
        others = natural[owner != i]
        found[i] = np.sqrt(((states[i][:, None] - others) ** 2).sum(-1)).min(axis=1)
    usual = np.median(found[:, [0, -1]])
    return np.asarray(found / usual) if usual > 0 else np.full_like(found, np.nan)
