"""Bootstrap intervals over problems."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

RESAMPLES = 999
Estimate = tuple[float, float, float, int]
"""An estimate, its lower and upper bound, and how many units it is over."""
CONFIDENCE = 0.95


def bootstrap_interval(
    values: Float[np.ndarray, "unit value"],
    statistic: Callable[[Any], Any],
    seed: int = 0,
) -> tuple[Float[np.ndarray, " quantity"], Float[np.ndarray, " quantity"]]:
    """Percentile intervals (95 %) of a statistic of means over independent units (pairs, problems).

    values: one row a unit; `statistic` takes means `[..., value]` and returns quantities `[..., quantity]`, so that a
    ratio is a ratio of means in every resample. With fewer than two units the interval is NaN.

    >>> low, high = bootstrap_interval(np.array([[1.0], [2.0], [3.0]]), lambda means: means)
    >>> bool(1.0 <= low[0] < 2.0 < high[0] <= 3.0)
    True
    """
    if len(values) < 2:
        nothing = np.full(
            np.shape(statistic(values.mean(0) if len(values) else np.full(values.shape[1], np.nan))), np.nan
        )
        return nothing, nothing

    def of_units(units: Any, axis: int = -1) -> Any:
        means = np.take(values, units, axis=0).mean(axis=-2)
        return np.moveaxis(statistic(means), -1, 0)

    # A ratio over a total of 0, or over what was not measured, is NaN in the resamples too.
    with catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # A figure that is the same for every unit has an interval of width 0, which is right.
        simplefilter("ignore", DegenerateDataWarning)
        interval = bootstrap(
            (np.arange(len(values)),),
            of_units,
            n_resamples=RESAMPLES,
            batch=100,
            vectorized=True,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return np.asarray(interval.low), np.asarray(interval.high)


def interval_text(estimate: float, low: float, high: float) -> str:
    """An estimate with its interval to two decimals, without a minus before zero; "-" for NaN.

    >>> interval_text(-0.001, -0.02, 0.5)
    '0.00 [-0.02, 0.50]'
    """
    if math.isnan(estimate):
        return "-"
    return f"{number_text(estimate)} [{number_text(low)}, {number_text(high)}]"


def number_text(value: float) -> str:
    """A number to two decimals, without a minus before zero; "-" for NaN.

    >>> number_text(-0.001), number_text(math.nan)
    ('0.00', '-')
    """
    return "-" if math.isnan(value) else f"{value:z.2f}"


def range_text(least: float, most: float) -> str:
    """Two numbers to two decimals, "-" for NaN.

    >>> range_text(-0.5, 1.0)
    '-0.50 to 1.00'
    """
    return "-" if math.isnan(least) else f"{number_text(least)} to {number_text(most)}"


def accuracy_text(accuracy: float, unknown: int = 0) -> str:
    """An accuracy to three decimals, "-" for NaN, and of how many runs it is not known whether they are right.

    >>> accuracy_text(0.5, 3), accuracy_text(math.nan)
    ('0.500 (gold answer of 3 runs not known)', '-')
    """
    told = "-" if math.isnan(accuracy) else f"{accuracy:.3f}"
    return f"{told} (gold answer of {unknown} runs not known)" if unknown else told


def rate_interval(rate: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval of a rate of n independent trials; unlike a bootstrap's, not empty at a rate of 0 or 1.

    >>> low, high = rate_interval(1.0, 32)
    >>> round(low, 2), high
    (0.89, 1.0)
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_estimate(values: NDArray[Any]) -> Estimate:
    """The mean of figures between 0 and 1, one a unit, NaN left out, with Wilson's interval.

    Their variance is at most a rate's, and the interval is not empty where all are equal. NaN and 0 for none.

    >>> [round(value, 2) for value in mean_estimate(np.array([1.0, 1.0, np.nan]))]
    [1.0, 0.34, 1.0, 2]
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan, math.nan, 0
    mean = float(values.mean())
    return mean, *rate_interval(mean, len(values)), len(values)


def unknown_note(values: NDArray[Any]) -> dict[str, str]:
    """A note on how many runs are in no accuracy, since it is not known whether they are right (NaN); empty for none.

    >>> unknown_note(np.array([1.0, np.nan]))
    {'gold answer not known': '1 of 2 runs, left out of accuracies'}
    """
    count = int(np.isnan(values).sum())
    return {"gold answer not known": f"{count} of {len(values)} runs, left out of accuracies"} if count else {}


def detectable(width: Any, n: int) -> Any:
    """The smallest effect that n units would show with power 0.8 at level 0.05, from the width of a 95 % interval.

    (1.96 + 0.84) standard errors; and, since what happens in a few units only may miss the sample, no less than the
    share of units that n draws miss with a chance of 0.05: 1 - 0.05^(1/n).

    >>> round(float(detectable(0.0, 64)), 3), round(float(detectable(0.14, 64)), 3)
    (0.046, 0.1)
    """
    z, power = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), NormalDist().inv_cdf(0.8)
    errors = (z + power) / (2 * z)
    return np.fmax(width * errors, 1 - (1 - CONFIDENCE) ** (1 / n) if n else np.nan)
