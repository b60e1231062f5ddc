"""Tasks by name: the same string in Python and on the command line."""

from ..core import check_name
from .addition import Addition
from .chain import Chain
from .copy import Copy
from .modular_program import ModularProgram
from .modular_sum import ModularSum
from .permutations import Permutations
from .pointers import Pointers
from .problem import Task

# Calling one with a spec makes the task.
TASKS: dict[str, type[Chain] | type[Copy]] = {
    kind.name: kind for kind in (ModularSum, ModularProgram, Permutations, Pointers, Addition, Copy)
}


def load(spec: str | Task) -> Task:
    """The task of a spec such as "modular-sum:modulus=10,terms=4"; a Task passes through.

    >>> load("modular-sum:terms=3").inputs
    ('operand.1', 'operand.2', 'operand.3')
    """
    if isinstance(spec, Task):
        return spec
    return TASKS[check_name("task", spec.partition(":")[0], TASKS)](spec)
