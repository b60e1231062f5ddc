"""The folder of a study of the user's own model: whose it is, what is finished, the runs and the results so far."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pyarrow import parquet

from ..core import InputError, Result, atomic_write, load_result
from ..hooks import Mode, Model, Run, Runs
from ..hooks.store_files import claim
from ..hooks.store_identity import difference
from ..hooks.store_tables import problem_content, read_runs, runs_table
from ..tasks import Problem
from .own_draw import Drawn, Options

STUDY = "study.json"
LOCK = "study.lock"
CHUNK = 64  # problems whose runs are written together: what a killed study may lose


@dataclass
class Folder:
    """What is finished: by step the names of its results, or the reason why there is none."""

    path: Path
    identity: Mapping[str, Any]
    finished: dict[str, Any] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(cls, path: Path, identity: Mapping[str, Any], resume: bool) -> Iterator["Folder"]:
        """A new folder, or, to resume, the one that is there if it is of the same study; held until the block ends.

        Raises InputError for a folder with something in it unless it is resumed, for one of another study (it names
        what differs), and for one that another live process is writing (it names that one).
        """
        known = path / STUDY
        exists = InputError(
            f"{path} exists and is not an empty folder: nothing was overwritten; choose another folder, or pass "
            "--resume to go on with the study in it"
        )
        if not known.is_file() and not _empty(path):
            if resume:
                raise InputError(f"{path} holds no study to resume ({STUDY} is missing): choose another folder")
            raise exists
        path.mkdir(parents=True, exist_ok=True)
        with claim(path / LOCK, f"the study in {path}"):
            if known.is_file() and not resume:
                raise exists
            made = cls(path, identity, _finished(known, identity) if known.is_file() else {})
            made._write()
            yield made

    def _write(self) -> None:
        text = json.dumps({"identity": self.identity, "finished": self.finished}, indent=1) + "\n"
        atomic_write(self.path / STUDY, lambda path: path.write_text(text))

    def finish(self, step: str, results: Mapping[str, Result], reason: str | None = None) -> None:
        """Keep what a step gave."""
        for name, result in results.items():
            result.save(self._result(name))
        self.finished[step] = reason if reason is not None else list(results)
        self._write()

    def results(self, step: str) -> dict[str, Result] | str:
        """What a finished step gave: its results, or the reason why there is none."""
        told = self.finished[step]
        return told if isinstance(told, str) else {name: load_result(self._result(name)) for name in told}

    def _result(self, name: str) -> Path:
        return self.path / "results" / f"{name}.safetensors"

    def runs(
        self,
        model: Model,
        mode: Mode,
        problems: Sequence[Problem],
        make: Callable[[list[Problem]], Runs],
        told: Callable[[], object],
    ) -> Runs:
        """The runs of a mode, those that are written already read, the others made and written, some at a time."""
        items: list[Run] = []
        for start in range(0, len(problems), CHUNK):
            path = self.path / "runs" / f"{mode}-{start:05d}.parquet"
            if not path.is_file():
                table = runs_table(list(make(list(problems[start : start + CHUNK]))))
                atomic_write(path, partial(parquet.write_table, table))
            # Read back even when they were just made: a study that was resumed is to go on from the very same.
            items += read_runs(parquet.read_table(path).to_pandas(), mode, problems[0].task)
            told()
        return Runs(tuple(items), mode, model)


def _empty(path: Path) -> bool:
    """Whether a folder is not there, or has nothing in it but what a study that was killed at its start leaves."""
    ours = (LOCK, f".{Path(STUDY).stem}-")
    return not path.exists() or (path.is_dir() and all(entry.name.startswith(ours) for entry in path.iterdir()))


def _finished(known: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What is finished of a study; InputError names what differs where it is another one."""
    told = json.loads(known.read_text())
    if found := difference(told["identity"], identity):
        key, there, here = found
        raise InputError(
            f"{known.parent} holds another study: {key} is {there!r} there and {here!r} here; pass what was passed "
            "then, or choose another folder"
        )
    finished: dict[str, Any] = told["finished"]
    return finished


def identity_of(model: Model, drawn: Drawn, options: Options) -> dict[str, Any]:
    """All that two studies must share for one to go on with the other's results."""
    asked = {name: value for name, value in asdict(options).items() if name != "memory"}
    found = {
        "model": model.identity(),
        "task": drawn.task.spec,
        "questions": _hash(drawn),
        "options": asked,
        "loadbearing": version("loadbearing"),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))  # as it will be read: tuples are lists
    return plain


def _hash(drawn: Drawn) -> str:
    """Of all problems and pairs and the given texts: a file may have changed under its name."""
    problems = [[problem.key, problem_content(problem)] for problem in drawn.all]
    pairs = [[pair.recipient.key, pair.donor.key, pair.variable] for pair in drawn.pairs]
    return hashlib.sha256(json.dumps([problems, pairs, drawn.texts]).encode()).hexdigest()[:16]
