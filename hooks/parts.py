"""Rows of a chunk that are at the same positions, and where their tokens are in one packed row."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .writes import Entry


@dataclass
class Part:
    """Rows that are at the same positions. ranges: (entry, first row, stop); point: what they read is what it was;
    ahead: positions before these that gave their keys and values, and went no further."""

    positions: tuple[int, ...]
    ranges: list[tuple[Entry, int, int]]
    runs: Int[Tensor, " row"]
    hidden: Float[Tensor, "row pos d_model"]
    point: bool = False
    ahead: tuple[int, ...] = ()
    earlier: tuple[Tensor, Tensor] | None = None

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self.hidden.shape[0] * self.hidden.shape[1]


def grouped(entries: Iterable[Entry], key: Callable[[Entry], tuple[int, ...]]) -> dict[tuple[int, ...], list[Entry]]:
    """Entries by what `key` says of them: sets of positions."""
    groups: dict[tuple[int, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return groups


def merged(parts: Iterable[Part]) -> list[Part]:
    """One part for each set of positions."""
    groups: dict[tuple[int, ...], list[Part]] = defaultdict(list)
    for part in parts:
        groups[part.positions].append(part)
    made = []
    for positions, group in groups.items():
        if len(group) == 1:
            made += group
            continue
        starts = accumulate((len(part.runs) for part in group), initial=0)
        ranges = [
            (entry, at + low, at + high)
            for at, part in zip(starts, group, strict=False)
            for entry, low, high in part.ranges
        ]
        runs, hidden = torch.cat([part.runs for part in group]), torch.cat([part.hidden for part in group])
        made.append(Part(positions, ranges, runs, hidden))
    return made


def places(parts: Sequence[Part]) -> list[slice]:
    """Where the tokens of each part are in the packed row."""
    stops = list(accumulate(part.size for part in parts))
    return [slice(stop - part.size, stop) for part, stop in zip(parts, stops, strict=True)]


def split(states: Float[Tensor, "1 head token d_head"], parts: Sequence[Part]) -> list[Tensor]:
    """Queries, keys or values of each part, `[row, head, pos, d_head]`."""
    return [
        states[0, :, place].unflatten(1, (len(part.runs), -1)).transpose(0, 1)
        for part, place in zip(parts, places(parts), strict=True)
    ]
