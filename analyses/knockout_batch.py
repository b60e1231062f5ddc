"""Runs of a batch with edges of attention taken out: their plain pass, and their knock-outs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..hooks import Model, Run
from ..hooks.decoding import pad
from ..hooks.edges import Edges, Resumed, give_patterns
from ..hooks.interior import Interior
from ..hooks.sweep import head_of
from ..hooks.trace import trace

ROWS = 8  # batches' worth of rows that may be under way at once, where only few positions are computed again
READ = 1 << 26  # logits that are made at once
# A label of layer and of head, the layers, the heads.
Name = tuple[int | str, int | str]
Where = tuple[Name, tuple[int, ...], tuple[int, ...] | None]


@dataclass(frozen=True)
class Wire:
    """The edges of one run that are taken out, and where its answer is read; others: keys that could be drawn."""

    run: Run
    queries: tuple[int, ...]
    keys: tuple[int, ...]
    others: tuple[int, ...]
    drawn: list[NDArray[Any]] = field(default_factory=list)

    @property
    def reads(self) -> range:
        """The positions that predict the answer's tokens."""
        first, stop = self.run.spans["answer"]
        return range(first - 1, stop - 1)


class Passes:
    """The views of a model that knock-outs run on. forwards: the work so far, in plain passes of one run; error: how
    far off runs are that are taken up with nothing taken out."""

    def __init__(self, model: Model, how: str, controls: int) -> None:
        self.model, self.how, self.controls = model, how, controls
        self.plain = Interior.of(model.module, model.sites)
        self.edited = Interior.of(model.module, model.sites)
        if how == "zero":
            give_patterns(self.edited, range(model.n_layers))
        self.head = head_of(model)
        self.forwards = self.error = 0.0


class Batch:
    """Runs of a batch: their plain pass, and their knock-outs."""

    @torch.no_grad()
    def __init__(self, passes: Passes, wires: Sequence[Wire], batch_size: int) -> None:
        self.passes, self.wires, self.batch_size = passes, wires, batch_size
        # With causal attention nothing before the padding, which is on the right, sees it.
        ids, _ = pad([wire.run.ids[: wire.reads.stop] for wire in wires], passes.model)
        device = ids.device
        self.base = trace(passes.model, passes.plain, ids)
        most = max(len(wire.reads) for wire in wires)
        reads = [[*wire.reads, *[wire.reads[-1]] * (most - len(wire.reads))] for wire in wires]
        self.reads = torch.tensor(reads, device=device)
        tokens = [[wire.run.ids[p + 1] for p in row] for wire, row in zip(wires, reads, strict=True)]
        self.tokens = torch.tensor(tokens, device=device)
        self.counted = torch.tensor([[i < len(w.reads) for i in range(most)] for w in wires], device=device)
        starts = torch.tensor([min(w.queries[0], w.reads[0]) for w in wires], device=device)
        self.resumed = Resumed(passes.edited, self.base, starts, passes.how)
        ends = self.base.residual[-1].to(device)[torch.arange(len(wires), device=device)[:, None], self.reads]
        self.first = passes.head(ends[:, :1])[:, 0].log_softmax(-1)
        found = self._read(ends[None])
        self.plain, self.replayed = found[0, 0], found[2, 0]
        passes.forwards += len(wires)

    def error(self, where: Where) -> float:
        """How far off the run is when it is taken up and nothing is taken out."""
        nothing = torch.zeros_like(self.base.ids, dtype=torch.bool)
        found = self._measure([Edges(nothing, nothing, where[1])])
        return float(np.abs(found[0, 0] - self.plain).max())

    def run(self, where: Sequence[Where]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Numbers of knock-outs, and their quantities `[quantity, true and controls, knock-out, run]`."""
        queries = self._mask([wire.queries for wire in self.wires])
        keys = [self._mask([wire.keys for wire in self.wires])]
        keys += [self._mask([wire.drawn[i] for wire in self.wires]) for i in range(self.passes.controls)]
        length, size = self.base.ids.shape[1], self.resumed.places.shape[1]
        rows = self.batch_size * min(ROWS, length // size)
        step = max(1, rows // (len(self.wires) * len(keys)))
        for start in range(0, len(where), step):
            some = where[start : start + step]
            cells = [Edges(queries, each, layers, heads) for each in keys for _, layers, heads in some]
            found = self._measure(cells).reshape(3, len(keys), len(some), -1)
            yield np.arange(start, start + len(some)), found

    def _mask(self, positions: Sequence[Any]) -> Tensor:
        made = torch.zeros(self.base.ids.shape, dtype=torch.bool)
        for row, own in enumerate(positions):
            made[row, torch.as_tensor(own, dtype=torch.long)] = True
        return made.to(self.base.ids.device)

    @torch.no_grad()
    def _measure(self, cells: Sequence[Edges]) -> NDArray[Any]:
        """`[quantity, cell, run]`."""
        before = self.resumed.tokens
        states = self.resumed.run(cells)
        self.passes.forwards += (self.resumed.tokens - before) / (self.passes.model.n_layers * self.base.ids.shape[1])
        at = self.reads - self.resumed.starts[:, None]
        return self._read(states[:, torch.arange(len(at), device=at.device)[:, None], at])

    def _read(self, ends: Tensor) -> NDArray[Any]:
        """`[quantity, cell, run]`, of the last layer's output where the answer is read, `[cell, run, pos, d_model]`."""
        step = max(1, READ // (ends[0, ..., 0].numel() * self.first.shape[-1]))
        made = []
        for part in ends.split(step):
            log_p = self.passes.head(part.flatten(0, 1)).log_softmax(-1).unflatten(0, part.shape[:2])
            chosen = log_p.gather(-1, self.tokens.expand(len(part), -1, -1)[..., None])[..., 0]
            kept = (log_p.argmax(-1) == self.tokens) | ~self.counted
            kl = (self.first.exp() * (self.first - log_p[:, :, 0])).sum(-1)
            made.append(torch.stack([(chosen * self.counted).sum(-1), kl, kept.all(-1).float()]))
        found: NDArray[Any] = torch.cat(made, dim=1).double().cpu().numpy()
        return found
