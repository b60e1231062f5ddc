"""The main figure: how much of the answer goes through each wire."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ..analyses.cells import WIRES
from ..analyses.channel_table import SUMMARY, Channels
from ..core import InputError
from .alt import describe, number, short
from .canvas import canvas, named
from .style import COLUMN, GREY, WIRE_COLOURS, WIRE_MARKERS

LANE, BAR = 0.25, 0.2  # of a row: from one wire's bar to the next, and the bar's height
HEADER, GAP = 0.75, 0.35  # of a row: a model's name; the space between groups
ROW = 0.27  # inches
NO_TOKENS = "not available to tokens"
SPLIT = ("ok", NO_TOKENS)  # status of rows with bars


@dataclass(frozen=True)
class _Row:
    y: float
    name: str
    variable: str
    result: Channels


def channels(results: Channels | Mapping[str, Channels], ax: Axes | None = None) -> Axes:
    """Draw the shares of direct, relay and tokens: a group a model, a row a variable, a bar a wire, 95 % intervals.

    Shares are signed and not clipped. A row without a split says why: "withheld: b, d" (the conditions that failed), or
    "joint" (wires interact: see `cells`). "tokens: not available" is no evidence that the text is ignored: the CoTs of
    those pairs never differ. "mean" is over the variables that the program uses before the target step; the others
    stand below it, marked with a dagger.

    results: one, or a dict of name to result. Raises InputError where their targets differ: such shares answer
    different questions.

    >>> from loadbearing.analyses import channels as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> ax = channels({"copy-direct": measure(model, model.task.pairs(8), cot="task")})
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['value', 'mean']
    """
    shown = named(results, Channels)
    target = _target(shown)
    rows = list(_rows(shown))
    bottom = rows[-1].y + 0.5
    note = 0.13 * any(len(result.early) < len(result.variables) for result in shown.values())
    with canvas(ax, COLUMN, 0.75 + note + ROW * bottom) as axes:
        for row in rows:
            if row.variable == SUMMARY:
                axes.axhspan(row.y - 0.5, row.y + 0.5, color="#EEEEEE", linewidth=0, zorder=0)
        _draw_groups(axes, shown, rows)
        _draw_bars(axes, [row for row in rows if _has_split(row)])
        for row in rows:
            _draw_status(axes, row)
        _finish(axes, rows, bottom, target)
        describe(
            axes,
            f"Bars: the share of the log-odds (target: {short(target)}) that goes through each wire, by variable, with "
            "95 % intervals.",
            {name: _told(result) for name, result in shown.items()},
        )
        return axes


def _told(result: Channels) -> str:
    """The mean shares in words, or why there are none."""
    row = SUMMARY if result.early else result.variables[0]
    status = result.status(row)
    if status not in SPLIT:
        return f"{short(row)} {status}"
    shares = dict(zip(WIRES, map(number, result.estimates(row).get("log-odds", "share")), strict=True))
    if status == NO_TOKENS:
        shares["tokens"] = "not available"
    return f"{short(row)} " + ", ".join(f"{wire} {share}" for wire, share in shares.items())


def _target(shown: Mapping[str, Channels]) -> str:
    targets = sorted({result.manifest.identity["target"] for result in shown.values()})
    if len(targets) > 1:
        raise InputError(f"expected results with one target, got {', '.join(targets)}: draw one figure per target")
    return str(targets[0])


def _rows(shown: Mapping[str, Channels]) -> Iterator[_Row]:
    y = 0.0
    for name, result in shown.items():
        y += HEADER if name else 0.0
        late = [variable for variable in result.variables if variable not in result.early]
        for variable in [*result.early, *([SUMMARY] if result.early else [])]:
            yield _Row(y + 0.5, name, variable, result)
            y += 1.0
        y += GAP if result.early and late else 0.0
        for variable in late:
            yield _Row(y + 0.5, name, variable, result)
            y += 1.0
        y += GAP


def _has_split(row: _Row) -> bool:
    return row.result.status(row.variable) in SPLIT


def _draw_groups(axes: Axes, shown: Mapping[str, Channels], rows: list[_Row]) -> None:
    """Names of models, and lines at 0 and 1 that leave room for them."""
    for name in shown:
        ys = [row.y for row in rows if row.name == name]
        axes.vlines([0, 1], ys[0] - 0.5, ys[-1] + 0.5, colors=[GREY, "#BBBBBB"], linewidths=0.6, zorder=1)
        if name:
            axes.text(0, ys[0] - 0.5 - HEADER / 2, name, weight="bold", va="center", parse_math=False)


def _draw_bars(axes: Axes, rows: list[_Row]) -> None:
    for i, wire in enumerate(WIRES):
        drawn = [row for row in rows if not (wire == "tokens" and row.result.status(row.variable) == NO_TOKENS)]
        y = [row.y + (i - 1) * LANE for row in drawn]
        share, low, high = (
            np.array([row.result.estimates(row.variable).get("log-odds", "share", bound)[i] for row in drawn])
            for bound in ("estimate", "low", "high")
        )
        axes.barh(y, share, height=BAR, color=WIRE_COLOURS[wire], zorder=2, label=wire)
        axes.hlines(y, low, high, colors="black", linewidths=0.8, zorder=3)
        # A dot, so that a share of 0 is seen to have been measured.
        look: dict[str, Any] = {"color": WIRE_COLOURS[wire], "marker": WIRE_MARKERS[wire]}
        axes.scatter(share, y, s=9, edgecolors="black", linewidths=0.5, zorder=4, **look)


def _draw_status(axes: Axes, row: _Row) -> None:
    status = row.result.status(row.variable)
    if status == "joint":
        axes.barh(row.y, 1, height=0.7, facecolor="none", edgecolor="#AAAAAA", hatch="////", linewidth=0.5, zorder=2)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text(0.5, row.y, "joint", ha="center", va="center", size="small", bbox=box, zorder=5)
    elif status == NO_TOKENS:
        y = row.y + LANE
        axes.text(0.02, y, "tokens: not available", va="center_baseline", size="small", color=GREY, zorder=5)
    elif status != "ok":
        axes.text(0.02, row.y, status, va="center", size="small", style="italic", color=GREY, zorder=5)


def _finish(axes: Axes, rows: list[_Row], bottom: float, target: str) -> None:
    late = [row.variable not in (*row.result.early, SUMMARY) for row in rows]
    labels = [row.variable + (" †" if apart else "") for row, apart in zip(rows, late, strict=True)]
    axes.set_yticks([row.y for row in rows], labels, parse_math=False)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.variable == SUMMARY else "normal")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(bottom, 0)
    left, right = axes.dataLim.intervalx
    axes.set_xlim(min(-0.06, left - 0.04), max(1.06, right + 0.04))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    dagger = "\n† first used at the target step,\nnot in the mean" if any(late) else ""
    axes.set_xlabel(f"share of the log-odds (target: {target}){dagger}")
    look: dict[str, Any] = {"linewidth": 4, "solid_capstyle": "butt", "markeredgecolor": "black"}
    handles = [
        Line2D([], [], color=colour, marker=WIRE_MARKERS[wire], markeredgewidth=0.5, label=wire, **look)
        for wire, colour in WIRE_COLOURS.items()
    ]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2)
