"""Which step is made from which."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize

from ..analyses.ledger_table import Ledger
from ..core import InputError
from .alt import describe
from .canvas import canvas, merged, named
from .tiles import Tile, draw, fits, size

# From a pale blue, so that a load of 0 differs from a blank.
COLOURS = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.08, 1, 256)), name="load")
NUMBER = ".00"


def ledger(results: Ledger | Mapping[str, Ledger], ax: Axes | None = None) -> Axes:
    """Draw the load of every target (row) on every source (column), a tile a model.

    A cell without scorable pairs is blank; a small "c" marks a copy (the target states what its source states). Loads
    are written in the cells where they fit: 1 is at least 0.995, 0 less than 0.005. For tasks without a program the
    rate of the donor's step is drawn; InputError where results of both kinds are given.

    >>> from loadbearing.analyses import ledger as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-tokens")
    >>> ax = ledger(measure(model, model.task.problems(8), cot="task"))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('source', 'target')
    """
    shown = named(results, Ledger)
    drawn = {result.quantities[0] for result in shown.values()}
    if len(drawn) > 1:
        raise InputError("ledgers scored by a program and by the donor's step cannot share a figure: draw one of each")
    (quantity,) = drawn
    tiles = {name: Tile(result.targets, result.sources, _rates(result, quantity)) for name, result in shown.items()}
    with canvas(ax, *size(tiles, quantity)) as axes:
        starts = draw(axes, tiles, COLOURS, Normalize(0, 1), quantity)
        axes.set_xlabel("source")
        axes.set_ylabel("target")
        numbers = fits(axes, NUMBER, "small")
        rows = merged(tile.rows for tile in tiles.values())
        for name, result in shown.items():
            _write(axes, result, tiles[name], rows, starts[name], numbers)
        found = {name: tile.told(4) for name, tile in tiles.items()}
        describe(axes, f"Heat map: the {quantity} of each target (row) on each source (column).", found)
        return axes


def _rates(result: Ledger, quantity: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([[result.rate(quantity, t, s)[0] for s in result.sources] for t in result.targets])


def _write(axes: Axes, result: Ledger, tile: Tile, rows: list[str], start: float, numbers: bool) -> None:
    for t, s in np.argwhere(~np.isnan(tile.values)):
        load, x, y = tile.values[t, s], start + s, rows.index(tile.rows[t])
        ink = "white" if load > 0.7 else "black"
        if numbers:
            axes.text(x + 0.5, y + 0.5, _short(load), ha="center", va="center_baseline", size="small", color=ink)
        if result.copy_edge[t, s]:
            axes.text(x + 0.95, y + 0.03, "c", ha="right", va="top", size="small", color=ink)


def _short(load: float) -> str:
    """A load in at most three characters.

    >>> [_short(load) for load in (0.0, 0.004, 0.474, 0.996, 1.0)]
    ['0', '0', '.47', '1', '1']
    """
    return {"0.00": "0", "1.00": "1"}.get(f"{load:.2f}", f"{load:.2f}"[1:])
