"""Reading a store: a shard, or one site, layer and position over all shards; what is damaged is named, never read."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..core import InputError, UnknownNameError, check_name
from ..tasks import Task
from ..tasks import load as load_task
from .format import Mode
from .model import Model
from .record import Activations
from .runs import Run, Runs
from .sites import site_name
from .spans import labels_at
from .store_files import Fault, Receipt, ShardFiles, canonical, sha256_of_text
from .store_identity import difference
from .store_tables import read_runs


@dataclass(frozen=True, eq=False)
class StoreReader:
    """What can be done with a store without a model: everything but filling it."""

    folder: Path
    identity: Mapping[str, Any] = field(repr=False)
    partial: bool = False
    check: bool = True
    _checked: set[int] = field(default_factory=set, init=False, repr=False)

    @property
    def n_shards(self) -> int:
        """The number of shards when the store is full."""
        return int(self.identity["shards"])

    def _files(self, number: int) -> ShardFiles:
        if not 0 <= number < self.n_shards:
            raise InputError(f"shard {number}: this store has shards 0 to {self.n_shards - 1}")
        return ShardFiles(self.folder, number, sha256_of_text(canonical(self.identity)))

    def _whole(self, numbers: Sequence[int] | None = None) -> list[tuple[ShardFiles, Receipt]]:
        """The shards to read; InputError names what is truncated, or missing."""
        found = []
        for files in map(self._files, range(self.n_shards) if numbers is None else numbers):
            fault = files.fault()
            if fault is None:
                found.append((files, files.receipt()))
            elif fault.kind != "missing" or numbers is not None:
                raise InputError(str(fault))
            elif not self.partial:
                raise InputError(f"{fault}; or read the others by Store.open(folder, partial=True)")
        return found

    def _table(self, files: ShardFiles, part: str) -> pd.DataFrame:
        """A table of a shard, the bytes of all of its files checked before the first use."""
        if self.check and files.number not in self._checked:
            if fault := files.fault(deep=True):
                raise InputError(str(fault))
            self._checked.add(files.number)
        return files.table(part)

    def _tables(self) -> Iterator[tuple[ShardFiles, pd.DataFrame]]:
        """The rows of every shard, runs counted over the shards."""
        first = 0
        for files, receipt in self._whole():
            rows = self._table(files, "rows")
            yield files, rows.assign(run=rows["run"] + first)
            first += receipt.runs

    def __len__(self) -> int:
        """The number of rows."""
        return sum(receipt.rows for _, receipt in self._whole())

    @property
    def unmatched(self) -> dict[str, int]:
        """In how many runs a wildcard position matched nothing, by position."""
        found: Counter[str] = Counter()
        for _, receipt in self._whole():
            found.update(receipt.unmatched)
        return dict(found)

    @property
    def rows(self) -> pd.DataFrame:
        """A row a (run, position), as in `Activations`; all of them in memory (`batches` reads them by the shard)."""
        return _joined([rows for _, rows in self._tables()])

    def shard(self, number: int) -> Activations:
        """The activations of one shard."""
        ((files, receipt),) = self._whole([number])
        rows, layers = self._table(files, "rows"), self.identity["layers"]
        with files.tensors() as file:
            values = {
                site: torch.stack([file.get_tensor(tensor_name(site, layer)) for layer in layers], dim=1)
                for site in self.identity["sites"]
            }
        return Activations(values, tuple(layers), rows, dict(receipt.unmatched))

    def batches(
        self, site: str, layer: int | None = None, position: str | None = None, *, size: int | None = None
    ) -> Iterator[tuple[Float[Tensor, "rows d_model"], pd.DataFrame]]:
        """Features `[rows, d_model]` of one site, layer and position, and their rows, a shard or `size` rows at a time.

        Files are mapped, so that memory holds one shard's rows and no more features than are yielded.
        """
        name = self._named(site, layer)
        labels = self._labels(position)
        for files, rows in self._tables():
            rows = rows if position is None else rows[rows["position"].isin(labels)]
            step = size or max(1, len(rows))
            with files.tensors() as file:
                values = file.get_slice(name)
                for start in range(0, len(rows), step):
                    chosen = rows.iloc[start : start + step]
                    at = torch.tensor(chosen.index.to_list(), dtype=torch.long)
                    first = int(at[0])
                    yield values[first : int(at[-1]) + 1][at - first], chosen.reset_index(drop=True)

    def select(
        self, site: str, layer: int | None = None, position: str | None = None
    ) -> tuple[Float[Tensor, "rows d_model"], pd.DataFrame]:
        """Features `[rows, d_model]` of one site, layer and position, and their rows, as `Activations.select` gives."""
        found = list(self.batches(site, layer, position))
        if found:
            return torch.cat([features for features, _ in found]), _joined([rows for _, rows in found])
        for files, rows in self._tables():
            with files.tensors() as file:
                return file.get_tensor(self._named(site, layer))[:0], rows.iloc[:0]
        raise InputError(f"{self.folder} has no shard yet: fill it")

    def _named(self, site: str, layer: int | None) -> str:
        name, spelled = site_name(site)
        check_name("recorded site", name, self.identity["sites"])
        layer = spelled if layer is None else layer
        if layer is None or layer not in self.identity["layers"]:
            raise InputError(f"layer {layer} was not recorded: recorded are {self.identity['layers']}")
        return tensor_name(name, layer)

    def _labels(self, position: str | None) -> list[str]:
        """The labels that a position, with or without a wildcard, stands for."""
        there = {label for _, receipt in self._whole() for label in receipt.positions}
        known = sorted(there | {label for label in self.identity["positions"] if ".*" not in label})
        return known if position is None else labels_at(position, known)

    def runs(self, model: Model, *, shards: Sequence[int] | None = None, task: Task | None = None) -> Runs:
        """The runs of the store, or of some of its shards, as `generate` gave them: analyses can go on from them.

        task: what the problems are of; needed where the store was opened and its task is not made from a spec. Raises
        InputError for another model than that of the store.
        """
        differs = difference(self.identity["model"], model.identity(), "model")
        if differs is not None:
            key, told, given = differs
            raise InputError(f"{self.folder} holds runs of another model: {key} is {told!r} there and {given!r} here")
        task = task or self._task()
        mode: Mode = self.identity["mode"]
        items: list[Run] = []
        for files, _ in self._whole(shards):
            try:
                items += read_runs(self._table(files, "runs"), mode, task)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(f"{files.path('runs')} holds no runs: {error}") from error
        return Runs(tuple(items), mode, model)

    def _task(self) -> Task:
        spec = self.identity["task"]
        try:
            return load_task(spec)
        except UnknownNameError as error:
            told = f"the problems of {self.folder} are of the task {spec!r}, which no spec makes: pass task="
            raise InputError(told) from error

    def verify(self) -> list[Fault]:
        """Read all bytes of all shards; what is missing, truncated or damaged, each with its file and what to do."""
        faults = [self._files(number).fault(deep=True) for number in range(self.n_shards)]
        return [fault for fault in faults if fault is not None]

    def repair(self) -> list[int]:
        """Remove truncated and damaged shards, so that `fill` writes them again; the numbers of those removed."""
        removed = []
        for fault in self.verify():
            files = self._files(fault.shard)
            if fault.kind in ("lost", "truncated", "damaged"):
                with files.claimed():
                    if files.fault(deep=True) is not None:  # and nobody has written it anew by now
                        files.clear()
                        removed.append(fault.shard)
        return removed


def tensor_name(site: str, layer: int) -> str:
    """The name of a site's tensor of one layer in a shard."""
    return f"{site}.{layer}"


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of several; those without rows say nothing of columns."""
    full = [frame for frame in frames if len(frame)] or list(frames[:1])
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame()
