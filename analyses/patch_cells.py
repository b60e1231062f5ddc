"""The cells of a patching map: what is written where, from the source's run into the base's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core import InputError, check_name
from ..hooks import Model
from ..hooks.interior import Interior
from ..hooks.sites import RESIDUAL_SITES, Site, n_heads
from ..hooks.trace import HEAD_SITES, Trace
from ..hooks.writes import Write

SITES = (*RESIDUAL_SITES, *HEAD_SITES, "neurons")
UNIT_SITES = (*HEAD_SITES, "neurons")
# Sites that are compared after rotation, or by the places of their keys: only the same positions can be exchanged.
IN_PLACE = ("q", "k", "pattern")


def check_site(model: Model, interior: Interior | None, site: str, layers: Sequence[int]) -> None:
    """Raise InputError for a site that this model does not have; without an interior it has no neurons."""
    check_name("site", site, SITES)
    for layer in layers:
        if site in RESIDUAL_SITES:
            model.sites.check(Site(site, layer))
        elif site == "neurons" and (interior is None or interior.down[layer] is None):
            name = type(model.sites.blocks[layer].block).__name__
            raise InputError(f"{name} (layer {layer}) has no neurons that are known here: patch mlp_out instead")


def unit_count(site: str, model: Model, interior: Interior | None) -> int:
    """How many heads (of keys and values: their own number) or neurons every layer has."""
    if site == "neurons" and interior is not None:
        down: Any = interior.down[0]
        return int(getattr(down, "in_features", None) or down.weight.shape[0])
    return n_heads(model.module, site)


def check_places(site: str, places: Sequence[Any], source_places: Sequence[Any]) -> None:
    """Raise InputError for a site that belongs to its position where the other run's places are others."""
    if site in IN_PLACE and places != source_places:
        raise InputError(
            f"site {site!r} belongs to its position: expected the same positions in both runs, got {places} and "
            f"{source_places}; patch 'z' or 'v' across positions"
        )


def pattern_z(
    pattern: Float[Tensor, "run query head key"], values: Float[Tensor, "run kv_head pos d_head"]
) -> Float[Tensor, "run query head d_head"]:
    """The z of patterns over values; no position looks beyond itself, so lengths may differ."""
    values = values.repeat_interleave(pattern.shape[2] // values.shape[1], dim=1)
    size = min(values.shape[2], pattern.shape[-1])
    return torch.einsum("rphk,rhkd->rphd", pattern[..., :size].to(values.dtype), values[:, :, :size])


@dataclass
class Writer:
    """Makes the writes of one site. base: the run that is written into; source: the one that the values are of.

    Queries, keys, values and patterns change nothing but what heads give, so they are written as the z that they make:
    from queries or patterns at the same positions, from keys or values at every later one.
    """

    site: str
    base: Trace
    source: Trace
    _memo: tuple[Any, Tensor] | None = field(default=None, repr=False)

    def write(self, layer: int, places: tuple[int, ...], source_places: tuple[int, ...], unit: int | None) -> Write:
        """The write of one cell; unit: a head or a neuron, None for all of them."""
        check_places(self.site, places, source_places)
        if self.site not in ("q", "k", "v", "pattern"):
            units = None if unit is None else (unit,)
            return Write(self.site, layer, places, self._plain(layer, source_places, units), units)
        positions = places if self.site in ("q", "pattern") else tuple(range(places[0], self.base.ids.shape[1]))
        heads = None if unit is None else self._heads(unit)

        def values(runs: Tensor) -> Tensor:
            z = self._remembered(layer, places, source_places, runs)
            return z if heads is None else z[:, :, list(heads)]

        return Write("z", layer, positions, values, heads)

    def _plain(
        self, layer: int, places: tuple[int, ...], units: tuple[int, ...] | None
    ) -> Callable[[Int[Tensor, " row"]], Tensor]:
        def values(runs: Tensor) -> Tensor:
            given = self.source.get(self.site, layer)[runs][:, list(places)]
            return given if units is None else given[:, :, list(units)]

        return values

    def _heads(self, unit: int) -> tuple[int, ...]:
        """The heads of queries that a head of this site serves."""
        if self.site not in ("k", "v"):
            return (unit,)
        attention = self.base.attention[0]
        group = attention["q"].shape[1] // attention["k"].shape[1]
        return tuple(range(unit * group, (unit + 1) * group))

    def _remembered(self, layer: int, places: tuple[int, ...], given: tuple[int, ...], runs: Tensor) -> Tensor:
        """z of all heads with one site exchanged; the last one is kept, since the heads of a cell follow each other."""
        key = (layer, places, given, tuple(runs.tolist()))
        if self._memo is None or self._memo[0] != key:
            self._memo = (key, self._z(layer, list(places), list(given), runs))
        return self._memo[1]

    def _z(self, layer: int, places: list[int], given: list[int], runs: Tensor) -> Tensor:
        own, other = self.base.attention[layer], self.source.attention[layer]
        q, k, v = (own[name][runs] for name in ("q", "k", "v"))
        if self.site == "pattern":
            return pattern_z(self.source.get("pattern", layer)[runs][:, given], v)
        mask = self.base.masks[layer]
        mask = mask if len(mask) == 1 else mask[runs]
        rows: Any = places
        if self.site == "q":
            q = other["q"][runs][:, :, given]
        else:
            rows = slice(places[0], None)
            exchanged = k if self.site == "k" else v
            exchanged[:, :, places] = other[self.site][runs][:, :, given]
            q = q[:, :, rows]
        return self.base.attend[layer](q, k, v, mask[:, :, rows])[0]
