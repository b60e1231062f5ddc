"""Problems, their text pieces, counterfactual pairs and reference programs. Knows no model and no tokenizer."""

from .copy import Copy
from .modular_sum import ModularSum
from .problem import Pair, Pairs, Piece, Problem, Step, Target, Task
from .questions import Questions
from .registry import TASKS, load

__all__ = [
    "TASKS",
    "Copy",
    "ModularSum",
    "Pair",
    "Pairs",
    "Piece",
    "Problem",
    "Questions",
    "Step",
    "Target",
    "Task",
    "load",
]
