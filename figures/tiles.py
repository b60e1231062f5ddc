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

from .alt import highest, number, short, strongest
from .canvas import figure_of, inches_of, lay_out, literal, merged, title, title_inches
from .style import COLUMN, DOUBLE_COLUMN

GAP = 1  # columns between two tiles
WIDE = 16  # columns that a figure of one paper column holds
LETTER = 0.06  # inches of a letter of 7 points, about
NAMES = 0.85  # of the axes' width that the names of tiles may take
AGAINST = 0.1  # of the scale: a value as far below 0 is marked
BESIDE = 1.0  # inches beside the tiles: names of rows, the colour bar
NAME = 1.2  # inches of a row's or column's name that are drawn


@dataclass(frozen=True)
class Tile:
    """One heat map: names of rows and columns, values `[row, column]`; NaN is left blank."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Float[np.ndarray, "row column"]

    def told(self, most: int = 3, signed: bool = False) -> str:
        """The highest cells in words; of signed values those that are farthest from 0."""
        cells = [
            (f"({short(row)}, {short(column)})", float(self.values[i, j]))
            for i, row in enumerate(self.rows)
            for j, column in enumerate(self.columns)
        ]
        known = self.values[np.isfinite(self.values)]
        mean = f", mean {number(known.mean())}" if len(known) else ""
        return (strongest if signed else highest)(cells, most) + mean


def size(tiles: Mapping[str, Tile], meaning: str) -> tuple[float, float]:
    """Width and height, in inches, of a figure of these tiles; `meaning` is the name of their colour bar."""
    columns = sum(len(tile.columns) + GAP for tile in tiles.values()) - GAP
    longest = max(len(literal(name, NAME)) for tile in tiles.values() for name in tile.columns)
    rows = len(merged(tile.rows for tile in tiles.values()))
    tall = min(max(0.2 * rows, LETTER * len(meaning)), 2.4)
    narrow = columns <= WIDE and sum(map(title_inches, tiles)) < NAMES * (COLUMN - BESIDE)
    # The rest is the axis' name and the models' names.
    return COLUMN if narrow else DOUBLE_COLUMN, tall + LETTER * longest + 0.5


def draw(axes: Axes, tiles: Mapping[str, Tile], colours: Colormap, scale: Normalize, meaning: str) -> dict[str, float]:
    """Draw tiles from left to right with a colour bar; return where each begins. Row 0 is at the top.

    The colour bar is an inset: the caller's axes stay where they are.
    """
    rows = merged(tile.rows for tile in tiles.values())
    slots = _slots(axes, tiles)
    width = sum(slots.values()) + GAP * (len(tiles) - 1)
    starts: dict[str, float] = {}
    left = 0.0  # of the slot
    for name, tile in tiles.items():
        starts[name] = left + (slots[name] - len(tile.columns)) / 2
        at = [rows.index(row) for row in tile.rows]
        values = np.full((len(rows), len(tile.columns)), np.nan)
        values[at] = tile.values
        mesh = _mesh(axes, values, starts[name], colours, scale)
        _mark_negative(axes, values, starts[name], scale)
        if name:
            title(axes, name, left + slots[name] / 2, slots[name] / width, 1.03)
        left += slots[name] + GAP
    axes.set_xlim(0, width)
    axes.set_ylim(len(rows), 0)
    axes.spines[:].set_visible(False)
    bar = axes.inset_axes((1.02, 0, min(max(0.3 / width, 0.012), 0.04), 1))
    figure_of(axes).colorbar(mesh, cax=bar, label=meaning)
    _label(axes, tiles, rows, starts)
    return starts


def _slots(axes: Axes, tiles: Mapping[str, Tile]) -> dict[str, float]:
    """Columns of room for each tile: its own, or as many as its name is wide, all names together at most so many."""
    room = NAMES / len(tiles)
    needed = {name: min(title_inches(name) / inches_of(axes), room) if name else 0.0 for name in tiles}
    slots = {name: float(len(tile.columns)) for name, tile in tiles.items()}
    wide: set[str] = set()
    while True:
        others = sum(slots[name] for name in tiles.keys() - wide) + GAP * (len(tiles) - 1)
        column = (1 - sum(needed[name] for name in wide)) / max(others, 1)
        more = {name for name in tiles.keys() - wide if needed[name] > slots[name] * column}
        if not more:
            return slots | {name: needed[name] / column for name in wide}
        wide |= more


def _mesh(
    axes: Axes, values: Float[np.ndarray, "row column"], left: float, colours: Colormap, scale: Normalize
) -> QuadMesh:
    # A mesh stays sharp in a PDF, where readers blur images; white edges hide the seams that they draw between cells.
    x, y = left + np.arange(values.shape[1] + 1), np.arange(values.shape[0] + 1)
    kept = np.ma.masked_invalid(values)
    return axes.pcolormesh(x, y, kept, cmap=colours, norm=scale, edgecolors="white", linewidth=0.3)


def _mark_negative(axes: Axes, values: Float[np.ndarray, "row column"], left: float, scale: Normalize) -> None:
    """A dash where a value is below 0: without colour, both ends of the scale look alike."""
    row, column = np.nonzero(values < -AGAINST * float(scale.vmax or 0.0))
    if len(row) and scale.vmin == -(scale.vmax or 0.0):
        ink = ["white" if value < -0.6 * float(scale.vmax or 0.0) else "black" for value in values[row, column]]
        axes.scatter(left + column + 0.5, row + 0.5, s=9, marker="_", c=ink, linewidths=0.6)


def _label(axes: Axes, tiles: Mapping[str, Tile], rows: list[str], starts: Mapping[str, float]) -> None:
    """Names of rows and columns, every k-th where not all of them fit, literal: they are drawn to be measured."""
    width, height = cell_points(axes)
    size = _points(rcParams["xtick.labelsize"])
    upright = width > 0.7 * size * max(len(column) for tile in tiles.values() for column in tile.columns)
    every = 1 if upright else math.ceil(1.1 * size / width)
    ticks = {starts[name] + i + 0.5: column for name, tile in tiles.items() for i, column in _some(tile.columns, every)}
    names, slant = [literal(name, NAME) for name in ticks.values()], 0 if upright else 90
    axes.set_xticks(list(ticks), names, rotation=slant, parse_math=False)
    every = math.ceil(1.1 * _points(rcParams["ytick.labelsize"]) / height)
    shown = dict(_some(rows, every))
    axes.set_yticks([i + 0.5 for i in shown], [literal(name, NAME) for name in shown.values()], parse_math=False)
    axes.tick_params(length=0)


def cell_points(axes: Axes) -> tuple[float, float]:
    """Width and height of a cell in points, as the axes are laid out now."""
    figure = figure_of(axes)
    lay_out(figure)
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
