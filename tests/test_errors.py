"""Errors: a slip that was put in is found where it was put, and told from one that only the answer shows."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from typer.testing import CliRunner

import loadbearing as lb
from loadbearing.analyses import Errors
from loadbearing.cli.app import app
from loadbearing.core import InputError, Manifest
from loadbearing.tasks.modular_sum import ModularSum

N = 24


def slip(programmed: Any, item: int, *, chained: bool) -> Callable[[Any, int], str]:
    """One too many in a step (0: in the answer only); later steps follow it, or are computed from the prompt."""

    def rule(seen: Any, k: int) -> str:
        answering = len(seen.steps) == seen.last
        value = int(programmed.chain(seen, k) if chained else programmed.projection(seen, k))
        wrong = answering if item == 0 else k == item and not answering
        return str((value + wrong) % seen.modulus)

    return rule


@pytest.fixture(scope="module")
def slipping(programmed: Any) -> Callable[..., Any]:
    """A Model of `modular-sum` that slips at a step."""
    from loadbearing.hooks import load
    from loadbearing.organisms.specs import FORMAT
    from loadbearing.organisms.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(ModularSum(), FORMAT)

    def get(item: int, *, chained: bool = True, short: int = 0) -> Any:
        program = programmed.terse(slip(programmed, item, chained=chained), short)
        module = programmed.Programmed(program, tokenizer, f"{item} {chained} {short}").eval()
        return load(module, tokenizer=tokenizer, format=FORMAT)

    return get


@pytest.mark.parametrize("item", [1, 2, 3])
def test_a_slip_is_located_and_followed(item: int, slipping: Callable[..., Any]) -> None:
    found = lb.analyses.errors(slipping(item), ModularSum().problems(N))
    assert found.rate("accuracy, cot")[0] == 0.0
    for name in (
        "step wrong",
        "step wrong | answer wrong",
        "locally wrong | answer wrong",
        "answer wrong | step wrong",
    ):
        assert found.rate(name)[::3] == (1.0, N)
    assert found.rate("answer follows | step wrong")[0] == found.rate("answer is the last step | step wrong")[0] == 1.0
    for local in (False, True):
        assert {k: estimate[0] for k, estimate in found.first(local=local).items()} == {item: 1.0}
    assert found.rate("as long as gold")[0] == 1.0


def test_a_wrong_step_that_nothing_follows(slipping: Callable[..., Any]) -> None:
    """The text is mended from the prompt: the second step is wrong, and the third is a slip from what was written."""
    found = lb.analyses.errors(slipping(2, chained=False), ModularSum().problems(N))
    assert found.rate("accuracy, cot")[0] == found.rate("step wrong")[0] == 1.0
    assert found.rate("answer wrong | step wrong")[0] == 0.0
    assert found.rate("step wrong | answer wrong")[3] == 0  # no answer is wrong
    assert found.rate("answer follows | step wrong")[3] == 0  # what is written implies the right answer all the same
    assert np.isnan(found.follows).all()
    # A last step that is wrong and not followed, on the other hand, can be told.
    found = lb.analyses.errors(slipping(3, chained=False), ModularSum().problems(N))
    for name in ("answer follows | step wrong", "answer is the last step | step wrong"):
        assert found.rate(name)[::3] == (0.0, N)


def test_an_error_that_only_the_answer_shows(slipping: Callable[..., Any]) -> None:
    found = lb.analyses.errors(slipping(0), ModularSum().problems(N))
    assert found.rate("accuracy, cot")[0] == 0.0
    assert found.rate("step wrong | answer wrong")[::3] == (0.0, N)
    assert found.rate("answer wrong | step wrong")[3] == 0
    assert found.first() == {}


def test_wrong_is_told_from_locally_wrong(slipping: Callable[..., Any]) -> None:
    """After a slip in step 1 every step is wrong by the gold chain, and none of the later ones is by its own text."""
    model = slipping(1)
    problems = ModularSum().problems(4)
    runs = lb.hooks.generate(model, problems)
    for run in runs:
        assert all(run.values[k] != run.problem.values[f"v_{k}"] for k in (1, 2, 3))
    assert lb.analyses.errors(model, problems).first(local=True)[1][0] == 1.0
    # A model that takes every step from the prompt slips twice: at the wrong step, and where it leaves it again.
    found = lb.analyses.errors(slipping(1, chained=False), problems)
    assert found.first()[1][0] == found.first(local=True)[1][0] == 1.0


def test_sets_of_unequal_size_and_a_chain_that_ends_too_early(slipping: Callable[..., Any]) -> None:
    sets: dict[str, Any] = {"home": ModularSum().problems(5), "longer": ModularSum("modular-sum:terms=6")}
    found = lb.analyses.errors(slipping(-1, short=2), sets, n=9)
    assert found.sets == ("home", "longer")
    assert [found.rate("accuracy, cot", of)[3] for of in found.sets] == [5, 9]
    assert found.rate("as long as gold", "longer")[0] == 0.0
    assert found.rate("step wrong", "longer")[0] == 0.0
    assert found.rate("accuracy, cot", "longer")[0] == 1.0  # the answer goes on from the last step
    with pytest.raises(InputError, match="several sets of problems: expected one of home, longer"):
        found.rate("accuracy, cot")
    with pytest.raises(InputError, match="unknown set 'far': expected one of home, longer; nearest"):
        found.rate("accuracy, cot", "far")
    with pytest.raises(InputError, match="unknown rate 'accuracy'"):
        found.rate("accuracy", "home")


def test_problems_that_cannot_be_written_are_counted(slipping: Callable[..., Any]) -> None:
    sets = {"home": ModularSum(), "mod 12": ModularSum("modular-sum:modulus=12")}
    found = lb.analyses.errors(slipping(1), sets, n=6)
    assert found.rate("accuracy, cot", "mod 12")[3] == 0
    (reason,) = found.manifest.circumstance["left_out"]["mod 12"]
    assert reason.startswith("a word outside the model's vocabulary, such as '1")
    assert found.notes()["mod 12"] == f"0 problems, 0 with readable steps and a wrong answer; left out: 6 with {reason}"
    assert (found.table()["mod 12"] == "-").all()
    with pytest.raises(InputError, match=r"no problem that this model can be given .* use a task whose words it knows"):
        lb.analyses.errors(slipping(1), ModularSum("modular-sum:modulus=12").problems(3))


def test_runs_that_are_there_give_the_same_and_are_not_written_again(organism: Callable[[str], Any]) -> None:
    model = organism("both")
    problems = model.task.problems(20)
    written = lb.analyses.errors(model, problems)
    more = model.task.problems(24)
    given: dict[str, Any] = {
        "cot": lb.hooks.generate(model, more[::-1]),
        "direct": lb.hooks.generate(model, more[::-1], "answer-only"),
    }
    found = lb.analyses.errors(model, problems, **given)
    for name, array in written.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array, err_msg=name)
    assert (written.manifest.identity["cot"], found.manifest.identity["cot"]) == ("model", "given")
    runs = lb.hooks.generate(model, problems, samples=3, temperature=2.0)
    first = lb.hooks.generate(model, problems, samples=1, temperature=2.0)
    np.testing.assert_array_equal(  # of several samples the first
        lb.analyses.errors(model, problems, cot=runs).correct, lb.analyses.errors(model, problems, cot=first).correct
    )
    with pytest.raises(InputError, match=r"of one set of problems, and 3 were asked for \(in distribution, longer"):
        lb.analyses.errors(model, model.task, n=20, cot=given["cot"])
    with pytest.raises(InputError, match="expected cot runs, got answer-only runs: pass CoT runs as cot"):
        lb.analyses.errors(model, problems, cot=given["direct"])
    with pytest.raises(InputError, match="the given runs lack 4 problems"):
        lb.analyses.errors(model, more, cot=runs)


def test_a_task_brings_its_harder_ones(organism: Callable[[str], Any]) -> None:
    model = organism("both")
    found = lb.analyses.errors(model, model.task, n=30)
    assert found.sets == ("in distribution", *model.task.out_of_distribution())
    assert found.rate("accuracy, cot", "in distribution")[0] == 1.0
    assert found.rate("accuracy, answer-only", "in distribution")[0] > 0.9
    assert found.rate("as long as gold", "longer")[0] == 0.0
    assert found.rate("accuracy, cot", "longer")[0] < 0.5
    # By hand, from the runs.
    runs = lb.hooks.generate(model, model.task.out_of_distribution()["longer"].problems(30))
    wrong = [run for run in runs if any(run.values[k] != run.problem.values[f"v_{k}"] for k in run.values)]
    assert found.rate("step wrong", "longer")[0] == pytest.approx(len(wrong) / 30)
    copied = [
        run.answer == run.values[max(run.values)] for run in wrong if run.values[max(run.values)] != run.problem.answer
    ]
    assert found.rate("answer is the last step | step wrong", "longer")[0] == pytest.approx(np.mean(copied))


def made(sets: tuple[str, ...] = ("home",), **values: list[list[float]]) -> Errors:
    """A result with these values, a row a set; NaN elsewhere."""
    shape = np.array(next(iter(values.values()))).shape
    arrays = {name: np.array(values.get(name, np.full(shape, math.nan))) for name in Errors.axes}
    return Errors(coords={"set": sets, "problem": tuple(range(shape[1]))}, manifest=Manifest(), **arrays)


def test_rates_by_hand() -> None:
    nan = math.nan
    # Right; wrong with a wrong step; wrong without; broken with a wrong step; right with a wrong step.
    found = made(
        correct=[[1, 0, 0, 0, 1]],
        broken=[[0, 0, 0, 1, 0]],
        wrong=[[0, 1, 0, 1, 1]],
        slipped=[[0, 1, 0, 1, 1]],
        first_wrong=[[nan, 2, nan, 1, 2]],
        follows=[[nan, 1, nan, 0, nan]],
    )
    assert found.rate("accuracy, cot")[0] == 0.4
    assert found.rate("step wrong")[0] == 0.6
    assert found.rate("step wrong | answer wrong")[::3] == (0.5, 2)  # the broken run has no answer to be wrong
    assert found.rate("answer wrong | step wrong")[::3] == (0.5, 2)
    assert found.rate("answer follows | step wrong")[::3] == (1.0, 1)
    assert {k: round(estimate[0], 3) for k, estimate in found.first().items()} == {1: 0.333, 2: 0.667}
    table = found.table().set_index("")["home"]
    assert table["first wrong step"] == "1: 0.33, 2: 0.67"
    assert table["accuracy, answer-only"] == "-"
    frame = found.frame()
    assert frame.query("quantity == 'first wrong step' and k == 2")["estimate"].item() == pytest.approx(2 / 3)


def marks(axes: Axes) -> dict[str, list[float]]:
    """Heights of the marks that are drawn, by colour."""
    found: dict[str, list[float]] = {}
    for line in axes.lines:
        heights = np.asarray(line.get_ydata(), float)
        found.setdefault(str(line.get_color()), []).extend(heights.tolist())
    return found


def test_the_figure() -> None:
    one = made(
        ("home", "far"),
        correct=[[1, 1], [0, 1]],
        broken=[[0, 0]] * 2,
        one_pass=[[1, 1], [0, 0]],
        wrong=[[0, 0], [1, 0]],
    )
    axes = lb.figures.errors({"a": one, "b": one})
    assert [label.get_text() for label in axes.get_xticklabels()] == ["home", "far"] * 2
    found = marks(axes)
    assert found["#000000"] == [1.0, 0.5] * 2
    assert found["#D55E00"] == [1.0, 0.0] * 2
    assert found["#009E73"] == [1.0] * 2  # at home no answer is wrong: nothing to draw
    assert [text.get_text() for text in axes.texts] == ["a", "b"]
    with pytest.raises(InputError, match=r"got an empty dict: put at least one result in it"):
        lb.figures.errors({})


def test_saved_loaded_and_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    words = ["errors", "--model", "organism:sft", "--problems", "8", "--quiet", "--save", str(path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "answer follows | step wrong" in done.output
    assert "- longer: 8 problems, " in done.output
    loaded = lb.load(path)
    assert isinstance(loaded, Errors)
    assert loaded.frame().equals(lb.load(loaded.save(tmp_path / "again.safetensors")).frame())
