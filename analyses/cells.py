"""The algebra of the eight cells. No torch and no model: shares, interactions, and when a share is withheld.

A cell is a set of wires that carry the donor's value: bit 0 direct, bit 1 relay, bit 2 tokens.
"""

from itertools import permutations
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

WIRES = ("direct", "relay", "tokens")
N_CELLS = 8
Cells = Float[np.ndarray, "... 8"]


def term(cell: int) -> str:
    """The name of a cell: the wires that carry the donor's value, joined with "+".

    >>> [term(cell) for cell in (0, 1, 6, 7)]
    ['none', 'direct', 'relay+tokens', 'direct+relay+tokens']
    """
    return "+".join(wire for bit, wire in enumerate(WIRES) if cell >> bit & 1) or "none"


TERMS = tuple(term(cell) for cell in range(N_CELLS))
MIXED = tuple(range(1, N_CELLS - 1))


def _shapley_weights() -> NDArray[Any]:
    """phi = cells @ weights: the mean over orders of switching wires on, of what each adds when its turn comes."""
    weights = np.zeros((N_CELLS, len(WIRES)))
    orders = list(permutations(range(len(WIRES))))
    for order in orders:
        on = 0
        for wire in order:
            weights[on | 1 << wire, wire] += 1 / len(orders)
            weights[on, wire] -= 1 / len(orders)
            on |= 1 << wire
    return weights


def _moebius_weights() -> NDArray[Any]:
    """m(S) = sum over U in S of (-1)^|S - U| v(U)."""
    weights = np.zeros((N_CELLS, N_CELLS))
    for cell in range(N_CELLS):
        for part in range(N_CELLS):
            if part & cell == part:
                weights[part, cell] = (-1.0) ** ((cell ^ part).bit_count())
    return weights


_SHAPLEY, _MOEBIUS = _shapley_weights(), _moebius_weights()


def shapley(v: Cells) -> Float[np.ndarray, "... 3"]:
    """Shapley values of the three wires; they add up to v(direct+relay+tokens) - v(none).

    >>> shapley(np.array([0.0, 1, 0, 1, 2, 3, 2, 3])).round(6).tolist()
    [1.0, 0.0, 2.0]
    """
    return np.asarray(v @ _SHAPLEY)


def moebius(v: Cells) -> Cells:
    """Moebius transform: entry S is what the wires in S do together beyond what their subsets do.

    >>> moebius(np.array([0.0, 0, 0, 0, 0, 1, 0, 1])).tolist()  # direct and tokens only together
    [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    """
    return np.asarray(v @ _MOEBIUS)


def total(v: Cells) -> Float[np.ndarray, "..."]:
    """v(direct+relay+tokens) - v(none)."""
    return np.asarray(v[..., -1] - v[..., 0])


def shares(v: Cells) -> Float[np.ndarray, "... 3"]:
    """Shapley values over the total: of means, so never of one pair; not clipped; they add up to 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(shapley(v) / total(v)[..., None])


def sufficiency(v: Cells) -> Float[np.ndarray, "... 3"]:
    """What each wire does alone, over the total: (v({i}) - v(none)) / total."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((v[..., [1, 2, 4]] - v[..., :1]) / total(v)[..., None])


def necessity(v: Cells) -> Float[np.ndarray, "... 3"]:
    """What is lost without each wire, over the total: (v(all) - v(all but i)) / total."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((v[..., -1:] - v[..., [6, 5, 3]]) / total(v)[..., None])
