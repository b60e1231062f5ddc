"""What is swapped: the subspace of a variable, found in other problems or learnt from other pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.base import clone
from torch import Tensor

from ..core import InputError
from ..hooks import Model, Runs
from ..hooks.interior import Interior
from ..probes import LeaceEraser, RidgeProbe, group_folds
from .aligned import Aligned, Batch
from .das import learn_subspace

FOLDS = 2  # of pairs, for a subspace that is learnt from pairs


@dataclass(frozen=True)
class Asked:
    """What is asked: the variable and how its subspace is found, where, with how many draws of each control."""

    variable: str | None
    find: Any
    rank: int | None
    site: str
    layers: tuple[int, ...]
    position: str
    draws: int
    steps: int
    seed: int


def is_named(find: Any, *names: str) -> bool:
    """Whether a way to find subspaces is one of these names, and no probe and no basis."""
    return isinstance(find, str) and find in names


def labels_of(runs: Runs, variable: str | None) -> NDArray[Any]:
    """The value of a variable in every run's problem."""
    return np.array([run.problem.values[str(variable)] for run in runs])


@dataclass(frozen=True)
class Swap:
    """What is exchanged: x + (y - x) @ reads @ writes.T, both `[d_model, rank]`; an orthonormal basis is both."""

    reads: Tensor
    writes: Tensor

    @property
    def rank(self) -> int:
        """The dimension of what is exchanged."""
        return int(self.reads.shape[1])

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """States x with this part of y."""
        reads, writes = self.reads.to(x.device, torch.float64), self.writes.to(x.device, torch.float64)
        swapped: Tensor = x + ((y.double() - x.double()) @ reads @ writes.T).to(x.dtype)
        return swapped


@dataclass(frozen=True)
class Fitted:
    """What was fitted to runs of other problems at one layer: what is swapped and what is erased, each also with labels
    permuted, and a reader. mean: of the states."""

    found: Swap
    shuffled: list[Swap]
    eraser: LeaceEraser
    erasers: list[LeaceEraser]
    reader: RidgeProbe
    labels: NDArray[Any]
    mean: Tensor
    variable: str

    @classmethod
    def of(cls, acts: Any, runs: Runs | None, layer: int, asked: Asked) -> "Fitted | None":
        """Fit to recorded activations; None where no variable is named."""
        if acts is None or runs is None:
            return None
        X, rows = acts.select(asked.site, layer=layer)
        run = rows["run"].to_numpy()
        labels = labels_of(runs, asked.variable)
        if len(np.unique(labels)) < 2:
            raise InputError(f"{asked.variable} has one value in all {len(runs)} problems: fit to more of them")
        groups = {"groups": run} if len(np.unique(run)) < len(run) else {}
        rng = np.random.default_rng(asked.seed)
        permuted = [rng.permutation(labels)[run] for _ in range(asked.draws)]  # a run keeps one label
        y = labels[run]
        return cls(
            _find(X, y, asked),
            [_find(X, other, asked) for other in permuted],
            LeaceEraser().fit(X, y),
            [LeaceEraser().fit(X, other) for other in permuted],
            RidgeProbe().fit(X, y, **groups),
            y,
            X.double().mean(0),
            str(asked.variable),
        )

    def bits(self, aligned: Aligned, batch: Batch, states: Sequence[Tensor]) -> NDArray[Any]:
        """Bits about the variable that the reader has of both runs of each pair, the mean of the two and of tokens."""
        classes, counts = np.unique(self.labels, return_counts=True)
        null = dict(zip(classes, np.log2(counts / counts.sum()), strict=True))
        total = np.zeros(len(batch.index))
        for side, of in enumerate(states):
            runs = [aligned.sides(i)[side].run for i in batch.index]
            names = [run.problem.values[self.variable] for run in runs]
            log_p = self.reader.predict_log_proba(of.flatten(0, 1).float().cpu())
            log_p = np.asarray(log_p).reshape(*of.shape[:2], -1).mean(axis=1) / np.log(2.0)
            known = {name: log_p[:, column] - null[name] for column, name in enumerate(classes)}
            total += [known[name][row] if name in known else np.nan for row, name in enumerate(names)]
        return total / 2


def swaps_of(
    model: Model,
    interior: Interior,
    aligned: Aligned,
    fold: NDArray[Any],
    layer: int,
    fitted: Fitted | None,
    asked: Asked,
) -> list[Swap]:
    """What is swapped in the pairs of each fold: the same for all, unless it is learnt from pairs."""
    if is_named(asked.find, "das"):
        boundary = layer + (asked.site == "resid_post")
        folds = [torch.from_numpy(fold[list(batch.index)]) for batch in aligned.batches]
        learnt = []
        for f in range(FOLDS):
            rows = [(own != f).nonzero()[:, 0].to(model.device) for own in folds]
            batches = list(zip(aligned.batches, rows, strict=True))
            options = {"steps": asked.steps, "seed": asked.seed}
            learnt.append(learn_subspace(model, interior, batches, boundary, 0, asked.rank or 1, **options))
        return [Swap(basis, basis) for basis in learnt]
    if fitted is None:
        basis = torch.as_tensor(asked.find, dtype=torch.float64)
        return [Swap(basis, basis)]
    return [fitted.found]


@torch.no_grad()
def own_answers(model: Model, aligned: Aligned) -> Aligned:
    """The same pairs with what this model says first in each run as the answers; those that it does not tell apart are
    in no batch. Of a model that knows nothing of the task only this can move."""
    module: Any = model.module
    batches = []
    for batch in aligned.batches:
        sides = (batch.recipient, batch.donor)
        said = [module(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1) for ids in sides]
        rows = (said[0] != said[1]).nonzero()[:, 0]
        if len(rows):
            batches.append(replace(batch.rows(rows), answers=(said[0][rows, None], said[1][rows, None])))
    return replace(aligned, batches=tuple(batches))


def _find(X: Tensor, y: NDArray[Any], asked: Asked) -> Swap:
    """The part of states that goes with labels."""
    if hasattr(asked.find, "fit"):
        probe = clone(asked.find).fit(X, y)
        if not hasattr(probe, "subspace_"):
            raise InputError(f"{type(probe).__name__} has no subspace_: give a linear probe, or find='leace'")
        basis = torch.as_tensor(probe.subspace_, dtype=torch.float64)
        return Swap(basis, basis)
    if is_named(asked.find, "means"):
        means = torch.stack([X[torch.from_numpy(y == value)].double().mean(0) for value in np.unique(y)])
        left = torch.linalg.svd((means - means.mean(0)).T, full_matrices=False)[0]
        basis = left[:, : min(asked.rank or len(means) - 1, left.shape[1])]
        return Swap(basis, basis)
    if isinstance(asked.find, str):
        eraser = LeaceEraser().fit(X, y)
        return Swap(*(torch.as_tensor(part, dtype=torch.float64) for part in (eraser.reads_, eraser.writes_)))
    basis = torch.as_tensor(asked.find, dtype=torch.float64)
    return Swap(basis, basis)


def pair_folds(aligned: Aligned, asked: Asked) -> NDArray[Any]:
    """The fold of every pair, for subspaces learnt from pairs: pairs that share a problem are in the same one."""
    if not is_named(asked.find, "das"):
        return np.zeros(len(aligned.pairs), dtype=np.int64)
    keys = [[side.run.problem.key for side in aligned.sides(i)] for i in range(len(aligned.pairs))]
    number = {key: i for i, key in enumerate(dict.fromkeys(key for both in keys for key in both))}
    edges = np.array([[number[key] for key in both] for both in keys]).T
    graph = coo_array((np.ones(len(keys)), (edges[0], edges[1])), shape=(len(number), len(number)))
    groups = connected_components(graph, directed=False)[1][edges[0]]
    if len(np.unique(groups)) < FOLDS:
        raise InputError(
            f"{len(keys)} pairs that share problems cannot be held out from one another: give more pairs, with other "
            "problems"
        )
    return np.asarray(group_folds(groups, FOLDS, asked.seed))
