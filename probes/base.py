"""What every probe shares: two kinds of arrays, labels and weights, and how linear scores become probabilities."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from .subspace import subspace_of

Array = NDArray[Any] | Tensor


def as_features(estimator: BaseEstimator, X: Any, *, reset: bool = False) -> Tensor:
    """Checked features `[n, d]` as a float64 tensor on their own device (float32 where the device has no float64).

    Anything but a tensor goes through scikit-learn's `validate_data`; a tensor is checked here, by the same rules, and
    is never copied to the host.
    """
    if not isinstance(X, Tensor):
        X = validate_data(estimator, X, reset=reset, dtype=np.float64)
        return torch.from_numpy(np.require(X, requirements=["C", "W"]))
    name = type(estimator).__name__
    if X.ndim != 2 or X.is_sparse or X.is_complex():
        kind = "sparse " if X.is_sparse else "complex " if X.is_complex() else ""
        raise ValueError(f"Expected 2D array of real features [n, d], got a {kind}tensor of shape {tuple(X.shape)}")
    if not len(X) or not X.shape[1]:
        raise ValueError(f"Found array of shape {tuple(X.shape)} while a minimum of 1 sample and 1 feature is required")
    if reset:
        estimator.n_features_in_ = X.shape[1]
    elif X.shape[1] != estimator.n_features_in_:
        raise ValueError(f"X has {X.shape[1]} features, but {name} is expecting {estimator.n_features_in_} features")
    features: Tensor = X.detach().to(torch.float32 if X.device.type == "mps" else torch.float64)
    if not torch.isfinite(features).all():
        raise ValueError(f"Input X contains NaN or infinity: {name} needs finite features, so drop or mend those rows")
    return features


def as_labels(y: Any, X: Tensor) -> tuple[Array, Tensor]:
    """The distinct labels in order, of the kind that `y` is, and the number of each row's label `[n]`."""
    if isinstance(y, Tensor):
        if y.ndim != 1 or len(y) != len(X):
            raise ValueError(f"expected one label a row, y of shape ({len(X)},), got {tuple(y.shape)}")
        if y.is_floating_point() and not (y == y.round()).all():
            raise ValueError(
                "Unknown label type: continuous values. A classifier needs classes, a regressor takes values"
            )
        classes, index = torch.unique(y.detach(), return_inverse=True)
        return classes, index.to(X.device)
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    y = column_or_1d(y, warn=True)
    check_classification_targets(y)
    if len(y) != len(X):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {len(X)} rows and {len(y)} labels"
        )
    found, numbers = np.unique(y, return_inverse=True)
    return found, torch.from_numpy(numbers).to(X.device)


def numbered(values: Any) -> tuple[Array, Tensor]:
    """The distinct values in order, and the number of each row's value `[n]`, on the device of a tensor."""
    if isinstance(values, Tensor):
        names, index = torch.unique(values.detach(), return_inverse=True)
        return names, index
    found, number = np.unique(np.asarray(values), return_inverse=True)
    return found, torch.from_numpy(number)


def as_members(groups: Any, X: Tensor) -> Tensor:
    """The number of each row's group `[n]`, on the device of `X`."""
    member = numbered(groups)[1]
    if member.shape != (len(X),):
        raise ValueError(f"expected one group for each of {len(X)} rows, got {tuple(member.shape)}")
    return member.to(X.device)


def as_values(y: Any, X: Tensor) -> Tensor:
    """Checked real targets `[n]` or `[n, m]`, as numbers of the kind and on the device of `X`."""
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    if not isinstance(y, Tensor):
        y = np.asarray(y)
        if y.dtype.kind not in "fiub":
            y = y.astype(np.float64)
        y = torch.from_numpy(np.require(y, np.float64, ["C", "W"]))
    values: Tensor = y.detach().to(X)
    if values.ndim not in (1, 2) or len(values) != len(X):
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: "
            f"{len(X)} rows and targets of shape {tuple(values.shape)}"
        )
    if not torch.isfinite(values).all():
        raise ValueError("Input y contains NaN or infinity: drop those rows")
    return values


def as_weights(sample_weight: Any, X: Tensor) -> Tensor:
    """Checked sample weights `[n]`; ones where there are none."""
    if sample_weight is None:
        return X.new_ones(len(X))
    if not isinstance(sample_weight, Tensor):
        checked = _check_sample_weight(sample_weight, np.empty((len(X), 0)), dtype=np.float64, ensure_non_negative=True)
        sample_weight = torch.from_numpy(np.require(checked, requirements=["C", "W"]))
    weights: Tensor = sample_weight.detach().to(X)
    if weights.ndim != 1 or len(weights) != len(X):
        raise ValueError(f"sample_weight.shape == {tuple(weights.shape)}, expected ({len(X)},)")
    if not torch.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("expected finite sample weights that are not negative")
    if not (weights > 0).any():
        raise ValueError("all sample weights are 0: no sample is left to fit")
    return weights


def like(values: Tensor, X: Any) -> Any:
    """`values` as a tensor where `X` is one, else as a numpy array."""
    return values if isinstance(X, Tensor) else values.numpy()


class ProbeClassifier(ClassifierMixin, BaseEstimator, ABC):
    """A classifier over tensors: a subclass gives `_fit(X, index, weights, groups)` and `_scores(X)`.

    Fitted arrays are numpy where the features were, and tensors on the features' device where those were tensors;
    predictions are of the kind of the features that they are asked for. Predicted labels are of the kind of the labels,
    and tensors where features are tensors and labels numbers.
    """

    classes_: Any
    n_samples_fit_: float

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Any:
        """Fit to features `[n, d]` and labels `[n]`.

        sample_weight: how many copies of each row there are, as scikit-learn means it; 0 leaves a row out
        groups: `[n]`, rows of one group (a problem) are kept together wherever the penalty is chosen on held-out rows
        """
        features = as_features(self, X, reset=True)
        self.classes_, index = as_labels(y, features)
        if isinstance(X, Tensor) and not isinstance(self.classes_, Tensor) and self.classes_.dtype.kind in "biuf":
            self.classes_ = torch.from_numpy(self.classes_).to(
                X.device
            )  # so that predictions stay where the features are
        weights = as_weights(sample_weight, features)
        members = None if groups is None else as_members(groups, features)
        if sample_weight is not None:
            kept = weights > 0
            features, index, weights = features[kept], index[kept], weights[kept]
            members = None if members is None else members[kept]
            present, index = torch.unique(index, return_inverse=True)
            self.classes_ = _picked(self.classes_, present)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes, got 1 class: {self.classes_[0]!r}"
            )
        self.n_samples_fit_ = float(weights.sum())
        for name, value in self._fit(features, index, weights, members).items():
            setattr(self, name, like(value, X) if isinstance(value, Tensor) else value)
        return self

    @abstractmethod
    def _fit(self, X: Tensor, index: Tensor, weights: Tensor, groups: Tensor | None) -> dict[str, Any]:
        """The fitted attributes by name; tensors become arrays of the caller's kind."""

    @abstractmethod
    def _scores(self, X: Tensor) -> Tensor:
        """Scores `[n, class]` whose softmax is the probability."""

    def _log_proba(self, X: Tensor) -> Tensor:
        return torch.log_softmax(self._scores(X), dim=-1)

    def _checked(self, X: Any) -> Tensor:
        check_is_fitted(self)
        return as_features(self, X)

    def decision_function(self, X: Any) -> Any:
        """Scores per class, `[n, class]`; with two classes their difference, `[n]`, as scikit-learn has it."""
        scores = self._scores(self._checked(X))
        return like(scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores, X)

    def predict_log_proba(self, X: Any) -> Any:
        """Log probabilities (nats) of the classes, `[n, class]`."""
        return like(self._log_proba(self._checked(X)), X)

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, `[n, class]`."""
        return like(self._log_proba(self._checked(X)).exp(), X)

    def predict(self, X: Any) -> Any:
        """The most likely class of each row."""
        best = self._scores(self._checked(X)).argmax(dim=-1)
        return _picked(self.classes_, best)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of rows (by weight) whose most likely class is their own."""
        check_is_fitted(self)
        if not isinstance(X, Tensor) or not isinstance(self.classes_, Tensor):
            return float(super().score(X, y, sample_weight))
        right = (self.predict(X) == torch.as_tensor(y).to(self.classes_.device)).to(torch.float64)
        weights = as_weights(sample_weight, right[:, None])
        return float((right * weights).sum() / weights.sum())


def _picked(classes: Any, number: Tensor) -> Any:
    """Labels by their numbers; where labels are no tensor (names), their numbers come to the host, as they must."""
    return classes[number.to(classes.device)] if isinstance(classes, Tensor) else classes[number.cpu().numpy()]


class LinearProbe(ProbeClassifier):
    """A classifier whose scores are linear: `X @ coef_.T + intercept_`, with `coef_` `[class, d]`."""

    coef_: Any
    intercept_: Any

    def _scores(self, X: Tensor) -> Tensor:
        return X @ torch.as_tensor(self.coef_).to(X).T + torch.as_tensor(self.intercept_).to(X)

    @property
    def subspace_(self) -> Any:
        """An orthonormal basis `[d, rank]` of all that the probe reads: the differences between rows of `coef_`."""
        check_is_fitted(self)
        coef = torch.as_tensor(self.coef_)
        return like(subspace_of(coef - coef.mean(dim=0)), self.coef_)


class TemperedProbe(LinearProbe):
    """A linear probe whose scores were fitted by squared error, then scaled to probabilities.

    One sample's worth of a uniform distribution is mixed into them: training samples without an error do not show that
    an error is rarer than one in n, and a single surprise must not cost more than log(n * classes).
    """

    def _log_proba(self, X: Tensor) -> Tensor:
        log_p = torch.log_softmax(self._scores(X), dim=-1)
        weight = log_p.new_tensor(1 / (self.n_samples_fit_ + 1))
        return torch.logaddexp(torch.log1p(-weight) + log_p, (weight / log_p.shape[-1]).log())
