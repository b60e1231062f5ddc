"""Key/value caches: kept by segment, put together row by row, with room for what comes next."""

from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .masks import takes_logits_to_keep
from .model import Model

# Keys and values of every layer, each [batch, kv_head, pos, d_head].
Layers = list[tuple[Tensor, Tensor]]


class Caches:
    """Key/value caches of many segments, each under a key, kept in the batches in which they were computed.

    A segment ends `after` places before its row does: shorter ones of a batch have padding before them.
    """

    def __init__(self) -> None:
        self._where: dict[Hashable, tuple[Layers, int, int]] = {}
        self._ids: dict[Hashable, tuple[int, ...]] = {}

    def add(
        self,
        keys: Sequence[Hashable],
        layers: Layers,
        ids: Sequence[tuple[int, ...]],
        after: Sequence[int] | None = None,
    ) -> None:
        """Keep the caches of a batch and the tokens that made them, one row a key."""
        for row, (key, own) in enumerate(zip(keys, ids, strict=True)):
            self._where[key] = (layers, row, after[row] if after else 0)
            self._ids[key] = own

    def length(self, key: Hashable) -> int:
        """The number of positions of a segment."""
        return len(self._ids[key])

    def ids(self, keys: Sequence[Hashable]) -> tuple[int, ...]:
        """The token ids of segments, one after the other."""
        return tuple(token for key in keys for token in self._ids[key])

    def layers(self, key: Hashable) -> Layers:
        """The cache of one segment, a batch of one."""
        layers, row, after = self._where[key]
        stop = layers[0][0].shape[2] - after
        place = slice(stop - self.length(key), stop)
        return [(k[row : row + 1, :, place], v[row : row + 1, :, place]) for k, v in layers]

    def assemble(self, rows: Sequence[Sequence[Hashable]], room: int) -> tuple[Layers, Int[Tensor, "batch past"]]:
        """The caches of segments behind one another, a row each, with `room` more positions after them.

        Returns layers `[batch, kv_head, past + room, d_head]` (none where no row has a past), and the token ids of the
        past, -1 where a shorter row is padded at its end.
        """
        written = [self.ids(row) for row in rows]
        longest = max(map(len, written))
        ids = torch.tensor([[*own, *[-1] * (longest - len(own))] for own in written], dtype=torch.long)
        if not longest:
            return [], ids
        like = self.layers(next(row for row in rows if row)[0])
        # What a padded place holds is masked, but it must be a number.
        fresh = torch.Tensor.new_empty if min(map(len, written)) == longest else torch.Tensor.new_zeros
        size = (len(rows), like[0][0].shape[1], longest + room)
        past = [(fresh(k, (*size, k.shape[3])), fresh(v, (*size, v.shape[3]))) for k, v in like]
        # Segments that were computed in one batch and go to the same place are copied at once.
        moves: dict[tuple[int, ...], tuple[Layers, list[int], list[int]]] = {}
        for place, row in enumerate(rows):
            at = 0
            for key in row:
                layers, source, after = self._where[key]
                _, sources, places = moves.setdefault((id(layers), at, self.length(key), after), (layers, [], []))
                sources.append(source)
                places.append(place)
                at += self.length(key)
        for (_, at, length, after), (layers, sources, places) in moves.items():
            on = {keys.device: torch.tensor(sources, device=keys.device) for keys, _ in layers}
            # A stretch of rows is copied as it is, which is several times faster than row by row.
            into: Any = slice(places[0], places[-1] + 1) if places[-1] - places[0] == len(places) - 1 else places
            for pair, targets in zip(layers, past, strict=True):
                for given, target in zip(pair, targets, strict=True):
                    stop = given.shape[2] - after
                    moved = given.index_select(0, on[given.device])[:, :, stop - length : stop]
                    target[into, :, at : at + length] = moved
        return past, ids.to(like[0][0].device)


@torch.no_grad()
def forward_over(
    model: Model,
    ids: Int[Tensor, "batch pos"],
    past: Layers,
    past_ids: Int[Tensor, "batch past"],
    *,
    last: int = 0,
    positions: Int[Tensor, "batch pos"] | None = None,
    mask: Any = None,
    branch: Int[Tensor, "batch pos"] | None = None,
) -> tuple[Float[Tensor, "batch keep vocab"], Layers]:
    """Run a segment over a cache that has room for it; float32 logits of its `last` positions (0: all), its own cache.

    positions: where they do not simply follow on; mask: where rows are padded (see `position_mask`); branch: which of
    several texts side by side each token belongs to (0: all of them)
    """
    from transformers import DynamicCache

    before = past_ids.shape[1]
    # Without a config every layer keeps every position: the default cache of a sliding layer drops what has left the
    # window, and it could not be spliced; the mask still applies the window.
    joined: Any = DynamicCache()
    if past:
        joined.layers = [_room_class()(keys, values, before) for keys, values in past]
    joined.token_ids = past_ids  # a model with a cut wire must know which tokens a cache is of
    joined.branch = branch
    if positions is None:
        positions = torch.arange(before, before + ids.shape[1], device=ids.device).expand_as(ids)
    options: dict[str, Any] = {"logits_to_keep": last} if takes_logits_to_keep(type(model.module)) else {}
    if mask is not None:
        options["attention_mask"] = mask
    output = model.module(input_ids=ids, position_ids=positions, past_key_values=joined, use_cache=True, **options)
    # Copied where there is a past: a view would keep all of it alive.
    parts = [(layer.keys[:, :, before:], layer.values[:, :, before:]) for layer in joined.layers]
    return output.logits[:, -last:].float(), [(k.clone(), v.clone()) for k, v in parts] if before else parts


def forward_segment(model: Model, ids: Int[Tensor, "batch pos"]) -> tuple[Float[Tensor, "batch pos vocab"], Layers]:
    """Run the start of a text; its logits and its cache."""
    return forward_over(model, ids, [], ids[:, :0])


@cache
def _room_class() -> Any:
    """A cache layer whose tensors have room already, so that adding a segment copies nothing but the segment."""
    from transformers.cache_utils import DynamicLayer

    class Room(DynamicLayer):
        def __init__(self, keys: Tensor, values: Tensor, before: int) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.lazy_initialization(keys, values)
            self.room = (keys, values)
            self.keys, self.values = keys[:, :, :before], values[:, :, :before]

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            """Write the segment into the room."""
            assert self.keys is not None
            start = self.keys.shape[2]
            stop = start + key_states.shape[2]
            for room, states in zip(self.room, (key_states, value_states), strict=True):
                room[:, :, start:stop] = states
            self.keys, self.values = (room[:, :, :stop] for room in self.room)
            return self.keys, self.values

    return Room
