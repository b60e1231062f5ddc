"""One table over several trainings of the same recipe: intervals over pairs, nested in seeds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import InputError
from .cells import WIRES, shares
from .channel_table import SUMMARY, Channels
from .estimates import per_unit
from .interval import CONFIDENCE, RESAMPLES


def over_seeds(results: Mapping[str, Channels], seed: int = 0) -> pd.DataFrame:
    """Shares of models that differ in their training seed only: variable, term, estimate, low, high, n (models), seeds.

    The estimate is the mean of the models' shares; the interval draws models, and within each its pairs, with
    replacement (a hierarchical bootstrap), so that few seeds give a wide one. `seeds` shows every model's own share.
    Models whose share is withheld are left out and counted. Raises InputError for fewer than two models, and where
    tasks or targets differ.

    >>> from loadbearing.analyses import channels
    >>> from loadbearing.hooks import load
    >>> one = load("organism:copy-direct")
    >>> tables = {str(s): channels(one, one.task.pairs(8, seed=s), cot="task", target="answer") for s in (0, 1)}
    >>> over_seeds(tables).query("term == 'direct'")["estimate"].round(3).tolist()
    [1.0, 1.0]
    """
    if len(results) < 2:
        raise InputError(f"expected results of two models at least, got {len(results)}")
    for key in ("task", "target", "cot"):
        found = {str(result.manifest.identity[key]) for result in results.values()}
        if len(found) > 1:
            raise InputError(
                f"the results differ in {key}: {', '.join(sorted(found))}; expected them to differ in seed"
            )
    rng = np.random.default_rng(seed)
    rows = []
    first = next(iter(results.values()))
    for variable in [*first.variables, SUMMARY]:
        tables = {name: result for name, result in results.items() if not np.isnan(result.shares(variable)).any()}
        values = [_log_odds(result, variable) for result in tables.values()]
        own = [shares(v.mean(axis=0)) for v in values]
        drawn = np.array([_draw(values, rng) for _ in range(RESAMPLES)]) if len(values) > 1 else np.full((1, 3), np.nan)
        tail = (1 - CONFIDENCE) / 2
        for i, wire in enumerate(WIRES):
            low, high = np.quantile(drawn[:, i], [tail, 1 - tail])
            told = {"estimate": np.mean([s[i] for s in own]) if own else np.nan, "low": low, "high": high}
            singly = {name: float(s[i]) for name, s in zip(tables, own, strict=True)}
            rows.append({"variable": variable, "term": wire, **told, "n": len(own), "seeds": singly})
    return pd.DataFrame(rows)


def _log_odds(result: Channels, variable: str) -> NDArray[Any]:
    """Log-odds `[unit, cell]`, both directions averaged."""
    rows = result.select(variable)
    return np.asarray(per_unit(result.log_p[rows, ..., 0] - result.log_p[rows, ..., 1], result.unit[rows]).mean(axis=1))


def _draw(values: list[NDArray[Any]], rng: np.random.Generator) -> NDArray[Any]:
    """The mean share of resampled models with resampled pairs."""
    chosen = [values[k] for k in rng.integers(len(values), size=len(values))]
    return np.asarray(np.mean([shares(v[rng.integers(len(v), size=len(v))].mean(axis=0)) for v in chosen], axis=0))
