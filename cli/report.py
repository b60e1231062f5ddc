"""The command that writes the report of a study."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(report)


def report(
    run: Annotated[Path, typer.Argument(help="a folder that `loadbearing study` wrote")],
    out: Annotated[Path | None, typer.Option("--out", help="the page; default: report.html in the folder")] = None,
) -> None:
    """Write one HTML page of a study, which needs no network: tables, figures, and a view of single problems."""
    from .page import write_report

    path = write_report(run, out)
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
