"""What one line of a file of questions may hold. Imported only when a file is read, for pydantic takes a while."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from ..core import InputError, check_name

# The spans of every run: see loadbearing.hooks.
RESERVED = ("prompt", "open", "cot", "cue", "answer", "step")
SHOWN = 60  # characters of a wrong value in an error


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("a blank text says nothing; leave the field out")
    _whole(text)
    return text


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the text holds half of a surrogate pair, which no tokenizer can read") from error
    return text


def _name(name: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]*(\.[0-9]+)?", name):
        raise ValueError(f"the name {name!r} is not of the form name or name.3, in small letters")
    if name.partition(".")[0] in RESERVED:
        raise ValueError(f"{name!r} is what a part of every run is called; choose another name than {RESERVED}")
    return name


Text = Annotated[str, AfterValidator(_text)]
Name = Annotated[str, AfterValidator(_name)]
Texts = Text | list[Text] | None


class PromptPiece(BaseModel):
    """A piece of a prompt; a named one becomes a span."""

    model_config = ConfigDict(extra="forbid", strict=True)
    text: Annotated[str, Field(min_length=1), AfterValidator(_whole)]
    name: Name | None = None


class Line(BaseModel):
    """One question; a field that is null is as good as left out."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: Text | int | None = Field(None, description="a text or a whole number that no other question has")
    prompt: Text | list[PromptPiece] = Field(description='a text, or a list of {"text": ..., "name": ...}')
    answer: Text | int | FiniteFloat | None = Field(None, description="a text or a number")
    values: dict[Name, Text | int | FiniteFloat | None] | None = Field(
        None, description="an object of names and their gold values, texts or numbers"
    )
    cot: Texts = Field(None, description="a text, or a list of texts: the steps")
    transcript: Texts = Field(None, description="a text that a model wrote, or a list of them")
    partner: Text | int | None = Field(None, description="the id of another question")

    @field_validator("prompt")
    @classmethod
    def _spans(cls, prompt: str | list[PromptPiece]) -> str | list[PromptPiece]:
        if isinstance(prompt, str):
            return prompt
        if not "".join(piece.text for piece in prompt).strip():
            raise ValueError("a prompt without text asks nothing")
        names = [piece.name for piece in prompt if piece.name is not None]
        for piece in prompt:
            if piece.name is not None and (names.count(piece.name) > 1 or not piece.text.strip()):
                raise ValueError(f"the name {piece.name!r} stands twice, or its text is blank")
        return prompt


FIELDS = tuple(Line.model_fields)


def check_line(record: object, columns: Mapping[str, str], extra: str) -> Line:
    """The question of a record; `columns` says which of the record's keys hold a field, where that is not its own.

    Raises InputError with the field, what is expected there, and what came.

    >>> check_line({"prompt": "1 + 1?", "answer": 2}, {}, "error").answer
    2
    >>> check_line({"question": "1 + 1?"}, {"prompt": "question"}, "error").prompt
    '1 + 1?'
    """
    if not isinstance(record, dict):
        raise InputError(f'expected an object such as {{"prompt": "1 + 1?", "answer": "2"}}, got {_shown(record)}')
    for name, column in columns.items():
        if column not in record:
            raise InputError(f"field {name!r}: nothing is called {column!r} here, only {', '.join(map(str, record))}")
    own = {name: value for name, value in record.items() if name not in columns.values()}
    known = [name for name in FIELDS if name not in columns]
    for name in own if extra == "error" else ():
        if name not in known:
            hint = " (or pass the option extra=ignore)"
            try:
                check_name("field", str(name), known)
            except InputError as error:
                raise InputError(f"{error}{hint}") from None
    found = {name: own[name] for name in known if name in own} | {name: record[columns[name]] for name in columns}
    try:
        return Line.model_validate(found)
    except ValidationError as error:
        raise InputError(_told(found, error)) from None


def _told(record: Mapping[str, Any], error: ValidationError) -> str:
    """The first wrong field: what was expected, what came, and why it does not do."""
    errors = error.errors(include_url=False)
    field = str(errors[0]["loc"][0])
    expected = Line.model_fields[field].description
    if field not in record:
        return f"field {field!r} is missing: expected {expected}"
    reasons = [str(e["ctx"]["error"]) for e in errors if e["loc"][0] == field and e["type"] == "value_error"]
    because = f": {reasons[0]}" if reasons else ""
    return f"field {field!r}: expected {expected}, got {_shown(record[field])}{because}"


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
