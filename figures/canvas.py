"""What every figure starts from: results by name, and axes to draw in."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, TypeVar

import matplotlib.pyplot as plt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from matplotlib.ticker import Formatter, FuncFormatter

from ..core import InputError, Result, printable
from .style import LITERAL, MODEL_COLOURS, MODEL_MARKERS, PAPER, style

R = TypeVar("R", bound=Result)
TICK, TEXT = 48, 400  # characters of a tick's label and of any other text


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
        before = _texts(ax)
        with rc_context(LITERAL):
            yield ax
            _make_literal(ax, before)
        return
    with style():
        figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
        yield ax
        _make_literal(ax, {}, draws)
        figure.draw_without_rendering()  # makes the ticks, which otherwise take their style from the time of saving


Found = dict[int, object]


def _texts(ax: Axes) -> Found:
    """The texts of the figure that axes are in, and where its axes take their tick labels from."""
    figure = figure_of(ax)
    found: Found = {id(text): text.get_text() for text in figure.findobj(Text)}
    return found | {id(axis): axis.get_major_formatter() for axis in _axes(figure)}


def _axes(figure: Figure) -> list[Axis]:
    return [axis for axes in figure.findobj(Axes) for axis in (axes.xaxis, axes.yaxis)]


def _make_literal(ax: Axes, before: Found, known: Callable[[str], bool] = lambda _: True) -> None:
    """Show what is new since `before` as it is written: names and tokens are no formulas, and some cannot be drawn.

    known: whether the font has a character; one that it lacks is shown as its escape
    """

    def literal(given: object, most: int) -> str:
        shown = printable(str(given), most)
        return "".join(c if c == "\n" or known(c) else ascii(c)[1:-1] for c in shown)

    figure = figure_of(ax)
    for axis in _axes(figure):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FuncFormatter) and before.get(id(axis)) is not formatter:  # that of given labels
            axis.set_major_formatter(FuncFormatter(partial(_literal_tick, formatter, literal)))
            for label in axis.get_majorticklabels():
                label.set_parse_math(False)
    for text in figure.findobj(Text):
        if before.get(id(text)) != text.get_text():
            text.set_parse_math(False)
            text.set_text(literal(text.get_text(), TEXT))


def _literal_tick(given: Formatter, literal: Callable[[object, int], str], at: Any, number: int | None = None) -> str:
    """The label of a tick as another formatter gives it, made literal."""
    return literal(given(at, number), TICK)


@cache
def draws(character: str) -> bool:
    """Whether the font of our style has a character."""
    return get_font(findfont(FontProperties(family=PAPER["font.family"]))).get_char_index(ord(character)) != 0


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
