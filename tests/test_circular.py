"""Discriminants, circles, low ranks, perceptrons: against scikit-learn, against refits, against what is known."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from loadbearing.probes.circular import CircularProbe
from loadbearing.probes.lowrank import LowRankProbe
from loadbearing.probes.means import DiscriminantProbe, MeanDifferenceProbe
from loadbearing.probes.mlp import MLPProbe
from loadbearing.probes.ridge import RidgeProbe, RidgeRegressor


def blobs(n: int = 60, d: int = 6, classes: int = 3, noise: float = 0.8, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return np.eye(max(d, classes))[y][:, :d] + noise * rng.normal(size=(n, d)) + 5, y


def circle(n: int, period: int, d: int = 10, noise: float = 0.2, frequency: int = 1) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    y = np.arange(n) % period
    angle = 2 * np.pi * frequency * y / period
    plane = np.linalg.qr(rng.normal(size=(d, 2)))[0]
    return np.stack([np.cos(angle), np.sin(angle)], 1) @ plane.T + noise * rng.normal(size=(n, d)), y


def test_two_classes_read_the_difference_of_means() -> None:
    X, y = blobs(classes=2)
    probe = MeanDifferenceProbe().fit(X, y)
    difference = X[y == 1].mean(0) - X[y == 0].mean(0)
    direction = probe.coef_[1] - probe.coef_[0]
    np.testing.assert_allclose(direction, probe.scale_ * difference, atol=1e-9)
    assert abs(probe.subspace_[:, 0] @ difference) == pytest.approx(np.linalg.norm(difference))


@pytest.mark.parametrize("d", [4, 100])
def test_the_nearest_mean_wins(d: int) -> None:
    X, y = blobs(d=d)
    assert (MeanDifferenceProbe().fit(X, y).predict(X) == NearestCentroid().fit(X, y).predict(X)).all()


def test_means_hold_out_exactly() -> None:
    X, y = blobs(n=25)
    weights = np.random.default_rng(1).integers(1, 4, 25)
    probe = MeanDifferenceProbe().fit(X, y, sample_weight=weights)
    losses = []
    for i in range(25):
        less = weights - (np.arange(25) == i)
        means = np.stack([np.average(X[y == c], axis=0, weights=less[y == c]) for c in range(3)])
        scores = -0.5 * probe.scale_ * ((X[i] - means) ** 2).sum(1)
        losses.append(np.logaddexp.reduce(scores) - scores[y[i]])
    assert probe.held_out_log_loss_ == pytest.approx(np.average(losses, weights=weights), abs=1e-9)


@pytest.mark.parametrize("shrinkage", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("d", [4, 100])
def test_the_discriminant_is_that_of_scikit_learn(d: int, shrinkage: float) -> None:
    X, y = blobs(d=d)
    probe = DiscriminantProbe(shrinkages=(shrinkage,)).fit(X, y)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X, y)
    np.testing.assert_allclose(probe.predict_log_proba(X), oracle.predict_log_proba(X), atol=1e-7)
    np.testing.assert_allclose(probe.priors_, oracle.priors_)
    assert probe.subspace_.shape == (d, 2) and np.isnan(probe.held_out_log_loss_)


@pytest.mark.parametrize("d", [4, 40])
def test_the_discriminant_holds_out_exactly(d: int) -> None:
    X, y = blobs(n=30, d=d)
    weights = np.random.default_rng(1).integers(1, 4, 30)
    probe = DiscriminantProbe(shrinkages=(0.05, 0.3, 0.9)).fit(X, y, sample_weight=weights)
    losses = []
    for shrinkage in probe.shrinkages:
        own = []
        for i in range(30):
            rows = np.repeat(np.arange(30), weights - (np.arange(30) == i))
            oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X[rows], y[rows])
            own.append(-oracle.predict_log_proba(X[[i]])[0, y[i]])
        losses.append(np.average(own, weights=weights))
    assert probe.held_out_log_loss_ == pytest.approx(min(losses), abs=1e-7)
    assert probe.shrinkage_ == probe.shrinkages[int(np.argmin(losses))]


def test_shrinkages_are_checked() -> None:
    with pytest.raises(ValueError, match="expected shrinkages between 0 and 1, one at least, got"):
        DiscriminantProbe(shrinkages=(0.5, 2.0)).fit(*blobs())


def test_values_never_seen_are_predicted() -> None:
    X, y = circle(240, 12, noise=0.1)
    held_out = np.isin(y, [2, 7])
    probe = CircularProbe(period=12).fit(X[~held_out], y[~held_out])
    assert probe.classes_.tolist() == list(range(12))
    assert probe.score(X[held_out], y[held_out]) > 0.9
    assert RidgeProbe().fit(X[~held_out], y[~held_out]).score(X[held_out], y[held_out]) == 0


def test_a_circle_is_ridge_regression_of_cos_and_sin() -> None:
    X, y = circle(100, 10, frequency=3)
    probe = CircularProbe(period=10, frequencies=(3,), penalties=(0.1,)).fit(X, y)
    code = np.stack([np.cos(0.6 * np.pi * np.arange(10)), np.sin(0.6 * np.pi * np.arange(10))], 1)
    ridge = RidgeRegressor(penalties=(0.1,)).fit(X, code[y])
    np.testing.assert_allclose(probe.decision_function(X), probe.scale_ * ridge.predict(X) @ code.T, atol=1e-9)
    assert probe.r2_[0] == pytest.approx(ridge.held_out_r2_)
    assert probe.subspace_.shape == (10, 2)


def test_only_the_frequency_that_is_there_is_explained() -> None:
    X, y = circle(200, 10, frequency=2)
    probe = CircularProbe(period=10, frequencies=(1, 2, 5)).fit(X, y)
    assert probe.r2_[1] > 0.8 and max(probe.r2_[[0, 2]]) < 0.1
    assert probe.subspace_.shape[1] == 5  # half of the period has a cos only


def test_labels_of_any_kind_stand_on_the_circle() -> None:
    X, y = circle(70, 7)
    days = np.array(["1 Mo", "2 Tu", "3 We", "4 Th", "5 Fr", "6 Sa", "7 Su"])
    assert CircularProbe().fit(X, days[y]).score(X, days[y]) > 0.9


@pytest.mark.parametrize(
    "options, labels, message",
    [
        (
            {"period": 6},
            None,
            "numbers from 0 to 5, the values of period 6, got 6: take values modulo the period",
        ),
        ({"period": 7}, "abcdefg", "whole numbers from 0 to 6, .* got .*'a'.*: with period=None labels of any kind"),
        ({"period": 1}, None, "expected a whole period of 2 or more, got 1"),
        ({"frequencies": (0,)}, None, r"whole frequencies from 1 to 3, half of the period 7, got \[0\]"),
        ({"period": 7, "frequencies": (4,)}, None, r"whole frequencies from 1 to 3, half of the period 7, got \[4\]"),
        ({"frequencies": ()}, None, r"whole frequencies from 1 to 3, half of the period 7, got \[\]"),
        ({"frequencies": (1, 1)}, None, r"expected every frequency once, got \[1, 1\]"),
    ],
)
def test_circles_are_checked(options: Any, labels: str | None, message: str) -> None:
    X, y = circle(70, 7)
    with pytest.raises(ValueError, match=message):
        CircularProbe(**options).fit(X, y if labels is None else np.array(list(labels))[y])


def test_the_rank_is_limited_and_enough_rank_loses_nothing() -> None:
    X, y = blobs(n=400, d=8, classes=6, noise=0.5)
    probes = {rank: LowRankProbe(rank=rank).fit(X[:200], y[:200]) for rank in (1, 3, 5, 50)}
    assert [probe.subspace_.shape[1] for probe in probes.values()] == [1, 3, 5, 5]
    scores = [probe.score(X[200:], y[200:]) for probe in probes.values()]
    assert scores[0] < scores[1] < scores[2] == scores[3]
    assert scores[3] > RidgeProbe().fit(X[:200], y[:200]).score(X[200:], y[200:]) - 0.03


def test_two_directions_are_enough_for_a_circle_and_one_for_a_line() -> None:
    X, y = circle(300, 10, noise=0.1)
    probe = LowRankProbe(rank=2).fit(X[:200], y[:200])
    assert probe.score(X[200:], y[200:]) > 0.9
    plane = np.linalg.svd(circle(10, 10, noise=0)[0])[2][:2]
    assert np.linalg.svd(plane @ probe.subspace_)[1].min() > 0.99
    line = np.random.default_rng(0).normal(size=(300, 5)) * 0.2
    line[:, 2] += y % 5
    assert LowRankProbe(rank=1).fit(line, y % 5).score(line, y % 5) > 0.9  # classes in the middle are not masked


def test_a_rank_is_a_whole_number() -> None:
    with pytest.raises(ValueError, match="expected a whole rank of 1 or more, got 0"):
        LowRankProbe(rank=0).fit(*blobs())


def test_a_perceptron_solves_what_no_linear_probe_can() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 4))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    assert MLPProbe().fit(X[:300], y[:300]).score(X[300:], y[300:]) > 0.9
    assert MLPProbe(depth=2).fit(X[:300], y[:300]).score(X[300:], y[300:]) > 0.9
    assert MLPProbe(depth=0).fit(X[:300], y[:300]).score(X[300:], y[300:]) < 0.65
    assert RidgeProbe().fit(X[:300], y[:300]).score(X[300:], y[300:]) < 0.65


def test_the_perceptrons_gradient_is_that_of_autograd() -> None:
    X, y = (torch.as_tensor(part) for part in blobs())
    probe = MLPProbe(width=5, depth=2, penalty=0.3)
    probe.classes_ = torch.arange(3)
    layers = probe._first(X)
    target, share = torch.eye(3, dtype=X.dtype)[y], torch.rand(60, dtype=X.dtype)
    by_hand = probe._slopes(layers, X, target, share / share.sum())
    free = [part.clone().requires_grad_() for part in layers]
    (a, b), (c, d), (e, f) = zip(free[::2], free[1::2], strict=True)
    log_p = torch.log_softmax(torch.tanh(torch.tanh(X @ a + b) @ c + d) @ e + f, dim=1)
    loss = -(share / share.sum()) @ (log_p * target).sum(1) + 0.15 * sum((part**2).sum() for part in (a, c, e))
    loss.backward()
    for slope, part in zip(by_hand, free, strict=True):
        torch.testing.assert_close(slope, part.grad, rtol=0, atol=1e-12)


def test_first_weights_come_from_the_seed_alone() -> None:
    X, y = blobs()
    first = [MLPProbe(random_state=seed).fit(X, y).layers_[0][0] for seed in (0, 0, 1)]
    assert (first[0] == first[1]).all() and (first[0] != first[2]).any()


def test_perceptrons_have_no_subspace_and_whole_sizes() -> None:
    X, y = blobs()
    with pytest.raises(AttributeError, match="an MLPProbe reads no linear subspace: use a linear probe"):
        _ = MLPProbe(steps=5).fit(X, y).subspace_
    with pytest.raises(ValueError, match="expected a whole width of 1 or more, got 0"):
        MLPProbe(width=0).fit(X, y)


def test_the_perceptron_is_a_ceiling_where_the_signal_is_linear_too() -> None:
    """Among many dimensions a perceptron alone overfits; beside a ridge probe it is no worse than that."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 6
    X = torch.randn(600, 60, generator=generator, dtype=torch.float64)
    X += 0.3 * torch.randn(6, 60, generator=generator, dtype=torch.float64)[y]
    losses = {}
    for probe in (RidgeProbe(), MLPProbe()):
        log_p = probe.fit(X[:400], y[:400]).predict_log_proba(X[400:])
        losses[type(probe)] = -float(log_p[torch.arange(200), y[400:]].mean())
    assert losses[MLPProbe] < losses[RidgeProbe] + 0.02 < 1.0
