"""What every figure starts from: results by name, and axes to draw in."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core import InputError, Result
from .style import MODEL_COLOURS, MODEL_MARKERS, style

R = TypeVar("R", bound=Result)


def named(results: object, kind: type[R]) -> dict[str, R]:
    """Results by name; one result alone is named "". Raises InputError for anything else.

    kind: the class that all of them must have
    """
    if isinstance(results, kind):
        return {"": results}
    wanted = f"expected a {kind.__name__} or a dict of name to {kind.__name__}"
    advice = f"pass what loadbearing.analyses.{kind.kind}(...) returned, or loadbearing.load(path)"
    if not isinstance(results, Mapping):
        raise InputError(f"{wanted}, got {type(results).__name__}: {advice}")
    if not results:
        raise InputError(f"{wanted}, got an empty dict: put at least one result in it")
    for name, result in results.items():
        if not isinstance(result, kind):
            raise InputError(f"{wanted}, got {type(result).__name__} under {name!r}: {advice}")
    return {str(name): result for name, result in results.items()}


@contextmanager
def canvas(ax: Axes | None, width: float, height: float) -> Iterator[Axes]:
    """The caller's axes, in the caller's style; or, without any, new ones of that size in inches, in our style."""
    if ax is not None:
        yield ax
        return
    with style():
        figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
        yield ax
        figure.draw_without_rendering()  # makes the ticks, which otherwise take their style from the time of saving


def figure_of(ax: Axes) -> Figure:
    """The figure that axes are in; for axes in a subfigure, the whole one."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise InputError("expected axes in a figure, got axes that were removed from theirs: draw the result again")
    return figure


def merged(orders: Iterable[Sequence[str]]) -> list[str]:
    """One order of all names: a name that is new comes after the one it follows in its own order.

    >>> merged([["prompt", "step.1", "cue"], ["prompt", "step.1", "step.2", "cue"]])
    ['prompt', 'step.1', 'step.2', 'cue']
    """
    found: list[str] = []
    for order in orders:
        at = 0
        for name in order:
            if name not in found:
                found.insert(at, name)
            at = found.index(name) + 1
    return found


def looks(count: int) -> list[tuple[str, str]]:
    """Colour and marker for each of several models."""
    return [(MODEL_COLOURS[i % len(MODEL_COLOURS)], MODEL_MARKERS[i % len(MODEL_MARKERS)]) for i in range(count)]
