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
SaveOption = Annotated[Path | None, typer.Option("--save", help="write the result to this .safetensors file")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="no progress bars")]
TargetOption = Annotated[str, typer.Option("--target", help='"onset", "answer" or "step.K"')]
VaryOption = Annotated[str | None, typer.Option("--vary", help="one variable; default: each in turn")]
SamplesOption = Annotated[int, typer.Option("--samples", min=1, help="CoTs a problem (with a temperature)")]
TemperatureOption = Annotated[float, typer.Option("--temperature", min=0.0, help="0: greedy")]
KeepOption = Annotated[str, typer.Option("--keep", help='"all", or "correct": only right answers')]
MemoryOption = Annotated[float, typer.Option("--memory", help="gigabytes for caches")]
CotOption = Annotated[str, typer.Option("--cot", help='"model" (its own) or "task" (gold)')]


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
    print_table(table)
    for name, value in (notes or {}).items():
        typer.echo(f"- {name}: {value}")
    if save is not None:
        typer.echo(result.save(save))


def print_table(table: pd.DataFrame) -> None:
    """Print a table whole, two decimals a number."""
    from ..core import printable

    seen = table.map(lambda cell: printable(cell) if isinstance(cell, str) else cell)
    seen.columns = [printable(str(name)) for name in table.columns]
    typer.echo(seen.to_string(index=False, float_format="{:.2f}".format, na_rep="-"))
