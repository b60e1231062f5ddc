"""Probes and bits: against scikit-learn, against refitting without each row, against known information."""

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from loadbearing.probes import RidgeProbe, group_folds, null_log_p, pointwise_v_information


def blobs(n: int = 120, d: int = 8, classes: int = 4, noise: float = 0.5, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return np.eye(d)[y] + noise * rng.normal(size=(n, d)), y


@pytest.mark.parametrize("d", [8, 200])
def test_scores_are_those_of_scikit_learns_ridge(d: int) -> None:
    X, y = blobs(d=d)
    probe = RidgeProbe(penalties=(0.1,)).fit(X, y)
    alpha = 0.1 * ((X - X.mean(0)) ** 2).sum() / d
    ridge = Ridge(alpha=alpha).fit(X, np.eye(4)[y])
    np.testing.assert_allclose(probe.decision_function(X), probe.scale_ * ridge.predict(X), atol=1e-8)


@pytest.mark.parametrize("d", [5, 60])
def test_leave_one_out_is_exact(d: int) -> None:
    X, y = blobs(n=40, d=d)
    probe = RidgeProbe(penalties=(0.3,)).fit(X, y)
    alpha = 0.3 * ((X - X.mean(0)) ** 2).sum() / d
    losses = []
    for i in range(len(X)):
        rest = np.arange(len(X)) != i
        scores = probe.scale_ * Ridge(alpha=alpha).fit(X[rest], np.eye(4)[y[rest]]).predict(X[[i]])[0]
        losses.append(np.log(np.exp(scores).sum()) - scores[y[i]])
    assert probe.held_out_log_loss_ == pytest.approx(np.mean(losses), abs=1e-6)


def test_no_scale_has_a_lower_loss() -> None:
    X, y = blobs(noise=1.0)
    probe = RidgeProbe().fit(X, y)
    best = probe.held_out_log_loss_
    scale = probe.scale_
    for penalty in probe.penalties:
        other = RidgeProbe(penalties=(penalty,)).fit(X, y)
        assert other.held_out_log_loss_ >= best - 1e-9
    assert 0.1 < scale < 100


def test_probabilities_of_noise_are_the_class_frequencies() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(2000, 5)), rng.choice(3, 2000, p=[0.5, 0.3, 0.2])
    held_out = RidgeProbe().fit(X[:1500], y[:1500]).predict_proba(X[1500:])
    assert np.abs(held_out.mean(0) - [0.5, 0.3, 0.2]).max() < 0.08


def test_bits_of_gaussian_classes_approach_the_known_information() -> None:
    """Two classes at +1 and -1 with unit noise: I(h; y) = 1 - E[log2(1 + exp(-2h))] = 0.486 bits, by quadrature."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 6000)
    X = (2.0 * y - 1)[:, None] + rng.normal(size=(6000, 1))
    probe = RidgeProbe().fit(X[:5000], y[:5000])
    log_p = probe.predict_log_proba(X[5000:])[np.arange(1000), y[5000:]]
    bits = pointwise_v_information(log_p, null_log_p(y[:5000], y[5000:])).mean()
    h = np.linspace(-9, 11, 20001)
    density = np.exp(-((h - 1) ** 2) / 2) / np.sqrt(2 * np.pi)
    known = 1 - (density * np.log2(1 + np.exp(-2 * h))).sum() * (h[1] - h[0])
    assert known == pytest.approx(0.486, abs=1e-3)
    assert bits == pytest.approx(known, abs=0.06)


def test_it_lives_in_scikit_learn() -> None:
    X, y = blobs(noise=0.3)
    probe = clone(RidgeProbe(penalties=(0.1, 1.0)))
    assert probe.penalties == (0.1, 1.0)
    assert cross_val_score(make_pipeline(StandardScaler(), probe), X, y, cv=3).min() > 0.8
    names = np.array(["a", "b", "c", "d"])[y]
    assert RidgeProbe().fit(X, names).predict(X[:4]).tolist() == ["a", "b", "c", "d"]


def test_the_subspace_is_all_that_the_probe_reads() -> None:
    X, y = blobs()
    probe = RidgeProbe().fit(X, y)
    basis = probe.subspace_
    assert basis.shape == (8, 3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-10)
    without = X - X @ basis @ basis.T
    assert np.ptp(probe.predict_proba(without), axis=0).max() < 1e-8
    assert np.ptp(probe.predict_proba(X), axis=0).max() > 0.5


def test_bad_input() -> None:
    X, y = blobs()
    with pytest.raises(ValueError, match="samples of at least 2 classes"):
        RidgeProbe().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="NaN"):
        RidgeProbe().fit(np.full_like(X, np.nan), y)
    with pytest.raises(ValueError, match="features"):
        RidgeProbe().fit(X, y).predict(X[:, :3])
    with pytest.raises(ValueError, match="3 groups cannot fill 5 folds: record more problems or ask for fewer folds"):
        group_folds(np.array(["a", "b", "c"]), 5)


def test_folds_hold_groups_together_and_are_even() -> None:
    groups = np.repeat(np.arange(50), 3)
    fold = group_folds(groups, 5)
    assert all(len(set(fold[groups == g])) == 1 for g in range(50))
    assert np.bincount(fold).tolist() == [30] * 5
    np.testing.assert_array_equal(fold, group_folds(groups, 5))
    assert (fold != group_folds(groups, 5, seed=1)).any()


def test_the_null_predicts_what_it_counted() -> None:
    train = np.array(["x"] * 6 + ["y"] * 2)
    np.testing.assert_allclose(np.exp(null_log_p(train, np.array(["x", "y"]))), [0.7, 0.3])
    unseen = null_log_p(train, np.array(["z"]))
    np.testing.assert_allclose(np.exp(unseen), 1 / 11)
