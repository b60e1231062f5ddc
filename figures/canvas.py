"""What every figure starts from: results by name, and axes to draw in."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from math import inf
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import matplotlib.pyplot as plt
from matplotlib import rc_context, rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import LoadFlags
from matplotlib.text import Text
from matplotlib.ticker import Formatter, FuncFormatter
from matplotlib.transforms import Bbox

from ..core import InputError, Result, printable
from .style import LITERAL, MODEL_COLOURS, MODEL_MARKERS, PAPER, sized, venue_style

R = TypeVar("R", bound=Result)
# Names may be of any length: characters of a line and lines of a text that are drawn where there is room enough.
LINE, LINES = 80, 4
LEAST = 1.2  # inches of a name that are drawn even in smaller axes
MARGIN = 0.65  # inches of a figure that are no room for names: axes' names, numbers, marks
BOLD = 1.1  # how much wider bold letters are

# Legends that were asked for and are not yet made: columns, handles, look.
_legends: WeakKeyDictionary[Axes, tuple[int, Sequence[Artist], dict[str, Any]]] = WeakKeyDictionary()
_parses: WeakKeyDictionary[Figure, bool] = WeakKeyDictionary()  # whether texts of users' figures may be formulas


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
    """The caller's axes, in the caller's style; or, without any, new ones in the style of the venue that is set.

    width, height: of the new figure in our style, in inches
    """
    if ax is not None:
        box, dpi = ax.get_window_extent(), figure_of(ax).dpi
        before, room = _texts(ax), _room(box.width / dpi + MARGIN, box.height / dpi + MARGIN)
        _legends.pop(ax, None)  # of a drawing that failed
        _parses[figure_of(ax)] = bool(rcParams["text.parse_math"])
        with rc_context(LITERAL):
            yield ax
            _finish(ax, before, room)
        return
    size = sized(width, height)
    with venue_style():
        figure, ax = plt.subplots(figsize=size, layout="constrained")
        yield ax
        _finish(ax, {}, _room(*size))
        lay_out(figure)  # makes the ticks, which otherwise take their style from the time of saving


def lay_out(figure: Figure) -> None:
    """Put everything in its place, to measure it. This makes ticks, those of others in their owner's way."""
    with rc_context({"text.parse_math": _parses.get(figure, False)}):
        figure.draw_without_rendering()


Found = dict[int, object]


def _texts(ax: Axes) -> Found:
    """The texts of axes, and where these and those inside take their tick labels from."""
    found: Found = {id(text): text.get_text() for text in ax.findobj(Text)}
    return found | {id(axis): axis.get_major_formatter() for axis in _axes(ax)}


def _axes(ax: Axes) -> list[Axis]:
    return [axis for axes in ax.findobj(Axes) for axis in (axes.xaxis, axes.yaxis)]


def _finish(ax: Axes, before: Found, room: tuple[float, float]) -> None:
    _make_literal(ax, before, room)
    _fit_legend(ax)


def _room(width: float, height: float) -> tuple[float, float]:
    """How wide and how high, in inches of our style, names may be in a figure of that size: longer ones would leave no
    axes."""
    return max(LEAST, (width - MARGIN) / _zoom()), max(LEAST, (height - MARGIN) / _zoom())


def _zoom() -> float:
    """How much larger letters are, as things are set now, than in our own style, in which names are measured."""
    return float(rcParams["font.size"]) / float(PAPER["font.size"])


def _make_literal(ax: Axes, before: Found, room: tuple[float, float]) -> None:
    """Show what is new since `before` as it is written: names and tokens are no formulas, and some cannot be drawn."""
    wide, high = room
    beside = 0.0  # inches that names beside the axes take
    for axis in _axes(ax):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FuncFormatter) and before.get(id(axis)) is not formatter:  # that of given labels
            upright = axis is axis.axes.yaxis
            inches = max(LEAST, wide - LEAST if upright else min(wide - LEAST, high))  # below they may be slanted
            shown = FuncFormatter(partial(_literal_tick, formatter, inches, _fonts()))
            axis.set_major_formatter(shown)
            for at, label in zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False):
                label.set_parse_math(False)
                beside = max(beside, _inches(shown(at)) if upright else 0.0)
    labels = [axis.label for axis in _axes(ax)]
    for text in ax.findobj(Text):
        if before.get(id(text)) != text.get_text():
            text.set_parse_math(False)
            text.set_text(literal(text.get_text(), inf if text in labels else max(LEAST, wide - beside)))


def literal(text: object, inches: float = inf, fonts: tuple[str, ...] | None = None) -> str:
    """A text as it is drawn: every character seen, no formula, and not longer than there is room for.

    fonts: files; a character that they lack is shown as its escape; by default those that are set now

    >>> print(literal("a\\tb\\n" * 100))
    a\\tb
    a\\tb
    a\\tb
    …
    >>> literal("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1.5)
    'deepseek-ai/…ll-Qwen-1.5B'
    """
    lines = str(text).split("\n")
    kept = lines if len(lines) <= LINES else [*lines[: LINES - 1], "…"]
    known = partial(_has, fonts or _fonts())
    return "\n".join(_fitting(line, inches, known) for line in kept)


def _fitting(line: str, inches: float, known: Callable[[str], bool]) -> str:
    shown = printable(line, LINE, known)
    while len(shown) > 1 and (width := _inches(shown)) > inches:
        shown = printable(line, max(1, min(len(shown) - 1, int(len(shown) * inches / width))), known)
    return shown


def _inches(text: str) -> float:
    """How wide the longest line of a text is in our style."""
    return max(sum(map(_letter, line), 0.0) for line in text.split("\n"))


@cache
def _letter(character: str) -> float:
    """The width of a letter of our font in inches."""
    path = findfont(FontProperties(family=PAPER["font.family"]))
    em = float(PAPER["font.size"]) / 72
    if not _has((path,), character):  # the caller's font has it
        return em
    font = get_font(path)
    return font.load_char(ord(character), LoadFlags.NO_SCALE).horiAdvance / font.units_per_EM * em


def _fonts() -> tuple[str, ...]:
    """The files of the fonts that text is drawn in as things are set now."""
    return tuple(findfont(FontProperties(family=[family])) for family in rcParams["font.family"])


@cache
def _has(fonts: tuple[str, ...], character: str) -> bool:
    """Whether one of the fonts has a character."""
    return any(get_font(path).get_char_index(ord(character)) for path in fonts)


def _literal_tick(given: Formatter, inches: float, fonts: tuple[str, ...], at: Any, number: int | None = None) -> str:
    """The label of a tick as another formatter gives it, made literal."""
    return literal(given(at, number), inches, fonts)


def legend(axes: Axes, columns: int, handles: Sequence[Artist] = (), **look: Any) -> None:
    """A legend above the axes, where anything has a label: in so many columns, or in as many as there is room for.

    One that is wider than what is right of the axes' left edge begins further left. It is fitted when all is drawn.

    handles: what it shows; by default all that has a label
    """
    _legends[axes] = (columns, handles, {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False, **look})


def _fit_legend(axes: Axes) -> None:
    """Make the legend that was asked for, once names are literal and the axes can be measured."""
    columns, handles, look = _legends.pop(axes, (0, (), {}))
    handles = handles or axes.get_legend_handles_labels()[0]
    if not handles or not columns:
        return
    figure, box = figure_of(axes), axes.get_window_extent()
    alone = figure.axes == [axes]  # else what is beside the axes is another's
    room = _room((figure.bbox if alone else box).width / figure.dpi, 0.0)[0]
    names = [literal(handle.get_label(), room) for handle in handles]
    pad = rcParams["figure.constrained_layout.w_pad"] * figure.dpi
    for ncols in range(columns, 0, -1):
        drawn = axes.legend(handles, names, ncols=ncols, **look)
        drawn.set_in_layout(False)  # measured where the axes are without it
        lay_out(figure)
        box, own = axes.get_window_extent(), drawn.get_window_extent()
        around = figure.bbox.padded(-pad) if alone else Bbox.union([box, axes.get_tightbbox() or box])
        over, free = max(0.0, own.x1 - (around.x1 if alone else box.x1)), max(0.0, own.x0 - around.x0)
        if over <= free:
            break
    x, y = look["bbox_to_anchor"]
    drawn.set_bbox_to_anchor((x - min(over, free) / box.width, y), axes.transAxes)
    drawn.set_in_layout(True)


def title_inches(name: str) -> float:
    """How wide the name of a panel is in our style; of a long one, what is drawn where there is room enough."""
    return _inches(literal(name, LEAST)) * BOLD


def inches_of(axes: Axes) -> float:
    """How wide axes are, in inches of our style: with larger letters they hold less."""
    return float(axes.get_window_extent().width) / figure_of(axes).dpi / _zoom()


def title(axes: Axes, name: str, middle: float, share: float, y: float = 1.02) -> None:
    """The name of a panel above it, no longer than the panel is wide.

    middle: of the panel, in data; share: of the axes' width that is the panel's; y: of the axes' height
    """
    shown = literal(name, share * inches_of(axes) / BOLD)
    place = axes.get_xaxis_transform()
    axes.text(middle, y, shown, transform=place, ha="center", weight="bold", parse_math=False)


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
