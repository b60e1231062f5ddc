"""The view of a module whose attention cannot reach across a cut: shared weights, an edited attention mask."""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..core import InputError
from .sites import SiteMap, attention_of

PADDING = -1
NEVER = 1 << 30  # the position of what does not occur
Texts = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Place:
    """Positions of one part of a run, counted from where the part starts; None: all of them."""

    region: int
    offsets: tuple[int, ...] | None


class Scanner:
    """Finds the parts of a run in its token ids; `heads`: what stands before a problem, where that may hold marks."""

    def __init__(self, opens: Texts, cues: Texts, heads: Texts = ()) -> None:
        self.opens = sorted(set(opens), key=len, reverse=True)
        self.cues = sorted(set(cues), key=len, reverse=True)
        self.heads = heads

    def starts(self, ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch 5"]:
        """Where prompt, open, cot, cue and answer start: positions among the tokens, padding (-1) left out."""
        order = (ids < 0).int().argsort(dim=1, stable=True)
        packed = ids.gather(1, order)
        nothing = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        after = nothing
        for head in self.heads:
            if len(head) <= ids.shape[1]:
                same = (packed[:, : len(head)] == torch.tensor(head, device=ids.device)).all(1)
                after = after.maximum(same * len(head))
        opened, begun = _first(packed, self.opens, after)
        # An answer-only run may have no opening text: then its cue is looked for from the start.
        cue, answer = _first(packed, self.cues, torch.where(begun < NEVER, begun, after))
        return torch.stack([nothing, opened.minimum(cue), begun.minimum(cue), cue, answer], dim=1)

    def parts(self, ids: Int[Tensor, "batch pos"]) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        """Which part each token is in (padding: -1), and how far from where that starts."""
        position = (ids >= 0).long().cumsum(1) - 1
        starts = self.starts(ids)
        region = (position[:, :, None] >= starts[:, None, :]).sum(-1) - 1
        offset = position - starts.gather(1, region.clamp(min=0))
        return region.masked_fill(ids < 0, -1), offset


def _first(ids: Tensor, patterns: Sequence[tuple[int, ...]], after: Tensor) -> tuple[Tensor, Tensor]:
    """Start and stop of the first occurrence of any pattern at or after a position, the longest if several start."""
    start = torch.full((len(ids),), NEVER, device=ids.device)
    stop = start.clone()
    for pattern in patterns:
        if len(pattern) > ids.shape[1]:
            continue
        hit = (ids.unfold(1, len(pattern), 1) == torch.tensor(pattern, device=ids.device)).all(-1)
        hit &= torch.arange(hit.shape[1], device=ids.device) >= after[:, None]
        at = torch.where(hit.any(1), hit.int().argmax(1), NEVER)
        stop = torch.where(at < start, at + len(pattern), stop)
        start = at.minimum(start)
    return start, stop


@dataclass(frozen=True)
class Rule:
    """A cut whose names are resolved. queries: None for all positions after the first key that are no keys."""

    queries: tuple[Place, ...] | None
    keys: tuple[Place, ...]
    layers: frozenset[int]


def of_texts(cache: Any, ids: Tensor, queries: int, find: Callable[[Tensor], Tensor]) -> Tensor:
    """`find(ids)` `[batch, query, ...]` for the last `queries` of these tokens; several texts side by side (a cache
    with `branch`) are looked at one by one, and each query is given what its own text says."""
    branch = getattr(cache, "branch", None)
    if branch is None:
        return find(ids)
    branch = torch.cat([branch.new_zeros(len(ids), ids.shape[1] - queries), branch], dim=1)
    texts = [ids.masked_fill((branch != 0) & (branch != n), PADDING) for n in range(int(branch.max()) + 1)]
    stacked = torch.stack([find(text) for text in texts])
    return stacked[branch[:, -queries:], torch.arange(len(ids))[:, None], torch.arange(queries)]


class Pass:
    """What one forward pass blocks: the decoder's hooks write it, those of its attention modules read it.

    itself: whether a position always sees itself: a softmax over nothing is no number
    """

    def __init__(self, scanner: Scanner, rules: Sequence[Rule], n_layers: int, *, itself: bool = True) -> None:
        self.scanner = scanner
        self.by_layer = {layer: tuple(rule for rule in rules if layer in rule.layers) for layer in range(n_layers)}
        self.itself = itself
        self.cache: Any = None
        self.blocked: dict[tuple[Rule, ...], Tensor | None] = {}

    def begin(self, ids: Tensor, queries: int, cache: Any) -> None:
        """Work out what the last `queries` of these tokens may not read."""
        self.cache, self.blocked = cache, {}
        for rules in set(self.by_layer.values()):

            def blocked(text: Tensor, rules: tuple[Rule, ...] = rules) -> Tensor:
                return self._blocked(text, queries, rules)

            every = of_texts(cache, ids, queries, blocked)
            if self.itself:
                own = torch.arange(queries, device=ids.device)
                every[:, own, ids.shape[1] - queries + own] = False
            # Where nothing is blocked the mask, and so the kernel, stays what it was.
            self.blocked[rules] = every[:, None] if every.any() else None

    def at(self, layer: int) -> Bool[Tensor, "batch 1 query key"] | None:
        """What is blocked in a layer; None for nothing."""
        return self.blocked[self.by_layer[layer]]

    def _blocked(self, ids: Tensor, queries: int, rules: Sequence[Rule]) -> Bool[Tensor, "batch query key"]:
        """Which of these tokens the last `queries` of them may not read."""
        region, offset = self.scanner.parts(ids)

        def member(places: tuple[Place, ...]) -> Tensor:
            found = torch.zeros_like(ids, dtype=torch.bool)
            for place in places:
                inside = region == place.region
                if place.offsets is not None:
                    inside &= torch.isin(offset, torch.tensor(place.offsets, device=ids.device))
                found |= inside
            return found

        found = torch.zeros(len(ids), queries, ids.shape[1], dtype=torch.bool, device=ids.device)
        for rule in rules:
            keys = member(rule.keys)
            readers = later_than(keys) if rule.queries is None else member(rule.queries)
            found |= readers[:, -queries:, None] & keys[:, None, :]
        return found

    def mask(self, layer: int, given: Tensor | None, hidden: Tensor, boolean: bool) -> Tensor | None:
        """The attention mask of a layer with what is cut taken out."""
        blocked = self.at(layer)
        if blocked is None:
            return given
        queries = blocked.shape[2]
        length = self.cache.get_mask_sizes(queries, layer)[0] if self.cache is not None else queries
        return without(given, blocked.to(hidden.device), length, torch.bool if boolean else hidden.dtype)


def later_than(keys: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """All positions after the first key that are no keys."""
    return (keys.cumsum(1) > 0) & ~keys


def without(given: Tensor | None, blocked: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """An attention mask, boolean or added to the scores, with edges `[batch, head or 1, query, key]` taken out.

    given: None stands for a causal one over `length` keys, which is made in `dtype`
    """
    if given is None:
        queries = blocked.shape[2]
        given = torch.ones(queries, length, dtype=torch.bool, device=blocked.device).tril(length - queries)[None, None]
        given = given if dtype == torch.bool else added(given, dtype)
    if given.shape[-1] > blocked.shape[-1]:
        raise InputError("a model with a cut wire takes a dynamic cache: a static one has places without a token")
    blocked = blocked[..., blocked.shape[-1] - given.shape[-1] :]  # a sliding layer's cache drops its oldest keys
    if given.dtype == torch.bool:
        return given & ~blocked
    return torch.where(blocked, torch.finfo(given.dtype).min, given)


def added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that is added to the scores, of one that is either."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def cut_module(whole: nn.Module, sites: SiteMap, scanner: Scanner, rules: Sequence[Rule]) -> nn.Module:
    """A view of a module whose decoder tells its attention modules what is blocked."""
    config: Any = getattr(whole, "config", None)
    attention = getattr(config, "_attn_implementation", None)
    if attention not in ("eager", "sdpa"):
        raise InputError(
            f"a wire can be cut with attention='eager' or 'sdpa', whose masks can be edited; this one has {attention!r}"
        )
    now = Pass(scanner, rules, len(sites.blocks))
    paths = {id(part): path for path, part in whole.named_modules()}
    module = whole
    for layer in sorted({layer for rule in rules for layer in rule.layers}):
        part = attention_of(sites.blocks[layer].block)
        hooked = shallow(part)
        hooked.register_forward_pre_hook(_edit_mask(now, layer, attention == "sdpa"), with_kwargs=True)
        module = view(module, paths[id(part)], hooked)
    return told(module, sites.layers_path, now.begin)


def told(module: nn.Module, layers_path: str, begin: Callable[[Tensor, int, Any], None]) -> nn.Module:
    """A view of a module whose decoder says, before each pass, its tokens (with those of its cache; padding -1), how
    many of them it computes, and the cache; the cache it returns knows its tokens."""
    path = layers_path.rpartition(".")[0]
    decoder = shallow(module.get_submodule(path))
    names = list(inspect.signature(type(decoder).forward).parameters)[1:]
    seen: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(names, args, strict=False)) | kwargs
        ids, queries = _all_ids(given)
        seen[:] = [ids]
        begin(ids, queries, given.get("past_key_values"))

    def after(_: nn.Module, __: Any, output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            cache.token_ids = seen[0]

    decoder.register_forward_pre_hook(before, with_kwargs=True)
    decoder.register_forward_hook(after)
    return view(module, path, decoder)


def _all_ids(given: dict[str, Any]) -> tuple[Tensor, int]:
    """The tokens of a pass and of its cache, padding -1, and how many of them the pass computes."""
    ids, cache, mask = given.get("input_ids"), given.get("past_key_values"), given.get("attention_mask")
    past: Tensor | None = getattr(cache, "token_ids", None)
    before = 0 if cache is None else cache.get_seq_length()
    if ids is None:
        embeds = given["inputs_embeds"]
        if past is None or past.shape[1] != before + embeds.shape[1]:
            raise InputError(
                "a model with a cut wire must know the tokens: set `token_ids` of the cache to those of the whole run, "
                "or pass input_ids"
            )
        return past, embeds.shape[1]
    own = torch.where(_is_token(ids, mask), ids, PADDING)
    if not before and (past is None or not past.shape[1]):
        return own, ids.shape[1]
    if past is None or past.shape[1] != before:
        raise InputError(
            f"a model with a cut wire must know which tokens its cache is of: the cache has {before} positions and "
            f"`token_ids` for {0 if past is None else past.shape[1]}; pass a cache that this model returned"
        )
    return torch.cat([past.to(ids.device), own], dim=1), ids.shape[1]


def _is_token(ids: Tensor, mask: Any) -> Bool[Tensor, "batch pos"]:
    """Which input ids are tokens: padding is masked even for itself."""
    if isinstance(mask, dict):
        mask = next(iter(mask.values()))
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.ndim == 2:
        found: Tensor = mask[:, -ids.shape[1] :].bool()
        return found
    itself = mask[:, 0, :, -ids.shape[1] :].diagonal(dim1=-2, dim2=-1)
    seen: Tensor = itself if mask.dtype == torch.bool else itself > torch.finfo(mask.dtype).min / 2
    return seen.expand_as(ids)


def _edit_mask(now: Pass, layer: int, boolean: bool) -> Callable[..., Any]:
    def edit(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "attention_mask" not in kwargs:
            raise InputError("no wire can be cut here: the attention of this model is given no mask")
        hidden = args[0] if args else kwargs["hidden_states"]
        return args, {**kwargs, "attention_mask": now.mask(layer, kwargs["attention_mask"], hidden, boolean)}

    return edit


def shallow(module: nn.Module) -> nn.Module:
    """A copy of a module that shares its weights and submodules; submodules and hooks can be changed in it alone."""
    made = copy.copy(module)
    made.__dict__.pop("forward", None)  # an instance's own forward (nnsight, accelerate) would run the original
    for name, value in module.__dict__.items():
        if name == "_modules" or (name.startswith("_forward") and isinstance(value, dict)):
            made.__dict__[name] = value.copy()
    if mover := made.__dict__.pop("_hf_hook", None):  # accelerate's: it moves what comes in to where the weights are
        made.register_forward_pre_hook(lambda own, args, rest: mover.pre_forward(own, *args, **rest), with_kwargs=True)
        made.register_forward_hook(lambda own, _, output: mover.post_forward(own, output))
    return made


def view(module: nn.Module, path: str, replacement: nn.Module) -> nn.Module:
    """A shallow copy of a module in which one submodule is another; weights are shared, the original is not touched."""
    if not path:
        return replacement
    first, _, rest = path.partition(".")
    made = shallow(module)
    made._modules[first] = view(made.get_submodule(first), rest, replacement)
    return made
