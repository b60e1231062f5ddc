"""How many runs share a batch: as many as fit into memory, told from the shape of the model."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from ..core import InputError
from .masks import attention_kinds, takes_logits_to_keep
from .sites import d_head, mlp_width, n_heads

MEMORY = 2.0  # gigabytes
FLOAT = 4  # bytes of the float32 in which logits are read and eager attention is normalised
MASKED = 2 + FLOAT  # bytes of a query and a key in a mask of ours: who sees whom, of one kind of attention, as numbers
DRAWN = 3 * 8 + FLOAT  # bytes a token of the vocabulary while one is drawn: see `drawing`


def cache_bytes(module: nn.Module) -> int:
    """Bytes of the keys and values of one position, in all layers; sliding layers count as full ones.

    >>> from loadbearing.hooks import load
    >>> module = load("organism:sft").module
    >>> module.config.num_hidden_layers, module.config.hidden_size, cache_bytes(module)
    (3, 64, 1536)
    """
    config: Any = module.config
    return 2 * int(config.num_hidden_layers) * _width(module, "k") * _size(module)


def pass_bytes(module: nn.Module, length: int, past: int = 0, masked: int = 3) -> float:
    """Bytes, about, that one block takes on its way over `length` positions: states, MLP, heads, and the mask.

    past: positions before them that they read; masked: bytes that a query and a key take while the mask is made
    """
    config: Any = module.config
    numbers = 8 * config.hidden_size + 3 * mlp_width(module) + 6 * _width(module, "z")
    shared = 2 * _width(module, "z")  # heads that share keys are given them side by side
    eager = getattr(config, "_attn_implementation", None) == "eager" and _attends(module)
    square = masked + _size(module) + (3 * FLOAT * n_heads(module) if eager else 0)
    return float((length * numbers + past * shared) * _size(module) + length * (past + length) * square)


def padded_bytes(module: nn.Module, lengths: Sequence[int]) -> float:
    """Bytes, about, of a row of a batch that is padded at its end, with logits from the end of the shortest row on."""
    seen = 1 + max(lengths) - min(lengths) if takes_logits_to_keep(type(module)) else max(lengths)
    config: Any = module.config
    return float(pass_bytes(module, max(lengths)) + seen * config.vocab_size * (_size(module) + FLOAT))


def segment_bytes(module: nn.Module, length: int, past: int, last: int) -> float:
    """Bytes, about, of a segment run over a copy of its past behind a mask of ours; logits of `last` positions.

    past: positions that it reads, and those that there is to be room for
    """
    config: Any = module.config
    cache = (past + 2 * length) * cache_bytes(module)
    logits = min(length, last) * config.vocab_size * (_size(module) + 3 * FLOAT)
    return float(cache + pass_bytes(module, length, past, masked=MASKED * len(attention_kinds(module)[1])) + logits)


def written_bytes(module: nn.Module, length: int, new: int, *, drawn: bool = False) -> float:
    """Bytes, about, that a row of a batch takes at most while `new` tokens are written after `length` tokens."""
    config: Any = module.config
    whole, layers = length + new, int(config.num_hidden_layers)
    cache = whole * cache_bytes(module) * (1 + 1 / layers)  # it grows by copies, a layer at a time
    block = max(pass_bytes(module, length), pass_bytes(module, 1, whole))
    seen = 1 if takes_logits_to_keep(type(module)) else length
    logits = config.vocab_size * (seen * _size(module) + 2 * FLOAT + (DRAWN if drawn else 0))
    return float(cache + block + logits)


def batches(order: Sequence[int], bytes_of: Sequence[float], batch_size: int, memory: float) -> Iterator[list[int]]:
    """Rows in this order, in batches of `batch_size` at most that fit into `memory` gigabytes; a row alone is let pass.

    bytes_of: what each row takes by itself; in a batch, whose rows are padded, all take what the largest does

    >>> list(batches([0, 1, 2, 3], [1e9, 1e9, 3e9, 9e9], batch_size=8, memory=6.0))
    [[0, 1], [2], [3]]
    """
    if batch_size < 1 or not memory > 0:
        raise InputError(f"batch_size={batch_size}, memory={memory}: expected 1 or more, and gigabytes above 0")
    chunk: list[int] = []
    largest = 0.0
    for row in order:
        largest = max(largest, bytes_of[row])
        if chunk and (len(chunk) == batch_size or (len(chunk) + 1) * largest > memory * 1e9):
            yield chunk
            chunk, largest = [], bytes_of[row]
        chunk.append(row)
    if chunk:
        yield chunk


def _width(module: nn.Module, site: str) -> int:
    """How many numbers all heads have together; a model without heads keeps about as much as its states."""
    config: Any = module.config
    return n_heads(module, site) * d_head(module) if _attends(module) else int(config.hidden_size)


def _attends(module: nn.Module) -> bool:
    return getattr(module.config, "num_attention_heads", None) is not None


def _size(module: nn.Module) -> int:
    return next(module.parameters()).element_size()
