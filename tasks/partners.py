"""Counterfactual partners that are made: the same prompt with one number changed."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .problem import Piece

ANY_NUMBER = "number"
TRIES = 16  # other values of one number
# No part of a word ("B12", "12th"), nor of a longer string of digits and points ("1.2.3").
_NUMBER = re.compile(r"(?<![\w.])(?<![0-9],)(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?!\w|[.,][0-9])")


@dataclass(frozen=True)
class NumberPlace:
    """A number of a prompt: its text, its piece, its first character there, and the variable that changes with it."""

    text: str
    piece: int
    start: int
    variable: str


def number_places(pieces: Sequence[Piece]) -> list[NumberPlace]:
    """The numbers that can be changed; one that lies in two pieces cannot.

    >>> [(place.text, place.variable) for place in number_places([Piece("In B12: 1,200 + "), Piece("7", "operand.2")])]
    [('1,200', 'number'), ('7', 'operand.2')]
    """
    text = "".join(piece.text for piece in pieces)
    found, start = [], 0
    matches = list(_NUMBER.finditer(text))
    for index, piece in enumerate(pieces):
        end = start + len(piece.text)
        inside = [match for match in matches if start <= match.start() and match.end() <= end]
        found += [NumberPlace(m[0], index, m.start() - start, piece.name or ANY_NUMBER) for m in inside]
        start = end
    return found


def changed_numbers(
    pieces: Sequence[Piece], places: Sequence[NumberPlace], rng: np.random.Generator, tokenizer: Any = None
) -> Iterator[tuple[NumberPlace, str, tuple[Piece, ...]]]:
    """The prompt with one of the numbers changed, in random order: where, to what, and all pieces.

    A number keeps its count of digits, and with a tokenizer every token its characters, so that all pieces keep their
    counts of tokens. At most `TRIES` values of a number are tried.
    """
    before = _tokens(tokenizer, pieces)
    for choice in rng.permutation(len(places)).tolist():
        place = places[choice]
        for value in dict.fromkeys(_drawn(place.text, rng) for _ in range(TRIES)):
            old = pieces[place.piece]
            text = old.text[: place.start] + value + old.text[place.start + len(value) :]
            made = (*pieces[: place.piece], Piece(text, old.name), *pieces[place.piece + 1 :])
            if value != place.text and before == _tokens(tokenizer, made):
                yield place, value, made


def same_length(tokenizer: Any, one: str, other: str) -> bool:
    """Whether two prompts have the same number of tokens, as far as that is known."""
    return tokenizer is None or len(tokenizer(one)["input_ids"]) == len(tokenizer(other)["input_ids"])


def _drawn(number: str, rng: np.random.Generator) -> str:
    """A number written like this one, with other digits: no zero at its start, unless it is below one ("0.5")."""
    digits = rng.integers(10, size=len(number))
    digits[0] = 0 if number.startswith("0.") else rng.integers(1, 10)
    return "".join(str(digit) if old.isdigit() else old for old, digit in zip(number, digits.tolist(), strict=True))


def _tokens(tokenizer: Any, pieces: Sequence[Piece]) -> tuple[list[tuple[int, int]], int] | None:
    """The characters of every token, and how many tokens are words that a closed vocabulary lacks."""
    if tokenizer is None:
        return None
    encoded = tokenizer("".join(piece.text for piece in pieces), return_offsets_mapping=True)
    offsets = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
    unknown = tokenizer.unk_token_id
    return offsets, 0 if unknown is None else encoded["input_ids"].count(unknown)
