"""Completion in bash, which hands `organism:sft` over as three words and puts in what stands for the last one."""

import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO

BREAKS = set(":=")  # where bash breaks words, of what our values hold


def complete_in_bash(app: Callable[[], object]) -> None:
    """Run the application on whole words, and print only what bash is to put in."""
    words, at, before = whole(os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"]))
    os.environ |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(at)}
    found = StringIO()
    try:
        with redirect_stdout(found):
            app()
    finally:
        print("\n".join(line[before:] for line in found.getvalue().splitlines()))


def whole(words: Sequence[str], at: int) -> tuple[list[str], int, int]:
    """The words up to the one that is typed, put together again; its place; how much of its value bash has already.

    >>> whole(["loadbearing", "channels", "--model", "organism", ":", "sf"], 5)
    (['loadbearing', 'channels', '--model', 'organism:sf'], 3, 9)
    """
    found: list[str] = []
    before = 0
    given = words[: at + 1]
    for last, word in zip(["", *given], given, strict=False):
        breaks = bool(word) and set(word) <= BREAKS
        if found and (breaks or (last and set(last) <= BREAKS)):
            before = len(found[-1]) + (len(word) if breaks else 0)
            found[-1] += word
        else:
            before = 0
            found.append(word)
    option, equals, _ = found[-1].partition("=")
    if option.startswith("--") and equals:
        before = max(0, before - len(option) - 1)  # the application completes the value alone
    return found, len(found) - 1 if at < len(words) else at, before
