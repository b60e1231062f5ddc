"""Which of the varied variables a figure shows."""

from collections.abc import Mapping

import pandas as pd

from ..core import InputError, check_name


def variables_of(frames: Mapping[str, pd.DataFrame], variable: str | None) -> list[str]:
    """The variables that all results have, or the one that is asked for; frames: with a column "variable".

    Raises InputError where they have none in common.

    >>> one, other = pd.DataFrame({"variable": ["a", "b", "b"]}), pd.DataFrame({"variable": ["b"]})
    >>> variables_of({"one": one, "other": other}, None)
    ['b']
    """
    each = [list(frame["variable"].unique()) for frame in frames.values()]
    shared = [name for name in each[0] if all(name in names for names in each)]
    if not shared:
        told = " and ".join(", ".join(names) or "none" for names in each)
        raise InputError(f"expected results with a variable in common, got {told}: draw each in axes of its own")
    return shared if variable is None else [check_name("variable", variable, shared)]
