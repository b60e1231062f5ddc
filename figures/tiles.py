"""Heat maps of several models side by side in one axes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, Normalize
from matplotlib.font_manager import FontProperties

from .canvas import figure_of, literal, merged, title
from .style import COLUMN, DOUBLE_COLUMN

GAP = 1  # columns between two tiles
WIDE = 16  # columns that a figure of one paper column holds
NAME = 1.2  # inches of a row's or column's name that are drawn


@dataclass(frozen=True)
class Tile:
    """One heat map: names of rows and columns, values `[row, column]`; NaN is left blank."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Float[np.ndarray, "row column"]


def size(tiles: Mapping[str, Tile]) -> tuple[float, float]:
    """Width and height, in inches, of a figure of these tiles."""
    columns = sum(len(tile.columns) + GAP for tile in tiles.values()) - GAP
    longest = max(len(literal(name, NAME)) for tile in tiles.values() for name in tile.columns)
    rows = len(merged(tile.rows for tile in tiles.values()))
    # A letter of 7 points is about 0.06 inches; the rest is the axis' name and the models' names.
    return DOUBLE_COLUMN if columns > WIDE else COLUMN, min(0.2 * rows, 2.4) + 0.06 * longest + 0.5


def draw(axes: Axes, tiles: Mapping[str, Tile], colours: Colormap, scale: Normalize, meaning: str) -> dict[str, int]:
    """Draw tiles from left to right with a colour bar; return the first column of each. Row 0 is at the top.

    The colour bar is an inset: the caller's axes stay where they are.
    """
    rows = merged(tile.rows for tile in tiles.values())
    width = sum(len(tile.columns) + GAP for tile in tiles.values()) - GAP
    starts: dict[str, int] = {}
    end = 0
    for name, tile in tiles.items():
        starts[name] = end
        at = [rows.index(row) for row in tile.rows]
        values = np.full((len(rows), len(tile.columns)), np.nan)
        values[at] = tile.values
        mesh = _mesh(axes, values, end, colours, scale)
        if name:
            title(axes, name, end + len(tile.columns) / 2, (len(tile.columns) + GAP) / (width + GAP), 1.03)
        end += len(tile.columns) + GAP
    axes.set_xlim(0, width)
    axes.set_ylim(len(rows), 0)
    axes.spines[:].set_visible(False)
    bar = axes.inset_axes((1.02, 0, max(0.3 / width, 0.012), 1))
    figure_of(axes).colorbar(mesh, cax=bar, label=meaning)
    _label(axes, tiles, rows, starts)
    return starts


def _mesh(
    axes: Axes, values: Float[np.ndarray, "row column"], left: int, colours: Colormap, scale: Normalize
) -> QuadMesh:
    # A mesh stays sharp in a PDF, where readers blur images; white edges hide the seams that they draw between cells.
    x, y = left + np.arange(values.shape[1] + 1), np.arange(values.shape[0] + 1)
    kept = np.ma.masked_invalid(values)
    return axes.pcolormesh(x, y, kept, cmap=colours, norm=scale, edgecolors="white", linewidth=0.3)


def _label(axes: Axes, tiles: Mapping[str, Tile], rows: list[str], starts: Mapping[str, int]) -> None:
    """Names of rows and columns, every k-th where not all of them fit, literal: they are drawn to be measured."""
    width, height = cell_points(axes)
    every = math.ceil(1.1 * _points(rcParams["xtick.labelsize"]) / width)
    ticks = {starts[name] + i + 0.5: column for name, tile in tiles.items() for i, column in _some(tile.columns, every)}
    axes.set_xticks(list(ticks), [literal(name, NAME) for name in ticks.values()], rotation=90, parse_math=False)
    every = math.ceil(1.1 * _points(rcParams["ytick.labelsize"]) / height)
    shown = dict(_some(rows, every))
    axes.set_yticks([i + 0.5 for i in shown], [literal(name, NAME) for name in shown.values()], parse_math=False)
    axes.tick_params(length=0)


def cell_points(axes: Axes) -> tuple[float, float]:
    """Width and height of a cell in points, as the axes are laid out now."""
    figure = figure_of(axes)
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return box.width * 72 / figure.dpi / abs(right - left), box.height * 72 / figure.dpi / abs(top - bottom)


def fits(axes: Axes, text: str, fontsize: str) -> bool:
    """Whether a text of that font size is narrower than a cell."""
    # Digits of DejaVu Sans are 0.64 em wide; a little air on both sides.
    width, height = cell_points(axes)
    return bool(width > 0.64 * len(text) * _points(fontsize) and height > 1.1 * _points(fontsize))


def _points(fontsize: str | float) -> float:
    return float(FontProperties(size=fontsize).get_size_in_points())


def _some(names: Sequence[str], every: int) -> list[tuple[int, str]]:
    return list(enumerate(names))[::every]
