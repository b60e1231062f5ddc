"""On which circles a value lies, by layer."""

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from ..analyses.circularity_table import Circularity
from .alt import describe, short
from .canvas import canvas, named
from .tiles import Tile, draw, size

MEANING = "R² on left-out values"


def circularity(result: Circularity, ax: Axes | None = None, *, variable: str | None = None) -> Axes:
    """Draw R^2 on left-out values of the line and of every frequency, by layer (from below), a tile a position.

    Below 0, where the best constant is better, the colour is that of 0. variable: by default the last, the answer

    >>> from loadbearing.analyses import circularity as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:direct")
    >>> ax = circularity(measure(model, model.task.problems(100), variables=["v_3"], shuffles=0, twin=False))
    >>> ax.get_ylabel()
    'layer'
    """
    shown = named(result, Circularity)[""]
    tiles = {}
    for place in shown.coords["place"]:
        table = shown.r2(variable, place).pivot(index="layer", columns="feature", values="r2")[list(shown.features)]
        rows = [str(layer) for layer in table.index[::-1]]
        tiles[place.partition(" ")[2]] = Tile(rows, list(shown.features), table.to_numpy()[::-1])
    with canvas(ax, *size(tiles, MEANING)) as axes:
        draw(axes, tiles, colormaps["viridis"], Normalize(0, 1), MEANING)
        axes.set_ylabel("layer")
        axes.set_xlabel(f"feature of {variable or 'the answer'}")
        of = f"Heat map: {MEANING} of {short(variable or 'the answer')}"
        found = {name: tile.told() for name, tile in tiles.items()}
        describe(axes, f"{of}, by layer (row) and feature (column), a tile a position.", found)
        return axes
