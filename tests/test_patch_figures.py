"""Figures of patching: what is drawn is what was measured."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.analyses.across_table import OWN
from loadbearing.analyses.subspace_table import SWAPPED, WHOLE
from loadbearing.core import InputError


def texts(ticks: Any) -> list[str]:
    return [tick.get_text() for tick in ticks]


def test_answer_only_and_cot_stand_side_by_side(organism: Callable[[str], Any]) -> None:
    model = organism("both")
    pairs = model.task.pairs(3)
    maps = {"answer-only": lb.analyses.patch(model, pairs), "CoT": lb.analyses.patch(model, pairs, mode="cot")}
    ax = lb.figures.patch(maps)
    assert {"answer-only", "CoT"} <= {text.get_text() for text in ax.texts}
    labels = texts(ax.get_xticklabels())
    assert labels == [*maps["answer-only"].coords["position"], *maps["CoT"].coords["position"]]
    assert texts(ax.get_yticklabels()) == ["2", "1", "0"]
    for mesh, found in zip(ax.collections, maps.values(), strict=True):
        drawn: Any = mesh.get_array()
        np.testing.assert_allclose(np.asarray(drawn), found.effect()[0][::-1])
    assert not [line for line in ax.lines if len(np.asarray(line.get_xdata()))]  # all cells are exact


def test_a_dot_marks_what_a_gradient_guessed(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    found = lb.analyses.patch(model, model.task.pairs(3), method="gradient", sample=4)
    ax = lb.figures.patch(found)
    assert sum(len(np.asarray(line.get_xdata())) for line in ax.lines) == int((~found.exact).sum()) > 0


def test_heads_and_neurons(organism: Callable[[str], Any]) -> None:
    model = organism("both")
    found: Any = lb.analyses.patch(model, model.task.pairs(3), "z", positions=["operand.1", "cue[-1]"])
    ax = lb.figures.patch_heads(found)
    assert {"operand.1", "cue[-1]"} <= {text.get_text() for text in ax.texts}
    assert ax.get_xlabel() == "head"
    one = lb.figures.patch_heads(found, position="cue[-1]")
    drawn: Any = one.collections[0].get_array()
    np.testing.assert_allclose(np.asarray(drawn), found.effect()[0][::-1, 1])
    neurons: Any = lb.analyses.patch(
        model, model.task.pairs(2, vary="operand.1"), "neurons", positions=["cue[-1]"], units=range(3)
    )
    assert lb.figures.patch_heads(neurons).get_xlabel() == "neuron"
    with pytest.raises(InputError, match=r"a UnitPatchMap has other axes than layer and position: use .*patch_heads"):
        lb.figures.patch(found)
    with pytest.raises(InputError, match=r"unknown position 'cue'.*nearest"):
        lb.figures.patch_heads(found, position="cue")
    wires = lb.analyses.paths(model, model.task.pairs(2, vary="operand.1"), "mlp", "logits")
    with pytest.raises(InputError, match=r"a Paths has other axes than layer and position: use figures.paths"):
        lb.figures.patch(wires)


def test_effect_against_depth_with_its_interval(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    found = lb.analyses.patch(model, model.task.pairs(4), positions=["operand.1", "cue[-1]"])
    ax = lb.figures.patch_depth(found)
    estimate, low, high = found.effect()
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in ax.lines}
    np.testing.assert_allclose(lines["operand.1"], estimate[:, 0])
    np.testing.assert_allclose(lines["cue[-1]"], estimate[:, 1])
    band: Any = ax.collections[1].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(low[:, 1].min()) and band[:, 1].max() == pytest.approx(high[:, 1].max())
    both = {"one": found, "other": found}
    with pytest.raises(InputError, match=r"2 maps with several places: say which `position`, one of operand.1, cue"):
        lb.figures.patch_depth(both)
    assert len(texts(lb.figures.patch_depth(both, position="cue[-1]").get_legend().get_texts())) == 2  # type: ignore[union-attr]


def test_swaps_are_drawn_beside_what_is_read(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    found = lb.analyses.subspace(model, model.task.pairs(3), draws=2, fit=150)
    ax = lb.figures.subspace({"direct": found})
    every: Any = found.frame().query("model == 'trained' and quantity == 'moved'")
    frame = every.set_index("intervention")["estimate"]
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in ax.lines}
    for name in (WHOLE, SWAPPED):
        np.testing.assert_allclose(lines[name], frame.loc[name].to_numpy(dtype=float))
    assert "subspace, random model" in lines
    assert len(ax.patches) == 3  # a bar of bits a layer
    assert ax.get_ylabel() == "share of pairs moved"


def test_runs_put_across_are_drawn_beside_the_plain_ones(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    found = lb.analyses.across(model, model.task.problems(12))
    ax = lb.figures.across({"sft": found, "again": found})
    frame = found.frame()
    rows = frame[(frame["condition"] == OWN) & (frame["quantity"] == "own answer")]
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in ax.lines}
    np.testing.assert_allclose(lines[OWN], rows["estimate"])
    assert texts(ax.get_xticklabels()) == ["0", "1", "2"] * 2
    with pytest.raises(InputError, match="unknown position"):
        lb.figures.across(found, position="open")
