"""What a reader of the text alone can tell."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..analyses.monitor_table import Monitor
from .alt import describe, number, short
from .canvas import canvas, inches_of, legend, named, title, title_inches
from .style import COLUMN, DOUBLE_COLUMN, GREY

# Each quantity: its words, colour and marker.
LOOKS = {
    "accuracy": ("predicts the model's answer", "#000000", "o"),
    "TPR": ("hint followed: flagged (TPR)", "#D55E00", "^"),
    "TNR": ("not followed: passed (TNR)", "#009E73", "v"),
}
CHANCE = "most frequent answer"
DASHED = (0, (3, 2))
SPREAD = 0.6  # of a place that all marks together may fill
GAP = 1  # places between two panels
FEW = 4  # places that fit in a column


def monitor(results: Monitor | Mapping[str, Monitor], ax: Axes | None = None) -> Axes:
    """Draw how often readers of the text alone predict the model's answer, a panel a result, with 95 % intervals.

    The dashed line is what always naming the most frequent answer gets. Where prompts have hints: how often a reader
    flags a run whose answer is the hint's (TPR), and does not flag one whose answer is not (TNR). A mark is left out
    where there is no such run, or where a reader predicts no answer.

    >>> from loadbearing.analyses import monitor as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> ax = monitor(measure(model, model.task.problems(20), readers=["last value", "program"]))
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['last value', 'program']
    """
    shown = named(results, Monitor)
    places = sum(len(result.readers) + GAP for result in shown.values()) - GAP
    with canvas(ax, COLUMN if places <= FEW else DOUBLE_COLUMN, 2.4) as axes:
        ticks: dict[float, str] = {}
        found: dict[str, str] = {}
        left = 0
        for name, result in shown.items():
            ticks |= {left + i: reader for i, reader in enumerate(result.readers)}
            found[name] = _panel(axes, result, left)
            if name:
                width = len(result.readers)
                title(axes, name, left + (width - 1) / 2, (width + GAP) / (places + GAP))
            left += len(result.readers) + GAP
        wide = max(map(title_inches, ticks.values())) > inches_of(axes) / places
        slant: dict[str, Any] = {"rotation": 30, "ha": "right"} if wide else {}
        axes.set_xticks(list(ticks), list(ticks.values()), **slant)
        axes.set_xlim(-0.6, places - 0.4)
        axes.set_ylim(-0.03, 1.07)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.spines["left"].set_bounds(0, 1)
        axes.set_xlabel("reader of the text")
        axes.set_ylabel("share of runs")
        legend(axes, 2, handlelength=1.8, borderaxespad=1.8 if any(shown) else 0.3)
        describe(axes, "Points with 95 % intervals: what readers of the text alone tell, by reader.", found)
        return axes


def _panel(axes: Axes, result: Monitor, left: int) -> str:
    """Draw one result from x = `left` on, and return what it says."""
    frame = result.frame()
    told: dict[str, list[str]] = {reader: [] for reader in result.readers}
    for i, (quantity, (words, colour, marker)) in enumerate(LOOKS.items()):
        rows = frame[(frame["quantity"] == quantity) & (frame["n"] > 0)]
        shift = SPREAD * ((i + 0.5) / len(LOOKS) - 0.5)
        x = [left + result.readers.index(reader) + shift for reader in rows["reader"]]
        axes.vlines(x, rows["low"], rows["high"], colors=colour, linewidths=0.8)
        new = len(rows) and words not in axes.get_legend_handles_labels()[1]
        axes.plot(x, rows["estimate"], color=colour, marker=marker, linestyle="none", label=words if new else "")
        for reader, value in zip(rows["reader"], rows["estimate"], strict=True):
            told[reader].append(f"{quantity} {number(value)}")
    chance, last = result.chance()[0], left + len(result.readers) - 1
    look: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": DASHED, "zorder": 0}
    axes.plot([left - 0.5, last + 0.5], [chance, chance], label="" if left else CHANCE, **look)
    each = ", ".join(f"{short(reader)} ({', '.join(values)})" for reader, values in told.items())
    return f"{each}, {CHANCE} {number(chance)}"
