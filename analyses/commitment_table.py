"""The saved result of `commitment`, and what is read from it. No torch and no model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom

from ..core import InputError, Result, check_name
from .interval import (
    CONFIDENCE,
    Estimate,
    bootstrap_interval,
    interval_text,
    mean_estimate,
    rate_interval,
    unknown_note,
)

# What is asked for the own answer: a probe on the state, the model made to answer now, a reader of the text alone.
LINES = ("probe", "forced", "text")
CONDITIONS = ("truncated", "content-free")
QUANTITIES = ("same", "bits")
CONTROLS = {"probe, random twin": "twin", "probe, shuffled labels": "shuffled"}
POINTS = 11


class FirstPassage(NamedTuple):
    """When the answer is settled, as a share of the chain: mean and median with intervals, of n problems.

    never: the share that is not settled at the end of the chain either; they count as 1 in mean and median, which are
    lower bounds where it is not 0
    """

    mean: float
    low: float
    high: float
    median: float
    median_low: float
    median_high: float
    never: float
    n: int


@dataclass(frozen=True, eq=False, repr=False)
class Commitment(Result):
    """Whether the run's own final answer can be told after k steps, per line, condition, k and problem.

    hit: 1 where the line's most likely answer is the own answer, 1/m where that is one of m equally likely ones
    bits: log2 of the own answer's probability over that by the best constant of the training folds
        Both are NaN for a k that the problem's chain does not have or too few chains have, and for a line not asked for
    shuffled: `[quantity, k, shuffle]`, the probe's mean hit and bits (truncated text) with permuted own answers
    twin: `[quantity, k, problem]`, the probe's on a twin of the model with random weights
    steps: the number n of k's after 0; majority: 1 where the own answer is the most frequent one; null: bits that the
        best constant lacks (the most that a line can have); correct: 1 where the own answer is right,
        NaN where the gold answer is not known
    """

    kind: ClassVar[str] = "commitment"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "hit": ("line", "condition", "k", "problem"),
        "bits": ("line", "condition", "k", "problem"),
        "shuffled": ("quantity", "k", "shuffle"),
        "twin": ("quantity", "k", "problem"),
        "steps": ("problem",),
        "majority": ("problem",),
        "null": ("problem",),
        "correct": ("problem",),
    }

    hit: NDArray[Any]
    bits: NDArray[Any]
    shuffled: NDArray[Any]
    twin: NDArray[Any]
    steps: NDArray[Any]
    majority: NDArray[Any]
    null: NDArray[Any]
    correct: NDArray[Any]

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that were measured, of "probe", "forced", "text"."""
        return tuple(
            name for name, values in zip(self.coords["line"], self.hit, strict=True) if np.isfinite(values).any()
        )

    @property
    def even(self) -> bool:
        """Whether all chains have as many steps, so that k is the same share of each."""
        return len(set(self.steps.tolist())) == 1

    def chance(self) -> Estimate:
        """How often the most frequent own answer is the own answer: what a constant would get."""
        return mean_estimate(self.majority)

    def accuracy(self) -> Estimate:
        """How often the own answers are right."""
        return mean_estimate(self.correct)

    def rate(self, line: str, condition: str, k: int) -> Estimate:
        """P(the line's answer is the own answer) with k steps kept: estimate, interval, number of problems."""
        return mean_estimate(self._values("same", line, condition)[self._k(k)])

    def information(self, line: str, condition: str, k: int) -> Estimate:
        """Mean bits about the own answer with k steps kept; the most there can be is the mean of `null`."""
        return _mean(self._values("bits", line, condition)[self._k(k)])

    def curve(self, line: str, condition: str, quantity: str = "same") -> pd.DataFrame:
        """The line to draw: x, estimate, low, high, n.

        x is k where all chains have as many steps. Else it is k/n from 0 to 1 in tenths, the curve of every problem
        being read between its own k's by a straight line (as `area` does).
        """
        values = self._values(quantity, line, condition)
        x = np.array(self.coords["k"], dtype=float)
        if not self.even:
            x = np.linspace(0, 1, POINTS)
            whole = [own for own in self._columns(values) if own is not None]
            values = np.array([np.interp(x, np.linspace(0, 1, len(own)), own) for own in whole]).reshape(-1, POINTS).T
        found = [
            (at, *(mean_estimate if quantity == "same" else _mean)(row)) for at, row in zip(x, values, strict=True)
        ]
        return pd.DataFrame(found, columns=["x", "estimate", "low", "high", "n"])

    def area(self, line: str) -> Estimate:
        """Area between a line's true curve and its content-free one: what the written steps settle beyond their length.

        The trapezoid rule over k/n from 0 to 1, a problem at a time, then the mean. Negative where true steps mislead.
        """
        return self._between((line, "truncated"), (line, "content-free"))

    def gap(self, line: str, other: str) -> Estimate:
        """Area between two lines over the true text: "probe" over "text" is what is settled before it can be read.

        "Reasoning Theater" (2603.05488) compares the slopes of probe and text monitor instead.
        """
        return self._between((line, "truncated"), (other, "truncated"))

    def first_passage(self, line: str, condition: str = "truncated") -> FirstPassage:
        """The first k/n from which on the line's answer is the own final answer, and stays so to the end.

        A line at chance level c is "settled" one step early in c of the problems, by luck: compare with "content-free".
        """
        tau = self.passages(line, condition)
        known = tau[~np.isnan(tau)]
        reached = np.sort(np.minimum(known, 1))
        mean, low, high, n = _mean(reached)
        if not n:
            return FirstPassage(mean, low, high, *_NOTHING, math.nan, 0)
        # The interval of a median by ranks: no distribution is assumed.
        first, last = (int(binom.ppf(p, n, 0.5)) for p in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
        median = float(np.median(reached)), float(reached[first]), float(reached[min(last, n - 1)])
        return FirstPassage(mean, low, high, *median, float(np.isinf(known).mean()), n)

    def passages(self, line: str, condition: str = "truncated") -> NDArray[Any]:
        """The first passage of every problem as k/n; infinity where it never settles, NaN where it is not known."""
        return np.array([_settled(own) for own in self._columns(self._values("same", line, condition))])

    def frame(self) -> pd.DataFrame:
        """A row a line, condition, quantity and k; then (without k) areas, gaps, first passages, chance, accuracy."""
        return self._frame.copy()

    def table(self) -> pd.DataFrame:
        """P(own answer) to read: a row a k, a column a line and condition, with intervals."""
        names = [(line, condition) for line in self.lines for condition in CONDITIONS]
        rows = []
        for k in self.coords["k"]:
            shown = {
                f"{line}{', content-free' * (condition != 'truncated')}": interval_text(
                    *self.rate(line, condition, k)[:3]
                )
                for line, condition in names
            }
            rows.append({"k": k, **shown})
        return pd.DataFrame(rows)

    def notes(self) -> dict[str, str]:
        """What stands beside the curves: areas, gap, first passages, controls, chance."""
        found: dict[str, str] = {}
        for line in self.lines:
            found[f"{line}, area over its content-free twin"] = interval_text(*self.area(line)[:3])
        for line in self.lines:
            passage = self.first_passage(line)
            told = interval_text(*passage[:3])
            found[f"{line}, first passage"] = f"{told}, median {passage.median:.2f}, never {passage.never:.0%}"
        if {"probe", "text"} <= set(self.lines):
            found["probe over text, area"] = interval_text(*self.gap("probe", "text")[:3])
        for name in CONTROLS:
            best = max((self._control("same", name, k)[0] for k in self.coords["k"]), default=math.nan)
            if not math.isnan(best):
                found[f"{name}, highest P(own answer)"] = f"{best:.2f}"
        found["chance (most frequent own answer)"] = interval_text(*self.chance()[:3])
        found["accuracy"] = interval_text(*self.accuracy()[:3])
        dropped = self.manifest.circumstance.get("dropped") or {}
        left_out = {"left out": "; ".join(f"{n} with {reason}" for reason, n in dropped.items())} if dropped else {}
        return found | unknown_note(self.correct) | left_out

    @cached_property
    def _frame(self) -> pd.DataFrame:
        rows: list[tuple[Any, ...]] = []
        for line in self.lines:
            for condition in CONDITIONS:
                for k in self.coords["k"]:
                    rows.append((line, condition, k, "same", *self.rate(line, condition, k)))
                    rows.append((line, condition, k, "bits", *self.information(line, condition, k)))
                passage = self.first_passage(line, condition)
                rows.append((line, condition, None, "first passage", *passage[:3], passage.n))
                rows.append((line, condition, None, "first passage, median", *passage[3:6], passage.n))
                never = (passage.never, *rate_interval(passage.never, passage.n)) if passage.n else (math.nan,) * 3
                rows.append((line, condition, None, "never settled", *never, passage.n))
            rows.append((line, "difference", None, "area", *self.area(line)))
            others = [other for other in self.lines if other != line]
            rows += [(line, f"over {other}", None, "gap", *self.gap(line, other)) for other in others]
        for name in CONTROLS:
            for k in self.coords["k"]:
                rows += [(name, "truncated", k, quantity, *self._control(quantity, name, k)) for quantity in QUANTITIES]
        rows.append(("none", "none", None, "chance", *self.chance()))
        rows.append(("none", "none", None, "accuracy", *self.accuracy()))
        columns = ["line", "condition", "k", "quantity", "estimate", "low", "high", "n"]
        return pd.DataFrame(rows, columns=columns).astype({"k": "Int64"}).query("n > 0").reset_index(drop=True)

    def _control(self, quantity: str, name: str, k: int) -> Estimate:
        """A control at one k: of the shuffles the mean, least and most."""
        values = getattr(self, CONTROLS[name])[QUANTITIES.index(quantity), self._k(k)]
        if CONTROLS[name] == "twin":
            return (mean_estimate if quantity == "same" else _mean)(values)
        known = values[~np.isnan(values)]
        return (
            (float(known.mean()), float(known.min()), float(known.max()), len(known)) if len(known) else (*_NOTHING, 0)
        )

    def _k(self, k: int) -> int:
        ks = tuple(self.coords["k"])
        if k not in ks:
            raise InputError(f"k={k}: expected a number of kept steps from 0 to {ks[-1]}")
        return ks.index(k)

    def _values(self, quantity: str, line: str, condition: str) -> NDArray[Any]:
        """`[k, problem]`."""
        check_name("quantity", quantity, QUANTITIES)
        at = (
            LINES.index(check_name("line", line, LINES)),
            CONDITIONS.index(check_name("condition", condition, CONDITIONS)),
        )
        return np.asarray((self.hit if quantity == "same" else self.bits)[at])

    def _columns(self, values: NDArray[Any]) -> list[NDArray[Any] | None]:
        """The values of every problem from k = 0 to its n; None where one of them is not known."""
        own = [column[: int(n) + 1] for column, n in zip(values.T, self.steps, strict=True)]
        return [None if np.isnan(column).any() else column for column in own]

    def _between(self, one: tuple[str, str], other: tuple[str, str]) -> Estimate:
        pairs = self._columns(self._values("same", *one) - self._values("same", *other))
        return _mean(np.array([np.trapezoid(own, dx=1 / (len(own) - 1)) for own in pairs if own is not None]))


_NOTHING = (math.nan, math.nan, math.nan)


def _settled(own: NDArray[Any] | None) -> float:
    """The place, as a share, from which on all values are 1; infinity where the last is not, NaN without values."""
    if own is None:
        return math.nan
    wrong = np.flatnonzero(own != 1)
    first = int(wrong[-1]) + 1 if len(wrong) else 0
    return first / (len(own) - 1) if first < len(own) else math.inf


def _mean(values: NDArray[Any]) -> Estimate:
    """The mean over problems with its bootstrap interval."""
    values = values[~np.isnan(values)]
    if not len(values):
        return *_NOTHING, 0
    low, high = bootstrap_interval(values[:, None], lambda means: means)
    return float(values.mean()), float(low[0]), float(high[0]), len(values)
