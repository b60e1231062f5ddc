"""Many multinomial logistic regressions over the same features at once: one matrix product serves all of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

HISTORY = 6
ABSENT = -1e6  # the score of a class that a problem does not have
ELEMENTS = {"cpu": 2**19, "cuda": 2**27}  # scores in one array: what a processor's cache holds, or a GPU's memory


@dataclass
class Batch:
    """Problems under way; the last axis of every tensor is the problem.

    sample: weights `[n, b]`; index: labels `[n, b]`; penalty `[d, 1, b]`; free `[d, 1, b]`, 0 where one is held
        at 0; curvature `[d, 1, b]`, of the loss at the start; coef `[d, class, b]`, scores `[n, class, b]`
    """

    sample: Tensor
    index: Tensor
    penalty: Tensor
    free: Tensor
    curvature: Tensor
    coef: Tensor
    scores: Tensor

    def __getitem__(self, kept: Tensor) -> "Batch":
        return Batch(**{name: value[..., kept] for name, value in vars(self).items()})

    def loss(self, scores: Tensor, coef: Tensor) -> tuple[Tensor, Tensor]:
        """The penalised sum of log-losses `[b]`, and the probabilities."""
        top = scores.amax(1, keepdim=True)
        chance = (scores - top).exp_()
        total = chance.sum(1, keepdim=True)
        chance /= total
        log_loss = (total.log_() + top - scores.gather(1, self.index[:, None]))[:, 0]
        return (self.sample * log_loss).sum(0) + 0.5 * (self.penalty * coef**2).sum((0, 1)), chance

    def gradient(self, X: Tensor, chance: Tensor, coef: Tensor) -> Tensor:
        """The gradient `[d, class, b]`, 0 where a coefficient is held at 0; the probabilities are used up."""
        residual = chance.mul_(self.sample[:, None])
        residual.scatter_add_(1, self.index[:, None], -self.sample[:, None])
        slope = (X.T @ residual.flatten(1)).reshape(coef.shape)
        return slope.addcmul_(self.penalty, coef).mul_(self.free)


def solve(
    X: Tensor,
    index: Tensor,
    sample: Tensor,
    penalty: Tensor,
    classes: int,
    *,
    allowed: Tensor | None = None,
    offset: Tensor | None = None,
    start: Tensor | None = None,
    tol: float = 1e-5,
    max_iter: int = 500,
) -> Tensor:
    """Minimise sum_i w_i log-loss_i + penalty/2 |coef|^2 for each of b problems: coefficients `[d, class, b]`.

    X: `[n, d]`, best in uncorrelated coordinates (the preconditioner is diagonal), with a column of ones for an
        intercept
    index: labels `[n]` or `[n, b]`; sample: weights `[n, b]`; penalty: `[d, b]`, may be infinite; classes: their
        number;
    allowed: `[class, b]`, False for a class that a problem does not have; offset: `[n, class]`, added to the scores of
    every problem; start: coefficients to begin with
    tol: the largest gradient left, as a share of the problem's total weight (X in units of about 1)

    L-BFGS (Nocedal & Wright, algorithm 7.4) with steps that are halved until the loss falls, run for all problems side
    by side; those that are done leave the batch.
    """
    problems = sample.shape[1]
    index = index[:, None].expand(len(X), problems) if index.ndim == 1 else index
    absent = X.new_zeros(classes, problems) if allowed is None else torch.where(allowed, 0.0, ABSENT).to(X)
    coef = X.new_zeros(X.shape[1], classes, problems) if start is None else start.clone()
    size = max(1, ELEMENTS.get(X.device.type, 2**24) // (len(X) * classes))
    for first in range(0, problems, size):
        part = slice(first, first + size)
        scores = (X @ coef[..., part].flatten(1)).unflatten(1, (classes, -1)) + absent[:, part]
        batch = Batch(
            sample=sample[:, part],
            index=index[:, part],
            penalty=torch.where(penalty.isinf(), 0.0, penalty)[:, None, part],
            free=(~penalty.isinf())[:, None, part].to(X),
            curvature=((X**2).T @ sample[:, part])[:, None] / classes + penalty[:, None, part],
            coef=coef[..., part],
            scores=scores if offset is None else scores + offset[..., None],
        )
        coef[..., part] = _descend(X, batch, tol, max_iter)
    return coef


def _descend(X: Tensor, batch: Batch, tol: float, max_iter: int) -> Tensor:
    """The coefficients of a batch when every problem is done."""
    done = batch.coef.clone()
    number = torch.arange(done.shape[-1], device=X.device)
    goal = tol * batch.sample.sum(0)
    loss, chance = batch.loss(batch.scores, batch.coef)
    gradient = batch.gradient(X, chance, batch.coef)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []  # change of the coefficients, of the gradient, 1 / their product
    for _ in range(max_iter):
        active = gradient.abs().amax((0, 1)) > goal
        if not active.any():
            break
        if active.sum() < 0.8 * len(active):  # the others are done
            done[..., number] = batch.coef
            batch, number, goal = batch[active], number[active], goal[active]
            loss, gradient = loss[active], gradient[..., active]
            steps = [(s[..., active], y[..., active], rho[active]) for s, y, rho in steps]
        direction = _direction(gradient, batch.curvature, steps)
        slope = (direction * gradient).sum((0, 1))
        uphill = slope >= 0  # rounding: begin again from the gradient
        direction = torch.where(uphill, -gradient / batch.curvature, direction)
        slope = torch.where(uphill, (direction * gradient).sum((0, 1)), slope)
        length, new_loss, chance = _search(X, batch, direction, slope, loss)
        stuck = length == 0
        goal = torch.where(stuck, torch.inf, goal)  # no step lowers the loss by more than rounding
        change = length * direction
        new = batch.gradient(X, chance, batch.coef)
        steps = [*steps[-HISTORY + 1 :], _step(change, new - gradient)]
        loss, gradient = new_loss, new
    done[..., number] = batch.coef
    return done


def _step(change: Tensor, turned: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A pair of L-BFGS and the inverse of its product; 0, so that it counts for nothing, without curvature."""
    product = (change * turned).sum((0, 1))
    useful = product > 1e-10 * (turned**2).sum((0, 1)).sqrt() * (change**2).sum((0, 1)).sqrt()
    return change, turned, torch.where(useful, 1 / product, 0.0)


def _direction(gradient: Tensor, curvature: Tensor, steps: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Minus the gradient, times the inverse Hessian as L-BFGS knows it."""
    q = gradient.clone()
    weights = []
    for change, turned, rho in reversed(steps):
        weight = rho * (change * q).sum((0, 1))
        q -= weight * turned
        weights.append(weight)
    q /= curvature
    if steps:
        _, turned, rho = steps[-1]
        scale = 1 / (rho * (turned**2 / curvature).sum((0, 1)))
        q *= torch.where(rho > 0, scale, 1.0)
    for (change, turned, rho), weight in zip(steps, reversed(weights), strict=True):
        q += (weight - rho * (turned * q).sum((0, 1))) * change
    return -q


def _search(X: Tensor, batch: Batch, direction: Tensor, slope: Tensor, loss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Step lengths `[b]` that lower the loss (Armijo), the loss and the probabilities there; the batch has moved."""
    along = (X @ direction.flatten(1)).reshape(batch.scores.shape)
    slack = 10 * torch.finfo(loss.dtype).eps * loss.abs()
    length = torch.ones_like(loss)
    scores, coef = batch.scores + along, batch.coef + direction
    new_loss, chance = batch.loss(scores, coef)
    for halving in range(30):
        short = new_loss > loss + 1e-4 * length * slope + slack
        if not short.any():
            break
        length[short] = 0.0 if halving == 29 else length[short] / 2
        few = batch[short]
        scores[..., short] = few.scores + length[short] * along[..., short]
        coef[..., short] = few.coef + length[short] * direction[..., short]
        new_loss[short], chance[..., short] = few.loss(scores[..., short], coef[..., short])
    batch.scores, batch.coef = scores, coef
    return length, new_loss, chance
