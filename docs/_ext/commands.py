"""The page of the command line, from the commands themselves."""

from sphinx.application import Sphinx
from typer.cli import get_docs_for_click
from typer.main import get_command

from loadbearing.cli.app import app as cli

PAGE = "reference/command-line"


def append_commands(app: Sphinx, page: str, source: list[str]) -> None:
    """Add every command, its arguments and options to the page."""
    if page == PAGE:
        command = get_command(cli)
        context = command.make_context("loadbearing", [], resilient_parsing=True)
        text = get_docs_for_click(obj=command, ctx=context, name="loadbearing")
        source[0] += text[text.index("\n## ") :]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", append_commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
