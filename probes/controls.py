"""Controls: what a probe makes of labels that have nothing to do with the features' content."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import numbered
from .estimate import Estimate
from .held_out import HeldOut, held_out, taken


def shuffled(y: Any, groups: Any = None, *, seed: int = 0) -> Any:
    """Labels `[n]` in random order: any bits that a probe finds in them are an error.

    groups: `[n]`; where all rows of every group have one label, labels are exchanged between groups and rows of a group
    go on sharing theirs; otherwise between rows.

    >>> shuffled(np.array([1, 1, 2, 2, 3, 3]), np.array(["a", "a", "b", "b", "c", "c"]), seed=2).tolist()
    [3, 3, 1, 1, 2, 2]
    """
    rng = np.random.default_rng(seed)
    label = numbered(y)[1]
    member = torch.arange(len(label)) if groups is None else numbered(groups)[1]
    member = member.to(label.device)
    if len(member) != len(label):
        raise ValueError(f"expected one group for each of {len(label)} labels, got {len(member)}")
    count = int(member.max()) + 1
    first = torch.zeros(count, dtype=torch.long, device=label.device)
    first[member] = torch.arange(len(label), device=label.device)  # a row of each group
    if (label[first][member] == label).all():
        rows = first[torch.from_numpy(rng.permutation(count)).to(label.device)][member]
    else:
        rows = torch.from_numpy(rng.permutation(len(label))).to(label.device)
    return _rows_of(y, rows)


def control_labels(types: Any, y: Any, *, seed: int = 0) -> Any:
    """A control task: a fixed random label for every type, drawn from the labels as frequent as they are.

    types: `[n]`, the type of every row (the word, the value of the token, the combination of inputs); y: labels `[n]`.
    Source: Hewitt & Liang 2019 (arXiv 1909.03368), section 2.1. Raises ValueError for fewer than two types.

    >>> control_labels(np.array(["a", "b", "a", "b"]), np.array([0, 1, 1, 0])).tolist()
    [0, 1, 0, 1]
    """
    names, number = numbered(types)
    if len(number) != len(y):
        raise ValueError(f"expected one type for each of {len(y)} labels, got {len(number)}")
    if len(names) < 2:
        raise ValueError("a control task needs 2 types at least: what a probe could learn by heart, of each row")
    drawn = torch.from_numpy(np.random.default_rng(seed).integers(0, len(y), len(names)))
    return _rows_of(y, drawn.to(number.device)[number])


@dataclass(frozen=True, eq=False, repr=False)
class Selectivity:
    """A task and its control tasks, by the same probe on the same folds."""

    task: HeldOut
    controls: tuple[HeldOut, ...]

    @property
    def accuracy(self) -> Estimate:
        """Accuracy on the task minus that on the control tasks, paired by row."""
        return self.task.accuracy - _average([control.accuracy for control in self.controls])

    @property
    def bits(self) -> Estimate:
        """V-information of the task minus that of the control tasks, paired by row."""
        return self.task.bits - _average([control.bits for control in self.controls])

    @property
    def control_accuracy(self) -> Estimate:
        """Accuracy on the control tasks, averaged over them."""
        return _average([control.accuracy for control in self.controls])

    def __repr__(self) -> str:
        return (
            f"<selectivity: {self.accuracy!r} (task {self.task.accuracy.mean:.2f}, control "
            f"{self.control_accuracy.mean:.2f}); {self.bits!r}; {len(self.controls)} controls>"
        )


def selectivity(
    probe: Any,
    X: Any,
    y: Any,
    types: Any,
    *,
    groups: Any = None,
    folds: Any = 5,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    seed: int = 0,
) -> Selectivity:
    """How much better a probe does on a task than on control tasks, which it can only learn by heart.

    probe, X, y, groups, folds and seed as in `held_out`; types: `[n]`, what the control labels are drawn for, once for
    each of `seeds`. Types must come back in other folds (values, words), or nothing can be learnt by heart; the types
    of a probe of a value are what the value is computed from. The interval is over groups, for the control tasks as
    drawn; each of them is in `controls`. Source: Hewitt & Liang 2019 (arXiv 1909.03368), section 2.2: accuracy minus
    accuracy; the same in bits is V-information minus V-information.

    >>> rng = np.random.default_rng(0)
    >>> y, word = np.arange(300) % 2, rng.integers(0, 60, 300)
    >>> from .ridge import RidgeProbe
    >>> found = selectivity(RidgeProbe(), np.eye(2)[y], y, word, seeds=(0,))
    >>> found.task.accuracy.mean, found.accuracy.mean > 0.3
    (1.0, True)
    """
    if not len(seeds):
        raise ValueError("seeds: expected one control task at least")
    options = {"groups": groups, "folds": folds, "seed": seed}
    task = held_out(probe, X, y, **options)
    drawn = (control_labels(types, y, seed=control) for control in seeds)
    return Selectivity(task, tuple(held_out(probe, X, labels, **options) for labels in drawn))


def _average(estimates: Sequence[Estimate]) -> Estimate:
    total = sum(estimate.values for estimate in estimates)
    return Estimate(total / len(estimates), estimates[0].groups, estimates[0].unit)


def _rows_of(y: Any, rows: Tensor) -> Any:
    return taken(y if isinstance(y, Tensor) else np.asarray(y), rows)
