"""Multinomial logistic regression over many cells: for each, every fold, penalty and target in one batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .logistic import Coordinates, units
from .multinomial import solve
from .sweep_cells import Cells, Found, Target, own_log_p

# The largest gradient left, a sample, and the most steps (scikit-learn's default): the log-loss is then right to a few
# parts in 10,000, and a penalty too weak to be found in so many steps is too weak to be chosen.
TOL, STEPS = 3e-4, 100


def logistic_cells(cells: Cells, targets: Sequence[Target], fold: Any, probe: Any, progress: bool) -> Found:
    """Fit a LogisticProbe at every cell for every target, in float32 (the log-loss is right to about 1e-4 of
    itself)."""
    device = targets[0].codes.device
    folds, fold = int(fold.max()) + 1, torch.as_tensor(fold, device=device)
    found = Found.empty(len(targets), folds, cells.count, cells.n)
    work: Any = range(cells.count)
    if progress:
        from tqdm import tqdm

        work = tqdm(work, desc="logistic sweep", leave=False)
    for cell in work:
        X = torch.cat([block[:, 0] for _, block in cells.blocks(cell, cell + 1)])
        place = Coordinates(X, X.new_ones(len(X)), centre=True)
        task = Task(place(X).float(), X.shape[1], targets, fold, folds, probe.penalties)
        best, inner, start = task.choose()
        loss, hit = task.finish(best, start)
        found.loss[:, cell], found.hit[:, cell] = loss.T.cpu().numpy(), hit.T.cpu().numpy()
        found.inner[:, :, cell] = inner.T.cpu().numpy()
        found.penalty[:, :, cell] = np.asarray(probe.penalties)[best.T.cpu().numpy()]
    return found


class Task:
    """All targets at one cell: rows Z `[n, rank]`, labels `[n, target]`, and the fits of each training part."""

    def __init__(
        self, Z: Tensor, d: int, targets: Sequence[Target], fold: Tensor, folds: int, penalties: Sequence[float]
    ) -> None:
        self.Z = torch.cat([Z, Z.new_ones(len(Z), 1)], dim=1)
        self.d, self.classes = d, max(target.classes for target in targets)
        self.index = torch.stack([t.index for t in targets if t.index is not None], dim=1)
        self.fold, self.folds = fold, folds
        self.penalties = Z.new_tensor(penalties)

    def choose(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each outer fold and target the number of the penalty with the lowest inner log-loss `[fold, target]`, that
        loss, and coefficients to start from `[fold, rank + 1, class, target]`.

        The fit without folds a and b is an inner fit of both.
        """
        many, targets = len(self.penalties), self.index.shape[1]
        losses = self.Z.new_zeros(self.folds, many, targets)
        starts = self.Z.new_zeros(self.folds, self.Z.shape[1], self.classes, many, targets)
        for a in range(self.folds):
            for b in range(a):
                coef = self._fit((self.fold != a) & (self.fold != b), self.penalties[:, None].expand(-1, targets))
                for outer, out in ((a, b), (b, a)):
                    losses[outer] += self._score(coef, (self.fold != a) & (self.fold != b), self.fold == out)[0].sum(-1)
                    starts[outer] += coef / (self.folds - 1)
        losses /= (self.fold != torch.arange(self.folds, device=self.fold.device)[:, None]).sum(1)[:, None, None]
        best = losses.argmin(1)
        start = torch.gather(starts, 3, best[:, None, None, None].expand(*starts.shape[:3], 1, -1))[:, :, :, 0]
        return best, losses.gather(1, best[:, None])[:, 0], start

    def finish(self, best: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Held-out losses and hits `[n, target]` of the fits without each outer fold at its penalty."""
        loss, hit = self.Z.new_empty(self.index.shape), self.Z.new_empty(self.index.shape)
        for a in range(self.folds):
            out = self.fold == a
            coef = self._fit(~out, self.penalties[best[a]][None], start[a])
            losses, hits = self._score(coef, ~out, out)
            loss[out], hit[out] = losses[0].T, hits[0].T
        return loss, hit

    def _known(self, rows: Tensor) -> Tensor:
        """Which classes of each target there are among rows, `[target, class]`."""
        return torch.nn.functional.one_hot(self.index[rows], self.classes).sum(0) > 0

    def _fit(self, rows: Tensor, penalties: Tensor, start: Tensor | None = None) -> Tensor:
        """Coefficients `[rank + 1, class, p, target]` for penalties `[p, target]`."""
        Z, many = self.Z[rows], penalties.numel()
        one = units(Z[:, :-1], Z.new_ones(len(Z), 1), self.d)
        penalty = (penalties.flatten() * one).expand(Z.shape[1] - 1, -1)
        coef = solve(
            Z,
            self.index[rows][:, None].expand(-1, *penalties.shape).flatten(1),
            Z.new_ones(1, 1).expand(len(Z), many),
            torch.cat([penalty, penalty.new_zeros(1, many)]),
            self.classes,
            allowed=self._known(rows).T[:, None].expand(-1, *penalties.shape).flatten(1),
            start=None if start is None else start.flatten(2),
            tol=TOL,
            max_iter=STEPS,
        )
        found: Tensor = coef.unflatten(-1, penalties.shape)
        return found

    def _score(self, coef: Tensor, fitted: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Log-losses and hits `[p, target, rows]` of the fit to the rows `fitted` on other rows."""
        losses, hits = [], []
        for t, known in enumerate(self._known(fitted)):
            scores = torch.einsum("nd,dkp->pnk", self.Z[rows], coef[..., t])
            index = self.index[rows, t]
            losses.append(-own_log_p(scores, index, known, float(fitted.sum())))
            hits.append((scores.masked_fill(~known, -torch.inf).argmax(-1) == index).to(scores))
        return torch.stack(losses, dim=1), torch.stack(hits, dim=1)
