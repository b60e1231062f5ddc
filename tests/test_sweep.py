"""Sweeps: what the estimators give one by one, the whole in one call, from data that is never held whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge

from loadbearing.probes import CircularProbe, LogisticProbe, RidgeProbe, RidgeRegressor, sweep
from loadbearing.probes.ridge import PENALTIES

N, D, CLASSES, FOLDS = 300, 12, 4, 4


def make(seed: int = 0, d: int = D, shares: Any = None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Activations `[n, 2, 3, d]` in which a label is read better from cell to cell, and the label."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, N) if shares is None else rng.choice(CLASSES, N, p=shares)
    X = rng.normal(size=(N, 2, 3, d)) * np.geomspace(2, 0.5, d)
    for i, cell in enumerate(np.ndindex(2, 3)):
        X[:, *cell, :CLASSES] += 0.5 * i * np.eye(CLASSES)[y]
    return X, y


def alpha(X: NDArray[Any], penalty: float) -> float:
    return float(penalty * ((X - X.mean(0)) ** 2).sum() / X.shape[1])


@pytest.mark.parametrize(("d", "shares"), [(12, None), (12, (0.7, 0.15, 0.1, 0.05)), (350, None)])
def test_ridge_scores_and_penalty_are_those_of_refits_with_scikit_learn(d: int, shares: Any) -> None:
    """Every outer fold: the penalty with the lowest squared error, after the best rescaling, on the other folds, each
    predicted by a refit."""
    X, y = make(d=d, shares=shares)
    found = sweep(X, {"y": y}, folds=FOLDS)
    one_hot = np.eye(CLASSES)[y]
    for cell in ((0, 1), (1, 2)) if d == D else ((1, 2),):
        Z = X[:, *cell]
        for a in range(FOLDS):
            errors = []
            for penalty in PENALTIES:
                fitted, wanted = [], []
                for b in set(range(FOLDS)) - {a}:
                    train, out = (found.fold != a) & (found.fold != b), found.fold == b
                    ridge = Ridge(alpha=alpha(Z[train], penalty)).fit(Z[train], one_hot[train])
                    fitted.append((ridge.predict(Z[out]) - 1 / CLASSES).ravel())
                    wanted.append((one_hot[out] - 1 / CLASSES).ravel())
                errors.append(np.linalg.lstsq(np.concatenate(fitted)[:, None], np.concatenate(wanted))[1][0])
            assert found.penalty[0, a, *cell] == PENALTIES[int(np.argmin(errors))]
            train, out = found.fold != a, found.fold == a
            ridge = Ridge(alpha=alpha(Z[train], found.penalty[0, a, *cell])).fit(Z[train], one_hot[train])
            hits = ridge.predict(Z[out]).argmax(1) == y[out]
            np.testing.assert_array_equal(found.hit[0, *cell, out], hits)


def test_where_little_can_be_read_the_penalty_chosen_reads_as_much_as_the_best_one() -> None:
    """A plain squared error would shrink the scores ten times too much, and the probabilities with them."""
    rng = np.random.default_rng(0)
    y, spread = rng.integers(0, 10, 2000), np.geomspace(3, 0.3, 64)
    X = rng.normal(size=(2000, 64)) * spread + 0.1 * (rng.normal(size=(10, 64)) * spread)[y]
    bits = {p: sweep(X, {"y": y}, probe=RidgeProbe(penalties=(p,))).bits("y").mean() for p in PENALTIES}
    assert sweep(X, {"y": y}).bits("y").mean() > 0.95 * max(bits.values()) > 0.05
    assert bits[100.0] < 0.5 * max(bits.values())


def test_logistic_losses_are_those_of_scikit_learn() -> None:
    X, y = make()
    probe = LogisticProbe(penalties=(0.01, 0.1, 1.0))
    found = sweep(X, {"y": y}, probe=probe, folds=FOLDS)
    for cell in ((0, 0), (1, 2)):
        Z = X[:, *cell]
        for a in range(FOLDS):
            train, out = found.fold != a, found.fold == a
            best = found.penalty[0, a, *cell]
            model = LogisticRegression(C=1 / alpha(Z[train], best), max_iter=2000, tol=1e-8).fit(Z[train], y[train])
            log_p = model.predict_log_proba(Z[out])[np.arange(out.sum()), y[out]]
            np.testing.assert_allclose(found.loss[0, *cell, out].mean(), -log_p.mean(), rtol=2e-3)


@pytest.mark.parametrize("probe", [RidgeProbe(), LogisticProbe(), RidgeRegressor(), CircularProbe(period=4)])
def test_read_in_blocks_from_a_file_it_is_the_same(probe: Any, tmp_path: Path) -> None:
    X, y = make()
    on_disk = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float64, shape=X.shape)
    on_disk[:] = X
    on_disk.flush()
    whole = sweep(X, {"y": y, "half": y % 2}, probe=probe, folds=FOLDS)
    streamed = sweep(
        np.load(tmp_path / "x.npy", mmap_mode="r"), {"y": y, "half": y % 2}, probe=probe, folds=FOLDS, memory=1e-4
    )
    np.testing.assert_allclose(streamed.loss, whole.loss, rtol=1e-3, atol=1e-4)  # float32 sums in another order
    np.testing.assert_array_equal(streamed.penalty, whole.penalty)


class Counting:
    """Activations that are made when they are asked for, a slice of rows at a time."""

    def __init__(self, n: int, cells: int, d: int) -> None:
        self.shape = (n, cells, d)
        self.largest = self.rows = 0

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        size = rows.stop - rows.start
        self.largest, self.rows = max(self.largest, size), self.rows + size
        rng = np.random.default_rng(rows.start)
        X = rng.normal(size=(size, *self.shape[1:]))
        X[:, 1, 0] += 3.0 * (np.arange(rows.start, rows.stop) % 2)
        return X


def test_one_pass_fits_and_one_scores_and_no_block_is_large() -> None:
    """The number of rows in memory at once depends on `memory` alone, not on how many there are."""
    sizes = []
    for n in (8000, 16000):
        source = Counting(n, 2, 64)
        found = sweep(source, {"y": np.arange(n) % 2}, memory=0.04)
        assert source.rows == 2 * n
        assert found.bits("y").mean(-1)[1] > 0.5 > 0.1 > abs(found.bits("y").mean(-1)[0])
        sizes.append(source.largest)
    assert sizes[0] == sizes[1] < 4000


def test_the_fast_ways_agree_with_the_estimators_one_by_one() -> None:
    """Fitted cell by cell a RidgeProbe chooses by leave-one-out, not by folds: near, not equal. Regression likewise."""
    X, y = make()
    for probe, target in ((RidgeProbe(penalties=(0.1,)), y), (RidgeRegressor(penalties=(0.1,)), y.astype(float))):
        fast = sweep(X, {"y": target}, probe=probe, folds=FOLDS)

        class Other(type(probe)):  # type: ignore[misc]
            """The same estimator under a name that has no fast way."""

        slow = sweep(X, {"y": target}, probe=Other(penalties=(0.1,)), folds=FOLDS)
        np.testing.assert_allclose(fast.loss.mean(-1), slow.loss.mean(-1), rtol=0.02)
        if fast.classifies:
            np.testing.assert_array_equal(fast.hit, slow.hit)
        else:
            np.testing.assert_allclose(fast.loss, slow.loss, rtol=1e-4, atol=1e-7)


def test_any_estimator_of_scikit_learn_can_be_swept() -> None:
    X, y = make()
    found = sweep(X, {"y": y}, probe=LinearDiscriminantAnalysis(), folds=FOLDS)
    assert found.accuracy("y")[1, 2] > 0.6 > 0.4 > found.accuracy("y")[0, 0]
    with pytest.raises(ValueError, match="no cell has an inner loss to choose by"):
        found.chosen("y")


def test_a_circular_sweep_predicts_values_that_training_never_saw() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(600) % 12
    angle = 2 * np.pi * y / 12
    X = np.stack([np.cos(angle), np.sin(angle), rng.normal(size=600)], axis=1) + 0.05 * rng.normal(size=(600, 3))
    probe = CircularProbe(period=12, frequencies=(1,))
    found = sweep(X, {"y": y}, probe=probe, groups=y, folds=4)  # the groups are the values: none is on both sides
    assert found.accuracy("y") > 0.95
    line = sweep(X, {"y": y.astype(float)}, probe=RidgeRegressor(), groups=y, folds=4)
    assert line.r2("y") < 0.6  # the value is on no line


def test_the_choice_of_a_cell_looks_at_training_rows_only() -> None:
    """Of many cells of noise, the best after the fact reads bits that are not there; the chosen one reads none."""
    rng = np.random.default_rng(0)
    chosen, best = [], []
    for _ in range(6):
        y = rng.integers(0, 2, 80)
        found = sweep(rng.normal(size=(80, 60, 4)), {"y": y})
        losses, picks = found.chosen("y")
        chosen.append(((found.null[0] - losses) / np.log(2)).mean())
        best.append(found.bits("y").mean(-1).max())
        assert len(picks) == 5 and all(len(pick) == 1 for pick in picks)
    assert np.mean(chosen) < 0.01 < 0.02 < np.mean(best)
    X, y = make()
    _, picks = sweep(X, {"y": y}).chosen("y")
    assert set(picks) == {(1, 2)}
    only = np.zeros((2, 3), dtype=bool)
    only[0, 1] = True
    assert set(sweep(X, {"y": y}).chosen("y", only)[1]) == {(0, 1)}


@pytest.mark.parametrize("probe", [RidgeProbe(), LogisticProbe()])
@pytest.mark.parametrize("classes", [3, 50])
def test_noise_gives_no_bits_and_rare_labels_cost_no_more_than_a_sample(probe: Any, classes: int) -> None:
    rng = np.random.default_rng(0)
    bits = []
    for _ in range(3):
        y = rng.integers(0, classes, 200)
        found = sweep(rng.normal(size=(200, 16)), {"y": y}, probe=probe)
        bits.append(found.bits("y").mean())
        assert found.loss.max() < np.log(10 * 200 * classes)
    assert np.mean(bits) < 0.01
    y = np.arange(200) % classes
    assert sweep(4 * np.eye(classes)[y], {"y": y}, probe=probe).bits("y").mean() > 0.5 * np.log2(classes)


def test_a_frame_has_intervals_over_groups() -> None:
    pytest.importorskip(
        "pandas", reason="tables need pandas, which comes with the whole package, not with probes alone"
    )
    X, y = make()
    groups = np.arange(N) // 3
    y = y[groups * 3]
    X, _ = make()
    X[:, 1, 2, :CLASSES] += 2 * np.eye(CLASSES)[y]
    found = sweep(X, {"y": y}, groups=groups)
    frame = found.frame({"layer": range(2), "position": ["a", "b", "c"]})
    assert list(frame.columns) == ["target", "layer", "position", "estimate", "low", "high", "accuracy"]
    row = frame.query("layer == 1 and position == 'c'").iloc[0]
    assert row["low"] < row["estimate"] < row["high"]
    assert row["estimate"] == pytest.approx(found.bits("y")[1, 2].mean())
    with pytest.raises(ValueError, match=r"expected names for cells of shape \(2, 3\), got \[2\]"):
        found.frame({"layer": range(2)})


def test_tensors_of_any_precision() -> None:
    X, y = make()
    whole = sweep(X, {"y": y})
    for dtype, far in ((torch.float64, 1e-6), (torch.float32, 1e-4), (torch.bfloat16, 0.3), (torch.float16, 0.05)):
        found = sweep(torch.from_numpy(X).to(dtype), {"y": torch.from_numpy(y)})
        assert abs(found.loss - whole.loss).max() < far, dtype


def test_bad_input() -> None:
    X, y = make()
    with pytest.raises(ValueError, match="no targets"):
        sweep(X, {})
    with pytest.raises(ValueError, match="expected 3 folds at least, got 2"):
        sweep(X, {"y": y}, folds=2)
    with pytest.raises(ValueError, match="groups leak between folds: group 0 is in two of them"):
        sweep(X, {"y": y}, folds=np.arange(N) % 4, groups=np.zeros(N, dtype=int))
    with pytest.raises(ValueError, match="target 'y' has one class, 0"):
        sweep(X, {"y": np.zeros(N, dtype=int)})
    with pytest.raises(ValueError, match="inconsistent numbers of samples: 300 rows and 10 labels"):
        sweep(X, {"y": y[:10]})
    with pytest.raises(ValueError, match="4 groups cannot fill 5 folds"):
        sweep(X[:4], {"y": np.array([0, 1, 0, 1])})
    with pytest.raises(ValueError, match=r"activations contain NaN or infinity, first in row 7: drop or mend"):
        broken = X.copy()
        broken[7, 0, 0, 0] = np.nan
        sweep(broken, {"y": y})
    with pytest.raises(ValueError, match=r"expected activations \[n, \*cells, d\]"):
        sweep(X[:, 0, 0, 0], {"y": y})
    with pytest.raises(ValueError, match="unknown target 'z': the sweep has y"):
        sweep(X, {"y": y}).bits("z")
    constant = sweep(np.ones((N, 3)), {"y": y})
    assert abs(constant.bits("y").mean()) < 0.02
