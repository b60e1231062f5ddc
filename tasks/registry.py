"""Tasks by name: the same string in Python and on the command line."""

from ..core import check_name
from .copy import Copy
from .modular_sum import ModularSum
from .problem import Task

TASKS: dict[str, type[ModularSum] | type[Copy]] = {ModularSum.name: ModularSum, Copy.name: Copy}


def load(spec: str | Task) -> Task:
    """The task of a spec such as "modular-sum:modulus=10,terms=4"; a Task passes through.

    >>> load("modular-sum:terms=3").inputs
    ('operand.1', 'operand.2', 'operand.3')
    """
    if isinstance(spec, Task):
        return spec
    return TASKS[check_name("task", spec.partition(":")[0], TASKS)](spec)
