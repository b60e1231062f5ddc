"""An average over rows, with its interval over groups of rows."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .base import like, numbered

RESAMPLES = 999


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """An average over rows, with the rows kept, so that it has an interval, can be split and compared.

    values: `[n]`, numpy or a tensor (its device is kept); groups: `[n]`, rows of one group (a problem) are drawn
    together; None: each row is its own group. unit: what the values are in

    >>> import numpy as np
    >>> Estimate(np.array([1.0, 2.0, 3.0, 2.0]), np.array(["a", "a", "b", "c"]))
    2.00 bits [1.50, 3.00], 3 groups
    """

    values: Any
    groups: Any = None
    unit: str = "bits"

    def __post_init__(self) -> None:
        if len(self.values.shape) != 1 or not len(self.values):
            raise ValueError(f"expected one value a row, values of shape [n], got {tuple(self.values.shape)}")
        if self.groups is not None and len(self.groups) != len(self.values):
            raise ValueError(f"expected one group for each of {len(self.values)} values, got {len(self.groups)}")

    @property
    def n(self) -> int:
        """How many rows there are."""
        return len(self.values)

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
        return self.n if self.groups is None else len(numbered(self.groups)[0])

    @property
    def mean(self) -> float:
        """The average over rows."""
        return float(self.values.mean())

    def interval(self, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
        """Percentile interval of the mean: whole groups are drawn with replacement. NaN with fewer than two groups.

        The mean of a resample is over its rows, so a group counts by its size. Source: Davison & Hinkley 1997,
        Bootstrap Methods and their Application, section 3.8 (strategy 1).
        """
        values = as_float(self.values)
        sums = resampled_sums(torch.stack([values, torch.ones_like(values)], dim=1), self.groups, resamples, seed)
        return percentiles(sums[:, 0] / sums[:, 1], confidence)

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference row by row: a paired comparison of two measures of the same rows."""
        if self.n != other.n or self.unit != other.unit:
            raise ValueError(
                f"only measures of the same rows can be compared: {self.n} rows in {self.unit}, "
                f"{other.n} rows in {other.unit}"
            )
        return Estimate(self.values - other.values, self.groups, self.unit)

    def __repr__(self) -> str:
        low, high = self.interval()
        which = f"{self.n} rows" if self.groups is None else f"{self.n_groups} groups"
        return f"{self.mean:z.2f} {self.unit} [{low:z.2f}, {high:z.2f}], {which}"


def as_float(values: Any) -> Tensor:
    """Values `[...]` as a tensor of floating-point numbers, double where the device has them."""
    found: Tensor = torch.as_tensor(values).detach()
    return found.to(torch.float32 if found.device.type == "mps" else torch.float64)


def resampled_sums(values: Tensor, groups: Any, resamples: int, seed: int) -> Tensor:
    """Sums over rows of `values` `[n, m]` when groups are drawn with replacement: `[resample, m]`.

    No resample at all (`[0, m]`) with fewer than two groups.
    """
    if groups is None:
        sums = values
    else:
        names, member = numbered(groups)
        sums = values.new_zeros(len(names), values.shape[1]).index_add(0, member.to(values.device), values)
    if len(sums) < 2:
        return values.new_zeros(0, values.shape[1])
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randint(len(sums), (len(sums),), generator=generator).to(values.device) for _ in range(resamples))
    return torch.stack([sums[draw].sum(0) for draw in drawn])


def percentiles(drawn: Tensor, confidence: float) -> tuple[float, float]:
    """The middle `confidence` of what was drawn `[resample]`; NaN where there is nothing."""
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
    if not len(drawn):
        return math.nan, math.nan
    tails = drawn.new_tensor([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = torch.quantile(drawn, tails)
    return float(low), float(high)


def estimate(values: Tensor, X: Any, groups: Any, unit: str = "bits") -> Estimate:
    """An estimate of the kind of `X`."""
    return Estimate(like(values, X), groups, unit)
