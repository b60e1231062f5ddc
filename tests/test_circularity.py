"""Circularity: circles are found on values that were left out, look-ups and noise are not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import loadbearing as lb
from loadbearing.analyses.circularity import _errors, _renamed
from loadbearing.analyses.readings import Place
from loadbearing.core import InputError
from loadbearing.probes import RidgeProbe, group_folds, held_out


def r2(X: NDArray[Any], values: NDArray[Any], period: int) -> list[float]:
    """R^2 on left-out values of the line and of frequencies 1, 2, ... for features `[n, d]`."""
    n = len(values)
    place = Place("answer-only cue[-1]", X[:, None, None], np.arange(n), np.zeros(n, dtype=int))
    frequencies = list(range(1, period // 2 + 1))
    error, null = _errors(place, values, group_folds(values, 5, 0), period, frequencies, n)
    return [float(1 - e.sum() / c.sum()) for e, c in zip(error[0], null, strict=True)]


def test_a_circle_is_told_from_a_line_and_from_a_look_up() -> None:
    rng = np.random.default_rng(0)
    values = np.arange(400) % 10
    noise = 0.1 * rng.normal(size=(400, 12))
    circle, line, table = noise.copy(), noise.copy(), noise.copy()
    circle[:, 0] += np.cos(2 * np.pi * 3 * values / 10)
    circle[:, 1] += np.sin(2 * np.pi * 3 * values / 10)
    line[:, 0] += values / 3
    table[:, :10] += np.eye(10)[values]
    on_circle, on_line, looked_up = r2(circle, values, 10), r2(line, values, 10), r2(table, values, 10)
    assert on_circle[3] > 0.95 and max(on_circle[:3] + on_circle[4:]) < 0.5
    assert on_line[0] > 0.95
    # A probe that has seen all ten values reads them without an error; none of it reaches a value that it has not seen.
    assert held_out(RidgeProbe(), table, values).accuracy.mean > 0.99
    assert max(looked_up) < 0.1


def test_renaming_keeps_the_groups_and_loses_the_circle() -> None:
    values = np.arange(300) % 10
    renamed = _renamed(values, 10, np.random.default_rng(0))
    assert len(set(zip(values.tolist(), renamed.tolist(), strict=True))) == 10
    angle = 2 * np.pi * values / 10
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert r2(circle, values, 10)[1] > 0.99
    assert r2(circle, renamed, 10)[1] < 0.5


def test_direct_holds_its_answer_on_circles_before_the_last_layer(organism: Callable[[str], Any]) -> None:
    """As found: frequencies 1 and 4 of the sum mod 10, and no line."""
    model = organism("direct")
    found = lb.analyses.circularity(model, model.task.problems(400), variables=["v_3"], shuffles=3)
    table: Any = found.r2("v_3", "answer-only cue[-1]").query("layer == 1").set_index("feature")
    for k in ("k=1", "k=4"):
        assert table.loc[k, "low"] > 0.5 > 0.2 > table.loc[k, ["random_init", "shuffled_high"]].max()
    assert table.loc["line", "r2"] < 0.3
    assert len(found.frame()) == 2 * 3 * 6


def test_it_saves_and_draws(organism: Callable[[str], Any], tmp_path: Any) -> None:
    model = organism("direct")
    found = lb.analyses.circularity(model, model.task.problems(100), variables=["v_3"], shuffles=0, twin=False)
    loaded = lb.load(found.save(tmp_path / "c.safetensors"))
    assert loaded.frame().equals(found.frame())
    axes = lb.figures.circularity(loaded)
    assert axes.get_xlabel() == "feature of the answer"


def test_bad_input(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    problems = model.task.problems(40)
    with pytest.raises(InputError, match="has 10 values, too few to leave out in 12 folds"):
        lb.analyses.circularity(model, problems, folds=12)
    questions = lb.tasks.Questions()
    questions.add("a", "6 + 2", "eight")
    with pytest.raises(InputError, match="expected whole numbers from 0, got 'eight'"):
        lb.analyses.circularity(model, questions.problems(1), variables=["v_1"])
