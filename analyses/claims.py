"""Claims and verdicts: what was claimed beforehand, what was measured, and whether that decides it."""

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import t as student

from ..core import InputError, check_name
from .reading import MEASURES, Measurement

Side = Literal["above", "below"]
Verdict = Literal["supported", "contradicted", "not settled"]
Find = Callable[[str, str], Sequence[Measurement] | str]
SMALLEST = 1e-9  # p-values are searched for down to here


@dataclass(frozen=True)
class Term:
    """A measure of an organism (see `MEASURES`), times a weight."""

    organism: str
    measure: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_name("measure", self.measure, MEASURES)

    def __str__(self) -> str:
        return f"{'- ' if self.weight < 0 else ''}{self.measure} of {self.organism}"


@dataclass(frozen=True)
class Condition:
    """What must hold, by its estimate in every training, for an endpoint to mean anything."""

    term: Term
    side: Side
    threshold: float

    def __str__(self) -> str:
        return f"{self.term} {self.side} {self.threshold:g}"


@dataclass(frozen=True)
class Claim:
    """A claim, its one endpoint (a sum of terms) and the threshold on one side of which it is supported.

    revised: why the endpoint is not the first one, where it was changed with results at hand
    """

    id: str
    claim: str
    endpoint: tuple[Term, ...]
    side: Side
    threshold: float
    requires: tuple[Condition, ...] = ()
    secondary: tuple[Term, ...] = ()
    revised: str = ""

    @property
    def terms(self) -> tuple[Term, ...]:
        """Everything that must be measured."""
        return (*self.endpoint, *(condition.term for condition in self.requires), *self.secondary)


@dataclass(frozen=True)
class Judged:
    """What was measured for a claim: estimate and interval of the endpoint at its level, p, verdict, and why."""

    claim: Claim
    estimate: float
    low: float
    high: float
    p: float
    level: float
    verdict: Verdict
    reason: str
    secondary: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    seeds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def load_claims(path: str | Path | None = None) -> tuple[tuple[Claim, ...], float]:
    """The claims of a file (default: those of the debate, written before the training that they judge), and the level.

    Raises InputError for a claim that is not whole, UnknownNameError for a measure that does not exist.

    >>> claims, level = load_claims()
    >>> claims[0].id, claims[0].side, level
    ('a', 'above', 0.05)
    """
    try:
        text = Path(path).read_text() if path is not None else (files(__package__) / "claims.toml").read_text()
        content = tomllib.loads(text)
        return tuple(map(_claim, content["claim"])), float(content["level"])
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} holds no claims: {error}; expected TOML with `level` and [[claim]] tables") from error


def _term(given: Mapping[str, Any]) -> Term:
    return Term(given["organism"], given["measure"], float(given.get("weight", 1)))


def _claim(given: Mapping[str, Any]) -> Claim:
    try:
        requires = tuple(
            Condition(_term(each), each["side"], float(each["threshold"])) for each in given.get("requires", ())
        )
        lists = {key: tuple(map(_term, given.get(key, ()))) for key in ("endpoint", "secondary")}
        made = Claim(
            given["id"],
            given["claim"],
            side=given["side"],
            threshold=float(given["threshold"]),
            requires=requires,
            revised=given.get("revised", ""),
            **lists,
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"claim {given.get('id', given)!r} is not whole: {error}") from error
    check_name("side", made.side, ["above", "below"])
    if not made.endpoint:
        raise InputError(f"claim {made.id!r} has no endpoint")
    return made


def interval(seeds: Sequence[Measurement], level: float) -> tuple[float, float, float]:
    """The mean of a measure over seeds, with its interval at a level (0.05: 95 %).

    Within a seed as the measure has it, over problems; with several seeds the gaps are those of a mean of independent
    estimates, and the t interval of the seeds' own estimates is added in squares (which counts the spread over
    problems twice: the interval is wider than needed, never empty).

    >>> from loadbearing.analyses.reading import Reading
    >>> one = Reading.of(np.ones(50))
    >>> [round(float(x), 2) for x in interval([one], 0.05)]
    [1.0, 0.93, 1.0]
    """
    bounds = np.array([reading.interval(level) for reading in seeds])
    mean = float(bounds[:, 0].mean())
    below, above = np.linalg.norm(bounds[:, 1:] - bounds[:, :1], axis=0) / len(seeds)
    if len(seeds) > 1:
        half = float(student.ppf(1 - level / 2, len(seeds) - 1)) * bounds[:, 0].std(ddof=1) / math.sqrt(len(seeds))
        below, above = math.hypot(below, half), math.hypot(above, half)
    return mean, mean - float(below), mean + float(above)


def combined(terms: Sequence[tuple[float, Sequence[Measurement]]], level: float) -> tuple[float, float, float]:
    """A weighted sum of independent measures with its interval (MOVER, Zou and Donner 2008, doi 10.1002/sim.3095)."""
    estimate = below = above = 0.0
    for weight, seeds in terms:
        mean, low, high = interval(seeds, level)
        gaps = (mean - low, high - mean) if weight > 0 else (high - mean, mean - low)
        estimate += weight * mean
        below += (weight * gaps[0]) ** 2
        above += (weight * gaps[1]) ** 2
    least = sum(w * (seeds[0].least if w > 0 else seeds[0].most) for w, seeds in terms)
    most = sum(w * (seeds[0].most if w > 0 else seeds[0].least) for w, seeds in terms)
    return estimate, max(least, estimate - math.sqrt(below)), min(most, estimate + math.sqrt(above))


def _p(terms: Sequence[tuple[float, Sequence[Measurement]]], threshold: float) -> float:
    """The smallest level at which the interval leaves the threshold out, by bisection."""

    def settled(level: float) -> bool:
        _, low, high = combined(terms, level)
        return low > threshold or high < threshold

    if not settled(1 - 1e-6):
        return 1.0
    low, high = math.log(SMALLEST), 0.0
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (low, middle) if settled(math.exp(middle)) else (middle, high)
    return math.exp(high)


def judge(find: Find, claims: Sequence[Claim] | None = None, level: float | None = None) -> list[Judged]:
    """Judge every claim; Holm's method keeps the chance of any wrong verdict at the level.

    find: gives the readings of a measure of an organism, one a seed, or the reason why there are none

    A claim is supported if the interval of its endpoint, at the level that Holm's method gives it, lies wholly on the
    claimed side of the threshold, contradicted if wholly on the other; else, and where a measure is missing or a
    condition is not met, it is not settled, and the reason is named.
    """
    find = cache(find)
    known, default = load_claims()
    claims, level = known if claims is None else claims, default if level is None else level
    measured: dict[str, list[tuple[float, Sequence[Measurement]]]] = {}
    reasons: dict[str, str] = {}
    for claim in claims:
        found = [(term.weight, find(term.organism, term.measure)) for term in claim.endpoint]
        missing = [seeds for _, seeds in found if isinstance(seeds, str)]
        if missing:
            reasons[claim.id] = missing[0]
        else:
            measured[claim.id] = [(weight, seeds) for weight, seeds in found if not isinstance(seeds, str)]
            reasons[claim.id] = _unmet(claim, find)
    p = {claim.id: _p(measured[claim.id], claim.threshold) for claim in claims if claim.id in measured}
    levels = _holm(p, level)
    return [_judged(claim, measured.get(claim.id), p, levels, reasons[claim.id], find) for claim in claims]


def _holm(p: Mapping[str, float], level: float) -> dict[str, float]:
    """The level of every claim: level / m for the smallest p, then / (m - 1), ...; all further ones keep that of the
    first that fails."""
    levels: dict[str, float] = {}
    failed: float | None = None
    for rank, key in enumerate(sorted(p, key=lambda key: p[key])):
        levels[key] = level / (len(p) - rank) if failed is None else failed
        if failed is None and p[key] > levels[key]:
            failed = levels[key]
    return levels


def _unmet(claim: Claim, find: Find) -> str:
    """The first condition that does not hold; empty where all do."""
    for condition in claim.requires:
        seeds = find(condition.term.organism, condition.term.measure)
        if isinstance(seeds, str):
            return seeds
        for reading in seeds:  # of every training: a mean would hide one that failed
            if (reading.estimate > condition.threshold) != (condition.side == "above"):
                return f"{condition} does not hold: {reading.estimate:.2f}"
    return ""


def _judged(
    claim: Claim, terms: Any, p: Mapping[str, float], levels: Mapping[str, float], reason: str, find: Find
) -> Judged:
    others, singly = {}, {}
    for term in claim.terms:
        seeds = find(term.organism, term.measure)
        if not isinstance(seeds, str):
            others[f"{term.measure} of {term.organism}"] = interval(seeds, 0.05)
            singly[f"{term.measure} of {term.organism}"] = tuple(reading.estimate for reading in seeds)
    if terms is None:
        nothing = (math.nan,) * 3
        return Judged(claim, *nothing, math.nan, math.nan, "not settled", reason, others, singly)
    estimate, low, high = combined(terms, levels[claim.id])
    verdict: Verdict = "not settled"
    # A p-value above its level cannot be decided by an interval that was found by the same bound.
    if not reason and p[claim.id] <= levels[claim.id]:
        verdict = "supported" if (estimate > claim.threshold) == (claim.side == "above") else "contradicted"
    return Judged(claim, estimate, low, high, p[claim.id], levels[claim.id], verdict, reason, others, singly)


def verdicts(judged: Sequence[Judged]) -> pd.DataFrame:
    """A row a claim: id, verdict, endpoint, estimate, low, high, side, threshold, p, level, reason, claim."""
    return pd.DataFrame(
        [
            {
                "id": one.claim.id,
                "verdict": one.verdict,
                "endpoint": " ".join(map(str, one.claim.endpoint)),
                "estimate": one.estimate,
                "low": one.low,
                "high": one.high,
                "side": one.claim.side,
                "threshold": one.claim.threshold,
                "p": one.p,
                "level": one.level,
                "reason": one.reason,
                "claim": one.claim.claim,
            }
            for one in judged
        ]
    )
