"""The ledger: who computed each step. Swap one source, hold the rest, decode the target."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..core import InputError, Manifest, circumstance
from ..hooks import Model, Run, Runs
from ..hooks.format import decode
from ..hooks.gates import enforce, judge
from ..hooks.splice import decode_greedily
from ..tasks import Problem, Target
from .ledger_table import Ledger
from .targets import cot_runs, count_reasons

ADVICE = 'The same tokens do not give the same text again: try load(..., dtype="float32").'
NAMES = ("load", "keep", "broken", "chance")


def ledger(
    model: Model,
    problems: Sequence[Problem],
    *,
    cot: str | Runs | Mapping[str, Any] = "model",
    seed: int = 0,
    batch_size: int = 512,
    progress: bool = False,
) -> Ledger:
    """Swap each input variable and each written step alone, from another problem, and decode every later target.

    The program gives one rule a source: what the target is when it is computed from the source and the variables
    that the
    source does not hold already (a step), or all from the prompt (a variable). An edge is a direct effect with the
    later text held, not a part of a whole: rows need not add up to 1.

    Raises InputError where the task has no reference program or no run can be read; GateError where decoding the
    unswapped runs again does not give their own text.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-tokens")
    >>> found = ledger(model, model.task.problems(8))
    >>> found.rate("load", "answer", "step.1")[0]
    1.0
    """
    began = time.perf_counter()
    runs = cot_runs(model, problems, cot, progress)
    kept, dropped = _same_shape(list(runs))
    task = kept[0].problem.task
    steps = [f"step.{k}" for k in sorted(kept[0].values)]
    if task.program(kept[0].problem, {}, "answer") is None:
        raise InputError(f"task {task.spec!r} has no reference program: the ledger is scored by one")
    targets = [*steps, "answer"]
    sources = [name for name in task.inputs if name in kept[0].spans] + steps
    # As long as the longest that any run wrote: what a swap implies may be longer than what it replaces.
    lengths = {t: max(len(run.tokens(t)) for run in runs if t in run.spans) for t in targets}
    prefixes = {t: [run.ids[: _start(run, t)] for run in kept] for t in targets}
    own = {t: _decode(model, kept, prefixes[t], lengths[t], batch_size) for t in targets}
    written = {name: [_value(run, name) for run in kept] for name in targets}
    again = float(np.mean([own[name][i] == written[name][i] for name in targets for i in range(len(kept))]))
    gates = (
        [judge("generated = replayed (rate of texts that differ)", 1 - again, 1.0, ADVICE)] if cot == "model" else []
    )
    enforce(gates)
    shape = (len(targets), len(sources), len(kept))
    arrays = {name: np.full(shape, np.nan) for name in NAMES}
    copies = np.zeros(shape[:2], dtype=bool)
    rng = np.random.default_rng(seed)
    edges = [(t, s) for t, target in enumerate(targets) for s, source in enumerate(sources) if _before(source, target)]
    for t, s in tqdm(edges, desc="ledger", disable=not progress, leave=False):
        copies[t, s] = task.states(_target(targets[t])) == _stated(task, sources[s])
        found = _edge(model, kept, (targets[t], sources[s]), own[targets[t]], lengths[targets[t]], rng, batch_size)
        for name in NAMES:
            arrays[name][t, s] = found[name]
    facts = {
        "seed": seed,
        "dropped": dropped,
        "gates": [gate.asdict() for gate in gates],
        "replayed": again,
        "accuracy": runs.accuracy,
    }
    identity = {**model.identity(), "task": task.spec, "cot": cot if isinstance(cot, str) else "given"}
    coords = {"target": tuple(targets), "source": tuple(sources), "problem": tuple(r.problem.key for r in kept)}
    return Ledger(coords=coords, manifest=Manifest(identity, circumstance(began, **facts)), copy_edge=copies, **arrays)


def _same_shape(runs: Sequence[Run]) -> tuple[list[Run], dict[str, int]]:
    """The runs that state the most common number of steps, each in the most common number of tokens."""
    readable = [run for run in runs if run.finished and run.answer is not None]
    shapes = [
        tuple(run.spans[f"step.{k}"][1] - run.spans[f"step.{k}"][0] for k in sorted(run.values)) for run in readable
    ]
    if not readable:
        raise InputError("no run ends in an answer that the task can read: look at runs.frame() and at the format")
    common = max(sorted(set(shapes)), key=shapes.count)
    kept = [run for run, shape in zip(readable, shapes, strict=True) if shape == common]
    reasons = ["no answer that the task can read, or a chain of thought that was cut off"] * (len(runs) - len(readable))
    reasons += ["steps of another number or of unequal token count"] * (len(readable) - len(kept))
    return kept, count_reasons(reasons)


def _target(name: str) -> Target:
    return "answer" if name == "answer" else int(name.partition(".")[2])


def _stated(task: Any, source: str) -> str | None:
    return task.states(_target(source)) if source.startswith("step.") else source


def _start(run: Run, name: str) -> int:
    return run.spans[name][0]


def _value(run: Run, name: str) -> str | None:
    return run.answer if name == "answer" else run.values[int(name.partition(".")[2])]


def _before(source: str, target: str) -> bool:
    if not source.startswith("step."):
        return True
    return target == "answer" or int(source.partition(".")[2]) < int(target.partition(".")[2])


def _decode(
    model: Model, runs: Sequence[Run], prefixes: Sequence[tuple[int, ...]], length: int, batch_size: int
) -> list[str | None]:
    """The value of a target, decoded from its first token to its end."""
    written = decode_greedily(model, prefixes, [length] * len(prefixes), batch_size=batch_size)
    return [run.problem.task.parse_answer(decode(model.tokenizer, ids)) for run, ids in zip(runs, written, strict=True)]


def _edge(
    model: Model,
    runs: Sequence[Run],
    edge: tuple[str, str],
    own: Sequence[str | None],
    length: int,
    rng: np.random.Generator,
    batch_size: int,
) -> dict[str, NDArray[Any]]:
    """Load, keep, broken and chance of one edge (target, source), per problem.

    A problem is scored where the swap changes what the program makes of the source, and where the model does not say
    that anyway: otherwise the edge is blank there.
    """
    target, source = edge
    scored: list[tuple[int, str, tuple[int, ...]]] = []
    for i, run in enumerate(runs):
        swapped = _swap(run, runs, source, rng)
        if swapped is None:
            continue
        value, ids = swapped
        implied = _resume(run.problem, source, value, _target(target))
        before = _resume(run.problem, source, _source_value(run, source), _target(target))
        if implied is not None and own[i] is not None and implied not in (before, own[i]):
            scored.append((i, implied, ids[: _start(run, target)]))
    found = {name: np.full(len(runs), np.nan) for name in NAMES}
    if not scored:
        return found
    said = _decode(model, [runs[i] for i, _, _ in scored], [ids for _, _, ids in scored], length, batch_size)
    others = [scored[k][1] for k in rng.permutation(len(scored))]
    for (i, implied, _), text, other in zip(scored, said, others, strict=True):
        found["load"][i] = text == implied
        found["keep"][i] = text == own[i]
        found["broken"][i] = text not in (implied, own[i])
        if other != own[i]:
            found["chance"][i] = text == other
    return found


def _source_value(run: Run, source: str) -> str:
    """The value of a source in a run: of a step as written, of a variable as given."""
    return run.values[int(source.partition(".")[2])] if source.startswith("step.") else run.problem.values[source]


def _swap(run: Run, runs: Sequence[Run], source: str, rng: np.random.Generator) -> tuple[str, tuple[int, ...]] | None:
    """Another problem's value of a source, and the run's ids with it in place; None where no other has one that
    fits."""
    start, stop = run.spans[source]

    for i in rng.permutation(len(runs)):
        other = runs[i]
        tokens = other.tokens(source)
        if _source_value(other, source) != _source_value(run, source) and len(tokens) == stop - start:
            return _source_value(other, source), run.ids[:start] + tokens + run.ids[stop:]
    return None


def _resume(problem: Problem, source: str, value: str, target: Target) -> str | None:
    """What the program makes of the target from the swapped source alone."""
    if source.startswith("step."):
        return problem.task.program(problem, {int(source.partition(".")[2]): value}, target)
    return problem.task.program(problem.task.replace(problem, source, value), {}, target)
