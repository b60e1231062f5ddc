"""Long analyses in pieces that are kept in a folder: computed by parts, by workers, and not again after a kill."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..core import InputError, Interrupted, Manifest, Result, load_result
from ..hooks import Model, ModelSource, run_shards
from ..hooks.store_files import Part, numbers_of
from ..hooks.store_identity import difference

PIECE = "piece of"  # the key of a manifest's identity that says what a kept piece belongs to


@dataclass(frozen=True)
class Parts:
    """Where the pieces of an analysis are kept, and who computes which of them.

    folder: of one analysis of one model; another one is refused by the piece that differs
    part: `(k, n)`: this call computes the k-th of n parts only, k from 1, and raises Interrupted while the pieces of
        other parts are missing; the call that finds all of them returns the result
    engine, workers, gpus: as in `run_shards`; source: where workers load the model from, needed to have any
    """

    folder: str | Path
    part: Part = (1, 1)
    engine: str = "local"
    workers: int = 1
    gpus: float | None = None
    source: ModelSource | None = None

    @classmethod
    def of(cls, given: "Parts | str | Path") -> "Parts":
        """A folder's name stands for all of the parts, computed here."""
        return given if isinstance(given, Parts) else cls(given)

    def compute(self, model: Model, work: "Work", *, progress: bool = False) -> list[Any]:
        """The results of all pieces, those of this part computed where they are not there yet.

        Raises Interrupted (`partial`: the folder) while pieces of other parts are missing, InputError for a piece of
        another analysis, which is named with the first key that differs, and for workers without a `source`.
        """
        here = self.engine == "local" and self.workers == 1
        if not here and self.source is None:
            raise InputError(
                "workers load the model for themselves: pass Parts(source=ModelSource(NAME OR FOLDER, OPTIONS OF load))"
            )
        folder = Path(self.folder).absolute()
        job = PiecesJob(folder, work, model.identity(), None if here else self.source, model if here else None)
        mine = job.missing(self.part)
        if mine:
            how: dict[str, Any] = {"engine": self.engine, "workers": self.workers, "gpus": self.gpus}
            run_shards(job, part=self.part, progress=progress, **how)
        if missing := job.missing((1, 1)):
            raise Interrupted(
                f"{len(missing)} of {len(work)} pieces are still missing in {self.folder} (the first is "
                f"{missing[0]}): run the other parts; the call that finds all of them gives the result",
                Path(self.folder),
            )
        return [load_result(job.path(number)) for number in range(len(work))]


@runtime_checkable
class Work(Protocol):
    """An analysis in numbered pieces; it is sent to workers, so it holds no weights."""

    def __len__(self) -> int:
        """The number of pieces."""
        ...

    def identity(self, number: int) -> Mapping[str, Any]:
        """What a piece is of, besides the model: all that changes its values, as plain JSON."""
        ...

    def compute(self, model: Model, number: int) -> Result:
        """One piece."""
        ...


@dataclass(frozen=True, eq=False)
class PiecesJob:
    """The pieces of a work as a job: one result file each.

    model: where it is there already, for this process alone; else every worker loads it from `source`
    """

    folder: Path
    work: Work
    identity: Mapping[str, Any]
    source: ModelSource | None
    model: Model | None

    def path(self, number: int) -> Path:
        """The file of a piece."""
        return self.folder / f"{number:05d}.safetensors"

    def missing(self, part: Part) -> list[int]:
        """The pieces that are not there; InputError for one that is of something else."""
        return [number for number in numbers_of(len(self.work), part) if not self._there(number)]

    def _there(self, number: int) -> bool:
        path = self.path(number)
        if not path.exists():
            return False
        differs = difference(self._wanted(number), load_result(path).manifest.identity.get(PIECE, {}))
        if differs is not None:
            key, wanted, found = differs
            raise InputError(
                f"{path} is a piece of something else: {key} is {found!r} there and {wanted!r} here; choose another "
                "folder, or give what it was made with"
            )
        return True

    def _wanted(self, number: int) -> dict[str, Any]:
        return {**self.identity, **self.work.identity(number), "number": number}

    def open(self) -> Callable[[int], object]:
        """Load the model; it must be the one that the pieces are of."""
        if self.model is not None:
            return partial(self._write, self.model)
        assert self.source is not None
        model = self.source.load()
        differs = difference(dict(self.identity), model.identity())
        if differs is not None:
            key, wanted, here = differs
            raise InputError(
                f"what a worker loads from {self.source.source!r} is another model: {key} is {here!r} there and "
                f"{wanted!r} here; give the source that the model was loaded from, with its options"
            )
        return partial(self._write, model)

    def _write(self, model: Model, number: int) -> None:
        found = self.work.compute(model, number)
        identity = {**found.manifest.identity, PIECE: self._wanted(number)}
        made = Manifest(identity, found.manifest.circumstance)
        found.from_parts(found.arrays(), found.coords, made).save(self.path(number))
