"""The figures of docs/laws.md, one a law, each drawn from the law's table."""

import re
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

import loadbearing as lb
from loadbearing.analyses.interval import rate_interval
from loadbearing.figures.style import COLUMN, GREY, MODEL_COLOURS, MODEL_MARKERS

# Every way of answering keeps its own colour and marker.
BLACK, VERMILION, GREEN, SKY, BLUE = (MODEL_COLOURS[at] for at in (0, 1, 2, 3, 5))
WAYS = {"CoT": (VERMILION, "s"), "answer": (BLUE, "o"), "dots": (GREEN, "^"), "same": (BLACK, "D")}
SIZES = (SKY, BLUE, BLACK)
CHANCE = {"modular-sum:modulus=5": 1 / 5, "modular-program:modulus=5": 1 / 5, "match3:modulus=10": 1 / 2}


def _line(ax: Axes, rows: pd.DataFrame, x: str, label: str, colour: str, marker: str, line: str = "-") -> None:
    """Rates with their intervals against a column."""
    rows = rows.sort_values(x)
    low, high = np.array([rate_interval(v, n) for v, n in zip(rows["value"], rows["n"], strict=True)]).T
    errors = np.clip([rows["value"] - low, high - rows["value"]], 0, None)
    look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": line}
    ax.errorbar(rows[x], rows["value"], errors, label=label, elinewidth=0.8, **look)


def _panels(n: int, height: float = 1.9) -> list[Axes]:
    """Panels side by side in a column, with one axis of rates."""
    _, axes = plt.subplots(1, n, figsize=(COLUMN, height), sharey=True, layout="constrained", squeeze=False)
    axes[0, 0].set(ylim=(-0.03, 1.05), ylabel="right answers")
    return list(axes[0])


def _chance(ax: Axes, rate: float) -> None:
    ax.axhline(rate, color=GREY, linewidth=0.8, linestyle=":")


def serial(table: pd.DataFrame) -> Axes:
    """Right answers against depth, a panel a task."""
    with lb.figures.style():
        panels = _panels(2)
        for ax, (task, rows) in zip(panels, table.groupby("task", sort=False), strict=True):
            for way in ("CoT", "answer"):
                _line(ax, rows[rows["measure"] == way], "layers", way, *WAYS[way])
            _chance(ax, CHANCE.get(str(task), 1 / 120))
            length = rows["length"].iloc[0]
            what = "sum mod 5, {} terms" if str(task).startswith("modular") else "product of {} in S5"
            ax.set(xlabel="layers", title=what.format(length), xticks=sorted(rows["layers"].unique()))
        panels[0].legend(frameon=False)
        return panels[0]


def filler(table: pd.DataFrame) -> Axes:
    """Right answers by what stands before the answer and what was trained, a panel a task."""
    places = {"answer": "nothing", "dots": "dots", "mixed": "dots,\ntrained\nwith\nchains"}
    with lb.figures.style():
        panels = _panels(2)
        for ax, (task, rows) in zip(panels, table.groupby("task", sort=False), strict=True):
            rows = rows[rows["measure"] != "CoT"].assign(place=lambda found: found["arm"].map(list(places).index))
            for way in ("answer", "dots"):
                _line(ax, rows[rows["measure"] == way], "place", way, *WAYS[way], "none")
            _chance(ax, CHANCE[str(task)])
            ax.set(title=str(task).partition(":")[0], xlim=(-0.5, 2.5))
            ax.set_xticks(range(3), list(places.values()))
        return panels[0]


def parity(table: pd.DataFrame) -> Axes:
    """Right answers against length, a line a seed."""
    with lb.figures.style():
        (ax,) = _panels(1)
        for (way, seed), rows in table.groupby(["measure", "seed"]):
            colour, marker = WAYS[str(way)]
            style = "-" if seed == 0 else "--"
            _line(ax, rows, "length", f"{way}, seed {seed}", colour, marker, style)
        _chance(ax, 0.5)
        ax.set(xlabel="terms", xticks=sorted(table["length"].unique()))
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handlelength=2.6)
        return ax


def iteration(table: pd.DataFrame) -> Axes:
    """Where each step looks: the last layer of the first two-layer model, over that of the first one-layer model."""
    with lb.figures.style():
        length = table["length"].max()
        table = table[(table["length"] == length) & (table["seed"] == table["seed"].min())]
        figure, axes = plt.subplots(3, 1, figsize=(COLUMN, 3.3), sharex=True, layout="constrained")
        for ax, (layers, layer) in zip(axes, ((2, 2), (2, 1), (1, 1)), strict=True):
            rows = table[table["layers"] == layers]
            ax.imshow(attention_map(rows, layer), cmap="Blues", vmin=0, vmax=1, aspect="auto")
            ax.set_title(f"{layers} layer{'s' * (layers > 1)}, layer {layer}")
            ax.set_yticks([0, length - 3], ["1", str(length - 2)])
        axes[1].set_ylabel("from step")
        operands = [2 * k - 1 for k in range(1, length + 1)]
        axes[2].set_xticks([*operands, 2 * length + 2], [*map(str, range(1, length + 1)), "think"])
        axes[2].set_xlabel("to operand")
        figure.colorbar(axes[0].images[0], ax=list(axes), label="attention", shrink=0.6)
        first: Axes = axes[0]
        return first


def attention_map(rows: pd.DataFrame, layer: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The mean attention `[step, position]` of a layer of one model, from the rows of its table."""
    found = {}
    for measure, value in zip(rows["measure"], rows["value"], strict=True):
        match = re.fullmatch(rf"layer {layer}, step (\d+) to (\d+)", measure)
        if match:
            found[int(match[1]) - 1, int(match[2])] = value
    steps, positions = (max(place) + 1 for place in zip(*found, strict=True))
    return np.array([[found[step, at] for at in range(positions)] for step in range(steps)])


def same(table: pd.DataFrame) -> Axes:
    """How often the two ways give the same answer, and how often each is right, against length: a line a size."""
    with lb.figures.style():
        panels = _panels(2)
        for number, ((_, layers, width), rows) in enumerate(table.groupby(["parameters", "layers", "width"])):
            look = SIZES[number], MODEL_MARKERS[number]
            for ax, measure in zip(panels, ("same", "answer"), strict=True):
                _line(ax, rows[rows["measure"] == measure], "length", f"{layers} x {width}", *look)
        for ax, title in zip(panels, ("same answer without CoT", "right without CoT"), strict=True):
            _chance(ax, 1 / 5)
            ax.set(title=title, xlabel="terms", xticks=sorted(table["length"].unique()))
        panels[0].set_ylabel("share of problems")
        panels[1].legend(title="layers x width", frameon=False)
        return panels[0]


DRAWN: dict[str, Callable[[pd.DataFrame], Axes]] = {
    "serial": serial,
    "filler": filler,
    "parity": parity,
    "iteration": iteration,
    "same": same,
}
