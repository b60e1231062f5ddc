"""What a model writes after a prefix, until it stops."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from ..core import InputError
from ..tasks import Piece
from .format import decode, token_ends, tokenize
from .memory import MEMORY, batches, written_bytes
from .model import Model
from .support import check_here


def _stop_ids(model: Model, text: str) -> tuple[list[int], str | None]:
    """The token ids at which a continuation ends, and the text at which it ends where that is no single token."""
    stops = {model.tokenizer.eos_token_id} - {None}
    config: Any = getattr(model.module, "generation_config", None)
    eos = getattr(config, "eos_token_id", None)
    stops |= set(eos if isinstance(eos, list) else [eos]) - {None}
    ids = tokenize(model.tokenizer, [Piece(text)]).ids if text.strip() else ()
    if len(ids) == 1:
        return sorted(stops | {ids[0]}), None
    return sorted(stops), text or None


@torch.no_grad()
def continue_each(
    model: Model,
    prefixes: Sequence[tuple[int, ...]],
    stop: str,
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: bool,
    memory: float = MEMORY,
    temperature: float = 0.0,
    seeds: Sequence[Sequence[int]] = (),
) -> list[tuple[tuple[int, ...], int | None]]:
    """What the model writes after each prefix, without the stop, and the stop token (None where it was cut off).

    memory: gigabytes for the key/value caches, one pass over the prefixes and the logits; so many prefixes share a
        batch as fit, `batch_size` at most
    seeds: with a temperature, what the draws of each prefix come from, whatever shares its batch
    """
    check_here(model, "generate (and the answers of replay)")
    if temperature > 0 and len(seeds) != len(prefixes):
        raise InputError(f"temperature={temperature}: {len(prefixes)} prefixes and {len(seeds)} seeds; give one each")
    stops = _stop_ids(model, stop)
    # A shallow copy, so that the options a model ships with (a repetition penalty, say) do not bend the greedy answer.
    from transformers import GenerationConfig

    module: Any = copy.copy(model.module)
    module.generation_config = GenerationConfig()
    lengths = [len(prefix) for prefix in prefixes]
    each = {n: written_bytes(module, n, max_new_tokens, drawn=temperature > 0) for n in set(lengths)}
    sizes = [each[n] for n in lengths]
    order = sorted(range(len(prefixes)), key=lengths.__getitem__)
    found: dict[int, tuple[tuple[int, ...], int | None]] = {}
    with tqdm(total=len(prefixes), desc="generate", unit="run", disable=not progress, leave=False) as bar:
        for chunk in batches(order, sizes, batch_size, memory):
            ids, mask = pad([prefixes[i] for i in chunk], model, left=True)
            width = ids.shape[1]
            options: dict[str, Any] = {}
            if temperature > 0:
                draws = [np.random.default_rng(list(seeds[i])).random(max_new_tokens) for i in chunk]
                options["logits_processor"] = [drawing(np.stack(draws), temperature, width)]
            if stops[1] is not None:
                options["stopping_criteria"] = [_ending(model.tokenizer, stops[1], width)]
            output = module.generate(
                input_ids=ids,
                attention_mask=mask.long(),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=stops[0],
                pad_token_id=_pad_id(model),
                **options,
            )
            for row, i in enumerate(chunk):
                found[i] = _cut(model, output[row, width:].tolist(), *stops)
            bar.update(len(chunk))
    return [found[i] for i in range(len(prefixes))]


Scores = Float[Tensor, "batch vocab"]


def drawing(
    uniform: Float[np.ndarray, "batch step"], temperature: float, width: int
) -> Callable[[Int[Tensor, "batch pos"], Scores], Scores]:
    """A processor of scores that leaves one token of each row: the one in which that row's uniform number of the step
    falls. (transformers draws from one stream for a whole batch, so that a row's text would hang on its neighbours.)

    width: the number of tokens before the first step

    >>> half = torch.tensor([[0.0, 0.0, -torch.inf]])
    >>> [int(drawing(np.array([[u]]), 1.0, 1)(torch.zeros(1, 1).long(), half).argmax()) for u in (0.0, 0.49, 0.51)]
    [0, 0, 1]
    """

    def draw(ids: Int[Tensor, "batch pos"], scores: Scores) -> Scores:
        # In float32 the rounding of a sum over 100,000 tokens would be as large as many of them.
        wide = torch.float32 if scores.device.type == "mps" else torch.float64
        below = (scores.to(wide) / temperature).softmax(-1).cumsum(-1)
        at = torch.as_tensor(uniform[:, [ids.shape[1] - width]]).to(below)
        token = torch.searchsorted(below, at * below[:, -1:], right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)

    return draw


def _ending(tokenizer: Any, text: str, width: int) -> Callable[..., Tensor]:
    """A criterion that stops a row once a text stands at its end; only what follows the first `width` tokens counts."""
    # A token is a byte at least; one more, since the first of a row may lose its space.
    reach = len(text.encode()) + 1

    def stopped(ids: Int[Tensor, "batch pos"], _: Any, **__: Any) -> Tensor:
        ends = ids[:, max(width, ids.shape[1] - reach) :].tolist()
        return torch.tensor([text in decode(tokenizer, row) for row in ends], device=ids.device)

    return stopped


def until_stop(model: Model, written: Sequence[Sequence[int]], stop: str) -> list[tuple[int, ...]]:
    """The ids of each text before the stop, as in `continue_each`; all of them where it does not occur."""
    stops = _stop_ids(model, stop)
    return [_cut(model, list(ids), *stops)[0] for ids in written]


def _cut(
    model: Model, ids: list[int], stop_ids: list[int], stop_text: str | None
) -> tuple[tuple[int, ...], int | None]:
    """The ids before the stop, and the first token of the stop."""
    at = next((i for i, token in enumerate(ids) if token in stop_ids), None)
    if stop_text is not None:
        place = decode(model.tokenizer, ids[:at]).find(stop_text)
        if place >= 0:
            ends = token_ends(model.tokenizer, ids[:at])
            at = next(i for i in range(len(ids)) if ends[i + 1] > place)
    return (tuple(ids[:at]), ids[at]) if at is not None else (tuple(ids), None)


def pad(rows: Sequence[Sequence[int]], model: Model, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Token ids of unequal length as one tensor `[batch, pos]`, and the mask that is true where a token stands."""
    width = max(map(len, rows))
    fill = _pad_id(model)
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row)
        mask[i, place] = True
    return ids.to(model.device), mask.to(model.device)


def _pad_id(model: Model) -> int:
    """A token to fill with; masked, so any will do."""
    tokenizer = model.tokenizer
    return next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)
