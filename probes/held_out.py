"""Probes fitted and scored on different groups of rows: probabilities, bits, hits, calibration."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import has_fit_parameter
from torch import Tensor

from .base import as_labels, like, numbered
from .calibration import Calibration, calibration
from .estimate import Estimate, as_float, estimate
from .information import LN2, columns_of, constant_log_p, fold_numbers


@dataclass(frozen=True, eq=False, repr=False)
class HeldOut:
    """What probes fitted without a row's fold give that row.

    log_proba: natural-log probabilities of all classes `[n, class]`; log_p_null: of the row's own label `[n]` by the
    best constant of the same training folds; classes `[class]`; y, fold, groups `[n]` (groups may be None)
    """

    log_proba: Any
    log_p_null: Any
    classes: Any
    y: Any
    fold: Any
    groups: Any = None

    @property
    def log_p(self) -> Any:
        """Natural-log probability of each row's own label, `[n]`."""
        log_proba = torch.as_tensor(self.log_proba)
        return like(_own(log_proba, self._index(log_proba)), self.log_proba)

    @property
    def bits(self) -> Estimate:
        """Pointwise V-information of every row; its mean is I_V(h -> y) = H_V(y) - H_V(y | h)."""
        return Estimate((self.log_p - self.log_p_null) / LN2, self.groups)

    @property
    def entropy(self) -> Estimate:
        """H_V(y): what the best constant lacks, in bits; the most that `bits` could be is about this."""
        return Estimate(-self.log_p_null / LN2, self.groups)

    @property
    def accuracy(self) -> Estimate:
        """Whether the most likely class of every row is its own."""
        log_proba = torch.as_tensor(self.log_proba)
        right = log_proba.argmax(-1) == self._index(log_proba)
        return estimate(right.to(log_proba), self.log_proba, self.groups, "of rows right")

    def calibration(self, bins: int = 15) -> Calibration:
        """Whether the probabilities are as often right as they say (see `calibration`)."""
        return calibration(
            like(torch.as_tensor(self.log_proba).exp(), self.log_proba),
            self.y,
            classes=self.classes,
            bins=bins,
            groups=self.groups,
        )

    def __repr__(self) -> str:
        return f"<held out: {self.bits!r}; {self.accuracy!r}; {len(self.classes)} classes>"

    def _index(self, log_proba: Tensor) -> Tensor:
        return columns_of(self.y, self.classes).to(log_proba.device)


def held_out(probe: Any, X: Any, y: Any, *, groups: Any = None, folds: Any = 5, seed: int = 0) -> HeldOut:
    """Fit a classifier without each fold in turn and give the rows of that fold their probabilities.

    probe: any scikit-learn classifier with `predict_log_proba` or `predict_proba`; a copy is fitted
    X: features `[n, d]`; y: labels `[n]`; groups: `[n]`, rows of one group (a problem) stay in one fold, and a probe
        whose `fit` takes groups is told them
    folds: their number, or the fold of every row

    The probabilities are a proper score for all classes of `y`: a label that the training folds lack gets one sample's
    worth, 1 / (n + classes), taken from the others; where a probe says 0, one sample's worth of a uniform distribution
    is mixed in. A training part with one class gives that class all but this. Raises ValueError for labels of one
    class, fewer groups than folds, and groups that leak between given folds.

    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 400)
    >>> from sklearn.naive_bayes import GaussianNB
    >>> held_out(GaussianNB(), 2.0 * y[:, None] - 1 + rng.normal(size=(400, 1)), y).bits
    0.52 bits [0.42, 0.60], 400 rows
    """
    rows = Labelled.of(X, y, groups)
    fold = fold_numbers(folds, groups, rows.n, seed).to(rows.index.device)
    log_proba = rows.unknown(len(rows.classes))
    null = rows.unknown()
    for f in range(int(fold.max()) + 1):
        out = fold == f
        found = rows.log_proba(probe, (~out).nonzero()[:, 0], out.nonzero()[:, 0])
        constant = constant_log_p(torch.bincount(rows.index[~out], minlength=len(rows.classes)).to(found))
        log_proba[out], null[out] = found, constant[rows.index[out]]
    return HeldOut(like(log_proba, X), like(null, X), rows.classes, y, like(fold, X), groups)


def v_information(probe: Any, X: Any, y: Any, *, groups: Any = None, folds: Any = 5, seed: int = 0) -> Estimate:
    """Predictive V-information I_V(h -> y) = H_V(y) - H_V(y | h) in bits, of the family V that a probe fits.

    Arguments and errors as in `held_out`; V is the probe's family with its way of fitting, both terms are out of fold,
    and negatives are kept: without information the estimate is at or a little below 0. The values of the estimate are
    the pointwise V-information. Sources: Xu et al. 2020 (arXiv 2002.10689), definition 2 and section 4; pointwise:
    Ethayarajh et al. 2022 (arXiv 2110.08420), equation 4.

    >>> from .ridge import RidgeProbe
    >>> y = np.arange(200) % 4
    >>> v_information(RidgeProbe(), np.eye(4)[y] + 0.1 * np.random.default_rng(0).normal(size=(200, 4)), y).mean > 1.9
    True
    """
    return held_out(probe, X, y, groups=groups, folds=folds, seed=seed).bits


@dataclass(frozen=True)
class Labelled:
    """Features and labels that were checked together.

    index: number of each row's label `[n]`, on the features' device; member: number of its group, None where each row
    is its own
    """

    X: Any
    y: Any
    classes: Any
    index: Tensor
    member: Tensor | None

    @classmethod
    def of(cls, X: Any, y: Any, groups: Any = None) -> "Labelled":
        """Check lengths and classes; what features may be is the probe's to say."""
        n = X.shape[0] if hasattr(X, "shape") else len(X)
        classes, index = as_labels(y, X if isinstance(X, Tensor) else torch.empty(n, 0))
        if len(classes) < 2:
            raise ValueError(f"expected labels of at least 2 classes, got 1 class: {classes[0]!r}")
        if groups is None:
            return cls(X, y, classes, index, None)
        names, member = numbered(groups)
        if len(member) != n:
            raise ValueError(f"expected one group for each of {n} rows, got {len(member)}")
        return cls(X, y, classes, index, None if len(names) == n else member.to(index.device))

    @property
    def n(self) -> int:
        """How many rows there are."""
        return len(self.index)

    def unknown(self, *shape: int) -> Tensor:
        """NaN `[n, *shape]`, to be filled in, on the features' device."""
        return as_float(torch.full((self.n, *shape), math.nan, device=self.index.device))

    def log_proba(self, probe: Any, train: Tensor, test: Tensor) -> Tensor:
        """Log probabilities `[m, class]` of test rows by a copy of the probe, fitted to the training rows."""
        K, known = len(self.classes), torch.unique(self.index[train])
        if len(known) == 1:
            log_p = self.unknown(1)[test].zero_()
        else:
            options = {}
            if self.member is not None and has_fit_parameter(probe, "groups"):
                options["groups"] = like(self.member[train], self.X)
            fitted = clone(probe).fit(taken(self.X, train), taken(self.y, train), **options)
            log_p = _log_table(fitted, taken(self.X, test), len(train))
            at = columns_of(fitted.classes_, self.classes, strict=False).to(log_p.device)
            log_p, known = log_p[:, at >= 0], at[at >= 0]
        one = 1 / (len(train) + K)
        full = log_p.new_full((len(test), K), math.log(one))
        full[:, known] = log_p + math.log1p(-(K - len(known)) * one)
        return full


def taken(values: Any, rows: Tensor) -> Any:
    """Some rows of an array, of a tensor on its device, or of anything that scikit-learn can index."""
    return values[rows.to(values.device)] if isinstance(values, Tensor) else _safe_indexing(values, rows.numpy())


def _log_table(fitted: Any, X: Any, n: int) -> Tensor:
    """Log probabilities `[m, known class]`; with one sample's worth of a uniform distribution if any is 0."""
    with np.errstate(divide="ignore"):
        told = fitted.predict_log_proba(X) if hasattr(fitted, "predict_log_proba") else np.log(fitted.predict_proba(X))
    log_p = as_float(told)
    if torch.isnan(log_p).any():
        raise ValueError(f"{type(fitted).__name__} gave probabilities that are NaN")
    if not torch.isinf(log_p).any():
        return log_p
    uniform = log_p.new_tensor(-math.log((n + 1) * log_p.shape[1]))
    return torch.logaddexp(log_p - math.log1p(1 / n), uniform)


def _own(log_proba: Tensor, index: Tensor) -> Tensor:
    return log_proba.gather(1, index[:, None])[:, 0]
