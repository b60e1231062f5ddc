"""What a text says: counted by hand, read where it must be read, and nothing where it carries nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.analyses.text import read_text, text_log_p
from loadbearing.core import InputError
from loadbearing.probes import group_folds, null_log_p


def runs_of(model: Any, problems: Any, step: str | None) -> tuple[Any, list[int]]:
    runs = lb.hooks.generate(model, problems)
    return runs, [run.spans[step][1] if step else run.spans["cot"][0] for run in runs]


def labels(runs: Any, variable: str) -> Any:
    return np.array([run.problem.values[variable] for run in runs])


def fold_of(n: int) -> Any:
    return group_folds(np.arange(n), 5)


def bits(log_p: Any, y: Any, classes: Any) -> float:
    """What is left to know, in bits."""
    return float(-log_p[np.arange(len(y)), np.searchsorted(classes, y)].mean() / np.log(2))


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_chain_says_the_value_that_it_wrote_and_nothing_of_the_next(
    organism: Callable[[str], Any], step: int
) -> None:
    """v_k is the written step; v_k plus a uniform digit is uniform."""
    model = organism("sft")
    runs, ends = runs_of(model, model.task.problems(120), f"step.{step}")
    for later in (1, 2, 3):
        y = labels(runs, f"v_{later}")
        classes = np.unique(y)
        found = read_text(runs, ends, y, classes, fold_of(120))
        assert set(found.readers) == {"enumeration"}
        assert (found.inner == found.log_p).all()  # exact: no fold need be left out
        if later <= step:
            assert bits(found.log_p, y, classes) < 0.02
        else:
            np.testing.assert_allclose(np.exp(found.log_p), 0.1, atol=2e-3)


def test_enumeration_is_the_counts_by_hand(scripted: Callable[..., Any]) -> None:
    """x_1 + x_2 mod 3: of the nine problems three have each v_1, and among those each x_1 comes once."""
    model = scripted("chain", "modular-sum:modulus=3,terms=3")
    task: Any = lb.tasks.load("modular-sum:modulus=3,terms=3")
    problems = task.all_problems()
    runs, ends = runs_of(model, problems, "step.1")
    fold, classes = fold_of(27), np.array(["0", "1", "2"])
    weight = 1 / 28  # of uniform: one run's worth
    for name, number in (("v_1", 1.0), ("v_2", 1 / 3), ("operand.1", 1 / 3)):
        found = text_log_p(runs, ends, labels(runs, name), classes, fold)
        own = np.exp(found[np.arange(27), np.searchsorted(classes, labels(runs, name))])
        np.testing.assert_allclose(own, (1 - weight) * number + weight / 3)
    # What the text says of the third operand depends on nothing but the two sums.
    both = text_log_p(runs, [run.spans["step.2"][1] for run in runs], labels(runs, "operand.3"), classes, fold)
    assert np.exp(both).max(axis=1) == pytest.approx((1 - weight) + weight / 3)


def test_a_class_that_no_run_has_takes_no_share(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    runs, ends = runs_of(model, [p for p in model.task.problems(200) if p.values["v_1"] in "0123"], "step.1")
    y = labels(runs, "v_1")
    found = text_log_p(runs, ends, y, np.unique(y), fold_of(len(y)))
    assert found.shape == (len(y), 4)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)


def test_random_digits_say_nothing(organism: Callable[[str], Any]) -> None:
    model = organism("post-hoc")
    runs, ends = runs_of(model, model.task.problems(200), "step.3")
    y, fold = labels(runs, "v_3"), fold_of(200)
    classes = np.unique(y)
    found = read_text(runs, ends, y, classes, fold)
    null = np.concatenate([null_log_p(y[fold != f], y[fold == f]) for f in range(5)])
    assert "enumeration" not in found.readers  # the digits are not the gold ones
    assert -null.mean() / np.log(2) - bits(found.log_p, y, classes) < 0.05
    # What the same digits say of themselves is found.
    digit = np.array([run.values[1] for run in runs])
    assert bits(text_log_p(runs, ends, digit, np.unique(digit), fold), digit, np.unique(digit)) < 0.5


def written(words: Any, n: int) -> list[Any]:
    """Runs whose chain of thought is the given digits; problems of a task that reads no steps."""
    task = lb.tasks.Questions()
    for i in range(n):
        task.add(f"q{i}", f"question {i}", "1")
    problems = task.problems(n)
    found = []
    for problem, text in zip(problems, words, strict=True):
        ids = (1, *(10 + int(word) for word in text), 2)
        spans = {"prompt": (0, 1), "cot": (1, len(ids) - 1), "cue": (len(ids) - 1, len(ids))}
        found.append(lb.hooks.Run(problem, "cot", ids, spans, {}, "1", None))
    return found


@pytest.fixture(scope="module")
def coins() -> Any:
    return np.random.default_rng(0).integers(0, 2, (160, 2))


def test_a_parity_needs_a_network_and_a_sum_does_not(coins: Any) -> None:
    runs, fold, classes = written(coins, 160), fold_of(160), np.array(["0", "1"])
    ends = [run.spans["cot"][1] for run in runs]
    parity, first = (coins[:, 0] ^ coins[:, 1]).astype(str), coins[:, 0].astype(str)
    found = read_text(runs, ends, parity, classes, fold)
    assert set(found.readers) <= {"mlp", "transformer"}
    assert bits(found.log_p, parity, classes) < 0.15
    assert bits(text_log_p(runs, ends, first, classes, fold), first, classes) < 0.15
    # With one coin still to come, the parity is open.
    half = read_text(runs, [end - 1 for end in ends], parity, classes, fold)
    assert bits(half.log_p, parity, classes) > 0.95


def test_a_linear_reader_cannot_read_a_parity(coins: Any) -> None:
    from loadbearing.analyses.text_readers import Words, fit_reader

    words = Words.of([tuple(row) for row in coins.tolist()])
    y = coins[:, 0] ^ coins[:, 1]
    train = np.ones((1, 160), dtype=bool)
    for name, low, high in (("linear", 0.95, 1.1), ("mlp", 0.0, 0.15), ("transformer", 0.0, 0.15)):
        log_p = fit_reader(name, words, y, 2, train, seed=0)[0]
        assert low < -log_p[np.arange(160), y].mean() / np.log(2) < high, name


def test_texts_of_different_lengths_are_read_at_both_ends() -> None:
    """The label is the last digit, then the first one, of one to four."""
    rng = np.random.default_rng(1)
    words = [rng.integers(0, 3, rng.integers(1, 5)) for _ in range(200)]
    runs, fold = written(words, 200), fold_of(200)
    ends = [run.spans["cot"][1] for run in runs]
    for at in (-1, 0):
        y = np.array([str(text[at]) for text in words])
        assert bits(text_log_p(runs, ends, y, np.unique(y), fold), y, np.unique(y)) < 0.25


def test_no_label_is_used_on_its_own_fold(coins: Any) -> None:
    """Other labels in one fold change nothing that is said of that fold, and what is used beside it is cross-fitted."""
    runs, fold, classes = written(coins, 160), fold_of(160), np.array(["0", "1"])
    ends = [run.spans["cot"][1] for run in runs]
    y = coins[:, 0].astype(str)
    other = np.where(fold == 2, np.where(y == "0", "1", "0"), y)
    one, two = (read_text(runs, ends, given, classes, fold) for given in (y, other))
    assert (one.log_p[fold == 2] == two.log_p[fold == 2]).all()
    assert (one.inner[2] == two.inner[2]).all()
    assert (one.inner[1][fold == 1] != two.inner[1][fold == 1]).any()  # there the labels were used
    rows = fold == 2
    assert (one.inner[2][rows] == one.log_p[rows]).all()


def test_an_empty_text_says_the_frequencies(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    runs, ends = runs_of(model, model.task.problems(60), None)
    y, fold = labels(runs, "v_3"), fold_of(60)
    found = read_text(runs, ends, y, np.unique(y), fold)
    assert set(found.readers) == {"nothing"}
    for f in range(5):
        expected = null_log_p(y[fold != f], np.unique(y))
        np.testing.assert_allclose(found.log_p[fold == f], np.tile(expected, ((fold == f).sum(), 1)))


def test_runs_without_their_model_are_read_unless_a_tokenizer_is_given(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    runs, ends = runs_of(model, model.task.problems(60), "step.3")
    y, fold = labels(runs, "v_3"), fold_of(60)
    given = {"ends": ends, "y": y, "classes": np.unique(y), "fold": fold}
    assert set(read_text(list(runs), **given, tokenizer=model.tokenizer).readers) == {"enumeration"}
    assert "enumeration" not in read_text(list(runs), **given).readers


def test_other_chains_than_the_gold_ones_are_not_counted(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    runs, ends = runs_of(model, model.task.problems(60), "step.3")
    y, fold = labels(runs, "v_3"), fold_of(60)
    broken = [replace(run, ids=(*run.ids[: run.spans["cot"][0]], *run.ids[run.spans["cot"][0] + 1 :])) for run in runs]
    readers = read_text(broken[:3] + list(runs)[3:], ends, y, np.unique(y), fold, tokenizer=model.tokenizer).readers
    assert "enumeration" not in readers


def test_bad_input(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    runs, ends = runs_of(model, model.task.problems(10), "step.3")
    y = labels(runs, "v_3")
    classes, fold = np.unique(y), np.arange(10) % 5
    with pytest.raises(InputError, match="10 runs with 9 ends, 10 labels and 10 folds: expected one each"):
        text_log_p(runs, ends[:9], y, classes, fold)
    with pytest.raises(InputError, match=r"folds numbered from 0, 3 at least and none empty, got \[0, 1\]"):
        text_log_p(runs, ends, y, classes, fold % 2)
    with pytest.raises(InputError, match=r"every label among them: np.unique\(y\)"):
        text_log_p(runs, ends, y, classes[:-1], fold)
    with pytest.raises(InputError, match="is behind the cue of"):
        text_log_p(runs, [len(run.ids) for run in runs], y, classes, fold)
