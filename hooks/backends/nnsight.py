"""nnsight: a wrapped model is read and written in traces, here or where it is served; splicing runs on its module.

A trace that runs elsewhere is sent as the source of its `with` block and of the values that it reads, and only what is
saved comes back. So nothing of ours is read in a block, and what comes back is no more than was asked for.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...core import InputError
from ..cut_view import shallow
from ..sites import Site, SiteMap, n_heads, site_map
from .base import ELSEWHERE, PLACES, Backend, Edit, inputs_of, place_of, plan

Place = tuple[int, str]


class NnsightBackend(Backend):
    """An nnsight model (`TransformersModel` or `NNsight`), used as it is.

    remote: True where traces are run on a server of nnsight's (NDIF), "local" for nnsight's simulation of one
    how: what every trace is called with besides the inputs
    """

    name = "nnsight"

    def __init__(self, wrapped: Any, remote: bool | str = False) -> None:
        self.wrapped = wrapped
        self.remote = remote
        self.how: dict[str, Any] = {"remote": remote} if remote else {}
        self._shown = _not_run_here(wrapped._module) if remote else None
        self._map: SiteMap | None = None

    @classmethod
    def around(cls, module: nn.Module, tokenizer: Any) -> "NnsightBackend":
        """A wrapper around a module that may be changed: nnsight gives every submodule a forward of its own."""
        from nnsight import NNsight

        return cls(NNsight(module))

    def module(self) -> nn.Module:
        inner: nn.Module = self.wrapped._module if self._shown is None else self._shown
        return inner

    @property
    def map(self) -> SiteMap:
        """The blocks of the model, found at the first use."""
        if self._map is None:
            self._map = site_map(self.module())
        return self._map

    @torch.no_grad()
    def read(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        sites: Sequence[Site],
        rows: Int[Tensor, "rows 2"],
    ) -> dict[Site, Float[Tensor, "rows d_model"]]:
        parts = {"resid_mid": ("resid_pre", "attn_out")}  # the sum of what went in and of what attention adds
        summed = {self.map.check(site): [(site.layer, p) for p in parts.get(site.name, (site.name,))] for site in sites}
        read = self._read(ids, mask, {place for places in summed.values() for place in places}, rows)
        return {site: sum((read[place] for place in rest), read[first]) for site, (first, *rest) in summed.items()}

    @torch.no_grad()
    def read_heads(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        layers: Sequence[int],
        rows: Int[Tensor, "rows 2"],
    ) -> dict[Site, Float[Tensor, "rows head d_head"]]:
        sites = [self.map.check(Site("z", layer)) for layer in layers]
        read = self._read(ids, mask, {(layer, "z") for layer in layers}, rows)
        return {site: read[site.layer, "z"].unflatten(-1, (n_heads(self.module()), -1)) for site in sites}

    def _read(self, ids: Tensor, mask: Tensor, places: Iterable[Place], rows: Tensor) -> dict[Place, Tensor]:
        order = list(PLACES)
        wanted = sorted(places, key=lambda place: (place[0], order.index(place[1])))
        steps = [(envoy, PLACES[name]) for envoy, (_, name) in zip(self._envoys(wanted), wanted, strict=True)]
        inputs, _ = inputs_of(self.module(), ids, mask, rows)
        wrapped, how = self.wrapped, self.how
        batch, position = rows.cpu().unbind(1)  # from there they fit states on any device
        import nnsight

        with wrapped.trace(**inputs, **how) as tracer:
            found = nnsight.save([])
            for envoy, before in steps:
                given = envoy.input if before else envoy.output
                hidden = given[0] if isinstance(given, tuple) else given
                found.append(hidden[batch, position].detach())
            tracer.stop()
        return {place: value.to(rows.device) for place, value in zip(wanted, found, strict=True)}

    @torch.no_grad()
    def write(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        edits: Sequence[Edit],
        rows: Int[Tensor, "rows 2"],
    ) -> Float[Tensor, "rows vocab"]:
        made = plan(self.module(), self.map, ids, edits)
        index_of = [tuple(part.cpu() for part in edit.index) for edit in edits]  # they fit states on any device
        each = [[(action, n, index_of[n], edits[n].flat) for action, n in actions] for actions in made.values()]
        steps = list(zip(self._envoys(made), [PLACES[place] for _, place in made], each, strict=True))
        inputs, first = inputs_of(self.module(), ids, mask, rows)
        wrapped, how, batch, position = self.wrapped, self.how, rows[:, 0], rows[:, 1] - first
        kept: dict[int, Any] = {}

        with wrapped.trace(**inputs, **how):
            for envoy, before, actions in steps:
                given = envoy.input if before else envoy.output
                hidden = (given[0] if isinstance(given, tuple) else given).clone()
                for action, number, index, values in actions:
                    if action == "keep":
                        kept[number] = hidden[index]
                    else:
                        less = kept[number] if action == "less" else 0
                        hidden[index] = (values.to(hidden) - less).to(hidden.dtype)
                if before:
                    envoy.input = hidden
                else:
                    envoy.output = (hidden, *given[1:]) if isinstance(given, tuple) else hidden
            logits = wrapped.output.logits[batch, position].float().detach().save()
        found: Tensor = logits.to(ids.device)
        return found

    def _envoys(self, places: Iterable[Place]) -> list[Any]:
        """nnsight's handles of the modules at places."""
        paths = {id(part): path for path, part in self.module().named_modules()}
        return [_envoy(self.wrapped, paths[id(place_of(self.map, *place))]) for place in places]


def _envoy(wrapped: Any, path: str) -> Any:
    for name in path.split("."):
        wrapped = wrapped[int(name)] if name.isdigit() else getattr(wrapped, name)
    return wrapped


def _not_run_here(module: nn.Module) -> nn.Module:
    """A view of a module that shows how it is made and says, when it is run, that it is run elsewhere."""

    def refuse(called: nn.Module, *_: Any) -> None:
        raise InputError(f"{type(called).__name__} cannot be run here: {ELSEWHERE}")

    made = shallow(module)
    made.register_forward_pre_hook(refuse)
    return made
