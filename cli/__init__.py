"""The `loadbearing` command. Errors of ours are one line and exit status 2."""

import sys


def main() -> None:
    """Run the command line; the rooms load when a command needs them."""
    from ..core import LoadbearingError, printable
    from .app import app

    try:
        app(prog_name="loadbearing")
    except LoadbearingError as error:
        print(f"loadbearing: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
