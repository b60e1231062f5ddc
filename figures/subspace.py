"""What swapping a subspace does, by depth, beside what can be read there."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..analyses.subspace_table import MATCHED, RANDOM, SHUFFLED, SWAPPED, WHOLE, Subspace
from .alt import highest
from .canvas import named
from .depth import by_depth
from .style import GREY

LOOKS = {
    WHOLE: ("#000000", "s", "-"),
    SWAPPED: ("#D55E00", "o", "-"),
    SHUFFLED: ("#009E73", "D", "--"),
    MATCHED: ("#56B4E9", "^", "--"),
    RANDOM: ("#999999", "v", "--"),
}


def subspace(results: Subspace | Mapping[str, Subspace], ax: Axes | None = None) -> Axes:
    """Draw the share of pairs that answer as the donor does when a subspace is swapped, by layer, a panel a result.

    Lines with 95 % intervals: the whole state, the subspace, and, dashed, its controls: found with permuted labels,
    random ones of its rank, the same with as long a change; hollow and dotted: a model with random weights. Grey bars:
    the bits that a probe reads of the variable, as a share of its entropy: what is decodable, not what is used.

    >>> from loadbearing.analyses import subspace as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:direct")
    >>> found = measure(model, model.task.pairs(4), layers=[2], fit=100, draws=2, twin=False)
    >>> subspace(found).get_ylabel()
    'share of pairs moved'
    """
    shown = named(results, Subspace)
    return by_depth(shown, ax, "share of pairs moved", lambda axes, name, left: _panel(axes, shown[name], left))


def _panel(axes: Axes, result: Subspace, left: float) -> dict[str, str]:
    """Draw one result from x = `left` on; return where each line is highest."""
    found = {}
    frame = result.frame()
    layers = list(result.coords["layer"])
    x = left + np.arange(len(layers))
    read = _of(frame, "trained", "read", "bits", layers)[0]
    share = read / result.manifest.circumstance["entropy"] if result.manifest.circumstance["entropy"] else read
    axes.bar(x, np.clip(share, 0, None), width=0.6, color="#DDDDDD", zorder=0, label="" if left else "bits / entropy")
    for name, (colour, marker, line) in LOOKS.items():
        if name not in result.coords["intervention"]:
            continue
        estimate, low, high = _of(frame, "trained", name, "moved", layers)
        axes.vlines(x, low, high, colors=colour, linewidths=0.8)
        axes.plot(x, estimate, color=colour, marker=marker, linestyle=line, label="" if left else name)
        found[name] = highest(zip(map("layer {}".format, layers), estimate, strict=True))
    if "random-init" in result.coords["model"]:
        estimate, low, high = _of(frame, "random-init", SWAPPED, "moved", layers)
        colour = LOOKS[SWAPPED][0]
        axes.vlines(x, low, high, colors=GREY, linewidths=0.6)
        label = "" if left else "subspace, random model"
        axes.plot(x, estimate, color=colour, marker="o", markerfacecolor="white", linestyle=":", label=label)
    return found


def _of(frame: pd.DataFrame, model: str, intervention: str, quantity: str, layers: list[int]) -> list[np.ndarray]:
    """Estimate and bounds by layer."""
    rows = frame[(frame["model"] == model) & (frame["intervention"] == intervention) & (frame["quantity"] == quantity)]
    rows = rows.set_index("layer").loc[layers]
    return [rows[name].to_numpy(dtype=float) for name in ("estimate", "low", "high")]
