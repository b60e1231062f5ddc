"""Segments run one after the other over a key/value cache that is put together from several runs."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .cache import Caches, Layers, forward_over
from .masks import attention_kinds, position_mask, takes_logits_to_keep
from .memory import MEMORY, batches, cache_bytes, segment_bytes
from .model import Model
from .support import FAILURES

ALONE = 16  # rows of equal length from which on a batch of their own, without padding, is worth it
FILLED = 0.8  # the share of a padded batch that must be tokens
EXACT = 1e-3  # of the spread of the logits: a mask that a model ignores is off by about the spread itself
_PADS: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Job:
    """Run `ids` over the caches `past`, in this order; positions follow on without a gap.

    branches: texts that each continue `ids` by itself, unseen by the others; only for models that take our masks
    """

    past: tuple[Hashable, ...]
    ids: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """Every token that is run."""
        return tuple(chain(self.ids, *self.branches))


@torch.no_grad()
def run_jobs(
    model: Model,
    jobs: Mapping[Any, Job],
    caches: Caches,
    read: Callable[[Tensor, list[Any]], Iterable[Any]] | None = None,
    *,
    batch_size: int = 512,
    memory: float = MEMORY,
    keep: bool = True,
    last: int = 1,
) -> dict[Any, Any]:
    """Run every job; the cache of its `ids` is kept under its own key if `keep`.

    read: takes the float32 logits `[batch, pos, vocab]` of a batch's `last` positions and its keys, and returns what to
        remember of each; the logits themselves are let go
    memory: gigabytes that a batch may take besides the caches that are kept; so many jobs share it as fit

    Many jobs of the same lengths run in one batch without padding or mask: what the model sees is what it would see one
    by one, whatever its attention. Others share a batch behind masks built from positions, if the model takes them.
    """
    found: dict[Any, Any] = {}
    for chunk in _batches(model, jobs, caches, _fitting(model, batch_size, memory, last)):
        logits, layers = _Rows.of(model, [jobs[key] for key in chunk], caches).forward(last)
        if read is not None:
            found.update(zip(chunk, read(logits, chunk), strict=True))
        if keep:
            done = [jobs[key] for key in chunk]
            caches.add(chunk, layers, [job.ids for job in done], [len(job.tokens) - len(job.ids) for job in done])
        del logits, layers  # before the next batch is run
    return found


def _fitting(model: Model, batch_size: int, memory: float, last: int, room: int = 0) -> Callable[[int, int], int]:
    """How many jobs of so many tokens, over a past of so many and with room for more, fit into so many gigabytes."""
    return lambda tokens, past: max(
        1, min(batch_size, int(memory * 1e9 / segment_bytes(model.module, tokens, past + room, last)))
    )


def _batches(
    model: Model, jobs: Mapping[Any, Job], caches: Caches, rows: Callable[[int, int], int]
) -> Iterator[list[Any]]:
    """Jobs of equal lengths together; small groups of them joined where padding is exact and wastes little.

    rows: how many jobs of so many tokens, over a past of so many, a batch may have
    """
    sizes = {key: (len(job.tokens), sum(map(caches.length, job.past))) for key, job in jobs.items()}
    groups: dict[tuple[int | tuple[int, ...], ...], list[Any]] = defaultdict(list)
    for key, job in jobs.items():
        groups[_shape(job, caches)].append(key)
    few: list[Any] = []
    for keys in groups.values():
        if len(keys) >= ALONE or len(groups) == 1 or not pads_exactly(model):
            size = rows(*sizes[keys[0]])
            yield from (keys[start : start + size] for start in range(0, len(keys), size))
        else:
            few += keys
    chunk: list[Any] = []
    for key in sorted(few, key=sizes.__getitem__):
        wider = [*chunk, key]
        widest = [max(sizes[k][part] for k in wider) for part in (0, 1)]
        filled = sum(sum(sizes[k]) for k in wider) / (sum(widest) * len(wider))
        if chunk and (len(wider) > rows(*widest) or filled < FILLED):
            yield chunk
            chunk = []
        chunk.append(key)
    if chunk:
        yield chunk


def _shape(job: Job, caches: Caches) -> tuple[int | tuple[int, ...], ...]:
    """What must be equal for jobs to share a batch without a mask."""
    return (len(job.ids), tuple(map(len, job.branches)), *map(caches.length, job.past))


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
    vocabulary = min(100, getattr(config, "vocab_size", 0))
    if not vocabulary or set(attention_kinds(model.module)[1]) - {"full_attention", "sliding_attention"}:
        return False
    tokens = [token for token in range(vocabulary) if token != getattr(config, "pad_token_id", None)]
    # Short, since a model may have few positions.
    *begun, first, second = [tuple(tokens[(7 * i + 3 * n) % len(tokens)] for i in range(n)) for n in (3, 1, 2, 1)]
    caches = Caches()
    for key, row in enumerate(begun):
        _, layers = _Rows.of(model, [Job((), row)], caches).forward(1)
        caches.add([key], layers, [row])
    jobs = [Job((0,), first, (second[1:], second)), Job((1,), second, (first, first[:1]))]
    # The last token of a row is that of its last branch.
    ends = [[Job(job.past, job.ids + job.branches[-1])] for job in jobs]
    alone = torch.cat([_Rows.of(model, end, caches).forward(1)[0] for end in ends])
    try:
        together, _ = _Rows.of(model, jobs, caches).forward(1)
    except FAILURES:
        return False  # a model that takes no such mask
    limit = max(EXACT, 8 * torch.finfo(next(model.module.parameters()).dtype).eps) * alone.std()
    return bool((together - alone).abs().max() <= limit)


@dataclass(frozen=True)
class _Rows:
    """A batch: every row is `[past][padding][padding][ids][branches]`, so that all rows end at the same place.

    past: keys and values, with room for what is run; past_ids: its tokens (-1: padding)
    places: the position of every token of past and ids (-1: padding); None where rows are alike and need no mask
    branch: the branch of every token of past and ids; None where there is none
    """

    model: Model
    ids: Int[Tensor, "batch pos"]
    past: Layers
    past_ids: Int[Tensor, "batch past"]
    places: Int[Tensor, "batch key"] | None = None
    branch: Int[Tensor, "batch key"] | None = None

    @classmethod
    def of(cls, model: Model, jobs: Sequence[Job], caches: Caches, room: int = 0) -> "_Rows":
        """Jobs with room for so many tokens more."""
        device = model.device
        width = max(len(job.tokens) for job in jobs)
        filled = [jobs[0].ids[:1] * (width - len(job.tokens)) + job.tokens for job in jobs]
        ids = torch.tensor(filled, device=device)
        past, past_ids = caches.assemble([job.past for job in jobs], width + room)
        rows = cls(model, ids, past, past_ids.to(device))
        branched = any(map(any, (job.branches for job in jobs)))
        if not branched and len({_shape(job, caches) for job in jobs}) == 1:
            return rows
        before = [sum(map(caches.length, job.past)) for job in jobs]
        laid = [_lay_out(job, n, width) for job, n in zip(jobs, before, strict=True)]
        queries, branch = (torch.tensor([row[i] for row in laid], device=device) for i in (0, 1))
        slots = torch.arange(rows.past_ids.shape[1], device=device).expand_as(rows.past_ids)
        places = torch.cat([slots.masked_fill(rows.past_ids < 0, -1), queries], dim=1)
        of_all = torch.cat([torch.zeros_like(rows.past_ids), branch], dim=1) if branched else None
        return replace(rows, places=places, branch=of_all)

    def forward(self, last: int) -> tuple[Tensor, Layers]:
        """The logits of the `last` positions, and the cache of what is run."""
        if self.places is None:
            return forward_over(self.model, self.ids, self.past, self.past_ids, last=last)
        width = self.ids.shape[1]
        queries = self.places[:, -width:]
        own = visible = None
        if self.branch is not None:
            own = self.branch[:, -width:]
            visible = self.branch[:, None] == own[..., None]
            visible |= (self.branch == 0)[:, None]
        dtype = next(self.model.module.parameters()).dtype
        mask = position_mask(self.model.module, queries, self.places, dtype, visible)
        how: dict[str, Any] = {"last": last, "positions": queries.clamp(min=0), "mask": mask, "branch": own}
        return forward_over(self.model, self.ids, self.past, self.past_ids, **how)

    def then(self, tokens: Int[Tensor, " batch"]) -> "_Rows":
        """The next token of every row, after what was run: its keys and values stand in the room of the past."""
        ran, places = self.ids, self.places
        if places is not None:
            ran = ran.masked_fill(places[:, -ran.shape[1] :] < 0, -1)
            places = torch.cat([places, places[:, -1:] + 1], dim=1)
        return replace(self, ids=tokens[:, None], past_ids=torch.cat([self.past_ids, ran], dim=1), places=places)


def _lay_out(job: Job, before: int, width: int) -> tuple[list[int], list[int]]:
    """The position of every token of a row (-1: padding), and its branch (0: none)."""
    trunk = before + len(job.ids)
    positions = [-1] * (width - len(job.tokens)) + list(range(before, trunk))
    branch = [0] * len(positions)
    for number, tokens in enumerate(job.branches, start=1):
        positions += range(trunk, trunk + len(tokens))
        branch += [number] * len(tokens)
    return positions, branch


@torch.no_grad()
def plain_logits(model: Model, ids: Sequence[int], last: int = 0) -> Float[Tensor, "pos vocab"]:
    """The logits of one plain forward pass without any cache: what a splice of a run's own caches must reproduce.

    last: only of so many positions (0: all)
    """
    given = torch.tensor([list(ids)], device=model.device)
    options = {"logits_to_keep": last} if takes_logits_to_keep(type(model.module)) else {}
    logits: Tensor = model.module(input_ids=given, use_cache=False, **options).logits[0, -last:].float()
    return logits


def decode_greedily(
    model: Model,
    prefixes: Sequence[tuple[int, ...]],
    lengths: Sequence[int],
    *,
    batch_size: int = 512,
    memory: float = MEMORY,
) -> list[tuple[int, ...]]:
    """The `lengths[i]` most likely tokens after each prefix, one by one.

    memory: gigabytes, half for the caches of prefixes, half for what is run over them
    """
    written: dict[Any, tuple[int, ...]] = {}
    order = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i]))
    kept = [float(len(prefix) * cache_bytes(model.module)) for prefix in prefixes]
    for chunk in batches(order, kept, batch_size, memory / 2):
        caches = Caches()
        jobs: dict[Any, Job] = {i: Job((), prefixes[i]) for i in chunk}
        more = any(lengths[i] > 1 for i in chunk)
        begun = run_jobs(model, jobs, caches, most_likely, batch_size=batch_size, memory=memory / 2, keep=more)
        extend(model, {i: (i,) for i in jobs}, begun, {i: lengths[i] for i in jobs}, caches, memory=memory / 2)
        written |= begun
    return [written[i] for i in range(len(prefixes))]


def most_likely(logits: Float[Tensor, "batch pos vocab"], _: list[Any]) -> list[tuple[int, ...]]:
    """The most likely next token of each row, as a tuple of one."""
    return [(token,) for token in logits[:, -1].argmax(-1).tolist()]


@torch.no_grad()
def extend(
    model: Model,
    past: Mapping[Any, tuple[Hashable, ...]],
    written: dict[Any, tuple[int, ...]],
    lengths: Mapping[Any, int],
    caches: Caches,
    *,
    memory: float = MEMORY,
) -> None:
    """Decode greedily on from what is written after each key's caches, in place, up to each key's length.

    Each token is run once, over a copy of the past (one segment at least) that grows.
    """
    unfinished: dict[int, dict[Any, Job]] = defaultdict(dict)
    for key, tokens in written.items():
        if len(tokens) < lengths[key]:
            unfinished[lengths[key] - len(tokens)][key] = Job(past[key], tokens)
    for steps, jobs in unfinished.items():
        for chunk in _batches(model, jobs, caches, _fitting(model, 512, memory, last=1, room=steps)):
            for key, more in zip(chunk, _written(model, [jobs[k] for k in chunk], caches, steps), strict=True):
                written[key] += more


def _written(model: Model, jobs: Sequence[Job], caches: Caches, steps: int) -> list[tuple[int, ...]]:
    """The most likely tokens after each job, one by one."""
    rows = _Rows.of(model, jobs, caches, room=steps - 1)
    found: list[Tensor] = []
    while len(found) < steps:
        rows = rows.then(found[-1]) if found else rows
        found.append(rows.forward(last=1)[0][:, -1].argmax(-1).to(rows.ids.device))
    return list(map(tuple, torch.stack(found, dim=1).tolist()))
