"""The saved results of `patch`. No torch and no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result
from .interval import bootstrap_interval, interval_text

BLOCK = 512  # cells whose bootstrap is drawn together
SHOWN = 8


@dataclass(frozen=True, eq=False, repr=False)
class PatchMap(Result):
    """What a metric is in every pair with one cell of the base's run taken from the source's.

    values: `[layer, position, pair]`; recipient and donor: the same of the two unpatched runs. The base is the
    recipient where the direction is "denoising", the donor where it is "noising"
    outcome: the greedy answer is 0 the recipient's, 1 the donor's, 2 another one; exact: False where a cell is a
    gradient's approximation
    """

    kind: ClassVar[str] = "patch"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "values": ("layer", "position", "pair"),
        "outcome": ("layer", "position", "pair"),
        "exact": ("layer", "position"),
        "recipient": ("pair",),
        "donor": ("pair",),
        "variable": ("pair",),
    }

    values: NDArray[Any]
    outcome: NDArray[Any]
    exact: NDArray[Any]
    recipient: NDArray[Any]
    donor: NDArray[Any]
    variable: NDArray[Any]

    @property
    def base(self) -> NDArray[Any]:
        """The metric of the run that is patched, `[pair]`."""
        return self.donor if self.manifest.identity["direction"] == "noising" else self.recipient

    @property
    def source(self) -> NDArray[Any]:
        """The metric of the run that states are taken from, `[pair]`."""
        return self.recipient if self.manifest.identity["direction"] == "noising" else self.donor

    def effect(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Estimate, lower and upper bound of the share of the change from base to source that one cell makes, of the
        shape of the cells: a ratio of means over pairs, signed, not clipped; a bootstrap over pairs."""
        shape = self.values.shape[:-1]
        change = (self.values - self.base).reshape(-1, self.values.shape[-1]).T
        whole = (self.source - self.base)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            estimate = _ratio(np.concatenate([change, whole], axis=1).mean(axis=0))
        bounds = [
            bootstrap_interval(np.concatenate([change[:, start : start + BLOCK], whole], axis=1), _ratio)
            for start in range(0, change.shape[1], BLOCK)
        ]
        low, high = (np.concatenate(parts) for parts in zip(*bounds, strict=True))
        return estimate.reshape(shape), low.reshape(shape), high.reshape(shape)

    def moved(self) -> NDArray[Any]:
        """The share of pairs whose greedy answer is the source's, of the shape of the cells; NaN where no cell was run
        exactly."""
        side = 0 if self.manifest.identity["direction"] == "noising" else 1
        rate = (self.outcome == side).mean(axis=-1)
        return np.where(self.exact, rate, np.nan)

    def frame(self) -> pd.DataFrame:
        """A row a cell: layer, position (and unit), effect with interval, shares of outcomes, exact or approximated."""
        estimate, low, high = self.effect()
        names = self.axes["values"][:-1]
        labels = [self.coords[name] for name in names]
        places = [
            dict(zip(names, (labels[i][k] for i, k in enumerate(at)), strict=True))
            for at in np.ndindex(*estimate.shape)
        ]
        counts = {
            name: np.where(self.exact, (self.outcome == code).mean(axis=-1), np.nan).ravel()
            for code, name in enumerate(("recipient's", "donor's", "other"))
        }
        figures = {"effect": estimate.ravel(), "low": low.ravel(), "high": high.ravel(), **counts}
        return pd.DataFrame(places).assign(**figures, exact=self.exact.ravel(), n=self.values.shape[-1])

    def table(self) -> str:
        """The cells that move the answer most, with what was measured and how; approximations have a "~"."""
        frame = self.frame()
        order = frame["effect"].abs().sort_values(ascending=False).index[:SHOWN]
        rows = frame.loc[order]
        places = list(self.axes["values"][:-1])
        marks = ["" if exact else "~" for exact in rows["exact"]]
        texts = [interval_text(*row) for row in rows[["effect", "low", "high"]].itertuples(index=False)]
        shown = rows[places].assign(
            effect=[mark + text for mark, text in zip(marks, texts, strict=True)],
            moved=[f"{share:.2f}" if share == share else "-" for share in np.asarray(self.moved()).ravel()[order]],
        )
        return f"{self.summary()}\n{shown.to_string(index=False)}"

    def summary(self) -> str:
        """One line: what was patched, in how many pairs, at what cost."""
        how, facts = self.manifest.identity, self.manifest.circumstance
        cells = int(np.prod(self.values.shape[:-1]))
        return (
            f"{how['site']} into the {'donor' if how['direction'] == 'noising' else 'recipient'}'s {how['mode']} run, "
            f"{how['metric']}: {cells} cells, {self.values.shape[-1]} pairs, {int(self.exact.sum())} cells exact, "
            f"{facts['forwards']:.0f} forward passes ({facts['way']}){_approximation(facts.get('approximation'))}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class UnitPatchMap(PatchMap):
    """A `PatchMap` with one head or one neuron at a time: `[layer, position, unit, pair]`."""

    kind: ClassVar[str] = "patch_units"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "values": ("layer", "position", "unit", "pair"),
        "outcome": ("layer", "position", "unit", "pair"),
        "exact": ("layer", "position", "unit"),
        "recipient": ("pair",),
        "donor": ("pair",),
        "variable": ("pair",),
    }


def _ratio(means: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(means[..., :-1] / means[..., -1:])


def _approximation(facts: Mapping[str, Any] | None) -> str:
    """How far cells by gradients are off, in a sentence; nothing where there are none."""
    if facts is None:
        return ""
    steps = facts["steps"]
    start = f"; gradients ({steps} step{'s' if steps > 1 else ''}) "
    if "cell" not in facts:
        return f"{start}not checked on any cell"
    figures = [f"{facts[name]:.2f}" if facts[name] is not None else "-" for name in ("spearman", "slope", "miss")]
    where = ", ".join(f"{name} {at}" for name, at in facts["cell"].items())
    return (
        f"{start}on {facts['sampled']} random cells that were run too: rank correlation {figures[0]}, "
        f"slope {figures[1]}; largest miss seen {figures[2]} of the whole effect ({where})"
    )
