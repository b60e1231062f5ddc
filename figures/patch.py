"""Where, in which layer, and in which head the answer can be changed."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from ..analyses.patch_table import PatchMap, UnitPatchMap
from ..core import InputError, check_name
from .alt import describe, strongest
from .canvas import canvas, legend, looks, named
from .style import COLUMN, GREY
from .tiles import Tile, draw, size


def patch(results: PatchMap | Mapping[str, PatchMap], ax: Axes | None = None) -> Axes:
    """Draw the effect of patching one layer and position, a tile a model, the first layer at the bottom.

    The effect is the share of the change from base to source that this one cell makes: signed, not clipped, blue
    and with a dash (beyond a tenth of the scale) against the source's answer, red for it; the scale is the same for all
    models and reaches at least 1. Answer-only and CoT run stand side by side when both are given by name; a dot marks a
    cell that is a gradient's approximation.

    >>> from loadbearing.analyses import patch as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> ax = patch(measure(model, model.task.pairs(4), mode="cot", target="answer", cot="task"))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['1', '0']
    """
    shown = named(results, PatchMap)
    for result in shown.values():
        _without_units(result)
    tiles = {name: _tile(result, result.effect()[0], result.coords["position"]) for name, result in shown.items()}
    with canvas(ax, *size(tiles, "effect")) as axes:
        starts = draw(axes, tiles, matplotlib.colormaps["RdBu_r"], _scale(tiles), "effect")
        for name, result in shown.items():
            row, column = np.nonzero(~result.exact[::-1])
            axes.plot(starts[name] + column + 0.5, row + 0.5, ".", color=GREY, markersize=1.5)
        axes.set_xlabel("position")
        axes.set_ylabel("layer")
        found = {name: tile.told(signed=True) for name, tile in tiles.items()}
        describe(axes, "Heat map: the effect of patching one place, by layer (row) and position (column).", found)
        return axes


def patch_heads(
    results: UnitPatchMap | Mapping[str, UnitPatchMap], ax: Axes | None = None, *, position: str | None = None
) -> Axes:
    """Draw the effect of patching one head of one layer, a tile a model and place, the first layer at the bottom.

    position: one place only; by default all that were patched, side by side

    >>> from loadbearing.analyses import patch as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> found = measure(model, model.task.pairs(4), "z", mode="cot", target="answer", cot="task", positions=["cue"])
    >>> patch_heads(found).get_xlabel()
    'head'
    """
    shown = named(results, UnitPatchMap)
    tiles: dict[str, Tile] = {}
    for name, result in shown.items():
        places = result.coords["position"]
        chosen = places if position is None else (check_name("position", position, places),)
        effect = result.effect()[0]
        for place in chosen:
            words = " ".join(part for part in (name, place if len(places) > 1 else "") if part)
            tiles[words] = _tile(result, effect[:, places.index(place)], result.coords["unit"])
    neurons = all(result.manifest.identity["site"] == "neurons" for result in shown.values())
    with canvas(ax, *size(tiles, "effect")) as axes:
        draw(axes, tiles, matplotlib.colormaps["RdBu_r"], _scale(tiles), "effect")
        unit = "neuron" if neurons else "head"
        axes.set_xlabel(unit)
        axes.set_ylabel("layer")
        found = {name: tile.told(signed=True) for name, tile in tiles.items()}
        describe(axes, f"Heat map: the effect of patching one {unit}, by layer (row) and {unit} (column).", found)
        return axes


def patch_depth(
    results: PatchMap | Mapping[str, PatchMap], ax: Axes | None = None, *, position: str | None = None
) -> Axes:
    """Draw the effect against depth with 95 % intervals, a line a model, or, for one model, a line a place.

    position: the place that is drawn; needed where several models have several places

    >>> from loadbearing.analyses import patch as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:direct")
    >>> found = measure(model, model.task.pairs(4), positions=["operand.1", "cue[-1]"])
    >>> patch_depth(found).get_ylabel()
    'effect'
    """
    shown = named(results, PatchMap)
    lines: dict[str, tuple[PatchMap, int]] = {}
    for name, result in shown.items():
        _without_units(result)
        places = result.coords["position"]
        if position is None and len(places) > 1 and len(shown) > 1:
            raise InputError(f"{len(shown)} maps with several places: say which `position`, one of {', '.join(places)}")
        chosen = places if position is None else (check_name("position", position, places),)
        lines |= {name if len(shown) > 1 else place: (result, places.index(place)) for place in chosen}
    with canvas(ax, COLUMN, 2.0) as axes:
        axes.axhline(0.0, color=GREY, linewidth=0.6)
        found: dict[str, str] = {}
        for (name, (result, at)), (colour, marker) in zip(lines.items(), looks(len(lines)), strict=True):
            estimate, low, high = (bound[:, at] for bound in result.effect())
            layers = np.array(result.coords["layer"])
            axes.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(layers, estimate, color=colour, marker=marker, label=name)
            found[name] = strongest((f"layer {layer}", value) for layer, value in zip(layers, estimate, strict=True))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer")
        axes.set_ylabel("effect")
        if len(lines) > 1:
            legend(axes, 3)
        describe(axes, "Lines over the layers: the effect of patching there, with 95 % intervals.", found)
        return axes


def _without_units(result: PatchMap) -> None:
    if result.axes["values"] != PatchMap.axes["values"]:
        other = "patch_heads" if isinstance(result, UnitPatchMap) else result.kind
        raise InputError(f"a {type(result).__name__} has other axes than layer and position: use figures.{other}")


def _tile(result: PatchMap, effect: Float[np.ndarray, "layer column"], columns: Sequence[object]) -> Tile:
    rows = [str(layer) for layer in reversed(result.coords["layer"])]
    return Tile(rows, [str(column) for column in columns], effect[::-1])


def _scale(tiles: Mapping[str, Tile]) -> Normalize:
    reach = max(float(np.abs(tile.values[np.isfinite(tile.values)]).max(initial=1.0)) for tile in tiles.values())
    return Normalize(-reach, reach)
