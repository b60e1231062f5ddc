"""The saved result of `ablation`. No torch and no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result, check_name
from .cells import TERMS
from .interval import bootstrap_interval, interval_text, rate_interval

RATES = ("kept", "broken")


@dataclass(frozen=True, eq=False, repr=False)
class Ablation(Result):
    """What the model says with only the wires of a cell on, the others at the baseline.

    log_p: natural-log probability of the run's own answer; kept: 1 where the greedy answer is still that one; broken: 1
    where it is none that the task can read; unit: the problem of a row (several rows where CoTs were sampled)
    """

    kind: ClassVar[str] = "ablation"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "unit": ("run",),
        "log_p": ("run", "cell"),
        "kept": ("run", "cell"),
        "broken": ("run", "cell"),
    }

    unit: NDArray[Any]
    log_p: NDArray[Any]
    kept: NDArray[Any]
    broken: NDArray[Any]

    def _by_problem(self, values: NDArray[Any]) -> NDArray[Any]:
        """Means over the samples of each problem."""
        return np.stack([values[self.unit == unit].mean(axis=0) for unit in np.unique(self.unit)])

    def rate(self, quantity: str, term: str) -> tuple[float, float, float]:
        """Estimate and interval of "kept" or "broken" with the wires of a term on ("direct+tokens", "none")."""
        check_name("quantity", quantity, RATES)
        values = self._by_problem(getattr(self, quantity))[:, TERMS.index(check_name("term", term, TERMS))]
        return (float(values.mean()), *rate_interval(float(values.mean()), len(values)))

    def loss(self, term: str) -> tuple[float, float, float]:
        """Nats of log p(own answer) that are lost with only the wires of a term on, with its interval."""
        cell = TERMS.index(check_name("term", term, TERMS))
        values = self._by_problem(self.log_p[:, -1:] - self.log_p[:, cell : cell + 1])
        low, high = bootstrap_interval(values, lambda means: means)
        return float(values.mean()), float(low[0]), float(high[0])

    def suffice(self, share: float = 0.9) -> list[str]:
        """The single wires that alone keep the answer in so many problems: two of them, and the answer is redundant."""
        return [term for term in ("direct", "relay", "tokens") if self.rate("kept", term)[0] >= share]

    def frame(self) -> pd.DataFrame:
        """A row a set of wires that are on and a quantity: loss in nats, kept and broken as rates."""
        rows = []
        for term in TERMS:
            for quantity in ("loss", *RATES):
                told = self.loss(term) if quantity == "loss" else self.rate(quantity, term)
                values = dict(zip(("estimate", "low", "high"), told, strict=True))
                rows.append({"on": term, "quantity": quantity, **values, "n": len(np.unique(self.unit))})
        return pd.DataFrame(rows)

    def table(self) -> pd.DataFrame:
        """A row a set of wires that are on."""
        rows = []
        for term in TERMS:
            rates = {name: interval_text(*self.rate(name, term)) for name in RATES}
            rows.append({"on": term, "loss (nats)": interval_text(*self.loss(term)), **rates})
        return pd.DataFrame(rows)
