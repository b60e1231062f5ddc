"""From a problem's text pieces to token ids and named spans, once: after that the ids are the only truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..core import InputError
from ..tasks import Piece, Problem

Mode = Literal["answer-only", "cot"]
MODES: tuple[Mode, ...] = ("answer-only", "cot")
Spans = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Format:
    """The template text around a prompt, a chain of thought and an answer.

    open: text that starts the reasoning, the same in recipient and donor; counts with the prompt
    close: text by which the model ends its own chain of thought; the cue starts with it
    cue: text that asks for the answer; at least one token
    direct_open, direct_cue: the same for an answer-only run; may be empty, and the cue's default is `cue`
    end: text that ends an answer, besides the tokenizer's end-of-sequence token
    chat: whether the prompt is a user message, rendered by the tokenizer's chat template
    """

    open: str = "\nLet's think step by step."
    close: str = "\nAnswer:"
    cue: str = "\nAnswer:"
    direct_open: str = ""
    direct_cue: str | None = None
    end: str = "\n"
    chat: bool = False

    def __post_init__(self) -> None:
        if not self.cue.startswith(self.close) or not self.close:
            raise InputError(
                f"format: the cue {self.cue!r} must start with the text that closes the CoT, {self.close!r}"
            )

    def cue_of(self, mode: Mode) -> str:
        """The cue of a mode."""
        return self.cue if mode == "cot" or self.direct_cue is None else self.direct_cue


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
    start = form.open if mode == "cot" else form.direct_open
    before, after = _template(tokenizer, start) if form.chat else ([], [Piece(start, "open")] if start else [])
    return tokenize_each(
        tokenizer,
        [[*before, *problem.pieces, *after] for problem in problems],
        special=not form.chat,
        outer=[{"prompt": len(before) + len(problem.pieces)} for problem in problems],
    )


def _template(tokenizer: Any, start: str) -> tuple[list[Piece], list[Piece]]:
    """What a chat template writes before a prompt, and what it writes after it, the start of the reasoning included."""
    # The template is applied once, around a mark: what stands before it belongs to the prompt, what follows opens the
    # reasoning. Rendering the prompt itself would let a template strip it, and spans would be lost.
    mark = "\u2042problem\u2042"
    messages = [{"role": "user", "content": mark}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, found, after = text.partition(mark)
    if not found:
        raise InputError("the chat template does not show the user's message: give a format with chat=False")
    if start.strip() and after.rstrip().endswith(start.strip()):
        start = ""  # the template opens the reasoning itself
    return [Piece(before)], [Piece(after + start, "open")]


def tokenize(
    tokenizer: Any, pieces: Sequence[Piece], *, special: bool = False, outer: dict[str, int] | None = None
) -> Segment:
    """Tokenize the pieces' text in one go, and map every piece to its tokens.

    A token belongs to the piece that holds its characters, spaces at its ends left out. `outer` names spans from the
    start to the n-th piece. Raises InputError where a token straddles two pieces of which one is named (it names
    both), and where a token is outside the vocabulary.
    """
    return tokenize_each(tokenizer, [pieces], special=special, outer=[outer or {}])[0]


def tokenize_each(
    tokenizer: Any, texts: Sequence[Sequence[Piece]], *, special: bool, outer: Sequence[dict[str, int]]
) -> list[Segment]:
    """`tokenize` for many texts, in one call of the tokenizer."""
    joined = ["".join(piece.text for piece in pieces) for pieces in texts]
    encoded = tokenizer(joined, add_special_tokens=special, return_offsets_mapping=True)
    found = zip(texts, joined, encoded["input_ids"], encoded["offset_mapping"], outer, strict=True)
    return [
        _segment(tokenizer, pieces, text, tuple(ids), offsets, spans) for pieces, text, ids, offsets, spans in found
    ]


def _segment(
    tokenizer: Any,
    pieces: Sequence[Piece],
    text: str,
    ids: tuple[int, ...],
    offsets: Sequence[tuple[int, int]],
    outer: Mapping[str, int],
) -> Segment:
    """A tokenized text, with its spans."""
    names = [piece.name for piece in pieces if piece.name is not None]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two pieces are named {min(twice)!r}: names must be unique in a prompt")
    edges: list[tuple[int, int]] = []
    position = 0
    for piece in pieces:
        edges.append((position, position + len(piece.text)))
        position += len(piece.text)
    owners: list[int] = []
    for token, (start, end) in zip(ids, offsets, strict=True):
        if end > start and token == tokenizer.unk_token_id:
            raise InputError(
                f"{text[start:end]!r} is outside the tokenizer's vocabulary (in {text!r}): "
                "use a task whose words it knows"
            )
        # A special token that the tokenizer adds has no characters: it belongs to no piece, only to the span around it.
        owners.append(_owner(text, start, end, pieces, edges) if end > start else -1)
    while owners and owners[-1] == -1 and any(owner >= 0 for owner in owners):
        owners.pop()  # an end-of-sequence token that the tokenizer appends would close the text before it goes on
    ids = ids[: len(owners)]
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
    """The number of characters of the text of `ids[:i]`, for every i from 0: where a generated token's text ends."""
    return [len(decode(tokenizer, ids[:i])) for i in range(len(ids) + 1)]


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens included, nothing cleaned up."""
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)
