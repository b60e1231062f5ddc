"""Problems, their text pieces, counterfactual pairs and reference programs. Knows no model and no tokenizer."""

from .addition import Addition
from .chain import Chain
from .copy import Copy
from .modular_program import ModularProgram
from .modular_sum import ModularSum
from .permutations import Permutations
from .pointers import Pointers
from .problem import Pair, Pairs, Piece, Problem, Step, Target, Task
from .questions import Questions
from .registry import TASKS, load

__all__ = [
    "TASKS",
    "Addition",
    "Chain",
    "Copy",
    "ModularProgram",
    "ModularSum",
    "Pair",
    "Pairs",
    "Permutations",
    "Piece",
    "Pointers",
    "Problem",
    "Questions",
    "Step",
    "Target",
    "Task",
    "load",
]
