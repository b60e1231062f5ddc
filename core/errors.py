"""One base error; every message says what was expected, what came, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

LONG = 200  # characters of a wrong name that an error shows


class LoadbearingError(ValueError):
    """The base of every error that loadbearing raises on purpose; the command line prints it on one line."""


class InputError(LoadbearingError):
    """What was passed in cannot be used."""


class UnknownNameError(InputError):
    """A name that is none of the choices."""


class GateError(LoadbearingError):
    """A check on the user's own model failed, so that no figure is shown."""


class Interrupted(LoadbearingError):
    """Long work could not be finished; `partial` is the result so far, from which it can go on."""

    def __init__(self, message: str, partial: object) -> None:
        super().__init__(message)
        self.partial = partial


def check_name(kind: str, name: str, choices: Iterable[str]) -> str:
    """Return `name` if it is one of `choices`, else raise an error that lists them and names the nearest.

    >>> check_name("mode", "cot", ["answer-only", "cot"])
    'cot'
    >>> check_name("mode", "cott", ["answer-only", "cot"])
    Traceback (most recent call last):
    ...
    loadbearing.core.errors.UnknownNameError: unknown mode 'cott': expected one of answer-only, cot; nearest: 'cot'
    """
    known = list(choices)
    if name in known:
        return name
    nearest = get_close_matches(str(name)[:LONG], known, n=1, cutoff=0.0)
    hint = f"; nearest: {nearest[0]!r}" if nearest else ""
    shown = repr(name) if len(repr(name)) <= LONG else f"{repr(name)[:LONG]}..."
    raise UnknownNameError(f"unknown {kind} {shown}: expected one of {', '.join(known) or '(none)'}{hint}")
