"""Across runs: does the state of a run that reasoned give the answer alone, put into one that did not, and back?"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..core import InputError, Manifest, check_name, circumstance
from ..hooks import Model, Run, Runs, generate, resolve
from ..hooks.sites import RESIDUAL_SITES, Site
from ..hooks.sweep import Cell, memory_of, open_interior
from ..hooks.trace import Trace, runs_in_memory
from ..hooks.writes import Write
from ..tasks import Problem
from .across_table import CONTROLS, OWN, Across
from .aligned import Batch, begins
from .measured import measure
from .targets import cot_runs, count_reasons

DIRECTIONS = ("into-answer-only", "into-cot")


@dataclass(frozen=True)
class _Both:
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


def across(
    model: Model,
    problems: Sequence[Problem],
    *,
    site: str = "resid_post",
    positions: Mapping[str, str] | Sequence[str] | str = ("cue[-1]",),
    layers: Sequence[int] | None = None,
    direction: str = "into-answer-only",
    cot: str | Runs | Mapping[str, Any] = "model",
    controls: Sequence[str] = CONTROLS,
    seed: int = 0,
    memory: int | str = "1GB",
    progress: bool = False,
) -> Across:
    """Put the state of a problem's CoT run into its answer-only run at matching positions, or the other way round.

    site: one of the residual stream (`resid_pre`, `resid_post`, ..., `attn_out`, `mlp_out`)
    positions: names that both runs have, or a mapping from names of the run that is written to names of the other;
        spans of as many tokens. Before the texts part both runs are the same, so patching there changes nothing
    direction: "into-answer-only": does the reasoning state alone give the answer? "into-cot": does the state of a run
        that did not reason take it away?
    cot: as in `channels`; the answer that is scored is the CoT run's own

    Beside the problem's own state stand, drawn with `seed`: the state of another problem (which should bring *that*
    answer), of another problem with the same answer (is it the answer that the state carries, or the problem?), the own
    state of the run with noise as long as the change that the patch makes, and the state of another CoT position.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:both")
    >>> found = across(model, model.task.problems(8), layers=[model.n_layers - 1], controls=[])
    >>> found.frame().query("quantity == 'own answer'")["estimate"].tolist()
    [1.0]
    """
    began = time.perf_counter()
    check_name("site", site, RESIDUAL_SITES)
    check_name("direction", direction, DIRECTIONS)
    if isinstance(controls, str):
        raise InputError(f"controls={controls!r}: expected a list of names")
    conditions = (OWN, *(check_name("control", name, CONTROLS) for name in controls))
    interior = open_interior(model)
    chosen = tuple(range(model.n_layers)) if layers is None else tuple(layers)
    for layer in chosen:
        model.sites.check(Site(site, layer))
    given = [positions] if isinstance(positions, str) else positions
    names = dict(given) if isinstance(given, Mapping) else {name: name for name in given}
    if not names or not chosen:
        raise InputError(f"positions={list(names)}, layers={list(chosen)}: name at least one place and one layer")
    both, dropped = _both(model, problems, names, direction, cot, progress)
    shape = (len(conditions), len(chosen), len(names), len(both))
    log_p, outcome = np.full(shape, np.nan), np.full(shape, 2, dtype=np.int8)
    natural, foreign = np.zeros((2, len(both))), np.zeros((len(conditions), len(both)), dtype=bool)
    rng = np.random.default_rng(seed)
    forwards = 0.0
    for number, name in enumerate(tqdm(conditions, desc="across", disable=not progress, leave=False)):
        sources = _sources(name, both, rng)
        moved = name not in ("noise, same length", "shuffled position")
        foreign[number] = [j is not None and moved and _foreign(both[i], both[j]) for i, j in enumerate(sources)]
        for batch, states in _batches(name, both, sources, model, site, chosen, rng, memory_of(memory)):
            found = measure(
                model,
                interior,
                batch,
                states,
                metric="log-probability",
                sites=[Site(site, layer) for layer in chosen],
                memory=memory_of(memory),
            )
            index = list(batch.index)
            log_p[number][:, :, index] = found.values.reshape(len(chosen), len(names), -1)
            outcome[number][:, :, index] = found.outcomes.reshape(len(chosen), len(names), -1)
            if name == OWN:
                natural[:, index] = found.recipient, found.donor
            forwards += found.forwards
    same = np.array([each.same for each in both])
    every = np.ones_like(same)
    how = {"site": site, "direction": direction, "cot": cot if isinstance(cot, str) else "given", "positions": names}
    facts = {"seed": seed, "dropped": dropped, "forwards": forwards}
    return Across(
        coords={
            "condition": conditions,
            "layer": chosen,
            "position": tuple(names),
            "problem": tuple(each.key for each in both),
        },
        manifest=Manifest({**model.identity(), "task": problems[0].task.spec, **how}, circumstance(began, **facts)),
        log_p=log_p,
        outcome=outcome,
        base=natural[0],
        source=natural[1],
        foreign=foreign,
        base_right=every if direction == "into-cot" else same,
        source_right=same if direction == "into-cot" else every,
    )


def _both(
    model: Model, problems: Sequence[Problem], names: Mapping[str, str], direction: str, cot: Any, progress: bool
) -> tuple[list[_Both], dict[str, int]]:
    """Both runs of every problem, and why others were left out."""
    if not problems:
        raise InputError("no problems to measure")
    reasoned = cot_runs(model, problems, cot, progress).by_problem()
    direct = generate(model, problems, "answer-only", progress=progress).by_problem()
    found: list[_Both] = []
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
        for (name, its), own in zip(names.items(), range(len(names)), strict=True):
            if len(places[own]) != len(source_places[own]):
                raise InputError(
                    f"position {name!r} has {len(places[own])} tokens, {its!r} of the other run has "
                    f"{len(source_places[own])} (problem {problem.key!r}): name places of as many tokens"
                )
        spare = range(*source.spans.get("cot", source.spans["prompt"]))
        taken = {place for each in source_places for place in each}
        found.append(
            _Both(
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


def _sources(condition: str, both: Sequence[_Both], rng: np.random.Generator) -> list[int | None]:
    """Whose state each problem gets: its own, another one's, or none where there is no such problem."""
    found: list[int | None] = []
    for i, each in enumerate(both):
        if condition == "other problem":
            fit = [j for j, other in enumerate(both) if other.said and not begins(other.said, each.answer)]
        elif condition == "same answer":
            fit = [j for j, other in enumerate(both) if other.said == each.answer and other.key != each.key]
        else:
            fit = [i] if condition != "shuffled position" or each.spare else []
        fit = [j for j in fit if _sizes(both[j]) == _sizes(each)]
        found.append(None if not fit else int(rng.choice(fit)) if len(fit) > 1 else fit[0])
    return found


def _foreign(one: _Both, other: _Both) -> bool:
    """Whether the run that a state is taken from says another answer than the one that is scored."""
    return bool(other.said) and not begins(other.said, one.answer)


def _sizes(each: _Both) -> list[int]:
    return [len(tokens) for tokens in each.source_places]


def _batches(
    condition: str,
    both: Sequence[_Both],
    sources: Sequence[int | None],
    model: Model,
    site: str,
    layers: Sequence[int],
    rng: np.random.Generator,
    memory: int,
) -> Iterator[tuple[Batch, Callable[[Trace, Trace], list[Cell]]]]:
    """Problems of the same lengths together, and what is written into them."""
    groups: dict[tuple[Any, ...], list[tuple[int, int]]] = defaultdict(list)
    for i, j in enumerate(sources):
        if j is not None:
            one, other = both[i], both[j]
            foreign = other.said if _foreign(one, other) else one.answer
            sizes = (len(one.base), len(other.source), len(foreign), len(one.answer))
            groups[(*sizes, one.places)].append((i, j))
    parts = []
    for (here, there, *_, places), group in groups.items():
        size = runs_in_memory(model, max(here, there), memory)
        parts += [(places, group[start : start + size]) for start in range(0, len(group), size)]
    for places, pairs in parts:
        given = {
            "recipient": [both[i].base for i, _ in pairs],
            "donor": [both[j].source for _, j in pairs],
        }
        ids = {name: torch.tensor(rows, device=model.device) for name, rows in given.items()}
        answers = (
            torch.tensor(
                [both[j].said if _foreign(both[i], both[j]) else both[i].answer for i, j in pairs], device=model.device
            ),
            torch.tensor([both[i].answer for i, _ in pairs], device=model.device),
        )
        taken = [[both[j].source_places[p] for _, j in pairs] for p in range(len(places))]
        if condition == "shuffled position":
            taken = [
                [tuple(rng.choice(both[j].spare, len(at))) for (_, j), at in zip(pairs, each, strict=True)]
                for each in taken
            ]
        index = tuple(i for i, _ in pairs)
        batch = Batch(
            index,
            **ids,
            answers=answers,
            places=places,
            donor_places=(),
            changed=torch.zeros(len(pairs), dtype=torch.long),
        )
        noise = torch.Generator().manual_seed(int(rng.integers(1 << 31))) if condition.startswith("noise") else None
        yield batch, partial(_cells, site, layers, places, [torch.tensor(np.array(each)) for each in taken], noise)


def _cells(
    site: str,
    layers: Sequence[int],
    places: Sequence[tuple[int, ...]],
    taken: Sequence[Tensor],
    noise: torch.Generator | None,
    base: Trace,
    source: Trace,
) -> list[Cell]:
    """A cell a layer and place: the other run's state, or the run's own with noise as long as the change."""
    runs = torch.arange(len(base.ids), device=base.ids.device)
    cells = []
    for layer in layers:
        for own, at in zip(places, taken, strict=True):
            values = source.get(site, layer)[runs[:, None], at.to(runs.device)]
            if noise is not None:
                plain = base.get(site, layer)[:, list(own)]
                drawn = torch.randn(plain.shape, generator=noise).to(plain)
                length = (values - plain).norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)
                values = plain + drawn * length
            cells.append(Cell((Write(site, layer, own, values.__getitem__),), runs))
    return cells
