"""Segments run one after the other over a key/value cache that is put together from several runs."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .cache import Caches, Layers, forward_over
from .masks import attention_kinds, position_mask
from .model import Model

ALONE = 16  # rows of equal length from which on a batch of their own, without padding, is worth it
FILLED = 0.8  # the share of a padded batch that must be tokens
EXACT = 1e-3  # of the spread of the logits: a mask that a model ignores is off by about the spread itself
_PADS: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Job:
    """Run `ids` over the caches `past`, in this order; positions follow on without a gap."""

    past: tuple[Hashable, ...]
    ids: tuple[int, ...]


@torch.no_grad()
def run_jobs(
    model: Model,
    jobs: Mapping[Any, Job],
    caches: Caches,
    read: Callable[[Tensor, list[Any]], Iterable[Any]] | None = None,
    *,
    batch_size: int = 512,
    keep: bool = True,
    last: int = 1,
) -> dict[Any, Any]:
    """Run every job; its cache is kept under its own key if `keep`.

    read: takes the float32 logits `[batch, pos, vocab]` of a batch's `last` positions and its keys, and returns what to
        remember of each; the logits themselves are let go

    Many jobs of the same lengths run in one batch without padding or mask: what the model sees is what it would see one
    by one, whatever its attention. Others share a batch behind masks built from positions, if the model takes them.
    """
    found: dict[Any, Any] = {}
    for chunk in _batches(model, jobs, caches, batch_size):
        logits, layers = _run(model, [jobs[key] for key in chunk], caches, last)
        if read is not None:
            found.update(zip(chunk, read(logits, chunk), strict=True))
        if keep:
            caches.add(chunk, layers, [jobs[key].ids for key in chunk])
    return found


def _batches(model: Model, jobs: Mapping[Any, Job], caches: Caches, size: int) -> Iterator[list[Any]]:
    """Jobs of equal lengths together; small groups of them joined where padding is exact and wastes little."""
    groups: dict[tuple[int, ...], list[Any]] = defaultdict(list)
    for key, job in jobs.items():
        groups[len(job.ids), *(caches.length(past) for past in job.past)].append(key)
    few: list[Any] = []
    for keys in groups.values():
        if len(keys) >= ALONE or len(groups) == 1 or not pads_exactly(model):
            yield from (keys[start : start + size] for start in range(0, len(keys), size))
        else:
            few += keys
    sizes = {key: (len(jobs[key].ids), sum(map(caches.length, jobs[key].past))) for key in few}
    chunk: list[Any] = []
    for key in sorted(few, key=sizes.__getitem__):
        wider = [*chunk, key]
        widest = max(sizes[k][0] for k in wider) + max(sizes[k][1] for k in wider)
        if chunk and (len(chunk) == size or sum(sum(sizes[k]) for k in wider) < FILLED * widest * len(wider)):
            yield chunk
            chunk = []
        chunk.append(key)
    if chunk:
        yield chunk


def pads_exactly(model: Model) -> bool:
    """Whether a padded batch behind our masks gives what each row gives alone: measured once a model, not assumed.

    Models with other kinds of attention (chunked, linear), or that take no such mask, are run in batches of equal
    length.
    """
    if model.module not in _PADS:
        _PADS[model.module] = _measure_padding(model)
    return _PADS[model.module]


def _measure_padding(model: Model) -> bool:
    config: Any = getattr(model.module, "config", None)
    vocabulary = getattr(config, "vocab_size", None)
    if vocabulary is None or set(attention_kinds(model.module)[1]) - {"full_attention", "sliding_attention"}:
        return False
    rows = [[(7 * i + 3 * n) % vocabulary for i in range(n)] for n in (5, 3, 8, 4)]
    caches = Caches()
    for key, row in enumerate(rows[:2]):
        _, layers = _run(model, [Job((), tuple(row))], caches, 1)
        caches.add([key], layers, [tuple(row)])
    jobs = [Job((key,), tuple(row)) for key, row in enumerate(rows[2:])]
    alone = torch.cat([_run(model, [job], caches, 1)[0] for job in jobs])
    try:
        together, _ = _run(model, jobs, caches, 1)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError):
        return False  # a model that takes no such mask
    limit = max(EXACT, 8 * torch.finfo(next(model.module.parameters()).dtype).eps) * alone.std()
    return bool((together - alone).abs().max() <= limit)


def _run(model: Model, jobs: Sequence[Job], caches: Caches, last: int) -> tuple[Tensor, Layers]:
    """One batch: every row is `[past][padding][padding][ids]`, so that all rows end at the same place."""
    device = model.device
    width = max(len(job.ids) for job in jobs)
    fill = jobs[0].ids[0]
    ids = torch.tensor([[fill] * (width - len(job.ids)) + list(job.ids) for job in jobs], device=device)
    rows = [job.past for job in jobs]
    past, token_ids = caches.assemble(rows, width)
    if len({(len(job.ids), *map(caches.length, job.past)) for job in jobs}) == 1:
        return forward_over(model, ids, past, token_ids, last=last)
    before = [sum(map(caches.length, row)) for row in rows]
    queries = torch.tensor(
        [[-1] * (width - len(job.ids)) + list(range(n, n + len(job.ids))) for n, job in zip(before, jobs, strict=True)],
        device=device,
    )
    slots = torch.arange(token_ids.shape[1], device=device).expand_as(token_ids)
    keys = torch.cat([slots.masked_fill(token_ids < 0, -1), queries], dim=1)
    mask = position_mask(model.module, queries, keys, next(model.module.parameters()).dtype)
    return forward_over(model, ids, past, token_ids, last=last, positions=queries.clamp(min=0), mask=mask)


@torch.no_grad()
def plain_logits(model: Model, ids: Sequence[int]) -> Float[Tensor, "pos vocab"]:
    """The logits of one plain forward pass without any cache: what a splice of a run's own caches must reproduce."""
    given = torch.tensor([list(ids)], device=model.device)
    logits: Tensor = model.module(input_ids=given, use_cache=False).logits[0].float()
    return logits


def decode_greedily(
    model: Model, prefixes: Sequence[tuple[int, ...]], lengths: Sequence[int], *, batch_size: int = 512
) -> list[tuple[int, ...]]:
    """The `lengths[i]` most likely tokens after each prefix, one by one."""
    caches = Caches()
    jobs: dict[Any, Job] = {i: Job((), prefix) for i, prefix in enumerate(prefixes)}
    more = max(lengths, default=0) > 1
    written = run_jobs(model, jobs, caches, most_likely, batch_size=batch_size, keep=more)
    extend(model, {i: (i,) for i in jobs}, written, dict(enumerate(lengths)), caches)
    return [written[i] for i in range(len(prefixes))]


def most_likely(logits: Float[Tensor, "batch pos vocab"], _: list[Any]) -> list[tuple[int, ...]]:
    """The most likely next token of each row, as a tuple of one."""
    return [(token,) for token in logits[:, -1].argmax(-1).tolist()]


def extend(
    model: Model,
    past: Mapping[Any, tuple[Hashable, ...]],
    written: dict[Any, tuple[int, ...]],
    lengths: Mapping[Any, int],
    caches: Caches,
) -> None:
    """Decode greedily on from what is written after each key's caches, in place, up to each key's length."""
    while unfinished := [key for key in written if len(written[key]) < lengths[key]]:
        jobs = {key: Job(past[key], written[key]) for key in unfinished}
        for key, token in run_jobs(model, jobs, caches, most_likely, keep=False).items():
            written[key] += token
