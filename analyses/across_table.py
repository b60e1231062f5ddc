"""The saved result of `across`. No torch and no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result
from ..core.text import terminal_width
from .interval import interval_text, rate_interval

OWN = "own run"
CONTROLS = ("other problem", "same answer", "noise, same length", "shuffled position")


@dataclass(frozen=True, eq=False, repr=False)
class Across(Result):
    """States of one run put into the other run of the same problem: what the patched run answers.

    log_p: natural-log probability of the problem's answer (the CoT run's own) `[condition, layer, position, problem]`
    outcome: the greedy answer is 1 that one, 0 that of the run the state was taken from (where foreign), 2 another;
    NaN in log_p and 2 where a problem has no state to take (no other problem with the same answer, no other token)
    foreign: whether the state is of a run that says another answer `[condition, problem]`
    base, source: log_p `[problem]` of the runs without a patch; base_right, source_right: whether they give that answer
    """

    kind: ClassVar[str] = "across"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "log_p": ("condition", "layer", "position", "problem"),
        "outcome": ("condition", "layer", "position", "problem"),
        "base": ("problem",),
        "source": ("problem",),
        "base_right": ("problem",),
        "source_right": ("problem",),
        "foreign": ("condition", "problem"),
    }

    log_p: NDArray[Any]
    outcome: NDArray[Any]
    base: NDArray[Any]
    source: NDArray[Any]
    base_right: NDArray[Any]
    source_right: NDArray[Any]
    foreign: NDArray[Any]

    def frame(self) -> pd.DataFrame:
        """A row a condition, layer and position: the rate of the problem's own answer, and of the state's where it is
        of a run that says another one, with Wilson's intervals, and the mean log probability of the problem's own."""
        rows = []
        for at in np.ndindex(*self.log_p.shape[:-1]):
            known = np.isfinite(self.log_p[at])
            n = int(known.sum())
            place = {name: self.coords[name][i] for name, i in zip(("condition", "layer", "position"), at, strict=True)}
            for quantity, code, of in (("own answer", 1, known), ("state's answer", 0, known & self.foreign[at[0]])):
                m = int(of.sum())
                rate = float((self.outcome[at][of] == code).mean()) if m else float("nan")
                low, high = rate_interval(rate, m) if m else (float("nan"), float("nan"))
                rows.append({**place, "quantity": quantity, "estimate": rate, "low": low, "high": high, "n": m})
            mean = float(self.log_p[at][known].mean()) if n else float("nan")
            rows.append({**place, "quantity": "log p", "estimate": mean, "low": np.nan, "high": np.nan, "n": n})
        return pd.DataFrame(rows)

    def table(self) -> str:
        """The rate of the problem's own answer by layer, with every control beside it."""
        how = self.manifest.identity
        frame = self.frame()
        own = frame[frame["quantity"] == "own answer"]
        texts = [interval_text(*row) for row in own[["estimate", "low", "high"]].itertuples(index=False)]
        wide = own.assign(shown=texts).pivot(index=["position", "layer"], columns="condition", values="shown")
        wide = wide[[name for name in self.coords["condition"] if name in wide]]
        into, of = ("CoT", "answer-only") if how["direction"] == "into-cot" else ("answer-only", "CoT")
        told = f"{into} {self.base_right.mean():.2f}, {of} {self.source_right.mean():.2f}"
        return (
            f"states of the {of} run in the {into} run: rate of the CoT run's own answer, {len(self.base)} problems; "
            f"without a patch {told}\n{wide.to_string(line_width=terminal_width())}"
        )
