"""Chains of thought that were written elsewhere, as whole responses or as what they are: found, cleaned, checked."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any

from ..core import InputError
from ..tasks import Piece, Problem
from .decoding import until_stop
from .format import Format, tokenize
from .model import Model

Transcript = str | Sequence[int]
# One a problem or several samples of it, in the order of the problems or by their keys.
Transcripts = Mapping[str, Transcript | Sequence[Transcript]] | Sequence[Transcript | Sequence[Transcript]]


def read_transcripts(
    model: Model, problems: Sequence[Problem], transcripts: Transcripts
) -> list[tuple[int, int, tuple[int, ...]]]:
    """The numbers of a problem and of a sample of it, and the token ids of that chain of thought; see `replay`."""
    read = []
    for number, (problem, given) in enumerate(zip(problems, _by_problem(problems, transcripts), strict=True)):
        for sample, one in enumerate(_samples(given)):
            ids = _ids(model, one)
            if not ids:
                which = f" (sample {sample})" if sample else ""
                raise InputError(
                    f"the transcript of {problem.key!r}{which} is empty: leave the problem out, or use "
                    "mode='answer-only' for runs without a chain of thought"
                )
            read.append((number, sample, ids))
    return read


def thinking(form: Format, text: str) -> str:
    """What a response says between the format's `open`, if it repeats it, and its first `close`, if it has one.

    >>> form = Format(open="<think>\\n", close="</think>", cue="</think>\\n\\nAnswer:")
    >>> thinking(form, "<think>\\nTwo and two.</think>\\n\\nThe answer is 4."), thinking(form, "Two and two.")
    ('Two and two.', 'Two and two.')
    """
    mark = form.open.strip()
    if mark and text.lstrip().startswith(mark):
        space = form.open[len(form.open.rstrip()) :]
        text = text.lstrip()[len(mark) :].removeprefix(space)
    return text.partition(form.close)[0]


def _by_problem(problems: Sequence[Problem], transcripts: Transcripts) -> list[Any]:
    """What is given for each problem."""
    if not isinstance(transcripts, Mapping):
        if len(transcripts) != len(problems):
            raise InputError(f"{len(problems)} problems and {len(transcripts)} transcripts: expected one each")
        return list(transcripts)
    keys = [problem.key for problem in problems]
    if missing := [key for key in keys if key not in transcripts]:
        told = f"no transcript for {len(missing)} problems, the first of them {missing[0]!r}"
        raise InputError(told + _nearest(missing[0], [key for key in transcripts if key not in keys]))
    if unknown := [key for key in transcripts if key not in set(keys)]:
        told = f"transcripts of {len(unknown)} keys that no problem has, the first of them {unknown[0]!r}"
        raise InputError(told + _nearest(unknown[0], keys) + "; leave them out")
    return [transcripts[key] for key in keys]


def _nearest(key: str, known: Sequence[str]) -> str:
    found = get_close_matches(key, known, n=1, cutoff=0.0)
    return f"; nearest: {found[0]!r}" if found else ""


def _samples(given: Any) -> list[Any]:
    """The transcripts of one problem: a list of numbers is one of them, a list of anything else is several."""
    if given is None or isinstance(given, str) or all(isinstance(part, Integral) for part in given):
        return [given]
    return list(given)


def _ids(model: Model, given: Transcript | None) -> tuple[int, ...]:
    """Token ids without the marks around the thinking, and without an end-of-sequence token and what follows it."""
    form, tokenizer = model.format, model.tokenizer
    if isinstance(given, str):
        text = thinking(form, given)
        ids = tokenize(tokenizer, [Piece(text)]).ids if text.strip() else ()
    else:
        ids = tuple(map(int, given or ()))
        opened = tokenize(tokenizer, [Piece(form.open)]).ids if form.open else ()
        if opened and ids[: len(opened)] == opened:
            ids = ids[len(opened) :]
    return until_stop(model, [ids], form.close)[0]
