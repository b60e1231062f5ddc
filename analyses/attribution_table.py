"""The saved results of `attribution`. No torch and no model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result, check_name
from .interval import bootstrap_interval, interval_text

RUNS = ("recipient", "donor", "difference")
BLOCK = 512  # components whose bootstrap is drawn together
SHOWN = 10


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Result):
    """What each component adds to the logit of the donor's first answer token over the recipient's, in every pair.

    recipient, donor: in that run, `[component, pair]`; components are `embed`, `attn.0`, `mlp.0`, heads `L0H1`, neurons
    `L0N17`, and last `bias`, and add up to the logits; logits: the model's own, of both runs `[run, pair]`
    """

    kind: ClassVar[str] = "attribution"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "recipient": ("component", "pair"),
        "donor": ("component", "pair"),
        "logits": ("run", "pair"),
        "variable": ("pair",),
    }

    recipient: NDArray[Any]
    donor: NDArray[Any]
    logits: NDArray[Any]
    variable: NDArray[Any]

    @property
    def components(self) -> tuple[str, ...]:
        """Their names, in the order in which they write."""
        return tuple(self.coords["component"])

    def values(self, run: str = "difference") -> NDArray[Any]:
        """Attributions `[component, pair]` in the recipient's run, in the donor's, or the donor's minus the
        recipient's."""
        check_name("run", run, RUNS)
        return self.donor - self.recipient if run == "difference" else np.asarray(getattr(self, run))

    def effect(self, run: str = "difference") -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Mean over pairs, lower and upper bound, of each component, in logits; a bootstrap over pairs."""
        each = self.values(run).T
        bounds = [
            bootstrap_interval(each[:, start : start + BLOCK], lambda means: means)
            for start in range(0, each.shape[1], BLOCK)
        ]
        low, high = (np.concatenate(parts) for parts in zip(*bounds, strict=True))
        return each.mean(axis=0), low, high

    def frame(self) -> pd.DataFrame:
        """A row a run and component: layer (none for `embed` and `bias`), attribution with interval."""
        layers = [re.match(r"(?:attn\.|mlp\.|L)(\d+)", name) for name in self.components]
        parts = []
        for run in RUNS:
            estimate, low, high = self.effect(run)
            parts.append(
                pd.DataFrame(
                    {
                        "run": run,
                        "component": self.components,
                        "layer": pd.array([None if at is None else int(at[1]) for at in layers], dtype="Int64"),
                        "attribution": estimate,
                        "low": low,
                        "high": high,
                        "n": self.recipient.shape[1],
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def table(self) -> str:
        """The components that differ most between the runs, and what all of them add up to."""
        frame = self.frame()
        shown = pd.DataFrame({"component": [*self.components, "sum"]})
        for run, part in frame.groupby("run", sort=False):
            total = self.values(str(run)).sum(axis=0)[:, None]
            low, high = bootstrap_interval(total, lambda means: means)
            rows = [*part[["attribution", "low", "high"]].itertuples(index=False), (total.mean(), low[0], high[0])]
            shown[run] = [interval_text(*row) for row in rows]
        order = np.argsort(-np.abs(self.values().mean(axis=1)), kind="stable")[:SHOWN]
        return f"{self.summary()}\n{shown.iloc[[*order, len(shown) - 1]].to_string(index=False)}"

    def summary(self) -> str:
        """One line: what was attributed, in how many pairs."""
        how, facts = self.manifest.identity, self.manifest.circumstance
        before = ", before the model changes its logits (a soft cap, a scale)" if facts["changed"] else ""
        return (
            f"logit of the donor's answer over the recipient's by {how['unit']}, {how['mode']} runs, "
            f"{self.recipient.shape[1]} pairs{before}"
        )
