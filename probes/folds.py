"""Inner folds, on which a probe chooses its penalty."""

import torch
from torch import Tensor


def inner_folds(X: Tensor, index: Tensor, folds: int, groups: Tensor | None = None, seed: int = 0) -> Tensor:
    """The fold of every row, `[n]`, stratified by class; rows of a group are together, and so are identical rows.

    Identical rows (with the same label) are copies of one sample, and a copy in the training part would show the
    held-out one. So a sample weight of k and k copies of the row give the same folds, in any order of the rows. With
    fewer distinct samples than folds there are as many folds as samples.

    >>> X = torch.tensor([[0.0], [1.0], [2.0], [0.0]])
    >>> fold = inner_folds(X, torch.zeros(4, dtype=torch.long), 3)
    >>> bool(fold[0] == fold[3]), len(set(fold.tolist()))
    (True, 3)
    """
    if groups is None:
        unit = torch.unique(torch.cat([X, index[:, None].to(X)], dim=1), dim=0, return_inverse=True)[1]
    else:
        unit = torch.unique(groups, return_inverse=True)[1]
    count = int(unit.max()) + 1
    if count < 2:
        what = "distinct sample" if groups is None else "group"
        raise ValueError(
            f"choosing a penalty on held-out rows needs 2 {what}s at least, got 1 {what}: give one penalty"
        )
    draw = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(X.device)
    stratum = torch.zeros(count, dtype=torch.long, device=X.device).scatter_reduce(0, unit, index, "amax")
    fold = torch.empty(count, dtype=torch.long, device=X.device)
    fold[torch.argsort(stratum * count + draw)] = torch.arange(count, device=X.device) % min(folds, count)
    return fold[unit]
