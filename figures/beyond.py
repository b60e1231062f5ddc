"""What the state knows beyond the text, along the chain of thought."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..analyses.beyond_table import CURVES, Beyond
from .alt import describe, highest, short
from .canvas import canvas, legend, looks, merged, named
from .style import COLUMN, GREY

LINES = {"text": ":", "state": (0, (4, 1.5)), "beyond": "-"}
NAMES = {"text": "text", "state": "state", "beyond": "state beyond the text"}
ALONE = dict(zip(CURVES, ("#E69F00", "#999999", "#000000"), strict=True))  # one model: a colour a curve
PALE = "#BBBBBB"


def beyond(results: Beyond | Mapping[str, Beyond], ax: Axes | None = None, *, variable: str | None = None) -> Axes:
    """Draw the bits that the text, the state, and the state beyond the text tell at each place of the CoT run.

    95 % intervals over problems; a dashed line at H(y) is all there is to know, and an upright line marks where the
    value is written. Thin grey lines, of the state beyond the text: with the states of other problems, and of a copy
    of the model with random weights. Several models, each in its colour, show the text and the state beyond it.

    variable: one that was probed; by default the last, the answer

    >>> from loadbearing.analyses.beyond import beyond as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> ax = beyond(measure(model, model.task.problems(60), variables=["v_3"], shuffles=1, twin=False))
    >>> ax.get_ylabel()
    'bits about the answer'
    """
    shown = named(results, Beyond)
    places = merged([result.places for result in shown.values()])
    x = {place: i for i, place in enumerate(places)}
    found: dict[str, str] = {}
    with canvas(ax, COLUMN, 2.2) as axes:
        for at, ((name, result), look) in enumerate(zip(shown.items(), looks(len(shown)), strict=True)):
            frame = result.frame().query("variable == @chosen", local_dict={"chosen": variable or result.variables[-1]})
            for curve in CURVES if len(shown) == 1 else ("text", "beyond"):
                label, shape = NAMES[curve], (ALONE[curve], "o")
                if len(shown) > 1:
                    label, shape = name if curve == "beyond" else "" if at else "text (dotted)", look
                _draw_curve(axes, frame[frame["curve"] == curve], x, curve, label=label, look=shape)
            _draw_controls(axes, frame, x, first=not at)
            found[name] = _told(frame)
        _mark_written(axes, shown, variable, x)
        _draw_entropy(axes, shown, variable)
        axes.set_xticks(range(len(places)), places, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_ylabel(f"bits about {variable or 'the answer'}")
        legend(axes, 2, borderaxespad=1.4)
        of = short(variable or "the answer")
        describe(axes, f"Lines with 95 % intervals: bits about {of} along the chain of thought.", found)
        return axes


def _told(frame: pd.DataFrame) -> str:
    """Where each curve is highest."""
    parts = {curve: frame[frame["curve"] == curve] for curve in CURVES}
    return ", ".join(
        f"{NAMES[curve]} {highest(zip(part['place'].map(short), part['bits'], strict=True))}"
        for curve, part in parts.items()
    )


def _draw_curve(
    axes: Axes, part: pd.DataFrame, x: Mapping[str, int], curve: str, *, label: str, look: tuple[str, str]
) -> None:
    colour, marker = look
    at = [x[place] for place in part["place"]]
    axes.fill_between(at, part["low"], part["high"], color=colour, alpha=0.2, linewidth=0)
    axes.vlines(at, part["low"], part["high"], colors=colour, linewidths=0.8)
    front = 3 if curve == "beyond" else 2
    axes.plot(at, part["bits"], color=colour, linestyle=LINES[curve], marker=marker, label=label, zorder=front)


def _draw_controls(axes: Axes, frame: pd.DataFrame, x: Mapping[str, int], first: bool) -> None:
    """Thin grey lines: the mean over permutations, and the copy with random weights."""
    part = frame[frame["curve"] == "beyond"]
    at = [x[place] for place in part["place"]]
    for column, style, words in (("shuffled", "-", "shuffled"), ("random", "--", "random weights")):
        if part[column].notna().any():
            label = words if first else ""
            axes.plot(at, part[column], color=PALE, linestyle=style, linewidth=0.6, label=label, zorder=1)


def _mark_written(axes: Axes, shown: Mapping[str, Beyond], variable: str | None, x: Mapping[str, int]) -> None:
    """An upright line between the last place before the value is written and the first at which it stands there."""
    there = {name: np.flatnonzero(result.typical_lead(variable) <= 0) for name, result in shown.items()}
    first = {x[shown[name].places[at[0]]] - 0.5 for name, at in there.items() if len(at)}
    for place in sorted(first):
        axes.axvline(place, color=GREY, linewidth=0.6, linestyle=":", zorder=1)
        above = axes.get_xaxis_transform()
        axes.text(place, 1.01, "written", transform=above, va="bottom", ha="center", size="small", color=GREY)


def _draw_entropy(axes: Axes, shown: Mapping[str, Beyond], variable: str | None) -> None:
    named_at = set()
    for result, (colour, _) in zip(shown.values(), looks(len(shown)), strict=True):
        at = result.variables.index(variable) if variable else -1
        entropy = float(result.null[at].mean())
        axes.axhline(entropy, color=colour, linestyle="--", linewidth=0.6)
        if round(entropy, 1) not in named_at:  # models on one task have nearly the same: one name for all
            axes.text(1.01, entropy, "H(y)", transform=axes.get_yaxis_transform(), va="center", size="small")
        named_at.add(round(entropy, 1))
    axes.set_ylim(min(0.0, axes.dataLim.y0) - 0.15, 1.05 * axes.dataLim.y1)
