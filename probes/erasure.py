"""Erasing a concept from activations, so that no linear probe finds it there."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .base import as_features, as_labels, as_values, as_weights, like

METHODS = ("leace", "orthogonal")
CONCEPTS = ("classes", "values")


@dataclass(frozen=True)
class Moments:
    """What one pass over the rows keeps; nothing in it is ever changed in place.

    weight `[]`, mean `[d]` and concept_mean `[k]`; about the means: scatter `[d, d]`, cross `[d, k]`, and spread `[k]`,
    the summed squares of each column of the concept
    """

    weight: Tensor
    mean: Tensor
    concept_mean: Tensor
    scatter: Tensor
    cross: Tensor
    spread: Tensor

    @classmethod
    def of(cls, X: Tensor, concept: Tensor, weights: Tensor) -> "Moments":
        """The moments of rows `[n, d]` with concept `[n, k]`."""
        weight = weights.sum()
        mean, concept_mean = weights @ X / weight, weights @ concept / weight
        rows, columns = X - mean, concept - concept_mean
        weighted = weights[:, None] * rows
        return cls(weight, mean, concept_mean, weighted.T @ rows, weighted.T @ columns, weights @ columns**2)

    def with_columns(self, place: Tensor, k: int) -> "Moments":
        """The same for k columns, ours at `place`; classes that were not met are 0 in every row."""
        empty = self.mean.new_zeros(k)
        return Moments(
            self.weight,
            self.mean,
            empty.index_copy(0, place, self.concept_mean),
            self.scatter,
            self.cross.new_zeros(len(self.mean), k).index_copy(1, place, self.cross),
            empty.index_copy(0, place, self.spread),
        )

    def __add__(self, other: "Moments") -> "Moments":
        """Both together (Chan, Golub & LeVeque 1979)."""
        weight = self.weight + other.weight
        part, joint = other.weight / weight, self.weight * other.weight / weight
        step, concept_step = other.mean - self.mean, other.concept_mean - self.concept_mean
        return Moments(
            weight,
            self.mean + part * step,
            self.concept_mean + part * concept_step,
            self.scatter + other.scatter + joint * torch.outer(step, step),
            self.cross + other.cross + joint * torch.outer(step, concept_step),
            self.spread + other.spread + joint * concept_step**2,
        )

    def factors(self, method: str) -> tuple[Tensor, Tensor]:
        """The directions that are read, `[d, rank]`, and those that are written, `[d, rank]`."""
        eps = torch.finfo(self.mean.dtype).eps
        scale = (self.scatter.diagonal().clamp_min(0) / self.weight).sqrt()
        moves = scale > eps ** (2 / 3) * self.mean.abs()
        unit = torch.where(moves, scale, 1.0)
        concept_scale = (self.spread / self.weight).sqrt()
        varies = concept_scale > eps ** (2 / 3) * self.concept_mean.abs()
        cross = torch.where(varies, self.cross / torch.where(varies, concept_scale, 1.0), 0.0) / self.weight
        cross = torch.where(moves[:, None], cross, 0.0)
        if method == "orthogonal":
            left, size, _ = torch.linalg.svd(cross, full_matrices=False)
            found = left[:, size > eps**0.5 * (scale**2).sum().sqrt()]
            return found, found
        # In units of each feature's spread: the map is the same, and a few huge features do not hide the small ones.
        correlation = torch.where(torch.outer(moves, moves), self.scatter / torch.outer(unit, unit) / self.weight, 0.0)
        power, vectors = torch.linalg.eigh(correlation)
        kept = power > eps**0.75 * power[-1].clamp_min(1.0)
        root, vectors = power[kept].sqrt(), vectors[:, kept]
        left, size, _ = torch.linalg.svd((vectors.T @ (cross / unit[:, None])) / root[:, None], full_matrices=False)
        found = left[:, size > eps**0.5]  # correlations, so between 0 and about 1
        reads, writes = vectors @ (found / root[:, None]), vectors @ (found * root[:, None])
        return torch.where(moves, 1 / unit, 0.0)[:, None] * reads, torch.where(moves, scale, 0.0)[:, None] * writes


class LeaceEraser(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Erases a concept with the least change (LEACE): afterwards no linear probe does better than a constant.

    concept: "classes": `y` holds labels `[n]`, integers, floats without fraction or text. "values": `y` holds numbers,
        `[n]` or `[n, k]`; no linear regression then predicts any of them
    method: "leace": the smallest mean squared change, x - W^+ P W (x - mean) with W the inverse root of the covariance
        and P the projection on the span of W Cov(x, concept). "orthogonal": projects that span of Cov(x, concept)
        itself out; a larger change, but symmetric and without an inverse

    The guarantee is about the rows fitted to, each counted by its weight: their covariance with the concept becomes 0
    (class means become equal), exact in float64 and otherwise to the rounding of the dtype. Held-out rows come close as
    n grows beyond d. Where the covariance is singular (n <= d, constant features) its pseudo-inverse stands: directions
    below 2e-12 of the largest variance, features in units of their standard deviation, are not read, and a concept
    whose correlation with the features is below 1.5e-8 counts as absent and leaves them unchanged. What the map does to
    a new row outside the span of the rows fitted to is a convention; ours goes with those units.

    After `fit`: `mean_` [d], `reads_` and `writes_` [d, rank] (the erased x is x - (x - mean_) @ reads_ @ writes_.T),
    `rank_` (at most classes - 1, or the columns of the values), `subspace_` [d, rank], an orthonormal basis of all
    directions in which anything is changed (of the differences between class means, so not that of `reads_`, except in
    "orthogonal"), `classes_` (None for values). `transform` gives the kind, the device and the float dtype of its
    input. ValueError for a concept that is constant. Source: Belrose et al. (arXiv 2306.03819).

    >>> generator = torch.Generator().manual_seed(0)
    >>> y = torch.arange(100) % 2
    >>> X = torch.randn(100, 3, generator=generator) + y[:, None]
    >>> erased = LeaceEraser().fit_transform(X, y)
    >>> bool(((erased[y == 0].mean(0) - erased[y == 1].mean(0)).abs() < 1e-6).all())
    True
    """

    _factors: tuple[Tensor, Tensor] | None
    _moments: Moments

    def __init__(self, concept: Any = "classes", method: Any = "leace") -> None:
        self.concept = concept
        self.method = method

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "LeaceEraser":
        """Fit to features `[n, d]` and the concept `y`; sample_weight `[n]`: how many copies of each row there are."""
        self._learn(X, y, sample_weight, first=True)
        self._map()
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "LeaceEraser":
        """Add more rows: chunk after chunk gives what `fit` on all of them gives. A new class may come at any time."""
        self._learn(X, y, sample_weight, first=not self.__sklearn_is_fitted__())
        return self

    def transform(self, X: Any) -> Any:
        """The features `[n, d]` without the concept, in the kind and float dtype of `X`."""
        check_is_fitted(self)
        features = as_features(self, X)
        reads, writes = (factor.to(features) for factor in self._map())
        erased = features - ((features - self._moments.mean.to(features)) @ reads) @ writes.T
        if isinstance(X, Tensor):
            return erased.to(X.dtype) if X.is_floating_point() else erased
        kind = getattr(X, "dtype", None)
        return erased.numpy().astype(kind if isinstance(kind, np.dtype) and kind.kind == "f" else np.float64)

    def _learn(self, X: Any, y: Any, sample_weight: Any, first: bool) -> None:
        for name, value, known in (("concept", self.concept, CONCEPTS), ("method", self.method, METHODS)):
            if value not in known:
                raise ValueError(f"expected {name} to be one of {', '.join(known)}, got {value!r}")
        features = as_features(self, X, reset=first)
        classes, columns = self._columns(y, features)
        new = Moments.of(features, columns, as_weights(sample_weight, features))
        if not first:
            classes, new = self._joined(classes, new)
        self._moments, self._factors, self._tensors = new, None, isinstance(X, Tensor)
        self.classes_: Any = classes

    def _columns(self, y: Any, X: Tensor) -> tuple[Any, Tensor]:
        """The classes and their indicators `[n, k]`; for values None and the values."""
        if self.concept == "values":
            values = as_values(y, X)
            return None, values if values.ndim == 2 else values[:, None]
        try:
            classes, index = as_labels(y, X)
        except ValueError as error:
            if "Unknown label type" not in str(error):
                raise
            raise ValueError(f"{error} Here: LeaceEraser(concept='values') takes numbers.") from error
        return classes, torch.eye(len(classes), dtype=X.dtype, device=X.device)[index]

    def _joined(self, classes: Any, new: Moments) -> tuple[Any, Moments]:
        """All classes met so far, and the moments of all rows."""
        old = Moments(**{name: value.to(new.mean) for name, value in vars(self._moments).items()})
        if classes is None:
            if len(old.concept_mean) != len(new.concept_mean):
                raise ValueError(
                    f"expected values with {len(old.concept_mean)} columns as before, got {len(new.concept_mean)}"
                )
            return None, old + new
        if isinstance(classes, Tensor) != isinstance(self.classes_, Tensor):
            raise ValueError("expected labels of one kind in every chunk, got an array in one and a tensor in another")
        if isinstance(classes, Tensor):
            every, place = torch.unique(torch.cat([self.classes_.to(classes.device), classes]), return_inverse=True)
        else:
            every, numbers = np.unique(np.concatenate([self.classes_, classes]), return_inverse=True)
            place = torch.from_numpy(numbers)
        place = place.to(new.mean.device)
        known = len(self.classes_)
        return every, old.with_columns(place[:known], len(every)) + new.with_columns(place[known:], len(every))

    def _map(self) -> tuple[Tensor, Tensor]:
        """What is read and what is written; found when first needed, since chunks may follow."""
        check_is_fitted(self)
        if self._factors is None:
            spread, mean = self._moments.spread / self._moments.weight, self._moments.concept_mean
            if not (spread.sqrt() > torch.finfo(mean.dtype).eps ** (2 / 3) * mean.abs()).any():
                raise ValueError(
                    "expected a concept that varies, got 1 class or one value in all rows: there is nothing to erase"
                )
            self._factors = self._moments.factors(self.method)
        return self._factors

    def _given(self, values: Tensor) -> Any:
        return values.clone() if self._tensors else like(values.clone(), None)

    @property
    def mean_(self) -> Any:
        """The mean of the features `[d]`, which erasure keeps."""
        check_is_fitted(self)
        return self._given(self._moments.mean)

    @property
    def reads_(self) -> Any:
        """The directions `[d, rank]` along which the erased features no longer vary."""
        return self._given(self._map()[0])

    @property
    def writes_(self) -> Any:
        """The directions `[d, rank]` along which features are moved, one for each that is read."""
        return self._given(self._map()[1])

    @property
    def subspace_(self) -> Any:
        """An orthonormal basis `[d, rank]` of the span of `writes_`."""
        return self._given(torch.linalg.qr(self._map()[1]).Q)

    @property
    def rank_(self) -> int:
        """How many dimensions are erased."""
        return self._map()[0].shape[1]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_moments")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
        return tags
