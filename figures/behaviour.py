"""What becomes of the answer when the text is altered, and where errors show."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..analyses.behaviour_table import QUANTITIES, STYLE, Behaviour
from ..analyses.errors_table import RATES, Errors
from ..core import check_name
from .alt import describe, number, short
from .canvas import canvas, legend, looks, merged, named, title
from .style import COLUMN, DOUBLE_COLUMN, GREY, MODEL_COLOURS

UNTOUCHED = "untouched"
LABELS = {"truncated": "cut short", "content-free": "random tokens", "filler": "dots", "mistake": "a mistake"}
WORDS = {
    "same": "P(same answer)",
    "correct": "P(right answer)",
    "follow": "P(answer follows the text)",
    "broken": "P(no answer)",
}
MEAN = ("truncated", "mistake")  # the mean over k: the whole of a cut text is the text
DASHED = (0, (3, 2))
SPREAD = 0.6  # of the room between two names that all models together may fill
GAP = 1  # between two panels, in places of a set
SHOWN = {
    "accuracy, cot": "right, after its steps",
    "accuracy, answer-only": "right in one pass",
    "step wrong | answer wrong": "a step wrong | answer wrong",
    "answer follows | step wrong": "answer follows | a step wrong",
    "answer is the last step | step wrong": "answer = last step | a step wrong",
}
COLUMNS = 8  # places that fit in a column


def behaviour(
    results: Behaviour | Mapping[str, Behaviour], ax: Axes | None = None, *, quantity: str = "correct"
) -> Axes:
    """Draw how often the answer is right after each kind of tampering, with 95 % intervals, a colour a model.

    "Cut short" and "a mistake" are means over the steps; the others alter the whole chain of thought. For
    quantity="correct" the lines are the one-pass accuracy: solid raw, dashed after the fixed
    answer-only fine-tune. quantity: "correct", "same", "follow" or "broken".

    >>> from loadbearing.analyses import behaviour as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:both")
    >>> ax = behaviour(measure(model, model.task.problems(8), tamperings=["content-free", "mistake"]))
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['untouched', 'random tokens', 'a mistake']
    """
    shown = named(results, Behaviour)
    check_name("quantity", quantity, QUANTITIES)
    names = merged([result.tamperings for result in shown.values()])
    names = [UNTOUCHED, *names] if quantity == "correct" else names
    places = len(names) + 2 * len(shown)
    found: dict[str, str] = {}
    with canvas(ax, COLUMN if places <= COLUMNS + 2 else DOUBLE_COLUMN, 2.2) as axes:
        for i, ((name, result), (colour, marker)) in enumerate(zip(shown.items(), looks(len(shown)), strict=True)):
            shift = SPREAD * ((i + 0.5) / len(shown) - 0.5)
            rates = _rates(axes, result, names, quantity, shift, {"color": colour, "marker": marker})
            found[name] = ", ".join(f"{short(_label(of))} {number(rate)}" for of, rate in rates.items())
            if quantity == "correct":
                _one_pass(axes, result, colour, marker if len(shown) > 1 else "")
        axes.set_xticks(range(len(names)), [_label(name) for name in names], rotation=30, ha="right", parse_math=False)
        axes.set_xlim(-0.6, len(names) - 0.4)
        _unit(axes, WORDS[quantity])
        _models(axes, shown, quantity == "correct", 3 if places <= COLUMNS + 2 else 6)
        describe(axes, f"Points with 95 % intervals: {WORDS[quantity]} after each change of the text.", found)
        return axes


def _rates(
    axes: Axes, result: Behaviour, names: Sequence[str], quantity: str, shift: float, look: Mapping[str, Any]
) -> dict[str, float]:
    """A mark and an interval for every tampering that the result has; return the marks."""
    drawn: dict[str, float] = {}
    for x, name in enumerate(names):
        if name == UNTOUCHED:
            estimate, low, high, n = result.accuracy()
        elif name in result.tamperings:
            estimate, low, high, n = result.rate(quantity, name, None if name in MEAN else "whole")
        else:
            continue
        if n:
            drawn[name] = estimate
            axes.vlines(x + shift, low, high, colors=look["color"], linewidths=0.8)
            axes.plot(x + shift, estimate, linestyle="none", zorder=3, **look)
    return drawn


def _one_pass(axes: Axes, result: Behaviour, colour: str, marker: str) -> None:
    """Lines from side to side; a marker at the right end says whose they are."""
    look: dict[str, Any] = {"color": colour, "linewidth": 0.6, "marker": marker, "markersize": 2, "markevery": [1]}
    look |= {"transform": axes.get_yaxis_transform(), "clip_on": False, "zorder": 0}
    one_pass = result.one_pass_accuracy()[0]
    axes.plot([0, 1], [one_pass, one_pass], **look)
    if "accuracy" in result.elicited:
        axes.plot([0, 1], [result.elicited["accuracy"]] * 2, linestyle=DASHED, **look)


def _models(axes: Axes, shown: Mapping[str, Behaviour], lines: bool, columns: int) -> None:
    for name, (colour, marker) in zip(shown, looks(len(shown)), strict=True):
        if name:
            axes.plot([], [], color=colour, marker=marker, linestyle="none", label=name)
    if lines:
        axes.plot([], [], color=GREY, linewidth=0.6, label="one pass")
    if lines and any("accuracy" in result.elicited for result in shown.values()):
        axes.plot([], [], color=GREY, linewidth=0.6, linestyle=DASHED, label="one pass, elicited")
    _legend(axes, columns)


def errors(results: Errors | Mapping[str, Errors], ax: Axes | None = None) -> Axes:
    """Draw where errors show, a panel a model, a place a set of problems, with 95 % intervals.

    Filled: how often the answer is right, with a chain of thought and in one pass. Hollow: how often some step is wrong
    where the answer is, and how often the answer is what the wrong steps imply, or the last of them. A mark is left out
    where there is no such run.

    >>> from loadbearing.analyses import errors as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> ax = errors(measure(model, model.task.problems(8)))
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['in distribution']
    """
    shown = named(results, Errors)
    places = sum(len(result.sets) + GAP for result in shown.values()) - GAP
    narrow = places <= COLUMNS - 4
    with canvas(ax, *((COLUMN, 3.0) if narrow else (DOUBLE_COLUMN, 2.4))) as axes:
        ticks: dict[float, str] = {}
        left = 0.0
        for name, result in shown.items():
            for number, of in enumerate(result.sets):
                ticks[left + number] = of
                _set(axes, result, of, left + number)
            if name:
                title(axes, name, left + (len(result.sets) - 1) / 2, (len(result.sets) + GAP) / (places + GAP))
            left += len(result.sets) + GAP
        slant: dict[str, Any] = {"rotation": 30, "ha": "right"} if places > 2 else {}
        axes.set_xticks(list(ticks), list(ticks.values()), parse_math=False, **slant)
        axes.set_xlim(-0.6, places - 0.4)
        _unit(axes, "share of runs")
        for rate, look in _looks().items():
            axes.plot([], [], linestyle="none", label=SHOWN[rate], **look)
        _legend(axes, 1 if narrow else 3, handlelength=1.0, borderaxespad=1.8 if any(shown) else 0.3)
        chart = "Points with 95 % intervals: how often answers are right, and where errors show, by set of problems."
        describe(axes, chart, {name: _told(result) for name, result in shown.items()})
        return axes


def _told(result: Errors) -> str:
    """What was measured in each set, in words."""
    found = []
    for of in result.sets:
        rates = {SHOWN[rate]: result.rate(rate, of) for rate in SHOWN}
        known = ", ".join(f"{words} {number(rate[0])}" for words, rate in rates.items() if rate[3])
        found.append(f"{short(of)}: {known}")
    return "; ".join(found)


def _looks() -> dict[str, dict[str, Any]]:
    """The mark of every rate: accuracies filled, where errors show hollow."""
    found = {}
    for rate, colour, marker in zip(SHOWN, MODEL_COLOURS, "ososD", strict=False):
        found[rate] = {"color": colour, "marker": marker, "markerfacecolor": "white" if "|" in rate else colour}
    return found


def _set(axes: Axes, result: Errors, of: str, x: float) -> None:
    for i, (rate, look) in enumerate(_looks().items()):
        estimate, low, high, n = result.rate(check_name("rate", rate, RATES), of)
        at = x + SPREAD * ((i + 0.5) / len(SHOWN) - 0.5)
        if n:
            axes.vlines(at, low, high, colors=look["color"], linewidths=0.8)
            axes.plot(at, estimate, linestyle="none", zorder=3, **look)


def _label(name: str) -> str:
    return f"in {name.removeprefix(STYLE)}" if name.startswith(STYLE) else LABELS.get(name, name)


def _unit(axes: Axes, label: str) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.spines["left"].set_bounds(0, 1)
    axes.set_ylabel(label)


def _legend(axes: Axes, columns: int, **options: Any) -> None:
    legend(axes, columns, **{"handlelength": 2.4, "borderaxespad": 0.3, **options})
