"""The main figure: how much of the answer goes through each wire."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ..analyses.cells import WIRES
from ..analyses.channel_table import SUMMARY, Channels
from ..core import InputError
from .alt import describe, number, short
from .canvas import canvas, legend, named
from .style import COLUMN, GREY, WIRE_COLOURS, WIRE_MARKERS

LANE, BAR = 0.25, 0.2  # of a row: from one wire's bar to the next, and the bar's height
# Of a row of stacked bars: their height, from one wire's mark on them to the next, and down to that of an interaction.
STACK, MARKS, BELOW = 0.52, 0.16, 0.4
LEAST = 0.01  # a share that is seen in a stack
HATCHES = {"direct": "", "relay": "....", "tokens": ""}  # in grey, relay and tokens are alike
HEADER, GAP = 0.75, 0.35  # of a row: a model's name; the space between groups
ROW = 0.27  # inches
NO_TOKENS = "not available to tokens"
SPLIT, JOINT = ("ok", NO_TOKENS), "joint"  # status of rows with bars, and of rows with an interaction only
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # of words on a bar


@dataclass(frozen=True)
class _Row:
    y: float
    name: str
    variable: str
    result: Channels


def channels(results: Channels | Mapping[str, Channels], ax: Axes | None = None, *, stacked: bool = False) -> Axes:
    """Draw the shares of direct, relay and tokens: a group a model, a row a variable, a bar a wire, 95 % intervals.

    Shares are signed and not clipped. A row without a split says why: "withheld: b, d" (the conditions that failed), or
    "joint" (wires interact: see `cells`). "tokens: not available" is no evidence that the text is ignored: the CoTs of
    those pairs never differ. "mean" is over the variables that the program uses before the target step; the others
    stand below it, marked with a dagger.

    results: one, or a dict of name to result. Raises InputError where their targets differ: such shares answer
        different questions
    stacked: one bar a row, the wires end to end, negative shares to the left of 0; below it the interaction of wires
        that is farthest from 0, on the probability of the donor's answer, over the total: beyond 0.2 the row is "joint"

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
        (_draw_stack if stacked else _draw_bars)(axes, [row for row in rows if _has_split(row)])
        for row in rows:
            _draw_status(axes, row, stacked)
            if stacked and row.result.status(row.variable) in (*SPLIT, JOINT):
                _draw_interaction(axes, row)
        _finish(axes, rows, bottom, target, stacked)
        describe(
            axes,
            f"Bars: the share of the log-odds (target: {short(target)}) that goes through each wire, by variable, with "
            "95 % intervals.",
            {name: _told(result, stacked) for name, result in shown.items()},
        )
        return axes


def _told(result: Channels, stacked: bool) -> str:
    """The mean shares in words, or why there are none."""
    row = SUMMARY if result.early else result.variables[0]
    status = result.status(row)
    told = f"{short(row)} {status}"
    if status in SPLIT:
        shares = dict(zip(WIRES, map(number, result.estimates(row).get("log-odds", "share")), strict=True))
        if status == NO_TOKENS:
            shares["tokens"] = "not available"
        told = f"{short(row)} " + ", ".join(f"{wire} {share}" for wire, share in shares.items())
    if stacked and status in (*SPLIT, JOINT):
        told += f", strongest interaction {number(_interaction(result, row)[0])}"
    return told


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


def _shares(rows: list[_Row]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Shares, lower and upper bounds `[row, wire]`; NaN for tokens that had no chance to carry anything."""
    share, low, high = (
        np.array([row.result.estimates(row.variable).get("log-odds", "share", bound) for row in rows]).reshape(-1, 3)
        for bound in ("estimate", "low", "high")
    )
    share[[row.result.status(row.variable) == NO_TOKENS for row in rows], WIRES.index("tokens")] = np.nan
    return share, low, high


def _draw_bars(axes: Axes, rows: list[_Row]) -> None:
    """A bar a wire, side by side."""
    for i, (wire, share, low, high) in enumerate(zip(WIRES, *(part.T for part in _shares(rows)), strict=True)):
        y, known = np.array([row.y for row in rows]) + (i - 1) * LANE, np.isfinite(share)
        axes.barh(y[known], share[known], height=BAR, color=WIRE_COLOURS[wire], zorder=2, label=wire)
        axes.hlines(y[known], low[known], high[known], colors="black", linewidths=0.8, zorder=3)
        # A dot, so that a share of 0 is seen to have been measured.
        look: dict[str, Any] = {"color": WIRE_COLOURS[wire], "marker": WIRE_MARKERS[wire]}
        axes.scatter(share[known], y[known], s=9, edgecolors="black", linewidths=0.5, zorder=4, **look)


def _draw_stack(axes: Axes, rows: list[_Row]) -> None:
    """A bar a row, its wires end to end; where each of them ends, its interval, and below the interaction."""
    y = np.array([row.y for row in rows])
    shares, lows, highs = _shares(rows)
    for i, (wire, share) in enumerate(zip(WIRES, shares.T, strict=True)):
        before = np.where(shares[:, :i] * share[:, None] > 0, shares[:, :i], 0.0).sum(axis=1)
        look: dict[str, Any] = {"color": WIRE_COLOURS[wire], "hatch": HATCHES[wire], "edgecolor": "white"}
        axes.barh(y, share, height=STACK, left=before, linewidth=0, zorder=2, label=wire, **look)
        lane, known, seen = y + (i - 1) * MARKS, np.isfinite(share), np.abs(share) > LEAST
        bounds = (before + lows[:, i])[known], (before + highs[:, i])[known]
        axes.hlines(lane[known], *bounds, colors="black", linewidths=0.8, zorder=3)
        axes.plot((before + share)[seen], lane[seen], "|", color="black", markeredgewidth=0.8, zorder=3)


def _draw_interaction(axes: Axes, row: _Row) -> None:
    estimate, low, high = _interaction(row.result, row.variable)
    axes.hlines(row.y + BELOW, low, high, colors=GREY, linewidths=0.8, zorder=3)
    axes.scatter(estimate, row.y + BELOW, s=9, marker="d", color="white", edgecolors=GREY, linewidths=0.6, zorder=4)


def _interaction(result: Channels, variable: str) -> tuple[float, float, float]:
    """The interaction of wires that is farthest from 0, over the total, with its interval."""
    found = result.estimates(variable)
    total = found.get("p(donor's)", "total")[0]
    bounds = [found.get("p(donor's)", "interaction", bound) / total for bound in ("estimate", "low", "high")]
    at = int(np.argmax(np.abs(bounds[0])))
    return float(bounds[0][at]), float(bounds[1][at]), float(bounds[2][at])


def _draw_status(axes: Axes, row: _Row, stacked: bool) -> None:
    status = row.result.status(row.variable)
    if status == JOINT:
        height = STACK if stacked else 0.7
        axes.barh(row.y, 1, height=height, facecolor="none", edgecolor="#AAAAAA", hatch="////", linewidth=0.5, zorder=2)
        axes.text(0.5, row.y, "joint", ha="center", va="center", size="small", bbox=BOX, zorder=5)
    elif status == NO_TOKENS and stacked:
        axes.text(0.5, row.y, "tokens: not available", ha="center", va="center", size="small", bbox=BOX, zorder=5)
    elif status == NO_TOKENS:
        y = row.y + LANE
        axes.text(0.02, y, "tokens: not available", va="center_baseline", size="small", color=GREY, zorder=5)
    elif status != "ok":
        axes.text(0.02, row.y, status, va="center", size="small", style="italic", color=GREY, zorder=5)


def _finish(axes: Axes, rows: list[_Row], bottom: float, target: str, stacked: bool) -> None:
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
    legend(axes, 4, list(_handles(stacked)), borderaxespad=0.2)


def _handles(stacked: bool) -> Iterator[Artist]:
    """What the legend shows."""
    bar: dict[str, Any] = {"linewidth": 4, "solid_capstyle": "butt", "markeredgecolor": "black", "markeredgewidth": 0.5}
    for wire, colour in WIRE_COLOURS.items():
        if stacked:
            yield Patch(facecolor=colour, hatch=HATCHES[wire], edgecolor="white", linewidth=0, label=wire)
        else:
            yield Line2D([], [], color=colour, marker=WIRE_MARKERS[wire], label=wire, **bar)
    if stacked:
        mark: dict[str, Any] = {"marker": "d", "markerfacecolor": "white", "markeredgewidth": 0.6}
        yield Line2D([], [], color=GREY, linewidth=0.8, label="interaction", **mark)
