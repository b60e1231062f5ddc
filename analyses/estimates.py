"""Every quantity that is read from the mean cells of a set of pairs, with its interval."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cells import TERMS, WIRES, moebius, necessity, shapley, shares, sufficiency, total
from .interval import bootstrap_interval

OUTCOMES = ("donor's", "recipient's", "implied", "broken")
# Pearl's effects with the whole CoT as the mediator: what changing the prompt does while the CoT is held, and what
# changing the CoT (its states and its tokens) does while the prompt is held. They add up only without interaction.
EFFECTS = (("NDE", "direct"), ("NIE", "relay+tokens"))
INTERACTIONS = tuple(cell for cell in range(8) if cell.bit_count() >= 2)


@dataclass(frozen=True)
class Estimates:
    """Every quantity of one set of pairs: labels (outcome, quantity, term), estimates and intervals; and the status."""

    labels: tuple[tuple[str, str, str], ...]
    estimate: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any]
    n: int

    def get(self, outcome: str, quantity: str, bound: str = "estimate") -> NDArray[Any]:
        """The values of one quantity, over its terms."""
        chosen = [i for i, label in enumerate(self.labels) if label[:2] == (outcome, quantity)]
        return np.asarray(getattr(self, bound)[chosen])


def per_unit(values: NDArray[Any], unit: NDArray[Any]) -> NDArray[Any]:
    """Means over the rows of each unit: samples of one pair of problems are not independent."""
    _, place = np.unique(unit, return_inverse=True)
    if len(values) == (place.max(initial=-1) + 1):
        return values
    sums = np.zeros((place.max() + 1, *values.shape[1:]))
    np.add.at(sums, place, values)
    return sums / np.bincount(place).reshape(-1, *[1] * (values.ndim - 1))


def estimate(parts: list[NDArray[Any]]) -> Estimates:
    """All quantities from cells `[pair, direction, cell]`, one array a part in the order of `PARTS`.

    Both directions are averaged within a pair, and pairs are what the bootstrap draws.
    """
    values = np.concatenate([part.mean(axis=1) for part in parts], axis=-1)  # [pair, part * cell]
    n = len(values)
    means = values.mean(axis=0) if n else np.full(values.shape[1], np.nan)
    low, high = bootstrap_interval(values, _quantities)
    return Estimates(tuple(_labels()), _quantities(means), low, high, n)


PARTS = ("log-odds", "p(donor's)", "p(recipient's)", "p(third)", *OUTCOMES, "boundary", "program")


def _labels() -> Iterator[tuple[str, str, str]]:
    for outcome in ("log-odds", "p(donor's)"):
        yield from ((outcome, "cell", term) for term in TERMS)
        yield outcome, "total", TERMS[-1]
        yield from ((outcome, quantity, wire) for quantity in ("shapley", "share") for wire in WIRES)
        yield from ((outcome, "interaction", TERMS[cell]) for cell in INTERACTIONS)
        yield from ((outcome, quantity, wire) for quantity in ("sufficiency", "necessity") for wire in WIRES)
    yield from (("p(donor's)", quantity, term) for quantity, term in EFFECTS)
    for outcome in ("p(recipient's)", "p(third)", *(f"greedy: {name}" for name in OUTCOMES), "read"):
        yield from ((outcome, "cell", term) for term in TERMS)
    yield from (("open with the CoT", "share", wire) for wire in WIRES)
    yield "program: chain", "total", TERMS[-1]
    yield from (("program: chain", "share", wire) for wire in WIRES)


def _quantities(means: NDArray[Any]) -> NDArray[Any]:
    """All quantities in the order of `_labels` from means `[..., part * cell]`."""
    part = dict(zip(PARTS, np.split(means, len(PARTS), axis=-1), strict=True))
    found = []
    for outcome in ("log-odds", "p(donor's)"):
        v = part[outcome]
        found += [v, total(v)[..., None], shapley(v), shares(v)]
        found += [moebius(v)[..., list(INTERACTIONS)], sufficiency(v), necessity(v)]
    p = part["p(donor's)"]
    found += [p[..., [TERMS.index(term)]] - p[..., :1] for _, term in EFFECTS]
    found += [part["p(recipient's)"], part["p(third)"], *(part[name] for name in OUTCOMES)]
    found += [part["donor's"] + part["recipient's"] + part["implied"]]
    found += [shares(part["boundary"])]
    found += [total(part["program"])[..., None], shares(part["program"])]
    return np.concatenate(found, axis=-1)
