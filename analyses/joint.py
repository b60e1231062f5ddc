"""A linear probe on top of what is known without the state: the text's log-probabilities stay as they are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from ..probes.ridge import PENALTIES

SCALES = (1e-2, 1e3)  # bounds of the scale, where it is not 0
STEPS = 12
ELEMENTS = 2**25  # numbers in one array of scores; more targets than that are fitted in turn


@dataclass(frozen=True, eq=False)
class Parts:
    """Features without one fold, or without two, each part with its mean and the basis in which it is uncorrelated.

    number: `[fold, fold]`, the part without folds a and b (a = b: without a); mean `[part, d]`, basis `[part, d, d]`,
    power `[part, d]`; unit `[part]`: what penalties are multiples of, the mean of `power` over all features
    """

    X: NDArray[Any]
    fold: NDArray[Any]
    number: NDArray[Any]
    mean: NDArray[Any]
    basis: NDArray[Any]
    power: NDArray[Any]
    unit: NDArray[Any]

    @classmethod
    def of(cls, X: Float[np.ndarray, "n d"], fold: Int[np.ndarray, " n"]) -> "Parts":
        """Factorise every part once, for all targets."""
        folds, d = int(fold.max()) + 1, X.shape[1]
        X = np.asarray(X, dtype=np.float64) - X.mean(axis=0, dtype=np.float64)
        if d > len(X):  # n rows span n directions at most, and a rotation changes no ridge regression
            X = X @ np.linalg.svd(X, full_matrices=False)[2].T
        left_out = [(a, b) for a in range(folds) for b in range(a + 1)]
        number = np.zeros((folds, folds), dtype=int)
        grams, means = [], []
        for s, (a, b) in enumerate(left_out):
            number[a, b] = number[b, a] = s
            kept = X[(fold != a) & (fold != b)]
            means.append(kept.mean(axis=0))
            grams.append((kept - means[-1]).T @ (kept - means[-1]))
        power, basis = np.linalg.eigh(np.stack(grams))
        power = np.where(power > 1e-12 * power[:, -1:], power, 0.0)  # what rounding leaves of an empty direction
        unit = power.sum(axis=-1) / d
        # Scores are right to a few parts in ten million: float32 is enough, and twice as fast.
        numbers = X, np.stack(means), basis, power, np.where(unit > 0, unit, 1.0)
        X, mean, basis, power, unit = (array.astype(np.float32) for array in numbers)
        return cls(X, fold, number, mean, basis, power, unit)

    def scores(self, a: int, b: int, residual: NDArray[Any], penalties: NDArray[Any]) -> NDArray[Any]:
        """What ridge regressions `[row of fold b, penalty, column]` without folds a and b say of fold b (a = b too).

        penalties: `[penalty, column]`; residual: targets `[n, column]`
        """
        s = self.number[a, b]
        kept, out = (self.fold != a) & (self.fold != b), self.fold == b
        Z = (self.X - self.mean[s]) @ self.basis[s]
        projected = Z[kept].T @ residual[kept]
        shrunk = [projected / (self.power[s][:, None] + penalty * self.unit[s]) for penalty in penalties]
        return np.stack([Z[out] @ coef for coef in shrunk], axis=1)


def joint_log_p(
    parts: Parts, index: Int[np.ndarray, "target n"], offset: Float[np.ndarray, "fold target n class"]
) -> tuple[Float[np.ndarray, "target n"], Float[np.ndarray, "target fold"]]:
    """Out-of-fold log probability (nats) of every label by the state on top of an offset; and the inner log-loss.

    q(y | offset, h) = softmax(offset + scale * W h): W is the ridge regression, without an intercept, of what the
    offset leaves of the labels (one-hot less its probabilities) on h less its mean; its penalty has the lowest squared
    error, and the scale (0, an infinite penalty, allowed) the lowest log-loss, on inner folds. One sample's worth of
    the offset is mixed in. The inner log-loss `[target, fold]` is that on the inner folds of each training part: what a
    choice of layer may look at.

    index: numbers of the labels; offset: natural-log probabilities, for each held-out fold those that may be used when
    it is left out (of its own rows: those that score them)

    >>> rng = np.random.default_rng(0)
    >>> y, fold = rng.integers(0, 2, (1, 300)), np.arange(300) % 5
    >>> X = rng.normal(size=(300, 3)) + 4 * y.T * np.array([1.0, 0, 0])
    >>> log_p, _ = joint_log_p(Parts.of(X, fold), y, np.full((5, 1, 300, 2), np.log(0.5)))
    >>> bool(log_p.mean() > -0.2)
    True
    """
    size = max(1, ELEMENTS // max(1, offset[:, 0].size))
    chunks = [slice(first, first + size) for first in range(0, len(index), size)]
    found = [_joint(parts, index[chunk], offset[:, chunk]) for chunk in chunks]
    return np.concatenate([log_p for log_p, _ in found]), np.concatenate([inner for _, inner in found])


def _joint(parts: Parts, index: NDArray[Any], offset: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    folds, targets, n, classes = offset.shape
    one_hot = np.eye(classes)[index]
    residual = (one_hot - softmax(offset, axis=-1)).transpose(0, 2, 1, 3).reshape(folds, n, -1).astype(np.float32)
    penalties = np.array(PENALTIES, dtype=np.float32)
    grid = np.repeat(penalties[:, None], residual.shape[-1], axis=1)
    inner = np.zeros((folds, targets, n, classes), dtype=np.float32)
    penalty = np.zeros((folds, residual.shape[-1]), dtype=np.float32)
    for a in range(folds):
        tried = np.zeros((n, *grid.shape), dtype=np.float32)
        for b in range(folds):
            if b != a:
                tried[parts.fold == b] = parts.scores(a, b, residual[a], grid)
        kept = parts.fold != a
        gap = tried[kept] - residual[a][kept][:, None]
        error = np.einsum("npc,npc->pc", gap, gap).reshape(len(grid), targets, classes)
        best = error.sum(axis=-1).argmin(axis=0)
        penalty[a] = np.repeat(penalties[best], classes)
        chosen = tried.reshape(n, len(grid), targets, classes)[:, best, np.arange(targets)]
        inner[a] = chosen.transpose(1, 0, 2)
    kept = parts.fold != np.arange(folds)[:, None]  # [fold, n]
    scale, loss = _best_scale(inner, offset.astype(np.float32), index, kept[:, None] / kept.sum(axis=1)[:, None, None])
    own = np.empty((targets, n))
    for a in range(folds):
        out = parts.fold == a
        scores = parts.scores(a, a, residual[a], penalty[a][None]).reshape(-1, targets, classes).transpose(1, 0, 2)
        known = log_softmax(offset[a][:, out], axis=-1)
        told = log_softmax(known + scale[a][:, None, None] * scores, axis=-1)
        at = index[:, out, None]
        weight = 1 / (kept[a].sum() + 1)
        mixed = np.logaddexp(np.log1p(-weight) + told, np.log(weight) + known)
        own[:, out] = np.take_along_axis(mixed, at, axis=-1)[..., 0]
    return own, loss.T


def _best_scale(
    scores: NDArray[Any], offset: NDArray[Any], index: NDArray[Any], share: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The scale `[fold, target]` of scores `[fold, target, n, class]` with the lowest log-loss, and that loss.

    share: weights of the rows `[fold, 1, n]` that sum to 1. The loss is convex in the scale: Newton's steps, each at
    most a factor of 4, and 0 where the loss rises from there on.
    """
    at = index[None, ..., None].repeat(len(scores), axis=0)
    gaps = (scores - np.take_along_axis(scores, at, axis=-1)).reshape(-1, *scores.shape[2:])
    known = (offset - np.take_along_axis(offset, at, axis=-1)).reshape(gaps.shape)
    weights = np.broadcast_to(share, scores.shape[:3]).reshape(gaps.shape[:2])
    scale = np.zeros(len(gaps))
    moving = np.flatnonzero(_slopes(gaps, known, weights, scale)[0] < 0)
    gaps, here, share = gaps[moving], known[moving], weights[moving]
    found = np.full(len(moving), 4.0)
    for _ in range(STEPS):
        first, second, _ = _slopes(gaps, here, share, found)
        before, found = found, found - first / np.maximum(second, 1e-12)
        found = np.clip(np.clip(found, before / 4, before * 4), *SCALES)
        if (np.abs(found - before) < 1e-2 * before).all():  # the loss is flat there: it is off by 1e-4 of itself
            break
    scale[moving] = found
    loss = _slopes(np.zeros_like(known), known, weights, scale)[2]
    loss[moving] = _slopes(gaps, here, share, found)[2]
    return scale.reshape(scores.shape[:2]), loss.reshape(scores.shape[:2])


def _slopes(
    gaps: NDArray[Any], known: NDArray[Any], share: NDArray[Any], scale: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """First and second derivative of the log-loss by the scale, and the loss; gaps: scores less that of the label."""
    above = known + scale.astype(gaps.dtype)[:, None, None] * gaps
    top = above.max(axis=-1, keepdims=True)
    chance = np.exp(above - top)
    total = chance.sum(axis=-1)
    mean = np.einsum("tnk,tnk->tn", chance, gaps) / total
    square = np.einsum("tnk,tnk,tnk->tn", chance, gaps, gaps) / total
    loss = ((np.log(total) + top[..., 0]) * share).sum(axis=-1)
    return (mean * share).sum(axis=-1), ((square - mean**2) * share).sum(axis=-1), loss
