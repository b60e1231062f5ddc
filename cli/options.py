"""Options that several commands share, and what every command does: load a model and a task, show a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

ModelOption = Annotated[str, typer.Option("--model", help='"organism:NAME", a local folder or a hub name')]
TaskOption = Annotated[
    str | None, typer.Option("--task", help='such as "modular-sum:terms=4"; default: the organism\'s')
]
SaveOption = Annotated[
    Path | None,
    typer.Option(
        "--save", help="write the result to this .safetensors file", callback=lambda path: can_be_written(path)
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="no progress bars")]
TargetOption = Annotated[str, typer.Option("--target", help='"onset", "answer" or "step.K"')]
VaryOption = Annotated[str | None, typer.Option("--vary", help="one variable; default: each in turn")]
SamplesOption = Annotated[int, typer.Option("--samples", min=1, help="CoTs a problem (with a temperature)")]
TemperatureOption = Annotated[float, typer.Option("--temperature", min=0.0, help="0: greedy")]
KeepOption = Annotated[str, typer.Option("--keep", help='"all", or "correct": only right answers')]
MemoryOption = Annotated[float, typer.Option("--memory", help="gigabytes for caches")]
CotOption = Annotated[str, typer.Option("--cot", help='"model" (its own) or "task" (gold)')]
# Of `study`, which is two commands in one.
StudyCotOption = Annotated[str, typer.Option("--cot", help='"model" (its own), "task" (gold) or "given" (transcripts)')]
StudyPairsOption = Annotated[
    int | None, typer.Option("--pairs", min=2, help="counterfactual pairs; default: 32 a variable, 64 of --model")
]
OrganismsOption = Annotated[
    str | None, typer.Option("--organisms", help="names, joined with commas; default: the debate's")
]


def can_be_written(path: Path | None) -> Path | None:
    """The path of a new or an old file; InputError, before anything is measured, for one that can be none."""
    from ..core import InputError

    if path is not None:
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir() or not above.is_dir():
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


def show(result: Any, table: pd.DataFrame, save: Path | None, notes: Mapping[str, str] | None = None) -> None:
    """Print a table and what is to be known of it; save the result where that is asked for."""
    from ..core import InputError, printable

    print_table(table)
    for name, value in (notes or {}).items():
        typer.echo(printable(f"- {name}: {value}"))
    if save is not None:
        try:
            typer.echo(result.save(save))
        except OSError as error:
            told = f"the result could not be written to {save} ({error}): make room, and measure it again"
            raise InputError(told) from error


def print_table(table: pd.DataFrame) -> None:
    """Print a table whole, two decimals a number."""
    from ..core import printable

    seen = table.map(lambda cell: printable(cell) if isinstance(cell, str) else cell)
    seen.columns = [printable(str(name)) for name in table.columns]
    typer.echo(seen.to_string(index=False, float_format="{:.2f}".format, na_rep="-"))
