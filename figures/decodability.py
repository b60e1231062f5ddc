"""What can be read from the residual stream, along the run."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from ..analyses.decodability_table import Decodability
from .alt import describe, highest, number, short
from .canvas import canvas, legend, looks, merged, named
from .style import COLUMN, GREY
from .tiles import Tile, draw, size

CONTROL_LINES = {"random-init": ":", "text-only": "-."}
MODES = {"answer-only": "answer-only run", "cot": "CoT run"}


def decodability(
    results: Decodability | Mapping[str, Decodability], ax: Axes | None = None, *, variable: str | None = None
) -> Axes:
    """Draw the bits that a probe reads at each position of a run, with 95 % intervals, and the controls beside them.

    The answer-only run and the CoT run stand apart; a dashed line at H(y) is all there is to know. The layer of each
    place was chosen inside the training folds. Dotted: a copy of the model with random weights over the same tokens;
    dash-dotted: what the text of the chain of thought so far says without the model; the grey band: permuted labels.

    variable: one that was probed; by default the last, the answer

    >>> from loadbearing.analyses import decodability as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:direct")
    >>> ax = decodability(measure(model, model.task.problems(60), shuffles=2, twin=False))
    >>> ax.get_ylabel()
    'bits about the answer'
    """
    shown = named(results, Decodability)
    curves = {name: result.curve(variable) for name, result in shown.items()}
    places = _places(shown)
    with canvas(ax, COLUMN, 2.2) as axes:
        for (name, curve), (colour, marker) in zip(curves.items(), looks(len(curves)), strict=True):
            _draw_curve(axes, name, curve, places, colour, marker)
            _draw_controls(axes, curve, places, colour, marker)
        _name_controls(axes, curves.values())
        _draw_entropy(axes, shown, variable)
        _name_places(axes, places)
        axes.set_ylabel(f"bits about {variable or 'the answer'}")
        legend(axes, 2, borderaxespad=1.8)
        _describe(axes, shown, curves, variable)
        return axes


def _describe(
    axes: Axes, shown: Mapping[str, Decodability], curves: Mapping[str, pd.DataFrame], variable: str | None
) -> None:
    found = {}
    for (name, result), curve in zip(shown.items(), curves.values(), strict=True):
        runs = [
            f"{words} {highest(zip(part['position'].map(short), part['bits'], strict=True))}"
            for mode, words in MODES.items()
            if len(part := curve[curve["mode"] == mode])
        ]
        at = result.variables.index(variable) if variable else -1
        found[name] = ", ".join([*runs, f"of {number(float(result.null[at].mean()))} bits"])
    of = short(variable or "the answer")
    describe(axes, f"Lines with 95 % intervals: bits about {of} that a linear probe reads along a run.", found)


def decodability_map(
    result: Decodability, ax: Axes | None = None, *, variable: str | None = None, site: str | None = None
) -> Axes:
    """Draw the bits of every layer (from below) at every position, the answer-only run beside the CoT run.

    variable: one that was probed, by default the last, the answer; site: one that was recorded, by default the first

    >>> from loadbearing.analyses import decodability as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:direct")
    >>> ax = decodability_map(measure(model, model.task.problems(60), shuffles=0, twin=False))
    >>> ax.get_ylabel()
    'layer'
    """
    table = named(result, Decodability)[""].layers(variable, site)
    tiles = {}
    for mode, words in MODES.items():
        names = [place for place in table.columns if place.startswith(f"{mode} ")]
        if names:
            places = [name.partition(" ")[2] for name in names]
            name = words.removesuffix(" run")  # short enough for two columns
            tiles[name] = Tile([str(layer) for layer in table.index[::-1]], places, table[names].to_numpy()[::-1])
    at = result.variables.index(variable) if variable else -1
    meaning = f"bits about {variable or 'the answer'}"
    scale = Normalize(0, max(float(result.null[at].mean()), 1e-6))
    with canvas(ax, *size(tiles, meaning)) as axes:
        draw(axes, tiles, colormaps["viridis"], scale, meaning)
        axes.set_ylabel("layer")
        found = {name: tile.told() for name, tile in tiles.items()}
        of = short(variable or "the answer")
        describe(axes, f"Heat map: bits about {of} that a linear probe reads, by layer (row) and position.", found)
        return axes


def _places(shown: Mapping[str, Decodability]) -> dict[tuple[str, str], int]:
    """The x of each mode and position: in order of the run, one left free between the runs."""
    found: dict[tuple[str, str], int] = {}
    for mode in MODES:
        orders = [[p.partition(" ")[2] for p in result.places if p.startswith(f"{mode} ")] for result in shown.values()]
        start = len(found) + bool(found)
        found |= {(mode, position): start + i for i, position in enumerate(merged(orders))}
    return found


def _draw_curve(
    axes: Axes, name: str, curve: pd.DataFrame, places: Mapping[tuple[str, str], int], colour: str, marker: str
) -> None:
    for i, (_, part) in enumerate(curve.groupby("mode")):
        x = [places[place] for place in zip(part["mode"], part["position"], strict=True)]
        axes.fill_between(x, part["low"], part["high"], color=colour, alpha=0.2, linewidth=0)
        axes.vlines(x, part["low"], part["high"], colors=colour, linewidths=0.8)
        axes.plot(x, part["bits"], color=colour, marker=marker, label="" if i else name)


def _draw_controls(
    axes: Axes, curve: pd.DataFrame, places: Mapping[tuple[str, str], int], colour: str, marker: str
) -> None:
    """Random weights and text alone as thin lines, permuted labels as a band from the least to the most."""
    for _, part in curve.groupby("mode"):
        x = [places[place] for place in zip(part["mode"], part["position"], strict=True)]
        look: dict[str, Any] = {"color": colour, "linewidth": 0.7, "marker": marker, "markersize": 1.5}
        for control, line in CONTROL_LINES.items():
            axes.plot(x, part[control], linestyle=line, label="", **look)
        axes.fill_between(x, part["shuffled_low"], part["shuffled_high"], color=GREY, alpha=0.4, linewidth=0)


def _name_controls(axes: Axes, curves: Iterable[pd.DataFrame]) -> None:
    """Entries of the legend for the controls that were measured."""
    names = {"random-init": "random weights", "text-only": "text alone"}
    for control, line in CONTROL_LINES.items():
        if any(curve[control].notna().any() for curve in curves):
            axes.plot([], [], color=GREY, linestyle=line, linewidth=0.7, label=names[control])


def _draw_entropy(axes: Axes, shown: Mapping[str, Decodability], variable: str | None) -> None:
    named_at = set()
    for result, (colour, _) in zip(shown.values(), looks(len(shown)), strict=True):
        at = result.variables.index(variable) if variable else -1
        entropy = float(result.null[at].mean())
        axes.axhline(entropy, color=colour, linestyle="--", linewidth=0.6)
        if round(entropy, 1) not in named_at:  # models on one task have nearly the same: one name for all
            axes.text(1.01, entropy, "H(y)", transform=axes.get_yaxis_transform(), va="center", size="small")
        named_at.add(round(entropy, 1))
    axes.set_ylim(min(0.0, axes.dataLim.y0) - 0.1, None)


def _name_places(axes: Axes, places: Mapping[tuple[str, str], int]) -> None:
    labels = [position for _, position in places]
    axes.set_xticks(list(places.values()), labels, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_xlim(-0.5, max(places.values()) + 0.5)
    for mode, words in MODES.items():
        x = [at for (of, _), at in places.items() if of == mode]
        if x:
            place = axes.get_xaxis_transform()
            axes.text(
                float(np.mean(x)), 1.02, words, transform=place, ha="center", va="bottom", size="small", color=GREY
            )
            if x[0] > 0:
                axes.axvline(x[0] - 1, color="#BBBBBB", linewidth=0.6)
