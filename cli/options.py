"""Options that several commands share, and what every command does: load a model and a task, show a table."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import choices
from .choices import among, joined

if TYPE_CHECKING:
    import pandas as pd

ModelOption = Annotated[
    str,
    typer.Option("--model", help='"organism:NAME", a local folder or a hub name', autocompletion=choices.models),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        help='such as "modular-sum:terms=4"; default: the organism\'s',
        autocompletion=among([*choices.TASKS, *choices.FILES]),
    ),
]
SaveOption = Annotated[
    Path | None,
    typer.Option(
        "--save", help="write the result to this .safetensors file", callback=lambda path: can_be_written(path)
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="no progress bars, and nothing is asked")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document instead; nothing is asked")]
SeedOption = Annotated[int, typer.Option("--seed", help="of the problems, and of all else that is drawn")]
ProblemsOption = Annotated[int, typer.Option("--problems", min=2, help="how many problems of the task")]
TargetOption = Annotated[
    str, typer.Option("--target", help='"onset", "answer" or "step.K"', autocompletion=among(choices.TARGETS))
]
VaryOption = Annotated[str | None, typer.Option("--vary", help="one variable; default: each in turn")]
SamplesOption = Annotated[int, typer.Option("--samples", min=1, help="CoTs a problem (with a temperature)")]
TemperatureOption = Annotated[float, typer.Option("--temperature", min=0.0, help="0: greedy")]
KeepOption = Annotated[
    str, typer.Option("--keep", help='"all", or "correct": only right answers', autocompletion=among(choices.KEEP))
]
MemoryOption = Annotated[float, typer.Option("--memory", help="gigabytes for caches")]
CotOption = Annotated[
    str, typer.Option("--cot", help='"model" (its own) or "task" (gold)', autocompletion=among(choices.COTS))
]
ModeOption = Annotated[str, typer.Option("--mode", help='"answer-only" or "cot"', autocompletion=among(choices.MODES))]
# Of `study`, which is two commands in one.
StudyCotOption = Annotated[
    str,
    typer.Option(
        "--cot",
        help='"model" (its own), "task" (gold) or "given" (transcripts)',
        autocompletion=among(choices.STUDY_COTS),
    ),
]
StudyPairsOption = Annotated[
    int | None, typer.Option("--pairs", min=2, help="counterfactual pairs; default: 32 a variable, 64 of --model")
]
OrganismsOption = Annotated[
    str | None,
    typer.Option(
        "--organisms",
        help="names, joined with commas; default: the debate's",
        autocompletion=joined(choices.organisms),
    ),
]


def can_be_written(path: Path | None) -> Path | None:
    """The path of a new or an old file; InputError, before anything is measured, for one that can be none."""
    if path is not None:
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir() or not above.is_dir():
            from ..core import InputError

            what = f"{path} is a folder" if path.is_dir() else f"{above} is no folder"
            raise InputError(f"--save {path}: {what}; expected the path of a file that can be written")
    return path


def names_of(option: str, text: str | None) -> list[str] | None:
    """The names of an option that are joined with commas; None where it was not given.

    >>> names_of("--only", "channels, ledger")
    ['channels', 'ledger']
    """
    from ..core import InputError

    names = None if text is None else [name.strip() for name in text.split(",")]
    if names is not None and not all(names):
        raise InputError(f"{option} {text!r}: expected names joined with commas; leave it out for all")
    return names


def load_both(model: str, task: str | None, **options: Any) -> tuple[Any, Any]:
    """The model, and the task that is named or that it was made for; options: of `hooks.load`."""
    from .. import hooks, tasks
    from ..core import InputError

    chosen = tasks.load(task) if task is not None else None
    loaded = hooks.load(model, **options)
    chosen = chosen if chosen is not None else loaded.task
    if chosen is None:
        raise InputError(
            f"{model!r} has no task of its own: pass --task, one of {', '.join([*tasks.TASKS, *tasks.FILES])}"
        )
    return loaded, chosen


def show(
    result: Any,
    table: "pd.DataFrame",
    save: Path | None,
    notes: Mapping[str, str] | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Print a table and what is to be known of it, or the whole frame as JSON; save where that is asked for.

    Raises InputError where it cannot be saved: what was measured is printed all the same, "saved" is null then.
    """
    from ..core import printable

    if not as_json:
        print_table(table)
        for name, value in (notes or {}).items():
            typer.echo(printable(f"- {name}: {value}"))
    saved = None
    try:
        saved = None if save is None else _saved(result, save)
    finally:
        if as_json:
            made = result.manifest
            told = {"kind": result.kind, "identity": made.identity, "circumstance": made.circumstance}
            print_json({**told, "table": result.frame(), "notes": notes or {}, "saved": saved})
    if saved is not None and not as_json:
        typer.echo(saved)


def _saved(result: Any, path: Path) -> Any:
    from ..core import InputError

    try:
        return result.save(path)
    except OSError as error:
        told = f"the result could not be written to {path} ({error}): make room, and measure it again"
        raise InputError(told) from error


def print_table(table: "pd.DataFrame") -> None:
    """Print a table whole, as results print theirs."""
    from ..core import table_text

    typer.echo(table_text(table))


def print_json(told: Mapping[str, Any]) -> None:
    """Print one strict JSON document: keys in their order, and null where a number is none."""
    typer.echo(json.dumps(plain(told), indent=1, allow_nan=False))


def plain(value: Any) -> Any:
    """What JSON has: tables are lists of rows, what is not a number (or infinite, or missing) is None.

    >>> plain({"share": float("nan"), "pair": (1, "2"), "path": Path("a")})
    {'share': None, 'pair': [1, '2'], 'path': 'a'}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if hasattr(value, "to_dict"):
        return plain(value.to_dict("records"))
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else None if _missing(value) else str(value)


def _missing(value: Any) -> bool:
    import pandas as pd

    return value is pd.NA or value is pd.NaT


@contextmanager
def apart(as_json: bool, quiet: bool) -> Iterator[None]:
    """Under --json, what is printed along the way goes to stderr, and with --quiet nowhere."""
    if not as_json:
        yield
    elif quiet:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    else:
        with redirect_stdout(sys.stderr):
            yield
