"""From which layer on each wire is read."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from ..analyses.detail_table import ByLayer
from .alt import describe, number, short
from .canvas import canvas, inches_of, legend, named, title
from .style import COLUMN, DOUBLE_COLUMN, GREY, WIRE_COLOURS, WIRE_MARKERS
from .variables import variables_of

GAP = 0.2  # between two panels, as a share of a panel
DIGIT = 0.06  # inches; so much air is between two numbers of layers, too
DODGE = 0.1  # layers, so that marks of equal height stay apart
LINES = {"direct": "-", "relay": (0, (3, 1.5)), "tokens": (0, (1, 1))}
NONE = "\N{EN DASH}"  # where no layer reads
FEW = 2  # panels that fit in a column


def by_layer(results: ByLayer | Mapping[str, ByLayer], ax: Axes | None = None, *, variable: str | None = None) -> Axes:
    """Draw the share of the log-odds that each wire still carries when only layers from one on read it, by that layer.

    A line a wire with 95 % intervals: where it falls from l to l + 1, layer l reads the wire. At 0 all layers do, and
    the shares are those of `channels`; at the dash none does, and only the reader's own token, which is one of tokens,
    is still the donor's. Shares are of the whole at 0, signed and not clipped.

    variable: one that was varied; by default one result has a panel for each, and several results have a panel each of
        the first that all of them have. Raises InputError where there is none

    >>> from loadbearing.analyses import by_layer as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> ax = by_layer(measure(model, model.task.pairs(8), target="answer", cot="task"))
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['0', '1', '–']
    """
    frames = {name: result.frame() for name, result in named(results, ByLayer).items()}
    variables = variables_of(frames, variable)
    panels = _panels(frames, variables)
    of = variables[0] if len(frames) > 1 or len(variables) == 1 else ""
    with canvas(ax, COLUMN if len(panels) <= FEW else DOUBLE_COLUMN, 2.2) as axes:
        ticks: dict[float, str] = {}
        left = 0.0
        sizes = {name: (1 + GAP) * (int(rows["from layer"].max()) + 1) for name, rows in panels.items()}
        inches = inches_of(axes) / sum(sizes.values())
        for name, rows in panels.items():
            ticks |= _draw(axes, name, rows, left, sizes[name] / sum(sizes.values()), inches)
            left += sizes[name]
        axes.set_xticks(list(ticks), list(ticks.values()))
        low, high = axes.dataLim.intervaly
        axes.set_ylim(min(0, low) - 0.05, max(1, high) + 0.05)
        axes.set_xlabel(f"wires are read from this layer on ({NONE}: never)")
        axes.set_ylabel("share of the log-odds" + f"\n({of})" * bool(of))
        legend(axes, len(WIRE_COLOURS), handlelength=2.4, borderaxespad=1.8 if any(panels) else 0.3)
        chart = "Lines over the layers with 95 % intervals: the share of the log-odds that each wire carries"
        found = {name: _told(rows) for name, rows in panels.items()}
        describe(axes, f"{chart} when only layers from that one on read it{f' ({short(of)})' if of else ''}.", found)
        return axes


def _panels(frames: Mapping[str, pd.DataFrame], variables: list[str]) -> dict[str, pd.DataFrame]:
    """The rows of each panel by its name: the variables of one result, or the first variable of several."""
    if len(frames) > 1 or len(variables) == 1:
        return {name: frame[frame["variable"] == variables[0]] for name, frame in frames.items()}
    ((name, frame),) = frames.items()
    return {", ".join(filter(None, (name, one))): frame[frame["variable"] == one] for one in variables}


def _draw(axes: Axes, name: str, rows: pd.DataFrame, left: float, share: float, inches: float) -> dict[float, str]:
    """Draw a panel from x = `left` on, a layer at each whole step; return its ticks.

    share: of the axes' width that is the panel's; inches: of a layer
    """
    none = int(rows["from layer"].max())
    axes.hlines([0, 1], left - 0.2, left + none + 0.2, colors=[GREY, "#BBBBBB"], linewidths=0.6, zorder=0)
    for i, (wire, colour) in enumerate(WIRE_COLOURS.items()):
        part = rows[rows["term"] == wire]
        x = left + part["from layer"] + DODGE * (i - 1)
        axes.vlines(x, part["low"], part["high"], colors=colour, linewidths=0.8)
        look: dict[str, Any] = {"color": colour, "marker": WIRE_MARKERS[wire], "linestyle": LINES[wire]}
        axes.plot(x, part["estimate"], label="" if left else wire, **look)
    if name:
        title(axes, name, left + none / 2, share)
    step = math.ceil(DIGIT * (len(str(none)) + 1) / inches)
    return {left + layer: str(layer) for layer in range(0, max(none + 1 - step, 1), step)} | {left + none: NONE}


def _told(rows: pd.DataFrame) -> str:
    """What each wire carries, and where the strongest one is read, if most of it is read at one layer."""
    layers = rows.pivot(index="from layer", columns="term", values="estimate")[list(WIRE_COLOURS)]
    whole = layers.iloc[0]
    shares = ", ".join(f"{wire} {number(share)}" for wire, share in whole.items())
    if whole.isna().any():
        return shares
    wire = str(whole.idxmax())
    falls = layers[wire].diff(-1)  # from a layer to the next
    return f"{shares} ({wire} is read at layer {falls.idxmax()})" if falls.max() > whole[wire] / 2 else shares
