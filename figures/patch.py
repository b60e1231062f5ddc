"""Where, and in which layer, the answer can be changed."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from ..analyses.patch_table import PatchMap
from .canvas import canvas, named
from .tiles import Tile, draw, size


def patch(results: PatchMap | Mapping[str, PatchMap], ax: Axes | None = None) -> Axes:
    """Draw the effect of patching one layer and position, a tile a model, the first layer at the bottom.

    The effect is the share of the change from recipient to donor that this one cell makes: signed, not clipped, blue
    against the donor's answer and red for it; the scale is the same for all models and reaches at least 1.

    >>> from loadbearing.analyses import patch as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> ax = patch(measure(model, model.task.pairs(4), mode="cot", target="answer", cot="task"))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['1', '0']
    """
    shown = named(results, PatchMap)
    tiles = {name: _tile(result) for name, result in shown.items()}
    reach = max(float(np.abs(tile.values[np.isfinite(tile.values)]).max(initial=1.0)) for tile in tiles.values())
    with canvas(ax, *size(tiles)) as axes:
        draw(axes, tiles, matplotlib.colormaps["RdBu_r"], Normalize(-reach, reach), "effect")
        axes.set_xlabel("position")
        axes.set_ylabel("layer")
        return axes


def _tile(result: PatchMap) -> Tile:
    rows = [str(layer) for layer in reversed(result.coords["layer"])]
    return Tile(rows, [str(position) for position in result.coords["position"]], result.effect()[0][::-1])
