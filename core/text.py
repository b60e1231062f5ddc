"""Text that came from outside, as it may be shown: what would steer a terminal or cannot be drawn is spelled out."""

import sys
import unicodedata
from collections.abc import Callable
from shutil import get_terminal_size

import pandas as pd

# Control, format (marks of direction among them), half surrogates, private use, unassigned.
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn")


def printable(text: str, most: int | None = None, drawn: Callable[[str], bool] = lambda _: True) -> str:
    """The text with every character that is not seen written as its escape; line breaks stay.

    most: so many characters are shown, the middle is left out; drawn: whether a character can be drawn

    >>> printable("a\\x1b[31mb\\u202ec")
    'a\\\\x1b[31mb\\\\u202ec'
    >>> printable("0123456789", 5)
    '01…89'
    """
    seen = "".join(c if _is_seen(c) and drawn(c) else ascii(c)[1:-1] for c in _short(text, most))
    return _short(seen, most)  # an escape is longer than what it stands for


def _is_seen(character: str) -> bool:
    return character == "\n" or unicodedata.category(character) not in HIDDEN


def _short(text: str, most: int | None) -> str:
    if most is None or len(text) <= most:
        return text
    ends = (most - 1) // 2
    return f"{text[: most - 1 - ends]}…{text[len(text) - ends :]}"


def table_text(table: pd.DataFrame) -> str:
    """A table as it is printed: every character seen, two decimals a number, "-" where there is none.

    In a terminal that is too narrow columns go on below; into a file every row is one line.

    >>> print(table_text(pd.DataFrame({"wire": ["direct", "tokens"], "share": [0.125, float("nan")]})))
      wire  share
    direct   0.12
    tokens      -
    """
    seen = table.map(lambda cell: printable(cell) if isinstance(cell, str) else cell)
    seen.columns = [printable(str(name)) for name in table.columns]
    return str(seen.to_string(index=False, float_format="{:z.2f}".format, na_rep="-", line_width=terminal_width()))


def terminal_width() -> int | None:
    """How many characters a line of the terminal holds; None where what is written goes elsewhere."""
    return get_terminal_size().columns if sys.stdout.isatty() else None
