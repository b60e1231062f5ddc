"""Every probe: scikit-learn's rules, both kinds of arrays, no copy to the host, weights that are copies, bad input."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import loadbearing.probes
from loadbearing.probes.circular import CircularProbe
from loadbearing.probes.logistic import LogisticProbe
from loadbearing.probes.lowrank import LowRankProbe
from loadbearing.probes.means import DiscriminantProbe, MeanDifferenceProbe
from loadbearing.probes.mlp import MLPProbe
from loadbearing.probes.ridge import RidgeProbe, RidgeRegressor

FEW = (1e-3, 0.1)
SMALL: dict[str, Any] = {  # as they come, but for what only costs time
    "ridge": RidgeProbe(),
    "logistic": LogisticProbe(penalties=FEW),
    "means": MeanDifferenceProbe(),
    "discriminant": DiscriminantProbe(),
    "circular": CircularProbe(),
    "lowrank": LowRankProbe(penalties=FEW),
    "mlp": MLPProbe(width=8, steps=30, rate=0.05),
}
LINEAR = [name for name in SMALL if name != "mlp"]
GRID = {
    "ridge": {"penalties": [(0.01,), (1.0,)]},
    "logistic": {"penalties": [(0.01,), (1.0,)]},
    "means": {"folds": [None, 3]},
    "discriminant": {"shrinkages": [(0.1,), (0.9,)]},
    "circular": {"penalties": [(0.01,), (1.0,)]},
    "lowrank": {"rank": [1, 2]},
    "mlp": {"width": [2, 8]},
}
every = pytest.mark.parametrize("name", list(SMALL))


class Guarded(torch.Tensor):
    """A tensor that must not leave its device."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a copy to the host")

    cpu = numpy = tolist = __array__ = _refuse


def blobs(n: int = 60, d: int = 6, classes: int = 3, noise: float = 0.4, seed: int = 0) -> tuple[Any, Any]:
    """Classes at corners of a cube, as tensors."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    return torch.eye(d, dtype=torch.float64)[y] + noise * torch.randn(n, d, generator=generator, dtype=torch.float64), y


def close(one: Any, other: Any, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=atol)


@parametrize_with_checks([*SMALL.values(), RidgeRegressor()])  # type: ignore[untyped-decorator]
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_the_rules_of_scikit_learn(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def test_public_names() -> None:
    for probe in [*SMALL.values(), RidgeRegressor()]:
        assert getattr(loadbearing.probes, type(probe).__name__) is type(probe)


@every
def test_tensors_and_arrays_are_alike(name: str) -> None:
    X, y = blobs()
    by_tensor, by_array = clone(SMALL[name]).fit(X, y), clone(SMALL[name]).fit(X.numpy(), y.numpy())
    assert isinstance(by_tensor.predict_proba(X), torch.Tensor) and isinstance(by_tensor.predict(X), torch.Tensor)
    assert isinstance(by_array.predict_proba(X.numpy()), np.ndarray)
    close(by_tensor.predict_proba(X), by_array.predict_proba(X.numpy()))
    close(by_tensor.predict(X), by_array.predict(X.numpy()))
    assert by_tensor.score(X, y) > 0.85
    if name in LINEAR:
        close(by_tensor.coef_, by_array.coef_)
        close(by_tensor.subspace_, by_array.subspace_)
        assert isinstance(by_tensor.subspace_, torch.Tensor) and isinstance(by_array.subspace_, np.ndarray)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    X, y = blobs()
    exact = clone(SMALL[name]).fit(X, y).predict_proba(X)
    probe = clone(SMALL[name]).fit(X.to(dtype), y)
    close(probe.predict_proba(X.to(dtype)), exact, atol=4 * torch.finfo(dtype).eps)
    if dtype != torch.bfloat16:
        halves = X.numpy().astype(str(dtype).removeprefix("torch."))
        close(clone(probe).fit(halves, y.numpy()).predict_proba(halves), probe.predict_proba(X.to(dtype)))


@every
def test_nothing_is_copied_to_the_host(name: str) -> None:
    X, y = (part.as_subclass(Guarded) for part in blobs())
    with pytest.raises(AssertionError, match="a copy to the host"):
        np.asarray(X)
    weights = torch.rand(len(X), generator=torch.Generator().manual_seed(0)).as_subclass(Guarded)
    for fitted in (
        clone(SMALL[name]).fit(X, y),
        clone(SMALL[name]).fit(X, y, sample_weight=weights),
        clone(SMALL[name]).fit(X, y, groups=(torch.arange(len(X)) // 2).as_subclass(Guarded)),
    ):
        assert fitted.predict_proba(X).shape == (60, 3)
        assert (fitted.predict(X) == y).float().mean() > 0.85
        fitted.predict_log_proba(X), fitted.decision_function(X)
        if name in LINEAR:
            assert fitted.subspace_.shape == (6, 2)


def test_the_regressor_copies_nothing_to_the_host() -> None:
    X, _ = blobs()
    values = (X[:, 0] - 2 * X[:, 1]).as_subclass(Guarded)
    probe = RidgeRegressor().fit(X.as_subclass(Guarded), values)
    assert (probe.predict(X.as_subclass(Guarded)) - values).abs().max() < 1e-3
    assert probe.subspace_.shape == (6, 1)


@every
def test_the_same_bits_twice(name: str) -> None:
    X, y = blobs()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first, second = clone(SMALL[name]).fit(X, y), clone(SMALL[name]).fit(X, y)
    assert torch.equal(first.predict_log_proba(X), second.predict_log_proba(X))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index]
    again = pickle.loads(pickle.dumps(first))
    assert torch.equal(again.predict_log_proba(X), first.predict_log_proba(X))


@every
def test_a_weight_is_a_number_of_copies(name: str) -> None:
    X, y = blobs(n=40, noise=0.8)
    generator = torch.Generator().manual_seed(1)
    copies = torch.randint(0, 4, (40,), generator=generator)
    order = torch.randperm(int(copies.sum()), generator=generator)
    weighted = clone(SMALL[name]).fit(X, y, sample_weight=copies)
    repeated = clone(SMALL[name]).fit(X.repeat_interleave(copies, 0)[order], y.repeat_interleave(copies)[order])
    close(weighted.predict_log_proba(X), repeated.predict_log_proba(X), atol=1e-7)
    plain = clone(SMALL[name]).fit(X, y)
    assert (plain.predict_proba(X) - weighted.predict_proba(X)).abs().max() > 1e-3


@every
def test_no_gradient_is_needed_or_kept(name: str) -> None:
    X, y = blobs()
    plain = clone(SMALL[name]).fit(X, y).predict_proba(X)
    with torch.inference_mode():
        inside = clone(SMALL[name]).fit(X.clone(), y).predict_proba(X)
    tracked = clone(SMALL[name]).fit(X.clone().requires_grad_(), y).predict_proba(X)
    assert torch.equal(plain, inside) and torch.equal(plain, tracked) and not tracked.requires_grad


@every
def test_it_lives_in_pipelines_and_searches(name: str) -> None:
    X, y = blobs()
    names = np.array(["a", "b", "c"])[y]
    pipe = make_pipeline(StandardScaler(), clone(SMALL[name])).fit(X.numpy(), names)
    assert pipe.score(X.numpy(), names) > 0.85 and set(pipe.predict(X.numpy())) <= {"a", "b", "c"}
    searches = [GridSearchCV(clone(SMALL[name]), GRID[name], cv=3, error_score="raise") for _ in range(2)]
    by_array, by_tensor = searches[0].fit(X.numpy(), y.numpy()), searches[1].fit(X, y)
    assert by_array.best_score_ > 0.7
    assert by_array.best_params_ == by_tensor.best_params_
    close(by_array.predict_proba(X.numpy()), by_tensor.predict_proba(X))


@every
@pytest.mark.parametrize("n, d", [(20, 50), (60, 1), (4, 3)])
def test_shapes(name: str, n: int, d: int) -> None:
    """More features than samples; one feature; fewer samples than folds, so that classes are missing in some."""
    X, _ = blobs(n, max(d, 3))
    X, y = X[:, :d], torch.arange(n) % 2
    X[:, 0] += 3 * y
    for groups in (None, torch.arange(n) // 2):
        probe = clone(SMALL[name]).fit(X, y, groups=groups)
        chance = probe.predict_proba(X)
        assert torch.isfinite(chance).all() and (chance.sum(1) - 1).abs().max() < 1e-9
        assert n == 4 or probe.score(X, y) > 0.85


@every
def test_a_class_of_one_sample(name: str) -> None:
    X, y = blobs(n=31)
    y = torch.where(torch.arange(31) == 30, 7, y)
    chance = clone(SMALL[name]).fit(X, y).predict_proba(X)
    assert chance.shape == (31, 4) and torch.isfinite(chance).all()


@every
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_features_without_variation_tell_nothing(name: str, value: float) -> None:
    y = torch.arange(40) % 2
    chance = clone(SMALL[name]).fit(torch.full((40, 3), value), y).predict_proba(torch.full((5, 3), value))
    close(chance, np.full((5, 2), 0.5), atol=0.02)


@every
def test_noise_tells_nothing(name: str) -> None:
    X, _ = blobs(200, 10)
    y = torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(5))
    X = X - torch.eye(10, dtype=X.dtype)[torch.arange(200) % 3]
    probe = clone(SMALL[name]).fit(X[:100], y[:100])
    loss = -probe.predict_log_proba(X[100:])[torch.arange(100), y[100:]].mean()
    assert abs(float(loss) - np.log(2)) < 0.08


@every
def test_bad_input(name: str) -> None:
    X, y = blobs()
    probe = clone(SMALL[name])
    with pytest.raises(NotFittedError):
        probe.predict(X)
    for features, labels in ((X, y), (X.numpy(), y.numpy())):
        with pytest.raises(ValueError, match="needs samples of at least 2 classes, got 1 class"):
            probe.fit(features, 0 * labels)
        with pytest.raises(ValueError, match="NaN"):
            probe.fit(features * np.nan, labels)
        with pytest.raises(ValueError, match="infinity"):
            probe.fit(features / 0.0 if isinstance(features, torch.Tensor) else np.full_like(features, np.inf), labels)
        with pytest.raises(ValueError, match=r"one label a row|inconsistent numbers of samples"):
            probe.fit(features, labels[:-1])
        with pytest.raises(ValueError, match="2D array"):
            probe.fit(features[0], labels)
        with pytest.raises(ValueError, match=r"sample_weight.shape == "):
            probe.fit(features, labels, sample_weight=np.ones(3))
        with pytest.raises(ValueError, match="egative"):
            probe.fit(features, labels, sample_weight=-np.ones(60))
        with pytest.raises(ValueError, match=r"all sample weights are 0|at least one non-zero"):
            probe.fit(features, labels, sample_weight=np.zeros(60))
        with pytest.raises(ValueError, match="needs samples of at least 2 classes, got 1 class"):
            probe.fit(features, labels, sample_weight=np.asarray(y == 0, dtype=float))
        with pytest.raises(ValueError, match="features"):
            clone(probe).fit(features, labels).predict(features[:, :3])
