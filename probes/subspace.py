"""Subspaces of activations: bases, projections, interchange, angles.

A basis is `[d, rank]` with orthonormal columns; activations are `[..., d]`. Both are numpy arrays or tensors, of any
float dtype; all is computed in float64 on the device of the activations (float32 where the device has no float64).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def subspace_of(coef: Tensor) -> Tensor:
    """An orthonormal basis `[d, rank]` of the span of the rows of `coef` `[m, d]`.

    Directions whose singular value is below 1e-10 of the largest count as rounding (in float32 below d times its
    precision).
    """
    left, singular, _ = torch.linalg.svd(coef.T, full_matrices=False)
    tolerance = max(1e-10, max(coef.shape) * torch.finfo(coef.dtype).eps)
    kept: Tensor = singular > tolerance * singular.amax().clamp_min(torch.finfo(coef.dtype).tiny)
    return torch.as_tensor(left[:, kept])


def orthonormal(directions: Any) -> Any:
    """An orthonormal basis `[d, rank]` of the span of directions, the rows of `[m, d]` or a single `[d]`.

    The rank is that of `subspace_of`. ValueError for anything but finite directions of which one at least is not 0.

    >>> orthonormal([[3.0, 0.0, 0.0], [6.0, 0.0, 0.0]]).shape
    (3, 1)
    """
    rows = torch.atleast_2d(_wide(directions).detach())
    if rows.ndim != 2 or not rows.numel() or not torch.isfinite(rows).all() or not rows.any():
        raise ValueError(
            f"expected finite directions [m, d] that are not all 0, got shape {tuple(rows.shape)}: one direction a row"
        )
    return _like(subspace_of(rows), directions)


def project(X: Any, basis: Any, mean: Any = None) -> Any:
    """Keep of activations `[..., d]` only their part in a subspace; the rest becomes that of `mean` `[d]` (else 0).

    Gives the kind and dtype of `X`. ValueError if the basis is not orthonormal or not of the same d.

    >>> project(np.array([[1.0, 2.0]]), np.array([[1.0], [0.0]]), mean=np.array([5.0, 6.0])).tolist()
    [[1.0, 6.0]]
    """
    values = _wide(X)
    return _like(_exchange(_centre(mean, values), values, basis), X)


def remove(X: Any, basis: Any, mean: Any = None) -> Any:
    """Take a subspace out of activations `[..., d]`; their part in it becomes that of `mean` `[d]` (else 0).

    Gives the kind and dtype of `X`. With the mean of `X` its mean stays. ValueError as in `project`.

    >>> remove(np.array([[1.0, 2.0]]), np.array([[1.0], [0.0]]), mean=np.array([5.0, 6.0])).tolist()
    [[5.0, 2.0]]
    """
    values = _wide(X)
    return _like(_exchange(values, _centre(mean, values), basis), X)


def swap(X: Any, donor: Any, basis: Any) -> Any:
    """Activations `[..., d]` whose part in a subspace is the donor's: an interchange intervention (Geiger et al. 2021).

    donor: `[..., d]`, of the shape of `X` or broadcast to it. Gives the kind and dtype of `X`, and `X` itself, to the
    bit, where the donor is `X`; gradients pass through X, donor and basis. ValueError as in `project`. Source: arXiv
    2106.02997; in a subspace 2303.02536.

    >>> swap(np.array([[1.0, 2.0]]), np.array([[7.0, 8.0]]), np.array([[1.0], [0.0]])).tolist()
    [[7.0, 2.0]]
    """
    values = _wide(X)
    given = _wide(donor).to(values)
    try:
        fits = torch.broadcast_shapes(given.shape, values.shape) == values.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"expected a donor of the shape of X, {tuple(values.shape)}, got {tuple(given.shape)}: one donor for each "
            "row, or one [d] for all"
        )
    return _like(_exchange(values, given, basis), X)


def principal_angles(basis_a: Any, basis_b: Any) -> Any:
    """The angles between two subspaces in radians, ascending, as many as the smaller rank.

    Sines and cosines are found apart and joined, so angles near 0 and near pi/2 are exact to rounding. Source: Björck
    & Golub, Math. Comp. 27 (1973) 579. ValueError for bases that are not orthonormal or of different d.

    >>> principal_angles(np.eye(3)[:, :2], np.eye(3)[:, 1:]).round(4).tolist()
    [0.0, 1.5708]
    """
    first, second = _pair(basis_a, basis_b)
    cosine = first.T @ second
    residual = second - first @ cosine
    sines = torch.linalg.svdvals(residual).flip(0)
    return _like(torch.atan2(sines, torch.linalg.svdvals(cosine)), basis_a)


def overlap(basis_a: Any, basis_b: Any) -> float:
    """The mean squared cosine of the principal angles: 1 if one subspace holds the other, 0 if they are orthogonal.

    A random subspace gives (larger rank) / d on average, r / d for two of rank r: compare with that, not with 0.
    ValueError as in `principal_angles`, and for a subspace of rank 0, which has no angle.

    >>> overlap(np.eye(4)[:, :2], np.eye(4)[:, 1:3])
    0.5
    """
    first, second = _pair(basis_a, basis_b)
    if not second.shape[1]:
        raise ValueError("expected subspaces of rank 1 at least, got rank 0: it has no angle to anything")
    return float(((first.T @ second) ** 2).sum() / second.shape[1])


def random_subspace(d: int, rank: int, generator: torch.Generator | np.random.Generator) -> Any:
    """An orthonormal basis `[d, rank]` of a subspace drawn uniformly: the control for every subspace intervention.

    What a probe's subspace does when it is swapped or removed counts only beyond what random ones of its rank do.
    A torch generator gives a tensor on its device, a numpy one an array. ValueError unless 1 <= rank <= d.

    >>> random_subspace(5, 2, np.random.default_rng(0)).shape
    (5, 2)
    """
    if not 1 <= rank <= d:
        raise ValueError(f"expected a rank between 1 and d = {d}, got {rank}")
    if isinstance(generator, torch.Generator):
        kind = torch.float32 if generator.device.type == "mps" else torch.float64
        draws = torch.randn(d, rank, generator=generator, device=generator.device, dtype=kind)
        return torch.linalg.qr(draws).Q
    return np.linalg.qr(generator.normal(size=(d, rank))).Q


def _wide(values: Any) -> Tensor:
    """The values as a tensor in which to compute."""
    if not isinstance(values, Tensor):
        return torch.from_numpy(np.array(values, dtype=np.float64))
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def _like(values: Tensor, given: Any) -> Any:
    """The values in the kind of what was given, and in its dtype where that is a float."""
    if isinstance(given, Tensor):
        return values.to(given.dtype) if given.is_floating_point() else values
    array = values.detach().numpy()
    kind = getattr(given, "dtype", None)
    return array.astype(kind) if isinstance(kind, np.dtype) and kind.kind == "f" else array


def _basis(given: Any, like: Tensor | None = None) -> Tensor:
    """A basis, checked; on the device of `like` and of its d."""
    basis = _wide(given) if like is None else _wide(given).to(like)
    if basis.ndim != 2:
        raise ValueError(f"expected a basis [d, rank], got shape {tuple(basis.shape)}")
    if like is not None and (not like.ndim or like.shape[-1] != len(basis)):
        raise ValueError(
            f"expected activations and a basis of one d, got {tuple(like.shape)} and a basis {tuple(basis.shape)}: "
            "the basis is [d, rank], the activations [..., d]"
        )
    fine = isinstance(given, Tensor) and given.is_floating_point()
    eps = torch.finfo(given.dtype).eps if fine else float(np.finfo(getattr(given, "dtype", float)).eps)
    kept = basis.detach()
    error = (kept.T @ kept - torch.eye(kept.shape[1], dtype=kept.dtype, device=kept.device)).abs()
    if not (error <= max(1e-8, 8 * eps)).all():
        raise ValueError(
            "expected a basis with orthonormal columns [d, rank]: make one of directions (rows) with orthonormal(), "
            "orthonormal(basis.T) for these columns"
        )
    return basis


def _pair(basis_a: Any, basis_b: Any) -> tuple[Tensor, Tensor]:
    """Two bases of one d, the larger rank first."""
    first = _basis(basis_a)
    second = _basis(basis_b).to(first)
    if len(first) != len(second):
        raise ValueError(f"expected two bases of one d, got {tuple(first.shape)} and {tuple(second.shape)}")
    return (first, second) if first.shape[1] >= second.shape[1] else (second, first)


def _centre(mean: Any, X: Tensor) -> Tensor:
    if mean is None:
        return torch.zeros_like(X)
    centre = _wide(mean).to(X)
    if centre.shape != X.shape[-1:]:
        raise ValueError(f"expected a mean of shape {tuple(X.shape[-1:])}, got {tuple(centre.shape)}")
    return centre.expand_as(X)


def _exchange(base: Tensor, donor: Tensor, given: Any) -> Tensor:
    """The base with the donor's part in the subspace."""
    basis = _basis(given, base)
    return base + ((donor - base) @ basis) @ basis.T
