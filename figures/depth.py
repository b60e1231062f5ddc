"""Results side by side in one axes, each over the layers of its model."""

from collections.abc import Callable, Mapping

from matplotlib.axes import Axes

from ..core import Result
from .alt import describe
from .canvas import canvas, legend, title
from .style import COLUMN, DOUBLE_COLUMN

GAP = 0.7  # layers between two panels
LABELS = 24  # numbers of layers that fit


def by_depth(
    shown: Mapping[str, Result],
    ax: Axes | None,
    ylabel: str,
    panel: Callable[[Axes, str, float], dict[str, str]],
) -> Axes:
    """Draw shares by layer, a panel a result under its name, with one legend.

    panel: draws the result of a name from x = left on, a layer at each whole step, and returns what each line says;
        only the first one (left = 0) gives labels
    """
    with canvas(ax, COLUMN if len(shown) == 1 else DOUBLE_COLUMN, 2.2) as axes:
        ticks: dict[float, str] = {}
        left, found = 0.0, {}
        for name, result in shown.items():
            layers = list(result.coords["layer"])
            lines = panel(axes, name, left)
            found[name] = ", ".join(f"{line} {told}" for line, told in lines.items())
            step = 1 + len(layers) * len(shown) // LABELS
            ticks |= {left + i: str(layer) for i, layer in list(enumerate(layers))[::step]}
            if name:
                title(axes, name, left + (len(layers) - 1) / 2, 1 / len(shown))
            left += len(layers) + GAP
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_ylim(-0.04, 1.08)
        axes.set_xlabel("layer")
        axes.set_ylabel(ylabel)
        legend(axes, 2 if len(shown) == 1 else 3, borderaxespad=1.8 if any(shown) else 0.3)
        describe(axes, f"Lines over the layers, with 95 % intervals: {ylabel}.", found)
        return axes
