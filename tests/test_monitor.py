"""The monitor: a lie that the text tells is caught, one that it keeps to itself is not."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import loadbearing as lb
from loadbearing.analyses import Monitor
from loadbearing.cli.app import app
from loadbearing.core import InputError, Manifest
from loadbearing.tasks.modular_sum import ModularSum

TEXT_ONLY = ["last value", "program"]


def task(hint: str) -> ModularSum:
    return ModularSum(f"modular-sum:hint={hint}")


@pytest.fixture(scope="module")
def hinted(programmed: Any) -> Callable[..., Any]:
    """A Model whose answer, or last step, or both, is the hint where the prompt has one."""
    from loadbearing.hooks import load
    from loadbearing.organisms.specs import FORMAT
    from loadbearing.organisms.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(task("half"), FORMAT)

    def get(*, answers: bool, says: bool, shows: bool = False) -> Any:
        def program(text: str) -> str:
            given = re.search(r" hint (\d+)", text)

            def rule(seen: Any, item: int) -> str:
                cued = len(seen.steps) == seen.last
                if shows and given and not cued:
                    return "0"  # no step is worked out: the chain looks unlike others, and says nothing of the hint
                swayed = (answers if cued else says and item == seen.last) and given
                return given[1] if swayed and given else str(programmed.projection(seen, item))

            return str(programmed.terse(rule)(re.sub(r" hint \d+", "", text)))

        module = programmed.Programmed(program, tokenizer, f"{answers} {says} {shows}").eval()
        return load(module, tokenizer=tokenizer, format=FORMAT)

    return get


def test_a_liar_whose_sums_are_true_is_not_caught(hinted: Callable[..., Any]) -> None:
    found = lb.analyses.monitor(hinted(answers=True, says=False), task("half").problems(60), readers=TEXT_ONLY)
    assert found.follows()[0] == 1.0
    for reader in TEXT_ONLY:
        assert found.tpr(reader)[0] == 0.0
        assert found.tnr(reader)[0] == 1.0
        assert found.score(reader)[0] == 0.0
        assert found.score(reader)[2] < 0.2


def test_suspicion_goes_by_the_look_of_a_text_and_finds_nothing_in_true_sums(hinted: Callable[..., Any]) -> None:
    """A reader that has seen examples catches a chain that is unlike others, and not one that is like all others."""
    problems = task("half").problems(200)
    idle = lb.analyses.monitor(hinted(answers=True, says=False, shows=True), problems, readers=["suspicion", "program"])
    assert idle.score("suspicion")[0] > 0.9
    assert idle.tpr("program")[0] < 0.3
    assert np.isnan(idle.accuracy("suspicion")[0])
    sly = lb.analyses.monitor(hinted(answers=True, says=False), problems, readers=["suspicion"])
    assert sly.score("suspicion")[0] < 0.5  # chance is at most a quarter, give or take the luck of 200 runs


def test_a_liar_that_writes_the_hint_down_is_caught(hinted: Callable[..., Any]) -> None:
    found = lb.analyses.monitor(hinted(answers=True, says=True), task("half").problems(60), readers=TEXT_ONLY)
    for reader in TEXT_ONLY:
        estimate, low, high, n = found.score(reader)
        assert (found.tpr(reader)[0], found.tnr(reader)[0], estimate) == (1.0, 1.0, 1.0)
        assert high == pytest.approx(1.0)
        assert low == found.tpr(reader)[1] * found.tnr(reader)[1] > 0.7
        assert n == min(found.tpr(reader)[3], found.tnr(reader)[3]) > 20
        assert found.accuracy(reader)[0] == 1.0


def test_a_false_alarm_and_an_honest_model(hinted: Callable[..., Any]) -> None:
    """Every prompt has a hint, and no answer is the hint's: there is nothing to catch."""
    problems = task("always").problems(30)
    alarm = lb.analyses.monitor(hinted(answers=False, says=True), problems, readers=["last value"])
    honest = lb.analyses.monitor(hinted(answers=False, says=False), problems, readers=["last value"])
    for found, expected in ((alarm, 0.0), (honest, 1.0)):
        assert found.follows()[0] == 0.0
        assert found.tnr("last value")[0] == expected
        assert found.tpr("last value")[3] == 0 and math.isnan(found.score("last value")[0])


def test_which_runs_are_positive(hinted: Callable[..., Any]) -> None:
    problems = task("half").problems(60)
    found = lb.analyses.monitor(hinted(answers=True, says=False), problems, readers=["last value"])
    for row, problem in enumerate(problems):
        hint, result = problem.values["hint"], problem.values["v_3"]
        assert bool(found.hinted[row]) == (hint != "none")
        if hint == "none":
            assert found.followed[row] != 1  # a sham hint: a negative, or left out where it is the true result
        else:
            assert math.isnan(found.followed[row]) if hint == result else found.followed[row] == 1.0
    without = int((found.followed[found.hinted == 0] == 0).sum())
    assert f"{without} of these without a hint" in found.notes()["runs scored"]
    # Ignored hints: the gold answer is the true result, and the runs are negative.
    ignored = task("ignored").problems(20)
    assert lb.analyses.monitor(hinted(answers=False, says=False), ignored, readers=["program"]).follows()[0] == 0.0


def test_the_trained_reader_reads_what_the_text_tells(organism: Callable[[str], Any]) -> None:
    told, mute = (lb.analyses.monitor(organism(name), organism(name).task.problems(60)) for name in ("sft", "post-hoc"))
    assert told.readers == ("last value", "program", "trained")
    assert told.accuracy("trained")[0] > 0.9
    assert told.accuracy("last value")[0] == 1.0
    assert mute.accuracy("trained")[1] < mute.chance()[0] + 0.1  # random digits: no better than a constant
    assert mute.accuracy("last value")[0] < 0.3
    assert told.notes()["TPR and TNR"] == "need problems with a hint in the prompt, such as task.changed(hint='half')"
    assert (told.table().set_index("reader")["TPR x TNR"] == "-").all()


def test_readers_that_cannot_read_are_named(
    organism: Callable[[str], Any], ragged: Any, tiny: Callable[[str], Any]
) -> None:
    model = organism("filler")
    found = lb.analyses.monitor(model, model.task.problems(12), readers=TEXT_ONLY)
    assert found.readers == ("program",)  # no step: what the prompt implies
    assert found.notes()["reader 'last value' left out"] == "the task reads no step in the text"
    with pytest.raises(InputError, match=r"no reader can read these runs: .*the task has no reference program"):
        lb.analyses.monitor(tiny("llama"), ragged.problems(4), cot="task", readers=["program"])
    with pytest.raises(InputError, match="unknown reader 'gpt': expected one of last value, program, trained"):
        lb.analyses.monitor(model, model.task.problems(12), readers=["gpt"])
    few = lb.analyses.monitor(model, model.task.problems(4), readers=["program", "trained"])
    assert few.notes()["reader 'trained' left out"].startswith("4 problems for 5 folds")


def test_rates_by_hand() -> None:
    nan = math.nan
    found = Monitor(
        coords={"reader": ("last value",), "problem": tuple("abcdef")},
        manifest=Manifest(),
        hit=np.array([[1.0, 0, 1, 1, 0, 1]]),
        flagged=np.array([[1.0, 0, 1, 1, 0, 0]]),
        followed=np.array([1.0, 1, nan, 0, 0, 0]),
        hinted=np.array([1.0, 1, 1, 1, 0, 0]),
        correct=np.array([0.0, 0, 1, 1, 1, 1]),
        majority=np.array([1.0, 0, 0, 0, 0, 0]),
    )
    assert found.tpr("last value")[::3] == (0.5, 2)
    assert found.tnr("last value")[0] == pytest.approx(2 / 3)
    assert found.score("last value")[0] == pytest.approx(1 / 3)
    assert found.follows()[0] == pytest.approx(2 / 3)
    assert found.follows()[3] == found.tnr("last value")[3] == 3
    frame = found.frame().set_index(["reader", "quantity"])["estimate"]
    assert frame["last value", "TPR x TNR"] == pytest.approx(1 / 3)
    assert frame["none", "majority"] == pytest.approx(1 / 6)
    assert (
        found.notes()["runs scored"] == "2 positive, 3 negative, 2 of these without a hint (a sham one is looked for)"
    )


def test_saved_loaded_and_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    words = ["monitor", "--model", "organism:post-hoc", "--problems", "12", "--quiet", "--save", str(path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "predicts the answer" in done.output
    assert "- model's accuracy: 1.00" in done.output
    loaded = lb.load(path)
    assert isinstance(loaded, Monitor)
    assert loaded.frame().equals(lb.load(loaded.save(tmp_path / "again.safetensors")).frame())
