"""Decodability: what a linear probe reads, where, in bits, in the answer-only and in the CoT run."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..core import InputError, Manifest, circumstance
from ..hooks import MODES, Mode, Model, generate, record
from ..probes import RidgeProbe, group_folds, null_log_p, v_information
from ..tasks import Problem
from .decodability_table import Decodability

SITE = "resid_post"
Features = dict[tuple[str, int], tuple[NDArray[Any], NDArray[Any]]]


def decodability(
    model: Model,
    problems: Sequence[Problem],
    *,
    variables: Sequence[str] | None = None,
    folds: int = 5,
    shuffles: int = 20,
    seed: int = 0,
    progress: bool = False,
) -> Decodability:
    """Fit a linear probe for the answer and each partial sum at every layer and position, out of fold, in bits.

    Positions: `prompt[-1]`, `open[-1]` and `cue[-1]` in both runs, and the end of every step in the CoT run; site:
    `resid_post`. Folds are grouped by problem. The bits of a place are I_V(h -> y) = H_V(y) - H_V(y | h) for the ridge
    probe's family (`loadbearing.probes`). The forward-pass bits are those of the answer-only run at the position and
    layer that has the lowest leave-one-out loss *inside* each training fold, and stand beside one-pass accuracy.

    Raises InputError for a variable that the problems do not have, or for fewer problems than folds.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> found = decodability(model, model.task.problems(200), shuffles=2)
    >>> bool(found.curve().query("position == 'step.3[-1]'")["bits"].iloc[0] > 3.0)
    True
    """
    began = time.perf_counter()
    task = problems[0].task
    names = tuple(variables if variables is not None else task.intermediates)
    unknown = [name for name in names if any(name not in problem.values for problem in problems)]
    if unknown or not names:
        raise InputError(f"variables {unknown or list(names)}: the problems have {', '.join(problems[0].values)}")
    features: Features = {}
    correct = np.full((len(MODES), len(problems)), np.nan)
    for m, mode in enumerate(MODES):
        if model.supports(mode):
            found, right = _features(model, problems, mode, progress)
            features |= found
            correct[m] = right
    places = list(dict.fromkeys(place for place, _ in features))
    labels = {name: np.array([problem.values[name] for problem in problems]) for name in names}
    fold = group_folds(np.array([problem.key for problem in problems]), folds, seed)
    null = np.stack([_null(y, fold) for y in labels.values()])
    bits, inner = _fit_all(features, places, model.n_layers, labels, null, fold, progress)
    chosen, best = _choose(bits, inner, fold, places)
    rng = np.random.default_rng(seed)
    where = [features[places[p], layer] for p, layer in best]
    shuffled = [_shuffled_bits(*at, fold, y, rng, shuffles) for at, y in zip(where, labels.values(), strict=True)]
    coords = {
        "place": tuple(places),
        "layer": tuple(range(model.n_layers)),
        "variable": names,
        "mode": MODES,
        "problem": tuple(problem.key for problem in problems),
    }
    facts = {
        "seed": seed,
        "folds": folds,
        "chosen": {name: [places[best[v][0]], best[v][1]] for v, name in enumerate(names)},
    }
    identity = {**model.identity(), "task": task.spec, "site": SITE, "probe": "ridge"}
    return Decodability(
        coords=coords,
        manifest=Manifest(identity, circumstance(began, **facts)),
        bits=bits,
        chosen=chosen,
        null=null / np.log(2),
        shuffled=np.array(shuffled).reshape(len(names), shuffles),
        correct=correct,
    )


def _null(y: NDArray[Any], fold: NDArray[Any]) -> NDArray[Any]:
    """What the best constant of each training fold lacks on the held-out labels, in nats."""
    null = np.zeros(len(y))
    for f in np.unique(fold):
        null[fold == f] = -null_log_p(y[fold != f], y[fold == f])
    return null


def _fit_all(
    features: Features,
    places: Sequence[str],
    n_layers: int,
    labels: dict[str, NDArray[Any]],
    null: NDArray[Any],
    fold: NDArray[Any],
    progress: bool,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Bits `[place, layer, variable, problem]`, and the leave-one-out loss inside each training fold."""
    folds = np.unique(fold)
    shape = (len(places), n_layers, len(labels))
    bits, inner = np.full((*shape, len(fold)), np.nan), np.full((len(folds), *shape), np.inf)
    cells = [(p, layer) for p in range(len(places)) for layer in range(n_layers)]
    for p, layer in tqdm(cells, desc="probes", disable=not progress, leave=False):
        for f in folds:
            _fit_cell(*features[places[p], layer], fold == f, labels, null, bits[p, layer], inner[f, p, layer])
    return bits, inner


def _features(model: Model, problems: Sequence[Problem], mode: Mode, progress: bool) -> tuple[Features, NDArray[Any]]:
    """Features and problem numbers by (place, layer), and which answers are right."""
    runs = generate(model, problems, mode, progress=progress)
    named = ["prompt[-1]", *(["open[-1]"] if all("open" in run.spans for run in runs) else [])]
    positions = [*named, *(["step.*[-1]"] if mode == "cot" else []), "cue[-1]"]
    acts = record(model, runs, [SITE], positions, progress=progress)
    found: Features = {}
    for label in acts.rows["position"].unique().tolist():
        for layer in acts.layers:
            values, rows = acts.select(SITE, layer, label)
            found[f"{mode} {label}", layer] = values.double().numpy(), rows["run"].to_numpy()
    order = {f"{mode} {name}": i for i, name in enumerate(["prompt[-1]", "open[-1]"])}
    last = f"{mode} cue[-1]"
    ordered = sorted(found, key=lambda key: (order.get(key[0], 2 if key[0] != last else 3), key))
    return {key: found[key] for key in ordered}, np.array([float(run.correct) for run in runs])


def _fit_cell(
    X: NDArray[Any],
    who: NDArray[Any],
    test: NDArray[Any],
    labels: dict[str, NDArray[Any]],
    null: NDArray[Any],
    bits: NDArray[Any],
    inner: NDArray[Any],
) -> None:
    """Fit one place and layer on a training fold for every variable, sharing the factorisation; fill in the bits."""
    out = test[who]
    if out.all() or not out.any():
        return
    for v, y in enumerate(labels.values()):
        probe = RidgeProbe().fit(X[~out], y[who[~out]])
        bits[v, who[out]] = v_information(_log_p(probe, X[out], y[who[out]]), -null[v, who[out]])
        inner[v] = probe.held_out_log_loss_


def _log_p(probe: RidgeProbe, X: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """Log probability of the labels; a class that the training fold lacks gets one sample's worth of probability."""
    table = probe.predict_log_proba(X)
    at = np.searchsorted(probe.classes_, y).clip(max=len(probe.classes_) - 1)
    known = probe.classes_[at] == y
    unseen = len(np.unique(y[~known]))
    one = 1 / (probe.n_samples_fit_ + len(probe.classes_) + unseen)
    return np.asarray(np.where(known, table[np.arange(len(y)), at] + np.log1p(-unseen * one), np.log(one)))


def _choose(
    bits: NDArray[Any], inner: NDArray[Any], fold: NDArray[Any], places: Sequence[str]
) -> tuple[NDArray[Any], list[tuple[int, int]]]:
    """Bits at the answer-only place that each training fold chose, and the place chosen most often, per variable.

    Without an answer-only run the bits are NaN, and the place is one of the CoT run.
    """
    direct = [p for p, place in enumerate(places) if place.startswith("answer-only")]
    allowed = direct or list(range(len(places)))
    chosen = np.full((bits.shape[2], bits.shape[3]), np.nan)
    best: list[tuple[int, int]] = []
    for v in range(bits.shape[2]):
        picks = []
        for f in range(len(inner)):
            losses = inner[f, allowed, :, v]
            at, layer = np.unravel_index(int(losses.argmin()), losses.shape)
            picks.append((allowed[int(at)], int(layer)))
            if direct:
                chosen[v, fold == f] = bits[picks[-1][0], picks[-1][1], v, fold == f]
        best.append(max(picks, key=picks.count))
    return chosen, best


def _shuffled_bits(
    X: NDArray[Any],
    who: NDArray[Any],
    fold: NDArray[Any],
    y: NDArray[Any],
    rng: np.random.Generator,
    shuffles: int,
) -> NDArray[Any]:
    """Mean out-of-fold bits of several permutations of the labels: what the fit finds where there is nothing."""
    labels = {str(s): rng.permutation(y) for s in range(shuffles)}
    null = np.array([_null(shuffled, fold) for shuffled in labels.values()]).reshape(shuffles, len(y))
    bits = np.full((shuffles, len(y)), np.nan)
    for f in np.unique(fold):
        _fit_cell(X, who, fold == f, labels, null, bits, np.zeros(shuffles))
    return np.asarray([np.nanmean(row) for row in bits])
