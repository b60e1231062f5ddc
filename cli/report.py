"""The command that writes the report of a study."""

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, print_json


def report(
    run: Annotated[Path, typer.Argument(help="a folder that `loadbearing study` wrote")],
    out: Annotated[Path | None, typer.Option("--out", help="the page; default: report.html in the folder")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page of a study, which needs no network: tables, figures, and a view of single problems."""
    from .page import write_report

    path = write_report(run, out)
    size = path.stat().st_size
    if as_json:
        print_json({"page": path, "bytes": size})
    else:
        typer.echo(f"{path}: {size / 1e6:.1f} MB")
