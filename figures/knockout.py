"""What the answer loses where some positions cannot read others."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from ..analyses.knockout_table import QUANTITIES, KnockOutEffect
from ..core import InputError, check_name
from .alt import describe, number, strongest
from .canvas import canvas, legend, looks, named
from .style import COLUMN, GREY
from .tiles import Tile, draw, size

WORDS = {"log_p": "change of log p, nats", "kl": "KL, nats", "kept": "answers kept"}
DASHED = (0, (3, 2))
LETTERS = 40  # that fit side by side under a column
WITHOUT = {"log_p": 0.0, "kl": 0.0, "kept": 1.0}  # what there is where nothing is knocked out


def knockout(
    results: KnockOutEffect | Mapping[str, KnockOutEffect], ax: Axes | None = None, *, quantity: str = "log_p"
) -> Axes:
    """Draw the effect of knock-outs with 95 % intervals, beside that of as many random keys (hollow, dashed, a band).

    One knock-out a layer: a line over depth for each result. A head: a grid of layers and heads for each, the first
    layer at the bottom. All at once: a point for each. The thin line is the run as it is. All results must be of the
    same kind; quantity: "log_p", "kl" or "kept".

    >>> from loadbearing.analyses import knockout as measure
    >>> from loadbearing.hooks import generate, load
    >>> model = load("organism:sft")
    >>> runs = generate(model, model.task.problems(16))
    >>> ax = knockout(measure(model, runs, "cue", "cot", each="layer"))
    >>> ax.get_xlabel()
    'layer'
    """
    shown = named(results, KnockOutEffect)
    check_name("quantity", quantity, QUANTITIES)
    kinds = sorted({result.each for result in shown.values()})
    if len(kinds) > 1:
        told = " and ".join(map(repr, kinds))
        raise InputError(f"expected results of one kind, got each={told}: draw each kind in axes of its own")
    if kinds == ["head"]:
        return _grids(shown, ax, quantity)
    with canvas(ax, COLUMN, 2.2) as axes:
        axes.axhline(WITHOUT[quantity], color=GREY, linewidth=0.6, zorder=0)
        found = (_lines if kinds == ["layer"] else _points)(axes, shown, quantity)
        axes.set_ylabel(WORDS[quantity])
        chart = "Lines over the layers" if kinds == ["layer"] else "Points"
        describe(axes, f"{chart} with 95 % intervals: {WORDS[quantity]} where positions cannot read others.", found)
        return axes


def _lines(axes: Axes, shown: Mapping[str, KnockOutEffect], quantity: str) -> dict[str, str]:
    """Draw one line a result, and return what it says."""
    found = {}
    for (name, result), (colour, marker) in zip(shown.items(), looks(len(shown)), strict=True):
        depth = [int(layer) for layer in result.coords["layer"]]
        drawn, low, high = (part[:, 0] for part in result.effect(quantity, control=True))
        if np.isfinite(drawn).any():
            axes.fill_between(depth, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(depth, drawn, color=colour, linestyle=DASHED, marker=marker, markerfacecolor="white")
        estimate, low, high = (part[:, 0] for part in result.effect(quantity))
        axes.vlines(depth, low, high, colors=colour, linewidths=0.8)
        axes.plot(depth, estimate, color=colour, marker=marker, label=name or "knocked out", zorder=3)
        by_layer = [(f"layer {layer}", float(value)) for layer, value in zip(depth, estimate, strict=True)]
        found[name] = strongest(by_layer) + f", random keys mean {number(float(np.mean(drawn)))}"
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    window = max(int(result.manifest.identity.get("window", 1)) for result in shown.values())
    axes.set_xlabel("layer" if window == 1 else f"first of {window} layers")
    _legend(axes, DASHED, GREY if any(shown) else "black")
    return found


def _points(axes: Axes, shown: Mapping[str, KnockOutEffect], quantity: str) -> dict[str, str]:
    """Draw one point a result, and return what it says."""
    found = {}
    for x, ((name, result), (colour, marker)) in enumerate(zip(shown.items(), looks(len(shown)), strict=True)):
        told = []
        for shift, control in ((-0.1, False), (0.1, True)):
            estimate, low, high = (float(part[0, 0]) for part in result.effect(quantity, control=control))
            told.append(f"{'random keys' if control else 'knocked out'} {number(estimate)}")
            if math.isnan(estimate):
                continue
            face = "white" if control else colour
            axes.vlines(x + shift, low, high, colors=colour, linewidths=0.8)
            axes.plot(x + shift, estimate, color=colour, marker=marker, markerfacecolor=face, linestyle="none")
        found[name] = ", ".join(told)
    names = [name or _what(result) for name, result in shown.items()]
    slant: dict[str, Any] = {"rotation": 20, "ha": "right"} if sum(map(len, names)) > LETTERS else {}
    axes.set_xticks(range(len(shown)), names, parse_math=False, **slant)
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.plot([], [], color=GREY, marker="o", linestyle="none", label="knocked out")
    _legend(axes, "none", GREY)
    return found


def _legend(axes: Axes, linestyle: Any, colour: str) -> None:
    axes.plot([], [], linestyle=linestyle, color=colour, marker="o", markerfacecolor="white", label="random keys")
    legend(axes, 3, handlelength=2.4)


def _grids(shown: Mapping[str, KnockOutEffect], ax: Axes | None, quantity: str) -> Axes:
    tiles = {}
    for name, result in shown.items():
        rows = [str(layer) for layer in reversed(result.coords["layer"])]
        values = result.effect(quantity)[0][::-1]
        tiles[name] = Tile(rows, [str(head) for head in result.coords["head"]], values)
    every = np.concatenate([tile.values.ravel() for tile in tiles.values()])
    reach = max(float(np.abs(every[np.isfinite(every)]).max(initial=0.0)), 1e-6)
    if quantity == "log_p":
        colours, scale = matplotlib.colormaps["RdBu_r"], Normalize(-reach, reach)
    else:
        colours, scale = matplotlib.colormaps["Reds"], Normalize(0, reach if quantity == "kl" else 1)
    width, height = size(tiles, WORDS[quantity])
    with canvas(ax, width, max(height, 1.8)) as axes:
        draw(axes, tiles, colours, scale, WORDS[quantity])
        axes.set_xlabel("head")
        axes.set_ylabel("layer")
        found = {name: tile.told(signed=quantity == "log_p") for name, tile in tiles.items()}
        describe(axes, f"Heat map: {WORDS[quantity]}, by layer (row) and head (column) that is knocked out.", found)
        return axes


def _what(result: KnockOutEffect) -> str:
    identity = result.manifest.identity
    return f"{identity.get('queries', '')} \N{RIGHTWARDS ARROW WITH STROKE} {identity.get('keys', '')}".strip()
