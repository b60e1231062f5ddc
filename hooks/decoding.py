"""What a model writes after a prefix, until it stops."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm

from ..tasks import Piece
from .format import decode, token_ends, tokenize
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
    temperature: float = 0.0,
    seed: int = 0,
) -> list[tuple[tuple[int, ...], int | None]]:
    """What the model writes after each prefix, without the stop, and the stop token (None where it was cut off)."""
    check_here(model, "generate (and the answers of replay)")
    stop_ids, stop_text = _stop_ids(model, stop)
    order = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i]))
    found: dict[int, tuple[tuple[int, ...], int | None]] = {}
    # A shallow copy, so that the options a model ships with (a repetition penalty, say) do not bend the greedy answer.
    from transformers import GenerationConfig

    module: Any = copy.copy(model.module)
    module.generation_config = GenerationConfig()
    chunks = list(_chunks(order, batch_size))
    for number, chunk in enumerate(tqdm(chunks, desc="generate", disable=not progress, leave=False)):
        ids, mask = pad([prefixes[i] for i in chunk], model, left=True)
        options: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            options = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
        if stop_text is not None:
            options |= {"stop_strings": [stop_text], "tokenizer": model.tokenizer}
        with _seeded(seed + number if temperature > 0 else None, model.device):
            output = module.generate(
                input_ids=ids,
                attention_mask=mask.long(),
                max_new_tokens=max_new_tokens,
                eos_token_id=stop_ids,
                pad_token_id=_pad_id(model),
                **options,
            )
        for row, i in enumerate(chunk):
            found[i] = _cut(model, output[row, ids.shape[1] :].tolist(), stop_ids, stop_text)
    return [found[i] for i in range(len(prefixes))]


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


class _seeded:
    """Seed torch's global generator inside the block only: transformers' sampling knows no other."""

    def __init__(self, seed: int | None, device: torch.device) -> None:
        devices = [device] if device.type == "cuda" else []
        self.fork = torch.random.fork_rng(devices=devices) if seed is not None else None
        self.seed = seed

    def __enter__(self) -> None:
        if self.fork is not None and self.seed is not None:
            self.fork.__enter__()
            torch.manual_seed(self.seed)

    def __exit__(self, *error: Any) -> None:
        if self.fork is not None:
            self.fork.__exit__(*error)


def pad(rows: Sequence[Sequence[int]], model: Model, *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
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


def _chunks(items: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
