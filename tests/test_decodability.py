"""Decodability: what is written is read, what is noise is not, and the choice of place is made inside the folds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.analyses.decodability import _fit_cell, _shuffled_bits
from loadbearing.core import InputError, UnknownNameError
from loadbearing.probes import group_folds


@pytest.fixture(scope="module")
def chain(organism: Callable[[str], Any]) -> Any:
    model = organism("sft")
    return lb.analyses.decodability(model, model.task.problems(240), shuffles=3)


def bits(found: Any, variable: str, position: str) -> float:
    return float(found.curve(variable).query("position == @position")["bits"].iloc[0])


def test_a_step_is_read_where_it_is_written_and_not_two_steps_before(chain: Any) -> None:
    entropy = chain.null.mean(axis=1)
    for item in (1, 2, 3):
        assert bits(chain, f"v_{item}", f"step.{item}[-1]") > 0.95 * entropy[item - 1]
    assert bits(chain, "v_3", "step.1[-1]") < 0.1
    assert bits(chain, "v_3", "prompt[-1]") < 0.1


def test_a_mode_that_the_model_was_not_made_for_is_blank(chain: Any) -> None:
    assert not any(place.startswith("answer-only") for place in chain.places)
    assert np.isnan(chain.accuracy("answer-only"))
    assert chain.accuracy("cot") > 0.95
    assert np.isnan(chain.forward_pass_bits()).all()
    assert np.isnan(chain.forward_pass_fraction()).all()
    # The shuffled control is there all the same, at a place of the CoT run.
    assert chain.shuffled.shape == (3, 3) and chain.shuffled.max() < 0.1
    assert chain.manifest.circumstance["chosen"]["v_3"][0].startswith("cot ")


def test_answers_only_reads_the_answer_at_the_cue_and_shuffled_labels_do_not(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    found = lb.analyses.decodability(model, model.task.problems(300), shuffles=5)
    estimate, low, high = found.forward_pass_bits()
    assert low <= estimate <= high
    assert estimate > 2.5
    assert found.forward_pass_fraction()[0] == pytest.approx(estimate / found.null[-1].mean())
    assert found.accuracy("answer-only") > 0.95
    assert found.shuffled[-1].max() < 0.1
    assert found.manifest.circumstance["chosen"]["v_3"][0] == "answer-only cue[-1]"


def test_the_chosen_place_is_never_better_than_the_best_and_is_one_of_them(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    found = lb.analyses.decodability(model, model.task.problems(200), shuffles=0)
    for v, variable in enumerate(found.variables):
        columns = found.bits[:, :, v].reshape(-1, found.bits.shape[-1])
        assert all((columns[:, i] == found.chosen[v, i]).any() for i in range(columns.shape[1]))
        assert found.forward_pass_bits(variable)[0] <= columns.mean(axis=1).max() + 1e-9


@pytest.mark.parametrize(("classes", "n", "d"), [(10, 200, 64), (50, 200, 16), (3, 200, 16)])
def test_noise_gives_no_bits(classes: int, n: int, d: int) -> None:
    """A proper score cannot beat the best constant on noise, however many classes a training fold lacks."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(4):
        X, y = rng.normal(size=(n, d)), rng.integers(0, classes, n).astype(str)
        found.append(_shuffled_bits(X, np.arange(n), group_folds(np.arange(n), 5, seed), y, rng, 1)[0])
    assert np.mean(found) < 0.01
    X = np.eye(classes)[y.astype(int)]
    fold = group_folds(np.arange(n), 5, 0)
    bits = np.full((1, n), np.nan)
    null = np.full((1, n), np.log(classes))
    for f in range(5):
        _fit_cell(X, np.arange(n), fold == f, {"y": y}, null, bits, np.zeros(1))
    assert bits.mean() > 0.5 * np.log2(classes)


def test_positions_and_saving(chain: Any, tmp_path: Path) -> None:
    assert [place.partition(" ")[2] for place in chain.places] == [
        "prompt[-1]",
        "open[-1]",
        "step.1[-1]",
        "step.2[-1]",
        "step.3[-1]",
        "cue[-1]",
    ]
    loaded = lb.load(chain.save(tmp_path / "bits.safetensors"))
    assert loaded.frame().equals(chain.frame())


def test_bad_input(organism: Callable[[str], Any], chain: Any) -> None:
    model = organism("sft")
    with pytest.raises(InputError, match=r"variables \['v_9'\]: the problems have operand.1, operand.2"):
        lb.analyses.decodability(model, model.task.problems(20), variables=["v_9"])
    with pytest.raises(ValueError, match="4 groups cannot fill 5 folds"):
        lb.analyses.decodability(model, model.task.problems(4))
    with pytest.raises(UnknownNameError, match="unknown variable 'v_4'"):
        chain.curve("v_4")
