"""Which part tells which directly."""

import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from ..analyses.paths_table import Paths
from .alt import describe
from .canvas import canvas, named
from .tiles import Tile, draw, size

_HEAD = re.compile(r"L(\d+)(H\d+)(?:\.[qkv])?")


def paths(results: Paths | Mapping[str, Paths], ax: Axes | None = None) -> Axes:
    """Draw the effect of each direct path, a tile a model: receivers from left to right, senders from below.

    Where all paths lead to one receiver, or from one sender, and the other ends are heads, the map is of layers (from
    below) and heads. The effect is the share of the whole change that one path makes: signed, not clipped, blue and
    with a dash (beyond a tenth of the scale) against the source's answer, red for it; the scale is the same for all
    models and reaches at least 1. Where no path leads it is blank.

    >>> from loadbearing.analyses.paths import paths as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> ax = paths(measure(model, model.task.pairs(4), mode="cot", target="answer", cot="task"))
    >>> ax.get_xlabel(), [label.get_text() for label in ax.get_yticklabels()]
    ('head', ['1', '0'])
    """
    shown = named(results, Paths)
    by_head = [_by_head(result) for result in shown.values()]
    grids = [grid for grid in by_head if grid is not None]
    heads = len(grids) == len(by_head)
    drawn = grids if heads else [_matrix(result) for result in shown.values()]
    tiles = dict(zip(shown, drawn, strict=True))
    reach = max(float(np.abs(tile.values[np.isfinite(tile.values)]).max(initial=1.0)) for tile in tiles.values())
    with canvas(ax, *size(tiles, "effect")) as axes:
        draw(axes, tiles, matplotlib.colormaps["RdBu_r"], Normalize(-reach, reach), "effect")
        x, y = ("head", "layer") if heads else ("receiver", "sender")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        found = {name: tile.told(signed=True) for name, tile in tiles.items()}
        describe(axes, f"Heat map: the effect of each direct path, by {y} (row) and {x} (column).", found)
        return axes


def _matrix(result: Paths) -> Tile:
    return Tile(result.coords["sender"][::-1], result.coords["receiver"], result.effect()[0][::-1])


def _by_head(result: Paths) -> Tile | None:
    """A map of layers and heads, where the ends on one side are heads and there is one on the other."""
    effect: NDArray[np.float64] = result.effect()[0]
    names: Sequence[str] = result.coords["sender"] if effect.shape[1] == 1 else result.coords["receiver"]
    found = [_HEAD.fullmatch(name) for name in names]
    if 1 not in effect.shape or None in found:
        return None
    places = [(int(match[1]), match[2]) for match in found if match is not None]
    if len(set(places)) < len(places):  # several inputs of one head
        return None
    layers = sorted({layer for layer, _ in places}, reverse=True)
    heads = sorted({head for _, head in places}, key=lambda head: int(head[1:]))
    values = np.full((len(layers), len(heads)), np.nan)
    for (layer, head), value in zip(places, effect.ravel(), strict=True):
        values[layers.index(layer), heads.index(head)] = value
    return Tile([str(layer) for layer in layers], heads, values)
