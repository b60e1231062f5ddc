"""What a training did to a chain of thought."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..core import InputError
from .alt import describe, number
from .canvas import canvas, legend, title
from .style import COLUMN, DOUBLE_COLUMN, GREY, WIRE_COLOURS

History = pd.DataFrame | str | Path
GAP = 0.2  # between two panels, as a share of a panel
WITHHELD = -0.09
# Lines lie on one another where shares are 0 or 1: each is thinner than the one below it.
WIDTHS = {"tokens": 3.0, "direct": 1.9, "relay": 0.9}
LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "serial_share": ("serial share", {"color": "#000000", "linestyle": (0, (3, 2)), "linewidth": 0.9}),
    "cot_accuracy": ("CoT accuracy", {"color": GREY, "marker": "o", "markerfacecolor": "white", "linewidth": 0.5}),
    "one_pass_accuracy": ("one-pass accuracy", {"color": GREY, "marker": "s", "linewidth": 0.5}),
}


def history(results: History | Mapping[str, History], ax: Axes | None = None) -> Axes:
    """Draw channel shares, serial share and both accuracies against the updates of a training, a panel a training.

    results: the frame of `ChannelCallback.history()`, or the file that it wrote; or a dict of name to such. Shares have
    95 % intervals as bands; a cross below marks a measurement without shares (withheld, or nothing could be measured).
    Raises InputError for anything else, and for a history without rows.

    >>> rows = pd.DataFrame({"step": [0, 10], "direct": [0.1, 0.0], "relay": 0.0, "tokens": [0.9, 1.0]})
    >>> ax = history(rows)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('update', 'share, accuracy')
    """
    shown = _frames(results)
    with canvas(ax, COLUMN if len(shown) == 1 else DOUBLE_COLUMN, 2.3) as axes:
        ticks: dict[float, str] = {}
        for number, (name, frame) in enumerate(shown.items()):
            ticks |= _panel(axes, name, frame, number * (1 + GAP), len(shown))
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlim(-0.04, (len(shown) - 1) * (1 + GAP) + 1.04)
        axes.set_ylim(-0.15, 1.1)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set_xlabel("update")
        axes.set_ylabel("share, accuracy")
        _legend(axes, shown)
        chart = "Lines over the updates of a training: shares of the wires with 95 % intervals, and accuracies."
        describe(axes, chart, {name: _told(frame) for name, frame in shown.items()})
        return axes


def _told(frame: pd.DataFrame) -> str:
    """The first and the last number of each line."""
    names = {wire: wire for wire in WIDTHS} | {column: words for column, (words, _) in LINES.items()}
    parts = []
    for column, words in names.items():
        known = frame[column].dropna()
        if len(known):
            parts.append(f"{words} {number(known.iloc[0])} to {number(known.iloc[-1])}")
    span = f"from update {frame['step'].iloc[0]:g} to {frame['step'].iloc[-1]:g}"
    return f"{span}: {', '.join(parts) or 'nothing measured'}"


def _frames(results: object) -> dict[str, pd.DataFrame]:
    """Histories by name; one alone is named ""."""
    given = results if isinstance(results, Mapping) else {"": results}
    found = {}
    for name, one in given.items():
        if isinstance(one, str | Path):
            one = pd.read_json(one, lines=True)
        if not isinstance(one, pd.DataFrame) or "step" not in one or one.empty:
            what = f"a frame of {len(one)} rows" if isinstance(one, pd.DataFrame) else type(one).__name__
            raise InputError(
                f"expected the history of a training{f' under {name!r}' if name else ''}, got {what}: pass what "
                "ChannelCallback.history() returned after the training, or the path of the file that it wrote"
            )
        wanted = [*LINES, *(wire + end for wire in WIRE_COLOURS for end in ("", "_low", "_high"))]
        found[str(name)] = one.reindex(columns=["step", *wanted]).astype(float).sort_values("step")
    if not found:
        raise InputError("expected the history of a training, got an empty dict: put at least one in it")
    return found


def _panel(axes: Axes, name: str, frame: pd.DataFrame, left: float, panels: int) -> dict[float, str]:
    """Draw one training of several from x = `left` to `left` + 1; return its ticks."""
    last = max(float(frame["step"].max()), 1.0)
    x = left + frame["step"] / last
    for wire, width in WIDTHS.items():
        colour = WIRE_COLOURS[wire]
        axes.fill_between(x, frame[f"{wire}_low"], frame[f"{wire}_high"], color=colour, alpha=0.2, linewidth=0)
        # The marker shows a value between two that are withheld.
        look: dict[str, Any] = {"color": colour, "linewidth": width, "markersize": width, "markeredgewidth": 0}
        axes.plot(x, frame[wire], marker="o", solid_capstyle="butt", zorder=2.1, **look)
    for column, (_, line) in LINES.items():
        axes.plot(x, frame[column], markersize=2.2, markeredgewidth=0.5, zorder=2.2, **line)
    hidden = frame["tokens"].isna()
    axes.plot(x[hidden], [WITHHELD] * int(hidden.sum()), color=GREY, marker="x", markersize=2.5, linestyle="none")
    if name:
        title(axes, name, left + 0.5, 1 / panels)
    return {left + share: f"{share * last:g}" for share in (0.0, 0.5, 1.0)}


def _legend(axes: Axes, shown: Mapping[str, pd.DataFrame]) -> None:
    for wire, colour in WIRE_COLOURS.items():
        axes.plot([], [], color=colour, linewidth=WIDTHS[wire], label=wire)
    for label, line in LINES.values():
        axes.plot([], [], markersize=2.5, label=label, **line)
    if any(frame["tokens"].isna().any() for frame in shown.values()):
        axes.plot([], [], color=GREY, marker="x", markersize=3, linestyle="none", label="no shares")
    place = (0, 1.09 if any(shown) else 1.0)
    legend(axes, 7 if len(shown) > 1 else 3, bbox_to_anchor=place, borderaxespad=0.2, columnspacing=1.0)
