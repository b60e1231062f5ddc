"""The ledger: who computed each step. Swap one source, hold the rest, decode the target."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..core import InputError, Manifest, check_name, circumstance
from ..hooks import Model, Run, Runs
from ..hooks.gates import Gate, enforce, judge
from ..hooks.memory import MEMORY
from ..hooks.support import check_spliceable
from ..tasks import Problem, Target
from .gold import accuracy_of
from .ledger_table import EDGES, SCORING, STATES, Ledger
from .ledger_texts import Texts, comparable, number, target_of, value_of
from .targets import cot_runs, count_reasons

ADVICE = 'The same tokens do not give the same text again: try load(..., dtype="float32").'


def ledger(
    model: Model,
    problems: Sequence[Problem],
    *,
    cot: str | Runs | Mapping[str, Any] = "model",
    targets: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 512,
    memory: float = MEMORY,
    max_new_tokens: int = 256,
    progress: bool = False,
) -> Ledger:
    """Swap each input variable and each written step alone, from another problem, and decode every later target.

    The program gives one rule a source: what the target is when it is computed from the source and the variables that
    the source does not hold already (a step), or all from the prompt (a variable). An edge is a direct effect with the
    later text held, not a part of a whole: rows need not add up to 1.

    A target is decoded from the first word after the step before it, so that its own words cannot carry the old value.
    Where the task has no program, steps only are swapped (with those of the problem's partner, where it has one that
    fits), and the outcomes are: the donor's step, the recipient's, other (a step that is computed from both).

    cot: "model" (its own greedy CoT), "task" (gold, off-policy), runs (several samples of a problem count as one unit),
        or transcripts by problem
    targets, sources: names such as "step.2", "answer", "operand.1"; by default all
    memory: gigabytes for a batch, as in `channels`; so many texts share one as fit, `batch_size` at most

    Runs that state other steps than most are left out and counted, as are swaps between steps of unequal token count
    (`Ledger.left_out()`). Raises InputError where more than half of the runs are lost, where nothing can be swapped,
    and for an unknown name; GateError where most unswapped runs, decoded again, do not give their own text.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-tokens")
    >>> found = ledger(model, model.task.problems(8))
    >>> found.rate("load", "answer", "step.1")[0]
    1.0
    """
    began = time.perf_counter()
    check_spliceable(model)
    runs = cot_runs(model, problems, cot, progress, max_new_tokens, memory=memory)
    kept, dropped = comparable(runs)
    chosen = _axes(kept, targets, sources)
    texts = Texts.decode(model, kept, chosen[0], batch_size, memory)
    scored = SCORING[0] if _has_program(kept[0]) else SCORING[1]
    arrays, unscored = _edges(texts, chosen, scored, seed, progress)
    again = float((arrays["own"] == STATES.index("as written")).mean())
    gates = [_replayed(again)] if cot == "model" else []
    enforce(gates)
    facts = {
        "seed": seed,
        "dropped": dropped,
        "unscored": unscored,
        "gates": [gate.asdict() for gate in gates],
        "replayed": again,
        **accuracy_of(runs),
    }
    task = kept[0].problem.task
    identity = {
        **model.identity(),
        "task": task.spec,
        "cot": cot if isinstance(cot, str) else "given",
        "scored": scored,
    }
    coords = {
        "target": chosen[0],
        "source": chosen[1],
        "problem": tuple(run.problem.key for run in kept),
        "step": tuple(f"step.{k}" for k in sorted(kept[0].values)),
    }
    return Ledger(coords=coords, manifest=Manifest(identity, circumstance(began, **facts)), **arrays)


def _has_program(run: Run) -> bool:
    task = run.problem.task
    asked: list[Target] = [*run.values, "answer"]
    return any(task.program(run.problem, run.values, target) is not None for target in asked)


def _axes(
    kept: Sequence[Run], targets: Sequence[str] | None, sources: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The targets and sources of the ledger, in the order of the text."""
    task = kept[0].problem.task
    steps = [f"step.{k}" for k in sorted(kept[0].values)]
    inputs = [name for name in task.inputs if all(name in run.spans for run in kept)] if _has_program(kept[0]) else []
    if not steps and not inputs:
        raise InputError(
            f"task {task.spec!r} has no reference program and reads no step in these chains of thought: the ledger has "
            "nothing to swap. Give the task a parse_steps that finds the value of each step, or a program"
        )
    known = ([*steps, "answer"], [*inputs, *steps])
    asked = [
        {check_name(kind, name, all_of) for name in names} if names is not None else set(all_of)
        for kind, names, all_of in zip(("target", "source"), (targets, sources), known, strict=True)
    ]
    found = [tuple(name for name in all_of if name in wanted) for all_of, wanted in zip(known, asked, strict=True)]
    return found[0], found[1]


def _replayed(again: float) -> Gate:
    """Near-ties flip a few texts in low precision: a rate that warns; but most texts must be the model's own."""
    gate = judge("generated = replayed (rate of texts that differ)", 1 - again, 1.0, ADVICE)
    return replace(gate, verdict="warn") if gate.verdict == "stop" and again >= 0.5 else gate


def _edges(
    texts: Texts, axes: tuple[Sequence[str], Sequence[str]], scored: str, seed: int, progress: bool
) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, int]]]:
    """The arrays of the ledger, and for each edge why pairs are not scored."""
    targets, sources = axes
    task = texts.runs[0].problem.task
    arrays = {name: np.full((len(targets), len(sources), len(texts.runs)), np.nan) for name in EDGES}
    copies = np.zeros((len(targets), len(sources)), dtype=bool)
    unscored: dict[str, dict[str, int]] = {}
    edges = [(t, s) for t, target in enumerate(targets) for s, source in enumerate(sources) if _before(source, target)]
    for t, s in tqdm(edges, desc="ledger", disable=not progress, leave=False):
        edge = f"{targets[t]} <- {sources[s]}"
        rng = np.random.default_rng([seed, *edge.encode()])  # the same for an edge, whatever else is asked for
        stated = task.states(target_of(sources[s])) if sources[s].startswith("step.") else sources[s]
        copies[t, s] = stated is not None and task.states(target_of(targets[t])) == stated
        swaps = [_swap(texts, i, sources[s], targets[t], scored, rng) for i in range(len(texts.runs))]
        unscored[edge] = count_reasons([swap for swap in swaps if isinstance(swap, str)])
        for name, values in _edge(texts, targets[t], swaps).items():
            arrays[name][t, s] = values
    own = np.array([[_state(texts, i, target) for i in range(len(texts.runs))] for target in targets], dtype=np.int8)
    return {**arrays, "own": own, "copy_edge": copies}, {edge: told for edge, told in unscored.items() if told}


def _before(source: str, target: str) -> bool:
    return not source.startswith("step.") or target == "answer" or number(source) < number(target)


def _state(texts: Texts, i: int, target: str) -> int:
    """What the unswapped output is: the text as written, another value, or none."""
    said = texts.own[target][i]
    if said is None:
        return STATES.index("no value")
    return STATES.index("as written" if said == value_of(texts.runs[i], target) else "another value")


@dataclass(frozen=True)
class _Swap:
    """A run with one source from a donor in place: the value that the swap implies, and the ids before the target."""

    implied: str
    prefix: tuple[int, ...]
    follows: bool  # whether the unswapped output is what the unswapped source implies


def _swap(texts: Texts, i: int, source: str, target: str, scored: str, rng: np.random.Generator) -> _Swap | str:
    """The swap of a source in run `i`, or the reason why it says nothing of the target.

    A pair is scored where the swap changes what the program makes of the source, and where the model does not say that
    anyway: so the unswapped rate of `load` is 0 on the scored pairs, that of `keep` 1, that of `broken` 0.
    """
    run, own = texts.runs[i], texts.own[target][i]
    donor = texts.donor(run, source, rng)
    if isinstance(donor, str):
        return donor
    if own is None:
        return "the unswapped output holds no value"
    if scored == SCORING[1]:
        before, implied = value_of(run, target), value_of(donor, target)
    else:
        before, implied = (_resume(run.problem, source, value_of(one, source), target) for one in (run, donor))
        if implied is None:
            return "the program cannot say what the swap implies"
        if implied == before:
            return "the swap does not change what the program implies"
    assert implied is not None
    if implied == own:
        return "the unswapped output is what the swap implies"
    start, stop = run.spans[source]
    ids = run.ids[:start] + donor.tokens(source) + run.ids[stop:]
    return _Swap(implied, ids[: texts.starts[target][i]], own == before)


def _resume(problem: Problem, source: str, value: str | None, target: str) -> str | None:
    """What the program makes of the target from the swapped source alone."""
    assert value is not None
    if source.startswith("step."):
        return problem.task.program(problem, {number(source): value}, target_of(target))
    return problem.task.program(problem.task.replace(problem, source, value), {}, target_of(target))


def _edge(texts: Texts, target: str, swaps: Sequence[_Swap | str]) -> dict[str, NDArray[Any]]:
    """The outcomes of one edge, per run; NaN where it says nothing."""
    scored = {i: swap for i, swap in enumerate(swaps) if isinstance(swap, _Swap)}
    found = {name: np.full(len(swaps), np.nan) for name in EDGES}
    said = texts.say(target, list(scored), [swap.prefix for swap in scored.values()])
    implied = Counter(swap.implied for swap in scored.values())
    for (i, swap), text in zip(scored.items(), said, strict=True):
        own = texts.own[target][i]
        found["load"][i] = text == swap.implied
        found["keep"][i] = text == own
        found["broken"][i] = text not in (swap.implied, own)
        found["unswapped"][i] = swap.follows
        # What the other swaps imply, those that imply the unswapped output left out, as they are for load.
        others = len(scored) - 1 - implied[str(own)]
        hits = 0 if text is None or text == own else implied[text] - (text == swap.implied)
        found["chance"][i] = hits / others if others else np.nan
    return found
