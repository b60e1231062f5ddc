"""`pointers`: follow a map for some hops: every look-up needs the one before it."""

from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any, ClassVar

from ..core import InputError, check_name
from .chain import Chain, Row
from .problem import Piece, Problem, Task


class Pointers(Chain):
    """A map given as pairs, "a c b a c b from b", to be followed for `hops` hops; step k writes the k-th node reached.

    Every node has one successor, any of the nodes (itself too). The inputs are `start` and `next.1` (of "a"), `next.2`
    (of "b"), ...; which successors a problem reads depends on its path, so `first_use` says nothing of them.
    Styles: lower and upper case letters.

    Expected: serial. Each hop reads the node that the one before it found, and what no fixed depth does for any number
    of hops a chain of thought does one hop a step (the general law: Li et al., arXiv:2402.12875). Not one layer a hop,
    though: composing the map with itself doubles the hops, so about log2(hops) rounds of look-ups suffice, and `hops`
    is bounded here: what a given depth can do must be measured.

    >>> task = Pointers("pointers:nodes=3,hops=2")
    >>> problem = task.problem("cab", "b")
    >>> problem.prompt, problem.cot, problem.answer
    ('a c b a c b from b', ' a c', 'c')
    >>> task.program(problem, {1: "b"}, "answer")
    'a'
    """

    name: ClassVar[str] = "pointers"
    defaults: ClassVar[Mapping[str, Any]] = {"nodes": 8, "hops": 3, **Chain.defaults, "style": "lower"}
    serial = True

    def __init__(self, spec: str = name) -> None:
        super().__init__(spec)
        nodes: int = self.options["nodes"]
        hops: int = self.options["hops"]
        if not 2 <= nodes <= len(ascii_lowercase) or hops < 1:
            raise InputError(f"task {spec!r}: expected hops >= 1 and nodes from 2 to {len(ascii_lowercase)}")
        letters = ascii_lowercase[:nodes]
        uses: dict[str, int | None] = {f"next.{k}": None for k in range(1, nodes + 1)}
        self._define({**uses, "start": 1}, letters, hops, {"lower": letters, "upper": letters.upper()})

    def problem(self, successors: Sequence[str], start: str) -> Problem:
        """The problem with these successors, those of "a", "b" and so on in turn, and this start."""
        if len(successors) != len(self._alphabet):
            raise InputError(f"task {self.spec!r}: expected {len(self._alphabet)} successors, got {len(successors)}")
        return self._build(
            tuple(self._alphabet.index(check_name("node", n, self._alphabet)) for n in [*successors, start])
        )

    def out_of_distribution(self) -> dict[str, Task]:
        return {"longer": self.changed(hops=self.length + 2)}

    def _pieces(self, row: Row) -> list[Piece]:
        pieces = []
        for k, node in enumerate(self._alphabet):
            pieces += [Piece(f" {node}" if k else node), Piece(f" {self._alphabet[row[k]]}", f"next.{k + 1}")]
        return [*pieces, Piece(" from"), Piece(f" {self._alphabet[row[-1]]}", "start")]

    def _start(self, row: Row) -> int:
        return row[-1]

    def _next(self, state: int, k: int, row: Row) -> int:
        return row[state]

    def _prompt_words(self) -> list[str]:
        return [*self._alphabet, "from"]
