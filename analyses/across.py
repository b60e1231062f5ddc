"""Across runs: does the state of a run that reasoned give the answer alone, put into one that did not, and back?"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..core import InputError, Manifest, check_name, circumstance
from ..hooks import Model, Runs
from ..hooks.interior import Interior
from ..hooks.sites import RESIDUAL_SITES, Site
from ..hooks.sweep import Cell, memory_of, open_interior
from ..hooks.trace import Trace, runs_in_memory
from ..hooks.writes import Write
from ..tasks import Problem
from .across_runs import Both, both_runs
from .across_table import CONTROLS, OWN, Across
from .aligned import Batch, begins
from .measured import measure

DIRECTIONS = ("into-answer-only", "into-cot")
NOISE, SHUFFLED = CONTROLS[2:]  # the own state of the problem, changed


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
    both, dropped = both_runs(model, problems, names, direction, cot, progress)
    arrays = _measure(model, interior, both, conditions, site, chosen, seed, memory_of(memory), progress)
    same = np.array([each.same for each in both])
    every = np.ones_like(same)
    how = {"site": site, "direction": direction, "cot": cot if isinstance(cot, str) else "given", "positions": names}
    facts = {"seed": seed, "dropped": dropped, "forwards": float(arrays.pop("forwards"))}
    return Across(
        coords={
            "condition": conditions,
            "layer": chosen,
            "position": tuple(names),
            "problem": tuple(each.key for each in both),
        },
        manifest=Manifest({**model.identity(), "task": problems[0].task.spec, **how}, circumstance(began, **facts)),
        base_right=every if direction == "into-cot" else same,
        source_right=same if direction == "into-cot" else every,
        **arrays,
    )


def _measure(
    model: Model,
    interior: Interior,
    both: Sequence[Both],
    conditions: Sequence[str],
    site: str,
    layers: Sequence[int],
    seed: int,
    memory: int,
    progress: bool,
) -> dict[str, NDArray[Any]]:
    """Every array, and the work in plain forward passes."""
    shape = (len(conditions), len(layers), len(both[0].places), len(both))
    arrays: dict[str, NDArray[Any]] = {
        "log_p": np.full(shape, np.nan),
        "outcome": np.full(shape, 2, dtype=np.int8),
        "base": np.zeros(len(both)),
        "source": np.zeros(len(both)),
        "foreign": np.zeros((len(conditions), len(both)), dtype=bool),
        "forwards": np.zeros(()),
    }
    rng = np.random.default_rng(seed)
    how: dict[str, Any] = {"metric": "log-probability", "sites": [Site(site, at) for at in layers], "memory": memory}
    for number, name in enumerate(tqdm(conditions, desc="across", disable=not progress, leave=False)):
        sources = _sources(name, both, rng)
        moved = name not in (NOISE, SHUFFLED)
        arrays["foreign"][number] = [
            j is not None and moved and _foreign(both[i], both[j]) for i, j in enumerate(sources)
        ]
        for batch, states in _batches(name, both, sources, model, site, layers, rng, memory):
            found = measure(model, interior, batch, shape[1] * shape[2], states, **how)
            index = list(batch.index)
            arrays["log_p"][number][:, :, index] = found.values.reshape(*shape[1:3], -1)
            arrays["outcome"][number][:, :, index] = found.outcomes.reshape(*shape[1:3], -1)
            if name == OWN:
                arrays["base"][index], arrays["source"][index] = found.recipient, found.donor
            arrays["forwards"] += found.forwards
    return arrays


def _sources(condition: str, both: Sequence[Both], rng: np.random.Generator) -> list[int | None]:
    """Whose state each problem gets: its own, another one's, or none where there is no such problem."""
    found: list[int | None] = []
    for i, each in enumerate(both):
        if condition == "other problem":
            fit = [j for j, other in enumerate(both) if other.said and not begins(other.said, each.answer)]
        elif condition == "same answer":
            fit = [j for j, other in enumerate(both) if other.said == each.answer and other.key != each.key]
        else:
            fit = [i] if condition != SHUFFLED or each.spare else []
        fit = [j for j in fit if _sizes(both[j]) == _sizes(each)]
        found.append(None if not fit else int(rng.choice(fit)) if len(fit) > 1 else fit[0])
    return found


def _foreign(one: Both, other: Both) -> bool:
    """Whether the run that a state is taken from says another answer than the one that is scored."""
    return bool(other.said) and not begins(other.said, one.answer)


def _against(one: Both, other: Both) -> tuple[int, ...]:
    """The answer that the scored one is told from: that of the run that a state is taken from, where it is another."""
    return other.said if _foreign(one, other) else one.answer


def _sizes(each: Both) -> list[int]:
    return [len(tokens) for tokens in each.source_places]


def _batches(
    condition: str,
    both: Sequence[Both],
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
            sizes = (len(one.base), len(other.source), len(_against(one, other)), len(one.answer))
            groups[(*sizes, one.places)].append((i, j))
    for (here, there, *_), group in groups.items():
        size = runs_in_memory(model, max(here, there), memory)
        for pairs in (group[start : start + size] for start in range(0, len(group), size)):
            batch = _batch(model, both, pairs)
            taken = [[both[j].source_places[p] for _, j in pairs] for p in range(len(batch.places))]
            if condition == SHUFFLED:
                taken = [
                    [tuple(rng.choice(both[j].spare, len(at))) for (_, j), at in zip(pairs, each, strict=True)]
                    for each in taken
                ]
            places = [torch.tensor(np.array(each)) for each in taken]
            noise = torch.Generator().manual_seed(int(rng.integers(1 << 31))) if condition == NOISE else None
            yield batch, partial(_cells, site, layers, batch.places, places, noise)


def _batch(model: Model, both: Sequence[Both], pairs: Sequence[tuple[int, int]]) -> Batch:
    """Problems, and those whose runs states are taken from."""

    def rows(tokens: Iterable[tuple[int, ...]]) -> Tensor:
        return torch.tensor(list(tokens), device=model.device)

    return Batch(
        index=tuple(i for i, _ in pairs),
        recipient=rows(both[i].base for i, _ in pairs),
        donor=rows(both[j].source for _, j in pairs),
        answers=(rows(_against(both[i], both[j]) for i, j in pairs), rows(both[i].answer for i, _ in pairs)),
        places=both[pairs[0][0]].places,
        donor_places=(),
        changed=torch.zeros(len(pairs), dtype=torch.long),
    )


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
    runs = torch.arange(len(base.ids))  # on the CPU, from where it fits states on any device
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
