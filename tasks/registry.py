"""Tasks by name: the same string in Python and on the command line."""

from collections.abc import Callable

from ..core import check_name
from .addition import Addition
from .chain import Chain
from .copy import Copy
from .jsonl import read_jsonl
from .modular_program import ModularProgram
from .modular_sum import ModularSum
from .permutations import Permutations
from .pointers import Pointers
from .problem import Task
from .questions import Questions
from .sources import read_dataset, read_inspect
from .word_problems import WordProblems

# Calling one with a spec makes the task.
TASKS: dict[str, type[Chain] | type[Copy]] = {
    kind.name: kind for kind in (ModularSum, ModularProgram, Permutations, Pointers, Addition, Copy, WordProblems)
}
# Calling one with a spec `KIND:PATH` reads the user's own questions.
FILES: dict[str, Callable[[str], Questions]] = {"jsonl": read_jsonl, "dataset": read_dataset, "inspect": read_inspect}


def load(spec: str | Task) -> Task:
    """The task of a spec such as "modular-sum:modulus=10,terms=4" or "jsonl:PATH"; a Task passes through.

    >>> load("modular-sum:terms=3").inputs
    ('operand.1', 'operand.2', 'operand.3')
    """
    if isinstance(spec, Task):
        return spec
    name = check_name("task", spec.partition(":")[0], [*TASKS, *FILES])
    return FILES[name](spec) if name in FILES else TASKS[name](spec)
