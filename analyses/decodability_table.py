"""The saved result of `decodability`, and what is read from it. No torch and no model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result, check_name
from .interval import bootstrap_interval, interval_text, number_text, range_text

# What a curve is read against, besides permuted labels and the best constant.
CONTROLS = ("random-init", "text-only", "position-only")
SHARES = (0.25, 0.5, 1.0)  # of the problems: whether more of them would read more


@dataclass(frozen=True, eq=False, repr=False)
class Decodability(Result):
    """Bits that a probe reads, out of fold. A place is a mode and a position; NaN where a problem's run lacks it.

    bits: `[place, site, layer, variable, problem]`, pointwise V-information
    curve_bits: `[place, variable, problem]`, the same at the site and layer that each training fold chose for the place
    controls: `[control, place, variable, problem]`: "random-init", the curve of a copy of the model with random weights
        over the same tokens; "text-only", what the chain of thought up to the place says without the model;
        "position-only", a probe that sees only which token of the run it is
    shuffled: `[place, variable, shuffle]`, mean bits with permuted labels at the cell that was chosen most often
    chosen: `[variable, problem]`, bits in the answer-only run at the place, site and layer that each training fold
        chose
    taught: `[share, variable]`, mean bits there (without an answer-only run, in the CoT run) from a share of the
        problems
    null: `[variable, problem]`, bits that the best constant lacks (its mean is H(y), out of fold)
    majority: `[variable]`, the share of the most frequent label
    correct: `[mode, problem]`, whether the run's own answer is right; NaN for a mode the model was not made for, and
        where the gold answer is not known
    """

    kind: ClassVar[str] = "decodability"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "bits": ("place", "site", "layer", "variable", "problem"),
        "curve_bits": ("place", "variable", "problem"),
        "controls": ("control", "place", "variable", "problem"),
        "shuffled": ("place", "variable", "shuffle"),
        "chosen": ("variable", "problem"),
        "taught": ("share", "variable"),
        "null": ("variable", "problem"),
        "majority": ("variable",),
        "correct": ("mode", "problem"),
    }

    bits: NDArray[Any]
    curve_bits: NDArray[Any]
    controls: NDArray[Any]
    shuffled: NDArray[Any]
    chosen: NDArray[Any]
    taught: NDArray[Any]
    null: NDArray[Any]
    majority: NDArray[Any]
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
        """The share of right answers in a mode where they are known; NaN if none is, or if it was not made for it."""
        return _mean_of(self.correct[tuple(self.coords["mode"]).index(mode)])

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
        """A row a place: bits at the site and layer that each training fold chose, and the controls beside them.

        Columns mode, position, bits, low, high; for each control its mean bits; shuffled_low and shuffled_high, the
        least and the most of the permutations.
        """
        at = self._variable(variable)
        rows = []
        for p, place in enumerate(self.places):
            mode, _, position = place.partition(" ")
            drawn = self.shuffled[p, at]
            known = drawn[~np.isnan(drawn)]
            limits = (known.min(), known.max()) if len(known) else (math.nan, math.nan)
            row = {"mode": mode, "position": position, **_named(_mean(self.curve_bits[p, at]))}
            for name, values in zip(CONTROLS, self.controls[:, p, at], strict=True):
                row[name] = _mean_of(values)
            rows.append(row | {"shuffled_low": limits[0], "shuffled_high": limits[1]})
        return pd.DataFrame(rows)

    def table(self) -> pd.DataFrame:
        """A row a variable and place: the bits of `curve` and, behind them, its controls."""
        rows = []
        for variable in self.variables:
            for row in self.curve(variable).to_dict("records"):
                cells = {"variable": variable, "mode": row["mode"], "position": row["position"]}
                cells["bits"] = interval_text(row["bits"], row["low"], row["high"])
                cells |= {name: number_text(row[name]) for name in CONTROLS}
                rows.append({**cells, "random labels": range_text(row["shuffled_low"], row["shuffled_high"])})
        return pd.DataFrame(rows)

    def layers(self, variable: str | None = None, site: str | None = None) -> pd.DataFrame:
        """Mean bits of every layer (rows) at every place (columns) of one site, by default the first."""
        named = check_name("site", site, self.coords["site"]) if site else self.coords["site"][0]
        values = self.bits[:, tuple(self.coords["site"]).index(named), :, self._variable(variable)]
        table = [[_mean_of(cell) for cell in place] for place in values]
        return pd.DataFrame(table, index=list(self.places), columns=list(self.coords["layer"])).T

    def frame(self) -> pd.DataFrame:
        """Every number as a row: variable, quantity, mode, position, site, layer, estimate, low, high.

        quantity: "bits" (every cell), "bits at the chosen layer", each control, "shuffled" (mean, least, most),
        "forward pass", "chosen place, 25% of the problems" and so on, "entropy", "majority".
        """
        rows: list[dict[str, Any]] = []
        for v, variable in enumerate(self.variables):
            for p, place in enumerate(self.places):
                mode, _, position = place.partition(" ")
                where = {"variable": variable, "mode": mode, "position": position}
                for s, site in enumerate(self.coords["site"]):
                    for at, layer in enumerate(self.coords["layer"]):
                        cell = {**where, "site": site, "layer": layer, "quantity": "bits"}
                        rows.append({**cell, **_estimate(_mean(self.bits[p, s, at, v]))})
                rows.append(
                    {**where, "quantity": "bits at the chosen layer", **_estimate(_mean(self.curve_bits[p, v]))}
                )
                for c, control in enumerate(CONTROLS):
                    rows.append({**where, "quantity": control, **_estimate(_mean(self.controls[c, p, v]))})
                if len(drawn := self.shuffled[p, v][~np.isnan(self.shuffled[p, v])]):
                    limits = _estimate((float(drawn.mean()), float(drawn.min()), float(drawn.max())))
                    rows.append({**where, "quantity": "shuffled", **limits})
            of = {"variable": variable, "mode": "answer-only"}
            rows.append({**of, "quantity": "forward pass", **_estimate(_mean(self.chosen[v]))})
            for share, taught in zip(SHARES, self.taught[:, v], strict=True):
                rows.append({**of, "quantity": f"chosen place, {share:.0%} of the problems", "estimate": taught})
            rows.append({"variable": variable, "quantity": "entropy", "estimate": self.null[v].mean()})
            rows.append({"variable": variable, "quantity": "majority", "estimate": self.majority[v]})
        columns = ["variable", "quantity", "mode", "position", "site", "layer", "estimate", "low", "high"]
        return pd.DataFrame(rows, columns=columns)

    def _variable(self, name: str | None) -> int:
        return self.variables.index(check_name("variable", name, self.variables)) if name else len(self.variables) - 1


def _mean(values: NDArray[Any]) -> tuple[float, float, float]:
    """Mean over problems with its interval; problems without a value are left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan, math.nan
    low, high = bootstrap_interval(known[:, None], lambda means: means)
    return float(known.mean()), float(low[0]), float(high[0])


def _mean_of(values: NDArray[Any]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _named(values: tuple[float, float, float]) -> dict[str, Any]:
    return dict(zip(("bits", "low", "high"), values, strict=True))


def _estimate(values: tuple[float, float, float]) -> dict[str, Any]:
    return dict(zip(("estimate", "low", "high"), values, strict=True))
