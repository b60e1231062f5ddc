"""`dataset:PATH` and `inspect:PATH`: questions from a folder of Hugging Face datasets, or from a log of inspect_ai."""

from collections.abc import Iterator, Sequence
from os.path import isfile  # False for what no path can be, where pathlib raises
from typing import Any

from ..core import InputError, check_name
from .jsonl import FIELD_OPTIONS, RULE_OPTIONS, parse_file_spec, questions_of
from .questions import Questions


def read_dataset(spec: str) -> Questions:
    """The questions of `dataset:PATH`, a folder written by `save_to_disk`; columns are the fields of `jsonl`.

    The options are those of `jsonl`, and `split=test` for a folder of several splits. Raises InputError with the number
    of the first row that is wrong (from 1), and where the library `datasets` is missing.

    >>> from datasets import Dataset
    >>> from tempfile import TemporaryDirectory
    >>> rows = [{"question": "Tom has 3 apples and buys 4. How many?", "answer": "3 + 4 = 7 #### 7"}]
    >>> with TemporaryDirectory() as folder:
    ...     Dataset.from_list(rows).save_to_disk(folder)
    ...     task = read_dataset(f"dataset:{folder}?fields=prompt:question,cot:answer,answer:answer&answer=last-number")
    >>> problem = task.problems(1)[0]
    >>> problem.answer, problem.cot
    ('7', '3 + 4 = 7 #### 7')
    """
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError as error:
        raise InputError(f"{spec}: install datasets: pip install 'loadbearing[organisms]'") from error
    path, options = parse_file_spec(spec, {**RULE_OPTIONS, **FIELD_OPTIONS, "split": ""})
    try:
        found = load_from_disk(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected a folder written by save_to_disk of the library datasets: {error}"
        ) from None
    split = options["split"]
    if isinstance(found, DatasetDict):
        if not split:
            raise InputError(f"{path}: several splits; add the option split=NAME, one of {', '.join(found)}")
        found = found[check_name("split", split, found)]
    elif split:
        raise InputError(f"{path}: one dataset without splits; leave split={split} out")
    return questions_of(spec, options, f"{path}, row", enumerate(found, start=1), lambda row: row)


def read_inspect(spec: str) -> Questions:
    """The questions of `inspect:PATH`, a log of inspect_ai (.eval or .json), with what the model wrote as transcripts.

    The prompt is the sample's input: of messages the last of the user; the choices of a sample follow it, a line each.
    The gold answer is the first target. A transcript is the model's output, its reasoning first where that is recorded;
    a sample of several epochs has several. Options: `steps`, `answer` and `partners` as in `Questions`. Raises
    InputError for a log that cannot be read, one without samples, a sample that holds more than text, and where
    inspect_ai is missing.
    """
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise InputError(f"{spec}: install inspect_ai: pip install 'loadbearing[inspect]'") from error
    path, options = parse_file_spec(spec, RULE_OPTIONS)
    if not isfile(path):
        raise InputError(f"{path}: there is no such file; expected a log of inspect_ai (.eval or .json)")
    try:
        log = read_eval_log(path, resolve_attachments="core")
    except Exception as error:  # zip, JSON, schema and decompression errors of several libraries
        raise InputError(f"{path}: expected a log of inspect_ai (.eval or .json): {error}") from error
    samples: dict[int | str, list[Any]] = {}
    for sample in log.samples or []:
        samples.setdefault(sample.id, []).append(sample)
    return questions_of(spec, options, f"{path}, sample", _numbered(samples), _record)


def _numbered(samples: dict[int | str, list[Any]]) -> Iterator[tuple[str, Sequence[Any]]]:
    """The epochs of every sample, in order."""
    for key, epochs in samples.items():
        yield repr(key), sorted(epochs, key=lambda sample: int(sample.epoch))


def _record(epochs: Sequence[Any]) -> dict[str, Any]:
    sample = epochs[0]
    target = sample.target if isinstance(sample.target, str) else next(iter(sample.target), "")
    written = [_written(one.output) for one in epochs]
    prompt = _asked(sample.input) + "".join(
        f"\n{chr(ord('A') + number)}) {choice}" for number, choice in enumerate(sample.choices or [])
    )
    return {
        "id": sample.id,
        "prompt": prompt,
        "answer": target if target.strip() else None,
        "transcript": [text for text in written if text.strip()],
    }


def _asked(given: Any) -> str:
    if isinstance(given, str):
        return given
    last = next((message for message in reversed(given) if message.role == "user"), None)
    if last is None:
        raise InputError("the input holds no message of a user")
    if not isinstance(last.content, str) and any(part.type != "text" for part in last.content):
        raise InputError("the user's message holds more than text, which no prompt of ours can")
    return str(last.text)


def _written(output: Any) -> str:
    """What a model wrote, its reasoning included."""
    if not output.choices:
        return ""
    content = output.choices[0].message.content
    if isinstance(content, str):
        return content
    return "\n".join(filter(None, map(_part, content)))


def _part(part: Any) -> str:
    """The text of a part of a message; of reasoning that the provider keeps to itself, the summary."""
    if part.type == "reasoning":
        return (part.summary if part.redacted else part.reasoning) or ""
    return part.text if part.type == "text" else ""
