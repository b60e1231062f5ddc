"""The saved result of `knockout`. No torch and no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result, check_name
from .interval import bootstrap_interval, interval_text, rate_interval

# Change of log p(own answer) in nats, KL(plain || knocked out) at its first token in nats, share of answers kept.
QUANTITIES = ("log_p", "kl", "kept")
ESTIMATE, CONTROL = ["estimate", "low", "high"], ["control", "control_low", "control_high"]  # columns of the frame


@dataclass(frozen=True, eq=False, repr=False)
class KnockOutEffect(Result):
    """What the run's own answer loses when some positions cannot read others, per layer, head and run.

    layer and head are "all" where all of them are knocked out at once; a window of layers goes by its first one.

    log_p: natural-log probability of the run's own answer; kl: KL(plain || knocked out) at the answer's first token, in
    nats; kept: 1 where every token of the own answer is still the most likely one
    control_log_p, control_kl, control_kept: the same with other keys, drawn at random; NaN where there are none to draw
    plain: log_p of the run as it is; keys, drawn: how many positions are no longer read, and how many in a control
    """

    kind: ClassVar[str] = "knockout"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "log_p": ("layer", "head", "run"),
        "kl": ("layer", "head", "run"),
        "kept": ("layer", "head", "run"),
        "control_log_p": ("control", "layer", "head", "run"),
        "control_kl": ("control", "layer", "head", "run"),
        "control_kept": ("control", "layer", "head", "run"),
        "plain": ("run",),
        "keys": ("run",),
        "drawn": ("run",),
    }

    log_p: NDArray[Any]
    kl: NDArray[Any]
    kept: NDArray[Any]
    control_log_p: NDArray[Any]
    control_kl: NDArray[Any]
    control_kept: NDArray[Any]
    plain: NDArray[Any]
    keys: NDArray[Any]
    drawn: NDArray[Any]

    @property
    def each(self) -> str:
        """What one knock-out is in: "all" layers and heads, one "layer" (or window), one "head"."""
        if tuple(self.coords["layer"]) == ("all",):
            return "all"
        return "layer" if tuple(self.coords["head"]) == ("all",) else "head"

    @property
    def controls(self) -> int:
        """How many random draws of other keys there are."""
        return len(self.control_log_p)

    def effect(
        self, quantity: str = "log_p", *, control: bool = False
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Estimate, lower and upper bound `[layer, head]`: the mean over problems, with a 95 % interval.

        quantity: "log_p" (the change, below 0 where the answer is lost), "kl" or "kept"; control: of the random keys,
        the mean over draws, of the runs that have any
        """
        values = self._values(quantity, control)
        cells = values.shape[:2]
        units = self._units(values.reshape(-1, values.shape[-1]).T)
        estimate = units.mean(axis=0) if len(units) else np.full(units.shape[1], np.nan)
        if quantity == "kept" and len(units):
            low, high = np.array([rate_interval(rate, len(units)) for rate in estimate]).T
        else:
            low, high = bootstrap_interval(units, lambda means: means)
        return estimate.reshape(cells), low.reshape(cells), high.reshape(cells)

    def frame(self) -> pd.DataFrame:
        """A row a layer, head and quantity: the effect and the random keys' with intervals; n problems, n_control."""
        rows = []
        for quantity in QUANTITIES:
            found, drawn = self.effect(quantity), self.effect(quantity, control=True)
            for i, layer in enumerate(self.coords["layer"]):
                for j, head in enumerate(self.coords["head"]):
                    row = {"layer": layer, "head": head, "quantity": quantity}
                    row |= dict(zip(ESTIMATE, (float(part[i, j]) for part in found), strict=True))
                    rows.append(row | dict(zip(CONTROL, (float(part[i, j]) for part in drawn), strict=True)))
        counts = {"n": len(set(self.coords["run"])), "n_control": len(self._units(self._values("kl", True)[0].T))}
        return pd.DataFrame(rows).assign(**counts)

    def table(self) -> pd.DataFrame:
        """A row a layer and head: each quantity, and behind it that of random keys."""
        frame = self.frame()
        table = frame.loc[frame["quantity"] == QUANTITIES[0], ["layer", "head"]]
        for quantity in QUANTITIES:
            rows = frame[frame["quantity"] == quantity]
            for name, columns in ((quantity, ESTIMATE), (f"{quantity}, random keys", CONTROL)):
                table[name] = [interval_text(*row) for row in rows[columns].to_numpy()]
        return table.assign(n=frame["n"])

    def _values(self, quantity: str, control: bool) -> NDArray[Any]:
        """`[layer, head, run]`."""
        check_name("quantity", quantity, QUANTITIES)
        values: NDArray[Any] = getattr(self, f"control_{quantity}" if control else quantity)
        if control:
            if not self.controls:
                return np.full(self.log_p.shape, np.nan)
            values = values.mean(axis=0)
        return np.asarray(values - self.plain) if quantity == "log_p" else values

    def _units(self, values: NDArray[Any]) -> NDArray[Any]:
        """Rows of runs, as means over the runs of a problem; without those that are not known."""
        problems = np.array(self.coords["run"])
        known = ~np.isnan(values).any(axis=1)
        names, unit = np.unique(problems[known], return_inverse=True)
        sums = np.zeros((len(names), values.shape[1]))
        np.add.at(sums, unit, values[known])
        return sums / np.bincount(unit, minlength=len(names))[:, None]
