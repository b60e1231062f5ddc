"""The files of one shard of a store: written whole, claimed by one writer, checked by sums, read through a memory map.

Names are computed from the shard's number and are never read from a file.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow
import pyarrow.parquet
from filelock import SoftFileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core import InputError, atomic_write

# What a shard is made of; a fourth file, its receipt, is written last.
PARTS = {"activations": ".safetensors", "rows": ".rows.parquet", "runs": ".runs.parquet"}
DISK_ERRORS = (OSError, SafetensorError)  # safetensors tells a full disk in an error of its own

Part = tuple[int, int]
FaultKind = Literal["missing", "lost", "truncated", "damaged", "foreign"]
ADVICE: Mapping[FaultKind, str] = {
    "missing": "it was not written yet: fill the store",
    "lost": "its shard was whole and it is gone: repair the store, then fill it",
    "truncated": "it has another size than when it was written: repair the store, then fill it",
    "damaged": "its bytes are not those that were written: repair the store, then fill it",
    "foreign": "it belongs to another store or to another place in it: move it away, then fill the store",
}


class ClaimedError(InputError):
    """Another live process is writing this."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file of a store; as text it says what to do."""

    shard: int
    file: Path
    kind: FaultKind

    def __str__(self) -> str:
        return f"{self.file} is {self.kind}: {ADVICE[self.kind]}"


@dataclass(frozen=True)
class Receipt:
    """What a shard holds, with the size and the sha256 of its files; a shard is there if and only if its receipt is.

    store: the hash of the store's identity; positions: rows by label; unmatched: runs in which a wildcard found nothing
    """

    shard: int
    store: str
    runs: int
    rows: int
    positions: Mapping[str, int]
    unmatched: Mapping[str, int]
    files: Mapping[str, Mapping[str, Any]]

    def text(self) -> str:
        """Sorted JSON that ends with its own hash."""
        return canonical({**asdict(self), "sha256": sha256_of_text(canonical(asdict(self)))})

    @classmethod
    def read(cls, path: Path) -> "Receipt | None":
        """The receipt in a file; None where it is not the text that was written."""
        try:
            content = json.loads(path.read_text())
            told = content.pop("sha256")
            made = cls(**content) if set(content) == {field.name for field in fields(cls)} else None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        whole = made is not None and told == sha256_of_text(canonical(content)) and set(made.files) == set(PARTS)
        return made if whole else None


@dataclass(frozen=True)
class ShardFiles:
    """Where shard `number` of the store with identity hash `store` lies in `folder`."""

    folder: Path
    number: int
    store: str

    @property
    def name(self) -> str:
        """The start of every file name of the shard."""
        return f"{self.number:05d}"

    @property
    def receipt_path(self) -> Path:
        """The file that is written last."""
        return self.folder / "shards" / f"{self.name}.json"

    def path(self, part: str) -> Path:
        """The file of one of the `PARTS`."""
        return self.folder / "shards" / f"{self.name}{PARTS[part]}"

    def fault(self, *, deep: bool = False) -> Fault | None:
        """What is wrong with the shard by its receipt and the sizes of its files; `deep` reads all bytes."""
        if not self.receipt_path.exists():
            return self._fault(self.receipt_path, "missing")
        receipt = Receipt.read(self.receipt_path)
        if receipt is None:
            return self._fault(self.receipt_path, "damaged")
        if (receipt.shard, receipt.store) != (self.number, self.store):
            return self._fault(self.receipt_path, "foreign")
        for part in PARTS:
            path, told = self.path(part), receipt.files[part]
            if not path.exists():
                return self._fault(path, "lost")
            if path.stat().st_size != told["bytes"]:
                return self._fault(path, "truncated")
            if deep and sha256_of(path) != told["sha256"]:
                return self._fault(path, "damaged")
        return None

    def _fault(self, path: Path, kind: FaultKind) -> Fault:
        return Fault(self.number, path, kind)

    def receipt(self) -> Receipt:
        """The receipt of a shard that is there; InputError names the file where something is wrong with it."""
        found = None if self.fault() else Receipt.read(self.receipt_path)
        if found is None:
            raise InputError(str(self.fault()))
        return found

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the only writer of the shard; ClaimedError names a live one, and that of a dead process is taken over."""
        with ExitStack() as held:
            try:
                lock = self.folder / "shards" / f"{self.name}.lock"
                held.enter_context(claim(lock, f"shard {self.number} of {self.folder}"))
            except OSError as error:
                raise self._refused(error) from error
            yield

    def save(
        self, tensors: dict[str, Tensor], tables: Mapping[str, pyarrow.Table], circumstance: object, **counts: Any
    ) -> None:
        """Write the shard, its receipt last; where the disk refuses, nothing of it is left and InputError says so."""
        header = {"loadbearing": canonical({"shard": self.number, "store": self.store})}
        writers: dict[str, Callable[[Path], object]] = {
            "activations": lambda path: save_file(tensors, path, header),
            "rows": lambda path: _write_table(tables["rows"], path),
            "runs": lambda path: _write_table(tables["runs"], path),
        }
        try:
            files = {part: durable_write(self.path(part), write) for part, write in writers.items()}
            write_text(self.folder / "circumstances" / f"{self.name}.json", canonical(circumstance))
            receipt = Receipt(shard=self.number, store=self.store, files=files, **counts)
            write_text(self.receipt_path, receipt.text())
        except DISK_ERRORS as error:
            self.clear()
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> InputError:
        return InputError(
            f"shard {self.number} could not be written to {self.folder} ({error}); nothing of it is left, and the "
            "other shards can be read: make room and fill the store again, it goes on where it stopped"
        )

    def clear(self) -> None:
        """Remove the shard, its receipt first, and what a killed writer of it left."""
        self.receipt_path.unlink(missing_ok=True)
        shards = self.folder / "shards"
        for path in [*map(self.path, PARTS), *shards.glob(f".{self.name}-*"), *shards.glob(f".{self.name}.*")]:
            path.unlink(missing_ok=True)

    def table(self, part: str) -> pd.DataFrame:
        """The rows or the runs, as they were written."""
        path = self.path(part)
        try:
            frame: pd.DataFrame = pyarrow.parquet.read_table(path, memory_map=True).to_pandas()
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{Fault(self.number, path, 'damaged')} ({error})") from error
        return frame

    @contextmanager
    def tensors(self) -> Iterator[Any]:
        """The opened file of activations: `get_slice(name)[a:b]` reads no more than that."""
        path = self.path("activations")
        try:
            opened = safe_open(path, framework="pt")
        except DISK_ERRORS as error:
            raise InputError(f"{Fault(self.number, path, 'damaged')} ({error})") from error
        with opened as file:
            yield file


def _write_table(table: pyarrow.Table, path: Path) -> None:
    # The format is fixed here: the bytes must not follow a changed default.
    pyarrow.parquet.write_table(table, path, version="2.6", compression="zstd", compression_level=3)


@contextmanager
def claim(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file; ClaimedError names a live process that holds it, and that of a dead one is taken over."""
    lock = SoftFileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ClaimedError(
            f"{what} is being written by {_holder(path)}; if that process is gone, delete {path}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _holder(lock: Path) -> str:
    """The process that a lock file names; filelock writes process number and host on lines of their own."""
    lines = lock.read_text().split("\n") if lock.exists() else []
    return f"process {lines[0]} on {lines[1]}" if len(lines) > 1 else "another process"


def durable_write(path: Path, write: Callable[[Path], object]) -> dict[str, Any]:
    """`atomic_write` that also survives a power cut; returns the size and the sha256 of the file.

    Without the flushes a receipt could reach the disk before the files that it vouches for. Figures and results, which
    are made again in no time, do without.
    """
    told: dict[str, Any] = {}

    def flushed(temporary: Path) -> None:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        told.update(bytes=temporary.stat().st_size, sha256=sha256_of(temporary))

    atomic_write(path, flushed)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return told


def write_text(path: Path, text: str) -> None:
    """Write a small text file, durably."""
    durable_write(path, lambda temporary: temporary.write_text(text + "\n"))


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_text(text: str) -> str:
    """The sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(content: object) -> str:
    """Sorted JSON: the same content is the same text."""
    return json.dumps(content, sort_keys=True, indent=1)


def numbers_of(count: int, part: Part) -> list[int]:
    """The numbers below `count` that belong to the k-th of n parts.

    >>> numbers_of(8, (2, 3))
    [1, 4, 7]
    """
    k, n = part
    if not 1 <= k <= n:
        raise InputError(f"part={part}: expected (k, n) with k from 1 to n")
    return list(range(k - 1, count, n))
