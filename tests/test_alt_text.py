"""What figures show stands in words in every file, from the results, and hostile names stay text."""

import re
import runpy
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import loadbearing as lb
from loadbearing import figures
from loadbearing.analyses import Channels
from loadbearing.core import InputError
from loadbearing.figures.alt import MOST
from loadbearing.figures.report import Figure

RESULTS = Path(__file__).parents[1] / "docs" / "results"
MADE: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("test_figures.py")))
# A result for each function, and words that its description has.
SHOWN = {
    "ablation": ("ablation", "direct+tokens 0.00"),
    "across": ("across", "own run highest"),
    "attribution": ("attribution", "mlp.2"),
    "behaviour": ("behaviour", "untouched 1.00"),
    "beyond": ("beyond", "state beyond the text highest"),
    "by_layer": ("by-layer", "tokens 1.00 (tokens is read at layer 1)"),
    "cells": ("channels", "direct+relay+tokens"),
    "channels": ("channels", "mean direct 0.00, relay 0.00, tokens 1.00"),
    "circularity": ("circularity", "R²"),
    "commitment": ("commitment", "settled at"),
    "decodability": ("decodability", "CoT run highest"),
    "decodability_map": ("decodability", "by layer"),
    "errors": ("errors", "in distribution: right, after its steps"),
    "knockout": ("knockout", "random keys"),
    "ledger": ("ledger", "(step.2, step.1)"),
    "monitor": ("monitor", "suspicion (TPR 1.00"),
    "patch": ("patch", "at (2, cue)"),
    "patch_depth": ("patch", "at layer 2"),
    "patch_heads": ("patch-heads", "head (column)"),
    "paths": ("paths", "direct path"),
    "relay_by_position": ("relay-by-position", "at step.3"),
    "subspace": ("subspace", "whole state highest"),
}
TABLES = {"claims": ("claims.csv", "(a2): contradicted"), "history": ("history.jsonl", "From update 0")}
NOTHING = ("alt", "latex", "save", "style")  # draw nothing


def given(function: str) -> Any:
    """What a function draws."""
    return (
        RESULTS / TABLES[function][0] if function in TABLES else lb.load(RESULTS / f"{SHOWN[function][0]}.safetensors")
    )


def words(png: Path) -> str:
    """What a file says of itself."""
    with Image.open(png) as image:
        return str(image.info.get("Description", ""))


@pytest.mark.parametrize("function", sorted({name for name in figures.__all__ if name.islower()} - set(NOTHING)))
def test_every_figure_says_what_it_shows(function: str, tmp_path: Path) -> None:
    axes = getattr(figures, function)(given(function))
    said = figures.alt(axes)
    _, part = (SHOWN | TABLES)[function]
    assert part.lower() in said.lower()
    assert 60 < len(said) <= MOST and said.endswith(".") and said[0].isupper() and "nan" not in said
    (png,) = figures.save(axes, tmp_path / "figure", ("png",))
    assert words(png) == said
    assert Figure(function, png.read_bytes()).alt == said


def test_the_numbers_are_those_of_the_result() -> None:
    found = lb.load(RESULTS / "channels-post-hoc.safetensors")
    assert isinstance(found, Channels)
    shares = found.estimates("mean").get("log-odds", "share")
    told = ", ".join(f"{wire} {share:.2f}" for wire, share in zip(figures.WIRE_COLOURS, shares, strict=True))
    assert figures.alt(figures.channels(found)).endswith(f" Mean {told.replace('-0.00', '0.00')}.")
    withheld = MADE["make_channels"]({"operand.1": "weak"})
    assert figures.alt(figures.channels(withheld)).endswith(" Mean withheld: b.")


def test_each_format_keeps_the_words_and_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    axes = figures.circularity(given("circularity"))
    said = figures.alt(axes)
    assert not said.isascii(), "R²"
    first, second = (figures.save(axes, tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    pdf, _, svg = (path.read_bytes() for path in first)
    assert f"<dc:description>{said}</dc:description>" in svg.decode()
    assert words(first[1]) == said
    subject = re.search(rb"/Subject \((.*?)\)\n", pdf, re.S)
    assert subject is not None
    assert re.sub(rb"\\(.)", rb"\1", subject[1], flags=re.S).decode("utf-16") == said


def test_panels_of_one_figure_each_have_their_own(tmp_path: Path) -> None:
    _, (left, right, rest) = plt.subplots(1, 3)
    figures.channels(given("channels"), left)
    figures.ledger(given("ledger"), right)
    one, two = figures.alt(left), figures.alt(right)
    assert one.startswith("Bars") and two.startswith("Heat map")
    (png,) = figures.save(rest, tmp_path / "figure", ("png",))
    assert words(png) == f"{one} {two}"
    figures.ledger(given("ledger"), left)  # drawn again: what was drawn last
    assert figures.alt(left) == two
    for other in (rest, plt.subplots()[1]):
        with pytest.raises(InputError, match=r"expected axes that a function of .* drew in, got axes without a desc"):
            figures.alt(other)
    (plain,) = figures.save(plt.subplots()[1], tmp_path / "plain", ("png",))
    assert words(plain) == ""


def test_names_are_shown_and_many_are_counted(tmp_path: Path) -> None:
    hostile = ["</desc><script>alert(1)</script>", "\x1b[31m\x00red", "\u202eleft", "half \ud800", "x" * 5000, "a\nb"]
    rows = pd.DataFrame({"step": [0, 8], "direct": [0.5, np.nan], "relay": 0.0, "tokens": [0.5, 1.0]})
    axes = figures.history(dict.fromkeys([*hostile, *map(str, range(20))], rows))
    said = figures.alt(axes)
    assert len(said) <= MOST and said.endswith(f"; and {26 - said.count('from update')} more.") and "\\x1b" in said
    for name in hostile:
        told = figures.alt(figures.history({name: rows}))
        assert not re.search("[\x00-\x1f\x7f\u202e\ud800]", told) and len(told) < 350
    written = figures.save(axes, tmp_path / "figure")
    assert "<script" not in written[2].read_text()
    assert words(written[1]) == said


def test_a_report_shows_a_file_without_words_by_its_name() -> None:
    for broken in (b"", b"\x89PNG\r\n\x1a\n", b"<svg>"):
        figure = Figure("ledger-small-rl", broken)
        assert (
            figure.alt
            == figure.caption
            == ("Heat map: how often each target becomes what a swapped source implies, target by source (small-rl)")
        )
