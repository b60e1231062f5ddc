"""Decodability: what a probe reads, where, in bits, in the answer-only and in the CoT run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..core import InputError, Manifest, circumstance
from ..hooks import MODES, Model, Runs
from ..hooks.sites import site_name
from ..probes import RidgeProbe, Sweep, group_folds, null_log_p, sweep
from ..tasks import Problem
from .both_modes import both_modes
from .controls import random_twin
from .decodability_table import CONTROLS, SHARES, Decodability
from .gold import scores
from .readings import Place, one_hot, places_of
from .text import text_log_p

LN2 = float(np.log(2.0))


@dataclass(frozen=True)
class Question:
    """What is asked of every place: labels by variable `[problem]`, folds, bits that the best constant lacks
    `[variable, problem]`, and how."""

    labels: dict[str, NDArray[Any]]
    fold: NDArray[Any]
    null: NDArray[Any]
    probe: Any
    shuffles: int
    text: bool
    seed: int


def decodability(
    model: Model,
    problems: Sequence[Problem],
    *,
    variables: Sequence[str] | None = None,
    sites: Sequence[str] = ("resid_post",),
    probe: Any = None,
    folds: int = 5,
    shuffles: int = 20,
    twin: bool = True,
    text: bool = True,
    cot: str | Runs | Mapping[str, Any] = "model",
    direct: Runs | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Decodability:
    """Fit a linear probe for every variable at every site, layer and position of both runs, out of fold, in bits.

    Positions: `prompt[-1]`, `open[-1]` and `cue[-1]` in both runs, and the end of every step in the CoT run. Folds are
    grouped by problem. The bits of a place are I_V(h -> y) = H_V(y) - H_V(y | h) for the probe's family
    (`loadbearing.probes`); negatives are kept. Of a place they stand at the site and layer that each training fold
    chose by its own inner loss. The forward-pass bits are those of the answer-only run at the position, site and layer
    chosen so, and stand beside one-pass accuracy.

    variables: by default the task's intermediates, the answer last; sites: as in `loadbearing.hooks.record`
    probe: `RidgeProbe()` by default, or another classifier of `loadbearing.probes`
    shuffles: permutations of the labels, a control at every place; twin: whether to probe a copy of the model with
        random weights over the same tokens; text: whether to read the chain of thought so far without the model
    cot, direct: runs to record, if there are any already (the first of each problem); as in `errors`

    Raises InputError for a variable that the problems do not have, and for runs that lack a problem; ValueError for
    fewer problems than folds.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> found = decodability(model, model.task.problems(100), shuffles=2, twin=False)
    >>> bool(found.curve().query("position == 'step.3[-1]'")["bits"].iloc[0] > 3.0)
    True
    """
    began = time.perf_counter()
    names = variables_of(problems, variables)
    asked = _ask(problems, names, RidgeProbe() if probe is None else probe, folds, shuffles, text, seed)
    runs = both_modes(model, problems, cot, direct, progress=progress)
    sites = tuple(dict.fromkeys(site_name(site)[0] for site in sites))
    places = [(of, place) for of in runs.values() for place in places_of(model, of, sites, progress=progress)]
    other = random_twin(model, seed) if twin else None
    twins = [place for of in runs.values() for place in places_of(other, of, sites)] if other is not None else []
    arrays, swept = _measure(asked, places, twins, (len(sites), model.n_layers), progress)
    alone = [place for _, place in places]
    chosen, where = _choose(asked, alone, swept)
    coords = {
        "place": tuple(place.name for place in alone),
        "site": sites,
        "layer": tuple(range(model.n_layers)),
        "variable": names,
        "mode": MODES,
        "control": CONTROLS,
        "share": SHARES,
        "problem": tuple(problem.key for problem in problems),
    }
    told = {name: [alone[p].name, sites[s], layer] for name, (p, s, layer) in zip(names, where, strict=True)}
    facts = {"seed": seed, "folds": folds, "chosen": told}
    how = {"probe": repr(asked.probe), "cot": cot if isinstance(cot, str) else "given"}
    identity = {**model.identity(), "task": problems[0].task.spec, **how}
    return Decodability(
        coords=coords,
        manifest=Manifest(identity, circumstance(began, **facts)),
        **arrays,
        chosen=chosen,
        taught=_against_n(asked, alone, where),
        null=asked.null,
        majority=np.array([np.unique(y, return_counts=True)[1].max() / len(y) for y in asked.labels.values()]),
        correct=np.stack([scores(runs[mode]) if mode in runs else np.full(len(problems), np.nan) for mode in MODES]),
    )


def variables_of(problems: Sequence[Problem], variables: Sequence[str] | None) -> tuple[str, ...]:
    """The variables to probe: those named, or the task's intermediates; all problems must have them."""
    if not problems:
        raise InputError("no problems to probe")
    names = tuple(variables if variables is not None else problems[0].task.intermediates)
    unknown = [name for name in names if any(name not in problem.values for problem in problems)]
    if unknown or not names:
        raise InputError(f"variables {unknown or list(names)}: the problems have {', '.join(problems[0].values)}")
    return names


def _ask(
    problems: Sequence[Problem], names: Sequence[str], probe: Any, folds: int, shuffles: int, text: bool, seed: int
) -> Question:
    labels = {name: np.array([problem.values[name] for problem in problems]) for name in names}
    fold = group_folds(np.array([problem.key for problem in problems]), folds, seed)
    null = np.stack([_null(y, fold) for y in labels.values()])
    return Question(labels, fold, null, probe, shuffles, text, seed)


def _null(y: NDArray[Any], fold: NDArray[Any]) -> NDArray[Any]:
    """Bits that the best constant of each training fold lacks on the held-out labels."""
    null = np.zeros(len(y))
    for f in np.unique(fold):
        null[fold == f] = -null_log_p(y[fold != f], y[fold == f]) / LN2
    return null


def _measure(
    asked: Question, places: list[tuple[Runs, Place]], twins: list[Place], cells: tuple[int, int], progress: bool
) -> tuple[dict[str, NDArray[Any]], list[Sweep | None]]:
    """Every array over places, and the sweep of each place."""
    many, variables, n = len(places), len(asked.labels), len(asked.fold)
    bits = np.full((many, *cells, variables, n), np.nan)
    curve = np.full((many, variables, n), np.nan)
    controls = np.full((len(CONTROLS), many, variables, n), np.nan)
    shuffled = np.full((many, variables, asked.shuffles), np.nan)
    swept: list[Sweep | None] = []
    for p, (runs, place) in enumerate(tqdm(places, desc="probes", disable=not progress, leave=False)):
        found = place.sweep(asked.labels, asked.fold, probe=asked.probe, seed=asked.seed)
        swept.append(found)
        if found is None:
            continue
        for target in found.targets:
            v = list(asked.labels).index(target)
            bits[p, :, :, v, place.run] = np.moveaxis(found.bits(target), -1, 0)
            losses, picks = found.chosen(target)
            null = found.null[found.targets.index(target)]
            curve[p, v, place.run] = (null - losses) / LN2
            shuffled[p, v] = _shuffled(asked, place, target, max(picks, key=picks.count), found.fold)
        controls[CONTROLS.index("position-only"), p] = _by_position(asked, place, found)
        if twins:
            controls[CONTROLS.index("random-init"), p] = _of_twin(asked, twins[p])
        if asked.text:
            controls[CONTROLS.index("text-only"), p] = _by_text(asked, runs, place)
    return {"bits": bits, "curve_bits": curve, "controls": controls, "shuffled": shuffled}, swept


def _shuffled(asked: Question, place: Place, target: str, cell: tuple[int, ...], fold: NDArray[Any]) -> NDArray[Any]:
    """Mean out-of-fold bits of permuted labels: what the fit finds where there is nothing."""
    if not asked.shuffles:
        return np.empty(0)
    rng = np.random.default_rng(asked.seed)
    y = asked.labels[target][place.run]
    labels = {str(s): rng.permutation(y) for s in range(asked.shuffles)}
    site, layer = cell
    found = sweep(place.X[:, site, layer], labels, probe=asked.probe, folds=fold)
    return np.array([found.bits(name).mean() for name in labels])


def _of_twin(asked: Question, place: Place) -> NDArray[Any]:
    """Bits `[variable, problem]` of the random twin, at the site and layer that each training fold chose."""
    bits = np.full((len(asked.labels), len(asked.fold)), np.nan)
    found = place.sweep(asked.labels, asked.fold, probe=asked.probe, seed=asked.seed)
    for target in found.targets if found is not None else ():
        losses, _ = found.chosen(target)  # type: ignore[union-attr]
        null = found.null[found.targets.index(target)]  # type: ignore[union-attr]
        bits[list(asked.labels).index(target), place.run] = (null - losses) / LN2
    return bits


def _by_position(asked: Question, place: Place, found: Sweep) -> NDArray[Any]:
    """Bits `[variable, problem]` of a probe that sees which token of the run the place is, and nothing else."""
    bits = np.full((len(asked.labels), len(asked.fold)), np.nan)
    labels = {name: asked.labels[name][place.run] for name in found.targets}
    only = sweep(one_hot(place.token), labels, probe=RidgeProbe(), folds=found.fold)
    for name in found.targets:
        bits[list(asked.labels).index(name), place.run] = only.bits(name)
    return bits


def _by_text(asked: Question, runs: Runs, place: Place) -> NDArray[Any]:
    """Bits `[variable, problem]` of the chain of thought up to the place, read without the model; 0 before it
    begins."""
    bits = np.full((len(asked.labels), len(asked.fold)), np.nan)
    for v, y in enumerate(asked.labels.values()):
        bits[v, place.run] = 0.0
        if runs.mode == "cot" and not place.name.endswith(("prompt[-1]", "open[-1]")):
            classes, index = np.unique(y[place.run], return_inverse=True)
            here = [runs[int(i)] for i in place.run]
            log_p = text_log_p(
                here,
                place.token + 1,
                y[place.run],
                classes,
                asked.fold[place.run],
                tokenizer=runs.model.tokenizer,
                seed=asked.seed,
            )
            own = log_p[np.arange(len(index)), index]
            bits[v, place.run] = own / LN2 + asked.null[v, place.run]
    return bits


def _choose(
    asked: Question, places: Sequence[Place], swept: Sequence[Sweep | None]
) -> tuple[NDArray[Any], list[tuple[int, int, int]]]:
    """Bits at the answer-only place that each training fold chose, and (place, site, layer) chosen most often.

    Without an answer-only run the bits are NaN, and the place is one of the CoT run.
    """
    direct = [p for p, place in enumerate(places) if place.name.startswith("answer-only")]
    chosen = np.full((len(asked.labels), len(asked.fold)), np.nan)
    where: list[tuple[int, int, int]] = []
    for v, name in enumerate(asked.labels):
        picks: list[tuple[int, int, int]] = []
        for f in range(int(asked.fold.max()) + 1):
            best = (np.inf, (0, 0, 0))
            for p in direct or range(len(places)):
                found = swept[p]
                if found is None or name not in found.targets:
                    continue
                inner = found.inner[found.targets.index(name), f]
                site, layer = (int(i) for i in np.unravel_index(int(inner.argmin()), inner.shape))
                best = min(best, (float(inner.min()), (p, site, layer)))
            p, site, layer = best[1]
            picks.append(best[1])
            if direct and np.isfinite(best[0]):
                rows = asked.fold[places[p].run] == f
                table = swept[p]
                assert table is not None
                chosen[v, places[p].run[rows]] = table.bits(name)[site, layer, rows]
        where.append(max(picks, key=picks.count))
    return chosen, where


def _against_n(asked: Question, places: Sequence[Place], where: Sequence[tuple[int, int, int]]) -> NDArray[Any]:
    """Mean bits `[share, variable]` at the place chosen most often, from a part of the problems."""
    found = np.full((len(SHARES), len(asked.labels)), np.nan)
    for v, (y, (p, site, layer)) in enumerate(zip(asked.labels.values(), where, strict=True)):
        place = places[p]
        order = np.random.default_rng(asked.seed).permutation(len(place.run))
        for s, share in enumerate(SHARES):
            rows = np.sort(order[: int(share * len(order))])
            part = Place(
                place.name, place.X[rows, site : site + 1, layer : layer + 1], place.run[rows], place.token[rows]
            )
            taught = part.sweep({"y": y}, asked.fold, probe=asked.probe)
            if taught is not None:
                found[s, v] = taught.bits("y").mean()
    return found
