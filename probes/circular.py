"""A probe for values on a circle: hours, weekdays, residues."""

from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from .base import TemperedProbe
from .folds import inner_folds
from .ridge import PENALTIES, held_out_predictions
from .scale import best_scale


class CircularProbe(TemperedProbe):
    """Linear classifier of cyclic values: ridge regression of cos and sin(2 pi k v / period) for every frequency k.

    period: a whole number; labels are then whole numbers 0..period-1, and so are the classes: values without a sample
        are predicted too. None places the labels, in order, evenly on the circle
    frequencies: whole numbers from 1 to half of the period. Period 10 within the numbers 0..99 is period=100,
        frequencies=(10,)
    penalties and folds: as in `RidgeProbe`

    The score of a value is the sum over frequencies of the predicted cos and sin times its own, so that `coef_`
    [class, d] has rank 2 for each frequency at most. After `fit`: `classes_`, `coef_`, `intercept_`, `penalty_`,
    `scale_`, `held_out_log_loss_` (nats), `r2_` [frequency], the held-out share of the variance of cos and sin that is
    explained, and `subspace_` [d, rank]. Sources: Nanda et al. 2023 (2301.05217); Kantamneni and Tegmark 2025
    (2502.00873).

    >>> y = torch.arange(48) % 12
    >>> angle = 2 * torch.pi * y / 12
    >>> X = torch.stack([angle.cos(), angle.sin()], dim=1)
    >>> probe = CircularProbe(period=12).fit(X[y != 7], y[y != 7])
    >>> probe.predict(X[y == 7]).tolist(), probe.subspace_.shape[1]  # 7 was never seen
    ([7, 7, 7, 7], 2)
    """

    def __init__(
        self,
        period: Any = None,
        frequencies: Any = (1,),
        penalties: Any = PENALTIES,
        folds: Any = None,
    ) -> None:
        self.period = period
        self.frequencies = frequencies
        self.penalties = penalties
        self.folds = folds

    def _fit(self, X: Tensor, index: Tensor, weights: Tensor, groups: Tensor | None) -> dict[str, Any]:
        if self.period is not None:
            self.classes_, index = self._whole_circle(index)
        code = self._code(X)
        targets = code[index]
        held_out = self.folds is not None or groups is not None
        fold = inner_folds(X, index, self.folds or 5, groups) if held_out else None
        factors, left_out = held_out_predictions(X, targets, weights, X.new_tensor(self.penalties), fold)
        scales, losses = best_scale(left_out @ code.T, index, weights)
        best = int(losses.argmin())
        coef, intercept = factors.solve(targets, X.new_tensor(self.penalties[best]))
        error = weights @ (targets - left_out[best]) ** 2
        spread = weights @ (targets - weights @ targets / weights.sum()) ** 2
        return {
            "penalty_": float(self.penalties[best]),
            "scale_": float(scales[best]),
            "held_out_log_loss_": float(losses[best]),
            "r2_": 1 - error.view(-1, 2).sum(1) / spread.view(-1, 2).sum(1),
            "coef_": scales[best] * code @ coef,
            "intercept_": scales[best] * code @ intercept,
        }

    def _whole_circle(self, index: Tensor) -> tuple[Any, Tensor]:
        """Every value of the period, of the kind of the labels, and the place of each row on the circle."""
        labels, period = self.classes_, self.period
        if period is None or period != int(period) or period < 2:
            raise ValueError(f"expected a whole period of 2 or more, got {period!r}")
        advice = f"expected labels that are whole numbers from 0 to {period - 1}, the values of period {period}"
        if not isinstance(labels, Tensor):
            if labels.dtype.kind not in "iufb":
                raise ValueError(f"{advice}, got {labels[0]!r}: with period=None labels of any kind stand in order")
            labels = torch.from_numpy(labels.astype(np.float64))
        wrong = (labels != labels.round()) | (labels < 0) | (labels >= period)
        if wrong.any():
            raise ValueError(f"{advice}, got {labels[wrong][0].item():g}: take values modulo the period")
        values = torch.arange(int(period), device=labels.device)
        place = labels.long()[index.to(labels.device)].to(index.device)
        if isinstance(self.classes_, Tensor):
            return (values.to(labels.dtype) if labels.is_floating_point() else values), place
        kind = self.classes_.dtype
        return np.arange(int(period)).astype(kind if kind.kind == "f" else np.int64), place

    def _code(self, X: Tensor) -> Tensor:
        """Cos and sin of every class, `[class, 2 * frequency]`."""
        count = len(self.classes_)
        frequencies = list(self.frequencies)
        if not frequencies or any(k != int(k) or not 1 <= k <= count // 2 for k in frequencies):
            raise ValueError(
                f"expected whole frequencies from 1 to {count // 2}, half of the period {count}, got {frequencies}"
            )
        if len(set(frequencies)) < len(frequencies):
            raise ValueError(f"expected every frequency once, got {frequencies}")
        # Reduced modulo the period first: the angles of high frequencies are exact, and equal ones are the same number.
        turns = torch.arange(count, device=X.device)[:, None] * torch.tensor(frequencies, device=X.device) % count
        angle = turns.to(X.dtype) * (2 * torch.pi / count)
        return torch.stack([angle.cos(), angle.sin()], dim=2).flatten(1)


def circle(probe: CircularProbe, classes: Any, index: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    """Cos and sin of every value `[value, 2 * frequency]` as a probe codes labels, and each row's value `[n]`."""
    coded = clone(probe)
    coded.classes_ = classes
    if probe.period is not None:
        coded.classes_, index = coded._whole_circle(index)
    return coded._code(X), index
