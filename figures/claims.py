"""The verdicts of a debate at a glance."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from ..core import InputError, check_name
from .alt import describe, number
from .canvas import canvas, legend
from .style import DOUBLE_COLUMN, GREY, MODEL_COLOURS

COLUMNS = ("id", "verdict", "endpoint", "estimate", "low", "high", "side", "threshold")
LOOKS: Mapping[str, dict[str, Any]] = {
    "supported": {"color": MODEL_COLOURS[5], "marker": "o"},
    "contradicted": {"color": MODEL_COLOURS[1], "marker": "s"},
    "not settled": {"color": GREY, "marker": "D", "markerfacecolor": "white"},
}
ROW, ARROW = 0.3, 0.12  # height of a row in inches, length of the arrow in units of the endpoint


def claims(results: pd.DataFrame | str | Path, ax: Axes | None = None) -> Axes:
    """Draw the endpoint of every claim with the interval that decides it, beside what was claimed.

    results: the frame of `analyses.claims.verdicts`, or the file `claims.csv` of a study. The arrow begins at the
    threshold and points to the side on which the claim is supported; the interval is at the level that the claim was
    judged at. A claim without a measured endpoint has an arrow alone. Raises InputError for anything else.

    >>> row = {"id": "a", "verdict": "supported", "endpoint": "serial share of small-rl", "side": "above"}
    >>> ax = claims(pd.DataFrame([{**row, "estimate": 1.0, "low": 0.9, "high": 1.0, "threshold": 0.8}]))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['(a) serial share of small-rl']
    """
    frame = pd.read_csv(results) if isinstance(results, str | Path) else results
    if not isinstance(frame, pd.DataFrame) or not set(COLUMNS) <= set(frame.columns) or frame.empty:
        got = f"columns {list(frame.columns)}" if isinstance(frame, pd.DataFrame) else type(frame).__name__
        raise InputError(
            f"expected verdicts with the columns {', '.join(COLUMNS)}, got {got}: pass claims.csv of a study"
        )
    with canvas(ax, DOUBLE_COLUMN, 0.7 + ROW * len(frame)) as axes:
        for y, one in enumerate(frame.to_dict("records")):
            look = LOOKS[check_name("verdict", str(one["verdict"]), LOOKS)]
            ahead = ARROW if one["side"] == "above" else -ARROW
            axes.annotate(
                "",
                xy=(one["threshold"] + ahead, y),
                xytext=(one["threshold"], y),
                arrowprops={"arrowstyle": "->", "color": "black", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0},
            )
            axes.plot([one["threshold"]] * 2, [y - 0.3, y + 0.3], color="black", linewidth=0.8)
            axes.plot([one["low"], one["high"]], [y, y], color=look["color"], linewidth=1.2)
            axes.plot([one["estimate"]], [y], linestyle="none", zorder=3, **look)
        names = [f"({name}) {text}" for name, text in zip(frame["id"], frame["endpoint"], strict=True)]
        axes.set_yticks(range(len(names)), [name.replace(" - ", "\nminus ") for name in names])
        axes.set_ylim(len(frame) - 0.4, -0.6)
        axes.axvline(0, color="0.8", linewidth=0.6, zorder=0)
        axes.set_xlabel("endpoint (arrow: where the claim is supported)", loc="right")
        for verdict, look in LOOKS.items():
            if (frame["verdict"] == verdict).any():
                axes.plot([], [], linestyle="none", label=verdict, **look)
        legend(axes, len(LOOKS))
        _describe(axes, frame)
        return axes


def _describe(axes: Axes, frame: pd.DataFrame) -> None:
    counts = ", ".join(f"{(frame['verdict'] == verdict).sum()} {verdict}" for verdict in LOOKS)
    found = {
        f"({one['id']})": f"{one['verdict']}, {number(one['estimate'])}, claimed {one['side']} {one['threshold']:g}"
        for one in frame.to_dict("records")
    }
    describe(axes, f"Points with intervals: the endpoint of each claim beside its threshold ({counts}).", found)
