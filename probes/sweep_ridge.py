"""The ridge family over many cells, from the sufficient statistics of every fold: one pass to fit, one to score."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .sweep_cells import Cells, Found, Target, chunks, tempered


@dataclass(frozen=True)
class Statistics:
    """Sums over the rows of each fold, features `x` and codes `y`, each less a constant that is near their mean.

    n `[fold]`, x `[cell, fold, d]`, y `[fold, m]`, xx `[cell, fold, d, d]`, xy `[cell, fold, d, m]`
    """

    shift: Tensor
    n: Tensor
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor

    @classmethod
    def gather(cls, blocks: Any, codes: Tensor, fold: Tensor, folds: int) -> "Statistics":
        """One pass over blocks of (rows, features `[rows, cell, d]`)."""
        found: Any = None
        for rows, block in blocks:
            if found is None:
                c, d, m = block.shape[1], block.shape[2], codes.shape[1]
                sizes = ((folds,), (c, folds, d), (folds, m), (c, folds, d, d), (c, folds, d, m))
                found = cls(block.mean(0), *(block.new_zeros(size) for size in sizes))
            for f in range(folds):
                kept = fold[rows] == f
                x, y = (block[kept] - found.shift).transpose(0, 1), codes[rows][kept]
                found.n[f] += kept.sum()
                found.x[:, f] += x.sum(1)
                found.y[f] += y.sum(0)
                found.xx[:, f] += x.mT @ x
                found.xy[:, f] += x.mT @ y
        return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Parts:
    """Ridge regressions without one fold, or without two, in the basis where each one's features are uncorrelated.

    number: `[fold, fold]`, the part without folds a and b (a = b: without a); mean `[cell, part, d]`, level `[part,
    m]`, basis `[cell, part, d, d]`, power `[cell, part, d]`, projected `[cell, part, d, m]`, unit `[cell, part]`
    """

    number: Tensor
    mean: Tensor
    level: Tensor
    basis: Tensor
    power: Tensor
    projected: Tensor
    unit: Tensor

    @classmethod
    def of(cls, sums: Statistics, d: int) -> "Parts":
        """Factorise each part once; d: of the features as they came, which the unit of penalties is an average over."""
        folds = len(sums.n)
        left_out = sorted({(min(a, b), max(a, b)) for a in range(folds) for b in range(folds)})
        number = torch.tensor([[left_out.index((min(a, b), max(a, b))) for b in range(folds)] for a in range(folds)])
        kept = sums.n.new_ones(len(left_out), folds)
        for s, pair in enumerate(left_out):
            kept[s, list(pair)] = 0
        n = kept @ sums.n
        mean = torch.einsum("sf,cfd->csd", kept, sums.x) / n[:, None]
        level = kept @ sums.y / n[:, None]
        xx = torch.einsum("sf,cfde->csde", kept, sums.xx) - n[:, None, None] * mean[..., None] * mean[..., None, :]
        xy = torch.einsum("sf,cfdm->csdm", kept, sums.xy) - n[:, None, None] * mean[..., None] * level[:, None]
        power, basis = torch.linalg.eigh(xx)
        power = power.clamp_min(0)
        power = torch.where(power > 1e-12 * power[..., -1:], power, 0.0)  # what rounding leaves of an empty direction
        unit = power.sum(-1) / d
        return cls(number, mean, level, basis, power, basis.mT @ xy, torch.where(unit > 0, unit, 1.0))

    def solve(self, s: int, penalties: Tensor) -> Tensor:
        """Coefficients `[cell, d, column]` of part s; penalties, one a column `[cell or 1, m]`, or `[p]` for all
        columns: `[cell, d, p * m]`."""
        power, unit, projected = self.power[:, s, :, None], self.unit[:, s, None, None], self.projected[:, s]
        if penalties.ndim == 1:
            shrunk = projected[:, :, None] / (power + penalties * unit)[..., None].clamp_min(1e-300)
            return self.basis[:, s] @ shrunk.flatten(2)
        return self.basis[:, s] @ (projected / (power + penalties[:, None] * unit).clamp_min(1e-300))


def ridge_cells(cells: Cells, targets: Sequence[Target], fold: Any, probe: Any, progress: bool) -> Found:
    """Fit `probe` (RidgeProbe, CircularProbe or RidgeRegressor) at every cell for every target."""
    device = targets[0].codes.device
    folds, fold = int(fold.max()) + 1, torch.as_tensor(fold, device=device)
    codes = torch.cat([target.codes for target in targets], dim=1)
    found = Found.empty(len(targets), folds, cells.count, cells.n)
    width = min(cells.n, cells.d)  # of the features that are worked with
    parts = folds * (folds + 3) // 2
    size = 8 * (3 * parts * width**2 + 8 * folds * codes.shape[1] * cells.n)
    work: Any = chunks(cells.count, int(cells.memory / size))
    if progress:
        from tqdm import tqdm

        work = tqdm(work, desc="ridge sweep", leave=False)
    for first, last in work:
        blocks = _reduced(cells, first, last) if cells.d > cells.n else partial(cells.blocks, first, last)
        sums = Statistics.gather(blocks(), codes, fold, folds)
        fits = Parts.of(sums, cells.d)
        penalty = _choose(fits, sums, targets, sums.n.new_tensor(probe.penalties))
        scores = _score(fits, sums, blocks(), targets, penalty, fold)
        _fill(found, targets, slice(first, last), scores, fold)
        found.penalty[:, :, first:last] = torch.stack(penalty).mT.cpu().numpy()
    return found


def _reduced(cells: Cells, first: int, last: int) -> Any:
    """With more features than samples: all rows of each cell at once, in as many coordinates as there are samples.

    A rotation changes no ridge regression, and n rows span n directions at most.
    """
    X = torch.cat([block for _, block in cells.blocks(first, last)]).transpose(0, 1)
    X = X - X.mean(1, keepdim=True)
    Z = torch.linalg.qr(X.mT, mode="r").R.mT.transpose(0, 1)
    return lambda: [(slice(0, cells.n), Z)]


def _choose(fits: Parts, sums: Statistics, targets: Sequence[Target], penalties: Tensor) -> list[Tensor]:
    """The penalty `[cell, fold]` of each target with the lowest squared error on the inner folds; reads no activation.

    Scores of classes are rescaled before they become probabilities, so theirs is the error after the best rescaling: a
    plain one asks for more shrinkage than the probabilities need, and reads a fraction of the bits where they are few.
    """
    folds, m = len(sums.n), sums.y.shape[1]
    fitted, crossed = sums.x.new_zeros(2, len(sums.x), folds, len(penalties), m)  # sums of f^2 and f y
    widths = [target.codes.shape[1] for target in targets]
    scored = torch.cat([sums.y.new_full((w,), float(t.classes > 0)) for t, w in zip(targets, widths, strict=True)])
    for s in fits.number.unique().tolist():
        a, b = (int(i) for i in (fits.number == s).nonzero()[0])
        if a == b:
            continue
        coef = fits.solve(s, penalties)  # [cell, d, penalty * m]
        mean, level = fits.mean[:, s], fits.level[s]
        constant = scored * level  # what is rescaled with the scores of classes; of a regressor nothing is
        for outer, out in ((a, b), (b, a)):
            x, n = sums.x[:, out], sums.n[out]
            xy = sums.xy[:, out] - x[..., None] * level - mean[..., None] * (sums.y[out] - n * level)
            xx = sums.xx[:, out] - x[..., None] * mean[:, None] - mean[..., None] * (x - n * mean)[:, None]
            squares = (coef * (xx @ coef)).sum(1).unflatten(-1, (len(penalties), m))
            products = (coef.unflatten(-1, (len(penalties), m)) * xy[:, :, None]).sum(1)
            total = ((x - n * mean)[:, None] @ coef).unflatten(-1, (len(penalties), m))[:, 0]
            fitted[:, outer] += squares + 2 * constant * total + n * constant**2
            crossed[:, outer] += products + constant * (total + sums.y[out])
    chosen = []
    for target, f, c in zip(targets, fitted.split(widths, -1), crossed.split(widths, -1), strict=True):
        f, c = f.sum(-1), c.sum(-1)
        explained = c.clamp_min(0) ** 2 / f.clamp_min(1e-300) if target.classes else 2 * c - f
        chosen.append(penalties[explained.argmax(-1)])
    return chosen


def _score(
    fits: Parts, sums: Statistics, blocks: Any, targets: Sequence[Target], penalty: Sequence[Tensor], fold: Tensor
) -> list[Tensor]:
    """Scores `[cell, fold a, n, class]` of every target: what the fit for outer fold a, without a's rows and the row's
    own fold, gives each row."""
    folds = len(sums.n)
    widths = [target.codes.shape[1] for target in targets]
    column = torch.cat([p[..., None].expand(-1, -1, w) for p, w in zip(penalty, widths, strict=True)], dim=-1)
    # Scores are right to a few parts in ten million: float32 is enough, and twice as fast.
    coef = [[fits.solve(int(fits.number[a, b]), column[:, a]).float() for a in range(folds)] for b in range(folds)]
    mean, level = fits.mean.float(), fits.level.float()
    scores = torch.empty(len(sums.x), folds, len(fold), sum(widths), device=fold.device)
    for rows, block in blocks:
        numbers = torch.arange(rows.start, rows.stop, device=fold.device)
        for b in range(folds):
            here = fold[rows] == b
            x = (block[here] - sums.shift).float().transpose(0, 1)
            for a in range(folds):
                s = int(fits.number[a, b])
                scores[:, a, numbers[here]] = (x - mean[:, s, None]) @ coef[b][a] + level[s]
    parts = scores.split(widths, dim=-1)
    return [part if t.decode is None else part @ t.decode.float() for part, t in zip(parts, targets, strict=True)]


def _fill(found: Found, targets: Sequence[Target], cells: slice, scores: Sequence[Tensor], fold: Tensor) -> None:
    """Losses, hits and inner losses at some cells; targets with as many classes are scored side by side."""
    folds = int(fold.max()) + 1
    for width in {target.classes for target in targets}:
        group = [t for t, target in enumerate(targets) if target.classes == width]
        stacked = torch.stack([scores[t] for t in group])  # [target, cell, fold, n, class]
        if width:
            index = torch.stack([i for t in group if (i := targets[t].index) is not None])
            loss, hit, inner = tempered(stacked, index, fold, folds)
            found.hit[group, cells] = hit.cpu().numpy()
        else:
            codes = torch.stack([targets[t].codes for t in group])[:, None, None]
            error = ((stacked - codes) ** 2).sum(-1)  # [target, cell, fold, n]
            outside = (fold != torch.arange(folds, device=fold.device)[:, None]).to(error)
            inner = (error * outside).sum(-1) / outside.sum(-1)
            loss = error[:, :, fold, torch.arange(len(fold), device=fold.device)]
        found.loss[group, cells] = loss.cpu().numpy()
        found.inner[group, :, cells] = inner.mT.cpu().numpy()
