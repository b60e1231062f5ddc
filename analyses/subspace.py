"""Subspaces: does the answer move when what a probe reads is swapped or erased? Decodable is not used."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..core import InputError, Manifest, check_name, circumstance
from ..hooks import MODES, Mode, Model, Runs, generate, record
from ..hooks.sweep import Cell, memory_of, open_interior
from ..hooks.trace import Trace
from ..hooks.writes import Write
from ..probes import random_subspace, remove, swap
from ..tasks import Pairs, Problem
from .aligned import Aligned, Batch, align
from .controls import random_twin
from .measured import measure
from .subspace_find import Asked, Fitted, Swap, is_named, labels_of, own_answers, pair_folds, swaps_of
from .subspace_table import (
    ERASED,
    MATCHED,
    MODELS,
    RANDOM,
    RANDOM_ERASED,
    SHUFFLED,
    SHUFFLED_ERASED,
    SWAPPED,
    WHOLE,
    Subspace,
)
from .targets import cot_runs

FINDS = ("leace", "means", "das")
SITES = ("resid_pre", "resid_post")


def subspace(
    model: Model,
    pairs: Pairs,
    variable: str | None = None,
    *,
    find: Any = "leace",
    rank: int | None = None,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    position: str = "cue[-1]",
    mode: Mode = "answer-only",
    target: str = "onset",
    cot: str | Runs | Mapping[str, Any] = "model",
    fit: int | Sequence[Problem] = 500,
    draws: int = 8,
    steps: int = 100,
    twin: bool = True,
    seed: int = 0,
    memory: int | str = "1GB",
    progress: bool = False,
) -> Subspace:
    """Swap the subspace of a variable between the runs of a pair, erase it, and see whether the answer moves.

    variable: a value of the problems (`v_2`, `operand.1`); by default the last intermediate, the answer
    find: "leace", the part of the state that LEACE would erase (what goes linearly with the variable, and no more);
        "means", the span of the differences between class means; a probe with `subspace_` (its reading directions);
        "das", a rotation learnt so that the swap gives the donor's answer (`rank` directions, `steps` of Adam), on half
        of the pairs and measured on the other, both ways; or an orthonormal basis `[d_model, rank]`
    site: `resid_pre` or `resid_post`; position: one place that both runs have, each of its tokens swapped alike
    fit: how many problems probes are fitted to, none of them in a pair, or the problems
    draws: of every random control; twin: whether the same is done on a copy of the model with random weights, where
        what counts is its own most likely token (pairs in which that does not differ are left out there)

    Beside the subspace stand the whole state (what any subspace can do), random subspaces of the same rank, the same
    with the change as long as the subspace's own, and the subspace found with permuted labels: where few directions
    hold most of the variance, noise finds those too, and swapping them moves the answer whatever they are named after.
    Erasing is LEACE, after which no linear probe reads the variable, beside LEACE for permuted labels and the removal
    of a random subspace. Sources: Geiger et al. 2021 (2106.02997), 2023 (2303.02536), Belrose et al. 2023 (2306.03819);
    that a random model must stand beside a learnt rotation: Sutter et al. 2025 (2507.08802).

    >>> from loadbearing.hooks import load
    >>> model = load("organism:direct")
    >>> found = subspace(model, model.task.pairs(4), layers=[2], fit=200, twin=False)
    >>> moved = found.frame().query("quantity == 'moved'").set_index("intervention")["estimate"]
    >>> moved["whole state"].item(), moved["subspace"].item(), moved["random subspace"].item()
    (1.0, 1.0, 0.0)
    """
    began = time.perf_counter()
    check_name("mode", mode, MODES)
    asked = _ask(model, pairs, variable, find, rank, site, layers, position, draws, steps, seed)
    aligned = align(model, pairs, mode=mode, target=target, cot=cot, positions=[position], progress=progress)
    if len(aligned.labels) != 1:
        raise InputError(f"position {position!r} names {len(aligned.labels)} places: name one, such as 'cue[-1]'")
    runs = _fit_runs(model, pairs, fit, mode, seed, progress) if asked.variable else None
    models = [model, *([random_twin(model, seed)] if twin else [])]
    own = [aligned, *(own_answers(one, aligned) for one in models[1:])]
    parts = [_measure(m, of, runs, asked, memory_of(memory), progress) for m, of in zip(models, own, strict=True)]
    stacked = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    how = {"variable": asked.variable, "find": _told(find), "site": site, "position": position, "mode": mode}
    how |= {"target": target, "cot": cot if isinstance(cot, str) else "given"}
    forwards = float(stacked.pop("forwards").sum())
    labels = labels_of(runs, asked.variable) if runs is not None else np.array([""])
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    facts = {"dropped": aligned.dropped, "pairs": aligned.digest, "entropy": float(-(share * np.log2(share)).sum())}
    return Subspace(
        coords={"model": MODELS[: len(models)], "layer": asked.layers, "intervention": _names(asked)},
        manifest=Manifest(
            {**model.identity(), "task": pairs.task.spec, **how},
            circumstance(began, seed=seed, forwards=forwards, **facts),
        ),
        **stacked,
    )


def _ask(
    model: Model,
    pairs: Pairs,
    variable: str | None,
    find: Any,
    rank: int | None,
    site: str,
    layers: Sequence[int] | None,
    position: str,
    draws: int,
    steps: int,
    seed: int,
) -> Asked:
    """The question, checked."""
    check_name("site", site, SITES)
    config: Any = model.module.config
    chosen = tuple(range(model.n_layers)) if layers is None else tuple(layers)
    if not chosen or not set(chosen) <= set(range(model.n_layers)):
        raise InputError(f"layers={list(chosen)}: this model has layers 0 to {model.n_layers - 1}")
    if isinstance(find, str):
        check_name("find", find, FINDS)
    elif not hasattr(find, "fit"):
        given = np.shape(find)
        if len(given) != 2 or given[0] != config.hidden_size:
            raise InputError(
                f"find: expected 'leace', 'means', 'das', a probe, or a basis [{config.hidden_size}, rank], got shape "
                f"{given}"
            )
        try:
            swap(np.zeros(len(find)), np.zeros(len(find)), find)
        except ValueError as error:
            raise InputError(f"find: {error}") from error
    if is_named(find, "das") and variable is not None:
        raise InputError(
            f"variable={variable!r}: find='das' finds what moves the answer, whatever it is called; leave it out"
        )
    for name, number in (("rank", rank), ("draws", draws), ("steps", steps)):
        if number is not None and not 1 <= number <= (config.hidden_size if name == "rank" else number):
            raise InputError(f"{name}={number}: expected 1 or more, and a rank of at most {config.hidden_size}")
    if variable is None and pairs.task.intermediates and not is_named(find, "das"):
        variable = pairs.task.intermediates[-1]
    problems = pairs.problems
    if variable is not None and problems and variable not in problems[0].values:
        check_name("variable", variable, problems[0].values)
    if variable is None and (hasattr(find, "fit") or is_named(find, "means", "leace")):
        raise InputError("the problems have no variable to find a subspace of: use find='das', or give a basis")
    if rank is not None and not is_named(find, "means", "das"):
        raise InputError(
            f"rank={rank}: find={_told(find)!r} has the rank of the variable; rank is for 'means' and 'das'"
        )
    return Asked(variable, find, rank, site, chosen, position, draws, steps, seed)


def _told(find: Any) -> str:
    return find if isinstance(find, str) else repr(find) if hasattr(find, "fit") else f"given, rank {np.shape(find)[1]}"


def _fit_runs(model: Model, pairs: Pairs, fit: int | Sequence[Problem], mode: Mode, seed: int, progress: bool) -> Runs:
    """Runs of problems that are in no pair."""
    taken = {problem.key for problem in pairs.problems}
    given = pairs.task.problems(fit, seed, "train") if isinstance(fit, int) else list(fit)
    chosen = [problem for problem in given if problem.key not in taken]
    if not chosen:
        raise InputError(f"all {len(given)} problems to fit to are in a pair: give others as `fit`")
    return cot_runs(model, chosen, "model", progress) if mode == "cot" else generate(model, chosen, mode)


def _measure(
    model: Model, aligned: Aligned, runs: Runs | None, asked: Asked, memory: int, progress: bool
) -> dict[str, NDArray[Any]]:
    """Every array of one model, without its first axis."""
    interior = open_interior(model)
    n, fold = len(aligned.pairs), pair_folds(aligned, asked)
    acts = record(model, runs, [asked.site], [asked.position], layers=asked.layers) if runs is not None else None
    shape = (len(asked.layers), len(_names(asked)), n)
    arrays: dict[str, NDArray[Any]] = {
        "values": np.full(shape, np.nan),
        "outcome": np.full(shape, 2, dtype=np.int8),
        "recipient": np.full(n, np.nan),
        "donor": np.full(n, np.nan),
        "plain": np.full(n, 2, dtype=np.int8),
        "bits": np.full((len(asked.layers), n), np.nan),
        "rank": np.zeros(len(asked.layers), dtype=np.int64),
        "forwards": np.zeros(()),
    }
    for i, layer in enumerate(tqdm(asked.layers, desc="subspaces", disable=not progress, leave=False)):
        fitted = Fitted.of(acts, runs, layer, asked)
        swaps = swaps_of(model, interior, aligned, fold, layer, fitted, asked)
        arrays["rank"][i] = swaps[0].rank
        for batch in [part for whole in aligned.batches for part in whole.parts(model, memory)]:
            index = list(batch.index)
            cells = _Cells(asked, layer, batch, swaps, torch.from_numpy(fold[index]), fitted)
            found = measure(model, interior, batch, shape[1], cells.made, memory=memory)
            arrays["values"][i][:, index], arrays["outcome"][i][:, index] = found.values, found.outcomes
            arrays["recipient"][index], arrays["donor"][index] = found.recipient, found.donor
            arrays["plain"][index] = found.plain_outcome
            arrays["forwards"] += found.forwards
            if fitted is not None:
                arrays["bits"][i, index] = fitted.bits(aligned, batch, cells.states)
    return arrays


class _Cells:
    """The interventions at one layer of a batch; `states` are those of the recipients and donors, once made."""

    def __init__(
        self, asked: Asked, layer: int, batch: Batch, swaps: list[Swap], fold: Tensor, fitted: Fitted | None
    ) -> None:
        self.asked, self.layer, self.batch = asked, layer, batch
        self.swaps, self.fold, self.fitted = swaps, fold, fitted
        self.states: tuple[Tensor, Tensor]

    def made(self, base: Trace, source: Trace) -> list[Cell]:
        """A cell an intervention, in the order of `_names`."""
        own, other = self.batch.places[0], self.batch.donor_places[0]
        x = base.get(self.asked.site, self.layer)[:, list(own)]
        y = source.get(self.asked.site, self.layer)[:, list(other)]
        self.states = (x, y)
        moved = torch.empty_like(x)
        for f, exchange in enumerate(self.swaps):
            rows = self.fold.to(x.device) == f
            moved[rows] = exchange(x[rows], y[rows])
        generator = torch.Generator().manual_seed(self.asked.seed)
        shape = (x.shape[-1], self.swaps[0].rank, generator)
        random = [random_subspace(*shape).to(x.device) for _ in range(self.asked.draws)]
        swapped = [swap(x, y, basis) for basis in random]
        values = [y, moved, *swapped, *(_as_long(x, each, moved) for each in swapped)]
        if self.fitted is not None:
            fitted = self.fitted
            values += [exchange(x, y) for exchange in fitted.shuffled]
            values += [eraser.transform(x.flatten(0, 1)).view_as(x) for eraser in (fitted.eraser, *fitted.erasers)]
            values += [remove(x, basis, fitted.mean.to(x.device)) for basis in random]
        runs = torch.arange(len(x), device=x.device)
        return [Cell((Write(self.asked.site, self.layer, own, _taken(each)),), runs) for each in values]


def _names(asked: Asked) -> tuple[str, ...]:
    """The interventions in their order, a control as often as it is drawn."""
    names = [WHOLE, SWAPPED, *[RANDOM] * asked.draws, *[MATCHED] * asked.draws]
    if asked.variable is not None:
        names += [*[SHUFFLED] * asked.draws, ERASED, *[SHUFFLED_ERASED] * asked.draws, *[RANDOM_ERASED] * asked.draws]
    return tuple(names)


def _taken(values: Tensor) -> Any:
    return lambda runs: values[runs]


def _as_long(x: Tensor, changed: Tensor, like: Tensor) -> Tensor:
    """The change from x, as long at every token as that of another."""
    change, wanted = changed - x, (like - x).norm(dim=-1, keepdim=True)
    longer: Tensor = x + change * wanted / change.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return longer
