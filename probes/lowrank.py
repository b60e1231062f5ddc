"""A linear probe that reads few directions."""

from typing import Any

import torch
from torch import Tensor

from .base import TemperedProbe
from .folds import inner_folds
from .multinomial import solve
from .ridge import PENALTIES, Factors
from .scale import best_scale


class LowRankProbe(TemperedProbe):
    """Linear classifier that reads at most `rank` directions: reduced-rank ridge regression on class indicators.

    rank: of the directions; classes - 1 and more is no limit
    penalties: candidates, as multiples of n times the mean variance of a feature; the one whose held-out scores have
        the lowest log-loss, at their best scale, is chosen
    folds: inner folds. Rows in a group are kept together

    Probabilities are a multinomial logistic regression on the coordinates of rows that the regression was not fitted to
    (stacking), so that they are honest where there are more features than samples. After `fit`: `classes_`, `coef_`
    [class, d], `intercept_`, `penalty_`, `held_out_log_loss_` (nats), and `subspace_`, an orthonormal basis [d, rank]
    of the directions. Sources: Izenman 1975; Mukherjee and Zhu 2011 (the ridge); Wolpert 1992 (stacking).

    >>> angle = 2 * torch.pi * torch.arange(70) / 7
    >>> X = torch.stack([angle.cos(), angle.sin(), angle.cos() ** 2], dim=1)
    >>> probe = LowRankProbe(rank=2).fit(X, torch.arange(70) % 7)
    >>> probe.score(X, torch.arange(70) % 7), tuple(probe.subspace_.shape)
    (1.0, (3, 2))
    """

    def __init__(self, rank: Any = 2, penalties: Any = PENALTIES, folds: Any = 5) -> None:
        self.rank = rank
        self.penalties = penalties
        self.folds = folds

    def _fit(self, X: Tensor, index: Tensor, weights: Tensor, groups: Tensor | None) -> dict[str, Any]:
        if self.rank != int(self.rank) or self.rank < 1:
            raise ValueError(f"expected a whole rank of 1 or more, got {self.rank!r}")
        targets = torch.eye(len(self.classes_), dtype=X.dtype, device=X.device)[index]
        penalties = X.new_tensor(self.penalties)
        held_out = self._held_out(X, targets, weights, penalties, inner_folds(X, index, self.folds, groups))
        losses = best_scale(held_out, index, weights)[1]
        best = int(losses.argmin())
        factors = Factors.of(X, weights)
        axes, coef = self._reduced(factors, targets, penalties[best])
        place = _Coordinates(held_out[best] @ axes, weights)
        read, loss = place.read(index, weights, len(self.classes_))
        slopes = read[:-1].T / place.spread  # [class, rank]
        return {
            "penalty_": float(self.penalties[best]),
            "held_out_log_loss_": float(loss),
            "coef_": slopes @ axes.T @ coef,
            "intercept_": read[-1] - slopes @ (axes.T @ coef @ factors.mean + place.mean),
        }

    def _held_out(self, X: Tensor, targets: Tensor, weights: Tensor, penalties: Tensor, fold: Tensor) -> Tensor:
        """Scores `[penalty, n, class]`, about 0, of each row by the fit of limited rank without its fold."""
        scores = X.new_zeros(len(penalties), *targets.shape)
        for f in range(int(fold.max()) + 1):
            out = fold == f
            part = Factors.of(X[~out], weights[~out])
            for p, penalty in enumerate(penalties):
                axes, coef = self._reduced(part, targets[~out], penalty)
                scores[p, out] = (X[out] - part.mean) @ coef.T @ axes @ axes.T
        return scores

    def _reduced(self, factors: Factors, targets: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """Directions `[class, rank]` of the scores, and ridge coefficients `[class, d]`, which `axes @ axes.T` limits.

        The directions are those of the fitted values' largest variance, the ridge counted as further samples.
        """
        coef = factors.solve(targets, penalty)[0]
        fitted = coef @ factors.right.T * (factors.singular**2 + penalty * factors.unit).sqrt()
        axes = torch.linalg.eigh(fitted @ fitted.T)[1]
        return axes[:, -min(self.rank, targets.shape[1] - 1) :], coef


class _Coordinates:
    """Standardised coordinates `[n, rank]` and the logistic regression on them."""

    def __init__(self, values: Tensor, weights: Tensor) -> None:
        self.mean = weights @ values / weights.sum()
        centred = values - self.mean
        power = weights @ centred**2 / weights.sum()
        varies = power > 1e-20 * power.sum().clamp_min(1e-300)
        self.spread = torch.where(varies, power, 1.0).sqrt()
        ones = torch.ones_like(values[:, :1])
        self.design = torch.cat([torch.where(varies, centred / self.spread, 0.0), ones], dim=1)

    def read(self, index: Tensor, weights: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Coefficients `[rank + 1, class]`, the intercept last, and the mean log-loss; slopes have a normal prior."""
        prior = torch.ones_like(self.design[0])
        prior[-1] = 0
        read = solve(self.design, index, weights[:, None], prior[:, None], classes, tol=1e-10)[..., 0]
        log_p = torch.log_softmax(self.design @ read, dim=1).gather(1, index[:, None])[:, 0]
        return read, -(weights @ log_p) / weights.sum()
