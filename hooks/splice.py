"""Segments run one after the other over a key/value cache that is put together from several runs."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .model import Model

# Keys and values of every layer, each [batch, kv_head, pos, d_head].
Layers = list[tuple[Tensor, Tensor]]


class Caches:
    """Key/value caches of many segments, each under a key, kept in the batches in which they were computed."""

    def __init__(self) -> None:
        self._where: dict[Hashable, tuple[Layers, int]] = {}
        self._ids: dict[Hashable, tuple[int, ...]] = {}

    def add(self, keys: Sequence[Hashable], layers: Layers, ids: Sequence[tuple[int, ...]]) -> None:
        """Keep the caches of a batch and the tokens that made them, one row a key."""
        for row, (key, own) in enumerate(zip(keys, ids, strict=True)):
            self._where[key] = (layers, row)
            self._ids[key] = own

    def ids(self, key: Hashable) -> tuple[int, ...]:
        """The token ids of a segment."""
        return self._ids[key]

    def length(self, key: Hashable) -> int:
        """The number of positions of a segment."""
        layers, _ = self._where[key]
        return layers[0][0].shape[2]

    def gather(self, keys: Sequence[Hashable]) -> Layers:
        """The caches of segments of equal length as one batch."""
        batches: dict[int, tuple[Layers, list[int], list[int]]] = {}
        for place, key in enumerate(keys):
            layers, row = self._where[key]
            _, rows, places = batches.setdefault(id(layers), (layers, [], []))
            rows.append(row)
            places.append(place)
        if len(batches) == 1:
            layers, rows, _ = next(iter(batches.values()))
            return [(k[rows], v[rows]) for k, v in layers]
        order = torch.tensor([place for _, _, places in batches.values() for place in places]).argsort()
        picked = [[(k[rows], v[rows]) for k, v in layers] for layers, rows, _ in batches.values()]
        joined = zip(*picked, strict=True)
        return [(torch.cat([k for k, _ in ls])[order], torch.cat([v for _, v in ls])[order]) for ls in joined]


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
) -> dict[Any, Any]:
    """Run every job; its cache is kept under its own key if `keep`.

    read: takes the float32 logits `[batch, pos, vocab]` of a batch and its keys, and returns what to remember of each;
        the logits themselves are let go

    Jobs of the same lengths run in one batch, so that no padding and no mask is ever needed: what the model sees is
    what it would see one by one, whatever its attention (sliding windows, sinks, learned positions).
    """
    groups: dict[tuple[int, ...], list[Any]] = defaultdict(list)
    for key, job in jobs.items():
        groups[*(caches.length(past) for past in job.past), len(job.ids)].append(key)
    found: dict[Any, Any] = {}
    for keys in groups.values():
        for start in range(0, len(keys), batch_size):
            chunk = keys[start : start + batch_size]
            past = _join([caches.gather([jobs[key].past[i] for key in chunk]) for i in range(len(jobs[chunk[0]].past))])
            ids = torch.tensor([jobs[key].ids for key in chunk], device=model.device)
            before = [sum((caches.ids(past) for past in jobs[key].past), ()) for key in chunk]
            logits, layers = forward_segment(model, ids, past, torch.tensor(before, device=model.device))
            if read is not None:
                found.update(zip(chunk, read(logits, chunk), strict=True))
            if keep:
                caches.add(chunk, layers, [jobs[key].ids for key in chunk])
    return found


@torch.no_grad()
def forward_segment(
    model: Model, ids: Int[Tensor, "batch pos"], past: Layers, past_ids: Tensor | None = None
) -> tuple[Float[Tensor, "batch pos vocab"], Layers]:
    """Run a segment over a cache (an empty list for none); returns its logits and its own part of the cache.

    past_ids: the tokens that made the cache `[batch, past]`; only a model with a cut wire must know them
    """
    from transformers import DynamicCache

    # Without a config every layer keeps every position: the default cache of a sliding layer drops what has left the
    # window, and it could not be spliced; the mask still applies the window.
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(past):
        cache.update(keys, values, layer)
    if past_ids is not None:
        cache.token_ids = past_ids.long()  # type: ignore[attr-defined]
    before = past[0][0].shape[2] if past else 0
    positions = torch.arange(before, before + ids.shape[1], device=ids.device).expand_as(ids)
    output = model.module(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
    layers: Any = cache.layers
    own = [(layer.keys[:, :, before:], layer.values[:, :, before:]) for layer in layers]
    return output.logits.float(), own


def _join(parts: Sequence[Layers]) -> Layers:
    """Put caches of consecutive segments behind one another."""
    if not parts:
        return []
    return [
        (torch.cat([k for k, _ in layers], dim=2), torch.cat([v for _, v in layers], dim=2))
        for layers in zip(*parts, strict=True)
    ]


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
