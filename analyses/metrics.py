"""What a patched run says: log probabilities of both answers, a divergence, the user's own figure, and the outcome."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..core import InputError, check_name
from ..hooks.sweep import Read
from .aligned import Batch

METRICS = ("log-odds", "logit-difference", "log-probability", "kl")
OUTCOMES = ("recipient's", "donor's", "other")
# (logits [row, vocab] where the answer begins, both answers' tokens [row, token]) -> one figure a row
UserMetric = Callable[[Tensor, tuple[Tensor, Tensor]], Tensor]
Metric = str | UserMetric


@dataclass(frozen=True)
class Forcing:
    """A run with an answer forced after it. scored: which answers it scores; keep: how many last positions are read;
    last: whether all is scored after it."""

    ids: Int[Tensor, "pair pos"]
    scored: tuple[int, ...]
    keep: int
    last: bool


def forcings(batch: Batch, base: Int[Tensor, "pair pos"]) -> Iterator[Forcing]:
    """The continuations that score both answers: one run where both have one token, else one for each answer."""
    if all(answer.shape[1] == 1 for answer in batch.answers):
        yield Forcing(base, (0, 1), 1, True)
        return
    for side, answer in enumerate(batch.answers):
        yield Forcing(torch.cat([base, answer[:, :-1]], dim=1), (side,), answer.shape[1], side == 1)


def check_metric(metric: Metric) -> str:
    """The name of a metric, or an error."""
    if callable(metric):
        return str(getattr(metric, "__name__", type(metric).__name__))
    return check_name("metric", metric, METRICS)


class Meter:
    """Gathers what cells of a batch say: `values` and `outcomes`, both `[cell, pair]`.

    metric: "log-odds", log p(donor's answer) - log p(recipient's), each over all of its tokens; "logit-difference", the
        same of the first tokens' logits; "log-probability" of the donor's answer; "kl", the divergence (nats) of the
        first token's distribution from that of the plain run; or a function (see `UserMetric`)
    plain: float32 logits `[pair, vocab]` of the plain run where the answer begins
    """

    def __init__(self, metric: Metric, batch: Batch, cells: int, plain: Float[Tensor, "pair vocab"]) -> None:
        self.metric = metric
        self.batch = batch
        self.plain = plain.log_softmax(-1)
        pairs = len(batch.index)
        self.values = np.zeros((cells, pairs))
        self.done = np.zeros((cells, pairs), dtype=bool)
        self._match = np.ones((2, cells, pairs), dtype=bool)
        if metric == "logit-difference" and (batch.answers[0][:, 0] == batch.answers[1][:, 0]).any():
            raise InputError(
                "metric 'logit-difference' reads first tokens, and some pairs' are the same: use 'log-odds'"
            )

    @property
    def outcomes(self) -> NDArray[np.int8]:
        """Which of OUTCOMES the greedy answer is."""
        return np.where(self._match[1], 1, np.where(self._match[0], 0, 2)).astype(np.int8)

    def reader(self, forcing: Forcing) -> Read:
        """What a sweep tells the logits of a forcing to."""

        def read(cells: Tensor, runs: Tensor, logits: Tensor) -> None:
            at = (cells.cpu().numpy(), runs.cpu().numpy())
            log_p = logits.log_softmax(-1)
            greedy = logits.argmax(-1)
            for side in forcing.scored:
                answer = self.batch.answers[side][runs]
                self._match[side][at] = (greedy == answer).all(1).cpu().numpy()
                if self.metric == "log-odds" or (self.metric == "log-probability" and side):
                    chosen = log_p.gather(-1, answer[..., None])[..., 0].sum(-1)
                    self.values[at] += (1 if side else -1) * chosen.double().cpu().numpy()
            if 0 in forcing.scored:
                self._first(at, runs, logits[:, 0], log_p[:, 0])
            self.done[at] = forcing.last

        return read

    def _first(self, at: tuple[Any, Any], runs: Tensor, logits: Tensor, log_p: Tensor) -> None:
        """Metrics of the first position."""
        if callable(self.metric):
            self.values[at] = self._own(logits, runs)
        elif self.metric == "logit-difference":
            first = [logits.gather(1, answer[runs, :1])[:, 0] for answer in self.batch.answers]
            self.values[at] = (first[1] - first[0]).double().cpu().numpy()
        elif self.metric == "kl":
            plain = self.plain[runs]
            change = torch.where(plain > -torch.inf, plain.exp() * (plain - log_p), 0.0)
            self.values[at] = change.sum(-1).double().cpu().numpy()

    def _own(self, logits: Tensor, runs: Tensor) -> NDArray[Any]:
        assert callable(self.metric)
        found = self.metric(logits, (self.batch.answers[0][runs], self.batch.answers[1][runs]))
        name = check_metric(self.metric)
        shape = tuple(getattr(found, "shape", ()))
        if shape != (len(runs),):
            raise InputError(
                f"metric {name!r}: expected one figure a row, shape ({len(runs)},), got {shape or type(found).__name__}"
                ": do not average over rows"
            )
        values = torch.as_tensor(found).detach().double().cpu().numpy()
        if not np.isfinite(values).all():
            raise InputError(
                f"metric {name!r} gave {values[~np.isfinite(values)][0]} for {(~np.isfinite(values)).sum()} of "
                f"{len(values)} rows: expected finite figures; clamp what it divides by or takes the logarithm of"
            )
        return values
