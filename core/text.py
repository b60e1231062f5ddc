"""Text that came from outside, as it may be shown: what would steer a terminal or cannot be drawn is spelled out."""

import unicodedata

# Control, format (marks of direction among them), half surrogates, private use, unassigned.
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn")


def printable(text: str, most: int | None = None) -> str:
    """The text with every character that is not seen written as its escape; line breaks stay.

    most: so many characters are kept, the middle is left out

    >>> printable("a\\x1b[31mb\\u202ec")
    'a\\\\x1b[31mb\\\\u202ec'
    >>> printable("0123456789", 5)
    '01…89'
    """
    if most is not None and len(text) > most:
        ends = (most - 1) // 2
        text = f"{text[: most - 1 - ends]}…{text[len(text) - ends :]}"
    return "".join(c if c == "\n" or unicodedata.category(c) not in HIDDEN else ascii(c)[1:-1] for c in text)
