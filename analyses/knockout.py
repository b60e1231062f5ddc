"""Knock-outs: which positions must be read by which, in which layers and heads, for the own answer."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..core import InputError, Manifest, check_name, circumstance
from ..hooks import Model, Run, resolve
from ..hooks.cut import check_layers
from ..hooks.decoding import pad
from ..hooks.edges import HOW, Edges, Resumed, check_heads, give_patterns
from ..hooks.edits import LATER
from ..hooks.gates import enforce, judge_limit
from ..hooks.interior import Interior
from ..hooks.sweep import head_of
from ..hooks.trace import trace
from .knockout_table import QUANTITIES, KnockOutEffect
from .targets import count_reasons

EACH = ("all", "layer", "head")
ROWS = 8  # batches' worth of rows that may be under way at once, where only few positions are computed again
READ = 1 << 26  # logits that are made at once
ADVICE = "This model cannot be taken up in the middle here; use hooks.edited, which runs it whole"
# A label of layer and of head, the layers, the heads.
Name = tuple[int | str, int | str]
Where = tuple[Name, tuple[int, ...], tuple[int, ...] | None]


@dataclass(frozen=True)
class _Wire:
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


def knockout(
    model: Model,
    runs: Sequence[Run],
    queries: str,
    keys: str,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    how: str = "renormalise",
    each: str = "all",
    window: int = 1,
    controls: int = 5,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> KnockOutEffect:
    """Measure what the run's own answer loses when `queries` cannot read `keys`, tokens and positions being kept.

    The own answer is forced; its probability, and whether it is still the most likely one, are compared with those of
    the run as it is. Nothing is generated again: where an early position is knocked out, the later tokens stay.

    queries, keys: positions of each run (`cue`, `step.2`, `prompt[-1]`; several joined with "+"); queries may be
        "later", every position after the first key that is no key: then the keys are as if they had never been
    layers, heads: where; all without them. each: "all" of them at once, or one knock-out a "layer" (or for each
        `window` of layers that follow one another), or one a "head" of a layer
    how: "renormalise" takes edges out before the softmax: the other positions are read more, so that an effect may
        come from them; a position always sees itself. "zero" sets the pattern's entries to 0 after it: other reads
        stay, but a head puts out less than it ever did in training, and the keys still draw weight
        (attention knockout of Geva et al. 2023, 2304.14767, is the first; ablating a pattern, the second)
    controls: how many times as many other keys are drawn at random among the positions that the queries see (all of
        them where there are fewer): a knock-out is judged against cutting as many keys elsewhere (for "later", later
        keys have fewer readers, so the controls cut fewer edges). The first token counts
        as any other, though some models need to see it whatever it says.

    Only positions from the first query on, in layers from the first knocked-out one on, are computed again. Runs
    without an answer, and without anything to cut, are left out and counted.

    >>> from loadbearing.hooks import generate, load
    >>> model = load("organism:sft")
    >>> runs = generate(model, model.task.problems(16))
    >>> blind, deaf = (knockout(model, runs, "cue", keys).effect("kept")[0].item() for keys in ("cot", "operand.*"))
    >>> blind < 0.5, deaf
    (True, 1.0)
    """
    began = time.perf_counter()
    check_name("how", how, HOW)
    where = _where(model, layers, heads, check_name("each", each, EACH), window)
    if not isinstance(controls, int) or controls < 0:
        raise InputError(f"controls={controls}: expected a number of draws, 0 for none")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: expected 1 or more runs")
    wires, dropped = _usable(runs, queries, keys, how)
    rng = np.random.default_rng(seed)
    for wire in wires:
        for _ in range(controls):
            wire.drawn.append(rng.permutation(wire.others)[: len(wire.keys)])
    values = np.full((3, 1 + controls, len(where), len(wires)), np.nan)
    plain, replayed, error = np.zeros(len(wires)), np.zeros(len(wires)), 0.0
    passes = _Passes(model, how, controls)
    order = sorted(range(len(wires)), key=lambda i: len(wires[i].run.ids))
    with tqdm(total=len(wires) * len(where), desc="knockout", disable=not progress, leave=False) as bar:
        for start in range(0, len(order), batch_size):
            chunk = order[start : start + batch_size]
            batch = _Batch(passes, [wires[i] for i in chunk], batch_size)
            plain[chunk], replayed[chunk] = batch.plain, batch.replayed
            if not start:
                error = batch.error(where[0])
            for cells, found in batch.run(where):
                values[:, :, cells[:, None], chunk] = found
                bar.update(len(cells) * len(chunk))
    missing = np.array([not wire.others for wire in wires])
    values[:, 1:, :, missing] = np.nan
    limit = max(1e-3, 16 * torch.finfo(next(model.module.parameters()).dtype).eps)
    gates = [judge_limit("resumed = plain run", error, limit, ADVICE, "knockout")]
    enforce(gates)
    facts = {
        "seed": seed,
        "dropped": dropped,
        "gates": [gate.asdict() for gate in gates],
        "replayed": float(replayed.mean()),
        "forwards": round(passes.forwards, 1),
    }
    options = {"queries": queries, "keys": keys, "how": how, "each": each, "window": window, "controls": controls}
    options |= {"layers": list(layers) if layers else None, "heads": list(heads) if heads else None}
    return _result(model, where, wires, values, plain, options, circumstance(began, **facts))


def _result(
    model: Model,
    where: Sequence[Where],
    wires: Sequence[_Wire],
    values: NDArray[Any],
    plain: NDArray[Any],
    options: dict[str, Any],
    facts: dict[str, Any],
) -> KnockOutEffect:
    by_layer, by_head = (tuple(dict.fromkeys(name[i] for name, _, _ in where)) for i in (0, 1))
    shaped = values.reshape(3, values.shape[1], len(by_layer), len(by_head), len(wires))
    arrays = {name: shaped[i, 0] for i, name in enumerate(QUANTITIES)}
    arrays |= {f"control_{name}": shaped[i, 1:] for i, name in enumerate(QUANTITIES)}
    task = wires[0].run.problem.task.spec
    return KnockOutEffect(
        coords={"layer": by_layer, "head": by_head, "run": tuple(wire.run.problem.key for wire in wires)},
        manifest=Manifest({**model.identity(), "task": task, **options}, facts),
        plain=plain,
        keys=np.array([len(wire.keys) for wire in wires]),
        drawn=np.array([min(len(wire.keys), len(wire.others)) for wire in wires]),
        **arrays,
    )


def _where(
    model: Model, layers: Sequence[int] | None, heads: Sequence[int] | None, each: str, window: int
) -> list[Where]:
    """Every knock-out: its label, layers and heads."""
    chosen, some = check_layers(layers, model.n_layers), check_heads(model, heads)
    if window != 1 and each != "layer":
        raise InputError(f'window={window} is for each="layer", got each={each!r}')
    if not 1 <= window <= len(chosen):
        raise InputError(f"window={window}: expected 1 to {len(chosen)}, the number of layers")
    if each == "all":
        return [(("all", "all"), chosen, some)]
    if each == "layer":
        spans = [chosen[i : i + window] for i in range(len(chosen) - window + 1)]
        if any(span[-1] - span[0] != window - 1 for span in spans):
            raise InputError(f"layers={list(chosen)} in windows of {window}: give layers that follow one another")
        return [((span[0], "all"), span, some) for span in spans]
    config: Any = model.module.config
    own = range(config.num_attention_heads) if some is None else some
    return [((layer, head), (layer,), (head,)) for layer in chosen for head in own]


def _usable(runs: Sequence[Run], queries: str, keys: str, how: str) -> tuple[list[_Wire], dict[str, int]]:
    """The runs that have an answer and something to cut, and why the others are left out."""
    if not len(runs):
        raise InputError("no runs to measure")
    found = [_wire(run, queries, keys, how) for run in runs]
    wires = [wire for wire in found if isinstance(wire, _Wire)]
    dropped = count_reasons([wire for wire in found if isinstance(wire, str)])
    if not wires:
        told = " and ".join(f"{n} with {reason}" for reason, n in dropped.items())
        raise InputError(f"no run is left in which {queries!r} could be kept from reading {keys!r}: {told}")
    return wires, dropped


def _wire(run: Run, queries: str, keys: str, how: str) -> _Wire | str:
    if "answer" not in run.spans:
        return "no answer"
    read = run.spans["answer"][1] - 1
    cut = set(_positions(run, keys))
    if not cut:
        return "no such keys"
    asking = set(range(min(cut), read)) - cut if queries == LATER else {p for p in _positions(run, queries) if p < read}
    seen = {key for key in cut if any(key < p or (key == p and how == "zero") for p in asking)}
    if not asking:
        return "no query that the answer could feel"
    if not seen:
        return "queries that all stand before the keys, which nothing reads ahead"
    others = sorted(set(range(max(asking))) - cut)
    return _Wire(run, tuple(sorted(asking)), tuple(sorted(cut)), tuple(others))


def _positions(run: Run, names: str) -> list[int]:
    return [place.position for name in names.split("+") for place in resolve(run.spans, name.strip())]


class _Passes:
    """The views of a model that knock-outs run on; forwards: the work so far, in plain passes of one run."""

    def __init__(self, model: Model, how: str, controls: int) -> None:
        self.model, self.how, self.controls = model, how, controls
        self.plain = Interior.of(model.module, model.sites)
        self.edited = Interior.of(model.module, model.sites)
        if how == "zero":
            give_patterns(self.edited, range(model.n_layers))
        self.head = head_of(model)
        self.forwards = 0.0


class _Batch:
    """Runs of a batch: their plain pass, and their knock-outs."""

    @torch.no_grad()
    def __init__(self, passes: _Passes, wires: Sequence[_Wire], batch_size: int) -> None:
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
        ends = self.base.residual[-1][torch.arange(len(wires), device=device)[:, None], self.reads]
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
