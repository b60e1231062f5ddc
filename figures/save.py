"""Figures to files."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core import InputError, atomic_write, check_name
from .alt import told
from .canvas import figure_of
from .style import FILES

# A date in the file would make two copies of one figure differ.
_METADATA: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "png": {}, "svg": {"Date": None}}
_WORDS = {"pdf": "Subject", "png": "Description", "svg": "Description"}  # under which each format keeps what is shown


def save(ax: Axes, path: str | Path, formats: Iterable[str] = ("pdf", "png", "svg")) -> list[Path]:
    """Write the figure that the axes are in, one file per format, and return the paths.

    The same figure gives the same bytes; each file appears whole or not at all. PNG has 300 dots per inch, PDF embeds
    its fonts, and the size is the figure's own: it fits the column. What `alt` says of its axes stands in the file: as
    the description of a PNG or SVG, as the subject of a PDF.

    path: without suffix, which the format adds. Raises InputError for a path with the suffix of a format, and for an
    unknown format, before anything is written.

    >>> import matplotlib.pyplot as plt, tempfile
    >>> figure, axes = plt.subplots()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in save(axes, folder + "/fig", formats=("pdf", "png"))]
    ['fig.pdf', 'fig.png']
    >>> plt.close(figure)
    """
    path = Path(path)
    chosen = [check_name("format", name, _METADATA) for name in formats]
    if path.suffix.lstrip(".") in _METADATA:
        raise InputError(
            f"expected a path without suffix, got {path}: pass {str(path.with_suffix(''))!r} and "
            f"formats=({path.suffix.lstrip('.')!r},)"
        )
    figure = figure_of(ax)
    words = told(figure)
    about = {name: {**_METADATA[name], **({_WORDS[name]: words} if words else {})} for name in chosen}
    with rc_context(FILES), _as_found(figure):
        return [
            atomic_write(
                path.with_name(f"{path.name}.{name}"),
                lambda temporary, name=name: figure.savefig(temporary, format=name, metadata=about[name]),  # type: ignore[misc]
            )
            for name in chosen
        ]


@contextmanager
def _as_found(figure: Figure) -> Iterator[None]:
    """Put axes back where they were: laying out starts from there, and moves them by a last digit each time."""
    found = [
        (axes, axes.get_position(original=True), axes.get_position(), axes.get_in_layout()) for axes in figure.axes
    ]
    yield
    for axes, original, active, in_layout in found:
        axes.set_position(original, which="original")
        axes.set_position(active, which="active")
        axes.set_in_layout(in_layout)  # which setting a position turned off
