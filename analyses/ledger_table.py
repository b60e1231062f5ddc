"""The saved result of `ledger`, and what is read from it. No torch and no model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result
from .interval import rate_interval

EDGE = 0.5  # a text-to-text edge counts in a path if the lower bound of its load is above this


@dataclass(frozen=True, eq=False, repr=False)
class Ledger(Result):
    """For every target and source, per problem: what the target became when the source alone was swapped.

    load: 1 where the output is what the swapped source implies; keep: 1 where it is unchanged; broken: 1 where it is
    neither; chance: 1 where it is what the swap implies in another problem. NaN where the pair says nothing (the
    implied value is the unswapped output). `copy_edge` marks targets that state the same variable as their source.
    """

    kind: ClassVar[str] = "ledger"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "load": ("target", "source", "problem"),
        "keep": ("target", "source", "problem"),
        "broken": ("target", "source", "problem"),
        "chance": ("target", "source", "problem"),
        "copy_edge": ("target", "source"),
    }

    load: NDArray[Any]
    keep: NDArray[Any]
    broken: NDArray[Any]
    chance: NDArray[Any]
    copy_edge: NDArray[Any]

    @property
    def targets(self) -> tuple[str, ...]:
        """Steps and the answer."""
        return tuple(self.coords["target"])

    @property
    def sources(self) -> tuple[str, ...]:
        """Input variables and steps."""
        return tuple(self.coords["source"])

    def rate(self, quantity: str, target: str, source: str) -> tuple[float, float, float, int]:
        """Estimate, lower and upper bound, number of scorable pairs, of "load", "keep", "broken" or "chance"."""
        hits = getattr(self, quantity)[self.targets.index(target), self.sources.index(source)]
        hits = hits[~np.isnan(hits)]
        if not len(hits):
            return math.nan, math.nan, math.nan, 0
        low, high = rate_interval(float(hits.mean()), len(hits))
        return float(hits.mean()), low, high, len(hits)

    @cached_property
    def _frame(self) -> pd.DataFrame:
        rows = []
        for t, target in enumerate(self.targets):
            for s, source in enumerate(self.sources):
                if not np.isnan(self.load[t, s]).all():
                    for quantity in ("load", "keep", "broken", "chance"):
                        values = dict(
                            zip(("estimate", "low", "high", "n"), self.rate(quantity, target, source), strict=True)
                        )
                        edge = {"target": target, "source": source, "copy": bool(self.copy_edge[t, s])}
                        rows.append({**edge, "quantity": quantity, **values})
        return pd.DataFrame(rows, columns=["target", "source", "copy", "quantity", "estimate", "low", "high", "n"])

    def frame(self) -> pd.DataFrame:
        """A row an edge and quantity; edges without scorable pairs are left out (blank, not 0)."""
        return self._frame.copy()

    @property
    def step_edges(self) -> list[tuple[str, str]]:
        """Edges from each step to the next target (the answer follows the last step), copies left out."""
        steps = [name for name in self.targets if name != "answer"]
        chain = [*steps, "answer"] if "answer" in self.targets else steps
        return [
            (target, source)
            for source, target in pairwise(chain)
            if source in self.sources and not self.copy_edge[self.targets.index(target), self.sources.index(source)]
        ]

    def serial_share(self, quantity: str = "load") -> tuple[float, float, float]:
        """Mean over k >= 2 of load(k <- k-1), copies left out, with its interval; NaN where no step can be swapped.

        quantity: "chance" gives what outputs that follow nothing would score. The interval counts problems, not edges.
        """
        rates = [self.rate(quantity, target, source) for target, source in self.step_edges]
        rates = [rate for rate in rates if rate[3]]
        if not rates:
            return math.nan, math.nan, math.nan
        share = sum(rate[0] for rate in rates) / len(rates)
        return (share, *rate_interval(share, min(rate[3] for rate in rates)))

    def depth(self) -> int | None:
        """Token-mediated depth: the longest path of text-to-text edges whose load has a lower bound above 0.5.

        Copies are left out. None where the chain of thought holds no step that the task reads.
        """
        steps = [name for name in self.sources if name.startswith("step.")]
        if not steps:
            return None
        strong = self._frame.query("quantity == 'load' and low > @EDGE and not copy", local_dict={"EDGE": EDGE})
        edges = {(row.source, row.target) for row in strong.itertuples() if row.source in steps}
        longest = dict.fromkeys([*steps, "answer"], 0)
        for target in (*steps, "answer"):
            longest[target] = max([longest[s] + 1 for s in steps if (s, target) in edges], default=0)
        return max(longest.values())
