"""What is right: a run whose gold answer is not known is neither right nor wrong, and is left out of accuracies."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hooks import Run

UNKNOWN = "no gold answer is known"
NOT_GOLD = "an answer is not the gold one"


def scores(runs: Iterable[Run]) -> NDArray[Any]:
    """`[run]`: 1 where the own answer is right, 0 where it is wrong, NaN where that is not known."""
    return np.array([run.score for run in runs], dtype=float)


def accuracy_of(runs: Iterable[Run]) -> dict[str, Any]:
    """What a manifest says of runs: "accuracy" (NaN where none can be judged), and how many cannot, as "gold_unknown".

    >>> from loadbearing.hooks import generate, load
    >>> model = load("organism:sft")
    >>> accuracy_of(generate(model, model.task.problems(4)))
    {'accuracy': 1.0, 'gold_unknown': 0}
    """
    found = scores(runs)
    known = found[~np.isnan(found)]
    accuracy = float(known.mean()) if len(known) else math.nan
    return {"accuracy": accuracy, "gold_unknown": len(found) - len(known)}


def set_aside(*runs: Run) -> str:
    """Why `keep="correct"` sets runs that belong together aside; "" where it keeps them.

    They are kept where a gold answer is known and none that is known is missed. (That of a partner that was made is
    never known: such a pair is judged by the other run.)
    """
    found = scores(runs)
    why = UNKNOWN if np.isnan(found).all() else NOT_GOLD if (found == 0).any() else ""
    return f'set aside by keep="correct": {why}' if why else ""
