"""Decodability: what is written is read, what is noise is not, and the choice of place is made inside the folds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.analyses.readings import Place
from loadbearing.core import InputError, UnknownNameError
from loadbearing.probes import LogisticProbe, group_folds


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
    assert chain.shuffled.shape == (6, 3, 3) and chain.shuffled.max() < 0.15
    assert chain.manifest.circumstance["chosen"]["v_3"][0].startswith("cot ")


def test_answers_only_reads_the_answer_at_the_cue_and_shuffled_labels_do_not(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    found = lb.analyses.decodability(model, model.task.problems(300), shuffles=5)
    estimate, low, high = found.forward_pass_bits()
    assert low <= estimate <= high
    assert estimate > 2.5
    assert found.forward_pass_fraction()[0] == pytest.approx(estimate / found.null[-1].mean())
    assert found.accuracy("answer-only") > 0.95
    assert found.shuffled[:, -1].max() < 0.1
    assert found.manifest.circumstance["chosen"]["v_3"][0] == "answer-only cue[-1]"


def test_the_chosen_place_is_never_better_than_the_best_and_is_one_of_them(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    found = lb.analyses.decodability(model, model.task.problems(200), shuffles=0)
    for v, variable in enumerate(found.variables):
        columns = found.bits[:, :, :, v].reshape(-1, found.bits.shape[-1])
        assert all((columns[:, i] == found.chosen[v, i]).any() for i in range(columns.shape[1]))
        assert found.forward_pass_bits(variable)[0] <= columns.mean(axis=1).max() + 1e-9


def test_the_controls_read_what_they_must(chain: Any) -> None:
    """A random network passes tokens on but adds nothing up; the text states a step where it is written, not before;
    which token it is tells nothing; nor do permuted labels."""
    curve = {v: chain.curve(v).set_index("position") for v in chain.variables}
    for item, variable in enumerate(chain.variables, start=1):
        here = curve[variable].loc[f"step.{item}[-1]"]
        assert here["text-only"] > 3.0 and here["random-init"] > 3.0, "the token itself is the value"
        assert abs(curve[variable]["position-only"]).max() < 0.1
        assert curve[variable]["shuffled_high"].max() < 0.15
    assert curve["v_3"].loc["step.2[-1]", "text-only"] < 0.05
    assert curve["v_3"].loc["prompt[-1]", "text-only"] == 0.0


def test_what_a_trained_model_computes_its_random_twin_does_not(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    found = lb.analyses.decodability(model, model.task.problems(300), shuffles=0, text=False)
    row = found.curve().set_index("position").loc["cue[-1]"]
    assert row["bits"] > 2.5 > 0.1 > abs(row["random-init"])
    assert found.taught[2, -1] == pytest.approx(row["bits"], abs=0.3)
    assert found.majority[-1] < 0.2
    few = lb.analyses.decodability(model, model.task.problems(80), shuffles=0, twin=False, text=False)
    assert few.taught[0, -1] < few.taught[1, -1] < few.taught[2, -1]


def test_runs_that_are_there_give_the_same(organism: Callable[[str], Any]) -> None:
    model = organism("both")
    problems = model.task.problems(60)
    options: dict[str, Any] = {"shuffles": 1, "twin": False, "variables": ["v_3"]}
    given: dict[str, Any] = {
        "cot": lb.hooks.generate(model, problems[::-1]),
        "direct": lb.hooks.generate(model, problems[::-1], "answer-only"),
    }
    written = lb.analyses.decodability(model, problems, **options)
    found = lb.analyses.decodability(model, problems, **options, **given)
    assert found.places == written.places
    for name, array in written.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array, err_msg=name)
    assert found.manifest.identity["cot"] == "given"
    with pytest.raises(InputError, match="expected answer-only runs, got cot runs"):
        lb.analyses.decodability(model, problems, direct=given["cot"])


def test_sites_are_an_axis_and_another_probe_may_be_asked(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    options: dict[str, Any] = {"shuffles": 0, "twin": False, "text": False, "variables": ["v_3"]}
    found = lb.analyses.decodability(
        model, model.task.problems(200), sites=["resid_post", "mlp_out"], probe=LogisticProbe((0.01, 1.0)), **options
    )
    assert found.bits.shape == (2, 2, 3, 1, 200)
    assert found.layers(site="mlp_out").shape == (3, 2)
    assert found.manifest.identity["probe"].startswith("LogisticProbe")
    assert found.manifest.circumstance["chosen"]["v_3"][1] in ("resid_post", "mlp_out")


def test_a_place_that_few_runs_have_is_left_out() -> None:
    X = np.random.default_rng(0).normal(size=(4, 1, 2, 3))
    place = Place("cot step.9[-1]", X, np.arange(4), np.zeros(4, dtype=int))
    assert place.sweep({"y": np.arange(40) % 2}, group_folds(np.arange(40), 5)) is None


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
