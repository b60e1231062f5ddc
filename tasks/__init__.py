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
from .registry import FILES, TASKS, load
from .rules import answer_rule, step_rule
from .word_problems import WordProblems

__all__ = [
    "FILES",
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
    "WordProblems",
    "answer_rule",
    "load",
    "step_rule",
]
