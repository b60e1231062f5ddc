"""The eight cells behind the shares."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from ..analyses.cells import TERMS, WIRES
from ..analyses.channel_table import SUMMARY, Channels
from ..core import InputError
from .alt import describe, number, short
from .canvas import canvas, legend, looks, named
from .style import COLUMN, GREY

ORDER = sorted(range(len(TERMS)), key=lambda cell: (cell.bit_count(), cell))  # no wire, one, two, all


def cells(results: Channels | Mapping[str, Channels], ax: Axes | None = None, *, variable: str = SUMMARY) -> Axes:
    """Draw the log-odds of each cell with its 95 % interval, several results side by side.

    A cell is named by the wires that carry the donor's value: D direct, R relay, T tokens. Above 0 the donor's answer
    is more probable than the recipient's. Cells are never withheld; a result whose shares are says so in the legend.

    variable: "mean" (the summary) or one of the varied variables. Raises InputError where a result does not have it.

    >>> from loadbearing.analyses import channels as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> ax = cells(measure(model, model.task.pairs(8), cot="task"))
    >>> ax.get_ylabel()
    "log-odds of donor's answer"
    """
    shown = named(results, Channels)
    for name, result in shown.items():
        if variable == SUMMARY and not result.early:
            raise InputError(
                f"expected a variable that the program uses before the target step, got none in "
                f"{name or 'the result'}: pass variable=, one of {', '.join(result.variables)}"
            )
    found: dict[str, str] = {}
    with canvas(ax, COLUMN, 2.3) as axes:
        for cell in range(0, len(TERMS), 2):
            axes.axvspan(cell - 0.5, cell + 0.5, color="#F2F2F2", linewidth=0, zorder=0)
        axes.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        step = 0.7 / len(shown)
        for i, ((name, result), (colour, marker)) in enumerate(zip(shown.items(), looks(len(shown)), strict=True)):
            estimates, status = result.estimates(variable), result.status(variable)
            x = np.arange(len(TERMS)) + (i - (len(shown) - 1) / 2) * step
            mean, low, high = (estimates.get("log-odds", "cell", bound)[ORDER] for bound in ("estimate", "low", "high"))
            axes.vlines(x, low, high, colors=colour, linewidths=0.8)
            label = " ".join([name, f"({status})" * (status != "ok")]).strip()
            axes.plot(x, mean, marker, color=colour, label=label)
            told = ", ".join(f"{TERMS[cell]} {number(v)}" for cell, v in zip(ORDER, mean, strict=True))
            found[name] = told if status == "ok" else f"{told} ({status})"
        axes.set_xticks(range(len(TERMS)), [_letters(cell) for cell in ORDER])
        axes.set_xlim(-0.5, len(TERMS) - 0.5)
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("wires with the donor's value")
        axes.set_ylabel("log-odds of donor's answer")
        legend(axes, 2, borderaxespad=0.2)
        chart = "Points with 95 % intervals: log-odds of the donor's answer by the wires that carry the donor's value"
        describe(axes, f"{chart} (variable: {short(variable)}).", found)
        return axes


def _letters(cell: int) -> str:
    """The wires of a cell, one a line.

    >>> _letters(0b101)
    'D\\n-\\nT'
    """
    return "\n".join(wire[0].upper() if cell >> bit & 1 else "-" for bit, wire in enumerate(WIRES))
