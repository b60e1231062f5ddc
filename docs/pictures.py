"""Draw the pictures of these pages: `python docs/pictures.py` (the rooms from the imports of the code, the wires)."""

from itertools import pairwise
from pathlib import Path

import grimp
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

import loadbearing as lb
from loadbearing.figures import DOUBLE_COLUMN, WIRE_COLOURS, style
from loadbearing.figures.style import GREY

HERE = Path(__file__).parent
ROOMS = {
    "core": "errors, results, files",
    "tasks": "problems, pairs, reference programs",
    "hooks": "the model's inside",
    "probes": "estimators and bits",
    "analyses": "one question a module",
    "figures": "results to axes",
    "organisms": "small models with a known mechanism",
    "cli": "the command",
}
SEGMENTS = {"prompt": (0, 3), "open": (3, 4), "chain of thought": (4, 8), "cue": (8, 9), "answer": (9, 10)}


def imports() -> set[tuple[str, str]]:
    """Which room imports which, anywhere in its modules."""
    graph = grimp.build_graph("loadbearing", cache_dir=None)
    pairs = (
        (module.split(".")[1], imported.split(".")[1])
        for module in graph.modules - {"loadbearing"}
        for imported in graph.find_modules_directly_imported_by(module)
    )
    return {(room, other) for room, other in pairs if room != other}


def draw_rooms() -> Axes:
    """The rooms on a staircase, a dot for each import: from its room to the left, then down to what is imported.

    The id of a dot in the SVG names both rooms.
    """
    edges = imports()
    at = {name: number for number, name in enumerate(ROOMS)}
    with style():
        _, axes = plt.subplots(figsize=(DOUBLE_COLUMN, 3.6), layout="constrained")
        for name, words in ROOMS.items():
            x = y = at[name]
            axes.add_patch(
                plt.Rectangle((x - 0.49, y - 0.3), 0.98, 0.6, facecolor="white", edgecolor="black", zorder=3)
            )
            axes.text(x, y, name, ha="center", va="center", weight="bold", zorder=4)
            axes.text(x + 0.55, y, words, va="center")
            imported = [at[other] for room, other in edges if room == name]
            importing = [at[room] for room, other in edges if other == name]
            if imported:
                axes.plot([min(imported), x], [y, y], color=GREY, zorder=1)
            if importing:
                arrow = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", (x, y + 0.3), (x, max(importing)), arrowprops=arrow, zorder=1)
        for room, other in sorted(edges):
            (dot,) = axes.plot(at[other], at[room], "o", color="black", markersize=5, zorder=2)
            dot.set_gid(f"import-{room}-{other}")
        axes.set(xlim=(-0.5, len(ROOMS) + 0.4), ylim=(-0.4, len(ROOMS) - 0.6))
        axes.set_axis_off()
        return axes


def draw_wires() -> Axes:
    """The segments of a run, and the three wires that lead from the prompt to the answer."""
    with style():
        _, axes = plt.subplots(figsize=(DOUBLE_COLUMN, 2.0), layout="constrained")
        for name, (start, end) in SEGMENTS.items():
            axes.add_patch(plt.Rectangle((start + 0.04, 0), end - start - 0.08, 0.8, facecolor="#EEEEEE"))
            axes.text((start + end) / 2, 0.4, name, ha="center", va="center", weight="bold")
        wire(axes, "direct", [(1.5, 0.85), (8.6, 0.85)], -0.28)
        wire(axes, "relay", [(2.1, 0.85), (6.0, 0.85), (8.4, 0.85)], -0.28)
        wire(axes, "tokens", [(6.0, -0.05), (8.5, -0.05)], 0.28)
        for words, x, y in (
            ("direct: the cue reads the prompt", 5.05, 2.25),
            ("relay: by way of states", 4.05, 1.05),
            ("tokens: which ones stand there", 7.25, -0.85),
        ):
            axes.text(x, y, words, color=WIRE_COLOURS[words.partition(":")[0]], ha="center", weight="bold")
        axes.set(xlim=(0, 10), ylim=(-0.95, 2.5))
        axes.set_axis_off()
        return axes


def wire(axes: Axes, name: str, points: list[tuple[float, float]], bend: float) -> None:
    """An arrow through points, of the wire's colour."""
    for start, end in pairwise(points):
        how = {"arrowstyle": "-|>", "mutation_scale": 11, "linewidth": 2, "color": WIRE_COLOURS[name]}
        axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", **how))


if __name__ == "__main__":
    for name, draw in {"rooms": draw_rooms, "wires": draw_wires}.items():
        for path in lb.figures.save(draw(), HERE / name, formats=("svg",)):
            print(path)
