"""Subspaces: does the answer move when what a probe reads is swapped or erased? Decodable is not used."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.base import clone
from torch import Tensor
from tqdm import tqdm

from ..core import InputError, Manifest, check_name, circumstance
from ..hooks import MODES, Mode, Model, Runs, generate, record
from ..hooks.interior import Interior
from ..hooks.packed import Write
from ..hooks.support import check_spliceable
from ..hooks.sweep import Cell, memory_of
from ..hooks.trace import Trace
from ..probes import LeaceEraser, RidgeProbe, group_folds, random_subspace, remove, swap
from ..tasks import Pairs, Problem
from .aligned import Aligned, Batch, align
from .controls import random_twin
from .das import learn_subspace
from .measured import measure
from .subspace_table import ERASED, MATCHED, MODELS, RANDOM, RANDOM_ERASED, SWAPPED, WHOLE, Subspace
from .targets import cot_runs

FINDS = ("means", "das")
SITES = ("resid_pre", "resid_post")
FOLDS = 2  # of pairs, for a subspace that is learnt from pairs


@dataclass(frozen=True)
class _Asked:
    """What is asked: the variable and how its subspace is found, where, with how many draws of each control."""

    variable: str | None
    find: Any
    rank: int | None
    site: str
    layers: tuple[int, ...]
    position: str
    draws: int
    steps: int
    seed: int


@dataclass(frozen=True)
class _Layer:
    """What was found at one layer: a basis `[d, rank]` for every fold of pairs, an eraser, and what is read."""

    bases: list[Tensor]
    eraser: LeaceEraser | None
    mean: Tensor | None
    bits: NDArray[Any]


def subspace(
    model: Model,
    pairs: Pairs,
    variable: str | None = None,
    *,
    find: Any = "means",
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
    find: "means", the span of the differences between class means; a probe with `subspace_` (its reading directions);
        "das", a rotation learnt so that the swap gives the donor's answer (`rank` directions, `steps` of Adam), on half
        of the pairs and measured on the other, both ways; or an orthonormal basis `[d_model, rank]`
    site: `resid_pre` or `resid_post`; position: one place that both runs have, each of its tokens swapped alike
    fit: how many problems probes are fitted to, none of them in a pair, or the problems
    draws: of every random control; twin: whether the same is done on a copy of the model with random weights

    Beside the subspace stand the whole state (what any subspace can do), random subspaces of the same rank, the same
    with the change as long as the subspace's own, and erasing the subspace of random rank-equal directions. Erasing is
    LEACE: no linear probe reads the variable afterwards. Source: Geiger et al. 2021 (2106.02997), 2023 (2303.02536),
    Belrose et al. 2023 (2306.03819); that a random model must stand beside a learnt rotation: Sutter et al. 2025
    (2507.08802).

    >>> from loadbearing.hooks import load
    >>> model = load("organism:direct")
    >>> found = subspace(model, model.task.pairs(4), layers=[1], fit=200, twin=False)
    >>> found.frame().query("intervention == 'whole state' and quantity == 'moved'")["estimate"].iloc[0] > 0.5
    np.True_
    """
    began = time.perf_counter()
    check_name("mode", mode, MODES)
    check_spliceable(model)
    asked = _ask(model, pairs, variable, find, rank, site, layers, position, draws, steps, seed)
    aligned = align(model, pairs, mode=mode, target=target, cot=cot, positions=[position], progress=progress)
    if len(aligned.labels) != 1:
        raise InputError(f"position {position!r} names {len(aligned.labels)} places: name one, such as 'cue[-1]'")
    runs = _fit_runs(model, pairs, fit, mode, seed, progress) if asked.variable else None
    models = [model, *([random_twin(model, seed)] if twin else [])]
    parts = [_measure(one, aligned, runs, asked, memory_of(memory), progress) for one in models]
    stacked = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    names = [WHOLE, SWAPPED, *[RANDOM] * draws, *[MATCHED] * draws]
    names += [ERASED, *[RANDOM_ERASED] * draws] if asked.variable else []
    how = {"variable": asked.variable, "find": _told(find), "site": site, "position": position, "mode": mode}
    how |= {"target": target, "cot": cot if isinstance(cot, str) else "given"}
    forwards = float(stacked.pop("forwards").sum())
    labels = _labels(runs, asked.variable) if runs is not None else np.array([])
    share = np.unique(labels, return_counts=True)[1] / max(1, len(labels))
    return Subspace(
        coords={"model": MODELS[: len(models)], "layer": asked.layers, "intervention": tuple(names)},
        manifest=Manifest(
            {**model.identity(), "task": pairs.task.spec, **how},
            circumstance(began, seed=seed, dropped=aligned.dropped, forwards=forwards, pairs=aligned.digest),
        ),
        entropy=np.array(-(share * np.log2(share)).sum() if runs is not None else np.nan),
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
) -> _Asked:
    """The question, checked."""
    check_name("site", site, SITES)
    chosen = tuple(range(model.n_layers)) if layers is None else tuple(layers)
    if not chosen or not set(chosen) <= set(range(model.n_layers)):
        raise InputError(f"layers={list(chosen)}: this model has layers 0 to {model.n_layers - 1}")
    if isinstance(find, str):
        check_name("find", find, FINDS)
    elif not hasattr(find, "fit"):
        config: Any = model.module.config
        given = np.shape(find)
        if len(given) != 2 or given[0] != config.hidden_size:
            raise InputError(
                f"find: expected 'means', 'das', a probe, or a basis [{config.hidden_size}, rank], got shape {given}"
            )
    if variable is None and pairs.task.intermediates:
        variable = pairs.task.intermediates[-1]
    problems = [p for pair in pairs for p in (pair.recipient, pair.donor)]
    if variable is not None and problems and variable not in problems[0].values:
        check_name("variable", variable, problems[0].values)
    if variable is None and (hasattr(find, "fit") or _is(find, "means")):
        raise InputError("the problems have no variable to find a subspace of: use find='das', or give a basis")
    if draws < 1:
        raise InputError(f"draws={draws}: expected 1 or more random subspaces, without which a swap says nothing")
    return _Asked(variable, find, rank, site, chosen, position, draws, steps, seed)


def _is(find: Any, name: str) -> bool:
    return isinstance(find, str) and find == name


def _told(find: Any) -> str:
    return find if isinstance(find, str) else repr(find) if hasattr(find, "fit") else f"given, rank {np.shape(find)[1]}"


def _fit_runs(model: Model, pairs: Pairs, fit: int | Sequence[Problem], mode: Mode, seed: int, progress: bool) -> Runs:
    """Runs of problems that are in no pair."""
    taken = {p.key for pair in pairs for p in (pair.recipient, pair.donor)}
    given = pairs.task.problems(fit, seed, "train") if isinstance(fit, int) else list(fit)
    chosen = [problem for problem in given if problem.key not in taken]
    if not chosen:
        raise InputError(f"all {len(given)} problems to fit to are in a pair: give others as `fit`")
    return cot_runs(model, chosen, "model", progress) if mode == "cot" else generate(model, chosen, mode)


def _labels(runs: Runs, variable: str | None) -> NDArray[Any]:
    return np.array([run.problem.values[str(variable)] for run in runs])


def _measure(
    model: Model, aligned: Aligned, runs: Runs | None, asked: _Asked, memory: int, progress: bool
) -> dict[str, NDArray[Any]]:
    """Every array of one model, without its first axis."""
    interior = Interior.of(model.module, model.sites)
    n, fold = len(aligned.pairs), _pair_folds(aligned, asked)
    acts = record(model, runs, [asked.site], [asked.position], layers=asked.layers) if runs is not None else None
    count = 2 + 2 * asked.draws + (1 + asked.draws if acts is not None else 0)
    shape = (len(asked.layers), count, n)
    arrays: dict[str, NDArray[Any]] = {
        "values": np.zeros(shape),
        "outcome": np.zeros(shape, dtype=np.int8),
        "recipient": np.zeros(n),
        "donor": np.zeros(n),
        "plain": np.zeros(n, dtype=np.int8),
        "bits": np.full((len(asked.layers), n), np.nan),
        "rank": np.zeros(len(asked.layers), dtype=np.int64),
        "forwards": np.zeros(()),
    }
    for i, layer in enumerate(tqdm(asked.layers, desc="subspaces", disable=not progress, leave=False)):
        fitted = _Fitted.of(acts, runs, layer, asked)
        bases = _bases(model, interior, aligned, fold, layer, fitted, asked)
        arrays["rank"][i] = bases[0].shape[1]
        for batch in aligned.batches:
            index = list(batch.index)
            cells = _Cells(asked, layer, batch, bases, torch.from_numpy(fold[index]), fitted)
            found = measure(model, interior, batch, cells.made, memory=memory)
            arrays["values"][i][:, index], arrays["outcome"][i][:, index] = found.values, found.outcomes
            arrays["recipient"][index], arrays["donor"][index] = found.recipient, found.donor
            arrays["plain"][index] = found.plain_outcome
            arrays["forwards"] += found.forwards
            if fitted is not None:
                arrays["bits"][i, index] = fitted.bits(aligned, batch, cells.states)
    return arrays


@dataclass(frozen=True)
class _Fitted:
    """What was fitted to runs of other problems at one layer: their states and labels, an eraser, a reader."""

    X: Tensor
    y: NDArray[Any]
    eraser: LeaceEraser
    reader: RidgeProbe
    variable: str

    @classmethod
    def of(cls, acts: Any, runs: Runs | None, layer: int, asked: _Asked) -> "_Fitted | None":
        """Fit to recorded activations; None where no variable is named."""
        if acts is None or runs is None:
            return None
        X, rows = acts.select(asked.site, layer=layer)
        y = _labels(runs, asked.variable)[rows["run"].to_numpy()]
        if len(np.unique(y)) < 2:
            raise InputError(f"{asked.variable} has one value in all {len(runs)} problems: fit to more of them")
        groups = rows["run"].to_numpy() if rows["run"].duplicated().any() else None
        reader = RidgeProbe().fit(X, y, **({} if groups is None else {"groups": groups}))
        return cls(X, y, LeaceEraser().fit(X, y), reader, str(asked.variable))

    def bits(self, aligned: Aligned, batch: Batch, states: Sequence[Tensor]) -> NDArray[Any]:
        """Bits about the variable that the reader has of both runs of each pair, the mean of the two and of tokens."""
        classes, counts = np.unique(self.y, return_counts=True)
        null = dict(zip(classes, np.log2(counts / counts.sum()), strict=True))
        total = np.zeros(len(batch.index))
        for side, of in enumerate(states):
            names = [aligned.pairs[i][side].run.problem.values[self.variable] for i in batch.index]  # type: ignore[union-attr]
            column = [list(classes).index(name) if name in null else -1 for name in names]
            log_p = self.reader.predict_log_proba(of.flatten(0, 1).float().cpu())
            log_p = np.asarray(log_p).reshape(*of.shape[:2], -1).mean(axis=1) / np.log(2.0)
            own = [
                log_p[row, at] - null[name] if at >= 0 else np.nan
                for row, (at, name) in enumerate(zip(column, names, strict=True))
            ]
            total += np.array(own) / 2
        return total


def _bases(
    model: Model,
    interior: Interior,
    aligned: Aligned,
    fold: NDArray[Any],
    layer: int,
    fitted: _Fitted | None,
    asked: _Asked,
) -> list[Tensor]:
    """The basis to swap in the pairs of each fold: the same for all, unless it is learnt from pairs."""
    if _is(asked.find, "das"):
        boundary = layer + (asked.site == "resid_post")
        folds = [torch.from_numpy(fold[list(batch.index)]) for batch in aligned.batches]
        return [
            learn_subspace(
                model,
                interior,
                [
                    (batch, (own != f).nonzero()[:, 0].to(model.device))
                    for batch, own in zip(aligned.batches, folds, strict=True)
                ],
                boundary,
                0,
                asked.rank or 1,
                steps=asked.steps,
                seed=asked.seed,
            )
            for f in range(FOLDS)
        ]
    if not isinstance(asked.find, str) and not hasattr(asked.find, "fit"):
        return [torch.as_tensor(asked.find, dtype=torch.float64)]
    assert fitted is not None
    if hasattr(asked.find, "fit"):
        found = clone(asked.find).fit(fitted.X, fitted.y)
        if not hasattr(found, "subspace_"):
            raise InputError(f"{type(found).__name__} has no subspace_: give a linear probe, or find='means'")
        return [torch.as_tensor(found.subspace_, dtype=torch.float64)]
    means = torch.stack(
        [fitted.X[torch.from_numpy(fitted.y == value)].double().mean(0) for value in np.unique(fitted.y)]
    )
    left = torch.linalg.svd((means - means.mean(0)).T, full_matrices=False)[0]
    return [left[:, : min(asked.rank or len(means) - 1, left.shape[1])]]


def _pair_folds(aligned: Aligned, asked: _Asked) -> NDArray[Any]:
    """The fold of every pair, for subspaces learnt from pairs: pairs that share a problem are in the same one."""
    if not (_is(asked.find, "das")):
        return np.zeros(len(aligned.pairs), dtype=np.int64)
    keys = [[side.run.problem.key for side in pair[:2]] for pair in aligned.pairs]  # type: ignore[union-attr]
    number = {key: i for i, key in enumerate(dict.fromkeys(key for both in keys for key in both))}
    edges = np.array([[number[key] for key in both] for both in keys]).T
    graph = coo_array((np.ones(len(keys)), (edges[0], edges[1])), shape=(len(number), len(number)))
    groups = connected_components(graph, directed=False)[1][edges[0]]
    if len(np.unique(groups)) < FOLDS:
        raise InputError(
            f"{len(keys)} pairs that share problems cannot be held out from one another: give more pairs, with other "
            "problems"
        )
    return np.asarray(group_folds(groups, FOLDS, asked.seed))


class _Cells:
    """The interventions at one layer of a batch; `states` are those of the recipients and donors, once made."""

    def __init__(
        self, asked: _Asked, layer: int, batch: Batch, bases: list[Tensor], fold: Tensor, fitted: _Fitted | None
    ) -> None:
        self.asked, self.layer, self.batch = asked, layer, batch
        self.bases, self.fold, self.fitted = bases, fold, fitted
        self.states: tuple[Tensor, Tensor]

    def made(self, base: Trace, source: Trace) -> list[Cell]:
        """A cell an intervention, in the order of the result's."""
        own, other = self.batch.places[0], self.batch.donor_places[0]
        x = base.get(self.asked.site, self.layer)[:, list(own)]
        y = source.get(self.asked.site, self.layer)[:, list(other)]
        self.states = (x, y)
        moved = torch.empty_like(x)
        for f, basis in enumerate(self.bases):
            rows = self.fold.to(x.device) == f
            moved[rows] = swap(x[rows], y[rows], basis.to(x.device))
        generator = torch.Generator().manual_seed(self.asked.seed)
        shape = (x.shape[-1], self.bases[0].shape[1], generator)
        random = [random_subspace(*shape).to(x.device) for _ in range(self.asked.draws)]
        swapped = [swap(x, y, basis) for basis in random]
        values = [y, moved, *swapped, *(_as_long(x, each, moved) for each in swapped)]
        if self.fitted is not None:
            mean = self.fitted.X.double().mean(0)
            values += [self.fitted.eraser.transform(x.flatten(0, 1)).view_as(x)]
            values += [remove(x, basis, mean.to(x.device)) for basis in random]
        runs = torch.arange(len(x), device=x.device)
        return [Cell((Write(self.asked.site, self.layer, own, _taken(each)),), runs) for each in values]


def _taken(values: Tensor) -> Any:
    return lambda runs: values[runs]


def _as_long(x: Tensor, changed: Tensor, like: Tensor) -> Tensor:
    """The change from x, as long at every token as that of another."""
    change, wanted = changed - x, (like - x).norm(dim=-1, keepdim=True)
    return x + change * wanted / change.norm(dim=-1, keepdim=True).clamp_min(1e-12)
