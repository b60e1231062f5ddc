"""Patched runs that are under way together: packed into one row of tokens, each where it can differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .interior import Attend, Done, Interior
from .parts import Part, grouped, merged, places, split
from .trace import Trace
from .writes import Entry


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
    _written: set[tuple[int, str]] = field(default_factory=set, repr=False)

    @property
    def _length(self) -> int:
        return int(self.base.ids.shape[1])

    @torch.no_grad()
    def run(self, entries: Sequence[Entry]) -> tuple[list[tuple[Entry, int, int]], Tensor, Float[Tensor, "row keep d"]]:
        """The last layer's output at the last `keep` positions of every row; ranges as in `Part`, each row's run."""
        top = len(self.interior.blocks) - 1
        self._written = {(write.layer, write.site) for entry in entries for write in entry.writes}
        parts: list[Part] = []
        for layer in range(min(entry.layer for entry in entries), top + 1):
            joining = [entry for entry in entries if entry.layer == layer]
            points = self._points(layer, [entry for entry in joining if entry.point])
            suffixes = [entry for entry in joining if not entry.point]
            if layer < top:
                parts = self._join(layer, parts, suffixes)
            else:
                parts = self._last(layer, self._join(layer, parts, []), suffixes)
            self._block(layer, parts + points)
            parts = self._widen(layer + 1, parts, points)
        for part in parts:
            self._write(top + 1, "resid_pre", part, part.hidden)
        parts += self._join(top + 1, [], [entry for entry in entries if entry.layer > top])
        return self._ends(top + 1, parts)

    def _plain(self, layer: int, runs: Tensor, positions: Sequence[int]) -> Tensor:
        """States of the plain run at a block's input."""
        first = positions[0]
        place: Any = slice(first, first + len(positions))
        if positions[-1] - first != len(positions) - 1:
            place = list(positions)
        states = self.base.residual[layer]
        return states.index_select(0, runs.to(states.device))[:, place]

    def _fresh(
        self, layer: int, groups: Mapping[tuple[int, ...], Sequence[Entry]], *, point: bool = False
    ) -> list[Part]:
        """Rows whose states are plain before this layer, a part for each set of positions."""
        made = []
        for positions, entries in groups.items():
            stops = list(accumulate(len(entry.runs) for entry in entries))
            ranges = list(zip(entries, [0, *stops], stops, strict=False))
            runs = torch.cat([entry.runs for entry in entries])
            made.append(Part(positions, ranges, runs, self._plain(layer, runs, positions), point))
        return made

    def _join(self, layer: int, parts: list[Part], entries: Sequence[Entry]) -> list[Part]:
        """Add rows from where they start to the end, then write to this layer's input; one part for each start."""
        groups = grouped(entries, lambda entry: tuple(range(entry.start, self._length)))
        joined = merged([*parts, *self._fresh(layer, groups)])
        for part in joined:
            self._write(layer, "resid_pre", part, part.hidden)
        return joined

    def _points(self, layer: int, entries: Sequence[Entry]) -> list[Part]:
        """Rows of which only what is written goes through this block; in the last layer only what is read."""
        first = self._length - self.keep if layer == len(self.interior.blocks) - 1 else 0
        groups = grouped(entries, lambda entry: tuple(p for p in entry.at(layer) if p >= first))
        return self._fresh(layer, groups, point=True)

    def _widen(self, layer: int, parts: list[Part], points: list[Part]) -> list[Part]:
        """Give the rows that joined with what is written the positions after it, plain so far."""
        if layer == len(self.interior.blocks):
            return parts + points
        wide = []
        for point in points:
            for start in dict.fromkeys(entry.start for entry, _, _ in point.ranges):
                ranges = [piece for piece in point.ranges if piece[0].start == start]
                made = self._fresh(layer, {tuple(range(start, self._length)): [entry for entry, _, _ in ranges]})[0]
                rows = torch.cat([torch.arange(low, high) for _, low, high in ranges]).to(point.hidden.device)
                made.hidden[:, [p - start for p in point.positions]] = point.hidden[rows]
                wide.append(made)
        return merged(parts + wide)

    def _last(self, layer: int, parts: list[Part], entries: Sequence[Entry]) -> list[Part]:
        """Before the last block: positions that are not read give their keys and values, and go no further.

        Of rows that join here only what is written differs, and what is read.
        """
        first = self._length - self.keep
        fresh = self._fresh(layer, grouped(entries, lambda entry: _with_ends(entry.at(layer), first, self._length)))
        for part in fresh:
            self._write(layer, "resid_pre", part, part.hidden)
        ahead, last = [], []
        for part in parts + fresh:
            n = sum(p < first for p in part.positions)
            ahead.append(Part(part.positions[:n], part.ranges, part.runs, part.hidden[:, :n]))
            last.append(Part(part.positions[n:], part.ranges, part.runs, part.hidden[:, n:], False, part.positions[:n]))
        found = iter(self._keys(layer, [part for part in ahead if part.positions]))
        for part in last:
            part.earlier = next(found) if part.ahead else None
        return last

    def _keys(self, layer: int, parts: list[Part]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of tokens, without the rest of the block."""
        if not parts:
            return []
        found: list[tuple[Tensor, Tensor]] = []

        def attention(_: int, __: Attend, q: Tensor, k: Tensor, v: Tensor, ___: Any) -> Any:
            found.extend(zip(split(k, parts), split(v, parts), strict=True))
            raise Done

        try:
            with self.interior.using(attention=attention):
                self._call(layer, parts)
        except Done:
            self.tokens_kv += sum(part.size for part in parts)
        return found

    def _block(self, layer: int, parts: list[Part]) -> None:
        """Take all parts through a block, in place."""
        if not parts:
            return

        def attention(_: int, attend: Attend, q: Tensor, k: Tensor, v: Tensor, ___: Any) -> Any:
            own = zip(parts, split(q, parts), split(k, parts), split(v, parts), strict=True)
            z = [self._attend(layer, attend, *each) for each in own]
            return torch.cat([part.flatten(0, 1) for part in z])[None], None

        def listen(site: str, _: int, value: Tensor) -> Tensor | None:
            if not any((layer, name) in self._written for name in _MEANT.get(site, ())):
                return None
            written = value.clone()
            for part, place in zip(parts, places(parts), strict=True):
                states = written[0, place].view(*part.hidden.shape[:2], -1)
                for name in _MEANT[site]:
                    self._write(layer, name, part, states)
            return written

        with self.interior.using(attention=attention, listen=listen):
            output = self._call(layer, parts)
        self.tokens += sum(part.size for part in parts)
        for part, place in zip(parts, places(parts), strict=True):
            part.hidden = output[0, place].view(part.hidden.shape).to(self.base.residual[layer + 1].device)

    def _call(self, layer: int, parts: Sequence[Part]) -> Tensor:
        """The block on the tokens of all parts in one row."""
        packed = torch.cat([part.hidden.flatten(0, 1) for part in parts])[None]
        positions = torch.cat([torch.tensor(part.positions).repeat(len(part.runs)) for part in parts])
        output = self.interior.blocks[layer](packed, **self.base.call_at(layer, positions.to(packed.device)))
        states: Tensor = output[0] if isinstance(output, tuple) else output
        return states

    def _attend(self, layer: int, attend: Attend, part: Part, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What the queries of a part read, `[row, pos, head, d_head]`."""
        plain, runs = self.base.attention[layer], part.runs.to(q.device)
        if part.point:  # nothing before this layer differs, so what they read is what it was
            z = plain["z"][runs][:, list(part.positions)]
        else:
            keys, values = (plain[name].index_select(0, runs) for name in ("k", "v"))
            for whole, own, earlier in zip((keys, values), (k, v), part.earlier or (None, None), strict=True):
                whole[:, :, part.positions[0] :] = own
                if earlier is not None:
                    whole[:, :, list(part.ahead)] = earlier
            z = attend(q, keys, values, self._mask(layer, part))[0]
        self._write(layer, "z", part, z)
        return z

    def _mask(self, layer: int, part: Part) -> Tensor:
        mask = self.base.masks[layer]
        rows = mask if len(mask) == 1 else mask[part.runs.to(mask.device)]
        return rows[:, :, part.positions[0] :]

    def _write(self, layer: int, site: str, part: Part, states: Tensor) -> None:
        """Write into states `[row, pos, ...]` of a part what its cells say, in place."""
        if (layer, site) not in self._written:
            return
        for entry, low, high in part.ranges:
            for write in entry.writes:
                if write.site != site or write.layer != layer:
                    continue
                inside = [(i, part.positions.index(p)) for i, p in enumerate(write.positions) if p in part.positions]
                if not inside:
                    continue
                given = write.values(part.runs[low:high].to(states.device))[:, [i for i, _ in inside]].to(states)
                if site == "resid_mid":  # it is written as what attention adds to what came in
                    given = given - part.hidden[low:high, [at for _, at in inside]]
                place = torch.tensor([at for _, at in inside], device=states.device)
                if write.units is None:
                    states[low:high, place] = given.view(high - low, len(inside), *states.shape[2:])
                else:
                    units = torch.tensor(write.units, device=states.device)
                    rows = torch.arange(low, high, device=states.device)
                    states[rows[:, None, None], place[:, None], units] = given

    def _ends(self, n_layers: int, parts: Sequence[Part]) -> tuple[list[tuple[Entry, int, int]], Tensor, Tensor]:
        """The positions that are read, of all rows; what lies before a row's start is plain."""
        first = self._length - self.keep
        ranges: list[tuple[Entry, int, int]] = []
        ends = []
        at = 0
        for part in parts:
            last = self.base.residual[n_layers]
            end = last[part.runs.to(last.device), first:].clone()
            if part.positions and part.positions[-1] >= first:
                kept = [i for i, p in enumerate(part.positions) if p >= first]
                end[:, [part.positions[i] - first for i in kept]] = part.hidden[:, kept]
            ends.append(end)
            ranges += [(entry, at + low, at + high) for entry, low, high in part.ranges]
            at += len(part.runs)
        return ranges, torch.cat([part.runs for part in parts]), torch.cat(ends).to(self.base.ids.device)


# What a listener hears under a name, and the sites that are written there.
_MEANT = {"attn_out": ("attn_out", "resid_mid"), "mlp_out": ("mlp_out",), "neurons": ("neurons",)}


def _with_ends(positions: tuple[int, ...], first: int, stop: int) -> tuple[int, ...]:
    """Positions, and those from `first` on that are read."""
    return tuple(p for p in positions if p < first) + tuple(range(first, stop))
