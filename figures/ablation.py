"""What is lost with only some wires on."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from ..analyses.ablation_table import RATES, Ablation
from ..analyses.cells import TERMS
from ..core import check_name
from .alt import describe, number
from .canvas import canvas, legend, looks, named
from .style import COLUMN, GREY

WORDS = {"loss": "loss of log p(own answer), nats", "kept": "P(own answer kept)", "broken": "P(no answer)"}
SPREAD = 0.7  # of a row that all results together may fill


def ablation(results: Ablation | Mapping[str, Ablation], ax: Axes | None = None, *, quantity: str = "loss") -> Axes:
    """Draw what becomes of the model's own answer with only some wires on, a row a set, with 95 % intervals.

    The others are at the baseline. A single wire that keeps the answer suffices for it; two of them, and the answer is
    redundant. With all on, nothing is lost. quantity: "loss", "kept" or "broken"

    >>> from loadbearing.analyses import ablation as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-redundant")
    >>> ax = ablation(measure(model, model.task.problems(8), target="answer", cot="task"))
    >>> [label.get_text() for label in ax.get_yticklabels()][:3]
    ['none', 'direct', 'relay']
    """
    shown = named(results, Ablation)
    check_name("quantity", quantity, ("loss", *RATES))
    found: dict[str, str] = {}
    with canvas(ax, COLUMN, 0.7 + len(TERMS) * max(0.15, 0.07 * len(shown))) as axes:
        for row in range(0, len(TERMS), 2):
            axes.axhspan(row - 0.5, row + 0.5, color="#F2F2F2", linewidth=0, zorder=-1)
        axes.axvline(0, color=GREY, linewidth=0.6, zorder=0)
        for i, ((name, result), (colour, marker)) in enumerate(zip(shown.items(), looks(len(shown)), strict=True)):
            told = [result.loss(term) if quantity == "loss" else result.rate(quantity, term) for term in TERMS]
            estimate, low, high = np.array(told).T
            y = np.arange(len(TERMS)) + SPREAD * ((i + 0.5) / len(shown) - 0.5)
            axes.hlines(y, low, high, colors=colour, linewidths=0.8)
            axes.plot(estimate, y, color=colour, marker=marker, linestyle="none", label=name)
            found[name] = ", ".join(f"{term} {number(value)}" for term, value in zip(TERMS, estimate, strict=True))
        axes.set_yticks(range(len(TERMS)), TERMS)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(TERMS) - 0.5, -0.5)
        axes.set_ylabel("wires that are on")
        if quantity in RATES:
            axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel(WORDS[quantity])
        legend(axes, 3, borderaxespad=0.3)
        describe(axes, f"Points with 95 % intervals: {WORDS[quantity]}, by the wires that are on.", found)
        return axes
