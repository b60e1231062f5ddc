"""The saved result of `subspace`. No torch and no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result
from ..core.text import terminal_width
from .interval import bootstrap_interval, interval_text

MODELS = ("trained", "random-init")
WHOLE, SWAPPED, RANDOM, MATCHED = "whole state", "subspace", "random subspace", "random, same length"
SHUFFLED, SHUFFLED_ERASED = "shuffled labels", "erased, shuffled labels"
ERASED, RANDOM_ERASED = "erased", "random erased"
PLAIN = "no change"
KEPT = (ERASED, SHUFFLED_ERASED, RANDOM_ERASED)
INTERVENTIONS = (PLAIN, WHOLE, SWAPPED, SHUFFLED, RANDOM, MATCHED, *KEPT)


@dataclass(frozen=True, eq=False, repr=False)
class Subspace(Result):
    """What swapping or erasing a subspace of the residual stream does, beside random subspaces and a random model.

    values: log-odds of the donor's over the recipient's answer `[model, layer, intervention, pair]`; a control that was
    drawn several times stands under its name as often
    outcome: the greedy answer is 0 the recipient's, 1 the donor's, 2 another one
    recipient, donor: log-odds of the plain runs `[model, pair]`; plain: outcome of the recipient's own run
    bits: what a probe reads of the variable at that place, of problems that it was not fitted to `[model, layer, pair]`
    (NaN where no variable was named); rank: `[model, layer]`
    """

    kind: ClassVar[str] = "subspace"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "values": ("model", "layer", "intervention", "pair"),
        "outcome": ("model", "layer", "intervention", "pair"),
        "recipient": ("model", "pair"),
        "donor": ("model", "pair"),
        "plain": ("model", "pair"),
        "bits": ("model", "layer", "pair"),
        "rank": ("model", "layer"),
    }

    values: NDArray[Any]
    outcome: NDArray[Any]
    recipient: NDArray[Any]
    donor: NDArray[Any]
    plain: NDArray[Any]
    bits: NDArray[Any]
    rank: NDArray[Any]

    def frame(self) -> pd.DataFrame:
        """A row a model, layer, intervention and quantity, with intervals over pairs; draws of a control are averaged.

        nats: mean change of the log-odds; effect: its share of the change from recipient to donor; moved: the share of
        pairs that answer as the donor does (interchange accuracy); kept: as the recipient does; bits: of the variable,
        under the intervention "read"; "no change" is the recipient's own run
        """
        names = np.array(self.coords["intervention"])
        rows = []
        for m, model in enumerate(self.coords["model"]):
            told = np.isfinite(self.recipient[m])  # pairs whose runs the model answers differently
            whole = (self.donor[m] - self.recipient[m])[told]
            for i, layer in enumerate(self.coords["layer"]):
                place = {"model": model, "layer": layer}
                for quantity, code in (("moved", 1), ("kept", 0)):
                    rate = (self.plain[m, told] == code).astype(float)[:, None]
                    rows.append({**place, "intervention": PLAIN, **_figure(quantity, rate, _first)})
                rows.append(
                    {**place, "intervention": "read", **_figure("bits", self.bits[m, i, told][:, None], _first)}
                )
                for name in dict.fromkeys(names):
                    here = names == name
                    change = (self.values[m, i, here] - self.recipient[m])[:, told].mean(axis=0)
                    columns = {
                        "nats": (change[:, None], _first),
                        "effect": (np.stack([change, whole], axis=1), _ratio),
                        "moved": ((self.outcome[m, i, here][:, told] == 1).mean(axis=0)[:, None], _first),
                        "kept": ((self.outcome[m, i, here][:, told] == 0).mean(axis=0)[:, None], _first),
                    }
                    for quantity, (values, statistic) in columns.items():
                        rows.append({**place, "intervention": name, **_figure(quantity, values, statistic)})
        return pd.DataFrame(rows)

    def table(self) -> str:
        """By layer: what is read, and what moves the answer, with every control beside it."""
        how, entropy = self.manifest.identity, self.manifest.circumstance["entropy"]
        what = f"{how['variable']} ({entropy:.2f} bits)" if how["variable"] else "no variable"
        lines = [
            f"{what} at {how['position']} ({how['site']}, {how['mode']} run), subspace {how['find']}; "
            "moved: pairs that answer as the donor does, kept: as the recipient"
        ]
        frame = self.frame()
        frame["shown"] = [interval_text(*row) for row in frame[["estimate", "low", "high"]].itertuples(index=False)]
        for m, model in enumerate(self.coords["model"]):
            pairs = int(np.isfinite(self.recipient[m]).sum())
            own = frame[frame["model"] == model]
            read = own[own["quantity"] == "bits"].set_index("layer")["shown"].rename("bits")
            moved = own[(own["quantity"] == "moved") & ~own["intervention"].isin(list(KEPT))]
            kept = own[(own["quantity"] == "kept") & own["intervention"].isin(list(KEPT))]
            wide = pd.concat([moved, kept]).pivot(index="layer", columns="intervention", values="shown")
            order = [name for name in INTERVENTIONS if name in wide]
            labels = {name: f"{name}: {'kept' if name in KEPT else 'moved'}" for name in order}
            ranks = pd.Series(self.rank[m], index=self.coords["layer"], name="rank")
            columns = [ranks, read, wide[order].rename(columns=labels)]
            lines.append(f"{model}, {pairs} pairs\n{pd.concat(columns, axis=1).to_string(line_width=terminal_width())}")
        return "\n".join(lines)


def _figure(quantity: str, values: NDArray[Any], statistic: Any) -> dict[str, Any]:
    """Estimate and interval of one quantity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(statistic(values.mean(axis=0))[0]) if len(values) else float("nan")
    low, high = bootstrap_interval(values, statistic)
    return {"quantity": quantity, "estimate": estimate, "low": float(low[0]), "high": float(high[0]), "n": len(values)}


def _first(means: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(means[..., :1])


def _ratio(means: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(means[..., :1] / means[..., 1:2])
