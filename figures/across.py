"""What the state of one run does in the other, by depth."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from ..analyses.across_table import CONTROLS, OWN, Across
from ..core import check_name
from .alt import highest
from .canvas import named
from .depth import by_depth
from .style import GREY

LOOKS = dict(
    zip(
        (OWN, *CONTROLS),
        (("#000000", "s"), ("#D55E00", "o"), ("#009E73", "^"), ("#56B4E9", "D"), ("#999999", "v")),
        strict=True,
    )
)


def across(results: Across | Mapping[str, Across], ax: Axes | None = None, *, position: str | None = None) -> Axes:
    """Draw how often the patched run gives the problem's own answer, by layer, a panel a result, 95 % intervals.

    A line a condition: the problem's own state, and the controls. The thin lines are the two runs without a patch:
    dashed the one that is written into, solid the one that states are taken from.

    position: one that was patched; by default the first

    >>> from loadbearing.analyses import across as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> across(measure(model, model.task.problems(8))).get_xlabel()
    'layer'
    """
    shown = named(results, Across)
    return by_depth(shown, ax, "P(own answer)", lambda axes, name, left: _panel(axes, shown[name], position, left))


def _panel(axes: Axes, result: Across, position: str | None, left: float) -> dict[str, str]:
    """Draw one result from x = `left` on; return where each line is highest."""
    found = {}
    places = result.coords["position"]
    place = places[0] if position is None else check_name("position", position, places)
    frame = result.frame()
    frame = frame[(frame["position"] == place) & (frame["quantity"] == "own answer")]
    x = left + np.arange(len(result.coords["layer"]))
    for rate, line in ((result.base_right.mean(), "--"), (result.source_right.mean(), "-")):
        axes.plot([x[0] - 0.3, x[-1] + 0.3], [rate, rate], color=GREY, linewidth=0.6, linestyle=line)
    for name in result.coords["condition"]:
        colour, marker = LOOKS[check_name("condition", name, LOOKS)]
        rows = frame[frame["condition"] == name]
        axes.vlines(x, rows["low"], rows["high"], colors=colour, linewidths=0.8)
        axes.plot(x, rows["estimate"], color=colour, marker=marker, label="" if left else name)
        found[name] = highest(zip(rows["layer"].map("layer {}".format), rows["estimate"], strict=True))
    return found
