"""What a sweep reads and fills in: activations by blocks of rows, coded targets, and the results of every cell."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .scale import best_scale


@dataclass(frozen=True)
class Target:
    """A target of a sweep, coded.

    index: number of each row's label `[n]`, and how many there are; None and 0 for a regressor's values
    codes: `[n, m]`, what a ridge regression predicts; decode: `[m, class]`, scores from them (None: as they are)
    null: `[n]`, loss of the best constant of the training folds
    """

    name: str
    index: Tensor | None
    classes: int
    codes: Tensor
    decode: Tensor | None
    null: NDArray[Any]


@dataclass(frozen=True)
class Found:
    """Results by target and cell: loss and hit `[target, cell, n]`, inner and penalty `[target, fold, cell]`."""

    loss: NDArray[Any]
    hit: NDArray[Any]
    inner: NDArray[Any]
    penalty: NDArray[Any]

    @classmethod
    def empty(cls, targets: int, folds: int, cells: int, n: int) -> "Found":
        """Nothing found yet: NaN everywhere."""
        each, folded = (targets, cells, n), (targets, folds, cells)
        return cls(np.full(each, np.nan), np.full(each, np.nan), np.full(folded, np.nan), np.full(folded, np.nan))


@dataclass(frozen=True)
class Cells:
    """Activations `[n, *shape, d]` that are read in slices of rows, never whole."""

    source: Any
    n: int
    shape: tuple[int, ...]
    d: int
    memory: float  # bytes

    @classmethod
    def of(cls, X: Any, gigabytes: float) -> "Cells":
        """Check the shape; a sequence of numbers becomes an array."""
        source = X if hasattr(X, "shape") and hasattr(X, "__getitem__") else np.asarray(X)
        if len(source.shape) < 2 or not all(source.shape):
            raise ValueError(
                f"expected activations [n, *cells, d] with at least one of each, got {tuple(source.shape)}"
            )
        return cls(source, source.shape[0], tuple(source.shape[1:-1]), source.shape[-1], gigabytes * 1e9)

    @property
    def count(self) -> int:
        """How many cells there are."""
        return math.prod(self.shape)

    def blocks(self, first: int, last: int) -> Iterator[tuple[slice, Tensor]]:
        """Rows and features `[rows, cell, d]` of cells first to last, in blocks of rows that fit a tenth of the
        memory."""
        size = max(1, int(self.memory / 10 / (8 * self.count * self.d)))
        for start in range(0, self.n, size):
            rows = slice(start, min(self.n, start + size))
            yield rows, self._features(rows, slice(first, last))

    def _features(self, rows: slice, cells: slice) -> Tensor:
        block = self.source[rows]
        block = block if isinstance(block, Tensor) else torch.from_numpy(np.require(block, requirements=["C", "W"]))
        X = block.detach().reshape(len(block), self.count, self.d)[:, cells]
        X = X.to(torch.float32 if X.device.type == "mps" else torch.float64)
        if not torch.isfinite(X.sum()):
            bad = int((~torch.isfinite(X)).any(-1).any(-1).nonzero()[0, 0]) + rows.start
            raise ValueError(f"activations contain NaN or infinity, first in row {bad}: drop or mend those rows")
        return X


def own_log_p(scores: Tensor, index: Tensor, known: Tensor, total: float) -> Tensor:
    """Log probability `[..., n]` of each row's own label by scores `[..., n, class]` of a training part.

    index: `[..., n]`; known: `[..., class]`, whether the part has the class; a label that it lacks gets one sample's
    worth of probability, taken from the others. total: samples of the part
    """
    log_p = torch.log_softmax(scores.masked_fill(~known[..., None, :], -torch.inf), dim=-1)
    own = log_p.gather(-1, index.expand(scores.shape[:-1])[..., None])[..., 0]
    seen = known.gather(-1, index)
    unseen = (torch.zeros_like(known).scatter(-1, index, True) & ~known).sum(-1, keepdim=True)
    one = 1 / (total + known.sum(-1, keepdim=True) + unseen)
    return torch.where(seen, own + torch.log1p(-unseen * one), one.log())


def tempered(scores: Tensor, index: Tensor, fold: Tensor, folds: int) -> tuple[Tensor, Tensor, Tensor]:
    """Held-out losses and hits `[target, cell, n]`, and inner losses `[target, cell, fold]` from scores
    `[target, cell, fold, n, class]` and labels `[target, n]`.

    scores[..., a, i, :] is what the model that was chosen for outer fold a, fitted without fold a and without the fold
    of i, gives row i: of its inner folds the scale is learnt, of fold a itself the result.
    """
    outside = (fold != torch.arange(folds, device=fold.device)[:, None]).to(scores)  # [fold, n]
    scales, inner = best_scale(scores, index[:, None, None], outside)
    rows = torch.arange(len(fold), device=fold.device)
    outer = scores[:, :, fold, rows] * scales[:, :, fold][..., None]  # [target, cell, n, class]
    classes = torch.nn.functional.one_hot(index, scores.shape[-1]).bool()  # [target, n, class]
    loss = torch.empty_like(outer[..., 0])
    for f in range(folds):
        out = fold == f
        total = float((~out).sum())
        known = classes[:, ~out].any(1)
        log_p = own_log_p(outer[:, :, out], index[:, None, out], known[:, None], total)
        # One sample's worth of a uniform distribution, as in TemperedProbe.
        weight = 1 / (total + 1)
        uniform = (weight / known.sum(-1)).log()[:, None, None].to(log_p)
        seen = known.gather(-1, index[:, out])[:, None]
        loss[:, :, out] = -torch.where(seen, torch.logaddexp(math.log1p(-weight) + log_p, uniform), log_p)
    return loss, (outer.argmax(-1) == index[:, None]).to(loss), inner


def chunks(count: int, size: int) -> Sequence[tuple[int, int]]:
    """Ranges that cover `count` cells, at most `size` at a time."""
    return [(first, min(count, first + max(1, size))) for first in range(0, count, max(1, size))]
