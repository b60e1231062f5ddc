"""`python -m loadbearing.cli` is the `loadbearing` command."""

from . import main

main()
