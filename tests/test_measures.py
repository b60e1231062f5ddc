"""Measures: against densities that are known, scikit-learn, codes counted by hand, and what no measure may find."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from loadbearing.probes import LogisticProbe, RidgeProbe, group_folds, null_log_p
from loadbearing.probes.calibration import calibration
from loadbearing.probes.codelength import FRACTIONS, online_codelength
from loadbearing.probes.conditional import conditional_v_information
from loadbearing.probes.controls import control_labels, selectivity, shuffled
from loadbearing.probes.estimate import Estimate
from loadbearing.probes.held_out import held_out, v_information
from loadbearing.probes.information import constant_log_p, fold_numbers, pointwise_v_information

H = np.linspace(-12, 14, 40001)
LOGISTIC = LogisticProbe(penalties=(1e-4, 1e-2, 1.0), folds=3)
BEYOND = LogisticProbe(penalties=(1e-3, 1e-1, math.inf), folds=3, fit_intercept=False)


def two_gaussians(distance: float = 1.0) -> float:
    """I(h; y) in bits of two classes at +distance and -distance with unit noise, by quadrature."""
    density = np.exp(-((H - distance) ** 2) / 2) / np.sqrt(2 * np.pi)
    return float(1 - (density * np.log2(1 + np.exp(-2 * distance * H))).sum() * (H[1] - H[0]))


def gaussian(n: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return (2.0 * y - 1)[:, None] + rng.normal(size=(n, 1)), y


def correlated(n: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Five Gaussian classes in 6 dimensions with shared, correlated noise and the true pointwise information."""
    rng = np.random.default_rng(seed)
    means = 1.2 * np.random.default_rng(99).normal(size=(5, 6))
    factor = np.tril(np.random.default_rng(98).normal(size=(6, 6)) * 0.4 + np.eye(6))
    y = rng.integers(0, 5, n)
    X = means[y] + rng.normal(size=(n, 6)) @ factor.T
    white = np.linalg.solve(factor, (X[:, None] - means).reshape(-1, 6).T).T.reshape(n, 5, 6)
    log_density = -0.5 * (white**2).sum(-1)
    posterior = log_density - np.log(np.exp(log_density).sum(1, keepdims=True))
    return X, y, (posterior[np.arange(n), y] + np.log(5)) / np.log(2)


class Kept(torch.Tensor):
    """A tensor that may not leave its device."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("cpu", "numpy", "tolist", "__array__"):
            raise AssertionError(f"{func.__name__} on a tensor that came in")
        through: Any = super().__torch_function__
        return through(func, types, args, kwargs or {})


def kept(values: Any) -> Any:
    return torch.as_tensor(values).as_subclass(Kept)


# V-information


@pytest.mark.parametrize("probe", [RidgeProbe(), LOGISTIC, LinearDiscriminantAnalysis(), LogisticRegression()])
def test_two_gaussians_have_the_bits_of_their_densities(probe: Any) -> None:
    assert two_gaussians() == pytest.approx(0.486, abs=1e-3)
    X, y = gaussian(4000)
    found = v_information(probe, X, y)
    low, high = found.interval()
    assert low < two_gaussians() < high
    assert high - low < 0.08


@pytest.mark.parametrize("probe", [RidgeProbe(), LOGISTIC, LinearDiscriminantAnalysis()])
def test_bits_approach_the_true_information_from_below(probe: Any) -> None:
    """The same rows under the true densities: what a linear family lacks is what it has not learnt yet."""
    lacking = []
    for n in (150, 3000):
        X, y, true = correlated(n)
        found = v_information(probe, X, y)
        lacking.append(float((true - found.values).mean()))
    assert lacking[0] > lacking[1] > 0
    assert lacking[1] < (0.2 if isinstance(probe, RidgeProbe) else 0.03)  # squared error is not the best loss here


def test_bits_are_pointwise_and_proper() -> None:
    X, y, _ = correlated(300)
    found = held_out(LogisticRegression(), X, y, seed=3)
    for f in range(5):
        out = found.fold == f
        log_p = LogisticRegression().fit(X[~out], y[~out]).predict_log_proba(X[out])[np.arange(out.sum()), y[out]]
        np.testing.assert_allclose(found.log_p[out], log_p)
        np.testing.assert_allclose(found.log_p_null[out], null_log_p(y[~out], y[out]))
    np.testing.assert_allclose(np.exp(found.log_proba).sum(1), 1)
    np.testing.assert_allclose(found.bits.values, pointwise_v_information(found.log_p, found.log_p_null))
    assert found.bits.mean == pytest.approx(found.entropy.mean + found.log_p.mean() / np.log(2))
    assert found.accuracy.mean == np.mean(found.log_proba.argmax(1) == y)


@pytest.mark.parametrize(
    "probe",
    [RidgeProbe(), LOGISTIC, KNeighborsClassifier(), DecisionTreeClassifier(random_state=0), DummyClassifier()],
)
def test_there_are_no_bits_in_shuffled_labels(probe: Any) -> None:
    X, y, _ = correlated(300)
    groups = np.arange(300) // 3
    y = y[3 * groups]
    means = [v_information(probe, X, shuffled(y, groups, seed=s), groups=groups).mean for s in range(8)]
    assert np.mean(means) < 0.01
    assert max(means) < 0.05
    assert all(math.isfinite(mean) for mean in means)


@pytest.mark.parametrize("probe", [RidgeProbe(), KNeighborsClassifier()])
def test_labels_that_folds_have_not_seen_have_a_probability(probe: Any) -> None:
    """Most folds lack some of forty classes. Rows sum to 1, and noise is on average not told to be information."""
    bits = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        y = np.array([f"v{i}" for i in np.r_[np.arange(40), rng.integers(0, 5, 80)]])
        found = held_out(probe, rng.normal(size=(120, 3)), y, seed=seed)
        bits.append(found.bits.mean)
        np.testing.assert_allclose(np.exp(found.log_proba).sum(1), 1)
        once = np.array([(y == label).sum() == 1 for label in y])
        np.testing.assert_allclose(np.exp(found.log_p[once]), 1 / (96 + 40))
    assert np.mean(bits) < 0


def test_the_best_constant() -> None:
    np.testing.assert_allclose(constant_log_p(torch.tensor([6.0, 2.0, 0.0])).exp(), [7 / 11, 3 / 11, 1 / 11])
    np.testing.assert_allclose(constant_log_p(torch.tensor([2.0, 2.0])).exp(), [0.5, 0.5])


@pytest.mark.parametrize("probe", [RidgeProbe(), LOGISTIC, LogisticRegression()])
def test_constant_features_tell_nothing(probe: Any) -> None:
    y = np.arange(200) % 2
    assert v_information(probe, np.full((200, 3), 0.1), y).mean == pytest.approx(0, abs=0.01)
    text = np.log(np.full((200, 2), 0.5))
    assert conditional_v_information(np.full((200, 3), 0.1), y, text).mean == 0


def test_any_classifier_of_scikit_learn_will_do_and_groups_reach_a_probe_that_takes_them() -> None:
    X, y = gaussian(300)
    assert v_information(make_pipeline(StandardScaler(), LogisticRegression()), X, y).mean > 0.3
    told = []

    class Told(RidgeProbe):
        def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Any:
            told.append(len(np.unique(groups)))
            return super().fit(X, y, sample_weight, groups)

    v_information(Told(), X, y, groups=np.arange(300) // 3)
    assert told == [80] * 5


# Intervals


def test_the_interval_is_by_group() -> None:
    """Copies of a row are no evidence: the interval of three copies each is that of the rows alone, in their group."""
    values = np.random.default_rng(0).normal(size=200)
    alone, copied = Estimate(values), Estimate(np.repeat(values, 3), np.repeat(np.arange(200), 3))
    np.testing.assert_allclose(alone.interval(), copied.interval())
    naive = Estimate(np.repeat(values, 3)).interval()
    assert (naive[1] - naive[0]) * 1.5 < copied.interval()[1] - copied.interval()[0]
    normal = 2 * 1.96 * values.std() / np.sqrt(200)
    assert alone.interval()[1] - alone.interval()[0] == pytest.approx(normal, rel=0.1)
    assert alone.interval() == alone.interval() != alone.interval(seed=1)
    low, high = alone.interval(0.5)
    assert alone.interval()[0] < low < alone.mean < high < alone.interval()[1]


def test_nine_of_ten_intervals_hold_the_mean() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 4)
    held = 0
    for _ in range(200):
        values = rng.normal(size=60)[groups] + rng.normal(size=240)
        low, high = Estimate(values, groups).interval(0.9, resamples=199)
        held += low < 0 < high
    assert 170 <= held <= 193  # 180 expected


def test_an_estimate_in_words() -> None:
    assert repr(Estimate(np.array([1.0, 1.0]), np.array(["a", "b"]))) == "1.00 bits [1.00, 1.00], 2 groups"
    assert all(map(math.isnan, Estimate(np.array([1.0, 2.0]), np.array([7, 7])).interval()))
    assert (Estimate(np.array([1.0, 2.0])) - Estimate(np.array([1.0, 0.0]))).values.tolist() == [0.0, 2.0]
    with pytest.raises(ValueError, match="expected one group for each of 2 values, got 1"):
        Estimate(np.array([1.0, 2.0]), np.array([1]))
    with pytest.raises(ValueError, match="confidence between 0 and 1, got 95"):
        Estimate(np.array([1.0, 2.0])).interval(95.0)
    with pytest.raises(ValueError, match="the same rows"):
        Estimate(np.array([1.0, 2.0])) - Estimate(np.array([1.0]))


# Beyond the text


def text_and_state(n: int = 3000) -> tuple[Any, Any, Any, Any]:
    """A label, log q(y | text) of a noisy text by Bayes' rule, the text's own evidence, and an independent state."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    text, state = (2.0 * y - 1 + rng.normal(size=n) for _ in range(2))
    log_q = -np.logaddexp(0, np.stack([2 * text, -2 * text], axis=1))
    return y, log_q, text[:, None], state[:, None]


def test_the_state_adds_what_the_chain_rule_says() -> None:
    """Two independent readings are one with sqrt(2) of the distance: I(h; y | t) = I(h, t; y) - I(t; y)."""
    y, log_q, _, state = text_and_state()
    known = two_gaussians(math.sqrt(2)) - two_gaussians()
    found = conditional_v_information(state, y, log_q)
    low, high = found.interval()
    assert low < known < high
    assert found.mean == pytest.approx(known, abs=0.03)
    assert v_information(LOGISTIC, state, y).mean > found.mean + 0.1  # most of it is in the text too


def test_a_state_that_repeats_the_text_adds_nothing() -> None:
    y, log_q, text, state = text_and_state()
    repeats = text + 0.3 * np.random.default_rng(1).normal(size=text.shape)
    assert v_information(LOGISTIC, repeats, y).mean > 0.3
    assert conditional_v_information(repeats, y, log_q, probe=BEYOND).mean == pytest.approx(0, abs=0.003)
    never = LogisticProbe(penalties=(math.inf,), fit_intercept=False)
    assert conditional_v_information(state, y, log_q, probe=never).mean == pytest.approx(0, abs=1e-12)


def test_a_text_that_says_all_leaves_nothing_and_half_of_it_leaves_the_rest() -> None:
    """The text tells the first bit of four values; the state tells the second through unit noise, or the first."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2, (2, 3000))
    y = np.array(["00", "01", "10", "11"])[2 * first + second]
    with np.errstate(divide="ignore"):
        log_q = np.log(np.repeat(np.eye(2)[first] / 2, 2, axis=1))
    of_second, of_first = ((2.0 * bit - 1 + rng.normal(size=3000))[:, None] for bit in (second, first))
    assert conditional_v_information(of_second, y, log_q, probe=BEYOND).mean == pytest.approx(two_gaussians(), abs=0.04)
    assert conditional_v_information(of_first, y, log_q, probe=BEYOND).mean == pytest.approx(0, abs=0.003)
    columns = ["11", "10", "01", "00"]
    reordered = conditional_v_information(of_second, y, log_q[:, ::-1].copy(), classes=columns, probe=BEYOND)
    assert reordered.mean == pytest.approx(two_gaussians(), abs=0.04)


def test_a_label_that_training_folds_lack_keeps_the_texts_probability() -> None:
    y, log_q, _, state = text_and_state(200)
    y[7] = 2
    third = np.concatenate([log_q + np.log(0.9), np.full((200, 1), np.log(0.1))], axis=1)
    assert conditional_v_information(state, y, third).values[7] == pytest.approx(0, abs=1e-9)


def test_what_no_text_can_say() -> None:
    y, log_q, _, state = text_and_state(100)
    with pytest.raises(ValueError, match=r"of shape \(100, 2\), got \(100, 3\).*classes="):
        conditional_v_information(state, y, np.concatenate([log_q, log_q[:, :1]], axis=1))
    with pytest.raises(ValueError, match="do not sum to 1"):
        conditional_v_information(state, y, np.exp(log_q))
    impossible = np.where(np.eye(2)[y] > 0, -np.inf, 0.0)
    with pytest.raises(ValueError, match="probability 0 to the label of row 0"):
        conditional_v_information(state, y, impossible)
    with pytest.raises(ValueError, match="not among the 2 classes: row"):
        conditional_v_information(state, y, log_q, classes=[1, 2])


# Description length


def test_the_code_of_a_constant_probe_by_hand() -> None:
    """Frequencies of 8, then 16 rows, each block coded by those before it."""
    y = np.array([0, 1, 1, 1] * 8)
    found = online_codelength(DummyClassifier(), np.zeros((32, 1)), y, fractions=(0.25, 0.5, 1.0), least=8, seed=1)
    assert found.ends == (8, 16, 32)
    order = np.argsort(np.random.default_rng(1).permutation(32))
    blocks = [8.0]
    for start, end in ((8, 16), (16, 32)):
        share = np.bincount(y[order[:start]], minlength=2) / start
        assert share.min() > 0
        blocks.append(-np.log2(share[y[order[start:end]]]).sum())
    assert found.blocks == pytest.approx(blocks)
    assert found.bits == pytest.approx(sum(blocks)) == pytest.approx(found.rows.values.sum())
    assert found.uniform_bits == 32
    assert found.compression == pytest.approx(32 / sum(blocks))


@pytest.mark.parametrize("probe", [RidgeProbe(), LOGISTIC])
def test_what_is_easy_is_short_and_what_is_shuffled_is_not(probe: Any) -> None:
    y = np.arange(600) % 4
    X = np.eye(4)[y] + 0.05 * np.random.default_rng(0).normal(size=(600, 4))
    easy, hard = online_codelength(probe, X, y), online_codelength(probe, X, shuffled(y))
    assert easy.compression > 5
    assert 0.75 < hard.compression < 1.03
    low, high = easy.interval()
    assert low < easy.compression < high
    assert "600 labels of 4 classes" in repr(easy)


def test_blocks_hold_groups_together_and_begin_where_a_probe_can() -> None:
    groups = np.repeat([f"p{i}" for i in range(100)], 7)
    y = np.arange(700) % 3
    found = online_codelength(RidgeProbe(), np.eye(3)[y], y, groups=groups)
    assert all(end % 7 == 0 for end in found.ends)
    assert found.ends == (28, 49, 91, 175, 350, 700)  # 3.2 % of 700 and more, to the end of a problem
    assert found.rows.n_groups == 100
    uniform = found.rows.values == math.log2(3)
    assert uniform.sum() == 28 and len(set(groups[uniform])) == 4
    assert len(FRACTIONS) == 11


def test_a_learner_of_one_class_waits_for_the_second() -> None:
    y = np.zeros(200, int)
    y[:3] = 1
    found = online_codelength(LogisticRegression(), np.ones((200, 1)), y)
    order = np.argsort(np.random.default_rng(0).permutation(200))
    assert len(set(y[order[: found.ends[0]]])) == 2
    with pytest.raises(ValueError, match="shares of the rows that rise to 1"):
        online_codelength(LogisticRegression(), np.ones((200, 1)), y, fractions=(0.5, 0.1))


# Controls


def test_control_labels_are_one_a_type_and_as_frequent_as_the_labels() -> None:
    rng = np.random.default_rng(0)
    types, y = rng.integers(0, 3000, 20000), rng.choice(3, 20000, p=[0.6, 0.3, 0.1])
    control = control_labels(types, y)
    assert all(len(set(control[types == t])) == 1 for t in range(50))
    np.testing.assert_allclose(np.bincount(control) / 20000, [0.6, 0.3, 0.1], atol=0.03)
    assert (control == control_labels(types, y)).all()
    assert (control != control_labels(types, y, seed=1)).any()
    with pytest.raises(ValueError, match="2 types at least"):
        control_labels(np.zeros(5), np.arange(5))


def test_a_probe_that_learns_by_heart_is_not_selective_and_a_linear_one_is() -> None:
    """The label is linear in 8 bits, of which each of 256 words is a pattern; words come back about 8 times."""
    rng = np.random.default_rng(0)
    word = rng.integers(0, 256, 2000)
    bits = (word[:, None] >> np.arange(8)) & 1
    X = 2.0 * bits - 1
    y = (X @ np.arange(1.0, 9.0) > 0).astype(int)
    heart = selectivity(KNeighborsClassifier(1), 100.0 * np.eye(256)[word], y, word, seeds=(0, 1))
    linear = selectivity(RidgeProbe(), X, y, word, seeds=(0, 1))
    assert heart.task.accuracy.mean > 0.95
    assert abs(heart.accuracy.mean) < 0.02
    assert linear.task.accuracy.mean > 0.95
    assert linear.accuracy.mean > 0.35
    assert linear.accuracy.interval()[0] > 0.3
    assert linear.bits.mean > 0.5 > 0.1 > abs(heart.bits.mean)
    assert linear.accuracy.mean == pytest.approx(linear.task.accuracy.mean - linear.control_accuracy.mean)
    assert "2 controls" in repr(linear)


def test_shuffling_keeps_the_label_of_a_group_one() -> None:
    groups = np.repeat(np.arange(50), 4)
    y = (groups % 7).astype(str)
    mixed = shuffled(y, groups)
    assert all(len(set(mixed[groups == g])) == 1 for g in range(50))
    assert sorted(mixed) == sorted(y) and (mixed != y).any()
    within = np.arange(200) % 4
    assert (shuffled(within, groups) == shuffled(within)).all()
    assert sorted(shuffled(within)) == sorted(within)


# Calibration


def test_probabilities_that_are_true_are_calibrated_and_confident_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 20000)
    y = (p.cumsum(1) < rng.random((20000, 1))).sum(1)
    found = calibration(p, y)
    assert found.ece < 0.015
    sharp = p**3 / (p**3).sum(1, keepdims=True)
    assert calibration(sharp, y).ece > 0.15
    assert calibration(sharp, y).interval()[0] > found.interval()[1]
    assert found.brier.mean == pytest.approx(brier_score_loss(y, p, scale_by_half=False))
    assert found.log_loss.mean == pytest.approx(log_loss(y, p))
    assert found.log_loss.mean < calibration(sharp, y).log_loss.mean


def test_the_expected_calibration_error_by_hand() -> None:
    pytest.importorskip(
        "pandas", reason="tables need pandas, which comes with the whole package, not with probes alone"
    )
    """Sixty of a hundred are right that say 0.9; one of two that say 0.55."""
    p = np.array([[0.9, 0.1]] * 100 + [[0.45, 0.55]] * 2)
    y = np.array(["a"] * 60 + ["b"] * 41 + ["a"])
    found = calibration(p, y, classes=["a", "b"], bins=10)
    assert found.ece == pytest.approx((100 * 0.3 + 2 * 0.05) / 102)
    table = found.frame()
    assert table["count"].tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 100, 0]
    assert table["accuracy"].dropna().tolist() == pytest.approx([0.5, 0.6])
    assert table["confidence"].dropna().tolist() == pytest.approx([0.55, 0.9])
    assert (table["above"][8], table["up_to"][8]) == (0.8, 0.9)
    assert "0.295" in repr(found)


def test_calibration_of_held_out_rows() -> None:
    X, y, _ = correlated(2000)
    labels = np.array(list("edcba"))[y]
    found = held_out(LOGISTIC, X, labels)
    assert found.calibration().ece < 0.05
    assert found.calibration().log_loss.mean == pytest.approx(-found.log_p.mean())
    with pytest.raises(ValueError, match=r"rows sum to 1.*a row that sums to 2"):
        calibration(np.ones((3, 2)), np.zeros(3, int))
    with pytest.raises(ValueError, match="one label for each of 3 rows, got 2"):
        calibration(np.full((3, 2), 0.5), np.zeros(2, int))


# Tensors and bad input


def test_tensors_give_what_arrays_give_and_stay_where_they_are() -> None:
    X, y, _ = correlated(240)
    groups, word = np.arange(240) // 3, np.arange(240) % 30
    tensors = {name: kept(value) for name, value in (("X", X), ("y", y), ("groups", groups), ("word", word))}
    text = held_out(RidgeProbe(), X[:, :2], y, groups=groups)
    there = held_out(RidgeProbe(), tensors["X"][:, :2], tensors["y"], groups=tensors["groups"])
    assert isinstance(there.log_proba, torch.Tensor) and isinstance(text.log_proba, np.ndarray)
    pairs: list[tuple[Any, Any]] = [(text.bits, there.bits), (text.accuracy, there.accuracy)]
    for log_q, a, b, g, w in (
        (text.log_proba, X, y, groups, word),
        (there.log_proba, *(tensors[name] for name in ("X", "y", "groups", "word"))),
    ):
        pairs.append(
            (
                conditional_v_information(a, b, log_q, groups=g, probe=BEYOND),
                online_codelength(RidgeProbe(), a, b, groups=g).rows,
                selectivity(RidgeProbe(), a, b, w, groups=g, seeds=(0,)).bits,
                held_out(RidgeProbe(), a, b, groups=g).calibration().brier,
                held_out(RidgeProbe(), a, shuffled(b, g), groups=g).bits,
            )  # type: ignore[arg-type]
        )
    pairs = [*pairs[:2], *zip(pairs[2], pairs[3], strict=True)]
    for array, tensor in pairs:
        assert isinstance(tensor.values, torch.Tensor)
        assert isinstance(array.values, np.ndarray)
        assert tensor.mean == pytest.approx(array.mean, abs=1e-6)
        assert tensor.interval() == pytest.approx(array.interval(), abs=1e-6)
    half = held_out(RidgeProbe(), torch.as_tensor(X).bfloat16(), torch.as_tensor(y), groups=groups)
    assert half.log_proba.dtype == torch.float64


def test_bad_input() -> None:
    X, y = gaussian(40)
    with pytest.raises(ValueError, match="labels of at least 2 classes, got 1 class"):
        v_information(RidgeProbe(), X, np.zeros(40, int))
    with pytest.raises(ValueError, match="4 groups cannot fill 5 folds: record more problems or ask for fewer folds"):
        v_information(RidgeProbe(), X, y, groups=np.arange(40) // 10)
    with pytest.raises(ValueError, match="groups leak between folds: group 'p3' is in two of them"):
        groups = np.array([f"p{i // 2}" for i in range(40)])
        v_information(RidgeProbe(), X, y, groups=groups, folds=np.r_[np.zeros(7, int), np.ones(33, int)])
    with pytest.raises(ValueError, match="group 3 is in two"):
        fold_numbers(torch.tensor([0, 1, 1]), torch.tensor([3, 3, 4]), 3)
    with pytest.raises(ValueError, match="NaN"):
        v_information(RidgeProbe(), np.full_like(X, np.nan), y)
    with pytest.raises(ValueError, match="40 rows and 39 labels"):
        v_information(RidgeProbe(), X, y[:-1])
    with pytest.raises(ValueError, match="one group for each of 40 rows, got 39"):
        v_information(RidgeProbe(), X, y, groups=np.arange(39))
    with pytest.raises(ValueError, match="the fold of each of 40 rows, got 39"):
        v_information(RidgeProbe(), X, y, folds=np.arange(39))
    with pytest.raises(ValueError, match="2 folds at least, got 1"):
        v_information(RidgeProbe(), X, y, folds=1)


def test_given_folds_are_those_that_are_used() -> None:
    X, y = gaussian(60)
    fold = group_folds(np.arange(60), 3, seed=5)
    np.testing.assert_array_equal(held_out(RidgeProbe(), X, y, folds=fold).fold, fold)
    np.testing.assert_allclose(
        held_out(RidgeProbe(), X, y, folds=fold).log_p, held_out(RidgeProbe(), X, y, folds=3, seed=5).log_p
    )


def test_a_training_part_with_one_class_expects_it() -> None:
    X, y = np.zeros((10, 1)), np.r_[np.zeros(5, int), np.ones(5, int)]
    found = held_out(LogisticRegression(), X, y, folds=y)
    np.testing.assert_allclose(np.exp(found.log_p), 1 / 7)
    assert found.accuracy.mean == 0
