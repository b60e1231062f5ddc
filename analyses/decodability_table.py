"""The saved result of `decodability`, and what is read from it. No torch and no model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result, check_name
from .interval import bootstrap_interval


@dataclass(frozen=True, eq=False, repr=False)
class Decodability(Result):
    """Bits that a linear probe reads, out of fold.

    bits: `[place, layer, variable, problem]`, pointwise V-information; a place is a mode and a position. NaN where a
        problem's run lacks the position
    chosen: `[variable, problem]`, the same in the answer-only run at the place and layer that each training fold chose
    null: `[variable, problem]`, bits that the best constant lacks (its mean is H(y), out of fold)
    shuffled: `[variable, shuffle]`, mean bits with permuted labels at the place that was chosen most often (one of the
        CoT run where there is no answer-only run)
    correct: `[mode, problem]`, whether the run's own answer is right; NaN for a mode the model was not made for
    """

    kind: ClassVar[str] = "decodability"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "bits": ("place", "layer", "variable", "problem"),
        "chosen": ("variable", "problem"),
        "null": ("variable", "problem"),
        "shuffled": ("variable", "shuffle"),
        "correct": ("mode", "problem"),
    }

    bits: NDArray[Any]
    chosen: NDArray[Any]
    null: NDArray[Any]
    shuffled: NDArray[Any]
    correct: NDArray[Any]

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that were probed; the last is the answer."""
        return tuple(self.coords["variable"])

    @property
    def places(self) -> tuple[str, ...]:
        """ "MODE POSITION", in the order of the run."""
        return tuple(self.coords["place"])

    def accuracy(self, mode: str) -> float:
        """The share of right answers in a mode; NaN if the model was not made for it."""
        return float(self.correct[tuple(self.coords["mode"]).index(mode)].mean())

    def forward_pass_bits(self, variable: str | None = None) -> tuple[float, float, float]:
        """Bits in the answer-only run at the place chosen inside the training folds, with an interval over problems."""
        return _mean(self.chosen[self._variable(variable)])

    def forward_pass_fraction(self, variable: str | None = None) -> tuple[float, float, float]:
        """Forward-pass bits over H(y), as a ratio of means. Stands beside one-pass accuracy: decodable is not used."""
        at = self._variable(variable)
        values = np.stack([self.chosen[at], self.null[at]], axis=1)
        if np.isnan(values).any():
            return math.nan, math.nan, math.nan

        def ratio(means: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(means[..., :1] / means[..., 1:])

        low, high = bootstrap_interval(values, ratio)
        return float(ratio(values.mean(axis=0))[0]), float(low[0]), float(high[0])

    def curve(self, variable: str | None = None) -> pd.DataFrame:
        """A row a place: bits at the layer that reads most there (chosen on the same data: a view, not an estimate)."""
        at = self._variable(variable)
        rows = []
        for p, place in enumerate(self.places):
            means = np.nanmean(self.bits[p, :, at], axis=-1)
            best = int(np.argmax(means))
            estimate, low, high = _mean(self.bits[p, best, at])
            mode, _, position = place.partition(" ")
            rows.append(
                {"mode": mode, "position": position, "layer": self.coords["layer"][best], "bits": estimate, "low": low}
                | {"high": high}
            )
        return pd.DataFrame(rows)

    def frame(self) -> pd.DataFrame:
        """A row a place, layer and variable, with interval and H(y); then the chosen place and the shuffled labels."""
        rows: list[dict[str, Any]] = []
        for v, variable in enumerate(self.variables):
            fixed = {"variable": variable, "entropy": float(self.null[v].mean())}
            for p, place in enumerate(self.places):
                mode, _, position = place.partition(" ")
                for at, layer in enumerate(self.coords["layer"]):
                    where = {"mode": mode, "position": position, "layer": layer}
                    rows.append({**fixed, **where, **_named(_mean(self.bits[p, at, v]))})
            where = {"mode": "answer-only", "position": "chosen in the training folds", "layer": None}
            rows.append({**fixed, **where, **_named(_mean(self.chosen[v]))})
            shuffled = self.shuffled[v]
            limits = {"bits": shuffled.mean(), "low": shuffled.min(), "high": shuffled.max()} if len(shuffled) else {}
            rows.append({**fixed, **where, "position": "shuffled labels (mean, least, most)", **limits})
        return pd.DataFrame(rows)

    def _variable(self, name: str | None) -> int:
        return self.variables.index(check_name("variable", name, self.variables)) if name else len(self.variables) - 1


def _mean(values: NDArray[Any]) -> tuple[float, float, float]:
    """Mean over problems with its interval; problems without a value are left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan, math.nan
    low, high = bootstrap_interval(known[:, None], lambda means: means)
    return float(known.mean()), float(low[0]), float(high[0])


def _named(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("bits", "low", "high"), values, strict=True))
