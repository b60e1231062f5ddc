"""Circularity: does the state hold a number as a line, or on circles? Judged on values that the probe never saw."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import InputError, Manifest, circumstance
from ..hooks import Mode, Model, generate
from ..probes import RidgeRegressor, group_folds, sweep
from ..tasks import Problem
from .circularity_table import LINE, Circularity
from .controls import random_twin
from .decodability import variables_of
from .gold import accuracy_of
from .readings import Place, places_of


def circularity(
    model: Model,
    problems: Sequence[Problem],
    *,
    variables: Sequence[str] | None = None,
    mode: Mode = "answer-only",
    site: str = "resid_post",
    period: int | None = None,
    folds: int = 5,
    shuffles: int = 20,
    twin: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> Circularity:
    """Regress a variable's value, and cos and sin of 2 pi k value / period for every frequency k, on the state.

    Folds are folds of *values*: a probe is scored on values that it was not fitted to. A look-up of ten values can be
    read linearly by any probe that has seen all ten; only where the state puts them on a line or a circle does the fit
    reach the value that was left out. R^2 = 1 - squared error over that of the best constant; of a frequency, of cos
    and sin together. Sources: Nanda et al. 2023 (2301.05217), Kantamneni & Tegmark 2025 (2502.00873); held-out values:
    Gurnee & Tegmark 2024 (2310.02207), section 4.2.

    variables: of whole numbers, by default the task's intermediates; period: by default one more than the largest value
    shuffles: permutations of the values (which value is called what), a control; twin: whether to probe a copy of the
        model with random weights too

    Raises InputError for a variable whose values are no whole numbers or fewer than folds.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:direct")
    >>> found = circularity(model, model.task.problems(200), variables=["v_3"], shuffles=0, twin=False)
    >>> found.period, list(found.features)
    (10, ['line', 'k=1', 'k=2', 'k=3', 'k=4', 'k=5'])
    """
    began = time.perf_counter()
    names = variables_of(problems, variables)
    values = {name: _numbers(name, problems, folds) for name in names}
    period = int(max(v.max() for v in values.values())) + 1 if period is None else period
    runs = generate(model, problems, mode, progress=progress)
    places = places_of(model, runs, [site], progress=progress)
    twins = places_of(random_twin(model, seed), runs, [site]) if twin else []
    frequencies = list(range(1, period // 2 + 1))
    shape = (len(places), model.n_layers, len(names), 1 + len(frequencies), len(problems))
    error, twin_error = np.full(shape, np.nan), np.full(shape, np.nan)
    null = np.full((len(names), 1 + len(frequencies), len(problems)), np.nan)
    drawn = np.full((*shape[:-1], shuffles), np.nan)
    for v, name in enumerate(names):
        fold = group_folds(values[name], folds, seed)
        for p, place in enumerate(places):
            error[p, :, v], null[v] = _errors(place, values[name], fold, period, frequencies, len(problems))
            if twins:
                twin_error[p, :, v], _ = _errors(twins[p], values[name], fold, period, frequencies, len(problems))
            for s in range(shuffles):
                other = _renamed(values[name], period, np.random.default_rng([seed, s]))
                errors, nulls = _errors(place, other, fold, period, frequencies, len(problems))
                drawn[p, :, v, :, s] = 1 - np.nansum(errors, -1) / np.nansum(
                    np.where(np.isnan(errors), np.nan, nulls), -1
                )
    coords = {
        "place": tuple(place.name for place in places),
        "layer": tuple(range(model.n_layers)),
        "variable": names,
        "feature": (LINE, *(f"k={k}" for k in frequencies)),
        "problem": tuple(problem.key for problem in problems),
    }
    identity = {**model.identity(), "task": problems[0].task.spec, "site": site, "mode": mode, "period": period}
    facts = {"seed": seed, "folds": folds, **accuracy_of(runs)}
    return Circularity(
        coords=coords,
        manifest=Manifest(identity, circumstance(began, **facts)),
        error=error,
        twin=twin_error,
        null=null,
        value=np.stack([values[name] for name in names]),
        shuffled=drawn,
    )


def _numbers(name: str, problems: Sequence[Problem], folds: int) -> NDArray[Any]:
    """The values of a variable as whole numbers."""
    texts = [problem.values[name] for problem in problems]
    if not all(text.isdecimal() for text in texts):
        odd = next(text for text in texts if not text.isdecimal())
        raise InputError(f"variable {name!r}: expected whole numbers from 0, got {odd!r}")
    found = np.array([int(text) for text in texts])
    if len(set(found.tolist())) < folds:
        raise InputError(
            f"variable {name!r} has {len(set(found.tolist()))} values, too few to leave out in {folds} folds"
        )
    return found


def _renamed(values: NDArray[Any], period: int, rng: np.random.Generator) -> NDArray[Any]:
    """Every value under another one's name: the same groups of rows, without order or circle."""
    return np.asarray(rng.permutation(period)[values])


def _errors(
    place: Place, values: NDArray[Any], fold: NDArray[Any], period: int, frequencies: Sequence[int], n: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Squared errors `[layer, feature, problem]` on values that were left out, and the best constant's `[feature,
    problem]`."""
    here = values[place.run]
    angle = 2 * np.pi * here[:, None] * np.array(frequencies) / period
    targets = {LINE: here.astype(float)}
    for i, k in enumerate(frequencies):
        targets |= {f"cos {k}": np.cos(angle[:, i]), f"sin {k}": np.sin(angle[:, i])}
    found = sweep(place.X[:, 0], targets, probe=RidgeRegressor(), groups=fold[place.run], folds=fold[place.run])
    error, null = (
        np.full((place.X.shape[2], 1 + len(frequencies), n), np.nan),
        np.full((1 + len(frequencies), n), np.nan),
    )
    for f, parts in enumerate([[0], *([2 * i + 1, 2 * i + 2] for i in range(len(frequencies)))]):
        error[:, f, place.run] = found.loss[parts].sum(0)
        null[f, place.run] = found.null[parts].sum(0)
    return error, null
