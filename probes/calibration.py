"""Calibration: is a probe that says 0.8 right in 8 of 10 rows?"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .base import like
from .estimate import RESAMPLES, Estimate, as_float, estimate, percentiles, resampled_sums
from .information import columns_of


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Confidence and accuracy of the most likely class, by bins of confidence, and two proper scores.

    brier: squared distance between probabilities and the indicator of the label, per row, 0 to 2; log_loss: in nats,
    per row; count, confidence, accuracy: `[bin]`, rows in the bin, their mean confidence and share right (NaN in an
    empty bin)
    """

    brier: Estimate
    log_loss: Estimate
    count: Any
    confidence: Any
    accuracy: Any
    _gap: Tensor  # [n, bin], confidence - hit of each row, in the column of its bin

    @property
    def ece(self) -> float:
        """Expected calibration error: the gap between confidence and accuracy of a bin, averaged over rows."""
        return float(self._gap.sum(0).abs().sum() / len(self._gap))

    def interval(self, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
        """Percentile interval of the expected calibration error over groups; NaN with fewer than two groups.

        The error is a sum of absolute values: with few rows in a bin it is above 0 without any miscalibration, in the
        resamples a little more. Compare it with that of other probes on the same rows.
        """
        values = torch.cat([self._gap, torch.ones_like(self._gap[:, :1])], dim=1)
        sums = resampled_sums(values, self.brier.groups, resamples, seed)
        return percentiles(sums[:, :-1].abs().sum(1) / sums[:, -1], confidence)

    def frame(self) -> Any:
        """The reliability table: a row a bin, with its bounds, rows, mean confidence and share right."""
        import pandas as pd

        bins = len(self.count)
        columns = {"count": self.count, "confidence": self.confidence, "accuracy": self.accuracy}
        bounds = {"above": [b / bins for b in range(bins)], "up_to": [(b + 1) / bins for b in range(bins)]}
        return pd.DataFrame({**bounds, **{name: [float(v) for v in values] for name, values in columns.items()}})

    def __repr__(self) -> str:
        low, high = self.interval()
        return (
            f"<calibration: expected error {self.ece:.3f} [{low:.3f}, {high:.3f}], Brier score {self.brier.mean:.3f}, "
            f"log-loss {self.log_loss.mean:.3f} nats, {len(self._gap)} rows>"
        )


def calibration(probabilities: Any, y: Any, *, classes: Any = None, bins: int = 15, groups: Any = None) -> Calibration:
    """Compare the confidence of predictions with how often they are right.

    probabilities: `[n, class]`, rows sum to 1, of rows that the probe was not fitted to; y: labels `[n]`; classes: the
        label of each column, 0, 1, ... without it; bins: of equal width, (b/bins, (b + 1)/bins]; groups: `[n]`, for
        intervals

    The expected calibration error is sum_b n_b / n |accuracy_b - confidence_b| over bins of the probability of the most
    likely class: Guo et al. 2017 (arXiv 1706.04599), equation 3. Brier score: Brier 1950, sum over classes. Raises
    ValueError for probabilities that do not sum to 1 and for labels that no column has.

    >>> found = calibration([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]], [0, 0, 1, 1])
    >>> round(found.ece, 3)  # 3/4 of |2/3 - 0.9| and 1/4 of |1 - 0.8|
    0.225
    """
    p = as_float(probabilities)
    if p.ndim != 2 or not len(p) or not ((p >= 0).all() and torch.allclose(p.sum(1), p.new_tensor(1.0), atol=1e-4)):
        raise ValueError(
            f"expected probabilities [n, class] whose rows sum to 1, got shape {tuple(p.shape)}"
            + (
                f" and a row that sums to {float(p[int((p.sum(1) - 1).abs().argmax())].sum()):.3g}"
                if p.ndim == 2 and len(p)
                else ""
            )
        )
    if bins < 1:
        raise ValueError(f"expected 1 bin at least, got {bins}")
    index = columns_of(y, range(p.shape[1]) if classes is None else classes).to(p.device)
    if len(index) != len(p):
        raise ValueError(f"expected one label for each of {len(p)} rows, got {len(index)}")
    truth = torch.zeros_like(p).scatter_(1, index[:, None], 1.0)
    confidence, top = p.max(1)
    hit = (top == index).to(p)
    bin_ = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    within = torch.zeros(len(p), bins, dtype=p.dtype, device=p.device).scatter_(1, bin_[:, None], 1.0)
    count = within.sum(0)
    return Calibration(
        brier=estimate(((p - truth) ** 2).sum(1), probabilities, groups, "Brier score"),
        log_loss=estimate(-p.gather(1, index[:, None])[:, 0].log(), probabilities, groups, "nats"),
        count=like(count.long(), probabilities),
        confidence=like(confidence @ within / count, probabilities),
        accuracy=like(hit @ within / count, probabilities),
        _gap=(confidence - hit)[:, None] * within,
    )
