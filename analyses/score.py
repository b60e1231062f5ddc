"""What a reader says: the log probability of several answers, each to its end, in one pass where a model allows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..hooks import Model
from ..hooks.cache import Caches
from ..hooks.memory import MEMORY
from ..hooks.splice import Job, pads_exactly, run_jobs

Answers = Sequence[tuple[int, ...] | None]


@dataclass(frozen=True)
class Reading:
    """One reader: log_p of each answer (NaN where there is none), entropy of the first token in nats, the most likely
    first token, and the state that predicts it (NaN where the model shows none)."""

    log_p: NDArray[Any]
    entropy: float
    top: int
    state: NDArray[Any]


def score(
    model: Model,
    readers: Mapping[Any, Job],
    answers: Mapping[Any, Answers],
    caches: Caches,
    memory: float = MEMORY,
) -> dict[Any, Reading]:
    """Run every reader, and force each of its answers after it.

    The answers of a reader are branches of one row that do not see each other, so that its past is copied once; models
    that do not take our masks run each answer by itself. memory: as in `run_jobs`.
    """
    forced = {key: tuple(answer[:-1] if answer else () for answer in answers[key]) for key in readers}
    side_by_side = any(map(any, forced.values())) and pads_exactly(model)
    jobs = {key: replace(job, branches=forced[key]) if side_by_side else job for key, job in readers.items()}
    with _last_states(model) as seen:

        def read(logits: Float[Tensor, "batch pos vocab"], keys: list[Any]) -> Iterator[Reading]:
            states = seen.pop()[:, -logits.shape[1] :].float().cpu().numpy() if seen else None
            yield from _read(logits, states, [jobs[key] for key in keys], [answers[key] for key in keys])

        last = max(len(job.tokens) for job in jobs.values())
        found: dict[Any, Reading] = run_jobs(model, jobs, caches, read, last=last, memory=memory)
    if not side_by_side:
        for (key, c), rest in _later(model, readers, answers, caches, memory).items():
            found[key].log_p[c] += rest
    return found


def _read(
    logits: Tensor, states: NDArray[Any] | None, jobs: Sequence[Job], answers: Sequence[Answers]
) -> Iterator[Reading]:
    """Readings of a batch whose rows end at the same place."""
    width = logits.shape[1]
    trunk = [width - len(job.tokens) + len(job.ids) - 1 for job in jobs]  # the position that predicts the answer
    rows = torch.arange(len(jobs), device=logits.device)
    first = logits[rows, torch.tensor(trunk, device=logits.device)].log_softmax(-1)
    entropy = -(first.exp() * first).nan_to_num().sum(-1)
    log_p = logits.log_softmax(-1) if any(job.branches for job in jobs) else first[:, None]
    wanted: list[tuple[int, int, int]] = []
    owner: list[tuple[int, int]] = []
    for row, (job, own) in enumerate(zip(jobs, answers, strict=True)):
        at = trunk[row] if job.branches else 0
        for c, answer in enumerate(own):
            places = [at]
            if job.branches:
                start = trunk[row] + 1 + sum(map(len, job.branches[:c]))
                places += range(start, start + len(job.branches[c]))
            for place, token in zip(places, answer or (), strict=False):
                wanted.append((row, place, token))
                owner.append((row, c))
    index = torch.tensor(wanted, device=logits.device).T
    picked = log_p[index[0], index[1], index[2]].double().cpu().numpy()
    sums = np.full((len(jobs), max(map(len, answers))), np.nan)
    for (row, c), value in zip(owner, picked, strict=True):
        sums[row, c] = value + (0.0 if np.isnan(sums[row, c]) else sums[row, c])
    told = zip(sums, entropy.tolist(), first.argmax(-1).tolist(), trunk, strict=True)
    for row, (own_log_p, nats, top, place) in enumerate(told):
        yield Reading(own_log_p, nats, top, states[row, place] if states is not None else np.full(1, np.nan))


def _later(
    model: Model, readers: Mapping[Any, Job], answers: Mapping[Any, Answers], caches: Caches, memory: float
) -> dict[Any, float]:
    """Log probability of every answer's tokens after the first, each in a pass of its own."""
    jobs, wanted = {}, {}
    for key, job in readers.items():
        for c, answer in enumerate(answers[key]):
            if answer and len(answer) > 1:
                jobs[key, c] = Job((*job.past, key), answer[:-1])
                wanted[key, c] = answer[1:]

    def read(logits: Tensor, keys: list[Any]) -> Iterator[float]:
        log_p = logits.log_softmax(-1)
        for row, key in enumerate(keys):
            tokens = torch.tensor(wanted[key], device=logits.device)
            yield float(log_p[row, -len(tokens) :].gather(-1, tokens[:, None]).sum())

    last = max(map(len, wanted.values()), default=1)
    return run_jobs(model, jobs, caches, read, keep=False, last=last, memory=memory)


@contextmanager
def _last_states(model: Model) -> Iterator[list[Tensor]]:
    """The states that the model's output layer is given, the newest last; none for models without such a layer."""
    layer = getattr(model.module, "get_output_embeddings", lambda: None)()
    seen: list[Tensor] = []
    if layer is None:
        yield seen
        return

    def keep(_: Any, given: tuple[Tensor, ...]) -> None:
        seen[:] = [given[0]]

    handle = layer.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
