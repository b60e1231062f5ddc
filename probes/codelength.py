"""Description length: the bits that send labels to one who has the features, by a probe that learns on the way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from .base import like, numbered
from .estimate import Estimate
from .held_out import Labelled
from .information import LN2

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True, eq=False, repr=False)
class Codelength:
    """The online code of labels, block by block.

    rows: bits that each label took, in the order of the data, with groups; ends: rows sent after each block, the last
    is n;
    blocks: bits of each block, the first of the uniform code; classes: how many there are
    """

    rows: Estimate
    ends: tuple[int, ...]
    blocks: tuple[float, ...]
    classes: int

    @property
    def bits(self) -> float:
        """The length of the whole code."""
        return sum(self.blocks)

    @property
    def uniform_bits(self) -> float:
        """The length of the code that gives every label log2 K bits."""
        return self.rows.n * math.log2(self.classes)

    @property
    def compression(self) -> float:
        """How many times the uniform code is longer: n log2 K / L."""
        return self.uniform_bits / self.bits

    def interval(self, confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Percentile interval of the compression over groups, for the order and the fits as they were."""
        low, high = self.rows.interval(confidence, seed=seed)
        return math.log2(self.classes) / high, math.log2(self.classes) / low

    def __repr__(self) -> str:
        low, high = self.interval()
        return (
            f"<{self.bits:.1f} bits for {self.rows.n} labels of {self.classes} classes, compression "
            f"{self.compression:.2f} [{low:.2f}, {high:.2f}], {len(self.blocks)} blocks>"
        )


def online_codelength(
    probe: Any,
    X: Any,
    y: Any,
    *,
    groups: Any = None,
    fractions: Sequence[float] = FRACTIONS,
    least: int = 16,
    seed: int = 0,
) -> Codelength:
    """Online (prequential) description length of labels, given features, in bits: how easily a probe learns them.

    L = t_1 log2 K - sum_i log2 p_i(y of rows t_i + 1 to t_(i+1) | their x), where p_i was fitted to rows 1 to t_i.

    probe, X, y, groups as in `held_out`; rows stand in random order, those of one group (a problem) together and in one
    block
    fractions: ends t_i of the blocks, as shares of the rows, up to 1, moved to the end of a group
    least: timesteps before `least` rows, two classes and two groups are there are merged into the first, uniform, block

    A label that has not been sent yet gets one sample's worth of probability, as in `held_out`; that there are K of
    them is known. Labels that are not equally frequent compress without any feature: compare with `shuffled` labels.
    Source: Voita & Titov 2020 (arXiv 2003.12298), section 2.2, whose timesteps are the default; for 1000 rows or fewer
    the first of them are merged.

    >>> from .ridge import RidgeProbe
    >>> y = np.arange(400) % 4
    >>> online_codelength(RidgeProbe(), np.eye(4)[y], y).compression > 5
    True
    """
    rows = Labelled.of(X, y, groups)
    if list(fractions) != sorted(set(fractions)) or fractions[0] <= 0 or fractions[-1] != 1:
        raise ValueError(f"fractions: expected shares of the rows that rise to 1, got {tuple(fractions)}")
    member = numbered(np.arange(rows.n) if groups is None else groups)[1].to(rows.index.device)
    order, group_ends = _order(member, seed)
    ends = _ends(rows, order, group_ends, fractions, least)
    K = len(rows.classes)
    spent = rows.unknown().fill_(math.log2(K))
    for start, end in pairwise(ends):
        block = order[start:end]
        log_p = rows.log_proba(probe, order[:start], block)
        spent[block] = -log_p.gather(1, rows.index[block, None])[:, 0] / LN2
    blocks = tuple(float(part.sum()) for part in spent[order].tensor_split(list(ends[:-1])))
    return Codelength(Estimate(like(spent, X), groups), ends, blocks, K)


def _order(member: torch.Tensor, seed: int) -> tuple[torch.Tensor, list[int]]:
    """Row numbers, group by group in random order, and where each group ends."""
    count = int(member.max()) + 1
    place = torch.from_numpy(np.random.default_rng(seed).permutation(count)).to(member.device)[member]
    sizes = torch.bincount(place, minlength=count)
    return torch.argsort(place, stable=True), [int(end) for end in sizes.cumsum(0)]


def _ends(
    rows: Labelled, order: torch.Tensor, group_ends: list[int], fractions: Sequence[float], least: int
) -> tuple[int, ...]:
    """Where blocks end: at the end of the group in which a fraction falls, and where a probe can be fitted."""
    found = []
    for fraction in fractions:
        group = int(np.searchsorted(group_ends, math.ceil(fraction * rows.n - 1e-9)))
        end = group_ends[group]
        enough = end >= least and group >= 1 and len(torch.unique(rows.index[order[:end]])) > 1
        if (enough or end == rows.n) and end not in found:
            found.append(end)
    return tuple(found)
