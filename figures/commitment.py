"""When the answer is settled."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from ..analyses.commitment_table import CONDITIONS, Commitment
from ..core import check_name
from .alt import describe, number
from .canvas import canvas, legend, named, title
from .style import COLUMN, DOUBLE_COLUMN, GREY

LOOKS = {"probe": ("#D55E00", "o"), "forced": ("#000000", "s"), "text": ("#009E73", "^")}
DASHED = (0, (3, 2))
WORDS = {"probe": "probe on the state", "forced": "forced to answer", "text": "text alone"}
DODGE = 0.012  # of a panel's width, so that lines of equal height stay apart
GAP = 0.25  # between two panels, as a share of a panel


def commitment(results: Commitment | Mapping[str, Commitment], ax: Axes | None = None) -> Axes:
    """Draw how often the own final answer can be told after k steps, a panel a model, with 95 % intervals.

    Three lines: what a probe reads from the state, what the model says when it is made to answer, what the text alone
    gives away; each with its content-free twin, dashed and hollow. The thin grey line is what a constant would get. The
    marks on top are the mean first passage, from where on a line is right to the end; an arrow where more than half of
    the problems are not settled at the end either. x is k, or k/n where chains have unequal numbers of steps.

    >>> from loadbearing.analyses import commitment as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> ax = commitment(measure(model, model.task.problems(40), lines=["forced"]))
    >>> ax.get_ylabel(), ax.get_xlabel()
    ('P(own final answer)', 'steps kept')
    """
    shown = named(results, Commitment)
    even = all(result.even for result in shown.values())
    with canvas(ax, COLUMN if len(shown) == 1 else DOUBLE_COLUMN, 2.2) as axes:
        ticks: dict[float, str] = {}
        for number, (name, result) in enumerate(shown.items()):
            ticks |= _panel(axes, name, result, number * (1 + GAP), len(shown), even)
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlim(-0.08, (len(shown) - 1) * (1 + GAP) + 1.08)
        axes.set_ylim(-0.03, 1.22)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.spines["left"].set_bounds(0, 1)
        axes.set_ylabel("P(own final answer)")
        axes.set_yticks([1.115], ["settled at"], minor=True)  # a tick: its label keeps clear of the axis' name
        axes.tick_params(axis="y", which="minor", length=0, labelsize="small", labelcolor=GREY)
        axes.set_xlabel("steps kept" if even else "share of the chain kept")
        _legend(axes, shown)
        chart = "Lines with 95 % intervals: how often the own final answer can be told, from no step kept to all."
        describe(axes, chart, {name: _told(result) for name, result in shown.items()})
        return axes


def _told(result: Commitment) -> str:
    """Where each line begins and ends, and when it is settled."""
    found = []
    for line in result.lines:
        rates = result.curve(line, CONDITIONS[0])["estimate"].to_numpy()
        passage = result.first_passage(line)
        settled = f", settled at {number(passage.mean)} of the chain" if passage.n and passage.never <= 0.5 else ""
        found.append(f"{WORDS[line]} {number(rates[0])} to {number(rates[-1])}{settled}")
    return ", ".join(found)


def _panel(axes: Axes, name: str, result: Commitment, left: float, panels: int, even: bool) -> dict[float, str]:
    """Draw one model of several from x = `left` to `left` + 1; return its ticks."""
    last = result.coords["k"][-1] if result.even else 1
    axes.hlines(result.chance()[0], left, left + 1, colors="#999999", linewidths=0.6)
    for row, line in enumerate(result.lines):
        colour, marker = LOOKS[check_name("line", line, LOOKS)]
        shift = left + DODGE * (row - (len(result.lines) - 1) / 2)
        for condition in CONDITIONS:
            curve = result.curve(line, condition)
            x, true = shift + curve["x"] / last, condition == CONDITIONS[0]
            axes.vlines(x, curve["low"], curve["high"], colors=colour, linewidths=0.8, alpha=1 if true else 0.6)
            look = {"linestyle": "-"} if true else {"linestyle": DASHED, "markerfacecolor": "white"}
            axes.plot(x, curve["estimate"], color=colour, marker=marker, zorder=3 if true else 2, **look)
        _mark(axes, result, line, left, 1.07 + 0.045 * row)
    if name:
        title(axes, name, left + 0.5, 1 / panels)
    shares = np.arange(last + 1) / last if even and result.even else np.array([0.0, 0.5, 1.0])
    return {left + share: f"{share * last:.0f}" if even else f"{share:g}" for share in shares}


def _mark(axes: Axes, result: Commitment, line: str, left: float, y: float) -> None:
    """The mean first passage with its interval, above the curves."""
    colour, marker = LOOKS[line]
    passage = result.first_passage(line)
    if not passage.n:
        return
    if passage.never > 0.5:
        axes.plot(left + 1, y, color=colour, marker=">", markerfacecolor="white", clip_on=False)
        return
    axes.hlines(y, left + passage.low, left + passage.high, colors=colour, linewidths=0.8)
    axes.plot(left + passage.mean, y, color=colour, marker=marker, markersize=2.5)


def _legend(axes: Axes, shown: Mapping[str, Commitment]) -> None:
    lines = dict.fromkeys(line for result in shown.values() for line in result.lines)
    for line in lines:
        colour, marker = LOOKS[line]
        axes.plot([], [], color=colour, marker=marker, label=WORDS[line])
    axes.plot([], [], color=GREY, linestyle=DASHED, marker="o", markerfacecolor="white", label="content-free text")
    axes.plot([], [], color="#999999", linewidth=0.6, label="constant guess")
    legend(axes, 5 if len(shown) > 1 else 2, handlelength=2.4, borderaxespad=1.8 if any(shown) else 0.3)
