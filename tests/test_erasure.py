"""Erasure: the guarantee and its positive twin, the smallest change, streaming, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from loadbearing.probes import RidgeProbe
from loadbearing.probes.erasure import LeaceEraser
from loadbearing.probes.subspace import principal_angles, project, remove

METHODS = ["leace", "orthogonal"]


class OnDevice(torch.Tensor):
    """A tensor that may not be copied to the host."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("copied to the host")

    cpu = numpy = tolist = __array__ = _refuse


def data(n: int = 300, d: int = 10, classes: int = 3, seed: int = 0) -> tuple[Any, Any]:
    """Correlated features of unequal size, in which unequally frequent classes move the mean."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.minimum(rng.geometric(0.4, n) - 1, classes - 1))
    X = (rng.normal(size=(n, d)) + rng.normal(size=(classes, d))[y]) @ rng.normal(size=(d, d)) + 5
    return X, y


def gaps(X: Any, y: Any) -> float:
    """The largest difference between two class means."""
    means = np.stack([X[y == label].mean(0) for label in np.unique(y)])
    return float(np.ptp(means, axis=0).max())


def constant_loss(y: Any) -> float:
    """The log-loss of the best constant, nats."""
    share = np.unique(y, return_counts=True)[1] / len(y)
    return float(-(share * np.log(share)).sum())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("d", "classes"), [(10, 2), (10, 3), (10, 6), (2, 4), (1, 2)])
def test_class_means_are_equal_afterwards_and_the_overall_mean_stays(method: str, d: int, classes: int) -> None:
    X, y = data(d=d, classes=classes)
    eraser = LeaceEraser(method=method).fit(X, y)
    erased = eraser.transform(X)
    assert gaps(X, y) > 0.03 and gaps(erased, y) < 1e-10
    np.testing.assert_allclose(erased.mean(0), X.mean(0), atol=1e-10)
    assert eraser.rank_ == min(d, classes - 1) == np.linalg.matrix_rank(erased - X, tol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_no_linear_probe_beats_the_constant_afterwards_and_both_do_before(method: str) -> None:
    X, y = data()
    erased = LeaceEraser(method=method).fit_transform(X, y)
    null = constant_loss(y)
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=1e4, tol=1e-9, solver="newton-cholesky"))
    for probe in (logistic, RidgeProbe()):
        before = log_loss(y, clone(probe).fit(X, y).predict_proba(X))
        after = log_loss(y, clone(probe).fit(erased, y).predict_proba(erased))
        assert before < null - 0.3
        assert after > null - 1e-6
    assert LinearRegression().fit(X, y).score(X, y) > 0.3
    assert LinearRegression().fit(erased, y).score(erased, y) == pytest.approx(0, abs=1e-10)


def test_a_concept_that_is_not_linear_stays() -> None:
    """The positive twin of the guarantee's limit: the erased classes differ in spread, which no linear probe sees."""
    rng = np.random.default_rng(0)
    y = np.arange(600) % 2
    X = rng.normal(size=(600, 2)) * (1 + 4 * y)[:, None] + y[:, None]
    erased = LeaceEraser().fit_transform(X, y)
    squared = LogisticRegression().fit(erased**2, y)
    assert gaps(erased, y) < 1e-10 and squared.score(erased**2, y) > 0.7


@pytest.mark.parametrize("method", METHODS)
def test_erasing_twice_is_erasing_once(method: str) -> None:
    X, y = data()
    eraser = LeaceEraser(method=method).fit(X, y)
    erased = eraser.transform(X)
    np.testing.assert_allclose(eraser.transform(erased), erased, atol=1e-10)
    again = LeaceEraser(method=method).fit(erased, y)
    assert again.rank_ == 0 and (again.transform(erased) == erased).all()


@pytest.mark.parametrize("method", METHODS)
def test_data_that_are_independent_of_the_concept_do_not_change(method: str) -> None:
    X, _ = data(n=120)
    X = np.concatenate([X, X, X])  # every class has the same rows
    y = np.repeat(["a", "b", "c"], 120)
    eraser = LeaceEraser(method=method).fit(X, y)
    assert eraser.rank_ == 0 and eraser.subspace_.shape == (10, 0)
    assert (eraser.transform(X) == X).all()
    X[y == "a", 0] += 0.01
    assert LeaceEraser(method=method).fit(X, y).rank_ == 1


def test_no_other_affine_eraser_changes_less() -> None:
    """All with the guarantee: A Cov(x, z) = 0, so A = A* + E (I - Q Q^T) with Q a basis of the span of Cov(x, z)."""
    X, y = data()
    eraser = LeaceEraser().fit(X, y)
    least = ((eraser.transform(X) - X) ** 2).sum(1).mean()
    centred = X - X.mean(0)
    best = np.eye(10) - eraser.writes_ @ eraser.reads_.T
    free = np.eye(10) - eraser.subspace_ @ eraser.subspace_.T
    rng = np.random.default_rng(0)
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(20):
            other = centred @ (best + size * rng.normal(size=(10, 10)) @ free).T + X.mean(0)
            assert gaps(other, y) < 1e-9
            assert ((other - X) ** 2).sum(1).mean() > least
            shifted = eraser.transform(X) + size * rng.normal(size=10)
            assert ((shifted - X) ** 2).sum(1).mean() > least
    orthogonal = LeaceEraser(method="orthogonal").fit_transform(X, y)
    assert ((orthogonal - X) ** 2).sum(1).mean() > 1.1 * least


def test_it_is_the_formula_of_the_paper() -> None:
    X, y = data()
    concept = np.eye(3)[y]
    centred = X - X.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(X))
    W, back = vectors / np.sqrt(values) @ vectors.T, vectors * np.sqrt(values) @ vectors.T
    cross = W @ centred.T @ (concept - concept.mean(0)) / len(X)
    P = cross @ np.linalg.pinv(cross, rcond=1e-9)
    new = np.random.default_rng(1).normal(size=(40, 10))
    expected = new - (new - X.mean(0)) @ (back @ P @ W).T
    np.testing.assert_allclose(LeaceEraser().fit(X, y).transform(new), expected, atol=1e-9)


def test_the_orthogonal_one_takes_out_the_differences_of_class_means() -> None:
    X, y = data()
    eraser = LeaceEraser(method="orthogonal").fit(X, y)
    means = np.stack([X[y == label].mean(0) for label in range(3)])
    np.testing.assert_allclose(project(means - means[0], eraser.subspace_), means - means[0], atol=1e-10)
    np.testing.assert_allclose(eraser.transform(X), remove(X, eraser.subspace_, eraser.mean_), atol=1e-10)
    same = LeaceEraser().fit(X, y)
    assert principal_angles(same.subspace_, eraser.subspace_).max() < 1e-9
    np.testing.assert_allclose(same.reads_.T @ same.writes_, np.eye(2), atol=1e-10)
    np.testing.assert_allclose(remove(same.transform(X) - X, same.subspace_), 0, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_values_are_numbers_and_classes_are_names(method: str) -> None:
    X, _ = data()
    z = np.round(X[:, :2] + np.random.default_rng(0).normal(size=(300, 2)))  # integers that are values
    eraser = LeaceEraser(concept="values", method=method).fit(X, z)
    erased = eraser.transform(X)
    assert LinearRegression().fit(X, z).score(X, z) > 0.5
    assert LinearRegression().fit(erased, z).score(erased, z) == pytest.approx(0, abs=1e-9)
    assert eraser.rank_ == 2 and eraser.classes_ is None
    one = LeaceEraser(concept="values", method=method).fit(X, z[:, 0])
    assert one.rank_ == 1 < LeaceEraser(method=method).fit(X, z[:, 0]).rank_


@pytest.mark.parametrize("method", METHODS)
def test_chunks_give_what_all_rows_give(method: str) -> None:
    X, y = data(classes=4)
    order = np.argsort(y, kind="stable")  # the first chunks hold a single class
    X, y = X[order], np.array(["d", "c", "b", "a"])[y[order]]
    weights = np.random.default_rng(0).random(300)
    whole = LeaceEraser(method=method).fit(X, y, weights)
    stream = LeaceEraser(method=method)
    for rows in np.array_split(np.arange(300), 17):
        stream.partial_fit(X[rows], y[rows], weights[rows])
    assert stream.classes_.tolist() == whole.classes_.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_allclose(stream.mean_, whole.mean_, atol=1e-10)
    np.testing.assert_allclose(stream.transform(X), whole.transform(X), atol=1e-8)
    numbers = [LeaceEraser("values", method).fit(X, X[:, :2]), LeaceEraser("values", method)]
    for rows in np.array_split(np.arange(300), 7):
        numbers[1].partial_fit(X[rows], X[rows, :2])
    np.testing.assert_allclose(numbers[1].transform(X), numbers[0].transform(X), atol=1e-8)


def test_chunks_of_tensors_are_chunks() -> None:
    X, y = (torch.from_numpy(values) for values in data())
    stream = LeaceEraser()
    for rows in torch.arange(300).chunk(5):
        stream.partial_fit(X[rows], y[rows])
    torch.testing.assert_close(stream.transform(X), LeaceEraser().fit(X, y).transform(X))
    assert isinstance(stream.classes_, torch.Tensor) and stream.classes_.tolist() == [0, 1, 2]


def test_what_was_fitted_does_not_move_with_later_chunks() -> None:
    X, y = data()
    eraser = LeaceEraser().partial_fit(X[:150], y[:150])
    before = [eraser.mean_, eraser.reads_, eraser.writes_, eraser.subspace_]
    kept = [values.copy() for values in before]
    eraser.partial_fit(X[150:], y[150:])
    for values, copy in zip(before, kept, strict=True):
        assert (values == copy).all()
    assert np.abs(eraser.mean_ - kept[0]).max() > 1e-3
    eraser.mean_[:] = 0
    np.testing.assert_allclose(eraser.mean_, X.mean(0))


def test_weights_count_copies() -> None:
    X, y = data()
    copies = np.random.default_rng(0).integers(0, 4, 300)
    weighted = LeaceEraser().fit(X, y, copies).transform(X)
    repeated = LeaceEraser().fit(X.repeat(copies, axis=0), y.repeat(copies)).transform(X)
    np.testing.assert_allclose(weighted, repeated, atol=1e-9)
    assert np.abs(weighted - LeaceEraser().fit(X, y).transform(X)).max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_more_features_than_rows_and_features_that_do_not_vary(method: str) -> None:
    X, y = data(n=40, d=100)
    X[:, 7], X[:, 8], X[:, 9] = 0.1, 1e9 / 3, X[:, 10]
    eraser = LeaceEraser(method=method).fit(X, y)
    erased = eraser.transform(X)
    assert gaps(X, y) > 1 and gaps(erased, y) < 1e-6 and eraser.rank_ == 2
    assert (erased[:, 7:9] == X[:, 7:9]).all() and np.isfinite(erased).all()
    np.testing.assert_allclose(erased[:, 9], erased[:, 10], atol=1e-9)


def test_a_huge_feature_does_not_hide_a_small_one() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    X = rng.normal(size=(400, 5)) + y[:, None]
    X[:, 0] *= 1e7
    X[:, 1] *= 1e-4
    erased = LeaceEraser().fit_transform(X, y)
    standard = StandardScaler().fit(X)
    assert gaps(standard.transform(X), y) > 0.5
    assert gaps(standard.transform(erased), y) < 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_every_dtype_stay_on_their_device(method: str, dtype: torch.dtype) -> None:
    X, y = data()
    X = X / np.abs(X).max()
    features = torch.tensor(X).to(dtype).as_subclass(OnDevice)
    labels = torch.tensor(y).as_subclass(OnDevice)
    erased = LeaceEraser(method=method).fit(features, labels).transform(features)
    assert isinstance(erased, torch.Tensor) and erased.dtype == dtype
    back = erased.to(torch.float64).as_subclass(torch.Tensor).numpy()
    rounded = features.to(torch.float64).as_subclass(torch.Tensor).numpy()
    exact = LeaceEraser(method=method).fit(rounded, y).transform(rounded)
    np.testing.assert_allclose(back, exact, rtol=torch.finfo(dtype).eps, atol=1e-7)
    assert gaps(rounded, y) > 0.05 and gaps(back, y) < torch.finfo(dtype).eps + 1e-10
    assert isinstance(LeaceEraser().fit(features, labels).mean_, torch.Tensor)
    named = LeaceEraser().fit(features, np.array(["x", "y", "z"])[y], sample_weight=np.arange(300.0))
    assert named.classes_.tolist() == ["x", "y", "z"]


def test_a_map_fitted_on_arrays_serves_tensors_and_numpy_keeps_its_dtype() -> None:
    X, y = data()
    eraser = LeaceEraser().fit(X, y)
    for kind in (np.float16, np.float32, np.float64):
        assert eraser.transform(X.astype(kind)).dtype == kind
    found = eraser.transform(torch.from_numpy(X).float())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), eraser.transform(X), rtol=1e-5, atol=1e-5)
    assert LeaceEraser().fit_transform(np.array([[0], [1], [3]]), [0, 1, 1]).dtype == np.float64


def test_it_keeps_the_rules_of_scikit_learn() -> None:
    for result in check_estimator(LeaceEraser(), on_skip=None):
        assert result["status"] in ("passed", "skipped"), result["check_name"]


@pytest.mark.parametrize("method", METHODS)
def test_in_a_pipeline_the_majority_is_all_that_is_left(method: str) -> None:
    X, y = data()
    majority = np.bincount(y).max() / len(y)
    pipe = make_pipeline(StandardScaler(), clone(LeaceEraser(method=method)), LogisticRegression())
    assert pipe.fit(X, y).score(X, y) == majority
    assert make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y).score(X, y) > majority + 0.1


def test_what_cannot_be_erased_is_refused() -> None:
    X, y = data()
    holed = X.copy()
    holed[3, 4] = np.nan
    for bad in (holed, torch.from_numpy(holed)):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            LeaceEraser().fit(bad, y)
        with pytest.raises(ValueError, match="Input X contains NaN"):
            LeaceEraser().fit(X, y).transform(bad)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LeaceEraser().fit(X, y[:-1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LeaceEraser("values").fit(X, X[:-1])
    with pytest.raises(ValueError, match="9 features, but LeaceEraser is expecting 10"):
        LeaceEraser().fit(X, y).partial_fit(X[:, 1:], y)
    for eraser, concept in ((LeaceEraser(), np.ones(300)), (LeaceEraser("values"), np.full(300, 0.1))):
        with pytest.raises(ValueError, match="concept that varies, got 1 class or one value"):
            eraser.fit(X, concept)
        with pytest.raises(ValueError, match="concept that varies"):
            clone(eraser).partial_fit(X, concept).transform(X)
    for values in (X[:, 0], torch.from_numpy(X[:, 0])):
        with pytest.raises(ValueError, match=r"Unknown label type.*LeaceEraser\(concept='values'\) takes numbers"):
            LeaceEraser().fit(X, values)
    with pytest.raises(ValueError, match="values with 2 columns as before, got 3"):
        LeaceEraser("values").fit(X, X[:, :2]).partial_fit(X, X[:, :3])
    with pytest.raises(ValueError, match="labels of one kind in every chunk"):
        LeaceEraser().fit(X, y).partial_fit(X, torch.from_numpy(y))
    with pytest.raises(ValueError, match="expected method to be one of leace, orthogonal, got 'inlp'"):
        LeaceEraser(method="inlp").fit(X, y)
    with pytest.raises(ValueError, match="expected concept to be one of classes, values, got 'auto'"):
        LeaceEraser(concept="auto").fit(X, y)
    with pytest.raises(NotFittedError):
        _ = LeaceEraser().rank_
