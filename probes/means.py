"""Probes from class means: nearest mean, and linear discriminant analysis with a shrunk covariance."""

from typing import Any

import torch
from torch import Tensor

from .base import LinearProbe, TemperedProbe
from .folds import inner_folds
from .scale import best_scale

SHRINKAGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0)


class Means:
    """Class means of weighted rows, about the mean of all.

    centre `[d]`, counts `[class]` (summed weights), means `[class, d]`; a class without rows is at the centre
    """

    def __init__(self, X: Tensor, index: Tensor, weights: Tensor, classes: int) -> None:
        member = torch.eye(classes, dtype=X.dtype, device=X.device)[index] * weights[:, None]
        self.counts = member.sum(0)
        self.centre = weights @ X / weights.sum()
        # Of the centred rows: a mean far from 0 would cost digits.
        self.means = member.T @ (X - self.centre) / self.counts.clamp_min(1e-300)[:, None]

    def without_own(self, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """How much farther `[n]` a row is from its class mean when one copy of it is left out, and what stays `[n]`.

        x - mean' = (x - mean) * count / (count - copy); 1 where nothing of the class stays.
        """
        count, copy = self.counts[index], weights.clamp_max(1)
        rest = count - copy
        rest = torch.where(rest > 1e-9 * count, rest, torch.zeros_like(rest))
        return torch.where(rest > 0, count / rest.clamp_min(1e-300), 1.0), rest


class MeanDifferenceProbe(TemperedProbe):
    """Linear classifier that takes the nearest class mean; with two classes it reads the difference of means.

    folds: None scales the scores to probabilities by exact leave-one-out; a number by as many inner folds. Rows in
        groups always use folds (5 unless given)

    All classes are taken to be equally likely beforehand. After `fit`: `classes_`, `coef_` [class, d], `intercept_`,
    `scale_`, `held_out_log_loss_` (nats), and `subspace_` [d, rank], the span of the differences between class means.
    Source: Marks and Tegmark 2023 (2310.06824), the mass-mean probe.

    >>> X = torch.tensor([[0.0, 1.0], [0.0, -1.0], [2.0, 1.0], [2.0, -1.0]])
    >>> probe = MeanDifferenceProbe().fit(X, torch.tensor([0, 0, 1, 1]))
    >>> probe.subspace_.abs().round(decimals=3).tolist(), probe.predict(torch.tensor([[0.9, 9.0], [1.1, 9.0]])).tolist()
    ([[1.0], [0.0]], [0, 1])
    """

    def __init__(self, folds: Any = None) -> None:
        self.folds = folds

    def _fit(self, X: Tensor, index: Tensor, weights: Tensor, groups: Tensor | None) -> dict[str, Any]:
        classes = len(self.classes_)
        whole = Means(X, index, weights, classes)
        if self.folds is None and groups is None:
            scores, stays = self._left_out(X, index, weights, whole)
        else:
            scores, stays = X.new_zeros(len(X), classes), torch.zeros_like(weights)
            for out, kept in _parts(inner_folds(X, index, self.folds or 5, groups)):
                part = Means(X[kept], index[kept], weights[kept], classes)
                near = _nearness(X[out] - part.centre, part)
                scores[out] = torch.where(part.counts > 0, near, near.amin(1, keepdim=True))
                stays[out] = part.counts[index[out]]
        scored = weights * (stays > 0)  # a row whose class vanishes with it says nothing of the scale
        if not (scored > 0).any():
            scored = weights
        unit = _spread(scores, scored)
        scale, loss = best_scale(scores / unit, index, scored)
        coef = whole.means * (scale / unit)
        constant = -0.5 * (whole.means**2).sum(1) * (scale / unit)
        return {
            "scale_": float(scale / unit),
            "held_out_log_loss_": float(loss),
            "coef_": coef,
            "intercept_": constant - coef @ whole.centre,
        }

    def _left_out(self, X: Tensor, index: Tensor, weights: Tensor, whole: Means) -> tuple[Tensor, Tensor]:
        """Scores `[n, class]` without one copy of the own row, and what stays of the own class."""
        ratio, stays = whole.without_own(index, weights)
        centred = X - whole.centre
        scores = _nearness(centred, whole)
        own = centred - whole.means[index]
        # The distance to the own mean grows by the ratio; other means do not move.
        change = -0.5 * (ratio**2 - 1) * (own**2).sum(1)
        return scores.scatter_add(1, index[:, None], change[:, None]), stays


class DiscriminantProbe(LinearProbe):
    """Linear discriminant analysis: Gaussian classes with one covariance, shrunk towards a multiple of the identity.

    shrinkages: candidates between 0 (the covariance as it is, which needs more samples than features) and 1 (nearest
        mean); the one with the lowest held-out log-loss is chosen
    folds: None holds out by exact leave-one-out, which needs no refit; a number by as many inner folds. Rows in groups
        always use folds (5 unless given)

    Probabilities are the posterior, with the frequencies of the classes as prior. After `fit`: `classes_`, `coef_`
    [class, d], `intercept_`, `shrinkage_`, `priors_` [class], `held_out_log_loss_` (nats; NaN for a single shrinkage),
    `subspace_` [d, rank]. Source: Friedman 1989, Regularized Discriminant Analysis.

    >>> generator = torch.Generator().manual_seed(0)
    >>> y = torch.arange(150) % 3
    >>> X = torch.eye(3)[y] + 0.3 * torch.randn(150, 3, generator=generator)
    >>> probe = DiscriminantProbe().fit(X, y)
    >>> probe.score(X, y) > 0.9, tuple(probe.coef_.shape)
    (True, (3, 3))
    """

    def __init__(self, shrinkages: Any = SHRINKAGES, folds: Any = None) -> None:
        self.shrinkages = shrinkages
        self.folds = folds

    def _fit(self, X: Tensor, index: Tensor, weights: Tensor, groups: Tensor | None) -> dict[str, Any]:
        candidates = [float(s) for s in self.shrinkages]
        if not candidates or min(candidates) < 0 or max(candidates) > 1:
            raise ValueError(f"expected shrinkages between 0 and 1, one at least, got {tuple(candidates)}")
        whole = Gaussian(X, index, weights, len(self.classes_))
        best, losses = 0, torch.full((len(candidates),), torch.nan)
        if len(candidates) > 1:
            losses = self._held_out(X, index, weights, groups, whole)
            best = int(losses.argmin())
        coef, intercept = whole.linear(candidates[best])
        return {
            "shrinkage_": candidates[best],
            "priors_": whole.means.counts / whole.means.counts.sum(),
            "held_out_log_loss_": float(losses[best]),
            "coef_": coef,
            "intercept_": intercept,
        }

    def _held_out(self, X: Tensor, index: Tensor, weights: Tensor, groups: Tensor | None, whole: "Gaussian") -> Tensor:
        """The mean log-loss `[shrinkage]` over rows of whose class something stays; 0 if there is no such row."""
        if self.folds is None and groups is None:
            own = [whole.left_out(shrinkage) for shrinkage in self.shrinkages]
        else:
            own = [X.new_zeros(len(X)) for _ in self.shrinkages]
            for out, kept in _parts(inner_folds(X, index, self.folds or 5, groups)):
                part = Gaussian(X[kept], index[kept], weights[kept], len(self.classes_))
                for log_p, shrinkage in zip(own, self.shrinkages, strict=True):
                    coef, intercept = part.linear(shrinkage)
                    log_p[out] = _own_log_p(X[out] @ coef.T + intercept, index[out])
        log_p = torch.stack(own)
        seen = weights * torch.isfinite(log_p[0])
        return -(torch.where(seen > 0, log_p, 0.0) @ seen) / seen.sum().clamp_min(1e-300)


class Gaussian:
    """Classes with a shared covariance, in coordinates in which that is diagonal.

    means: `Means` in features; basis `[d, rank]`; place `[n, rank]` of the centred rows, at `[class, rank]` of the
    class means; scatter `[rank]`: within classes, summed; floor: the least mean scatter of a feature
    """

    def __init__(self, X: Tensor, index: Tensor, weights: Tensor, classes: int) -> None:
        self.index, self.weights, self.d = index, weights, X.shape[1]
        self.means = Means(X, index, weights, classes)
        within = weights.sqrt()[:, None] * (X - self.means.centre - self.means.means[index])
        spans = torch.cat([within, self.means.counts.sqrt()[:, None] * self.means.means])
        basis = torch.eye(self.d, dtype=X.dtype, device=X.device)
        if len(spans) < self.d:  # nothing is read outside the span of the rows
            _, singular, right = torch.linalg.svd(spans, full_matrices=False)
            basis = right[singular > 1e-10 * singular[0]].T
        scatter, vectors = torch.linalg.eigh((within @ basis).T @ (within @ basis))
        self.scatter, self.basis = scatter.clamp_min(0), basis @ vectors
        self.place, self.at = (X - self.means.centre) @ self.basis, self.means.means @ self.basis
        self.floor = (1e-9 * (spans**2).sum() / self.d).clamp_min(1e-300)

    def linear(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Coefficients `[class, d]` and intercepts `[class]` of the log posterior; -inf for a class without rows."""
        total = self.weights.sum()
        mean_scatter = torch.maximum(self.scatter.sum() / self.d, self.floor)
        precision = total / ((1 - shrinkage) * self.scatter + shrinkage * mean_scatter).clamp_min(self.floor)
        coef = (self.at * precision) @ self.basis.T
        constant = -0.5 * (self.at**2 @ precision) + (self.means.counts / total).log()
        return coef, constant - coef @ self.means.centre

    def left_out(self, shrinkage: float) -> Tensor:
        """Log posterior `[n]` of the own class by the fit without one copy of the row; -inf if its class vanishes.

        Exact, without a refit. Leaving out u = x - mean takes (count / (count - copy)) copy u u' from the scatter: a
        change of rank one (Sherman and Morrison), and of the multiple of the identity, which is diagonal here as well.
        """
        index, copy = self.index, self.weights.clamp_max(1)
        ratio, stays = self.means.without_own(index, self.weights)
        own = self.place - self.at[index]
        taken = ratio * copy * (stays > 0)
        left = (self.scatter.sum() - taken * (own**2).sum(1)) / self.d
        ridge = shrinkage * torch.maximum(left, self.floor)[:, None]
        inverse = 1 / ((1 - shrinkage) * self.scatter + ridge).clamp_min(self.floor)  # [n, rank]
        # Squared distances to the class means, and products with u, before the change of rank one; the own mean moved.
        flat = (
            (inverse * self.place**2).sum(1)[:, None] - 2 * (inverse * self.place) @ self.at.T + inverse @ self.at.T**2
        )
        along = (inverse * own * self.place).sum(1)[:, None] - (inverse * own) @ self.at.T
        power = (inverse * own**2).sum(1)
        flat = flat.scatter(1, index[:, None], (ratio**2 * power)[:, None])
        along = along.scatter(1, index[:, None], (ratio * power)[:, None])
        share = (1 - shrinkage) * taken
        distance = flat + (share / (1 - share * power).clamp_min(1e-9))[:, None] * along**2
        rest = self.weights.sum() - copy
        counts = self.means.counts.expand_as(distance).scatter(1, index[:, None], stays[:, None])
        return _own_log_p(counts.log() - 0.5 * rest[:, None] * distance, index)


def _own_log_p(scores: Tensor, index: Tensor) -> Tensor:
    return torch.log_softmax(scores, dim=-1).gather(1, index[:, None])[:, 0]


def _nearness(centred: Tensor, means: Means) -> Tensor:
    """Minus half the squared distance `[n, class]` of centred rows to the means, but for a constant of the row."""
    return centred @ means.means.T - 0.5 * (means.means**2).sum(1)


def _spread(scores: Tensor, weights: Tensor) -> Tensor:
    """The root mean square of scores about their row's mean; 1 if none varies."""
    power = (weights @ (scores - scores.mean(1, keepdim=True)) ** 2).sum() / (weights.sum() * scores.shape[1])
    return torch.where(power > 0, power.sqrt(), 1.0)


def _parts(fold: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Held-out and kept rows of every fold."""
    return [(fold == f, fold != f) for f in range(int(fold.max()) + 1)]
