"""What a probe tells about a variable, in bits."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

LN2 = float(np.log(2.0))


def v_information(log_p: Float[np.ndarray, " n"], log_p_null: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Pointwise V-information in bits, `(log p(y | h) - log p(y)) / ln 2`; its mean is I_V(h -> y).

    log_p: out-of-fold natural-log probability of each label by a probe on the state; log_p_null: by the best constant
    of the same training folds. Negative values are kept. Source: Xu et al. (arXiv 2002.10689), Ethayarajh et al.
    (arXiv 2110.08420).

    >>> v_information(np.log([0.5, 1.0]), np.log([0.25, 0.25])).tolist()
    [1.0, 2.0]
    """
    return np.asarray((log_p - log_p_null) / LN2)


def null_log_p(train: NDArray[Any], test: NDArray[Any]) -> Float[np.ndarray, " n"]:
    """Log probability of test labels by the best constant: uniform, or the training frequencies with one added to each
    class (a label may be unseen), whichever had the lower leave-one-out loss in training.

    >>> null_log_p(np.array([0] * 9 + [1]), np.array([0])).round(3).tolist()
    [-0.182]
    >>> np.exp(null_log_p(np.array([0, 0, 1, 1]), np.array([0]))).round(3).tolist()
    [0.5]
    """
    classes = np.unique(np.concatenate([train, test]))
    counts = np.array([(train == label).sum() for label in classes])
    left_out = -(counts * np.log(np.maximum(counts, 1) / (len(train) - 1 + len(classes)))).sum() / max(1, len(train))
    if left_out >= np.log(len(classes)):
        return np.full(len(test), -np.log(len(classes)))
    frequencies = np.log((counts + 1) / (len(train) + len(classes)))
    return np.asarray(frequencies[np.searchsorted(classes, test)])


def group_folds(groups: NDArray[Any], folds: int, seed: int = 0) -> Int[np.ndarray, " n"]:
    """The fold of every row; all rows of a group (a problem) are in the same fold, and folds are of equal size.

    >>> fold = group_folds(np.array(["a", "a", "b", "c"]), 3)
    >>> bool(fold[0] == fold[1]), len(set(fold.tolist()))
    (True, 3)
    """
    names, index = np.unique(groups, return_inverse=True)
    if len(names) < folds:
        raise ValueError(f"{len(names)} groups cannot fill {folds} folds: record more problems or ask for fewer folds")
    order = np.random.default_rng(seed).permutation(len(names))
    return np.asarray(np.argsort(order)[index] % folds)
