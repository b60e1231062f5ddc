"""The eight cells of pairs in pieces: one batch of pairs each, so that the values are those of one call."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..core import Manifest, Result, circumstance
from ..hooks import Model
from .cells import N_CELLS
from .eight import Scores, Third, batch_of, eight_cells, longest_of
from .parts import Parts
from .targets import Aim


@dataclass(frozen=True, eq=False, repr=False)
class ScoredPairs(Result):
    """`Scores` as a file; greedy: indices of the texts in `coords["text"]`."""

    kind: ClassVar[str] = "scored pairs"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "log_p": ("pair", "cell", "candidate"),
        "greedy": ("pair", "cell"),
        "entropy": ("pair", "cell"),
        "state": ("pair", "cell", "d_model"),
    }

    log_p: NDArray[Any]
    greedy: NDArray[Any]
    entropy: NDArray[Any]
    state: NDArray[Any]

    @classmethod
    def of(cls, scores: Scores, manifest: Manifest) -> "ScoredPairs":
        """The scores of a batch."""
        texts = tuple(sorted(set(scores.greedy.flat)))
        index = np.array([texts.index(text) for text in scores.greedy.flat]).reshape(scores.greedy.shape)
        coords = {"cell": tuple(range(N_CELLS)), "text": texts}
        return cls(coords, manifest, log_p=scores.log_p, greedy=index, entropy=scores.entropy, state=scores.state)

    def scores(self) -> Scores:
        """What it was made of."""
        texts = np.array(self.coords["text"], dtype=object)
        return Scores(self.log_p, texts[self.greedy], self.entropy, self.state)


@dataclass(frozen=True, eq=False)
class CellsWork:
    """Batches of pairs for `eight_cells`; where the opening text is also counted with the CoT, as many batches more."""

    aims: Sequence[tuple[Aim, Aim]]
    thirds: Sequence[Third]
    more: Sequence[Sequence[Third]]
    size: int
    memory: float
    moved: bool

    @property
    def batches(self) -> int:
        """The number of batches of one table."""
        return -(-len(self.aims) // self.size)

    def __len__(self) -> int:
        return self.batches * (1 + self.moved)

    def _place(self, number: int) -> tuple[slice, bool]:
        """Which pairs a piece is of, and whether the opening text counts with the CoT."""
        moved, batch = divmod(number, self.batches)
        return slice(batch * self.size, (batch + 1) * self.size), bool(moved)

    def identity(self, number: int) -> dict[str, Any]:
        """The tokens of the pairs by a hash, and how they are run."""
        chunk, moved = self._place(number)
        tokens = [[asdict(aim) for aim in pair] for pair in self.aims[chunk]], self.thirds[chunk], self.more[chunk]
        digest = hashlib.sha256(json.dumps(tokens, sort_keys=True).encode()).hexdigest()
        return {"pairs": digest, "open_with_cot": moved, "longest": longest_of(self.aims)}

    def compute(self, model: Model, number: int) -> ScoredPairs:
        """One batch, as `eight_cells` runs it among the others."""
        began = time.perf_counter()
        chunk, moved = self._place(number)
        how: dict[str, Any] = {"batch_size": self.size, "memory": self.memory, "longest": longest_of(self.aims)}
        more = None if moved else self.more[chunk]
        scores = eight_cells(model, self.aims[chunk], self.thirds[chunk], more=more, open_with_cot=moved, **how)
        return ScoredPairs.of(scores, Manifest({}, circumstance(began)))


def cells_in_parts(
    model: Model,
    aims: Sequence[tuple[Aim, Aim]],
    thirds: Sequence[Third],
    more: Sequence[Sequence[Third]],
    parts: Parts,
    *,
    moved: bool,
    batch_size: int,
    memory: float,
    progress: bool,
) -> tuple[Scores, NDArray[Any] | None]:
    """The scores of `eight_cells`, and `log_p` with the opening text counted with the CoT if `moved`.

    The pieces are the batches that `eight_cells` would run, so that the values are the same to the last bit.
    """
    work = CellsWork(aims, thirds, more, batch_of(model, aims, batch_size, memory), memory, moved)
    found = [piece.scores() for piece in parts.compute(model, work, progress=progress)]
    first = Scores.joined(found[: work.batches])
    return first, Scores.joined(found[work.batches :]).log_p if moved else None
