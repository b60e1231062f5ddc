"""Work in shards: in this process, in several, or on a Ray cluster; a worker that dies is replaced."""

import re
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..core import InputError, Interrupted, check_name
from ..tasks import Problem
from .load import load
from .model import Model
from .store import STORE, Store
from .store_files import Part, numbers_of
from .workers import Hand, Job, maker

ENGINES = ("local", "ray")
TRIES = 3


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: every worker loads it for itself, and weights are never sent.

    source: "organism:NAME", a hub name, or a folder that every worker sees under this very path
    options: of `load`: `dtype`, `device_map`, `format` and so on

    Raises InputError for a model object.

    >>> ModelSource("organism:sft").load().name
    'sft'
    """

    source: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.source, str | Path):
            raise InputError(
                f"a {type(self.source).__name__} cannot be sent to workers: expected a name or a folder that each can "
                "load; write it to a folder that all of them see (save_pretrained of the model and of its tokenizer)"
            )

    def load(self) -> Model:
        """The model, loaded here."""
        return load(self.source, **self.options)


@dataclass(frozen=True, eq=False)
class StoreJob:
    """The filling of a store: each worker calls `Store.create(folder, source.load(), problems, ...)` and writes shards.

    options: the others of `Store.create`

    >>> import tempfile
    >>> source = ModelSource("organism:copy-direct")
    >>> problems = source.load().task.problems(8)
    >>> job = StoreJob(tempfile.mkdtemp(), source, problems, shard_size=3, options={"positions": ["cue[-1]"]})
    >>> run_shards(job, part=(1, 2), progress=False), run_shards(job, progress=False)
    ([0, 2], [1])
    """

    folder: str | Path
    source: ModelSource
    problems: Sequence[Problem]
    shard_size: int = 256
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).absolute())  # workers may be in another folder

    def missing(self, part: Part) -> list[int]:
        """The shards that are not there; whether a store that is there is of the same, `open` finds out."""
        if (Path(self.folder) / STORE).exists():
            return Store.open(self.folder).missing(part)
        return numbers_of(-(-len(self.problems) // max(1, self.shard_size)), part)

    def open(self) -> Callable[[int], object]:
        """Make the store, or go on with it."""
        return Store.create(
            self.folder, self.source.load(), self.problems, shard_size=self.shard_size, **self.options
        ).write


def run_shards(
    job: Job,
    *,
    part: Part = (1, 1),
    engine: str = "local",
    workers: int = 1,
    gpus: float | None = None,
    progress: bool = True,
) -> list[int]:
    """Do what is missing of a part of a job, and return the shards that this call did.

    part: `(k, n)`, the k-th of n parts, k from 1: of a job array, say
    engine: "local", in this process or, with `workers` above 1, in so many others of one thread each; or "ray", in
        actors on the cluster that `ray.init` finds (a new one on this machine if there is none)
    gpus: of each Ray actor; None: one, if the cluster has any

    A worker that dies is replaced, and its shard is done again; a shard that fails is tried `TRIES` times, after the
    others. A shard is written whole or not at all, so nothing is lost or done twice.

    Raises Interrupted (`partial`: the shards that were done) that names the shards that failed, when all others are
    done, or where workers die before they begin; what the job's `open` raises, at once.
    """
    check_name("engine", engine, ENGINES)
    if workers < 1:
        raise InputError(f"workers={workers}: expected 1 or more")
    crew = _Crew(maker(engine, workers, gpus), job, job.missing(part), workers, progress)
    try:
        done = crew.work()
    finally:
        crew.end()
    left = {number: error for number, error in crew.failed.items() if number in job.missing(part)}
    if left:
        told = "; ".join(f"shard {number} ({_said(error)})" for number, error in sorted(left.items())[:3])
        raise Interrupted(
            f"{len(left)} shards failed {TRIES} times, the others of this part are done: {told}. The same call tries "
            "them again",
            done,
        )
    return done


def part_of(text: str) -> Part:
    """The part that a text names, such as "3/8": the third of eight.

    >>> part_of("3/8")
    (3, 8)
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    k, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= k <= n:
        raise InputError(f"shard {text!r}: expected K/N with K from 1 to N, such as 3/8 for the third of eight parts")
    return k, n


class _Crew:
    """Workers, and the shards that they are at."""

    def __init__(
        self, make: Callable[[Job], Hand], job: Job, numbers: Sequence[int], workers: int, progress: bool
    ) -> None:
        self.make, self.job, self.progress = make, job, progress
        self.waiting = deque(numbers)
        self.hands: list[Hand] = []
        self.at: dict[Future[Any], tuple[Hand, int | None]] = {}
        self.failed: dict[int, Exception] = {}
        self.tries: Counter[int | None] = Counter()
        self.done: list[int] = []
        self.opened = False
        self.wanted = min(workers, max(1, len(numbers)))

    def work(self) -> list[int]:
        """Do all shards that can be done; the job is opened even if there is none, so that it is checked."""
        with tqdm(total=len(self.waiting), desc="shards", disable=not self.progress, leave=False) as bar:
            for _ in range(self.wanted):
                self._hire()
            while self.waiting or not self.opened or any(number is not None for _, number in self.at.values()):
                finished, _ = wait(self.at, return_when=FIRST_COMPLETED)
                for future in finished:
                    self._take(future)
                bar.update(len(self.done) - bar.n)
        return sorted(self.done)

    def _hire(self) -> None:
        hand = self.make(self.job)
        self.hands.append(hand)
        self._start(hand, None)

    def _start(self, hand: Hand, number: int | None) -> None:
        self.at[hand.start(number)] = hand, number

    def _take(self, future: "Future[Any]") -> None:
        """Note what became of a shard, and give the worker, or its successor, the next one."""
        hand, number = self.at.pop(future)
        error = _cause(future.exception())
        if error is None:
            self._note(number)
        else:
            self._count(hand, number, error)
        if isinstance(error, hand.lost):
            self.hands.remove(hand)
            hand.close()
            if self.waiting or not self.opened:
                self._hire()
        elif self.waiting:
            self._start(hand, self.waiting.popleft())

    def _note(self, number: int | None) -> None:
        if number is None:
            self.opened = True
            del self.tries[None]
        else:
            self.failed.pop(number, None)
            self.done.append(number)

    def _count(self, hand: Hand, number: int | None, error: Exception) -> None:
        """One failure more; where nothing can be opened, there is no point in going on."""
        self.tries[number] += 1
        if number is not None:
            self.failed[number] = error
            if self.tries[number] < TRIES:
                self.waiting.append(number)
        elif not isinstance(error, hand.lost):
            raise error
        elif self.tries[None] >= TRIES:
            raise Interrupted(
                f"workers died {TRIES} times before they could begin ({_said(error)}): is there memory for the model "
                "in each? A script that starts processes needs `if __name__ == '__main__':` around what it does",
                sorted(self.done),
            ) from error

    def end(self) -> None:
        """Let every worker go."""
        for hand in self.hands:
            hand.close()


def _cause(error: BaseException | None) -> Exception | None:
    """What was raised in a worker: Ray wraps it."""
    if error is None:
        return None
    inner = getattr(error, "cause", None)
    found = inner if isinstance(inner, Exception) else error
    if not isinstance(found, Exception):
        raise found
    return found


def _said(error: Exception) -> str:
    """The first line of an error, with its kind."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]
