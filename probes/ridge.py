"""Ridge probes; the penalty is chosen by exact leave-one-out, from one factorisation."""

from dataclasses import dataclass
from typing import Any

import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .base import TemperedProbe, as_features, as_members, as_values, as_weights, like
from .folds import inner_folds
from .scale import best_scale
from .subspace import subspace_of

PENALTIES = tuple(10.0**power for power in range(-5, 3))


@dataclass(frozen=True)
class Factors:
    """The factorisation of centred, weighted features, shared by every target: sqrt(w) (X - mean) = left diag(s) right.

    mean `[d]`, left `[n, rank]`, singular `[rank]`, right `[rank, d]`, weights `[n]`
    """

    mean: Tensor
    left: Tensor
    singular: Tensor
    right: Tensor
    weights: Tensor

    @classmethod
    def of(cls, X: Tensor, weights: Tensor) -> "Factors":
        """Factorise features once."""
        mean = weights @ X / weights.sum()
        centred = weights.sqrt()[:, None] * (X - mean)
        if len(X) <= X.shape[1]:
            left, singular, right = torch.linalg.svd(centred, full_matrices=False)
            return cls(mean, left, singular, right, weights)
        # Fewer features than samples: the small Gram matrix is several times cheaper, and the directions that it cannot
        # resolve are far below any penalty.
        power, vectors = torch.linalg.eigh(centred.T @ centred)
        kept = power > 1e-12 * power[-1].clamp_min(1e-300)
        singular, right = power[kept].sqrt(), vectors[:, kept].T
        return cls(mean, centred @ right.T / singular, singular, right, weights)

    @property
    def unit(self) -> Tensor:
        """What penalties are multiples of: n times the mean variance of a feature; 1 if no feature varies."""
        power = (self.singular**2).sum() / len(self.mean)
        return torch.where(power > 0, power, torch.ones_like(power))

    def left_out(self, targets: Tensor, penalties: Tensor) -> Tensor:
        """Predictions `[penalty, n, m]` of targets `[n, m]`, each by the fit without one copy of its own row.

        Exact, without a refit, by the identity of Allen (1974): the residual over 1 - leverage. A row whose weight is
        below one copy is left out whole.
        """
        centred, projected = self._project(targets)
        power = self.singular**2
        shrunk = power / (power + penalties[:, None] * self.unit)  # [penalty, rank]
        rows = self.left / self.weights.sqrt()[:, None]
        residual = centred - rows @ (shrunk[..., None] * projected)
        leverage = 1 / self.weights.sum() + shrunk @ (rows**2).T  # [penalty, n], of one copy
        return targets - residual / (1 - self.weights.clamp_max(1) * leverage).clamp_min(1e-6)[..., None]

    def solve(self, targets: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients `[m, d]` and intercepts `[m]` of the ridge regression of targets `[n, m]`."""
        projected = self._project(targets)[1]
        shrink = self.singular / (self.singular**2 + penalty * self.unit)
        coef = (self.right.T @ (shrink[:, None] * projected)).T
        return coef, self.weights @ targets / self.weights.sum() - coef @ self.mean

    def _project(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        centred = targets - self.weights @ targets / self.weights.sum()
        return centred, self.left.T @ (self.weights.sqrt()[:, None] * centred)


def held_out_predictions(
    X: Tensor, targets: Tensor, weights: Tensor, penalties: Tensor, fold: Tensor | None
) -> tuple[Factors, Tensor]:
    """The factors of all rows, and predictions `[penalty, n, m]` with each row (or its fold) left out."""
    factors = Factors.of(X, weights)
    if fold is None:
        return factors, factors.left_out(targets, penalties)
    predicted = torch.empty(len(penalties), *targets.shape, dtype=X.dtype, device=X.device)
    for f in range(int(fold.max()) + 1):
        out = fold == f
        part = Factors.of(X[~out], weights[~out])
        for p, penalty in enumerate(penalties):
            coef, intercept = part.solve(targets[~out], penalty)
            predicted[p, out] = X[out] @ coef.T + intercept
    return factors, predicted


class RidgeProbe(TemperedProbe):
    """Linear classifier: ridge regression on class indicators, softmax of the scaled scores.

    penalties: candidates, as multiples of n times the mean variance of a feature
    folds: None chooses the penalty by exact leave-one-out (Allen 1974), which needs no refit; a number by as many inner
        folds. Rows in groups always use folds (5 unless `folds` says otherwise): leaving out one row would leave its
        group

    The penalty and the scale of the scores are those with the lowest held-out log-loss. After `fit`: `classes_`,
    `coef_` [class, d], `intercept_`, `penalty_`, `scale_`, `held_out_log_loss_` (nats) and `subspace_`, an orthonormal
    basis [d, rank] of the directions that the scores read.

    >>> generator = torch.Generator().manual_seed(0)
    >>> y = torch.arange(150) % 3
    >>> X = torch.eye(3)[y] + 0.3 * torch.randn(150, 3, generator=generator)
    >>> probe = RidgeProbe().fit(X, y)
    >>> probe.score(X, y) > 0.9, tuple(probe.predict_proba(X).shape)
    (True, (150, 3))
    """

    def __init__(self, penalties: Any = PENALTIES, folds: Any = None) -> None:
        self.penalties = penalties
        self.folds = folds

    def _fit(self, X: Tensor, index: Tensor, weights: Tensor, groups: Tensor | None) -> dict[str, Any]:
        targets = torch.eye(len(self.classes_), dtype=X.dtype, device=X.device)[index]
        fold = _folds(X, index, self.folds, groups)
        factors, left_out = held_out_predictions(X, targets, weights, X.new_tensor(self.penalties), fold)
        scales, losses = best_scale(left_out, index, weights)
        best = int(losses.argmin())
        coef, intercept = factors.solve(targets, X.new_tensor(self.penalties[best]))
        return {
            "penalty_": float(self.penalties[best]),
            "scale_": float(scales[best]),
            "held_out_log_loss_": float(losses[best]),
            "coef_": scales[best] * coef,
            "intercept_": scales[best] * intercept,
        }


class RidgeRegressor(RegressorMixin, BaseEstimator):
    """Ridge regression of one or several real targets, its penalty chosen by exact leave-one-out or inner folds.

    penalties and folds as in `RidgeProbe`; the lowest held-out squared error decides (for several targets their sum).
    After `fit`: `coef_` [d] or [target, d], `intercept_`, `penalty_`, `held_out_r2_` (1 - squared error over variance,
    for all targets together), `subspace_` [d, rank].

    >>> generator = torch.Generator().manual_seed(0)
    >>> X = torch.randn(100, 2, generator=generator, dtype=torch.float64)
    >>> RidgeRegressor().fit(X, X[:, 0] + 2 * X[:, 1]).coef_.round(decimals=3).tolist()
    [1.0, 2.0]
    """

    def __init__(self, penalties: Any = PENALTIES, folds: Any = None) -> None:
        self.penalties = penalties
        self.folds = folds

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> "RidgeRegressor":
        """Fit to features `[n, d]` and values `[n]` or `[n, target]`; weights and groups as in every probe."""
        features = as_features(self, X, reset=True)
        values = as_values(y, features)
        weights = as_weights(sample_weight, features)
        members = None if groups is None else as_members(groups, features)
        if sample_weight is not None:
            kept = weights > 0
            features, values, weights = features[kept], values[kept], weights[kept]
            members = None if members is None else members[kept]
        targets = values if values.ndim == 2 else values[:, None]
        fold = _folds(features, features.new_zeros(len(features), dtype=torch.long), self.folds, members)
        factors, left_out = held_out_predictions(features, targets, weights, features.new_tensor(self.penalties), fold)
        errors = (weights[:, None] * (left_out - targets) ** 2).sum((1, 2))
        best = int(errors.argmin())
        coef, intercept = factors.solve(targets, features.new_tensor(self.penalties[best]))
        spread = (weights[:, None] * (targets - weights @ targets / weights.sum()) ** 2).sum()
        self.penalty_ = float(self.penalties[best])
        self.held_out_r2_ = float(1 - errors[best] / spread) if spread > 0 else float("nan")
        self.coef_: Any = like(coef if values.ndim == 2 else coef[0], X)
        self.intercept_: Any = like(intercept, X) if values.ndim == 2 else float(intercept[0])
        return self

    def predict(self, X: Any) -> Any:
        """Predicted values, `[n]` or `[n, target]`, of the shape of the targets."""
        check_is_fitted(self)
        features = as_features(self, X)
        coef = torch.as_tensor(self.coef_).to(features)
        fitted = features @ (coef.T if coef.ndim == 2 else coef)
        return like(fitted + torch.as_tensor(self.intercept_).to(features), X)

    @property
    def subspace_(self) -> Any:
        """An orthonormal basis `[d, rank]` of the directions that the prediction reads."""
        check_is_fitted(self)
        coef = torch.as_tensor(self.coef_)
        return like(subspace_of(coef if coef.ndim == 2 else coef[None]), self.coef_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags


def _folds(X: Tensor, index: Tensor, folds: int | None, groups: Tensor | None) -> Tensor | None:
    """Inner folds, or None for leave-one-out."""
    return None if folds is None and groups is None else inner_folds(X, index, folds or 5, groups)
