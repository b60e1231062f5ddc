"""`jsonl:PATH`: your own questions from a file, a JSON object a line; the schema is in docs/your-problems.md."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from os.path import isfile  # False for what no path can be, where pathlib raises
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..core import InputError, check_name
from .problem import Piece
from .questions import PARTNERS, Questions

if TYPE_CHECKING:
    from .schema import Line

Row = TypeVar("Row")

RULE_OPTIONS = {"steps": "none", "answer": "text", "partners": PARTNERS[0]}
FIELD_OPTIONS = {"fields": "", "extra": "error"}


def read_jsonl(spec: str) -> Questions:
    """The questions of `jsonl:PATH?option=value&option=value`, with the spec as their name.

    Options: `steps`, `answer` (rules) and `partners` as in `Questions`; `fields=prompt:question,answer:solution` where
    fields have other names in the file; `extra=ignore` to pass over fields that are not known. The file is read line
    by line. Raises InputError with the number of the first line that is wrong, and how many there are.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "mine.jsonl")
    ...     _ = path.write_text('{"prompt": "What is 12 + 30?", "answer": "42."}')
    ...     task = read_jsonl(f"jsonl:{path}?answer=number")
    >>> task.problems(1)
    [<problem '1' -> '42'>]
    """
    name, options = parse_file_spec(spec, {**RULE_OPTIONS, **FIELD_OPTIONS})
    path = Path(name)
    if not isfile(path):
        raise InputError(f"{path}: there is no such file; expected one question a line, as JSON")
    return questions_of(spec, options, f"{path}, line", _lines(path), _record)


def parse_file_spec(spec: str, known: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The path and the options of `kind:PATH?option=value&option=value`; a path may hold ":" and ",", but no "?".

    A "&" begins an option only before a name and "=", so that patterns may hold it.

    >>> parse_file_spec(r"jsonl:a:b.jsonl?answer=regex:(?:is|=) (\\d+)&steps=line", RULE_OPTIONS)
    ('a:b.jsonl', {'steps': 'line', 'answer': 'regex:(?:is|=) (\\\\d+)', 'partners': 'made'})
    """
    kind, _, rest = spec.partition(":")
    path, _, text = rest.partition("?")
    if not path:
        raise InputError(f"task {spec!r}: expected {kind}:PATH")
    given: dict[str, str] = {}
    for part in re.split(r"&(?=\w+=)", text) if text else []:
        key, equals, value = part.partition("=")
        check_name(f"option of task {kind!r}", key, known)
        if not equals or key in given:
            raise InputError(f"task option {part!r}: expected key=value, each key once")
        given[key] = value
    return path, {**known, **given}


def questions_of(
    spec: str,
    options: Mapping[str, str],
    where: str,
    rows: Iterable[tuple[int | str, Row]],
    read: Callable[[Row], object],
) -> Questions:
    """The questions of numbered rows; `read` makes a record of one. `where` and the number say where a row stands."""
    from .schema import FIELDS, check_line

    columns = _columns(options.get("fields", ""), FIELDS)
    extra = check_name("extra", options.get("extra", "error"), ["error", "ignore"])
    task = Questions(spec, **{name: options[name] for name in RULE_OPTIONS})
    places: dict[str, int | str] = {}
    partners: dict[str, str] = {}
    wrong: list[str] = []
    for number, row in rows:
        try:
            line = check_line(read(row), columns, extra)
            key = str(number if line.id is None else line.id)
            if key in places:
                raise InputError(f"field 'id': {key!r} stands at {where} {places[key]} already; ids must be unique")
            places[key] = number
            if line.partner is not None:
                partners[key] = str(line.partner)
            _add(task, key, line)
        except InputError as error:
            wrong.append(f"{where} {number}: {error}")
    # A partner may stand on a line that is wrong itself: that is told first.
    wrong = wrong or [
        f"{where} {places[key]}: field 'partner': no question has the id {other!r}; name the id of another one"
        for key, other in partners.items()
        if other not in places
    ]
    if wrong:
        raise InputError(wrong[0] + (f" (and {len(wrong) - 1} more wrong lines or rows)" if len(wrong) > 1 else ""))
    if not places:
        raise InputError(f"{where.rpartition(',')[0]}: there are no questions in it")
    return task


def _add(task: Questions, key: str, line: "Line") -> None:
    if str(line.partner) == key:
        raise InputError(f"field 'partner': {key!r} is the question itself; name the id of another one")
    prompt = line.prompt if isinstance(line.prompt, str) else [Piece(piece.text, piece.name) for piece in line.prompt]
    written = [line.transcript] if isinstance(line.transcript, str) else line.transcript
    task.add(
        key,
        prompt,
        "" if line.answer is None else str(line.answer),
        line.cot or "",
        None if line.partner is None else str(line.partner),
        values={name: str(value) for name, value in (line.values or {}).items() if value is not None},
        transcripts=written or (),
    )


def _columns(text: str, known: Iterable[str]) -> dict[str, str]:
    """What fields are called in the file: "prompt:question,answer:solution"."""
    columns: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        field, _, column = part.partition(":")
        if not column or check_name("field", field, known) in columns:
            raise InputError(f"fields={text!r}: expected FIELD:NAME,FIELD:NAME, each field once")
        columns[field] = column
    return columns


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that hold something, by number from 1."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line  # a byte order mark
            if text.strip():
                yield number, text.rstrip()


def _record(line: bytes) -> object:
    try:
        return json.loads(line.decode(), object_pairs_hook=_object, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start + 1} is no UTF-8 ({error.reason}); save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"no JSON at character {error.colno} ({error.msg}); expected one object a line, without line breaks in it"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"no JSON that can be used: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON; write null, or leave the field out")
