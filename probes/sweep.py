"""One probe at every site, layer and position, for every target, in one call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from torch import Tensor

from .base import ProbeClassifier, as_labels, as_values
from .circular import CircularProbe, circle
from .estimate import RESAMPLES, percentiles, resampled_sums
from .information import LN2, constant_log_p, fold_numbers
from .logistic import LogisticProbe
from .ridge import RidgeProbe, RidgeRegressor
from .sweep_cells import Cells, Found, Target, own_log_p
from .sweep_logistic import logistic_cells
from .sweep_ridge import ridge_cells


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """What a probe tells at every cell (site, layer, position, ...) about every target, out of fold.

    loss: `[target, *cells, n]`, held-out log-loss in nats, of a regressor the squared error; null: `[target, n]`, the
        same of the best constant of the training folds
    hit: `[target, *cells, n]`, whether the most likely label is right; NaN for a regressor
    inner: `[target, fold, *cells]`, mean loss on held-out rows *within* each training part, and penalty, that was
        chosen
        there: what a choice of cell may look at. NaN where the probe does not say
    fold, groups: `[n]`
    """

    targets: tuple[str, ...]
    loss: NDArray[Any]
    null: NDArray[Any]
    hit: NDArray[Any]
    inner: NDArray[Any]
    penalty: NDArray[Any]
    fold: NDArray[Any]
    groups: NDArray[Any]
    classifies: bool = True

    def __repr__(self) -> str:
        cells = "x".join(map(str, self.loss.shape[1:-1])) or "1"
        return f"<sweep of {cells} cells, targets {', '.join(self.targets)}, {len(self.fold)} rows>"

    def bits(self, target: str) -> NDArray[Any]:
        """Pointwise V-information `[*cells, n]` in bits, `(log p(y | h) - log p(y)) / ln 2`; negatives are kept."""
        if not self.classifies:
            raise ValueError("a regressor has no bits: its squared errors are in `loss`, their share in `r2`")
        at = self._number(target)
        return np.asarray((self.null[at] - self.loss[at]) / LN2)

    def r2(self, target: str) -> NDArray[Any]:
        """1 - held-out loss over the loss of the best constant, `[*cells]`: for a regressor the out-of-fold R^2."""
        at = self._number(target)
        return np.asarray(1 - self.loss[at].mean(-1) / self.null[at].mean())

    def accuracy(self, target: str) -> NDArray[Any]:
        """The share of rows whose most likely label is right, `[*cells]`."""
        return np.asarray(self.hit[self._number(target)].mean(-1))

    def chosen(self, target: str, cells: NDArray[Any] | None = None) -> tuple[NDArray[Any], list[tuple[int, ...]]]:
        """Losses `[n]` at the cell that each training part chose by its own inner loss, and those cells, one a fold.

        cells: `[*cells]`, True where the choice may fall (everywhere without it). Choosing on the rows that are then
        scored would be too good; this is not.
        """
        at = self._number(target)
        found, picks = np.full(len(self.fold), np.nan), []
        for f, inner in enumerate(self.inner[at]):
            allowed = inner if cells is None else np.where(cells, inner, np.inf)
            if not np.isfinite(allowed).any():
                raise ValueError(
                    "no cell has an inner loss to choose by: use a ridge or logistic probe, and allow a cell"
                )
            pick = np.unravel_index(int(np.nanargmin(allowed)), inner.shape)
            picks.append(tuple(int(i) for i in pick))
            found[self.fold == f] = self.loss[(at, *pick)][self.fold == f]
        return found, picks

    def frame(self, axes: Mapping[str, Sequence[Any]] | None = None, resamples: int = RESAMPLES, seed: int = 0) -> Any:
        """A DataFrame with a row a target and cell: bits (of a regressor R^2), their interval over groups, accuracy.

        axes: the names along each axis of the cells, as {"layer": range(4), "position": ["prompt[-1]", "cue[-1]"]}
        """
        import pandas as pd

        shape = self.loss.shape[1:-1]
        axes = axes if axes is not None else {f"axis {a}": range(size) for a, size in enumerate(shape)}
        if tuple(map(len, axes.values())) != shape:
            raise ValueError(
                f"expected names for cells of shape {shape}, got {[len(names) for names in axes.values()]}"
            )
        rows: list[dict[str, Any]] = []
        for t, target in enumerate(self.targets):
            values = torch.from_numpy(
                np.vstack([self.loss[t].reshape(-1, len(self.fold)), self.null[t], np.ones(len(self.fold))]).T
            )
            estimate = self._summary(values.sum(0, keepdim=True))
            drawn = self._summary(resampled_sums(values, self.groups, resamples, seed))
            for i, cell in enumerate(np.ndindex(*shape)):
                where = {name: names[k] for (name, names), k in zip(axes.items(), cell, strict=True)}
                low, high = percentiles(drawn[:, i], 0.95)
                told = {"estimate": float(estimate[0, i]), "low": low, "high": high}
                rows.append({"target": target, **where, **told, "accuracy": self.hit[(t, *cell)].mean()})
        return pd.DataFrame(rows)

    def _summary(self, sums: Tensor) -> Tensor:
        """Bits or R^2 `[resample, cell]` from summed losses, the best constant's, and the number of rows."""
        loss, null, n = sums[:, :-2], sums[:, -2:-1], sums[:, -1:]
        return (null - loss) / n / LN2 if self.classifies else 1 - loss / null

    def _number(self, target: str) -> int:
        if target not in self.targets:
            raise ValueError(f"unknown target {target!r}: the sweep has {', '.join(self.targets)}")
        return self.targets.index(target)


def sweep(
    X: Any,
    targets: Mapping[str, Any],
    *,
    probe: Any = None,
    groups: Any = None,
    folds: Any = 5,
    seed: int = 0,
    memory: float = 1.0,
    progress: bool = False,
) -> Sweep:
    """Fit a probe at every cell for every target, out of fold, sharing all that can be shared.

    X: activations `[n, *cells, d]` (cells: sites, layers, positions, any axes): an array, a tensor, or anything with
        `shape` and slices of rows, such as a memory map: it is read in blocks of rows and never held whole
    targets: labels `[n]` by name (values for a regressor); groups: `[n]`, rows of a group (a problem) stay in one fold
    probe: `RidgeProbe()` without it. `RidgeProbe`, `CircularProbe`, `RidgeRegressor` and `LogisticProbe` have fast
        ways; any other scikit-learn estimator is fitted cell by cell
    folds: their number, or the fold of every row; at least 3, for the inner folds of a training part are the other
        folds
    memory: GB that the sweep may use beyond the activations' own

    The ridge family reads the data twice: one pass for the sufficient statistics of every fold, from which every fit
    and the penalties follow, one to score the rows. A penalty is the one with the lowest squared error (ridge; of
    scores that become probabilities after the best rescaling) or log-loss (logistic) on the inner folds; the fit
    without folds a and b serves both as an inner fit of a and of b.

    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 3, 300)
    >>> X = rng.normal(size=(300, 2, 4, 8))  # 2 layers, 4 positions
    >>> X[:, 1, 2, :3] += 3 * np.eye(3)[y]
    >>> found = sweep(X, {"y": y})
    >>> (found.bits("y").mean(-1) > 1.4).tolist()
    [[False, False, False, False], [False, False, True, False]]
    """
    probe = RidgeProbe() if probe is None else probe
    cells = Cells.of(X, memory)
    if not targets:
        raise ValueError("no targets: give a dict of name to labels")
    groups = np.arange(cells.n) if groups is None else np.asarray(groups)
    fold = fold_numbers(folds, groups, cells.n, seed, least=3).numpy()
    classifies = is_classifier(probe)
    coded = [_target(probe, name, y, cells, fold) for name, y in targets.items()]
    if type(probe) is LogisticProbe:
        results = logistic_cells(cells, coded, fold, probe, progress)
    elif type(probe) in (RidgeProbe, CircularProbe, RidgeRegressor):
        results = ridge_cells(cells, coded, fold, probe, progress)
    else:
        results = _each(cells, coded, fold, probe, groups, progress)
    shape, folded = (len(coded), *cells.shape), (len(coded), int(fold.max()) + 1, *cells.shape)
    return Sweep(
        targets=tuple(targets),
        loss=results.loss.reshape(*shape, cells.n),
        null=np.stack([target.null for target in coded]),
        hit=results.hit.reshape(*shape, cells.n),
        inner=results.inner.reshape(folded),
        penalty=results.penalty.reshape(folded),
        fold=fold,
        groups=groups,
        classifies=classifies,
    )


def _target(probe: Any, name: str, y: Any, cells: Cells, fold: NDArray[Any]) -> Target:
    """A target coded for a probe, with the loss of the best constant of each training part."""
    device = cells.source.device if isinstance(cells.source, Tensor) else "cpu"
    like = torch.empty(cells.n, 0, dtype=torch.float32 if str(device) == "mps" else torch.float64, device=device)
    null: Any = np.empty(cells.n)
    if not is_classifier(probe):
        values = as_values(y, like)
        if values.ndim != 1:
            raise ValueError(f"target {name!r}: expected one value a row, got shape {tuple(values.shape)}")
        host = values.cpu().numpy()
        for f in np.unique(fold):
            null[fold == f] = (host[fold == f] - host[fold != f].mean()) ** 2
        return Target(name, None, 0, values[:, None], None, null)
    labels, index = as_labels(y, like)
    if len(labels) < 2:
        raise ValueError(f"target {name!r} has one class, {labels[0]}: a probe needs 2 at least")
    number = index.cpu()
    for f in np.unique(fold):
        counts = torch.bincount(number[fold != f], minlength=len(labels)).double()
        null[fold == f] = -constant_log_p(counts)[number[fold == f]].numpy()
    if type(probe) is CircularProbe:
        wheel, index = circle(probe, labels, index, like)
        return Target(name, index, len(wheel), wheel[index], wheel.T, null)
    codes = torch.eye(len(labels)).to(like) - 1 / len(labels)  # the same for all classes is no score
    return Target(name, index, len(labels), codes[index], None, null)


def _each(
    cells: Cells, targets: Sequence[Target], fold: NDArray[Any], probe: Any, groups: NDArray[Any], progress: bool
) -> Found:
    """Fit any estimator cell by cell."""
    found = Found.empty(len(targets), int(fold.max()) + 1, cells.count, cells.n)
    work: Any = range(cells.count)
    if progress:
        from tqdm import tqdm

        work = tqdm(work, desc="sweep", leave=False)
    grouped = isinstance(probe, ProbeClassifier) and len(set(groups.tolist())) < cells.n
    for cell in work:
        read = torch.cat([block[:, 0] for _, block in cells.blocks(cell, cell + 1)])
        X: Any = read if isinstance(probe, ProbeClassifier) else read.cpu().numpy()
        for t, target in enumerate(targets):
            y = (target.codes[:, 0] if target.index is None else target.index).cpu().numpy()
            for f in range(int(fold.max()) + 1):
                out = fold == f
                options = {"groups": groups[~out]} if grouped else {}
                fitted = clone(probe).fit(X[~out], y[~out], **options)
                found.inner[t, f, cell] = getattr(fitted, "held_out_log_loss_", np.nan)
                found.penalty[t, f, cell] = getattr(fitted, "penalty_", np.nan)
                if target.index is None:
                    found.loss[t, cell, out] = (np.asarray(fitted.predict(X[out])) - y[out]) ** 2
                else:
                    log_p = torch.as_tensor(fitted.predict_log_proba(X[out])).cpu()
                    known = torch.zeros(target.classes, dtype=torch.bool)
                    known[torch.as_tensor(fitted.classes_)] = True
                    full = log_p.new_zeros(len(log_p), target.classes)
                    full[:, known] = log_p
                    own = own_log_p(full, torch.from_numpy(y[out]), known, float((~out).sum()))
                    found.loss[t, cell, out] = -own.numpy()
                    found.hit[t, cell, out] = full.masked_fill(~known, -torch.inf).argmax(-1).numpy() == y[out]
    return found
