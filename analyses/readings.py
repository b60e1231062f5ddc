"""Activations at named places of runs, and probes swept over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ..hooks import Model, Runs, record
from ..probes import Sweep, sweep

FOLDS_NEEDED = 3  # by `loadbearing.probes.sweep`


@dataclass(frozen=True, eq=False)
class Place:
    """Activations at one position of the runs that have it.

    name: "MODE POSITION"; X `[row, site, layer, d]`; run: number of each row's run; token: its index in the run
    """

    name: str
    X: Float[np.ndarray, "row site layer d"]
    run: NDArray[Any]
    token: NDArray[Any]

    def sweep(self, labels: Mapping[str, NDArray[Any]], fold: NDArray[Any], **options: Any) -> Sweep | None:
        """A probe at every site and layer for labels `[run]`; None where too few runs have the place.

        A label that has one value among these runs is left out.
        """
        here = fold[self.run]
        targets = {name: y[self.run] for name, y in labels.items() if len(np.unique(y[self.run])) > 1}
        if len(np.unique(here)) < max(FOLDS_NEEDED, len(np.unique(fold))) or not targets:
            return None
        return sweep(self.X, targets, folds=here, **options)


def places_of(model: Model, runs: Runs, sites: Sequence[str], *, progress: bool = False) -> list[Place]:
    """Every named place of runs in the order of the run: prompt, open, end of each step, cue.

    Tokens are replayed, so the model may be another one than wrote them (its random twin).
    """
    named = ["prompt[-1]", *(["open[-1]"] if all("open" in run.spans for run in runs) else [])]
    positions = [*named, *(["step.*[-1]"] if runs.mode == "cot" else []), "cue[-1]"]
    acts = record(model, runs, sites, positions, progress=progress)
    values = np.stack([acts.values[site].double().numpy() for site in acts.values], axis=1)
    labels = acts.rows["position"].to_numpy()
    steps = sorted({label for label in labels if label.startswith("step.")}, key=lambda label: int(label[5:-4]))
    found = []
    for label in [*named, *steps, "cue[-1]"]:
        rows = np.flatnonzero(labels == label)
        at = acts.rows.iloc[rows]
        found.append(Place(f"{runs.mode} {label}", values[rows], at["run"].to_numpy(), at["token"].to_numpy()))
    return found


def one_hot(values: NDArray[Any]) -> Float[np.ndarray, "row value"]:
    """Indicators of the distinct values."""
    return np.eye(len(np.unique(values)))[np.unique(values, return_inverse=True)[1]]
