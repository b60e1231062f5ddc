"""The saved results of `by_layer` and `relay_by_position`. No torch and no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result, check_name
from .cells import WIRES, shapley, total
from .interval import bootstrap_interval, interval_text


@dataclass(frozen=True, eq=False, repr=False)
class ByLayer(Result):
    """The log-odds of the eight cells when only reader layers from `layer` on see the cell's keys and values.

    The last layer label is one above the last layer: nothing is seen there but the reader's own token.
    """

    kind: ClassVar[str] = "by_layer"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "variable": ("pair",),
        "log_odds": ("layer", "pair", "direction", "cell"),
    }

    variable: NDArray[Any]
    log_odds: NDArray[Any]

    def frame(self) -> pd.DataFrame:
        """variable, layer, wire: the Shapley value of the wire over the total of the whole table, with its interval."""
        rows: list[dict[str, Any]] = []
        for number, variable in enumerate(self.coords["variable"]):
            chosen = self.variable == number
            if not chosen.any():
                continue
            cells = self.log_odds[:, chosen].mean(axis=2).transpose(1, 0, 2)  # [pair, layer, cell]

            def quantities(means: NDArray[Any]) -> NDArray[Any]:
                v = means.reshape(*means.shape[:-1], len(self.coords["layer"]), 8)
                found = shapley(v) / total(v)[..., :1, None]
                return np.asarray(found.reshape(*means.shape[:-1], -1))

            values = cells.reshape(len(cells), -1)
            told = (quantities(values.mean(0)), *bootstrap_interval(values, quantities))
            shape = (len(self.coords["layer"]), len(WIRES))
            estimate, low, high = (np.asarray(part).reshape(shape) for part in told)
            for i, layer in enumerate(self.coords["layer"]):
                for w, wire in enumerate(WIRES):
                    numbers = {"estimate": estimate[i, w], "low": low[i, w], "high": high[i, w], "n": int(chosen.sum())}
                    rows.append({"variable": variable, "from layer": layer, "term": wire, **numbers})
        return pd.DataFrame(rows)

    def table(self) -> pd.DataFrame:
        """A row a variable and layer: the wires with their intervals."""
        rows = []
        for (variable, layer, n), found in self.frame().groupby(["variable", "from layer", "n"], sort=False):
            wires = {row["term"]: interval_text(row["estimate"], row["low"], row["high"]) for row in _records(found)}
            rows.append({"variable": variable, "from layer": layer, **wires, "n": n})
        return pd.DataFrame(rows)

    def wire(self, name: str) -> NDArray[Any]:
        """What is left of a wire `[layer, variable]` when it is read from that layer on."""
        frame = self.frame()
        chosen = frame[frame["term"] == check_name("wire", name, WIRES)]
        return np.asarray(chosen.pivot(index="from layer", columns="variable", values="estimate"))


@dataclass(frozen=True, eq=False, repr=False)
class RelayByPosition(Result):
    """What the states of one part of the CoT do alone: alone in nats of log-odds, for every part and for all at once.

    total: what all wires together do in the same pair, in nats
    """

    kind: ClassVar[str] = "relay_by_position"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "variable": ("pair",),
        "alone": ("pair", "direction", "part"),
        "total": ("pair",),
    }

    variable: NDArray[Any]
    alone: NDArray[Any]
    total: NDArray[Any]

    def frame(self) -> pd.DataFrame:
        """variable, part: the share of the total that the part's states carry alone, with its interval.

        With both directions of a pair this is also what is lost without them. "all" is the whole relay alone: where the
        parts do not add up to it, they act together.
        """
        rows: list[dict[str, Any]] = []
        for number, variable in enumerate(self.coords["variable"]):
            chosen = self.variable == number
            if not chosen.any():
                continue
            values = np.concatenate([self.alone[chosen].mean(axis=1), self.total[chosen, None]], axis=1)

            def shares(means: NDArray[Any]) -> NDArray[Any]:
                return np.asarray(means[..., :-1] / means[..., -1:])

            low, high = bootstrap_interval(values, shares)
            for i, part in enumerate(self.coords["part"]):
                numbers = {"estimate": shares(values.mean(0))[i], "low": low[i], "high": high[i]}
                rows.append({"variable": variable, "part": part, **numbers, "n": int(chosen.sum())})
        return pd.DataFrame(rows)

    def table(self) -> pd.DataFrame:
        """A row a variable and part: its share with the interval."""
        rows = []
        for row in _records(self.frame()):
            share = interval_text(row["estimate"], row["low"], row["high"])
            rows.append({"variable": row["variable"], "part": row["part"], "share": share, "n": row["n"]})
        return pd.DataFrame(rows)


def _records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")
