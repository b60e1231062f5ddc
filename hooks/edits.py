"""Edits that last for a `with` block: activations that are set, edges of attention that are taken out."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

import torch
from jaxtyping import Int
from torch import Tensor

from ..core import InputError, check_name
from .backends.torch import TorchBackend
from .cut import CutBackend, Places, check_layers, check_order, joined, scanner_of
from .cut_view import Pass, Place, Rule, Scanner, of_texts, told
from .edges import HOW, attend_without, check_heads, give_patterns, in_heads
from .interior import Attend, Interior
from .model import Model
from .sites import RESIDUAL_SITES, Site, d_head, n_heads, site_map

SITES = (*RESIDUAL_SITES, "z")
LATER = "later"  # every position after the first key that is no key itself


@dataclass(frozen=True, eq=False)
class Patch:
    """An activation that is set to a value.

    site: `resid_pre`, `resid_mid`, `resid_post`, `attn_out`, `mlp_out`, or `z` (what the heads put out)
    position: a place as in `Model.cut` (several joined with "+"), or the number of a token of the run
    value: `[d_model]`, or a row for each position `[n, d_model]`, which needs places of a fixed number; for `z`
        `[heads, d_head]` or `[n, heads, d_head]`, where `heads` are all of them without the argument
    """

    site: str
    layer: int
    position: str | int
    value: Tensor = field(repr=False)
    heads: Sequence[int] | None = None


@dataclass(frozen=True)
class KnockOut:
    """Positions `queries` do not read positions `keys`, in these layers and heads (None: in all).

    queries, keys: names as in `Model.cut`; queries may be "later", every position after the first key that is no key
    how: "renormalise" masks before the softmax: what else is read is read more, and nothing of the keys is left; a
        position always sees itself, since a softmax over nothing is no number. "zero" sets the entries of the pattern
        to 0 after it: other reads stay what they are, but weights no longer sum to 1, a state that the model never
        saw, and how much the keys would have drawn still shows.
    """

    queries: str
    keys: str
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None
    how: str = "renormalise"


@dataclass(frozen=True, eq=False)
class Edited(Model):
    """A model under edits; it runs until the block that made it ends."""

    edits: tuple[dict[str, Any], ...] = ()

    def identity(self) -> dict[str, Any]:
        """The manifest keys that must agree, the edits among them."""
        return {**super().identity(), "edits": list(self.edits)}

    def cut(
        self,
        queries: str | Iterable[str] = "cue",
        keys: str | Iterable[str] = "prompt",
        layers: Iterable[int] | None = None,
    ) -> NoReturn:
        """Refused: a cut is for good."""
        raise InputError("an edited model is not cut: cut the model first, then edit it")

    def with_format(self, **changes: Any) -> NoReturn:
        """Refused: the edits were found in the texts of this format."""
        raise InputError("an edited model keeps its format: change the format first, then edit the model")


@contextmanager
def edited(model: Model, edits: Sequence[Patch | KnockOut]) -> Iterator[Edited]:
    """The model with activations set and edges of attention taken out, until the block ends.

    Every operation on the model that is yielded honours the edits: a forward pass of its `module`, generation with a
    cache, replay, record. It is a view that shares the weights; the model that is given, and its module, are never
    changed, so an error or an interrupt leaves nothing behind. After the block the view refuses to run: what it would
    give is no longer what it is called. Names are found in the tokens, as `Model.cut` finds them. In one layer edges
    are taken out first, then `z` is set; of patches of one place the last one counts.

    Raises InputError for names, layers, heads and values that do not fit.

    >>> from loadbearing.hooks import generate, load
    >>> model = load("organism:sft")
    >>> problems = model.task.problems(16)
    >>> with edited(model, [KnockOut("cue", "cot")]) as blind:
    ...     generate(blind, problems).accuracy < 0.5
    True
    >>> generate(model, problems).accuracy
    1.0
    """
    if isinstance(model, Edited):
        raise InputError("this model is edited already: give all edits in one list")
    named = [edit for edit in edits if isinstance(edit, KnockOut) or isinstance(edit.position, str)]
    scanner = scanner_of(model) if named else None
    live = _Live(model, edits, scanner or Scanner([], []))
    interior = Interior.of(model.module, model.sites)
    give_patterns(interior, live.literal)
    module = told(interior.module, site_map(interior.module).layers_path, live.begin)
    backend = CutBackend(module, model.backend, scanner) if scanner else TorchBackend(module)
    known = {part.name: getattr(model, part.name) for part in fields(Model)} | {"backend": backend}
    try:
        with interior.using(attention=live.attention, listen=live.listen):
            yield Edited(**known, edits=tuple(_described(edit) for edit in edits))
    finally:
        live.over = True


class _Live:
    """What the edits are in the pass that runs now."""

    def __init__(self, model: Model, edits: Sequence[Patch | KnockOut], scanner: Scanner) -> None:
        places = Places(model)
        knocks = [edit for edit in edits if isinstance(edit, KnockOut)]
        groups: dict[tuple[str, tuple[int, ...] | None], list[Rule]] = {}
        for knock in knocks:
            heads = check_heads(model, knock.heads)
            groups.setdefault((check_name("how", knock.how, HOW), heads), []).append(_rule(model, places, knock))
        self.passes = [
            (how, heads, Pass(scanner, rules, model.n_layers, itself=how == "renormalise"))
            for (how, heads), rules in groups.items()
        ]
        self.literal = {
            layer for (how, _), rules in groups.items() if how == "zero" for rule in rules for layer in rule.layers
        }
        self.patches = [_Set(model, places, scanner, edit) for edit in edits if isinstance(edit, Patch)]
        self.entering: Tensor | None = None
        self.over = False

    def begin(self, ids: Tensor, queries: int, cache: Any) -> None:
        """Find the places of all edits in the tokens of a pass; called before it."""
        if self.over:
            raise InputError(
                "the edits of this model ended with their `with` block: use it inside of the block, or the model that "
                "it was made from"
            )
        for _, _, each in self.passes:
            each.begin(ids, queries, cache)
        for patch in self.patches:
            patch.index = of_texts(cache, ids, queries, lambda text, own=patch: own.find(text)[:, -queries:])  # type: ignore[misc]

    def attention(self, layer: int, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Any:
        """The attention of a layer with edges taken out and `z` set."""
        blocked: dict[str, Tensor] = {}
        for how, heads, each in self.passes:
            found = each.at(layer)
            if found is not None:
                chosen = in_heads(found.to(q.device), heads, q.shape[1])
                blocked[how] = blocked[how] | chosen if how in blocked else chosen
        read = attend_without(attend, q, k, v, mask, blocked, literal=layer in self.literal)
        return self._set("z", layer, read[0]), read[1]

    def listen(self, site: str, layer: int, states: Tensor) -> Tensor:
        """The states of a site with what is set there; `resid_mid` is set by what attention adds."""
        states = self._set(site, layer, states)
        if site == "resid_pre":
            self.entering = states
        if site == "attn_out":
            states = self._set("resid_mid", layer, states, self.entering)
        return states

    def _set(self, site: str, layer: int, states: Tensor, before: Tensor | None = None) -> Tensor:
        for patch in self.patches:
            if (patch.site, patch.layer) == (site, layer):
                states = patch.into(states, before)
        return states


class _Set:
    """A patch whose places are found; `index` is, of every position of the pass, the row of its value, or -1."""

    def __init__(self, model: Model, places: Places, scanner: Scanner, patch: Patch) -> None:
        self.site, self.layer, self.scanner = check_name("site", patch.site, SITES), patch.layer, scanner
        check_layers([patch.layer], model.n_layers)
        if self.site != "z":
            model.sites.check(Site(self.site, patch.layer))
            if patch.heads is not None:
                raise InputError(f"heads={list(patch.heads)}: only site 'z' has heads, not {self.site!r}")
        self.heads = check_heads(model, patch.heads)
        self.position = patch.position
        self.places: tuple[Place, ...] = ()
        rows: int | None = 1
        if isinstance(patch.position, str):
            self.places = places.find(joined(patch.position))
            whole = any(place.offsets is None for place in self.places)
            rows = None if whole else sum(len(place.offsets or ()) for place in self.places)
        elif patch.position < 0:
            raise InputError(f"position {patch.position}: expected the number of a token from 0 on, or a name")
        self.value = _checked(model, patch, self.heads, rows)
        self.index: Int[Tensor, "batch query"] = torch.empty(0, 0, dtype=torch.long)

    def find(self, ids: Tensor) -> Tensor:
        """The row of the value that each of these tokens takes, or -1."""
        index = torch.full_like(ids, -1)
        if isinstance(self.position, int):
            return index.masked_fill(((ids >= 0).long().cumsum(1) - 1 == self.position) & (ids >= 0), 0)
        region, offset = self.scanner.parts(ids)
        row = 0
        for place in self.places:
            if place.offsets is None:
                index = index.masked_fill(region == place.region, 0)
            for at in place.offsets or ():
                index = index.masked_fill((region == place.region) & (offset == at), row)
                row += len(self.value) > 1
        return index

    def into(self, states: Tensor, before: Tensor | None) -> Tensor:
        """These states with the value in its places; less what `before` adds to it."""
        index = self.index.to(states.device)
        value = self.value.to(states)[index.clamp(min=0)]
        given = value if before is None else value - before
        here = (index >= 0).view(*index.shape, *[1] * (states.ndim - 2))
        if self.site != "z" or self.heads is None:
            return torch.where(here, given, states)
        made = states.clone()
        made[:, :, list(self.heads)] = torch.where(here, given, states[:, :, list(self.heads)])
        return made


def _rule(model: Model, places: Places, knock: KnockOut) -> Rule:
    keys = places.find(joined(knock.keys))
    queries = None if knock.queries == LATER else places.find(joined(knock.queries))
    if queries is not None:
        check_order(knock.queries, queries, knock.keys, keys)
    return Rule(queries, keys, frozenset(check_layers(knock.layers, model.n_layers)))


def _checked(model: Model, patch: Patch, heads: tuple[int, ...] | None, rows: int | None) -> Tensor:
    """The value as `[1 or n, ...]`. rows: how many positions there are; None where runs differ in it."""
    config: Any = model.module.config
    own: tuple[int, ...] = (config.hidden_size,)
    if patch.site == "z":
        own = (n_heads(model.module) if heads is None else len(heads), d_head(model.module))
    shape = tuple(patch.value.shape)
    if shape == own:
        return patch.value[None]
    if shape != (rows, *own):
        many = "" if rows == 1 else f" or {[rows or 'n', *own]}, a row for each position"
        advice = f"; {patch.position!r} is as long as the run has it: name places, such as cot[0:2]" if not rows else ""
        raise InputError(
            f"the value for {patch.site} at {patch.position!r} has shape {list(shape)}: expected {list(own)}"
            f"{many}{advice}"
        )
    return patch.value


def _described(edit: Patch | KnockOut) -> dict[str, Any]:
    """An edit as plain values, for a manifest; of a value its shape and a hash."""
    found = {part.name: getattr(edit, part.name) for part in fields(edit)}
    for name in ("layers", "heads"):
        if found.get(name) is not None:
            found[name] = list(found[name])
    if isinstance(edit, Patch):
        value = edit.value.detach().float().cpu().contiguous().numpy()
        found["value"] = {"shape": list(value.shape), "sha256": hashlib.sha256(value.tobytes()).hexdigest()[:16]}
    return {"edit": type(edit).__name__, **found}
