"""A ridge classifier with probabilities; its penalty is chosen by exact leave-one-out, from one factorisation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

PENALTIES = tuple(10.0**power for power in range(-5, 3))
SCALES = (1e-2, 1e3)  # bounds of the scale of the scores


@dataclass(frozen=True)
class Factors:
    """The factorisation of centred features, shared by every target: X - mean = U diag(s) V'."""

    mean: Float[np.ndarray, " d"]
    left: Float[np.ndarray, "n rank"]
    singular: Float[np.ndarray, " rank"]
    right: Float[np.ndarray, "rank d"]

    @classmethod
    def of(cls, X: Float[np.ndarray, "n d"]) -> "Factors":
        """Factorise features once."""
        mean = X.mean(axis=0)
        centred = X - mean
        if X.shape[0] <= X.shape[1]:
            left, singular, right = np.linalg.svd(centred, full_matrices=False)
            return cls(mean, left, singular, right)
        # Fewer features than samples: the small Gram matrix is several times cheaper, and the directions that it cannot
        # resolve are far below any penalty.
        power, vectors = np.linalg.eigh(centred.T @ centred)
        kept = power > 1e-12 * max(power[-1], 1e-300)
        singular, right = np.sqrt(power[kept]), vectors[:, kept].T
        return cls(mean, centred @ right.T / singular, singular, right)


class RidgeProbe(ClassifierMixin, BaseEstimator):
    """Linear classifier: ridge regression on class indicators, softmax of the scaled scores.

    penalties: candidates, as multiples of n times the mean variance of a feature; the penalty and the scale of the
        scores are those with the lowest leave-one-out log-loss. Leave-one-out is exact for the regression (the
        hat-matrix identity of Allen, 1974), and needs no refit.

    After `fit`: `classes_`, `coef_` [class, d], `intercept_`, `penalty_`, `scale_`, `loo_log_loss_` (nats), and
    `subspace_`, an orthonormal basis [d, rank] of the directions that the scores read.

    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1, 2], 50)
    >>> X = np.eye(3)[y] + 0.3 * rng.normal(size=(150, 3))
    >>> probe = RidgeProbe().fit(X, y)
    >>> bool(probe.score(X, y) > 0.9), probe.predict_proba(X).shape
    (True, (150, 3))
    """

    def __init__(self, penalties: Sequence[float] = PENALTIES) -> None:
        self.penalties = penalties

    def fit(self, X: Any, y: Any, factors: Factors | None = None) -> "RidgeProbe":
        """Fit to features `[n, d]` and labels `[n]`; `factors` of the same features saves their factorisation."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"RidgeProbe needs samples of at least 2 classes, got 1 class: {self.classes_[0]!r}")
        factors = factors if factors is not None else Factors.of(X)
        self.n_samples_fit_ = len(X)
        targets = np.eye(len(self.classes_))[index]
        centred = targets - targets.mean(axis=0)
        power = factors.singular**2
        unit = (power.sum() / X.shape[1]) or 1.0
        projected = factors.left.T @ centred  # [rank, class]
        penalties = np.asarray(self.penalties, dtype=float)
        shrunk = power / (power + penalties[:, None] * unit)  # [penalty, rank]
        residual = centred - factors.left @ (shrunk[..., None] * projected)  # [penalty, n, class]
        leverage = 1 / len(X) + shrunk @ factors.left.T**2  # [penalty, n]
        left_out = targets - residual / np.maximum(1 - leverage, 1e-6)[..., None]
        scales, losses = _best_scales(left_out, index)
        best = int(np.argmin(losses))
        self.penalty_, self.scale_, self.loo_log_loss_ = (
            float(penalties[best]),
            float(scales[best]),
            float(losses[best]),
        )
        shrink = factors.singular / (power + self.penalty_ * unit)
        weights = factors.right.T @ (shrink[:, None] * projected)  # [d, class]
        self.coef_ = self.scale_ * weights.T
        self.intercept_ = self.scale_ * (targets.mean(axis=0) - factors.mean @ weights)
        return self

    def decision_function(self, X: Any) -> Float[np.ndarray, "n ..."]:
        """Scaled scores per class, `[n, class]`; with two classes the difference, `[n]`, as scikit-learn has it."""
        scores = self._scores(X)
        return np.asarray(scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores)

    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "n classes"]:
        """Log probabilities (nats) of the classes.

        One sample's worth of a uniform distribution is mixed in: training samples without an error do not show that an
        error is rarer than one in n, and a single surprise must not cost more than log(n * classes).
        """
        scores = self._scores(X)
        log_p = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        weight = 1 / (self.n_samples_fit_ + 1)
        return np.asarray(np.logaddexp(np.log1p(-weight) + log_p, np.log(weight / len(self.classes_))))

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n classes"]:
        """Probabilities of the classes."""
        return np.asarray(np.exp(self.predict_log_proba(X)))

    def predict(self, X: Any) -> NDArray[Any]:
        """The most likely class of each row."""
        return np.asarray(self.classes_[self._scores(X).argmax(axis=1)])

    @property
    def subspace_(self) -> Float[np.ndarray, "d rank"]:
        """An orthonormal basis of the span of the rows of `coef_`, differences between classes only."""
        check_is_fitted(self)
        left, singular, _ = np.linalg.svd((self.coef_ - self.coef_.mean(axis=0)).T, full_matrices=False)
        return np.asarray(left[:, singular > 1e-10 * max(singular[0], 1e-300)])

    def _scores(self, X: Any) -> Float[np.ndarray, "n classes"]:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray(X @ self.coef_.T + self.intercept_)


def _best_scales(scores: NDArray[Any], index: NDArray[Any], steps: int = 12) -> tuple[NDArray[Any], NDArray[Any]]:
    """The scale `[penalty]` of scores `[penalty, n, class]` with the lowest log-loss (nats), and that loss.

    The log-loss is convex in the scale: Newton steps, each at most a factor of 4.
    """
    own = np.take_along_axis(scores, index[None, :, None], axis=-1)
    gaps = scores - own  # of the true class 0, of others how far they are above it
    above = gaps - gaps.max(-1, keepdims=True)  # at most 0, so that nothing overflows
    scale = np.full(len(scores), 4.0)
    for _ in range(steps):
        weights = np.exp(scale[:, None, None] * above)
        weights /= weights.sum(-1, keepdims=True)
        slope = (weights * gaps).sum(-1)
        curve = (weights * gaps**2).sum(-1) - slope**2
        step = slope.mean(-1) / np.maximum(curve.mean(-1), 1e-12)
        before, scale = scale, np.clip(scale - step, scale / 4, scale * 4).clip(*SCALES)
        if (np.abs(scale - before) < 1e-2 * before).all():  # the loss is flat there: it is off by 1e-4 of itself
            break
    log_sum = np.log(np.exp(scale[:, None, None] * above).sum(-1)) + scale[:, None] * gaps.max(-1)
    return scale, log_sum.mean(-1)
