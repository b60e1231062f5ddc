"""Which components write the answer."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from ..analyses.attribution_table import Attribution
from .alt import describe, short, strongest
from .canvas import canvas, legend, looks, merged, named
from .style import COLUMN, GREY

TOP = 40
DODGE = 0.5  # of a row, shared by the models, so that their marks stay apart


def attribution(
    results: Attribution | Mapping[str, Attribution],
    ax: Axes | None = None,
    *,
    run: str = "difference",
    top: int = TOP,
) -> Axes:
    """Draw what each component adds to the logit of the donor's answer over the recipient's, with 95 % intervals.

    A row a component, in the order in which they write, from above; a mark a result. run: "recipient", "donor", or what
    "difference" there is between them; top: where there are more components, only so many, those that add most
    (either way, in any of the results), are drawn, and the axis says so

    >>> from loadbearing.analyses.attribution import attribution as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> ax = attribution(measure(model, model.task.pairs(4), mode="cot", target="answer", cot="task"))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['embed', 'attn.0', 'mlp.0', 'attn.1', 'mlp.1', 'bias']
    """
    shown = named(results, Attribution)
    effects = {
        name: dict(zip(r.components, zip(*r.effect(run), strict=True), strict=True)) for name, r in shown.items()
    }
    every = merged(result.components for result in shown.values())
    largest = {c: max(abs(effect[c][0]) for effect in effects.values() if c in effect) for c in every}
    kept = set(sorted(every, key=lambda component: -largest[component])[:top])
    rows = [component for component in every if component in kept]
    with canvas(ax, COLUMN, 0.15 * len(rows) + 0.6) as axes:
        axes.axvline(0, color="#999999", linewidth=0.6)
        for number, (name, (colour, marker)) in enumerate(zip(shown, looks(len(shown)), strict=True)):
            shift = DODGE * (number - (len(shown) - 1) / 2) / len(shown)
            here = [i for i, component in enumerate(rows) if component in effects[name]]
            estimate, low, high = np.array([effects[name][rows[i]] for i in here]).T
            axes.hlines(np.array(here) + shift, low, high, colors=colour, linewidths=0.8)
            axes.plot(estimate, np.array(here) + shift, color=colour, marker=marker, linestyle="", label=name or None)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), rows, parse_math=False)
        axes.tick_params(axis="y", length=0)
        where = "" if run == "difference" else f"\nin the {run}'s run"
        axes.set_xlabel(f"logit of the donor's answer over the recipient's{where}")
        if len(rows) < len(every):
            text = f"{len(rows)} of {len(every)} components"
            axes.text(1, 1.01, text, transform=axes.transAxes, ha="right", size="small", color=GREY)
        legend(axes, len(shown), borderaxespad=0.3)
        found = {
            name: strongest(((short(component), float(each[0])) for component, each in effect.items()), 4)
            for name, effect in effects.items()
        }
        chart = "Points with 95 % intervals: what each component adds to the logit of the donor's answer"
        describe(axes, f"{chart} over the recipient's, {run}.", found)
        return axes
