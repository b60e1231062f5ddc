"""Patched runs that are under way together: packed into one row of tokens, each at the positions where it can differ."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .interior import Attend, Done, Interior
from .trace import Trace


@dataclass(frozen=True)
class Write:
    """One activation that is set: a site of a layer at positions, to `values(runs)` `[run, position, ...]`.

    units: heads of `z`, or neurons; None for all of them
    """

    site: str
    layer: int
    positions: tuple[int, ...]
    values: Callable[[Int[Tensor, " row"]], Tensor]
    units: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Entry:
    """A cell and the runs that it is written in.

    layer: where it joins; point: whether only what is written changes there, so that the positions after it can wait
    """

    cell: int
    writes: tuple[Write, ...]
    runs: Int[Tensor, " row"]
    layer: int
    start: int
    point: bool

    @classmethod
    def of(cls, cell: int, writes: Sequence[Write], runs: Int[Tensor, " row"]) -> "Entry":
        """Where a cell joins: a `resid_post` is the `resid_pre` of the layer above."""
        own = tuple(
            Write("resid_pre", w.layer + 1, w.positions, w.values) if w.site == "resid_post" else w for w in writes
        )
        layer = min(write.layer for write in own)
        point = all(write.site != "resid_pre" for write in own if write.layer == layer)
        return cls(cell, own, runs, layer, min(p for write in own for p in write.positions), point)

    def at(self, layer: int) -> tuple[int, ...]:
        """The positions that are written in a layer."""
        return tuple(sorted({p for write in self.writes if write.layer == layer for p in write.positions}))

    def tokens(self, length: int) -> int:
        """How many tokens are under way at most."""
        return len(self.runs) * (length - self.start)


@dataclass
class _Part:
    """Rows that are at the same positions. ranges: (entry, first row, stop); earlier: keys and values of own positions
    before these, where they went ahead."""

    positions: tuple[int, ...]
    ranges: list[tuple[Entry, int, int]]
    runs: Int[Tensor, " row"]
    hidden: Float[Tensor, "row pos d_model"]
    point: bool
    earlier: tuple[Tensor, Tensor] | None = None
    start: int = 0

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self.hidden.shape[0] * self.hidden.shape[1]


@dataclass
class Packed:
    """One chunk of cells on its way through the blocks.

    tokens: how many went through a whole block; tokens_kv: how many gave their keys and values only
    """

    interior: Interior
    base: Trace
    keep: int
    tokens: int = 0
    tokens_kv: int = 0

    @torch.no_grad()
    def run(self, entries: Sequence[Entry]) -> tuple[list[tuple[Entry, int, int]], Tensor, Float[Tensor, "row keep d"]]:
        """The last layer's output at the last `keep` positions of every row; ranges as in `_Part`, and each row's run."""
        n_layers = len(self.interior.blocks)
        parts: list[_Part] = []
        for layer in range(min(entry.layer for entry in entries), n_layers):
            joining = [entry for entry in entries if entry.layer == layer]
            parts = self._join(layer, parts, [entry for entry in joining if not entry.point])
            if layer == n_layers - 1:
                parts = self._last(layer, parts)
            points = self._points(layer, [entry for entry in joining if entry.point])
            self._block(layer, parts + points)
            parts = self._widen(layer + 1, parts, points)
        parts = self._join(n_layers, parts, [entry for entry in entries if entry.layer == n_layers])
        return self._ends(n_layers, parts)

    def _plain(self, layer: int, runs: Tensor, positions: Sequence[int]) -> Tensor:
        """States of the plain run at a block's input."""
        first = positions[0]
        place: Any = slice(first, first + len(positions))
        if positions[-1] - first != len(positions) - 1:
            place = list(positions)
        return self.base.residual[layer][runs][:, place]

    def _join(self, layer: int, parts: list[_Part], entries: Sequence[Entry]) -> list[_Part]:
        """Add rows whose states are plain before this layer, then write to its input; one part for each start."""
        length = self.base.ids.shape[1]
        joining: dict[int, list[Entry]] = defaultdict(list)
        for entry in entries:
            joining[entry.start].append(entry)
        by_start = {part.start: part for part in parts}
        for start, group in joining.items():
            positions = tuple(range(start, length))
            runs = torch.cat([entry.runs for entry in group])
            made = self._part(group, runs, self._plain(layer, runs, positions), positions)
            by_start[start] = _merged(by_start[start], made) if start in by_start else made
        for part in by_start.values():
            self._write(layer, "resid_pre", part, part.hidden)
        return list(by_start.values())

    def _part(self, entries: Sequence[Entry], runs: Tensor, hidden: Tensor, positions: tuple[int, ...]) -> _Part:
        ranges = []
        at = 0
        for entry in entries:
            ranges.append((entry, at, at + len(entry.runs)))
            at += len(entry.runs)
        point = positions[-1] != self.base.ids.shape[1] - 1 or entries[0].point
        return _Part(positions, ranges, runs, hidden, point, start=positions[0])

    def _points(self, layer: int, entries: Sequence[Entry]) -> list[_Part]:
        """Rows of which only what is written goes through this block; in the last layer only what is read."""
        groups: dict[tuple[int, ...], list[Entry]] = defaultdict(list)
        first = self.base.ids.shape[1] - self.keep if layer == len(self.interior.blocks) - 1 else 0
        for entry in entries:
            groups[tuple(p for p in entry.at(layer) if p >= first)].append(entry)
        made = []
        for positions, group in groups.items():
            runs = torch.cat([entry.runs for entry in group])
            made.append(self._part(group, runs, self._plain(layer, runs, positions), positions))
        return made

    def _widen(self, layer: int, parts: list[_Part], points: list[_Part]) -> list[_Part]:
        """Give the rows that joined with single positions their later ones, plain so far."""
        n_layers, length = len(self.interior.blocks), self.base.ids.shape[1]
        by_start = {part.start: part for part in parts}
        for point in points:
            pieces: dict[int, list[tuple[Entry, int, int]]] = defaultdict(list)
            for piece in point.ranges:
                pieces[piece[0].start if layer < n_layers else max(point.positions[0], length - self.keep)].append(piece)
            for start, ranges in pieces.items():
                positions = tuple(range(start, length))
                rows = torch.cat([torch.arange(low, high) for _, low, high in ranges]).to(point.hidden.device)
                runs = point.runs[rows]
                hidden = self._plain(layer, runs, positions).clone()
                hidden[:, [p - start for p in point.positions]] = point.hidden[rows]
                made = self._part([entry for entry, _, _ in ranges], runs, hidden, positions)
                made.point = False
                by_start[start] = _merged(by_start[start], made) if start in by_start else made
        return list(by_start.values())

    def _last(self, layer: int, parts: list[_Part]) -> list[_Part]:
        """Before the last block: positions that are not read give their keys and values, and go no further."""
        length = self.base.ids.shape[1]
        split = [max(0, length - self.keep - part.start) for part in parts]
        ahead = [
            _Part(part.positions[:n], part.ranges, part.runs, part.hidden[:, :n], False, start=part.start)
            for part, n in zip(parts, split, strict=True)
            if n
        ]
        found = iter(self._keys(layer, ahead))
        return [
            _Part(
                part.positions[n:], part.ranges, part.runs, part.hidden[:, n:], False, next(found) if n else None, part.start
            )
            for part, n in zip(parts, split, strict=True)
        ]

    def _keys(self, layer: int, parts: list[_Part]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of tokens, without the rest of the block."""
        if not parts:
            return []
        found: list[tuple[Tensor, Tensor]] = []

        def attention(_: int, __: Attend, q: Tensor, k: Tensor, v: Tensor, ___: Any) -> Any:
            found.extend(zip(_split(k, parts), _split(v, parts), strict=True))
            raise Done

        try:
            with self.interior.using(attention=attention):
                self._call(layer, parts)
        except Done:
            self.tokens_kv += sum(part.size for part in parts)
        return found

    def _block(self, layer: int, parts: list[_Part]) -> None:
        """Take all parts through a block, in place."""
        if not parts:
            return

        def attention(_: int, attend: Attend, q: Tensor, k: Tensor, v: Tensor, ___: Any) -> Any:
            own = zip(parts, _split(q, parts), _split(k, parts), _split(v, parts), strict=True)
            z = [self._attend(layer, attend, *each) for each in own]
            return torch.cat([part.flatten(0, 1) for part in z])[None], None

        def listen(site: str, _: int, value: Tensor) -> Tensor | None:
            if site in ("resid_pre", "resid_post"):
                return None
            written = None
            for part, place in zip(parts, _places(parts), strict=True):
                if any(write.site in _MEANT[site] for entry, _, _ in part.ranges for write in entry.writes):
                    written = value.clone() if written is None else written
                    states = written[0, place].view(*part.hidden.shape[:2], -1)
                    for name in _MEANT[site]:
                        self._write(layer, name, part, states)
            return written

        with self.interior.using(attention=attention, listen=listen):
            output = self._call(layer, parts)
        self.tokens += sum(part.size for part in parts)
        for part, place in zip(parts, _places(parts), strict=True):
            part.hidden = output[0, place].view(part.hidden.shape)

    def _call(self, layer: int, parts: Sequence[_Part]) -> Tensor:
        """The block on the tokens of all parts in one row."""
        packed = torch.cat([part.hidden.flatten(0, 1) for part in parts])[None]
        positions = torch.cat([torch.tensor(part.positions).repeat(len(part.runs)) for part in parts])
        calls = {
            name: None if name == "attention_mask" else _at(value, positions.to(packed.device), self.base.ids.shape)
            for name, value in self.base.calls[layer].items()
        }
        output = self.interior.blocks[layer](packed, **calls)
        return output[0] if isinstance(output, tuple) else output

    def _attend(self, layer: int, attend: Attend, part: _Part, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What the queries of a part read, `[row, pos, head, d_head]`."""
        plain = self.base.attention[layer]
        if part.point:  # nothing before this layer differs, so what they read is what it was
            z = plain["z"][part.runs][:, list(part.positions)]
        else:
            past = [plain[name][part.runs, :, : part.start] for name in ("k", "v")]
            own = [(k, v)] if part.earlier is None else [part.earlier, (k, v)]
            keys, values = (torch.cat([past[i], *(pair[i] for pair in own)], dim=2) for i in (0, 1))
            z = attend(q, keys, values, self._mask(layer, part))[0]
        self._write(layer, "z", part, z)
        return z

    def _mask(self, layer: int, part: _Part) -> Tensor:
        mask = self.base.masks[layer]
        rows = mask if len(mask) == 1 else mask[part.runs]
        return rows[:, :, part.positions[0] :]

    def _write(self, layer: int, site: str, part: _Part, states: Tensor) -> None:
        """Write into states `[row, pos, ...]` of a part what its cells say, in place."""
        for entry, low, high in part.ranges:
            for write in entry.writes:
                if write.site != site or write.layer != layer:
                    continue
                inside = [(i, part.positions.index(p)) for i, p in enumerate(write.positions) if p in part.positions]
                if not inside:
                    continue
                given = write.values(part.runs[low:high])[:, [i for i, _ in inside]].to(states.dtype)
                if site == "resid_mid":
                    given = given - self.base.residual[layer][part.runs[low:high]][:, [p for p in write.positions]]
                place = torch.tensor([at for _, at in inside], device=states.device)
                if write.units is None:
                    states[low:high, place] = given.view(high - low, len(inside), *states.shape[2:])
                else:
                    units = torch.tensor(write.units, device=states.device)
                    rows = torch.arange(low, high, device=states.device)
                    states[rows[:, None, None], place[:, None], units] = given

    def _ends(self, n_layers: int, parts: Sequence[_Part]) -> tuple[list[tuple[Entry, int, int]], Tensor, Tensor]:
        """The positions that are read, of all rows; what lies before a row's start is plain."""
        first = self.base.ids.shape[1] - self.keep
        ranges: list[tuple[Entry, int, int]] = []
        ends = []
        at = 0
        for part in parts:
            end = self.base.residual[n_layers][part.runs, first:].clone()
            if part.positions and part.positions[-1] >= first:
                kept = [i for i, p in enumerate(part.positions) if p >= first]
                end[:, [part.positions[i] - first for i in kept]] = part.hidden[:, kept]
            ends.append(end)
            ranges += [(entry, at + low, at + high) for entry, low, high in part.ranges]
            at += len(part.runs)
        return ranges, torch.cat([part.runs for part in parts]), torch.cat(ends)


# What a listener hears under a name, and the sites that are written there.
_MEANT = {"attn_out": ("attn_out", "resid_mid"), "mlp_out": ("mlp_out",), "neurons": ("neurons",)}


def _merged(one: _Part, other: _Part) -> _Part:
    at = len(one.runs)
    ranges = one.ranges + [(entry, at + low, at + high) for entry, low, high in other.ranges]
    runs, hidden = torch.cat([one.runs, other.runs]), torch.cat([one.hidden, other.hidden])
    return _Part(one.positions, ranges, runs, hidden, False, start=one.start)


def _places(parts: Sequence[_Part]) -> list[slice]:
    """Where the tokens of each part are in the packed row."""
    places, at = [], 0
    for part in parts:
        places.append(slice(at, at + part.size))
        at += part.size
    return places


def _split(states: Float[Tensor, "1 head token d_head"], parts: Sequence[_Part]) -> list[Tensor]:
    """Queries, keys or values of each part, `[row, head, pos, d_head]`."""
    return [
        states[0, :, place].unflatten(1, (len(part.runs), -1)).transpose(0, 1)
        for part, place in zip(parts, _places(parts), strict=True)
    ]


def _at(value: Any, positions: Int[Tensor, " token"], shape: Sequence[int]) -> Any:
    """What a block is told of positions (`[batch, pos, ...]` or `[pos]`), for these."""
    if isinstance(value, tuple | list):
        return type(value)(_at(part, positions, shape) for part in value)
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    if value.ndim == 1:
        return value[positions] if len(value) == shape[1] else value
    return value[:1, positions] if value.shape[0] in (1, shape[0]) and value.shape[1] == shape[1] else value
