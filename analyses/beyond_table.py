"""The saved result of `beyond`, and what is read from it. No torch and no model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result, check_name
from .interval import bootstrap_interval, interval_text

CURVES = ("text", "state", "beyond")
PROBES = ("state", "beyond")


@dataclass(frozen=True, eq=False, repr=False)
class Beyond(Result):
    """Bits about variables along a chain of thought: by the text so far, by the state, by the state beyond the text.

    bits: `[curve, variable, place, problem]`, pointwise V-information, out of fold, at the layer that each training
        part chose; NaN where a problem's run lacks the place
    null: `[variable, problem]`, bits that the best constant lacks (its mean is H(y), out of fold). A place is one
        position, so this is the majority control and the position-only control: both know 0 bits
    lead: `[variable, place, problem]`, tokens until the value is written: 0 or less once it is, infinite where the run
        never writes it, NaN where the task does not say where to look; steps: the same in steps
    layer: `[probe, variable, place, fold]`, the layers chosen
    inner: `[variable, place, fold]`, bits beyond the text on inner folds of each training part: what a choice of place
        may look at
    fold: `[problem]`
    shuffled: `[probe, variable, place, shuffle]`, mean bits with the states of other problems, at the layer chosen most
        often
    random: `[probe, variable, place, problem]`, bits from a copy of the model with random weights over the same tokens
    """

    kind: ClassVar[str] = "beyond"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "bits": ("curve", "variable", "place", "problem"),
        "null": ("variable", "problem"),
        "lead": ("variable", "place", "problem"),
        "steps": ("variable", "place", "problem"),
        "layer": ("probe", "variable", "place", "fold"),
        "inner": ("variable", "place", "fold"),
        "fold": ("problem",),
        "shuffled": ("probe", "variable", "place", "shuffle"),
        "random": ("probe", "variable", "place", "problem"),
    }

    bits: NDArray[Any]
    null: NDArray[Any]
    lead: NDArray[Any]
    steps: NDArray[Any]
    layer: NDArray[Any]
    inner: NDArray[Any]
    fold: NDArray[Any]
    shuffled: NDArray[Any]
    random: NDArray[Any]

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that were probed; the last is the answer."""
        return tuple(self.coords["variable"])

    @property
    def places(self) -> tuple[str, ...]:
        """Positions, in the order of the run."""
        return tuple(self.coords["place"])

    def mean(self, curve: str, variable: str | None = None, place: str | None = None) -> tuple[float, float, float]:
        """Bits of a curve ("text", "state", "beyond") at a place (the last without it), with an interval over
        problems."""
        v = self._variable(variable)
        p = self.places.index(check_name("place", place, self.places)) if place else len(self.places) - 1
        return _mean(self.bits[CURVES.index(check_name("curve", curve, CURVES)), v, p])

    def typical_lead(self, variable: str | None = None, unit: str = "tokens") -> NDArray[Any]:
        """The median lead over problems at every place `[place]`, in "tokens" or in "steps"."""
        lead = self.lead if check_name("unit", unit, ("tokens", "steps")) == "tokens" else self.steps
        return np.array([_median(row) for row in lead[self._variable(variable)]])

    def hidden(self, variable: str | None = None) -> NDArray[Any]:
        """Whether a place is more than one step before the value is written (or it never is), `[place]`."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.typical_lead(variable, "steps") > 1)

    def hidden_bits(self, variable: str | None = None) -> tuple[float, float, float]:
        """The most bits beyond the text at a lead of more than one step, with an interval over problems.

        The place is chosen inside each training part by its own inner bits, so that the best of several places is not
        too good. NaN where the variable has no such place, or the task does not say where it is written.
        """
        v, allowed = self._variable(variable), np.flatnonzero(self.hidden(variable))
        if not len(allowed):
            return math.nan, math.nan, math.nan
        best = allowed[self.inner[v][allowed].argmax(axis=0)]  # [fold]
        return _mean(self.bits[CURVES.index("beyond"), v, best[self.fold], np.arange(len(self.fold))])

    def frame(self) -> pd.DataFrame:
        """A row a variable, place and curve: bits with interval, lead, H(y), and the controls beside them.

        Controls: shuffled (mean), shuffled_high (the most of all permutations), random (the copy with random weights).
        """
        rows: list[dict[str, Any]] = []
        for v, variable in enumerate(self.variables):
            leads = self.typical_lead(variable), self.typical_lead(variable, "steps")
            for p, place in enumerate(self.places):
                fixed = {"variable": variable, "place": place, "lead": leads[0][p], "steps": leads[1][p]}
                for c, curve in enumerate(CURVES):
                    bits = dict(zip(("bits", "low", "high"), _mean(self.bits[c, v, p]), strict=True))
                    rows.append({**fixed, "curve": curve, **bits, **self._controls(curve, v, p)})
                    rows[-1]["entropy"] = float(self.null[v][~np.isnan(self.bits[c, v, p])].mean())
        return pd.DataFrame(rows)

    def _controls(self, curve: str, v: int, p: int) -> dict[str, float]:
        if curve not in PROBES:
            return dict.fromkeys(("shuffled", "shuffled_high", "random"), math.nan)
        c = PROBES.index(curve)
        shuffled, random = self.shuffled[c, v, p], _mean(self.random[c, v, p])[0]
        most = {"shuffled": float(shuffled.mean()), "shuffled_high": float(shuffled.max())} if len(shuffled) else {}
        return {"shuffled": math.nan, "shuffled_high": math.nan, **most, "random": random}

    def table(self) -> pd.DataFrame:
        """To read: a row a variable and place, with bits and intervals; last the hidden bits of each variable."""
        rows = []
        for variable in self.variables:
            tokens = self.typical_lead(variable)
            for place, lead in zip(self.places, tokens, strict=True):
                shown = {curve: interval_text(*self.mean(curve, variable, place)) for curve in CURVES}
                rows.append({"variable": variable, "place": place, "tokens until written": _count(lead), **shown})
            hidden = {"text": "-", "state": "-", "beyond": interval_text(*self.hidden_bits(variable))}
            rows.append({"variable": variable, "place": "hidden", "tokens until written": "-", **hidden})
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


def _median(values: NDArray[Any]) -> float:
    """The lower median, which is defined for infinite values too."""
    known = np.sort(values[~np.isnan(values)])
    return float(known[(len(known) - 1) // 2]) if len(known) else math.nan


def _count(lead: float) -> str:
    return "-" if math.isnan(lead) else "never" if math.isinf(lead) else str(int(lead))
