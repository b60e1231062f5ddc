"""Multinomial logistic regression with a ridge penalty, chosen on inner folds."""

import math
from typing import Any

import torch
from torch import Tensor

from .base import LinearProbe, as_weights, like
from .folds import inner_folds
from .multinomial import solve
from .ridge import PENALTIES

ROUGH = 1e-5  # the largest gradient, a sample, that is left while penalties are compared


class Coordinates:
    """Features in uncorrelated coordinates in units of about 1, where the solver is at its best, and the way back."""

    def __init__(self, X: Tensor, weights: Tensor, centre: bool) -> None:
        self.mean = weights @ X / weights.sum() if centre else X.new_zeros(X.shape[1])
        centred = weights.sqrt()[:, None] * (X - self.mean)
        if len(X) <= X.shape[1]:
            _, singular, self.right = torch.linalg.svd(centred, full_matrices=False)
            power = singular**2
        else:
            power, vectors = torch.linalg.eigh(centred.T @ centred)
            self.right = vectors.T
        kept = power > 1e-12 * power.amax().clamp_min(1e-300)
        self.right = self.right[kept]
        spread = (power[kept].sum() / (weights.sum() * X.shape[1])).sqrt()
        self.spread = torch.where(spread > 0, spread, torch.ones_like(spread))

    def __call__(self, X: Tensor) -> Tensor:
        """Features `[n, rank]` in these coordinates."""
        Z: Tensor = (X - self.mean) @ self.right.T / self.spread
        return Z

    def back(self, coef: Tensor) -> Tensor:
        """Coefficients `[..., rank, class]` here as coefficients `[..., class, d]` of the features as they were."""
        found: Tensor = (self.right.T @ coef).mT / self.spread
        return found


def units(Z: Tensor, sample: Tensor, d: int) -> Tensor:
    """What penalties are multiples of, `[b]`: total weight times the mean variance of one of d features; 1 if none
    varies."""
    total = sample.sum(0)
    power = ((Z**2).T @ sample - (Z.T @ sample) ** 2 / total).sum(0) / d
    return torch.where(power > 0, power, torch.ones_like(power))


class LogisticProbe(LinearProbe):
    """Multinomial logistic regression: minimises the summed log-loss plus penalty/2 times the squared coefficients.

    penalties: candidates, as multiples of n times the mean variance of a feature (scikit-learn's C is 1 / that
        product); infinity holds the coefficients at 0
    folds: how many inner folds; the penalty with the lowest held-out log-loss is chosen. One penalty needs none
    fit_intercept: without it (and then without centring) the scores are linear in the features as they are
    tol: the largest gradient left, a sample

    `fit(..., offset=)` and `predict_log_proba(..., offset=)` take scores `[n, class]` that are added to the probe's
    own: what is known without the features (log-probabilities by the text alone). After `fit`: `classes_`, `coef_`
    [class, d], `intercept_`, `penalty_`, `held_out_log_loss_` (nats; NaN for a single penalty), `subspace_` [d, rank].

    >>> generator = torch.Generator().manual_seed(0)
    >>> y = torch.arange(150) % 3
    >>> X = torch.eye(3)[y] + 0.3 * torch.randn(150, 3, generator=generator)
    >>> probe = LogisticProbe().fit(X, y)
    >>> probe.score(X, y) > 0.9, tuple(probe.predict_proba(X).shape)
    (True, (150, 3))
    """

    def __init__(
        self,
        penalties: Any = PENALTIES,
        folds: Any = 5,
        fit_intercept: Any = True,
        tol: Any = 1e-8,
    ) -> None:
        self.penalties = penalties
        self.folds = folds
        self.fit_intercept = fit_intercept
        self.tol = tol

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None, offset: Any = None) -> Any:
        """Fit to features `[n, d]` and labels `[n]`; weights and groups as in every probe, offset `[n, class]`."""
        self._offset = None if offset is None else torch.as_tensor(offset)
        self._weight = sample_weight
        try:
            return super().fit(X, y, sample_weight, groups)
        finally:
            del self._offset, self._weight

    def _fit(self, X: Tensor, index: Tensor, weights: Tensor, groups: Tensor | None) -> dict[str, Any]:
        offset = self._aligned(X, self._offset, self._weight)
        place = Coordinates(X, weights, self.fit_intercept)
        Z = place(X)
        if self.fit_intercept:
            Z = torch.cat([Z, Z.new_ones(len(Z), 1)], dim=1)
        options = {"classes": len(self.classes_), "offset": offset, "tol": self.tol}
        best, loss, start = 0, math.nan, None
        if len(self.penalties) > 1:
            fold = inner_folds(X, index, self.folds, groups)
            count = int(fold.max()) + 1
            kept = fold[:, None] != torch.arange(count, device=X.device)
            sample = (weights[:, None] * kept).repeat_interleave(len(self.penalties), dim=1)  # [n, fold x penalty]
            tried = Z.new_tensor(self.penalties).repeat(count)
            rough = {**options, "tol": max(self.tol, ROUGH)}
            coef = solve(Z, index, sample, self._penalty(Z, X, sample, tried), **rough)
            losses = self._held_out(Z, index, weights, offset, fold, coef)
            best = int(losses.argmin())
            loss, start = float(losses[best]), coef[..., best :: len(self.penalties)].mean(-1, keepdim=True)
        sample = weights[:, None]
        penalty = self._penalty(Z, X, sample, Z.new_tensor(self.penalties[best : best + 1]))
        coef = solve(Z, index, sample, penalty, start=start, **options)[..., 0]
        slopes = place.back(coef[: Z.shape[1] - self.fit_intercept])
        intercept = coef[-1] - coef[-1].mean() if self.fit_intercept else coef.new_zeros(coef.shape[1])
        found = {"coef_": slopes, "intercept_": intercept - slopes @ place.mean}
        return {**found, "penalty_": float(self.penalties[best]), "held_out_log_loss_": loss}

    def _penalty(self, Z: Tensor, X: Tensor, sample: Tensor, penalties: Tensor) -> Tensor:
        """The penalty `[rank, b]` of every coordinate; none on an intercept."""
        slopes = Z[:, : Z.shape[1] - self.fit_intercept]
        absolute = (penalties * units(slopes, sample, X.shape[1])).expand(slopes.shape[1], -1)
        return torch.cat([absolute, absolute.new_zeros(1, len(penalties))]) if self.fit_intercept else absolute

    def _held_out(
        self, Z: Tensor, index: Tensor, weights: Tensor, offset: Tensor | None, fold: Tensor, coef: Tensor
    ) -> Tensor:
        """The mean log-loss `[penalty]` of every row by the fit without its fold."""
        losses = Z.new_zeros(len(self.penalties))
        for f, fitted in enumerate(coef.split(len(self.penalties), dim=-1)):
            out = fold == f
            scores = torch.einsum("nd,dkp->pnk", Z[out], fitted) + (0 if offset is None else offset[out])
            own = torch.log_softmax(scores, dim=-1).gather(-1, index[out, None].expand(len(scores), -1, 1))[..., 0]
            losses -= own @ weights[out]
        return losses / weights.sum()

    def _aligned(self, X: Tensor, offset: Tensor | None, sample_weight: Any) -> Tensor | None:
        """The offset of the rows that are fitted, checked."""
        if offset is None:
            return None
        if sample_weight is not None and len(offset) != len(X):
            offset = offset[(as_weights(sample_weight, offset) > 0).to(offset.device)]
        wanted = (len(X), len(self.classes_))
        if tuple(offset.shape) != wanted or not torch.isfinite(offset).all():
            raise ValueError(
                f"expected finite offsets [n, class] of shape {wanted}, got shape {tuple(offset.shape)}: one column "
                "for each of classes_, and a bounded log-probability instead of -inf"
            )
        return offset.to(X)

    def predict_log_proba(self, X: Any, offset: Any = None) -> Any:
        """Log probabilities (nats) of the classes, `[n, class]`, with an offset added to the scores."""
        features = self._checked(X)
        scores = self._scores(features)
        known = self._aligned(features, None if offset is None else torch.as_tensor(offset), None)
        scores = scores if known is None else scores + known
        return like(torch.log_softmax(scores, dim=-1), X)
