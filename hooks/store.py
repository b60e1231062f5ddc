"""Activations and runs on disk, in shards: more than memory holds, and a stopped job goes on where it stopped."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import SoftFileLock
from torch import Tensor
from tqdm import tqdm

from ..core import InputError, circumstance
from ..tasks import Problem
from .format import Mode
from .model import Model
from .record import Activations, record
from .runs import Runs
from .spans import resolve
from .store_files import ClaimedError, Part, canonical, numbers_of, write_text
from .store_identity import Estimate, Source, Transcripts, difference, identity_of, read_identity, rows_fixed
from .store_read import StoreReader, tensor_name
from .store_tables import rows_table, runs_table

STORE = "store.json"


@dataclass(frozen=True, eq=False)
class Store(StoreReader):
    """A folder of recorded activations, with the runs that they are of; made by `create`, read after `open`.

    A shard holds the runs of `shard_size` problems, and is the unit of work: it is there whole or not at all, and its
    bytes are the same whoever writes it, on the same kind of machine with the same number of threads.

    identity: what the store is of, all that changes its bytes; partial, check: see `open`
    In its tables `run` is the index in `runs` of the same store (for `shard`: of that shard).
    """

    source: Source | None = field(default=None, repr=False)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model: Model,
        problems: Sequence[Problem],
        *,
        sites: Sequence[str] = ("resid_post",),
        positions: Sequence[str] = ("prompt[-1]",),
        layers: Sequence[int] | None = None,
        mode: Mode = "cot",
        cot: str | Transcripts = "model",
        dtype: torch.dtype | str | None = None,
        shard_size: int = 256,
        **generation: Any,
    ) -> "Store":
        """A new store, or the one that is in `folder` already if it is of the same; `fill` then fills it.

        sites, positions, layers: as in `record`; problems: any sequence, read a shard at a time
        cot: "model" (its own), "task" (gold) or transcripts by the problem's key; dtype: as recorded unless it is given
        generation: options of `generate` (of `replay` with another `cot`); `batch_size` is that of the recording too

        Raises InputError for a folder with something else in it, or with a store of another identity: the first key
        that differs is named with both values.

        >>> import tempfile
        >>> from loadbearing.hooks import load
        >>> model = load("organism:copy-direct")
        >>> folder = tempfile.mkdtemp()
        >>> store = Store.create(folder, model, model.task.problems(8), positions=["cue[-1]"], shard_size=3)
        >>> store.fill(progress=False)
        [0, 1, 2]
        >>> features, rows = Store.open(folder).select("resid_post", layer=1, position="cue[-1]")
        >>> features.shape[0], rows["run"].tolist()
        (8, [0, 1, 2, 3, 4, 5, 6, 7])
        """
        folder = Path(folder)
        source = Source(model, problems, cot)
        identity = identity_of(source, sites, positions, layers, mode, dtype, shard_size, generation)
        try:
            for name in ("shards", "circumstances"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            with SoftFileLock(folder / "store.lock", timeout=60):
                if not (folder / STORE).exists():
                    _check_empty(folder)
                    write_text(folder / STORE, canonical(identity))
        except OSError as error:
            told = f"no store can be made at {folder} ({error}): make room, or choose another folder"
            raise InputError(told) from error
        differs = difference(identity, read_identity(folder / STORE))
        if differs is not None:
            key, wanted, found = differs
            raise InputError(
                f"{folder} is a store of something else: {key} is {found!r} there and {wanted!r} here; choose another "
                "folder, or give what it was made with"
            )
        return cls(folder, identity, source=source)

    @classmethod
    def open(cls, folder: str | Path, *, partial: bool = False, check: bool = True) -> "Store":
        """The store in a folder, to be read: without a model, and by as many readers as like.

        partial: read what is there while shards are missing, which is an error otherwise
        check: compare the sha256 of a shard's files before its first use; sizes are compared in any case

        Raises InputError where there is no store.
        """
        return cls(Path(folder), read_identity(Path(folder) / STORE), partial, check)

    def _filled_from(self) -> Source:
        if self.source is None:
            raise InputError(f"{self.folder} was opened to be read: call Store.create as when it was made, to fill it")
        return self.source

    def missing(self, part: Part = (1, 1)) -> list[int]:
        """The shards still to be written in the k-th of n parts of the store, k from 1."""
        return [number for number in numbers_of(self.n_shards, part) if self._files(number).fault() is not None]

    def write(self, number: int) -> bool:
        """Compute and write one shard; False where it is there already.

        Raises InputError where another live process is writing it (it is named), where the shard belongs to another
        store, and where the disk is full: then nothing of the shard is left.
        """
        source, files = self._filled_from(), self._files(number)
        with files.claimed():
            fault = files.fault()
            if fault is None:
                return False
            if fault.kind == "foreign":
                raise InputError(str(fault))
            files.clear()
            began = time.perf_counter()
            runs = source.runs(self._problems(source, number), self.identity)
            acts = self._recorded(runs)
            facts = circumstance(began, host=platform.node(), process=os.getpid(), threads=torch.get_num_threads())
            labels = {str(label): int(n) for label, n in acts.rows["position"].value_counts().items()}
            counts = {"runs": len(runs), "rows": len(acts.rows), "positions": labels, "unmatched": acts.unmatched}
            tables = {"rows": rows_table(acts.rows), "runs": runs_table(runs)}
            files.save(self._tensors(acts), tables, facts, **counts)
        return True

    def fill(self, part: Part = (1, 1), *, progress: bool = True) -> list[int]:
        """Write the missing shards of the k-th of n parts, and return those that this call wrote.

        Shards that another process is writing are left to it. A killed call leaves whole shards only: the same call
        goes on. Several processes may fill one store, each a part of it (`(k, n)` in a job array) or all of it.
        """
        written = []
        for number in tqdm(self.missing(part), desc="shards", disable=not progress, leave=False):
            try:
                if self.write(number):
                    written.append(number)
            except ClaimedError:
                continue  # what it leaves, should it be killed, is missing for the next call
        return written

    def _problems(self, source: Source, number: int) -> Sequence[Problem]:
        size = self.identity["shard_size"]
        return source.problems[number * size : (number + 1) * size]

    def _recorded(self, runs: Runs) -> Activations:
        options = {name: self.identity["generation"][name] for name in ("batch_size", "memory")}
        sites, positions, layers = (self.identity[name] for name in ("sites", "positions", "layers"))
        return record(runs.model, runs, sites, positions, layers=layers, **options)

    def _tensors(self, acts: Activations) -> dict[str, Tensor]:
        """A tensor for each site and layer: what is read together lies together."""
        kept = self.identity["dtype"]
        if kept is None and not len(acts.rows):  # nothing was recorded that could say
            kept = self.identity["model"]["dtype"]
        return {
            tensor_name(site, layer): values[:, i].to(getattr(torch, kept) if kept else values.dtype).contiguous()
            for site, values in acts.values.items()
            for i, layer in enumerate(acts.layers)
        }

    def estimate(self, sample: int = 16) -> Estimate:
        """How much the filled store will hold, before or while it is filled.

        Where positions do not fix the number of rows and no shard is there yet, `sample` problems are run.
        """
        source = self._filled_from()
        positions, count = self.identity["positions"], len(source.problems)
        there = [files for files in map(self._files, range(self.n_shards)) if files.fault() is None]
        if rows_fixed(positions) and isinstance(source.cot, str):
            each, basis = float(len(positions) * self.identity["generation"].get("samples", 1)), "positions"
        elif there:
            done = sum(len(self._problems(source, files.number)) for files in there)
            each, basis = sum(files.receipt().rows for files in there) / done, "shards"
        else:
            sample = min(sample, count)
            runs = source.runs([source.problems[i * count // sample] for i in range(sample)], self.identity)
            each, basis = sum(len(resolve(run.spans, at)) for run in runs for at in positions) / sample, "sample"
        config: Any = source.model.module.config
        item = getattr(torch, self.identity["dtype"] or self.identity["model"]["dtype"]).itemsize
        places = len(self.identity["sites"]) * len(self.identity["layers"])
        rows = round(each * count)
        return Estimate(rows, rows * places * config.hidden_size * item, basis)


def _check_empty(folder: Path) -> None:
    """Raise InputError for a folder with anything in it that no store put there; its shards are checked by use."""
    ours = {"shards", "circumstances", "store.lock"}
    for name in sorted({path.name for path in folder.iterdir()} - ours):
        if not name.startswith(".store-"):  # left by a killed process
            raise InputError(f"{folder} holds {name!r} and no store: nothing was written; choose another folder")
