"""A small multilayer perceptron: what a non-linear reader can get."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from sklearn.utils import check_random_state
from torch import Tensor

from .base import TemperedProbe
from .folds import inner_folds
from .ridge import PENALTIES, held_out_predictions
from .scale import best_scale

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the perceptron's scores beside a ridge probe's
EVERY = 10  # steps between two looks at the held-out rows


class MLPProbe(TemperedProbe):
    """Small multilayer perceptron beside a ridge probe: the non-linear ceiling that linear probes are read against.

    The scores are a mixture of both, with the share that predicts held-out rows best: alone a perceptron falls behind a
    linear probe where the signal is linear and dimensions are many, and would be no ceiling. It is a small one: of a
    product of two among a hundred noisy features it finds nothing in 300 rows.

    width, depth: of the hidden layers (tanh), 1 and more; depth 0 is multinomial logistic regression
    penalty: weight of half the summed squares of all weights beside the mean log-loss, features standardised
    folds: inner folds, on which the number of steps and the scale of the scores are chosen (lowest held-out log-loss).
        Identical rows are kept together, and so are rows in a group
    steps, rate: of Adam over all rows; steps are the most that are tried
    random_state: of the first weights, which are the same for every fold

    Reproducible bit for bit on one device. After `fit`: `classes_`, `n_iter_` (steps), `share_` (of the perceptron),
    `scale_`, `held_out_log_loss_` (nats), `layers_`, pairs of weights `[in, out]` and biases `[out]` as tensors, and
    `linear_`, such a pair.

    >>> X = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(5, 1)
    >>> X = X + 0.1 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    >>> xor = torch.tensor([0, 1, 1, 0] * 5)
    >>> MLPProbe().fit(X, xor).score(X, xor)
    1.0
    """

    def __init__(
        self,
        width: Any = 32,
        depth: Any = 1,
        penalty: Any = 1e-2,
        folds: Any = 3,
        steps: Any = 100,
        rate: Any = 0.02,
        random_state: Any = 0,
    ) -> None:
        self.width = width
        self.depth = depth
        self.penalty = penalty
        self.folds = folds
        self.steps = steps
        self.rate = rate
        self.random_state = random_state

    def _fit(self, X: Tensor, index: Tensor, weights: Tensor, groups: Tensor | None) -> dict[str, Any]:
        for name, least in (("width", 1), ("depth", 0), ("steps", 1)):
            value = getattr(self, name)
            if value != int(value) or value < least:
                raise ValueError(f"expected a whole {name} of {least} or more, got {value!r}")
        mean = weights @ X / weights.sum()
        power = weights @ (X - mean) ** 2 / weights.sum()
        varies = power > 1e-20 * (power + mean**2)
        spread = torch.where(varies, power, 1.0).sqrt()
        Z = torch.where(varies, (X - mean) / spread, 0.0)
        first = self._first(Z)
        fold = inner_folds(X, index, self.folds, groups)
        held_out = self._held_out(first, Z, index, weights, fold)
        scales, losses = best_scale(held_out, index, weights)
        best = int(losses.argmin())
        *_, layers = self._train(first, Z, index, weights, self._looks()[best])
        layers[0] = layers[0] * (varies / spread)[:, None]  # of features as they come
        layers[1] = layers[1] - mean @ layers[0]
        mixed, linear = self._with_linear(X, index, weights, fold, scales[best] * held_out[best])
        layers[-2:] = [part * scales[best] * mixed["scale_"] * mixed["share_"] for part in layers[-2:]]
        pairs = list(zip(layers[::2], layers[1::2], strict=True))
        return {**mixed, "n_iter_": self._looks()[best], "layers_": pairs, "linear_": linear}

    def _with_linear(
        self, X: Tensor, index: Tensor, weights: Tensor, fold: Tensor, scores: Tensor
    ) -> tuple[dict[str, float], tuple[Tensor, Tensor]]:
        """The mixture of a perceptron's held-out scores `[n, class]` and a ridge probe's with the lowest held-out
        log-loss, and the ridge probe's part `[d, class]`, `[class]`."""
        targets = torch.eye(len(self.classes_), dtype=X.dtype, device=X.device)[index]
        factors, ridge = held_out_predictions(X, targets, weights, X.new_tensor(PENALTIES), fold)
        scales, losses = best_scale(ridge, index, weights)
        best = int(losses.argmin())
        shares = X.new_tensor(SHARES)[:, None, None]
        mixtures, losses = best_scale(shares * scores + (1 - shares) * scales[best] * ridge[best], index, weights)
        chosen = int(losses.argmin())
        coef, intercept = factors.solve(targets, X.new_tensor(PENALTIES[best]))
        size = scales[best] * mixtures[chosen] * (1 - SHARES[chosen])
        found = {
            "share_": SHARES[chosen],
            "scale_": float(mixtures[chosen]),
            "held_out_log_loss_": float(losses[chosen]),
        }
        return found, (size * coef.T, size * intercept)

    def _scores(self, X: Tensor) -> Tensor:
        weight, bias = (part.to(X) for part in self.linear_)
        scores: Tensor = _forward([part.to(X) for layer in self.layers_ for part in layer], X) + X @ weight + bias
        return scores

    @property
    def subspace_(self) -> Any:
        """A perceptron reads no linear subspace."""
        raise AttributeError("an MLPProbe reads no linear subspace: use a linear probe")

    def _looks(self) -> list[int]:
        """The numbers of steps that are tried."""
        return [*range(min(EVERY, self.steps), self.steps, EVERY), self.steps]

    def _first(self, Z: Tensor) -> list[Tensor]:
        """Weights `[in, out]` and biases `[out]` to begin with, drawn on the host: alike on every device."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        first = []
        for size, following in pairwise([Z.shape[1], *[self.width] * self.depth, len(self.classes_)]):
            weight = torch.randn(size, following, generator=generator, dtype=torch.float64) / math.sqrt(size)
            first += [weight.to(Z), Z.new_zeros(following)]
        return first

    def _held_out(self, first: list[Tensor], Z: Tensor, index: Tensor, weights: Tensor, fold: Tensor) -> Tensor:
        """Scores `[look, n, class]` of every row by the fit without its fold."""
        scores = Z.new_zeros(len(self._looks()), len(Z), len(self.classes_))
        for f in range(int(fold.max()) + 1):
            out = fold == f
            for look, layers in enumerate(self._train(first, Z[~out], index[~out], weights[~out], self.steps)):
                scores[look, out] = _forward(layers, Z[out])
        return scores

    def _train(
        self, first: list[Tensor], Z: Tensor, index: Tensor, weights: Tensor, steps: int
    ) -> Iterator[list[Tensor]]:
        """The layers after each number of steps that is tried: Adam (Kingma and Ba 2015) over all rows."""
        share = weights / weights.sum()
        target = torch.eye(first[-1].shape[-1], dtype=Z.dtype, device=Z.device)[index]
        layers = [part.clone() for part in first]
        moments = [(torch.zeros_like(part), torch.zeros_like(part)) for part in layers]
        looks = set(self._looks())
        for step in range(1, steps + 1):
            slopes = self._slopes(layers, Z, target, share)
            for part, slope, (mean, square) in zip(layers, slopes, moments, strict=True):
                mean.lerp_(slope, 0.1)
                square.lerp_(slope**2, 0.01)
                part -= self.rate * mean / (1 - 0.9**step) / ((square / (1 - 0.99**step)).sqrt() + 1e-8)
            if step in looks:
                yield [part.clone() for part in layers]

    def _slopes(self, layers: list[Tensor], Z: Tensor, target: Tensor, share: Tensor) -> list[Tensor]:
        """The gradient of the penalised mean log-loss, by hand: this needs no autograd, which a caller may have off."""
        inputs = [Z]
        for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
            inputs.append(torch.addmm(bias, inputs[-1], weight).tanh())
        chance = torch.softmax(torch.addmm(layers[-1], inputs[-1], layers[-2]), dim=1)
        error = (chance - target) * share[:, None]
        slopes: list[Tensor] = []
        for weight, values in zip(layers[-2::-2], reversed(inputs), strict=True):
            slopes = [torch.addmm(weight, values.T, error, beta=self.penalty), error.sum(0), *slopes]
            if values is not Z:
                error = (error @ weight.T) * (1 - values**2)
        return slopes


def _forward(layers: list[Tensor], X: Tensor) -> Tensor:
    """Scores `[n, class]` of features `[n, d]`."""
    for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        X = (X @ weight + bias).tanh()
    return X @ layers[-2] + layers[-1]
