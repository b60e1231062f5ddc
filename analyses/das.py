"""Distributed alignment search: a subspace learnt so that swapping it swaps the answer."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..hooks import Model
from ..hooks.interior import Interior
from ..hooks.sweep import head_of
from ..hooks.trace import Trace, trace
from .aligned import Batch

LEARNING_RATE = 0.02


def learn_subspace(
    model: Model,
    interior: Interior,
    batches: Sequence[tuple[Batch, Int[Tensor, " _"]]],
    boundary: int,
    place: int,
    rank: int,
    *,
    steps: int = 100,
    seed: int = 0,
) -> Float[Tensor, "d_model rank"]:
    """An orthonormal basis whose swap, at one place of the residual stream, makes the donor's answer most likely.

    batches: pairs to learn from, and which rows of each; boundary: the residual stream between layer `boundary` - 1 and
    `boundary`; place: number of the batch's place. The loss is the cross-entropy of the donor's answer, by Adam over
    all of these pairs at once; the basis is kept orthonormal by a Cayley map. Source: Geiger et al. 2023 (2303.02536).
    """
    head = head_of(model)
    prepared = [_prepare(model, interior, batch, rows) for batch, rows in batches if len(rows)]
    d_model = prepared[0][0].residual[0].shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rotation = nn.utils.parametrizations.orthogonal(nn.Linear(d_model, rank, bias=False), orthogonal_map="cayley")
    rotation = rotation.to(model.device)

    def weight() -> Tensor:
        found: Any = rotation.weight  # computed from its parameters at each look
        return torch.as_tensor(found)

    adam = torch.optim.Adam(rotation.parameters(), lr=LEARNING_RATE)
    with torch.enable_grad():
        for _ in range(steps):
            loss = torch.zeros((), device=model.device)
            for base, source, batch, rows in prepared:
                own, other = batch.places[place], batch.donor_places[place]
                basis = weight().T.to(base.residual[boundary].device)
                hidden = base.residual[boundary].clone()
                at = list(own)
                change = source.residual[boundary][:, list(other)] - hidden[:, at]
                hidden[:, at] = hidden[:, at] + (change @ basis) @ basis.T
                for layer in range(boundary, len(interior.blocks)):
                    hidden = _out(interior.blocks[layer](hidden, **base.calls[layer]))
                answer = batch.answers[1][rows]
                log_p = head(hidden[:, -answer.shape[1] :].to(answer.device)).log_softmax(-1)
                loss = loss - log_p.gather(-1, answer[..., None]).sum() / len(rows)
            adam.zero_grad()
            gradients = torch.autograd.grad(loss, list(rotation.parameters()))
            for parameter, gradient in zip(rotation.parameters(), gradients, strict=True):
                parameter.grad = gradient
            adam.step()
    found: Tensor = torch.linalg.qr(weight().detach().T.double()).Q
    return found


def _out(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


@torch.no_grad()
def _prepare(model: Model, interior: Interior, batch: Batch, rows: Tensor) -> tuple[Trace, Trace, Batch, Tensor]:
    """Both plain runs of these rows, with the donor's answer forced after the recipient's."""
    answer = batch.answers[1][rows]
    own = torch.cat([batch.recipient[rows], answer[:, :-1]], dim=1)
    return trace(model, interior, own), trace(model, interior, batch.donor[rows]), batch, rows
