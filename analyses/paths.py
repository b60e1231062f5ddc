"""Path patching: what one part of the model tells another directly, with everything between left as it was."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..core import Manifest, check_name, circumstance
from ..hooks import MODES, Mode, Model, Runs
from ..hooks.gates import Gate, enforce, judge
from ..hooks.interior import Attend, Done, Interior
from ..hooks.sites import Site, n_heads
from ..hooks.sweep import Cell, memory_of, open_interior
from ..hooks.trace import Trace, call_block
from ..hooks.writes import Write
from ..tasks import Pairs
from .aligned import Batch, align
from .measured import swept
from .metrics import Meter, Metric, check_metric
from .patch import DIRECTIONS
from .paths_table import NOTHING, End, Parts, Paths, path_keys

ADVICE = "What its blocks add is not what is read here: measure paths on another model."


def paths(
    model: Model,
    pairs: Pairs,
    sender: str | Sequence[str] = "head",
    receiver: str | Sequence[str] = "logits",
    *,
    mode: Mode = "answer-only",
    target: str = "onset",
    cot: str | Runs | Mapping[str, Any] = "model",
    positions: Sequence[str] | None = None,
    direction: str = "denoising",
    metric: Metric = "log-odds",
    memory: int | str = "1GB",
    progress: bool = False,
) -> Paths:
    """Exchange what a sender adds to the residual stream for one receiver only, and see what the model answers.

    The direct edge alone: the receiver reads the base's residual stream plus the difference that the sender makes
    between the source's run and the base's, its norm recomputed; all that lies between is frozen at the base's run, and
    everything from the receiver on is computed again. The difference of a head is that of its layer's attention with
    this head's z exchanged and without; after a norm that follows attention (Gemma, OLMo 2), which is not linear, it
    holds for this head alone: such differences of heads do not add up to the layer's.

    sender: "head" (each of every layer), "attn", "mlp" (each layer's), "embed", or one or several of them by name:
        "L0H3", "attn.1", "mlp.1"
    receiver: "logits"; "q", "k" or "v": that input of each later head; "mlp": of each later MLP; or one or several by
        name: "L2H1.q", "mlp.2". k and v are counted by their own heads, which several heads of queries may share
    positions: places by name at which the sender's difference is taken, all together; None: everywhere
    mode, target, cot, direction, metric, memory: as in `patch`

    Raises InputError for a name that is no part of the model, and for a sender that writes after its receiver reads.

    Source: path patching, Wang et al. 2022 (arXiv 2211.00593); Goldowsky-Dill et al. 2023 (2304.05969).

    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> found = paths(model, model.task.pairs(4), mode="cot", target="answer", cot="task")
    >>> dict(zip(found.coords["sender"], found.effect()[0][:, 0].round(2).tolist(), strict=True))
    {'L0H0': 0.0, 'L0H1': 0.0, 'L1H0': 1.0, 'L1H1': 0.0}
    """
    began = time.perf_counter()
    check_name("mode", mode, MODES)
    check_name("direction", direction, DIRECTIONS)
    named = check_metric(metric)
    for site in _parts(model):
        model.sites.check(site)
    ends = _named(model).joined(sender, receiver)
    interior = open_interior(model)
    aligned = align(model, pairs, mode=mode, target=target, cot=cot, positions=positions, progress=progress)
    board = _Board.of(ends, (direction, metric, positions is None), len(aligned.pairs))
    with tqdm(desc="paths", unit="run", disable=not progress, leave=False) as bar:
        for part in (part for batch in aligned.batches for part in batch.parts(model, memory_of(memory))):
            _measure(model, interior, part, board, memory_of(memory), bar)
    gates = board.gates()
    enforce(gates)
    how = {"sender": _plain(sender), "receiver": _plain(receiver), "positions": _plain(positions)}
    how |= {"mode": mode, "target": target, "cot": cot if isinstance(cot, str) else "given"}
    how |= {"direction": direction, "metric": named}
    facts = {"dropped": aligned.dropped, "gates": [gate.asdict() for gate in gates], "forwards": board.forwards}
    facts |= {"onset": aligned.onset.slot if aligned.onset else None, "way": "direct paths"}
    names = tuple(pairs.variables)
    return Paths(
        coords={
            "sender": tuple(end.label for end in ends[0]),
            "receiver": tuple(end.label for end in ends[1]),
            "names": names,
        },
        manifest=Manifest({**model.identity(), "task": pairs.task.spec, **how}, circumstance(began, **facts)),
        values=board.values,
        outcome=board.outcome,
        exact=np.array([[one.reaches(other) for other in ends[1]] for one in ends[0]]),
        recipient=board.natural[0],
        donor=board.natural[1],
        variable=np.array([names.index(variable) for _, _, variable in aligned.pairs]),
    )


def _plain(names: str | Sequence[str] | None) -> str | list[str] | None:
    return names if names is None or isinstance(names, str) else list(names)


def _named(model: Model) -> Parts:
    parallel = tuple(block.parallel for block in model.sites.blocks)
    return Parts(n_heads(model.module), n_heads(model.module, "k"), parallel)


def _parts(model: Model) -> list[Site]:
    """What every layer adds to the residual stream."""
    return [Site(name, layer) for layer in range(model.n_layers) for name in ("attn_out", "mlp_out")]


@dataclass
class _Board:
    """Figures of every path and pair. ends: senders and receivers; errors: how far the gates are off."""

    ends: tuple[list[End], list[End]]
    how: tuple[str, Metric, bool]
    values: NDArray[Any]
    outcome: NDArray[Any]
    natural: NDArray[Any]
    errors: NDArray[Any]
    forwards: float = 0.0

    @classmethod
    def of(cls, ends: tuple[list[End], list[End]], how: tuple[str, Metric, bool], pairs: int) -> "_Board":
        """An empty one. how: direction, metric, whether all positions are meant."""
        shape = (len(ends[0]), len(ends[1]), pairs)
        blank = np.full(shape, np.nan)
        return cls(ends, how, blank, np.zeros(shape, np.int8), np.full((2, pairs), np.nan), np.zeros(2))

    def take(self, meter: Meter, keys: Sequence[tuple[int, int]]) -> None:
        """Keep what a batch has measured: the paths, then nothing and everything, then base and source."""
        index = np.array(meter.batch.index)
        for cell, (i, j) in enumerate(keys):
            self.values[i, j, index], self.outcome[i, j, index] = meter.values[cell], meter.outcomes[cell]
        nothing, everything, base, source = meter.values[len(keys) :]
        self.natural[:, index] = (source, base) if self.how[0] == "noising" else (base, source)
        off = np.abs([nothing - base, everything - source]).max(axis=1)
        self.errors = np.maximum(self.errors, off)
        self.forwards += meter.forwards

    def gates(self) -> list[Gate]:
        """What nothing and everything must be."""
        effect = float(np.abs(self.natural[1] - self.natural[0]).mean())
        names = ("a path that carries nothing = plain run", "all paths to the logits together = the source's run")
        return [judge(name, float(error), effect, ADVICE) for name, error in zip(names, self.errors, strict=True)]


def _measure(model: Model, interior: Interior, batch: Batch, board: _Board, memory: int, bar: Any) -> None:
    """Every path in one batch of pairs."""
    direction, metric, everywhere = board.how
    senders, receivers = board.ends
    pairs, keys = torch.arange(len(batch.index), device=model.device), path_keys(senders, receivers)
    named = sorted(set(zip(*([p for place in side for p in place] for side in batch.spots(direction)), strict=True)))

    def cells(base: Trace, source: Trace) -> list[Cell]:
        at = named
        if everywhere:  # answers that are forced too; nothing differs before the first token that does
            at = [(position, position) for position in range(int(batch.changed.min()), base.ids.shape[1])]
        edges = Edges(interior, base, source, tuple(at), base.logits.shape[1])
        writes = [edges.write(senders[i], receivers[j]) for i, j in keys]
        writes += [edges.write(NOTHING, receivers[keys[0][1]]), edges.everything()]
        return [Cell((write,), pairs) for write in writes]

    meter, sites = Meter(metric, batch, len(keys) + 2), _parts(model)
    how: dict[str, Any] = {"direction": direction, "base_sites": sites, "source_sites": sites, "memory": memory}
    for rows in swept(model, interior, meter, cells, **how):
        bar.update(rows)
    board.take(meter, keys)


@dataclass
class Edges:
    """Makes the write of one path. at: positions in the base's run and the source's; keep: how many last are read."""

    interior: Interior
    base: Trace
    source: Trace
    at: tuple[tuple[int, int], ...]
    keep: int
    _memo: tuple[Any, Tensor] | None = field(default=None, repr=False)

    def write(self, sender: End, receiver: End) -> Write:
        """What the receiver gives when it reads the sender's difference."""
        top = len(self.interior.blocks) - 1
        at = self.at
        if receiver.kind == "logits" or (receiver.layer == top and receiver.kind in ("q", "mlp")):
            first = self.base.ids.shape[1] - self.keep  # no other position is read
            at = tuple(pair for pair in at if pair[0] >= first) or at
        own = tuple(position for position, _ in at)
        if receiver.kind == "logits":
            return Write("resid_post", top, own, lambda runs: self._input(sender, top + 1, at, runs))
        if receiver.kind == "mlp":
            return Write("mlp_out", receiver.layer, own, lambda runs: self._mlp(sender, receiver.layer, at, runs))
        attention = self.base.attention[receiver.layer]
        group = 1 if receiver.kind == "q" else attention["q"].shape[1] // attention["k"].shape[1]
        assert receiver.head is not None
        heads = tuple(range(receiver.head * group, (receiver.head + 1) * group))
        length = self.base.ids.shape[1]
        positions = own if receiver.kind == "q" else tuple(range(own[0], length))

        def values(runs: Tensor) -> Tensor:
            key = (sender, receiver.layer, receiver.kind, tuple(runs.tolist()))
            if self._memo is None or self._memo[0] != key:  # the heads of a layer follow each other
                self._memo = (key, self._z(sender, receiver, at, runs))
            return self._memo[1][:, :, list(heads)]

        return Write("z", receiver.layer, positions, values, heads)

    def everything(self) -> Write:
        """All that was ever added, exchanged at the positions that are read."""
        n_layers = len(self.interior.blocks)
        sizes = self.base.ids.shape[1], self.source.ids.shape[1]
        at = tuple((sizes[0] - i, sizes[1] - i) for i in range(self.keep, 0, -1))
        senders = [End("embed", 0, None, -1)]
        senders += [End(kind, layer, None, 0) for layer in range(n_layers) for kind in ("attn", "mlp")]

        def values(runs: Tensor) -> Tensor:
            added = [self.difference(sender, at, runs).to(self.base.residual[-1].device) for sender in senders]
            return _take(self.base.residual[-1], runs, [p for p, _ in at]) + torch.stack(added).sum(0)

        return Write("resid_post", n_layers - 1, tuple(p for p, _ in at), values)

    def difference(
        self, sender: End, at: Sequence[tuple[int, int]], runs: Int[Tensor, " run"]
    ) -> Float[Tensor, "run pos d_model"]:
        """What the sender adds in the source's run minus in the base's."""
        own, other = [p for p, _ in at], [p for _, p in at]
        if sender == NOTHING:
            return torch.zeros_like(_take(self.base.residual[0], runs, own))
        if sender.kind != "head":
            name = "resid_pre" if sender.kind == "embed" else f"{sender.kind}_out"
            given, plain = self.source.get(name, sender.layer), self.base.get(name, sender.layer)
            return _take(given, runs, other) - _take(plain, runs, own)
        z = _take(self.base.get("z", sender.layer), runs, own)
        z[:, :, sender.head] = _take(self.source.get("z", sender.layer), runs, other)[:, :, sender.head]
        found: list[Tensor] = []

        def listen(site: str, _: int, value: Tensor) -> None:
            if site == "attn_out":
                found.append(value)
                raise Done

        hidden = _take(self.base.residual[sender.layer], runs, own)
        call_block(self.interior, self.base, sender.layer, hidden, own, lambda *_: (z, None), listen)
        return found[0] - _take(self.base.get("attn_out", sender.layer), runs, own)

    def _input(self, sender: End, layer: int, at: Sequence[tuple[int, int]], runs: Tensor) -> Tensor:
        """The residual stream before a layer with the sender's difference in it."""
        plain = self.base.residual[layer]
        return _take(plain, runs, [p for p, _ in at]) + self.difference(sender, at, runs).to(plain.device)

    def _mlp(self, sender: End, layer: int, at: Sequence[tuple[int, int]], runs: Tensor) -> Tensor:
        own = [p for p, _ in at]
        attended = _take(self.base.get("attn_out", layer), runs, own)
        z = _take(self.base.get("z", layer), runs, own)
        found: list[Tensor] = []

        def listen(site: str, _: int, value: Tensor) -> Tensor | None:
            if site == "mlp_out":
                found.append(value)
                raise Done
            return attended if site == "attn_out" else None

        hidden = self._input(sender, layer, at, runs)
        call_block(self.interior, self.base, layer, hidden, own, lambda *_: (z, None), listen)
        return found[0]

    def _z(self, sender: End, receiver: End, at: Sequence[tuple[int, int]], runs: Tensor) -> Tensor:
        """z of all heads of the receiver's layer with queries, keys or values exchanged."""
        layer, kind, own = receiver.layer, receiver.kind, [p for p, _ in at]
        found: dict[str, Tensor] = {}

        def attention(_: int, __: Attend, q: Tensor, k: Tensor, v: Tensor, ___: Any) -> Any:
            found.update(q=q, k=k, v=v)
            raise Done

        call_block(self.interior, self.base, layer, self._input(sender, layer, at, runs), own, attention, None)
        parts = {name: self.base.attention[layer][name][runs] for name in ("q", "k", "v")}
        mask = self.base.masks[layer]
        mask = mask if len(mask) == 1 else mask[runs]
        parts[kind][:, :, own] = found[kind]
        rows: Any = own if kind == "q" else slice(own[0], None)
        return self.base.attend[layer](parts["q"][:, :, rows], parts["k"], parts["v"], mask[:, :, rows])[0]


def _take(states: Tensor, runs: Tensor, positions: Sequence[int]) -> Tensor:
    return states[runs[:, None].to(states.device), torch.tensor(positions, device=states.device)]
