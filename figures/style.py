"""The look of a figure in a paper: sizes, colours, fonts. Global rcParams are never changed."""

from contextlib import AbstractContextManager
from typing import Any

from matplotlib import rc_context

COLUMN, DOUBLE_COLUMN = 3.25, 6.75  # inches: a column and the whole page of a two-column paper

# Okabe and Ito's colours, told apart by colour-blind readers. Wires and models share none of them.
WIRE_COLOURS = {"direct": "#0072B2", "relay": "#CC79A7", "tokens": "#E69F00"}
# Okabe and Ito (2008) without its yellow, which is too light for a line on paper; the wires' own come last.
MODEL_COLOURS = ("#000000", "#D55E00", "#009E73", "#56B4E9", "#999999", "#0072B2", "#E69F00", "#CC79A7")
MODEL_MARKERS = ("o", "s", "^", "D", "v")  # five, so that forty models differ in colour or marker
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


def style() -> AbstractContextManager[None]:
    """A context in which matplotlib draws as for a paper's column; what was set before comes back at its end.

    >>> import matplotlib.pyplot as plt
    >>> with style():
    ...     figure, axes = plt.subplots(figsize=(COLUMN, 2.0))
    >>> axes.xaxis.label.get_size()
    7.5
    >>> plt.close(figure)
    """
    return rc_context(PAPER)
