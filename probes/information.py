"""Bits, the best constant, folds that keep groups together, and labels as numbers."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from .base import numbered

LN2 = float(np.log(2.0))


def pointwise_v_information(
    log_p: Float[np.ndarray, " n"] | Float[Tensor, " n"], log_p_null: Float[np.ndarray, " n"] | Float[Tensor, " n"]
) -> Any:
    """Pointwise V-information in bits, `(log p(y | h) - log p(y)) / ln 2`; its mean is I_V(h -> y).

    log_p: out-of-fold natural-log probability of each label by a probe on the state; log_p_null: by the best constant
    of the same training folds. Negative values are kept. Source: Xu et al. (arXiv 2002.10689), Ethayarajh et al.
    (arXiv 2110.08420).

    >>> pointwise_v_information(np.log([0.5, 1.0]), np.log([0.25, 0.25])).tolist()
    [1.0, 2.0]
    """
    return (log_p - log_p_null) / LN2


def constant_log_p(counts: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Log probability of every class by the best constant, from the number of training rows of each `[class]`.

    Uniform, or the training frequencies with one added to each class (a label may be unseen), whichever had the lower
    leave-one-out loss in training.

    >>> constant_log_p(torch.tensor([5.0, 1.0])).exp().tolist()
    [0.75, 0.25]
    """
    n, classes = float(counts.sum()), len(counts)
    left_out = -(counts * (counts.clamp_min(1) / max(1.0, n - 1 + classes)).log()).sum() / max(1.0, n)
    uniform = torch.full_like(counts, -math.log(classes))
    return torch.where(left_out >= math.log(classes), uniform, ((counts + 1) / (n + classes)).log())


def null_log_p(train: NDArray[Any], test: NDArray[Any]) -> Float[np.ndarray, " n"]:
    """Log probability of test labels by the best constant of the training labels (`constant_log_p`).

    >>> null_log_p(np.array([0] * 9 + [1]), np.array([0])).round(3).tolist()
    [-0.182]
    >>> np.exp(null_log_p(np.array([0, 0, 1, 1]), np.array([0]))).round(3).tolist()
    [0.5]
    """
    _, index = np.unique(np.concatenate([train, test]), return_inverse=True)
    counts = np.bincount(index[: len(train)], minlength=int(index.max(initial=0)) + 1).astype(np.float64)
    return np.asarray(constant_log_p(torch.from_numpy(counts)).numpy()[index[len(train) :]])


def group_folds(groups: NDArray[Any], folds: int, seed: int = 0) -> Int[np.ndarray, " n"]:
    """The fold of every row; all rows of a group (a problem) are in the same fold, and folds are of equal size.

    >>> fold = group_folds(np.array(["a", "a", "b", "c"]), 3)
    >>> bool(fold[0] == fold[1]), len(set(fold.tolist()))
    (True, 3)
    """
    names, index = np.unique(groups, return_inverse=True)
    return np.asarray(_fold_of_each(len(names), folds, seed)[index])


def fold_numbers(folds: Any, groups: Any, n: int, seed: int = 0, least: int = 2) -> Tensor:
    """The fold of each of n rows, from their number or as given `[n]`: checked, and no group in two of them.

    groups: `[n]`, numpy or a tensor; None: every row is its own. Raises ValueError for fewer folds than `least`, for
    fewer groups than folds, for wrong lengths and for a group on both sides of a split.

    >>> fold_numbers([1, 1, 2], np.array(["a", "a", "b"]), 3).tolist()
    [0, 0, 1]
    """
    names, member = numbered(np.arange(n) if groups is None else groups)
    if len(member) != n:
        raise ValueError(f"expected one group for each of {n} rows, got {len(member)}")
    if np.ndim(folds) == 0:
        if int(folds) < least:
            raise ValueError(f"expected {least} folds at least, got {int(folds)}")
        return torch.from_numpy(_fold_of_each(len(names), int(folds), seed)).to(member.device)[member]
    given, fold = numbered(folds)
    fold = fold.to(member.device)
    if len(fold) != n:
        raise ValueError(f"expected the fold of each of {n} rows, got {len(fold)}")
    if len(given) < least:
        raise ValueError(f"expected {least} folds at least, got {len(given)}")
    empty = torch.zeros(len(names), dtype=fold.dtype, device=fold.device)
    first, last = (empty.scatter_reduce(0, member, fold, how, include_self=False) for how in ("amin", "amax"))
    if (first != last).any():
        name = names[int((first != last).nonzero()[0, 0])]
        raise ValueError(
            f"groups leak between folds: group {name.item() if hasattr(name, 'item') else name!r} is in two of them; "
            "give all rows of a group the same fold"
        )
    return fold


def columns_of(y: Any, classes: Any, strict: bool = True) -> Tensor:
    """The number of each label's class `[n]`; -1 (or, if strict, an error) for one that `classes` lacks."""
    if isinstance(classes, Tensor) or isinstance(y, Tensor):
        classes = torch.as_tensor(classes)
        y = torch.as_tensor(y).to(classes.device)
    else:
        classes, y = np.asarray(classes), np.asarray(y)
    names, number = numbered(classes)
    if len(names) != len(classes):
        raise ValueError("classes: expected every class once")
    order = torch.empty_like(number).scatter_(0, number, torch.arange(len(number), device=number.device))
    found = torch.searchsorted(names, y) if isinstance(names, Tensor) else torch.from_numpy(np.searchsorted(names, y))
    found = found.clamp(max=len(names) - 1)
    same = names[found] == y if isinstance(names, Tensor) else torch.from_numpy(names[found.numpy()] == y)
    if strict and not same.all():
        first = int((~same).nonzero()[0, 0])
        raise ValueError(f"y has a label that is not among the {len(classes)} classes: row {first}, {y[first]!r}")
    return torch.where(same, order[found], -1)


def _fold_of_each(count: int, folds: int, seed: int) -> NDArray[Any]:
    """The fold of each of `count` groups, at random and even."""
    if count < folds:
        raise ValueError(f"{count} groups cannot fill {folds} folds: record more problems or ask for fewer folds")
    return np.argsort(np.random.default_rng(seed).permutation(count)) % folds
