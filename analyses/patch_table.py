"""The saved result of `patch`. No torch and no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import Result
from .interval import bootstrap_interval


@dataclass(frozen=True, eq=False, repr=False)
class PatchMap(Result):
    """Log-odds of the donor's over the recipient's answer, with one cell of the residual stream taken from the donor.

    values: `[layer, position, pair]`; recipient and donor: the same of the two unpatched runs
    """

    kind: ClassVar[str] = "patch"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "values": ("layer", "position", "pair"),
        "recipient": ("pair",),
        "donor": ("pair",),
        "variable": ("pair",),
    }

    values: NDArray[Any]
    recipient: NDArray[Any]
    donor: NDArray[Any]
    variable: NDArray[Any]

    def effect(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Estimate, lower and upper bound `[layer, position]` of the share of the recipient-to-donor change that one
        cell makes: a ratio of means, signed, not clipped."""
        layers, positions, pairs = self.values.shape
        change = (self.values - self.recipient).reshape(-1, pairs).T
        values = np.concatenate([change, (self.donor - self.recipient)[:, None]], axis=1)

        def ratio(means: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(means[..., :-1] / means[..., -1:])

        low, high = bootstrap_interval(values, ratio)
        shape = (layers, positions)
        return ratio(values.mean(axis=0)).reshape(shape), low.reshape(shape), high.reshape(shape)

    def frame(self) -> pd.DataFrame:
        """A row a cell: layer, position, effect with interval."""
        estimate, low, high = self.effect()
        return pd.DataFrame(
            [
                {"layer": layer, "position": position, "effect": estimate[i, j], "low": low[i, j], "high": high[i, j]}
                for i, layer in enumerate(self.coords["layer"])
                for j, position in enumerate(self.coords["position"])
            ]
        )
