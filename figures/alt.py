"""What a figure shows, in words, for those who cannot see it."""

import math
from collections.abc import Callable, Iterable, Mapping
from weakref import WeakKeyDictionary

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analyses.interval import number_text
from ..core import InputError, printable

MOST, NAME = 600, 30  # characters of a description, and of a name in it
_said: WeakKeyDictionary[Axes, str] = WeakKeyDictionary()


def alt(ax: Axes) -> str:
    """What a figure shows, in words: its kind, its axes, and the main numbers of each result.

    `save` writes these words into the files. Raises InputError for axes that no function of this room drew in.

    >>> import pandas as pd
    >>> from textwrap import fill
    >>> from loadbearing.figures import history
    >>> rows = pd.DataFrame({"step": [0, 8], "direct": [0.5, 0.0], "relay": 0.0, "tokens": [0.5, 1.0]})
    >>> print(fill(alt(history(rows)), 90))
    Lines over the updates of a training: shares of the wires with 95 % intervals, and
    accuracies. From update 0 to 8: tokens 0.50 to 1.00, direct 0.50 to 0.00, relay 0.00 to
    0.00.
    """
    if ax not in _said:
        raise InputError(
            "expected axes that a function of loadbearing.figures drew in, got axes without a description: pass what "
            "the function returned, or describe what you drew in words of your own"
        )
    return _said[ax]


def told(figure: Figure) -> str:
    """The descriptions of all axes of a figure; "" where there are none."""
    return " ".join(_said[axes] for axes in figure.axes if axes in _said)


def describe(axes: Axes, chart: str, found: Mapping[str, str]) -> None:
    """Keep what axes show: a sentence, and what was found by the name of each result, as many as there is room for."""
    parts = [f"{short(name)}: {text}" if name else text[:1].upper() + text[1:] for name, text in found.items()]
    kept = len(parts)
    while kept > 1 and len(chart) + len("; ".join(parts[:kept])) > MOST - len("; and 999 more. "):
        kept -= 1
    rest = [f"and {len(parts) - kept} more"] if kept < len(parts) else []
    _said[axes] = printable(f"{chart} {'; '.join([*parts[:kept], *rest])}.", MOST)


def short(name: object) -> str:
    """A name on one line, every character seen, the middle of a long one left out."""
    return printable(" ".join(str(name).split()), NAME)


def number(value: float) -> str:
    """A number as it is told.

    >>> number(-0.001), number(float("nan"))
    ('0.00', 'not measured')
    """
    return number_text(value) if math.isfinite(value) else "not measured"


def highest(values: Iterable[tuple[str, float]], most: int = 1) -> str:
    """The largest values, and where they are.

    >>> highest([("layer 0", 0.1), ("layer 1", -0.5)])
    'highest 0.10 at layer 0'
    """
    return _largest("highest", values, lambda value: value, most)


def strongest(values: Iterable[tuple[str, float]], most: int = 1) -> str:
    """The values that are farthest from 0, and where they are.

    >>> strongest([("layer 0", 0.1), ("layer 1", -0.5)])
    'strongest -0.50 at layer 1'
    """
    return _largest("strongest", values, abs, most)


def _largest(word: str, values: Iterable[tuple[str, float]], size: Callable[[float], float], most: int) -> str:
    known = sorted(((name, v) for name, v in values if math.isfinite(v)), key=lambda one: size(one[1]), reverse=True)
    return f"{word} " + ", ".join(f"{number(v)} at {name}" for name, v in known[:most]) if known else "nothing measured"
