"""What a patched run says: log probabilities of both answers, a divergence, the user's own figure, and the outcome."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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


def forcings(batch: Batch, direction: str) -> Iterator[tuple[Forcing, Forcing]]:
    """The continuations that score both answers, of the runs that are written and of those that values are taken from:
    one where both answers have one token, else one for each answer."""
    base, source = batch.texts(direction)
    return zip(_forced(batch, base), _forced(batch, source), strict=True)


def _forced(batch: Batch, ids: Int[Tensor, "pair pos"]) -> Iterator[Forcing]:
    if all(answer.shape[1] == 1 for answer in batch.answers):
        yield Forcing(ids, (0, 1), 1, True)
        return
    for side, answer in enumerate(batch.answers):
        yield Forcing(torch.cat([ids, answer[:, :-1]], dim=1), (side,), answer.shape[1], side == 1)


def check_metric(metric: Metric) -> str:
    """The name of a metric, or an error."""
    if callable(metric):
        return str(getattr(metric, "__name__", type(metric).__name__))
    return check_name("metric", metric, METRICS)


def reads(metric: Metric, forcing: Forcing) -> bool:
    """Whether a forcing adds anything to a metric."""
    if metric == "log-odds":
        return True
    return (1 if metric == "log-probability" else 0) in forcing.scored


def term(
    metric: Metric,
    forcing: Forcing,
    answers: tuple[Int[Tensor, "row token"], Int[Tensor, "row donor_token"]],
    logits: Float[Tensor, "row keep vocab"],
    plain: Float[Tensor, "row vocab"] | None = None,
) -> Float[Tensor, " row"]:
    """What logits of a forcing add to a metric that reads it, a figure a row; differentiable, as far as the metric is.

    answers: of these rows; plain: the plain run's log probabilities, which "kl" needs
    """
    if callable(metric):
        return _own(metric, logits[:, 0], answers)
    if metric == "logit-difference":
        first = [logits[:, 0].gather(1, answer[:, :1])[:, 0] for answer in answers]
        return first[1] - first[0]
    log_p = logits.log_softmax(-1)
    if metric == "kl":
        assert plain is not None
        return torch.where(plain > -torch.inf, plain.exp() * (plain - log_p[:, 0]), 0.0).sum(-1)
    signs = {"log-odds": (-1, 1), "log-probability": (0, 1)}[str(metric)]
    scored = [side for side in forcing.scored if signs[side]]
    chosen = [signs[side] * log_p.gather(-1, answers[side][..., None])[..., 0].sum(-1).double() for side in scored]
    return torch.stack(chosen).sum(0)


def _own(metric: UserMetric, logits: Tensor, answers: tuple[Tensor, Tensor]) -> Tensor:
    found = metric(logits, answers)
    name = check_metric(metric)
    shape = tuple(getattr(found, "shape", ()))
    if shape != (len(logits),):
        raise InputError(
            f"metric {name!r}: expected one figure a row, shape ({len(logits)},), got {shape or type(found).__name__}"
            ": do not average over rows"
        )
    values = torch.as_tensor(found)
    wrong = ~values.detach().isfinite()
    if wrong.any():
        raise InputError(
            f"metric {name!r} gave {values[wrong][0].item()} for {int(wrong.sum())} of {len(values)} rows: expected "
            "finite figures; clamp what it divides by or takes the logarithm of"
        )
    return values


class Meter:
    """Gathers what cells of a batch say: `values` and `outcomes`, both `[cell, pair]`; last come the two plain runs,
    the one that is written into and the one that values are taken from.

    metric: "log-odds", log p(donor's answer) - log p(recipient's), each over all of its tokens; "logit-difference", the
        same of the first tokens' logits; "log-probability" of the donor's answer; "kl", the divergence (nats) of the
        first token's distribution from that of the plain run; or a function (see `UserMetric`)
    cells: how many there are besides the plain runs; forwards: the work so far, in plain forward passes
    """

    def __init__(self, metric: Metric, batch: Batch, cells: int) -> None:
        self.metric, self.batch, self.cells = metric, batch, cells
        self.forwards = 0.0
        shape = (cells + 2, len(batch.index))
        self.done = np.zeros(shape, dtype=bool)
        # By forcing, and set, not added up: rows are read again after memory ran out.
        self._terms = np.zeros((2, *shape))
        self._match = np.ones((2, *shape), dtype=bool)
        self._plain: Tensor | None = None  # log probabilities of the plain run where the answer begins
        if metric == "logit-difference" and (batch.answers[0][:, 0] == batch.answers[1][:, 0]).any():
            raise InputError(
                "metric 'logit-difference' reads first tokens, and some pairs' are the same: use 'log-odds'"
            )

    @property
    def values(self) -> NDArray[np.float64]:
        """The metric."""
        return np.asarray(self._terms.sum(0))

    @property
    def outcomes(self) -> NDArray[np.int8]:
        """Which of OUTCOMES the greedy answer is."""
        return np.where(self._match[1], 1, np.where(self._match[0], 0, 2)).astype(np.int8)

    def reader(
        self, forcing: Forcing, base: Float[Tensor, "pair keep vocab"], source: Float[Tensor, "pair keep vocab"]
    ) -> Read:
        """What a sweep tells the logits of a forcing to; those of the two plain runs are given."""
        plain = self._plain = base[:, 0].log_softmax(-1) if self._plain is None else self._plain

        def read(cells: Tensor, runs: Tensor, logits: Tensor) -> None:
            at = (cells.cpu().numpy(), runs.cpu().numpy())
            greedy = logits.argmax(-1)
            answers = (self.batch.answers[0][runs], self.batch.answers[1][runs])
            for side in forcing.scored:
                self._match[side][at] = (greedy == answers[side]).all(1).cpu().numpy()
            if reads(self.metric, forcing):
                found = term(self.metric, forcing, answers, logits, plain[runs])
                self._terms[forcing.scored[0]][at] = found.detach().double().cpu().numpy()
            self.done[at] = forcing.last

        pairs = torch.arange(len(base), device=base.device)
        for cell, logits in enumerate((base, source), self.cells):
            read(torch.full_like(pairs, cell), pairs, logits)
        self.forwards += 2 * len(pairs)
        return read
