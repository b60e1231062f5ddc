"""Those who do the shards of a job: this process, other processes of this machine, actors of a Ray cluster."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, Protocol, runtime_checkable

from ..core import InputError
from .store_files import Part


@runtime_checkable
class Job(Protocol):
    """Work in numbered shards. It is sent to workers, so it holds names, texts and numbers, and no weights."""

    def missing(self, part: Part) -> list[int]:
        """The shards still to be done in the k-th of n parts, k from 1."""
        ...

    def open(self) -> Callable[[int], object]:
        """Once a worker: load what is needed; returned is what does one shard, whole or not at all."""
        ...


class Worker:
    """What runs where the work is done: it opens the job (None) before it does shards of it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.do: Callable[[int], object] | None = None

    def run(self, number: int | None) -> None:
        """Do a shard, or open the job (None)."""
        if number is None:
            self.do = self.job.open()
        else:
            assert self.do is not None
            self.do(number)


class Here:
    """This process as a worker."""

    lost: tuple[type[Exception], ...] = ()

    def __init__(self, job: Job) -> None:
        self.worker = Worker(job)

    def start(self, number: int | None) -> "Future[Any]":
        """Begin a shard; what goes wrong is in the future."""
        future: Future[Any] = Future()
        try:
            self.worker.run(number)
            future.set_result(None)
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing to end."""


class InProcess:
    """Another process of this machine as a worker; a pool of its own, since a pool breaks as a whole."""

    lost: tuple[type[Exception], ...] = (BrokenProcessPool,)

    def __init__(self, job: Job) -> None:
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), _begin, (job,))

    def start(self, number: int | None) -> "Future[Any]":
        """Begin a shard there."""
        return self.pool.submit(_run, number)

    def close(self) -> None:
        """End the process, shards that wait with it."""
        self.pool.shutdown(cancel_futures=True)


class Actor:
    """A process somewhere in a Ray cluster as a worker."""

    def __init__(self, job: Any, gpus: float) -> None:
        ray = _ray()
        self.lost = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
        # It is replaced here, by a new one anywhere: what Ray restarts must open the job again, and is not told to.
        self.actor = ray.remote(Worker).options(num_cpus=1, num_gpus=gpus, max_restarts=0).remote(job)

    def start(self, number: int | None) -> "Future[Any]":
        """Begin a shard there."""
        future: Future[Any] = self.actor.run.remote(number).future()
        return future

    def close(self) -> None:
        """End the actor at once."""
        _ray().kill(self.actor)


Hand = Here | InProcess | Actor
_mine: list[Worker] = []  # the worker that a process of `InProcess` is


def _begin(job: Job) -> None:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    Thread(target=end_with_parent, daemon=True).start()
    _mine.append(Worker(job))


def end_with_parent() -> None:
    """Nothing else tells a worker that its parent was killed."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(number: int | None) -> None:
    _mine[0].run(number)


def maker(engine: str, workers: int, gpus: float | None) -> Callable[[Job], Hand]:
    """What makes a worker for a job."""
    if engine == "local":
        return InProcess if workers > 1 else Here
    ray = _ray()
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that starts here tells nobody
        ray.init(log_to_driver=False)
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
    sent: dict[int, Any] = {}

    def make(job: Job) -> Hand:
        if id(job) not in sent:
            sent[id(job)] = ray.put(job)  # once, however many actors read it
        return Actor(sent[id(job)], gpus)

    return make


def _ray() -> Any:
    """The library, which few need."""
    try:
        return import_module("ray")
    except ImportError as error:
        raise InputError("engine='ray' needs Ray: pip install 'loadbearing[ray]'") from error
