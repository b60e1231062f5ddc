"""From a problem's text pieces to token ids and named spans, once: after that the ids are the only truth."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ..core import InputError
from ..tasks import Piece, Problem
from .formats import FORMATS as FORMATS
from .formats import MODES as MODES
from .formats import Format as Format
from .formats import Mode as Mode
from .formats import solved, texts_around

Spans = dict[str, tuple[int, int]]
STRIDE = 16  # tokens between two places where a text is cut to be decoded


@dataclass(frozen=True)
class Segment:
    """Token ids of a stretch of text, and the token spans of its named pieces (relative to the segment)."""

    ids: tuple[int, ...]
    spans: Spans


def render_prompt(tokenizer: Any, form: Format, problem: Problem, mode: Mode) -> Segment:
    """The ids of prompt and open, with the spans `prompt`, `open` (where it is not empty) and those of the pieces."""
    return render_prompts(tokenizer, form, [problem], mode)[0]


def render_prompts(tokenizer: Any, form: Format, problems: Sequence[Problem], mode: Mode) -> list[Segment]:
    """The prompts of many problems, tokenized in one call."""
    examples = "\n\n" + form.examples_of(mode)
    for problem in problems if form.examples_of(mode) else ():
        if (mode == "answer-only" or problem.steps) and f"\n\n{solved(form, problem, mode)}" in examples:
            raise InputError(
                f"problem {problem.key!r} is one of the format's examples, so that its answer stands before it: take "
                "examples from the train split, or leave the problem out"
            )
    before, after = texts_around(tokenizer, form, mode)
    head, tail = [Piece(before)], [Piece(after, "open")] if after else []
    return tokenize_each(
        tokenizer,
        [[*head, *problem.pieces, *tail] for problem in problems],
        special=not form.chat,
        outer=[{"prompt": len(head) + len(problem.pieces)} for problem in problems],
    )


def tokenize(tokenizer: Any, pieces: Sequence[Piece]) -> Segment:
    """Tokenize the pieces of a text that goes on from another one, and map every piece to its tokens.

    A token belongs to the piece that holds its characters, spaces at its ends left out. Raises InputError where a token
    straddles two pieces of which one is named (it names both), and where a token is outside the vocabulary.
    """
    return tokenize_each(tokenizer, [pieces], special=False, outer=[{}], lead=_lead(tokenizer))[0]


def tokenize_each(
    tokenizer: Any, texts: Sequence[Sequence[Piece]], *, special: bool, outer: Sequence[dict[str, int]], lead: str = ""
) -> list[Segment]:
    """Many texts in one call of the tokenizer. outer: spans from the start to the n-th piece, by name.

    lead: text that is tokenized before each, and left out again where no token joins the two
    """
    joined = ["".join(piece.text for piece in pieces) for pieces in texts]
    encoded = tokenizer([lead + text for text in joined], add_special_tokens=special, return_offsets_mapping=True)
    segments = []
    for pieces, text, ids, offsets, spans in zip(
        texts, joined, encoded["input_ids"], encoded["offset_mapping"], outer, strict=True
    ):
        if any(start < len(lead) < end for start, end in offsets):
            return tokenize_each(tokenizer, texts, special=special, outer=outer)
        own = [
            (token, (start - len(lead), end - len(lead)))
            for token, (start, end) in zip(ids, offsets, strict=True)
            if not lead or end > len(lead)
        ]
        segments.append(_segment(tokenizer, pieces, text, own, spans))
    return segments


def _lead(tokenizer: Any) -> str:
    """A line break for tokenizers that start every text with a space of their own, which is none within a text."""
    first = tokenizer.convert_ids_to_tokens(tokenizer("x", add_special_tokens=False)["input_ids"][:1])
    return "\n" if first and str(first[0]).startswith(("\u2581", "\u0120")) else ""


def _segment(
    tokenizer: Any,
    pieces: Sequence[Piece],
    text: str,
    tokens: Sequence[tuple[int, tuple[int, int]]],
    outer: Mapping[str, int],
) -> Segment:
    """A tokenized text (ids, and the characters of each), with its spans."""
    names = [piece.name for piece in pieces if piece.name is not None]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two pieces are named {min(twice)!r}: names must be unique in a prompt")
    edges: list[tuple[int, int]] = []
    position = 0
    for piece in pieces:
        edges.append((position, position + len(piece.text)))
        position += len(piece.text)
    owners: list[int] = []
    for token, (start, end) in tokens:
        if end > start and token == tokenizer.unk_token_id:
            raise InputError(
                f"{text[start:end]!r} is outside the tokenizer's vocabulary (in {text!r}): "
                "use a task whose words it knows"
            )
        # A special token that the tokenizer adds has no characters: it belongs to no piece, only to the span around it.
        owners.append(_owner(text, start, end, pieces, edges) if end > start else -1)
    while owners and owners[-1] == -1 and any(owner >= 0 for owner in owners):
        owners.pop()  # an end-of-sequence token that the tokenizer appends would close the text before it goes on
    ids = tuple(token for token, _ in tokens[: len(owners)])
    spans: Spans = {}
    for index, piece in enumerate(pieces):
        if piece.name is not None:
            spans[piece.name] = _extent(owners, index, index + 1, piece.name)
    for name, count in outer.items():
        spans[name] = (0, _extent(owners, 0, count, name)[1])
    return Segment(ids, spans)


def _owner(text: str, start: int, end: int, pieces: Sequence[Piece], edges: Sequence[tuple[int, int]]) -> int:
    inner_start, inner_end = start, end
    while inner_start < inner_end and text[inner_start].isspace():
        inner_start += 1
    while inner_end > inner_start and text[inner_end - 1].isspace():
        inner_end -= 1
    if inner_start == inner_end:  # nothing but space: all of it counts
        inner_start, inner_end = start, end
    touched = [i for i, (a, b) in enumerate(edges) if a < inner_end and inner_start < b]
    names = [pieces[i].name for i in touched]
    if len(touched) > 1 and len(set(names)) > 1:
        shown = " and ".join(repr(pieces[i].name or pieces[i].text) for i in touched)
        raise InputError(
            f"the token {text[start:end]!r} straddles {shown}: put a space or another text between the pieces"
        )
    return touched[0]


def _extent(owners: Sequence[int], first: int, stop: int, name: str) -> tuple[int, int]:
    inside = [position for position, owner in enumerate(owners) if first <= owner < stop]
    if not inside:
        raise InputError(f"the piece {name!r} has no token of its own: give it text")
    return inside[0], inside[-1] + 1


def token_ends(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """The number of characters of the text of `ids[:i]`, for every i from 0: where a generated token's text ends.

    A character of several tokens counts for the first of them. The time is linear in the number of tokens: a token is
    decoded together with the few before it, from a place where the text can be cut without changing it.

    >>> from loadbearing.hooks import load
    >>> tokenizer = load("organism:sft").tokenizer
    >>> token_ends(tokenizer, tokenizer("6 + 2", add_special_tokens=False)["input_ids"])
    [0, 1, 3, 5]
    """
    sizes = [0]
    before, start, known = 0, 0, 0  # two places to cut at, and the size of the text between them
    while start < len(ids):
        stop = next((i for i in range(start + STRIDE, len(ids)) if _cuts(tokenizer, *ids[i - 1 : i + 1])), len(ids))
        base = sizes[start] - known
        sizes += [base + len(decode(tokenizer, ids[before:i])) for i in range(start + 1, stop + 1)]
        before, start, known = start, stop, len(decode(tokenizer, ids[start:stop]))
    if sizes[-1] != len(decode(tokenizer, ids)):  # a decoder to which more than the nearest tokens matter
        sizes = [len(decode(tokenizer, ids[:i])) for i in range(len(ids) + 1)]
    # Half a character may be shown as several; what is settled is what no later token takes back.
    return list(accumulate(reversed(sizes), min))[::-1]


def _cuts(tokenizer: Any, one: int, other: int) -> bool:
    """Whether a text can be cut between two tokens: neither within a character, nor where bytes are read together."""
    alone = decode(tokenizer, [one])
    raw = [re.fullmatch("<0x[0-9A-F]{2}>", str(t)) for t in tokenizer.convert_ids_to_tokens([one, other])]
    return bool(alone) and not alone.endswith("\ufffd") and not all(raw)


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens included, nothing cleaned up."""
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)
