"""The `loadbearing` command. Errors of ours are one line and exit status 2."""

import os
import sys


def main() -> None:
    """Run the command line; the rooms load when a command needs them, and for help and completion not at all."""
    from .app import app

    if os.environ.get("_LOADBEARING_COMPLETE") == "complete_bash":
        from .complete import complete_in_bash

        complete_in_bash(lambda: app(prog_name="loadbearing"))
    try:
        app(prog_name="loadbearing")
    except ValueError as error:
        from ..core import LoadbearingError, printable

        if not isinstance(error, LoadbearingError):
            raise
        print(f"loadbearing: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
