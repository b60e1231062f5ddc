"""Names of models, spans, tokens, variables and tamperings, whatever they are, are drawn as they are written."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text
from safetensors import safe_open
from safetensors.numpy import save_file

import loadbearing as lb
from loadbearing import analyses, figures, hooks
from loadbearing.analyses.claims import load_claims
from loadbearing.core import InputError, Result
from loadbearing.figures.canvas import canvas

HOSTILE = {
    "formula": "$x^",
    "whole formula": "$\\frac{1}{2}$ a_b^{c%d",
    "control": "\x1b[31mred\x1b[0m\x07 nul\x00 tab\t",
    "direction": "\u202eright to left\u200f",
    "emoji": "\U0001f600" * 50,
    "marks": "Z\u0351\u036b\u0343\u036a\u0302\u036b",
    "long": "x" * 5000,
    "wide": "W" * 5000,
    "script": "<script>alert(1)</script>&amp;",
    "lines": "two\nlines",
    "many lines": "line\n" * 1000,
    "half": "half \ud800 surrogate",
    "blank": " ",
    "model": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
}
# Every function, the analysis it draws, and which names of its result it shows: labels of an axis, or of the manifest.
SHOWN: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "ablation": ("ablation", {}),
    "across": ("across", {}),
    "attribution": ("attribution", {"component": ("component",)}),
    "behaviour": ("behaviour", {"tampering": ("tampering",)}),
    "beyond": ("beyond", {"place": ("place",)}),
    "by_layer": ("by_layer", {"variable": ("variable",)}),
    "cells": ("channels", {}),
    "channels": ("channels", {"variable": ("variable",), "target": ("answer",)}),
    "circularity": ("circularity", {"feature": ("feature",)}),
    "commitment": ("commitment", {}),
    "decodability": ("decodability", {}),
    "decodability_map": ("decodability", {}),
    "errors": ("errors", {"set": ("set",)}),
    "knockout": ("knockout", {"queries": ("cue",)}),
    "ledger": ("ledger", {"target": ("target",), "source": ("source",)}),
    "monitor": ("monitor", {"reader": ("reader",)}),
    "patch": ("patch", {"position": ("position",)}),
    "patch_depth": ("patch", {"position": ("position",)}),
    "patch_heads": ("heads", {"position": ("position",), "unit": ("unit",)}),
    "paths": ("paths", {"sender": ("sender",), "receiver": ("receiver",)}),
    "relay_by_position": ("relay", {"part": ("part",), "variable": ("variable",)}),
    "subspace": ("subspace", {}),
}
ALONE = ("circularity", "decodability_map")  # take one result, and no name
WHOLE = "all"  # the one part of a relay that is looked for by its name
OTHERS = ("alt", "claims", "history", "latex", "save", "style")  # draw no result of an analysis, or nothing


@pytest.fixture(scope="module")
def results(organism: Callable[[str], Any]) -> dict[str, Result]:
    """A result of every analysis that is drawn."""
    copy, sft, direct = organism("copy-direct"), organism("sft"), organism("direct")
    pairs, few, more = copy.task.pairs(4), sft.task.problems(12), sft.task.problems(60)
    told: dict[str, Any] = {"target": "answer", "cot": "task"}
    run: dict[str, Any] = {"mode": "cot", **told}
    fast: dict[str, Any] = {"shuffles": 1, "twin": False}
    return {
        "ablation": analyses.ablation(copy, copy.task.problems(8), **told),
        "across": analyses.across(sft, few),
        "attribution": analyses.attribution(copy, pairs, **run),
        "behaviour": analyses.behaviour(sft, few, tamperings=["truncated", "mistake", "repeated"]),
        "beyond": analyses.beyond(sft, more, variables=["v_3"], **fast),
        "by_layer": analyses.by_layer(copy, pairs, **told),
        "channels": analyses.channels(copy, pairs, **told),
        "circularity": analyses.circularity(direct, direct.task.problems(60), variables=["v_3"], **fast),
        "commitment": analyses.commitment(sft, more, lines=["forced"]),
        "decodability": analyses.decodability(sft, more, **fast),
        "errors": analyses.errors(sft, few),
        "heads": analyses.patch(copy, pairs, "z", positions=["cue", "open"], **run),
        "knockout": analyses.knockout(sft, hooks.replay_gold(sft, few), "cue", "cot"),
        "ledger": analyses.ledger(copy, copy.task.problems(12), cot="task"),
        "monitor": analyses.monitor(sft, few, readers=["last value", "program"]),
        "patch": analyses.patch(copy, pairs, **run),
        "paths": analyses.paths(copy, pairs, "mlp", "logits", **run),
        "relay": analyses.relay_by_position(copy, pairs, **told),
        "subspace": analyses.subspace(direct, direct.task.pairs(2), layers=[2], fit=60, draws=2, twin=False),
    }


def rewritten(result: Result, folder: Path, names: dict[str, str]) -> Any:
    """The result of a file whose header has other names: as values, as keys, as labels."""
    path = result.save(folder / "own.safetensors")
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["loadbearing"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    header["coords"] = renamed(header["coords"], names)
    for part in ("identity", "circumstance"):
        header[part] = renamed(header[part], names)
    save_file(arrays, path, {"loadbearing": json.dumps(header)})
    return lb.load(path)


def renamed(content: Any, names: dict[str, str]) -> Any:
    """JSON with other texts in place of some."""
    if isinstance(content, dict):
        return {names.get(key, key): renamed(value, names) for key, value in content.items()}
    if isinstance(content, list):
        return [renamed(value, names) for value in content]
    return names.get(content, content) if isinstance(content, str) else content


def names_of(function: str, result: Result, words: list[str]) -> dict[str, str]:
    """New names for those that a figure shows, each its own: a number and one of the words."""
    found: dict[str, str] = {}
    for axis, given in SHOWN[function][1].items():
        own = result.coords[axis] if given == (axis,) else given
        own = tuple(name for name in own if name != WHOLE)
        found |= {str(name): f"{len(found) + n} {whole(words[n % len(words)])}" for n, name in enumerate(own)}
    return found


def whole(word: str) -> str:
    """Without half a character, which no table holds: such can only be the name of a model."""
    return word.encode(errors="ignore").decode()


def check(axes: Axes, words: list[str], path: Path) -> None:
    """Nothing is a formula, nothing hidden is drawn, and a file is written that holds no markup of others."""
    (written,) = figures.save(axes, path, ("svg",))
    assert "<script" not in written.read_text()
    drawn = [text for text in axes.figure.findobj(Text) if text.get_text()]
    assert not [text.get_text() for text in drawn if text.get_parse_math() and "$" in text.get_text()]
    assert not [text for text in drawn if re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\u200f\ud800]", text.get_text())]
    for word in words:
        start = word[:3]
        if start.isascii() and start.isprintable() and start.strip():
            assert any(start in text.get_text() for text in drawn), word


def test_every_function_is_tried() -> None:
    public = {name for name in figures.__all__ if name.islower()}
    assert public == {*SHOWN, *OTHERS}


@pytest.mark.parametrize("number", range(len(HOSTILE) // 2))
@pytest.mark.parametrize("function", SHOWN)
def test_results(function: str, number: int, results: dict[str, Result], tmp_path: Path) -> None:
    words = [*HOSTILE.values()][2 * number : 2 * number + 2]
    draw, result = getattr(figures, function), results[SHOWN[function][0]]
    given = rewritten(result, tmp_path, names_of(function, result, words))
    own = plt.subplots()[1] if number % 2 else None  # every other one in axes of the caller's
    if function in ALONE:
        axes, words = draw(given, ax=own), words if SHOWN[function][1] else []
    else:
        where = {"position": given.coords["position"][0]} if function == "patch_depth" else {}
        axes = draw(dict.fromkeys(words, given), ax=own, **where)
    assert own is None or axes is own
    check(axes, words, tmp_path / "figure")
    box = axes.get_window_extent()  # something of the figure is left
    assert min(box.width / axes.figure.bbox.width, box.height / axes.figure.bbox.height) > 0.05


@pytest.mark.parametrize("number", range(len(HOSTILE) // 2))
def test_histories_and_claims(number: int, tmp_path: Path) -> None:
    words = [*HOSTILE.values()][2 * number : 2 * number + 2]
    rows = pd.DataFrame({"step": [0, 10], "direct": [0.1, 0.0], "relay": 0.0, "tokens": [0.9, 1.0]})
    row = {"verdict": "supported", "side": "above", "estimate": 1.0, "low": 0.9, "high": 1.0, "threshold": 0.8}
    claims = pd.DataFrame([{**row, "id": "a", "endpoint": f"serial share of {whole(word)}"} for word in words])
    shown: list[tuple[Callable[..., Axes], Any]] = [
        (figures.history, dict.fromkeys(words, rows)),
        (figures.claims, claims),
    ]
    for draw, given in shown:
        check(draw(given, ax=plt.subplots()[1] if number % 2 else None), words, tmp_path / draw.__name__)


def test_the_endpoints_of_claims_are_not_cut() -> None:
    row = {"verdict": "supported", "side": "above", "estimate": 1.0, "low": 0.9, "high": 1.0, "threshold": 0.8}
    ends = [" ".join(map(str, claim.endpoint)) for claim in load_claims()[0]]
    axes = figures.claims(pd.DataFrame([{**row, "id": "a", "endpoint": end} for end in ends]))
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [f"(a) {end}".replace(" - ", "\nminus ") for end in ends]


def test_names_that_no_analysis_gives_are_told(results: dict[str, Result], tmp_path: Path) -> None:
    for function, own in (("across", "own run"), ("commitment", "forced")):
        given = rewritten(results[function], tmp_path, {own: "$x^"})
        with pytest.raises(InputError, match=r"unknown \w+ '\$x\^'"):
            getattr(figures, function)(given)
    with pytest.raises(InputError, match=r"unknown part 'all': expected one of step.1, \$x\^"):
        figures.relay_by_position(rewritten(results["relay"], tmp_path, {WHOLE: "$x^"}))
    row = {"id": "a", "endpoint": "x", "side": "above", "estimate": 1.0, "low": 0.9, "high": 1.0, "threshold": 0.8}
    with pytest.raises(InputError, match="unknown verdict 'perhaps'"):
        figures.claims(pd.DataFrame([{**row, "verdict": "perhaps"}]))


def test_a_manifest_that_disagrees_with_the_labels_is_told(results: dict[str, Result]) -> None:
    result = results["channels"]
    assert isinstance(result, analyses.Channels)
    other = replace(result, coords={**result.coords, "variable": ("other",)})
    with pytest.raises(InputError, match=r"expected the first use of other in the manifest, got \{'value'"):
        figures.channels(other)


def test_a_dollar_is_a_dollar() -> None:
    for own in (None, plt.subplots()[1]):
        if own is not None:
            own.set_title("$x^2$")  # the caller's own formula stays one
        with canvas(own, 3.0, 2.0) as ax:
            ax.set_xticks([0, 1], ["$x$", "a$"])
            ax.set_xlabel("$y$")
        texts = [*ax.get_xticklabels(), ax.xaxis.label]
        assert [t.get_text() for t in texts] == ["$x$", "a$", "$y$"]
        assert not any(t.get_parse_math() for t in texts)
        assert ax.title.get_parse_math() is (own is not None)
