"""The saved result of `ledger`, and what is read from it. No torch and no model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result, check_name
from .interval import interval_text, mean_estimate

EDGE = 0.5  # a text-to-text edge counts in a path if the lower bound of its load is above this
EDGES = ("load", "keep", "broken", "chance", "unswapped")
STATES = ("as written", "another value", "no value")
SCORING = ("program", "donor's step")
DONORS = {"donor's": "load", "recipient's": "keep", "other": "broken"}  # names where the task has no program


@dataclass(frozen=True, eq=False, repr=False)
class Ledger(Result):
    """For every target and source, per run: what the target became when the source alone was swapped.

    load: 1 where the output is what the swapped source implies; keep: 1 where it is unchanged; broken: 1 where it is
    neither; chance: the share of the other swaps that imply it; unswapped: 1 where the output without the
    swap is what the program makes of the unswapped source (no load can be expected to exceed its rate). NaN where the
    pair says nothing (the implied value is the unswapped output: so without the swap the rate of load is 0 on the
    scored pairs, and that of keep 1). `own` is what the unswapped output is, as an index of `STATES`; `copy_edge` marks
    targets that state the same variable as their source.

    Without a reference program (`scored` is "donor's step") load, keep and broken are called "donor's", "recipient's"
    and "other": the value that the donor of the swap states at the target, the unswapped output, and neither.

    Several runs of one problem (`coords["problem"]` names it more than once) count as one unit, their mean.
    """

    kind: ClassVar[str] = "ledger"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **{name: ("target", "source", "problem") for name in EDGES},
        "own": ("target", "problem"),
        "copy_edge": ("target", "source"),
    }

    load: NDArray[Any]
    keep: NDArray[Any]
    broken: NDArray[Any]
    chance: NDArray[Any]
    unswapped: NDArray[Any]
    own: NDArray[Any]
    copy_edge: NDArray[Any]

    @property
    def targets(self) -> tuple[str, ...]:
        """Steps and the answer."""
        return tuple(self.coords["target"])

    @property
    def sources(self) -> tuple[str, ...]:
        """Input variables and steps."""
        return tuple(self.coords["source"])

    @property
    def scored(self) -> str:
        """What outputs are compared with: "program", or "donor's step" where the task has none."""
        return str(self.manifest.identity.get("scored", SCORING[0]))

    @property
    def quantities(self) -> tuple[str, ...]:
        """The quantities of an edge."""
        return (*DONORS, *EDGES[3:]) if self.scored == SCORING[1] else EDGES

    def by_problem(self, quantity: str, target: str, source: str) -> NDArray[Any]:
        """The rate of a quantity of an edge for every problem; NaN where no pair of the problem is scorable."""
        name = check_name("quantity", quantity, self.quantities)
        t = self.targets.index(check_name("target", target, self.targets))
        s = self.sources.index(check_name("source", source, self.sources))
        return self._units(getattr(self, DONORS.get(name, name))[t, s])

    def _units(self, hits: NDArray[Any]) -> NDArray[Any]:
        keys = self.coords.get("problem", range(len(hits)))
        return pd.Series(hits, dtype=float).groupby(np.array(keys), sort=False).mean().to_numpy()

    def rate(self, quantity: str, target: str, source: str) -> tuple[float, float, float, int]:
        """Estimate, lower and upper bound (Wilson), and number of problems of a quantity of an edge."""
        return mean_estimate(self.by_problem(quantity, target, source))

    @cached_property
    def _frame(self) -> pd.DataFrame:
        rows = []
        for t, target in enumerate(self.targets):
            for s, source in enumerate(self.sources):
                if np.isnan(self.load[t, s]).all():
                    continue
                edge = {"target": target, "source": source, "copy": bool(self.copy_edge[t, s])}
                for quantity in self.quantities:
                    values = zip(RATE, self.rate(quantity, target, source), strict=True)
                    rows.append({**edge, "quantity": quantity, **dict(values)})
        return pd.DataFrame(rows, columns=["target", "source", "copy", "quantity", *RATE])

    def frame(self) -> pd.DataFrame:
        """A row an edge and quantity; edges without scorable pairs are left out (blank, not 0)."""
        return self._frame.copy()

    def table(self) -> pd.DataFrame:
        """A row a target, a column a source: load, or "-" where no pair can be scored; copy edges in brackets."""
        rows = []
        for t, target in enumerate(self.targets):
            row = {"target": target}
            for s, source in enumerate(self.sources):
                rate = self.rate(self.quantities[0], target, source)[0]
                text = "-" if np.isnan(rate) else f"{rate:.2f}"
                row[source] = f"({text})" if self.copy_edge[t, s] else text
            rows.append(row)
        return pd.DataFrame(rows)

    def unswapped_frame(self) -> pd.DataFrame:
        """How often the unswapped output of each target is the text as written, another value, or none."""
        rows = []
        for t, target in enumerate(self.targets):
            for state, name in enumerate(STATES):
                values = zip(RATE, mean_estimate(self._units((self.own[t] == state).astype(float))), strict=True)
                rows.append({"target": target, "output": name, **dict(values)})
        return pd.DataFrame(rows, columns=["target", "output", *RATE])

    def left_out(self) -> pd.DataFrame:
        """How many runs are left out altogether, and for each edge how many are not scored, by reason."""
        facts = self.manifest.circumstance
        rows = [("all", "all", reason, n) for reason, n in facts.get("dropped", {}).items()]
        for target, source in product(self.targets, self.sources):
            told = facts.get("unscored", {}).get(f"{target} <- {source}", {})
            rows += [(target, source, reason, n) for reason, n in sorted(told.items())]
        return pd.DataFrame(rows, columns=["target", "source", "reason", "n"])

    @property
    def step_edges(self) -> list[tuple[str, str]]:
        """Edges from each step to the next target (the answer follows the last step), copies left out."""
        steps = self.coords.get("step", [name for name in self.targets if name != "answer"])
        return [
            (target, source)
            for source, target in pairwise([*steps, "answer"])
            if source in self.sources
            and target in self.targets
            and not self.copy_edge[self.targets.index(target), self.sources.index(source)]
        ]

    def serial_share(self, quantity: str = "load") -> tuple[float, float, float]:
        """Mean over k >= 2 of load(k <- k-1), copies left out, with its interval.

        quantity: "chance" gives what outputs that follow nothing would score.
        NaN where no step can be swapped, and where the task has no program: what the donor's step would imply is
        unknown.
        """
        if self.scored != SCORING[0]:
            return math.nan, math.nan, math.nan
        edges = [self.by_problem(quantity, target, source) for target, source in self.step_edges]
        return mean_rate([hits for hits in edges if not np.isnan(hits).all()])

    def depth(self) -> int | None:
        """Token-mediated depth: the longest path of text-to-text edges whose load has a lower bound above 0.5.

        Copies are left out. None where no text-to-text edge can be scored, or the task has no program.
        """
        steps = [name for name in self.sources if name.startswith("step.")]
        scored = self._frame[(self._frame["quantity"] == "load") & self._frame["source"].isin(steps)]
        if scored.empty:
            return None
        strong = scored[(scored["low"] > EDGE) & ~scored["copy"].astype(bool)]
        edges = set(zip(strong["source"], strong["target"], strict=True))
        longest = dict.fromkeys([*steps, "answer"], 0)
        for target in (*steps, "answer"):
            longest[target] = max([longest[s] + 1 for s in steps if (s, target) in edges], default=0)
        return max(longest.values())

    def notes(self) -> dict[str, str]:
        """What a reader of the table must know, in words: shares, what was left out, what unswapped outputs were."""
        depth = self.depth()
        reasons = [f"{n} runs: {reason}" for reason, n in self.manifest.circumstance.get("dropped", {}).items()]
        states = self.unswapped_frame().groupby("output", sort=False)["estimate"].mean()
        share = self.serial_share()
        chance = "" if math.isnan(share[0]) else f", chance {self.serial_share('chance')[0]:.2f}"
        return {
            "serial share": interval_text(*share) + chance,
            "token-mediated depth": "-" if depth is None else str(depth),
            "unswapped outputs": ", ".join(f"{rate:.2f} {name}" for name, rate in states.items()),
            "left out": "; ".join(reasons) or "no run",
        }


RATE = ("estimate", "low", "high", "n")


def mean_rate(edges: Sequence[NDArray[Any]]) -> tuple[float, float, float]:
    """The mean over edges of their rates, with its interval, from each edge's outcomes by problem (NaN: not scored).

    The interval recovers the variance of the mean from the Wilson intervals of the rates and their correlations over
    problems (MOVER, Zou and Donner 2008, doi 10.1002/sim.3095): unlike a bootstrap's it is not empty where all rates
    are 0 or 1. A correlation that cannot be measured, because a rate is 0 or 1, counts as 1; one below 0 as 0.

    >>> [round(value, 2) for value in mean_rate([np.ones(32), np.ones(32)])]
    [1.0, 0.89, 1.0]
    """
    if not edges:
        return math.nan, math.nan, math.nan
    rates, lows, highs = np.array([mean_estimate(units)[:3] for units in edges]).T
    constant = np.array([np.nanstd(units) == 0 for units in edges])
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = pd.DataFrame(np.array(edges).T).corr(min_periods=3).to_numpy(copy=True)
    shared[constant[:, None] | constant[None, :] | np.isnan(shared)] = 1.0
    shared = shared.clip(min=0.0)
    below, above = (math.sqrt(gap @ shared @ gap) / len(edges) for gap in (rates - lows, highs - rates))
    share = float(rates.mean())
    return share, max(0.0, share - below), min(1.0, share + above)
