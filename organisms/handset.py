"""GPT-2 models whose weights are written down, so that their channel table is known before it is measured.

A run is `<bos> copy V think C answer A <eos>`: positions are learned embeddings, so each head can be told which
position
to read. Every signal stands twice in the residual stream, once with the opposite sign, so that its mean is 0; a large
constant pair (the ballast) fixes its variance. LayerNorm is then a multiplication by a constant, up to
a few parts in 10,000 (float32 against the ballast).
"""

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..tasks import Copy, Task
from .specs import HandSet

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

VALUE, OPEN, COT, CUE, ANSWER = 2, 3, 4, 5, 6  # positions in a run
N_POSITIONS = 8
BALLAST = 1e4
LOGIT = 20.0  # the answer's logit per wire that speaks for it
FORCED = 60.0  # the logit of tokens that depend on the position only
SHARP = 60.0  # attention score of the position that a head reads: all others get e^-60 of its weight


@dataclass(frozen=True)
class Subspaces:
    """Offsets of the signals in the positive half of the residual stream."""

    n_tokens: int

    @property
    def token(self) -> int:
        return 0

    @property
    def position(self) -> int:
        return self.n_tokens

    @property
    def first(self) -> int:
        """What the first head read; at the CoT's position this is the relay."""
        return self.position + N_POSITIONS

    @property
    def second(self) -> int:
        return self.first + self.n_tokens

    @property
    def out(self) -> int:
        return self.second + self.n_tokens

    @property
    def half(self) -> int:
        """Signals and the ballast."""
        return self.out + self.n_tokens + 1


@torch.no_grad()
def set_weights(spec: HandSet, tokenizer: Any, task: Task) -> "GPT2LMHeadModel":
    """The GPT-2 of a spec."""
    from transformers import GPT2Config, GPT2LMHeadModel

    assert isinstance(task, Copy)
    space = Subspaces(len(tokenizer))
    width = 2 * space.half
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=N_POSITIONS,
        n_embd=width,
        n_layer=2,
        n_head=2,
        n_inner=task.modulus**2 if "sum" in spec.reads else 1,
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = GPT2LMHeadModel(config)
    for weight in model.parameters():
        weight.zero_()
    transformer = model.transformer
    norms = [norm for block in transformer.h for norm in (block.ln_1, block.ln_2)]
    for norm in (*norms, transformer.ln_f):
        norm.weight.fill_(BALLAST * (2 / width) ** 0.5)

    tokens = torch.eye(space.n_tokens)
    _write(transformer.wte.weight, space, space.token, tokens)
    _write(transformer.wpe.weight, space, space.position, torch.eye(N_POSITIONS))
    transformer.wpe.weight[:, space.half - 1] = BALLAST
    transformer.wpe.weight[:, -1] = -BALLAST

    values = [tokenizer.convert_tokens_to_ids(str(value)) for value in range(task.modulus)]
    relay = _Heads(transformer.h[0].attn, space, values)
    relay.set(0, {COT: VALUE, OPEN: VALUE}, read=space.token, write=space.first)
    answer = _Heads(transformer.h[1].attn, space, values)
    adds = "sum" in spec.reads
    if adds or "prompt" in spec.reads:
        answer.set(0, {OPEN: VALUE, CUE: VALUE}, read=space.token, write=space.first if adds else space.out)
    else:
        answer.set(0, {OPEN: VALUE}, read=space.token, write=space.out)
    if adds or "token" in spec.reads:
        answer.set(1, {CUE: COT}, read=space.token, write=space.second if adds else space.out)
    elif "relay" in spec.reads:
        answer.set(1, {CUE: COT}, read=space.first, write=space.out)
    if adds:
        _add(transformer.h[1].mlp, space, values)

    model.lm_head.weight[:, space.out : space.out + space.n_tokens] = LOGIT * tokens
    model.lm_head.weight[tokenizer.convert_tokens_to_ids("answer"), space.position + COT] = FORCED
    model.lm_head.weight[tokenizer.eos_token_id, space.position + ANSWER] = FORCED
    model.eval()
    made: GPT2LMHeadModel = model
    return made


def _write(weight: Tensor, space: Subspaces, at: int, signal: Tensor) -> None:
    """Write a signal into the columns of a subspace, and its negative into the mirror half."""
    weight[:, at : at + signal.shape[1]] = signal
    weight[:, space.half + at : space.half + at + signal.shape[1]] = -signal


class _Heads:
    """The heads of one attention module, each told which position reads which, what, and where to write it."""

    def __init__(self, attention: Any, space: Subspaces, values: list[int]) -> None:
        self.attention = attention
        self.space = space
        self.copied = torch.zeros(space.n_tokens, space.n_tokens)  # value tokens are copied, all others are nothing
        self.copied[values, values] = 1.0
        self.size = space.half  # two heads share the width 2 * half

    def set(self, head: int, reads: dict[int, int], read: int, write: int) -> None:
        """Tell a head which position reads which; positions not named read position 0, whose token is no value."""
        space, start = self.space, head * self.size
        width = 2 * space.half
        projection = self.attention.c_attn.weight  # [d_model, query | key | value]
        for query in range(N_POSITIONS):
            projection[space.position + query, start + reads.get(query, 0)] = SHARP * self.size**0.5
            projection[space.position + query, width + start + query] = 1.0
        keep = slice(2 * width + start, 2 * width + start + space.n_tokens)
        projection[read : read + space.n_tokens, keep] = self.copied
        _write(self.attention.c_proj.weight[start : start + space.n_tokens], space, write, self.copied)


def _add(mlp: Any, space: Subspaces, values: list[int]) -> None:
    """One unit for each pair of values, on where both were read, that speaks for their sum."""
    for unit, (i, j) in enumerate(product(range(len(values)), repeat=2)):
        mlp.c_fc.weight[space.first + values[i], unit] = 2.0
        mlp.c_fc.weight[space.second + values[j], unit] = 2.0
        mlp.c_fc.bias[unit] = -3.0
        answer = values[(i + j) % len(values)]
        mlp.c_proj.weight[unit, space.out + answer] = 1.0
        mlp.c_proj.weight[unit, space.half + space.out + answer] = -1.0
