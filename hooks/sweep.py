"""Many patched runs at once, each computed only where it can differ from the plain run.

A patched run differs from the plain one at positions from the first written one on, in layers from the written one on,
and only its last positions are read. So each cell joins at its layer with the states of the plain run, all cells that
are under way go through a block together, and in the last layer the positions that are not read give their keys and
values only. Nothing is approximated.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..core import InputError
from .cut_view import view
from .interior import Interior
from .model import Model
from .packed import Packed
from .sites import mlp_width, n_heads
from .splice import plain_logits
from .support import FAILURES, check_spliceable
from .trace import Trace, trace
from .writes import Entry, Write

IN_CACHE = 64 << 20  # bytes: on a CPU larger chunks are up to a fifth slower, as are smaller ones (patch_sweep.py)
TRIED = 1e-3  # of the spread of the logits: what is resumed wrongly is off by about the spread itself
# What came out for some rows: cell of each row, run of each row, float32 logits `[row, keep, vocab]`.
Read = Callable[[Int[Tensor, " row"], Int[Tensor, " row"], Float[Tensor, "row keep vocab"]], None]


@dataclass(frozen=True)
class Cell:
    """What is written together, and in which of the runs."""

    writes: tuple[Write, ...]
    runs: Int[Tensor, " row"]


@dataclass
class Sweep:
    """Patched continuations of the runs of a trace.

    keep: how many last positions are read; memory: bytes that the states under way may take, about
    forwards: the work so far, in plain forward passes of one run (the unembedding left out)
    """

    model: Model
    interior: Interior
    base: Trace
    keep: int = 1
    memory: int = 1 << 30
    forwards: float = 0.0
    _head: nn.Module = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._head = head_of(self.model)

    def run(self, cells: Sequence[Cell], read: Read) -> Iterator[int]:
        """Run cells and tell `read` their logits; yields the number of rows that each chunk has done.

        Where memory runs out a chunk is halved; what a single row needs is raised.
        """
        told = [(number, cell.writes, cell.runs.to(self.base.ids.device)) for number, cell in enumerate(cells)]
        entries = [Entry.of(*each) for each in told if len(each[2])]
        waiting = sorted(entries, key=lambda entry: (-entry.layer, -entry.start))  # the next one last
        limit = self._tokens_in_memory()
        while waiting:
            chunk = self._take(waiting, limit)
            rows = sum(len(entry.runs) for entry in chunk)
            try:
                self._chunk(chunk, read)
            except (MemoryError, RuntimeError) as error:
                if rows == 1 or not out_of_memory(error):
                    raise
                limit = max(1, sum(entry.tokens(self._length) for entry in chunk) // 2)
                waiting += chunk[::-1]
                continue
            yield rows

    def logits(self, cells: Sequence[Cell]) -> Float[Tensor, "cell run keep vocab"]:
        """The logits of a few cells, all of them held; the plain run's in runs that a cell is not written in."""
        found = self.base.logits.repeat(len(cells), 1, 1, 1)

        def read(cell: Tensor, runs: Tensor, logits: Tensor) -> None:
            found[cell, runs] = logits

        for _ in self.run(cells, read):
            pass
        return found

    @property
    def _length(self) -> int:
        return int(self.base.ids.shape[1])

    def _tokens_in_memory(self) -> int:
        """How many tokens may be under way: their states in and out of a block, its MLP and its attention."""
        module, keys = self.model.module, self.base.attention[0]["k"]
        numbers = 8 * self.base.residual[0].shape[-1] + 3 * mlp_width(module) + 3 * n_heads(module) * self._length
        numbers += 2 * keys.shape[1] * keys.shape[3] * 4
        memory = min(self.memory, IN_CACHE) if keys.device.type == "cpu" else self.memory
        return max(1, int(memory // (numbers * keys.element_size())))

    def _take(self, waiting: list[Entry], limit: int) -> list[Entry]:
        """The next entries that fit into the limit, at least one row; a large one is split."""
        chunk: list[Entry] = []
        room = limit
        while waiting:
            entry = waiting.pop()
            each = entry.tokens(self._length) // len(entry.runs)
            rows = min(len(entry.runs), room // each if chunk or room >= each else 1)
            if rows < 1:
                waiting.append(entry)
                break
            chunk.append(replace(entry, runs=entry.runs[:rows]))
            room -= rows * each
            if rows < len(entry.runs):
                waiting.append(replace(entry, runs=entry.runs[rows:]))
                break
        return chunk

    @torch.no_grad()
    def _chunk(self, chunk: Sequence[Entry], read: Read) -> None:
        moving = []
        for entry in chunk:
            if self._changes_nothing(entry):
                read(torch.full_like(entry.runs, entry.cell), entry.runs, self.base.logits[entry.runs])
            else:
                moving.append(entry)
        if not moving:
            return
        packed = Packed(self.interior, self.base, self.keep)
        ranges, runs, ends = packed.run(moving)
        self.forwards += (packed.tokens + kv_share(self.interior.blocks[0]) * packed.tokens_kv) / (
            len(self.interior.blocks) * self._length
        )
        cells = torch.empty_like(runs)
        for entry, low, high in ranges:
            cells[low:high] = entry.cell
        vocabulary = self.base.logits.shape[-1]
        step = max(1, self.memory // (12 * self.keep * vocabulary))
        for start in range(0, len(runs), step):
            rows = slice(start, start + step)
            read(cells[rows], runs[rows], self._head(ends[rows]))

    def _changes_nothing(self, entry: Entry) -> bool:
        """Whether a cell is written where no position that is read looks: in the last layer, before those."""
        n_layers, first = len(self.interior.blocks), self._length - self.keep
        top = entry.layer == n_layers or (entry.layer == n_layers - 1 and entry.point)
        return top and max(p for write in entry.writes for p in write.positions) < first


def open_interior(model: Model) -> Interior:
    """A view of a model in which runs can be taken up in the middle, tried on five tokens before it is given.

    Raises InputError, with the reason, for a model that is run elsewhere, whose layers keep more than keys and values,
    whose attention cannot be called here, or of which a run that is taken up is not the plain one.

    >>> from loadbearing.hooks import load
    >>> len(open_interior(load("organism:sft")).blocks)
    3
    """
    check_spliceable(model)
    name = type(model.module).__name__
    try:
        interior = Interior.of(model.module, model.sites)
        error, spread = _trial(model, interior)
    except FAILURES as failure:
        if isinstance(failure, InputError):
            raise
        told = str(failure).partition("\n")[0]
        raise InputError(f"{name} cannot be resumed midway ({type(failure).__name__}: {told})") from failure
    if not error <= max(TRIED, 8 * torch.finfo(next(model.module.parameters()).dtype).eps) * spread:
        raise InputError(f"{name} cannot be resumed midway: its logits are off by {error:.2g} (spread {spread:.2g})")
    return interior


@torch.no_grad()
def _trial(model: Model, interior: Interior) -> tuple[float, float]:
    """How far the logits of a run that is taken up from its own states are off the model's, and how far they lie apart.

    A view leaves out a `forward` that was put on an instance, so that its plain run need not be the model's.
    """
    config: Any = model.module.config
    ids = (torch.arange(5, device=model.device) * 7 + 3)[None] % min(100, config.vocab_size)
    base = trace(model, interior, ids, keep=2)
    layer, at = len(interior.blocks) // 2, 2
    write = Write("resid_pre", layer, (at,), lambda runs: base.residual[layer][runs][:, [at]])
    found = Sweep(model, interior, base, 2).logits([Cell((write,), torch.arange(1, device=model.device))])
    plain = plain_logits(model, ids[0].tolist())[-2:]
    return float((found - plain).abs().max()), float(plain.std())


def memory_of(given: int | str) -> int:
    """Bytes, from a number or a text such as "512MB" or "2GB".

    >>> memory_of("2GB"), memory_of(1000)
    (2000000000, 1000)
    """
    if isinstance(given, int) and given > 0:
        return given
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B", str(given))
    if match is None or not float(match[1]):
        raise InputError(f"memory={given!r}: expected a number of bytes, or a text such as '512MB' or '2GB'")
    return int(float(match[1]) * 1000 ** " kMGT".index(match[2] or " "))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or here."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error)


def kv_share(block: nn.Module) -> float:
    """The share of a block's weights that make keys and values (with the queries where one projection makes all)."""
    every = sum(weight.numel() for weight in block.parameters())
    names = (("k_proj", "v_proj"), ("qkv_proj",), ("c_attn",), ("query_key_value",))
    for group in names:
        found = [part for name, part in block.named_modules() if name.rpartition(".")[2] in group]
        if len(found) == len(group):
            return float(sum(weight.numel() for part in found for weight in part.parameters()) / every)
    return 1.0


class _Given(nn.Module):
    """Stands for all layers: their output is given."""

    def __init__(self) -> None:
        super().__init__()
        self.state: Tensor | None = None

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor | None:
        return self.state


class _Head(nn.Module):
    """From the last layer's output to float32 logits, as the model does it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        whole = getattr(model.backend, "whole", model.backend).module()  # a cut is of no matter here
        self.given = _Given()
        layers = [self.given for _ in model.sites.blocks]
        self.top = view(whole, model.sites.layers_path, nn.ModuleList(layers))

    def forward(self, states: Float[Tensor, "row keep d_model"]) -> Float[Tensor, "row keep vocab"]:
        self.given.state = states
        positions = torch.arange(states.shape[1], device=states.device).expand(states.shape[:2])
        try:
            logits: Tensor = self.top(inputs_embeds=states, position_ids=positions, use_cache=False).logits
        finally:
            self.given.state = None
        return logits.float()


def head_of(model: Model) -> nn.Module:
    """A module from the last layer's output `[row, pos, d_model]` to float32 logits; gradients flow through it."""
    return _Head(model)
