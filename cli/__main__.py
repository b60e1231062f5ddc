"""`python -m loadbearing.cli` is the `loadbearing` command."""

from . import main

if __name__ == "__main__":  # worker processes import this module again
    main()
