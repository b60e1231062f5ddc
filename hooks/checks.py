"""What gates measure on a model's own runs: errors, in nats where there is no other unit given."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core import InputError
from .backends.base import Edit, inputs_of
from .cache import forward_over
from .decoding import pad
from .model import Model
from .runs import Run
from .sites import Site
from .splice import plain_logits
from .support import unspliceable
from .sweep import Cell, Sweep, open_interior
from .trace import trace
from .writes import Write

Ids = tuple[int, ...]


@torch.no_grad()
def next_log_p(model: Model, ids: Ids, tokens: Sequence[int]) -> Float[Tensor, " token"]:
    """The natural-log probability of each token after a text, in one plain forward pass."""
    return plain_logits(model, ids, last=1)[-1].log_softmax(-1)[list(tokens)]


@torch.no_grad()
def padding_error(model: Model, texts: Sequence[Ids], tokens: Sequence[int], *, left: bool) -> float:
    """The largest change of log p of any of `tokens` after any text when texts of unequal length share a batch.

    left: pad as generation does, else as recording does; both count positions over tokens and mask the padding. Texts
    of equal length are given in unequal parts, so that there is padding.
    """
    if len({len(text) for text in texts}) == 1:
        texts = [text[: max(1, len(text) - 2 * i)] for i, text in enumerate(texts)]
    ids, mask = pad(texts, model, left=left)
    module: Any = model.module
    ends = [ids.shape[1] if left else len(text) for text in texts]
    inputs, first = inputs_of(module, ids, mask, torch.tensor([(row, end - 1) for row, end in enumerate(ends)]))
    logits = module(**inputs).logits
    worst = 0.0
    for row, text in enumerate(texts):
        here = logits[row, ends[row] - 1 - first].float().log_softmax(-1)[list(tokens)]
        worst = _largest(worst, here - next_log_p(model, text, tokens))
    return worst


@torch.no_grad()
def identity_error(model: Model, text: Ids, tokens: Sequence[int]) -> float:
    """The largest change of log p of any of `tokens` when the states that the backend reads are written into their run.

    At the first, middle and last layer, from the first, middle and last position on: patching nothing must do nothing.
    The run is taken up there, as `patch` does it; where that cannot be done, it is run whole, as `patch` does then.
    """
    ids = torch.tensor([text], device=model.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    rows = mask.nonzero()
    sites = [Site("resid_pre", layer) for layer in sorted({0, model.n_layers // 2, model.n_layers - 1})]
    states = model.backend.read(ids, mask, sites, rows)
    places = [(site, start) for site in sites for start in sorted({0, len(text) // 2, len(text) - 1})]
    try:
        interior = open_interior(model)
    except InputError:
        edits = [Edit(site, rows[start:], states[site][start:]) for site, start in places]
        logits = torch.cat([model.backend.write(ids, mask, [edit], rows[-1:]) for edit in edits])
    else:
        cells = [Cell((_own(site, states[site], start),), ids.new_zeros(1)) for site, start in places]
        logits = Sweep(model, interior, trace(model, interior, ids)).logits(cells)[:, 0, -1]
    return _largest(0.0, logits.log_softmax(-1)[:, list(tokens)] - next_log_p(model, text, tokens))


def _own(site: Site, states: Float[Tensor, "pos d_model"], start: int) -> Write:
    """The states of a run from a position on, written there."""
    return Write(site.name, site.layer, tuple(range(start, len(states))), lambda _: states[None, start:])


@torch.no_grad()
def additive_error(model: Model, texts: Sequence[Ids]) -> float:
    """The largest error of `resid_pre + attn_out + mlp_out = resid_post`, in roundings of the model's own precision.

    One rounding is machine epsilon times the sum of the four magnitudes, element by element: two additions, each
    rounded once, are off by less than 1, in any precision and however large the residual stream is.
    """
    names = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    sites = {(name, layer): model.sites.check(Site(name, layer)) for name in names for layer in range(model.n_layers)}
    ids, mask = pad(texts, model)
    read = model.backend.read(ids, mask, list(sites.values()), mask.nonzero())
    eps = torch.finfo(next(iter(read.values())).dtype).eps
    worst = 0.0
    for layer in range(model.n_layers):
        before, attention, mlp, after = (read[sites[name, layer]].double() for name in names)
        size = before.abs() + attention.abs() + mlp.abs() + after.abs()
        roundings = (before + attention + mlp - after) / (eps * size).clamp(min=1e-300)  # where all are 0, so is this
        worst = _largest(worst, roundings)
    return worst


@torch.no_grad()
def not_finite(model: Model, texts: Sequence[Ids]) -> int:
    """How many numbers in caches and last logits are NaN or infinite (a logit of -inf is a token that is ruled out)."""
    count = 0
    for text in texts:
        logits = plain_logits(model, text, last=1)
        count += int((logits.isnan() | (logits == torch.inf)).sum())
        if not unspliceable(model):  # else there is no cache of keys and values to look at
            ids = torch.tensor([text], device=model.device)
            _, layers = forward_over(model, ids, [], ids[:, :0], last=1)
            count += sum(int((~part.isfinite()).sum()) for layer in layers for part in layer)
    return count


@torch.no_grad()
def replay_rate(model: Model, runs: Sequence[Run], spans: Sequence[str] = ("answer",)) -> float:
    """The share of runs whose generated tokens are the most likely ones in one plain pass over the whole run.

    spans: what was written greedily. NaN where no run has such a span.
    """
    same = []
    for run in runs:
        wrote = [place for name in spans if name in run.spans for place in range(*run.spans[name])]
        if wrote:
            first = min(wrote) - 1  # the position that predicts the first of them
            likely = plain_logits(model, run.ids[: wrote[-1] + 1], last=wrote[-1] + 1 - first).argmax(-1).tolist()
            same.append(all(likely[place - 1 - first] == run.ids[place] for place in wrote))
    return sum(same) / len(same) if same else float("nan")


def bos_count(model: Model, texts: Sequence[Ids]) -> int:
    """How many beginning-of-sequence tokens the rendered prompts start with: the largest number, or 0 if one has none.

    1 for a tokenizer that has no such token, or that puts none before a text by itself: then none is missing.
    """
    tokenizer = model.tokenizer
    bos = tokenizer.bos_token_id
    if bos is None:
        return 1
    counts = [next((i for i, token in enumerate(text) if token != bos), len(text)) for text in texts]
    added = list(tokenizer("a")["input_ids"][:1]) == [bos]
    most = max(counts)
    return most if most > 1 else min(counts) if added else 1


def _largest(worst: float, change: Float[Tensor, "..."]) -> float:
    """The larger of a number and the largest magnitude of a change; NaN stays NaN."""
    here = float(change.abs().max())
    return here if here != here or here > worst else worst
