"""Subspaces: against scipy, against hand-worked cases, and their own theorems."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from loadbearing.probes import subspace
from loadbearing.probes.subspace import (
    orthonormal,
    overlap,
    principal_angles,
    project,
    random_subspace,
    remove,
    subspace_of,
    swap,
)


class OnDevice(torch.Tensor):
    """A tensor that may not be copied to the host."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("copied to the host")

    cpu = numpy = tolist = __array__ = _refuse


def basis(d: int, rank: int, seed: int = 0) -> Any:
    return random_subspace(d, rank, np.random.default_rng(seed))


def test_a_basis_spans_the_directions_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 6))
    mixed = rng.normal(size=(5, 2)) @ rows  # five directions of rank 2
    found = orthonormal(mixed)
    assert found.shape == (6, 2)
    np.testing.assert_allclose(found.T @ found, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(mixed @ found @ found.T, mixed, atol=1e-12)
    other = rng.normal(size=6)
    assert np.abs(other @ found @ found.T - other).max() > 0.1


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_rank_is_relative_to_the_largest_direction(scale: float) -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-6, 0.0], [1.0, 0.0, 1e-13]], dtype=torch.float64)
    assert subspace_of(scale * rows).shape == (3, 2)
    assert subspace_of(scale * rows.float()).shape == (3, 2)
    assert subspace_of(0 * rows).shape == (3, 0)


def test_projection_and_removal_add_up_and_are_idempotent() -> None:
    X, B = np.random.default_rng(0).normal(size=(4, 5, 7)), basis(7, 3)
    kept, rest = project(X, B), remove(X, B)
    np.testing.assert_allclose(kept + rest, X, atol=1e-12)
    np.testing.assert_allclose(project(kept, B), kept, atol=1e-12)
    np.testing.assert_allclose(remove(rest, B), rest, atol=1e-12)
    assert np.abs(rest @ B).max() < 1e-12 < np.abs(X @ B).max()
    np.testing.assert_allclose((kept * rest).sum(-1), 0, atol=1e-12)


def test_the_mean_is_what_stands_in_for_what_is_taken() -> None:
    X, B = 3 + np.random.default_rng(0).normal(size=(50, 7)), basis(7, 3)
    mean = X.mean(0)
    for changed in (project(X, B, mean), remove(X, B, mean)):
        np.testing.assert_allclose(changed.mean(0), mean, atol=1e-12)
    assert np.abs(remove(X, B).mean(0) - mean).max() > 0.1
    np.testing.assert_allclose(remove(X, B, mean) @ B, np.broadcast_to(mean @ B, (50, 3)), atol=1e-12)


def test_a_swap_takes_the_donors_part_and_leaves_the_rest() -> None:
    rng = np.random.default_rng(0)
    X, donor, B = rng.normal(size=(6, 7)), rng.normal(size=(6, 7)), basis(7, 2)
    patched = swap(X, donor, B)
    np.testing.assert_allclose(patched @ B, donor @ B, atol=1e-12)
    np.testing.assert_allclose(remove(patched, B), remove(X, B), atol=1e-12)
    assert np.abs(patched - X).max() > 0.1
    assert (swap(X, X, B) == X).all()
    np.testing.assert_allclose(swap(X, donor, np.eye(7)), donor, atol=1e-12)
    assert (swap(X, donor, np.zeros((7, 0))) == X).all()
    np.testing.assert_allclose(swap(X, donor[0], B) @ B, np.broadcast_to(donor[0] @ B, (6, 2)), atol=1e-12)


def test_gradients_pass_through_a_swap() -> None:
    X, donor = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    B = torch.linalg.qr(torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    B = B.requires_grad_()
    inner = torch.autograd.grad(swap(X, donor, B).sum(), [X, donor, B], allow_unused=True)
    ones = torch.ones(3, 5, dtype=torch.float64)
    torch.testing.assert_close(inner[1], ones @ B @ B.T)
    torch.testing.assert_close(inner[0], ones - ones @ B @ B.T)
    assert inner[2].abs().max() > 0.01


@pytest.mark.parametrize("ranks", [(3, 3), (2, 4), (4, 2), (1, 5)])
def test_angles_are_scipys(ranks: tuple[int, int]) -> None:
    A, B = basis(9, ranks[0], 1), basis(9, ranks[1], 2)
    found = principal_angles(A, B)
    np.testing.assert_allclose(found, np.sort(subspace_angles(A, B)), atol=1e-12)
    assert len(found) == min(ranks) and (np.diff(found) >= 0).all()
    assert overlap(A, B) == pytest.approx(float((np.cos(found) ** 2).mean()), abs=1e-12)


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-4, 0.7, np.pi / 2 - 1e-9])
def test_tiny_angles_are_exact(angle: float) -> None:
    A = np.eye(5)[:, :2]
    B = A.copy()
    B[:, 0] = np.cos(angle) * A[:, 0] + np.sin(angle) * np.eye(5)[:, 3]
    found = principal_angles(A, B)
    assert found[0] == pytest.approx(0, abs=1e-15)
    assert found[1] == pytest.approx(angle, rel=1e-6 if angle < 1e-3 else 1e-12, abs=0)
    if angle < 1e-8:  # what the cosine alone would say
        assert np.arccos(min(1.0, np.linalg.svd(A.T @ B)[1][1])) != pytest.approx(angle, rel=0.1, abs=0)


def test_overlap_of_random_subspaces_is_rank_over_d() -> None:
    rng = np.random.default_rng(0)
    drawn = [overlap(random_subspace(20, 4, rng), random_subspace(20, 4, rng)) for _ in range(400)]
    assert np.mean(drawn) == pytest.approx(4 / 20, abs=4 * float(np.std(drawn)) / 20)
    mixed = [overlap(random_subspace(20, 2, rng), random_subspace(20, 8, rng)) for _ in range(400)]
    assert np.mean(mixed) == pytest.approx(8 / 20, abs=4 * float(np.std(mixed)) / 20)
    A = basis(20, 4)
    assert overlap(A, A) == pytest.approx(1) and overlap(A[:, :2], A) == pytest.approx(1)
    assert overlap(A[:, :2], A[:, 2:]) == pytest.approx(0, abs=1e-12)


def test_random_subspaces_are_seeded_and_uniform() -> None:
    for make in (np.random.default_rng, lambda seed: torch.Generator().manual_seed(seed)):
        one, same, other = (random_subspace(6, 2, make(seed)) for seed in (0, 0, 1))
        assert type(one) is (np.ndarray if make is np.random.default_rng else torch.Tensor)
        assert (one == same).all() and overlap(one, other) < 0.99
        assert np.abs(np.asarray(one.T @ one) - np.eye(2)).max() < 1e-12
    rng = np.random.default_rng(0)
    mean = sum(B @ B.T for B in (random_subspace(4, 1, rng) for _ in range(4000))) / 4000
    np.testing.assert_allclose(mean, np.eye(4) / 4, atol=0.02)
    with pytest.raises(ValueError, match="rank between 1 and d = 3, got 4"):
        random_subspace(3, 4, rng)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_stay_where_they_are_in_their_dtype(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    X, donor, B = rng.normal(size=(6, 7)), rng.normal(size=(6, 7)), basis(7, 2)
    there, other = (torch.tensor(values).to(dtype).as_subclass(OnDevice) for values in (X, donor))
    held = torch.tensor(B).as_subclass(OnDevice)
    eps = torch.finfo(dtype).eps
    exact = [values.to(torch.float64).as_subclass(torch.Tensor).numpy() for values in (there, other)]
    for found, expected in [
        (swap(there, other, held), swap(exact[0], exact[1], B)),
        (remove(there, held), remove(exact[0], B)),
        (project(there, held), project(exact[0], B)),
    ]:
        assert isinstance(found, torch.Tensor) and found.dtype == dtype
        back = found.to(torch.float64).as_subclass(torch.Tensor).numpy()
        np.testing.assert_allclose(back, expected, rtol=eps, atol=1e-7)
    assert torch.equal(swap(there, there, held), there)
    assert orthonormal(there).dtype == dtype and overlap(held, held) == pytest.approx(1)
    assert principal_angles(held, held).dtype == torch.float64


def test_numpy_keeps_its_dtype_and_a_numpy_basis_serves_tensors() -> None:
    B, X = basis(7, 2), np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    assert remove(X, B).dtype == np.float32 and remove(np.ones((2, 7), int), B).dtype == np.float64
    assert principal_angles(B.astype(np.float32), B)[1] == pytest.approx(0, abs=1e-6)
    there = torch.tensor(X)
    np.testing.assert_allclose(remove(there, B).numpy(), remove(X, B), atol=1e-6)


def test_what_is_no_basis_is_refused() -> None:
    X, B = np.ones((4, 7)), basis(7, 2)
    for bad in (2 * B, np.ones((7, 1)), B @ np.array([[1.0, 0.0], [1e-3, 1.0]]), np.full((7, 2), np.nan)):
        for call in (project, remove):
            with pytest.raises(ValueError, match=r"orthonormal columns \[d, rank\]: make one .* orthonormal\(\)"):
                call(X, bad)
        with pytest.raises(ValueError, match="orthonormal columns"):
            principal_angles(bad, B)
    assert remove(X, orthonormal((2 * B).T)).shape == (4, 7)
    for call in (project, remove):
        with pytest.raises(ValueError, match=r"one d, got \(4, 7\) and a basis \(6, 2\)"):
            call(X, basis(6, 2))
        with pytest.raises(ValueError, match=r"a mean of shape \(7,\), got \(6,\)"):
            call(X, B, np.ones(6))
    with pytest.raises(ValueError, match=r"a basis \[d, rank\], got shape \(7,\)"):
        remove(X, B[:, 0])
    with pytest.raises(ValueError, match=r"a donor of the shape of X, \(4, 7\), got \(3, 7\)"):
        swap(X, np.ones((3, 7)), B)
    with pytest.raises(ValueError, match=r"two bases of one d, got \(7, 2\) and \(6, 2\)"):
        principal_angles(B, basis(6, 2))
    with pytest.raises(ValueError, match="rank 1 at least, got rank 0"):
        overlap(B, B[:, :0])
    for directions in (np.zeros((2, 3)), np.full((1, 3), np.inf), np.zeros((0, 3))):
        with pytest.raises(ValueError, match=r"finite directions \[m, d\] that are not all 0"):
            orthonormal(directions)


def test_a_bf16_basis_is_one_to_its_rounding() -> None:
    B = torch.tensor(basis(64, 4)).to(torch.bfloat16)
    assert remove(torch.ones(2, 64, dtype=torch.bfloat16), B).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="orthonormal columns"):
        remove(torch.ones(2, 64, dtype=torch.bfloat16), 2 * B)
    assert subspace.orthonormal(B.T).shape == (64, 4)
