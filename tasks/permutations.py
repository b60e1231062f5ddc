"""`permutations`: a product of permutations, the word problem of a group: S5 is the serial task known to be hard."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..core import InputError, check_name
from .chain import Chain, Row
from .problem import Piece, Problem, Task

Permutation = tuple[int, ...]


class Permutations(Chain):
    """Products of `length` permutations of 3 or 5 things, written as "213 * 132"; step k writes a partial product.

    "213" sends 1 to 2, 2 to 1 and 3 to 3. Products go from left to right: "213 * 132" sends 1 to 2 and on to 3, so it
    is "312". `elements="generators"` draws only the exchange of the first two things and the turn of all of them
    ("213" and "231"). Styles: digits ("213"), letters ("bac"), cycles ("(12)", and "()" for the identity).

    Expected: S5 serial, S3 parallel. The word problem of S5 is complete for NC1 (Barrington), hence beyond constant
    depth if TC0 is not NC1; a chain of thought does it step by step (Li et al., arXiv:2402.12875, where transformers
    without one fail at low depth). S3 is solvable, and its word problem within TC0. For finite lengths see also Li et
    al., arXiv:2503.02854: trained models track states of S3 and S5 by associative composition, in some with a parity
    heuristic.

    >>> task = Permutations("permutations:group=S3,length=3")
    >>> problem = task.problem(("213", "132", "321"))
    >>> problem.prompt, problem.cot, problem.answer
    ('213 * 132 * 321', ' 312 132', '132')
    >>> task.restyle(problem.cot, "letters"), task.restyle(problem.cot, "cycles")
    (' cab acb', ' (132) (23)')
    """

    name: ClassVar[str] = "permutations"
    defaults: ClassVar[Mapping[str, Any]] = {"group": "S3", "length": 4, "elements": "all", **Chain.defaults}

    def __init__(self, spec: str = name) -> None:
        super().__init__(spec)
        self.group = check_name("group", self.options["group"], ["S3", "S5"])
        check_name("elements", self.options["elements"], ["all", "generators"])
        factors: int = self.options["length"]
        if factors < 2:
            raise InputError(f"task {spec!r}: expected length >= 2")
        self.serial = self.group == "S5"
        size = int(self.group[1])
        self._group = list(itertools.permutations(range(size)))
        self._place = {element: place for place, element in enumerate(self._group)}
        swap, turn = (1, 0, *range(2, size)), (*range(1, size), 0)
        self._factors = self._group if self.options["elements"] == "all" else [swap, turn]
        forms = {
            "digits": ["".join(str(i + 1) for i in element) for element in self._group],
            "letters": ["".join("abcde"[i] for i in element) for element in self._group],
            "cycles": [_cycles(element) for element in self._group],
        }
        alphabet = [forms["digits"][self._place[element]] for element in self._factors]
        self._define({f"element.{k}": max(1, k - 1) for k in range(1, factors + 1)}, alphabet, factors - 1, forms)

    def problem(self, elements: Sequence[str]) -> Problem:
        """The product of these permutations, from left to right."""
        if len(elements) != len(self.inputs):
            raise InputError(f"task {self.spec!r}: expected {len(self.inputs)} permutations, got {len(elements)}")
        return self._build(tuple(self._alphabet.index(check_name("element", e, self._alphabet)) for e in elements))

    def out_of_distribution(self) -> dict[str, Task]:
        return {"longer": self.changed(length=len(self.inputs) + 2)}

    def _pieces(self, row: Row) -> list[Piece]:
        pieces = []
        for k, choice in enumerate(row, start=1):
            pieces += [Piece(" * "), Piece(self._alphabet[choice], f"element.{k}")]
        return pieces[1:]

    def _start(self, row: Row) -> int:
        return self._place[self._factors[row[0]]]

    def _next(self, state: int, k: int, row: Row) -> int:
        then = self._factors[row[k]]
        return self._place[tuple(then[i] for i in self._group[state])]

    def _prompt_words(self) -> list[str]:
        return [*self._forms["digits"], "*"]


def _cycles(element: Permutation) -> str:
    """The cycles of a permutation, each from its smallest number, those of length 1 left out."""
    found, seen = [], set()
    for start in range(len(element)):
        cycle, at = [], start
        while at not in seen:
            seen.add(at)
            cycle.append(str(at + 1))
            at = element[at]
        if len(cycle) > 1:
            found.append(f"({''.join(cycle)})")
    return "".join(found) or "()"
