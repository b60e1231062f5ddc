"""The waves of a model of a + b mod p: exact splits of its logits, neurons and weights by frequency.

Key frequencies, ablations and shares are those of Nanda et al. (2023), arXiv 2301.05217, sections 4 and 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Waves:
    """Logits over all pairs, split exactly: a part for each frequency of the sum a + b, and what is no function of it.

    logits: `[period * period, period]`, centred over the answers (which softmax cannot see)
    parts: `[frequency, sum, answer]`, by frequency 0 (the mean over pairs) to period // 2
    """

    logits: Tensor
    parts: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> "Waves":
        """Split logits `[period * period, period]` of all pairs, the second number running fastest."""
        period = logits.shape[1]
        logits = logits.double() - logits.double().mean(1, keepdim=True)
        a, total = torch.arange(period)[:, None], torch.arange(period)
        by_sum = logits.view(period, period, period)[a, (total - a) % period].mean(0)
        spectrum = torch.fft.rfft(by_sum, dim=0)
        alone = torch.eye(len(spectrum), dtype=spectrum.dtype)[:, :, None] * spectrum
        return cls(logits, torch.fft.irfft(alone, n=period, dim=1))

    @property
    def period(self) -> int:
        """The modulus."""
        return self.logits.shape[1]

    @property
    def sums(self) -> Tensor:
        """a + b of each pair, `[period * period]`."""
        return (torch.arange(self.period)[:, None] + torch.arange(self.period)).flatten() % self.period

    @property
    def shares(self) -> Tensor:
        """The share of each frequency in the variance of the logits over pairs and answers, `[1 + period // 2]`."""
        return self.parts.square().sum((1, 2)) * self.period / self.logits.square().sum()

    @property
    def keys(self) -> list[int]:
        """The frequencies whose share is more than an equal one, 1 / (period // 2), the largest first."""
        found = [int(k) for k in self.shares.argsort(descending=True) if k and self.shares[k] > 1 / (self.period // 2)]
        return found

    def only(self, frequencies: Sequence[int]) -> Tensor:
        """Logits with these frequencies and the mean over pairs alone."""
        return self.parts[[0, *frequencies]].sum(0)[self.sums]

    def without(self, frequencies: Sequence[int]) -> Tensor:
        """Logits less these frequencies."""
        return self.logits - self.parts[list(frequencies)].sum(0)[self.sums]

    def cosines(self, frequencies: Sequence[int]) -> float:
        """The share of the logits' variance that `sum of alpha_k cos(w_k (a + b - c))` explains, a number per k."""
        shift = (torch.arange(self.period)[:, None] - torch.arange(self.period)) * (2 * torch.pi / self.period)
        waves = torch.stack([torch.cos(k * shift) for k in frequencies]).double()
        alphas = (waves * self.parts[list(frequencies)]).sum((1, 2)) / waves.square().sum((1, 2))
        explained = (alphas.square() * waves.square().sum((1, 2))).sum() * self.period
        return float(explained / self.logits.square().sum())


def neuron_waves(activations: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """The frequency that explains most of each neuron's variance over pairs, and that share: `[neuron]` each.

    activations: `[period * period, neuron]`. A frequency explains the waves of a, of b, and their products.
    """
    power = torch.fft.fft2(activations.double().view(period, period, -1), dim=(0, 1)).abs().square()
    floor = 1e-20 * power.sum((0, 1)).clamp_min(1e-200)  # rounding alone: of a neuron that never changes
    power[0, 0] = 0
    spread, shares = power.sum((0, 1)).clamp_min(floor), []
    for k in range(1, period // 2 + 1):
        rows = torch.tensor([0, k, -k])
        shares.append(power[rows[:, None], rows].sum((0, 1)) / spread)
    best, where = torch.stack(shares).max(0)
    return where + 1, best


def row_waves(weights: Tensor) -> Tensor:
    """The share of each frequency, 1 to period // 2, in the variance of weights `[period, width]` along the rows."""
    power = torch.fft.rfft(weights.double(), dim=0).abs().square().sum(1)[1:]
    shares: Tensor = power / power.sum()
    return shares
