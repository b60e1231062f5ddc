"""Beyond the text: what is written is no secret, what is hidden is found, and only what comes early counts."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.analyses.beyond import beyond
from loadbearing.analyses.beyond_places import lead_of
from loadbearing.analyses.joint import Parts, joint_log_p
from loadbearing.core import InputError, UnknownNameError
from loadbearing.figures.beyond import beyond as draw
from loadbearing.probes import group_folds

N = 160
FOLD = group_folds(np.arange(600), 5)


@pytest.fixture(scope="module")
def chain(organism: Callable[[str], Any]) -> Any:
    model = organism("sft")
    return beyond(model, model.task.problems(N), shuffles=20)


@pytest.fixture(scope="module")
def both(organism: Callable[[str], Any]) -> Any:
    model = organism("both")
    return beyond(model, model.task.problems(2 * N), variables=["v_3"], shuffles=2)


def gain(X: Any, y: Any, offset: Any) -> Any:
    """Mean bits of a state beyond an offset `[n, class]`."""
    index = np.asarray(y)[None]
    fold = FOLD[: len(y)]
    log_p, _ = joint_log_p(Parts.of(np.asarray(X, dtype=float), fold), index, np.stack([offset[None]] * 5))
    return float((log_p - np.take_along_axis(offset, index.T, axis=1).T).mean() / np.log(2))


@pytest.fixture(scope="module")
def coin() -> Any:
    return np.random.default_rng(0).integers(0, 2, (600, 3))


def test_a_state_that_adds_to_the_text_makes_up_what_is_missing(coin: Any) -> None:
    """y = t + h in {0, 1, 2}; the text t leaves two values, 1 bit; h (as -1, 1) tells which of the two."""
    t, h = coin[:, 0], coin[:, 1]
    y = t + h
    offset = np.log(np.where((np.arange(3) == t[:, None]) | (np.arange(3) == t[:, None] + 1), 0.5 - 5e-6, 1e-5))
    assert gain(2.0 * h[:, None] - 1, y, offset) == pytest.approx(1.0, abs=0.03)
    assert abs(gain(2.0 * coin[:, 2:] - 1, y, offset)) < 0.01  # another coin
    assert abs(gain(2.0 * t[:, None] - 1, y, offset)) < 0.01  # what the text says already


def test_a_key_without_a_linear_trace_is_no_bits_for_a_linear_probe(coin: Any) -> None:
    """h = y xor t: text and state together tell y, but no linear term on top of the text's log-odds does."""
    t, y = coin[:, 0], coin[:, 1]
    nothing = np.full((600, 2), np.log(0.5))
    key = 2.0 * (y ^ t)[:, None] - 1
    assert abs(gain(key, y, nothing)) < 0.01
    # A state that holds the product with what the text says (y itself) has the whole bit.
    assert gain(np.hstack([key, 2.0 * y[:, None] - 1]), y, nothing) == pytest.approx(1.0, abs=0.02)


def test_what_the_text_says_is_not_told_again(coin: Any) -> None:
    y = coin[:, 0]
    certain = np.log(np.where(np.arange(2) == y[:, None], 0.999, 0.001))
    assert 0 <= gain(2.0 * y[:, None] - 1, y, certain) < 0.002
    nothing = np.full((600, 2), np.log(0.5))
    assert gain(2.0 * y[:, None] - 1, y, nothing) == pytest.approx(1.0, abs=0.01)


def test_half_a_bit_by_hand(coin: Any) -> None:
    """The state says y rightly in 9 of 10 cases: 1 - H(0.1) = 0.531 bits."""
    y = coin[:, 0]
    wrong = np.random.default_rng(1).random(600) < 0.1
    share = wrong.mean()
    known = 1 + share * np.log2(share) + (1 - share) * np.log2(1 - share)
    assert gain(2.0 * (y ^ wrong)[:, None] - 1, y, np.full((600, 2), np.log(0.5))) == pytest.approx(known, abs=0.03)


@pytest.mark.parametrize(("classes", "n", "d"), [(10, 200, 64), (3, 200, 300)])
def test_noise_adds_no_bits(classes: int, n: int, d: int) -> None:
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        offset = rng.normal(size=(n, classes))
        offset -= np.logaddexp.reduce(offset, axis=1, keepdims=True)
        y = np.array([rng.choice(classes, p=np.exp(row)) for row in offset])
        found.append(gain(rng.normal(size=(n, d)), y, offset))
    assert abs(np.mean(found)) < 0.03


def test_many_targets_at_once_are_each_alone(coin: Any) -> None:
    rng = np.random.default_rng(0)
    X, index = rng.normal(size=(600, 5)) + coin[:, :1], coin[:, :2].T
    offset = np.log(rng.dirichlet([1, 1], (5, 2, 600)))
    parts = Parts.of(X, FOLD)
    together, inner = joint_log_p(parts, index, offset)
    for t in range(2):
        alone, loss = joint_log_p(parts, index[t : t + 1], offset[:, t : t + 1])
        np.testing.assert_allclose(alone[0], together[t], atol=1e-5)
        np.testing.assert_allclose(loss[0], inner[t], atol=1e-5)


def test_a_label_is_not_used_on_its_own_fold(coin: Any) -> None:
    X = np.random.default_rng(0).normal(size=(600, 5)) + coin[:, :1]
    y, offset = coin[:, 0], np.full((5, 1, 600, 2), np.log(0.5))
    other = np.where(FOLD == 1, 1 - y, y)
    one, two = (joint_log_p(Parts.of(X, FOLD), given[None], offset) for given in (y, other))
    p, q = (np.exp(found[0][0, FOLD == 1]) for found in (one, two))
    np.testing.assert_allclose(p, 1 - q, atol=1e-5)  # the same prediction, of the other label
    assert one[1][0, 1] == pytest.approx(two[1][0, 1], abs=1e-6)  # and no choice looks at it


def test_a_chain_hides_nothing(chain: Any) -> None:
    """Nothing about v_3 two steps before it is written; all of v_k where v_k stands, and nothing beyond the text."""
    estimate, _, high = chain.mean("beyond", "v_3", "step.1[-1]")
    assert abs(estimate) < 0.05 and high < 0.1
    for k in (1, 2, 3):
        variable, place = f"v_{k}", f"step.{k}[-1]"
        assert chain.mean("state", variable, place)[0] > 3.2
        assert chain.mean("text", variable, place)[0] > 3.2
        assert abs(chain.mean("beyond", variable, place)[0]) < 0.05
    # One step ahead the model is about to write it: that is no secret, and does not count.
    assert chain.mean("beyond", "v_3", "step.2[-1]")[0] > 3.2
    assert not chain.hidden("v_3")[chain.places.index("step.2[-1]")]
    estimate, low, high = chain.hidden_bits("v_3")
    assert low <= estimate <= high < 0.2
    assert np.isnan(chain.hidden_bits("v_1")).all()  # it is written first: no place is early enough


def test_a_model_that_can_answer_at_once_knows_before_it_writes(both: Any) -> None:
    """Trained on answers only too, `both` sums in its prompt; its text is a chain all the same."""
    estimate, low, _ = both.hidden_bits("v_3")
    assert estimate > 0.2 and low > 0.1
    assert both.mean("text", "v_3", "prompt[-1]")[0] == 0
    random = both.frame().query("curve == 'beyond' and place == 'prompt[-1]'")["random"].iloc[0]
    assert random < 0.1


def test_controls_know_nothing(chain: Any) -> None:
    assert chain.shuffled.shape == (2, 3, len(chain.places), 20)
    assert abs(chain.shuffled.mean(axis=-1)).max() < 0.05
    # Random weights keep the token that stands there, and compute nothing ahead of the text.
    frame = chain.frame()
    ahead = frame.query("curve == 'beyond' and lead > 0")
    assert ahead["random"].max() < 0.15
    there = frame.query("curve == 'state' and variable == 'v_3' and place == 'step.3[-1]'")
    assert there["random"].iloc[0] > 2
    assert frame.query("curve == 'text'")["random"].isna().all()


def test_leads_are_counted_to_where_the_value_is_written(chain: Any, organism: Callable[[str], Any]) -> None:
    places = list(chain.places)
    assert places == ["prompt[-1]", "open[-1]", "step.1[-1]", "step.2[-1]", "step.3[-1]", "cue[-1]"]
    # " think" is one token, each step is one token, and so is the cue.
    assert chain.typical_lead("v_3").tolist() == [4, 3, 2, 1, 0, -1]
    assert chain.typical_lead("v_3", "steps").tolist() == [3, 3, 2, 1, 0, 0]
    assert chain.hidden("v_3").tolist() == [True, True, True, False, False, False]
    model = organism("post-hoc")
    run = lb.hooks.generate(model, model.task.problems(40))[0]
    at = run.spans["prompt"][1] - 1
    wrong = next(v for v in "0123456789" if v not in {*run.values.values(), run.answer})
    run.problem.values["v_1"] = wrong
    assert lead_of(run, "v_1", at) == (math.inf, math.inf)
    tokens, steps = lead_of(run, "v_3", at)
    assert tokens in {run.spans["answer"][0] - at, run.spans["step.3"][0] - at} and steps in {3, 4}


def test_tasks_without_steps_are_looked_at_in_tenths(tiny: Callable[[str], Any], ragged: Any) -> None:
    model = tiny("llama")
    problems = ragged.problems(6)
    for problem, value in zip(problems, "001122", strict=True):
        problem.values["v_1"] = value
    found = beyond(model, problems, cot="task", folds=3, shuffles=1, twin=False)
    assert [place for place in found.places if place.startswith("tenth")] == [f"tenth.{k}[-1]" for k in range(1, 11)]
    assert np.isnan(found.lead).all() and np.isnan(found.hidden_bits()).all()  # the task does not say where
    assert np.isfinite(found.bits).all()


def test_the_chosen_place_is_one_of_the_early_ones(both: Any) -> None:
    v, early = 0, both.hidden("v_3")
    columns = both.bits[2, v][early]
    best = columns.mean(axis=1).max()
    assert both.hidden_bits("v_3")[0] <= best + 0.1
    assert (both.layer < 3).all() and both.inner.shape == (1, len(both.places), 5)


def test_saving_and_tables(chain: Any, tmp_path: Path) -> None:
    loaded = lb.load(chain.save(tmp_path / "beyond.safetensors"))
    assert loaded.frame().equals(chain.frame())
    table = loaded.table()
    assert table.query("variable == 'v_3' and place == 'hidden'")["beyond"].iloc[0].startswith(("0.", "-0."))
    assert table.query("variable == 'v_3' and place == 'step.1[-1]'")["tokens until written"].iloc[0] == "2"
    assert loaded.manifest.circumstance["readers"]["v_3"]["step.1[-1]"] == ["enumeration"] * 5


def test_the_figure_shows_every_curve(chain: Any, both: Any) -> None:
    ax = draw(chain)
    shown = ax.get_legend_handles_labels()[1]
    assert shown == ["text", "state", "state beyond the text", "shuffled", "random weights"]
    drawn = {line.get_label(): np.asarray(line.get_ydata()) for line in ax.lines}
    frame = chain.frame().query("variable == 'v_3' and curve == 'beyond'")
    np.testing.assert_allclose(drawn["state beyond the text"], frame["bits"])
    assert [text.get_text() for text in ax.get_xticklabels()] == list(chain.places)
    assert any(text.get_text() == "written" for text in ax.texts)
    assert draw({"sft": chain, "both": both}, variable="v_3").get_ylabel() == "bits about v_3"
    with pytest.raises(InputError, match="expected a Beyond or a dict of name to Beyond, got an empty dict"):
        draw({})


def test_bad_input(organism: Callable[[str], Any], chain: Any) -> None:
    model = organism("sft")
    problems = model.task.problems(20)
    with pytest.raises(InputError, match=r"variables \['v_9'\]: the problems have operand.1, operand.2"):
        beyond(model, problems, variables=["v_9"])
    with pytest.raises(ValueError, match="4 groups cannot fill 5 folds"):
        beyond(model, problems[:4])
    same = [problem for problem in model.task.problems(200) if problem.values["v_1"] == "3"]
    with pytest.raises(InputError, match="variable 'v_1' has one value in all problems"):
        beyond(model, same, variables=["v_1"])
    with pytest.raises(UnknownNameError, match="unknown variable 'v_4'"):
        chain.hidden_bits("v_4")
    with pytest.raises(UnknownNameError, match="unknown curve 'hidden'"):
        chain.mean("hidden")
