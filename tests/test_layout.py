"""Whatever is drawn, and however wide: no text is cut off, covers another, or is too small to be printed."""

import re
import runpy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D, BboxBase

import loadbearing as lb
from loadbearing import analyses, figures
from loadbearing.core import Result

FOLDER = Path(__file__).parents[1] / "docs" / "results"
REAL = sorted(FOLDER.glob("*.safetensors"))
MADE: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("test_figures.py")))
LEAST = 5  # points: what journals print
SLACK = 1  # pixels, of which there are 150 an inch, by which texts may overlap
# The class of a result, and what draws it: a function, and an option of it that is turned on.
DRAWN: dict[type[Result], tuple[str, ...]] = {
    analyses.Ablation: ("ablation",),
    analyses.Across: ("across",),
    analyses.Attribution: ("attribution",),
    analyses.Behaviour: ("behaviour",),
    analyses.Beyond: ("beyond",),
    analyses.ByLayer: ("by_layer",),
    analyses.Channels: ("channels", "channels stacked", "cells"),
    analyses.Circularity: ("circularity",),
    analyses.Commitment: ("commitment",),
    analyses.Decodability: ("decodability", "decodability_map"),
    analyses.Errors: ("errors",),
    analyses.KnockOutEffect: ("knockout",),
    analyses.Ledger: ("ledger",),
    analyses.Monitor: ("monitor",),
    analyses.Paths: ("paths",),
    analyses.PatchMap: ("patch", "patch_depth"),
    analyses.RelayByPosition: ("relay_by_position",),
    analyses.Subspace: ("subspace",),
    analyses.UnitPatchMap: ("patch_heads",),
}
ALONE = ("circularity", "decodability_map")
NOTHING = ("alt", "latex", "save", "style")


class Recorder(RendererAgg):
    """Notes every line of text that is drawn: its words, its size in points, its outline in pixels."""

    def __init__(self, figure: Figure) -> None:
        super().__init__(*figure.bbox.size, figure.dpi)  # type: ignore[no-untyped-call]
        self.lines: list[tuple[str, float, Outline]] = []

    def draw_text(self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, *_: Any, **__: Any) -> None:
        """Note instead of draw."""
        width, height, below = self.get_text_width_height_descent(s, prop, False)  # type: ignore[no-untyped-call]
        box = np.array([[0, -below], [width, -below], [width, height - below], [0, height - below]])
        box = np.clip(box, box.min(0) + SLACK / 2, box.max(0) - SLACK / 2)
        placed = Affine2D().rotate_deg(angle).translate(x, self.height - y).transform(box)
        if s.strip():
            self.lines.append((s, prop.get_size_in_points(), Outline([*placed, placed[0]])))


def faults(figure: Figure) -> list[str]:
    """What is wrong with the texts of a figure: one line for each that is cut off, small, or covers another."""
    recorder = Recorder(figure)
    figure.draw(recorder)
    found = []
    for words, size, outline in recorder.lines:
        if _lies_outside(outline.get_extents(), figure.bbox):
            found.append(f"{words!r} is cut off")
        if size < LEAST:
            found.append(f"{words!r} has {size} points")
    for (one, _, a), (other, _, b) in combinations(recorder.lines, 2):
        if a.intersects_path(b):
            found.append(f"{one!r} covers {other!r}")
    drawn = Affine2D().scale(figure.dpi).transform_bbox(figure.get_tightbbox(recorder))
    return [*found, f"what is drawn needs {drawn}"] if _lies_outside(drawn, figure.bbox) else found


def _lies_outside(box: BboxBase, whole: BboxBase) -> bool:
    """Whether a box is not within another, by more than the slack."""
    low, high = np.subtract(box.min, whole.min), np.subtract(whole.max, box.max)
    return bool(min(*low, *high) < -SLACK)


NARROW = min(figures.VENUES, key=lambda name: figures.VENUES[name].column)
WIDE = max(figures.VENUES, key=lambda name: figures.VENUES[name].page)
LARGE = max(figures.VENUES, key=lambda name: figures.VENUES[name].size)
STYLES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "ours": nullcontext,
    f"{NARROW}, the narrowest": lambda: figures.style(NARROW),
    f"{WIDE}, the widest": lambda: figures.style(WIDE, columns=2),
    f"{LARGE}, the largest letters": lambda: figures.style(LARGE),
}


def cases() -> Iterator[tuple[str, str, Any]]:
    """Names, functions, and what they draw: hand-made results and real ones, alone and several at once."""
    for name, result in MADE["make_all"]().items():
        yield from ((f"made {name}", function, result) for function in DRAWN[type(result)])
    for path in REAL:
        result = lb.load(path)
        yield from ((path.stem, function, result) for function in DRAWN[type(result)])
    yield from (("claims", "claims", FOLDER / "claims.csv"), ("history", "history", FOLDER / "history.jsonl"))
    row = {"verdict": "supported", "side": "above", "estimate": 1.0, "low": 0.9, "high": 1.0, "threshold": 0.8}
    ends = ["serial share of small-rl", "P(right answer) of large-direct - P(right answer) of small-direct", "depth"]
    yield (
        "made claims",
        "claims",
        pd.DataFrame([{**row, "id": "abc"[i], "endpoint": end} for i, end in enumerate(ends)]),
    )
    steps = np.arange(0, 2000, 100)
    rows = {"direct": 1 / (steps + 1), "relay": 0.0, "tokens": 1 - 1 / (steps + 1), "serial_share": 0.5}
    yield "made history", "history", pd.DataFrame({"step": steps, **rows, "cot_accuracy": 0.9}).replace({0.99: np.nan})


CASES = {f"{function} of {name}": (function, given) for name, function, given in cases()}


def draw(function: str, given: Any, ax: Axes | None = None) -> Axes:
    """Draw; of several places of a map, where one must be chosen, the first."""
    name, *options = function.split()
    one = next(iter(given.values())) if isinstance(given, dict) else given
    where = {"position": one.coords["position"][0]} if function == "patch_depth" and isinstance(given, dict) else {}
    found: Axes = getattr(figures, name)(given, ax=ax, **where, **dict.fromkeys(options, True))
    return found


def test_every_function_and_kind_is_tried() -> None:
    tried = {function.split()[0] for function, _ in CASES.values()}
    assert tried == {name for name in figures.__all__ if name.islower()} - set(NOTHING)
    real = {type(lb.load(path)) for path in REAL}
    assert real == set(DRAWN), "docs/results holds a result of every kind"


@pytest.mark.parametrize("look", STYLES)
@pytest.mark.parametrize("case", CASES)
def test_no_text_is_cut_off_covered_or_small(case: str, look: str) -> None:
    function, given = CASES[case]
    models = 1 if function in (*ALONE, "claims") or "widest" in look else 2
    with STYLES[look]():
        figure = draw(function, {"one model": given, "another-model-1.5B": given} if models > 1 else given).figure
    assert isinstance(figure, Figure)
    assert not faults(figure)


# Endpoints of claims are never shortened: six real ones leave too little of half a page for the legend above them.
@pytest.mark.parametrize("case", sorted(CASES.keys() - {"claims of claims"}))
def test_nor_beside_another_in_axes_of_the_users(case: str) -> None:
    with figures.style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(figures.DOUBLE_COLUMN, 3.0), layout="constrained")
        draw(*CASES[case], left)
        draw(*CASES[case], right)
        assert not faults(figure)


@pytest.mark.parametrize("case", {function: case for case, (function, _) in CASES.items()}.values())
def test_every_font_of_a_pdf_is_an_embedded_truetype_font(case: str, tmp_path: Path) -> None:
    (path,) = figures.save(draw(*CASES[case]), tmp_path / "figure", ("pdf",))
    pdf = path.read_bytes()
    assert len(re.findall(rb"/Type /FontDescriptor", pdf)) == len(re.findall(rb"/FontFile2 ", pdf)) > 0
    assert set(re.findall(rb"/Subtype /(Type\d|TrueType|CIDFontType\d)", pdf)) <= {b"Type0", b"CIDFontType2"}


def test_the_check_sees_what_it_is_for() -> None:
    figure, ax = plt.subplots(figsize=(4, 4))
    assert not faults(figure)
    ax.text(0.5, 0.5, "first")
    ax.text(0.52, 0.5, "second")
    ax.text(0.5, 0.2, "far beyond the edge, and so far that it is cut")
    ax.text(0.1, 0.8, "tiny", size=4)
    found = "\n".join(faults(figure))
    assert "'first' covers 'second'" in found and "cut' is cut off" in found
    assert "'tiny' has 4.0 points" in found and "what is drawn needs" in found


@pytest.mark.parametrize("case", {function: case for case, (function, _) in CASES.items()}.values())
def test_axes_beside_it_stay_as_their_owner_made_them(case: str) -> None:
    with plt.rc_context({"text.parse_math": True}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
        right.loglog([1, 1e6], [1, 1e6])
        right.set_title("$x^2$")
        draw(*CASES[case], left)
        labels = [*right.get_xticklabels(), *right.get_yticklabels(), right.title]
        assert all(label.get_parse_math() for label in labels if "$" in label.get_text())
        assert sum("$" in label.get_text() for label in labels) > 3
        plt.close(figure)
