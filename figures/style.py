"""The look of a figure in a paper: sizes, colours, fonts. Global rcParams are never changed."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context

from ..core import InputError, check_name

COLUMN, DOUBLE_COLUMN = 3.25, 6.75  # inches: a column and the whole page of a two-column paper

# Okabe and Ito's colours, told apart by colour-blind readers. Wires and models share none of them.
WIRE_COLOURS = {"direct": "#0072B2", "relay": "#CC79A7", "tokens": "#E69F00"}
# Okabe and Ito (2008) without its yellow, which is too light for a line on paper; the wires' own come last.
MODEL_COLOURS = ("#000000", "#D55E00", "#009E73", "#56B4E9", "#999999", "#0072B2", "#E69F00", "#CC79A7")
# Nine, so that as many models differ without colour, and seventy-two in colour or marker.
MODEL_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
WIRE_MARKERS = {"direct": "o", "relay": "D", "tokens": "s"}
GREY = "#555555"

# What matplotlib reads when a file is written. Text in a PDF is text in an embedded TrueType font, as publishers ask.
# SVG cannot embed a font, so its text is drawn as paths: elsewhere it looks as it was laid out.
FILES: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "loadbearing",
    "savefig.dpi": 300,
    "savefig.bbox": "standard",  # the size of the file is the size of the figure: it fits the column
    "savefig.facecolor": "white",
}
LITERAL: dict[Any, Any] = {"text.parse_math": False}  # a "$" in a name is no formula
PAPER: dict[Any, Any] = {
    **FILES,
    **LITERAL,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same figure on every machine
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.0,
    "figure.dpi": 150,
}


@dataclass(frozen=True)
class Venue:
    """Where a figure is printed: the width of a column and of the whole text in inches, and the font size in points.

    The smallest text of a figure has five sixths of that size.
    """

    column: float
    page: float
    size: float


MM = 1 / 25.4
# Widths are those of the style files and of the guides for authors; most are also in tueplots (figsizes.py). Of the
# sizes, those of Nature (5 to 7 points) and PNAS (6 to 8) are rules; the others suit the text around. IEEE asks for 8
# to 10 points: names have 8, numbers beside axes less, since more would not fit its column.
VENUES = {
    "aaai": Venue(3.3, 7.0, 7.5),  # aaai.sty: text of 7 inches, columns 0.375 inches apart
    "acl": Venue(3.03, 6.3, 7.5),  # acl.sty: text of 16 cm, columns of 7.7 cm
    "iclr": Venue(5.5, 5.5, 8.0),  # iclr_conference.sty: text of 5.5 inches
    "icml": Venue(3.25, 6.75, 7.5),  # icml.sty: columns of 3.25 inches, 0.25 inches apart
    "ieee": Venue(3.5, 7.16, 8.0),  # IEEE Author Center, "Size Requirements for Graphics"
    "jmlr": Venue(6.0, 6.0, 9.0),  # jmlr.org/format: text of 6 inches
    "nature": Venue(89 * MM, 183 * MM, 7.0),  # nature.com, guide for final artwork: 89 and 183 mm
    "neurips": Venue(5.5, 5.5, 8.0),  # neurips.sty: text of 5.5 inches
    "pnas": Venue(87 * MM, 178 * MM, 7.5),  # pnas.org, guide for figures: 8.7 and 17.8 cm
    "tmlr": Venue(6.5, 6.5, 8.0),  # tmlr.sty: text of 6.5 inches
}
OWN = Venue(COLUMN, DOUBLE_COLUMN, PAPER["font.size"])
GOLDEN = 0.62  # height of a figure that says none, as a share of its width

# The venue that figures are drawn for now, and over how many of its columns.
_now: ContextVar[tuple[Venue, int]] = ContextVar("venue", default=(OWN, 1))


def style(venue: str | None = None, columns: int = 1) -> AbstractContextManager[None]:
    """A context in which matplotlib draws as for a paper's column; what was set before comes back at its end.

    venue: one of `VENUES`; figures that make their own axes have its widths and font sizes then, and so have further
        figures of yours
    columns: 2 for figures as wide as the page. Raises InputError for an unknown venue, and for other numbers

    >>> import matplotlib.pyplot as plt
    >>> with style():
    ...     figure, axes = plt.subplots(figsize=(COLUMN, 2.0))
    >>> axes.xaxis.label.get_size()
    7.5
    >>> with style("neurips"):
    ...     wide, _ = plt.subplots()
    >>> float(wide.get_figwidth())
    5.5
    >>> plt.close(figure)
    >>> plt.close(wide)
    """
    if columns not in (1, 2):
        raise InputError(f"expected 1 or 2 columns, got {columns!r}: a figure is as wide as a column or as the page")
    return _set(OWN if venue is None else VENUES[check_name("venue", venue, VENUES)], columns)


@contextmanager
def _set(venue: Venue, columns: int) -> Iterator[None]:
    before = _now.set((venue, columns))
    try:
        with venue_style():
            yield
    finally:
        _now.reset(before)


def venue_style() -> AbstractContextManager[None]:
    """A context in which matplotlib draws as for the venue that is set."""
    venue, _ = _now.get()
    size, small = venue.size, venue.size - 0.5
    settings: dict[Any, Any] = dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), size)
    settings |= dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), small)
    if venue is not OWN:
        width, _ = sized(COLUMN, 0.0)
        settings["figure.figsize"] = (width, GOLDEN * width)
    return rc_context(PAPER | settings)


def sized(width: float, height: float) -> tuple[float, float]:
    """Width and height, in inches, for the venue that is set, of a figure that is so large in our own style.

    A column becomes a column, a page a page. Heights go with the font size: lines of text stand as far apart.
    """
    venue, columns = _now.get()
    widths = {COLUMN: venue.column if columns == 1 else venue.page, DOUBLE_COLUMN: venue.page}
    return widths.get(width, width), height * venue.size / OWN.size
