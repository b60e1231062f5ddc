"""The saved result of `circularity`, and what is read from it. No torch and no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result, check_name
from .interval import bootstrap_interval, interval_text, number_text, range_text

LINE = "line"  # the value itself, as a number


@dataclass(frozen=True, eq=False, repr=False)
class Circularity(Result):
    """Squared errors of regressions on values that were left out. A feature is the line, or a frequency "k=1".

    error: `[place, layer, variable, feature, problem]`; twin: the same of a copy of the model with random weights;
    null: `[variable, feature, problem]`, of the best constant; value: `[variable, problem]`; shuffled: `[place, layer,
    variable, feature, shuffle]`, R^2 where the values are named at random
    """

    kind: ClassVar[str] = "circularity"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "error": ("place", "layer", "variable", "feature", "problem"),
        "twin": ("place", "layer", "variable", "feature", "problem"),
        "null": ("variable", "feature", "problem"),
        "value": ("variable", "problem"),
        "shuffled": ("place", "layer", "variable", "feature", "shuffle"),
    }

    error: NDArray[Any]
    twin: NDArray[Any]
    null: NDArray[Any]
    value: NDArray[Any]
    shuffled: NDArray[Any]

    @property
    def period(self) -> int:
        """The period of the circles."""
        return int(self.manifest.identity["period"])

    @property
    def features(self) -> tuple[str, ...]:
        """The line and the frequencies."""
        return tuple(self.coords["feature"])

    def r2(self, variable: str | None = None, place: str | None = None) -> pd.DataFrame:
        """A row a layer and feature: R^2 on left-out values, its interval over values, and the controls.

        variable: by default the last; place: "MODE POSITION", by default the last, the cue. Columns layer, feature, r2,
        low, high (95 %, values are drawn with replacement), random_init, shuffled_low, shuffled_high
        """
        v = self._at("variable", variable)
        p = self._at("place", place)
        rows = []
        for layer in self.coords["layer"]:
            at = list(self.coords["layer"]).index(layer)
            for f, feature in enumerate(self.features):
                drawn = self.shuffled[p, at, v, f]
                limits = (drawn.min(), drawn.max()) if len(drawn) else (np.nan, np.nan)
                estimate, low, high = self._r2(self.error[p, at, v, f], v, f)
                row = {"layer": layer, "feature": feature, "r2": estimate, "low": low, "high": high}
                row["random_init"] = self._r2(self.twin[p, at, v, f], v, f)[0]
                rows.append(row | {"shuffled_low": limits[0], "shuffled_high": limits[1]})
        return pd.DataFrame(rows)

    def frame(self) -> pd.DataFrame:
        """Every place and variable: the rows of `r2` with their names."""
        tables = [
            self.r2(variable, place).assign(variable=variable, place=place)
            for variable in self.coords["variable"]
            for place in self.coords["place"]
        ]
        return pd.concat(tables, ignore_index=True)

    def table(self) -> pd.DataFrame:
        """The frame with intervals in the cells; of labels at random the least and the most."""
        rows = [
            {
                **{name: row[name] for name in ("variable", "place", "layer", "feature")},
                "r2": interval_text(row["r2"], row["low"], row["high"]),
                "random weights": number_text(row["random_init"]),
                "random labels": range_text(row["shuffled_low"], row["shuffled_high"]),
            }
            for row in self.frame().to_dict("records")
        ]
        return pd.DataFrame(rows)

    def _r2(self, error: NDArray[Any], v: int, f: int) -> tuple[float, float, float]:
        known = ~np.isnan(error)
        if not known.any():
            return np.nan, np.nan, np.nan
        values = self.value[v][known]
        sums = np.array(
            [(error[known][values == x].sum(), self.null[v, f][known][values == x].sum()) for x in np.unique(values)]
        )

        def ratio(means: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(1 - means[..., :1] / means[..., 1:])

        low, high = bootstrap_interval(sums, ratio)
        return float(ratio(sums.mean(0))[0]), float(low[0]), float(high[0])

    def _at(self, axis: str, name: str | None) -> int:
        return list(self.coords[axis]).index(check_name(axis, name, self.coords[axis])) if name else -1
