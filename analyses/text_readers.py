"""Small networks that read a text: linear, MLP and transformer, each fitted to many training parts at once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

WINDOW = 32  # tokens from the start, and as many from the end
KNOWN = 300  # words; the others count as one
WIDTH, HEADS = 16, 2
RATES = {"linear": 0.1, "mlp": 0.02, "transformer": 0.02}
READERS = tuple(RATES)
MOST_STEPS, PATIENCE, EVERY = 200, 30, 5
STOPPED_ON = 0.15  # of the training rows, on which the step to stop at is chosen


@dataclass(frozen=True, eq=False)
class Words:
    """Texts as numbers of words: 0 where there is none, 1 for a rare word.

    start: `[n, slot]`, aligned at the first word; end: `[n, slot]`, aligned at the last; words: how many there are
    """

    start: Tensor
    end: Tensor
    words: int

    @classmethod
    def of(cls, texts: Sequence[tuple[int, ...]]) -> "Words":
        """The texts' first and last words; long texts are read at both ends only."""
        in_texts = Counter(word for text in texts for word in set(text))
        common = sorted(word for word, n in in_texts.most_common(KNOWN) if n > 1)
        number = {word: 2 + i for i, word in enumerate(common)}
        slots = min(WINDOW, max(len(text) for text in texts))
        start, end = torch.zeros(2, len(texts), slots, dtype=torch.long)
        for i, text in enumerate(texts):
            ids = torch.tensor([number.get(word, 1) for word in text], dtype=torch.long)
            first, last = ids[:slots], ids[-slots:]
            start[i, : len(first)] = first
            end[i, slots - len(last) :] = last
        return cls(start, end, 2 + len(number))


class Linear(nn.Module):
    """A weight for every word in every slot, counted from the start and from the end; or a vector, for an MLP."""

    def __init__(self, words: Words, classes: int, spread: float = 0.0) -> None:
        super().__init__()
        slots = 2 * words.start.shape[1]
        self.table = nn.Parameter(spread * torch.randn(slots * words.words, classes))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.first = torch.arange(slots) * words.words

    def forward(self, start: Tensor, end: Tensor) -> Tensor:
        return self.table[torch.cat([start, end], dim=-1) + self.first].sum(dim=-2) + self.bias


class MLP(nn.Module):
    """Two hidden layers over the same."""

    def __init__(self, words: Words, classes: int) -> None:
        super().__init__()
        self.below = Linear(words, 2 * WIDTH, spread=0.5)
        self.middle = nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.out = nn.Linear(2 * WIDTH, classes)

    def forward(self, start: Tensor, end: Tensor) -> Tensor:
        hidden = torch.relu(self.below(start, end))
        return self.out(torch.relu(self.middle(hidden)))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """One block of attention and MLP over all words, read at the last, with positions counted from the end."""

    def __init__(self, words: Words, classes: int) -> None:
        super().__init__()
        self.word = nn.Parameter(0.5 * torch.randn(words.words, WIDTH))
        self.place = nn.Parameter(0.5 * torch.randn(words.end.shape[1], WIDTH))
        self.attend = nn.Linear(WIDTH, 3 * WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, classes)

    def forward(self, start: Tensor, end: Tensor) -> Tensor:
        x = self.word[end] + self.place
        query, key, value = self.attend(x).unflatten(-1, (3, HEADS, -1)).unbind(dim=-3)
        match = torch.einsum("nhd,nkhd->nhk", query[:, -1], key) / (WIDTH / HEADS) ** 0.5
        match = match.masked_fill((end == 0)[:, None], -1e9)
        read = torch.einsum("nhk,nkhd->nhd", match.softmax(dim=-1), value).flatten(-2)
        x = x[:, -1] + read
        return self.out(x + self.down(torch.relu(self.up(x))))  # type: ignore[no-any-return]


MODULES: dict[str, Any] = {"linear": Linear, "mlp": MLP, "transformer": Transformer}


def fit_reader(
    name: str, words: Words, index: NDArray[Any], classes: int, train: NDArray[Any], seed: int
) -> NDArray[Any]:
    """Log probabilities `[fit, n, class]` of all texts by a reader for each of many training parts.

    index: numbers of the labels `[n]`; train: `[fit, n]`, the rows that each fit may use. All are trained side by side
    by Adam on all their rows less some, on which each has its lowest loss; what it says at that step is kept, with one
    sample's worth of uniform mixed in.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = MODULES[name](words, classes)
        aside = torch.rand(len(index)) < STOPPED_ON
    use = torch.from_numpy(train)
    stop, use = (use & aside).float(), (use & ~aside).float()
    fits = len(train)
    weights = {key: w.detach().expand(fits, *w.shape).clone().requires_grad_() for key, w in module.named_parameters()}
    optimizer = torch.optim.AdamW(weights.values(), lr=RATES[name], weight_decay=0.01)
    label = torch.from_numpy(index)[None, :, None].expand(fits, -1, -1)
    lowest, kept, since = torch.full((fits,), torch.inf), torch.zeros(fits, len(index), classes), 0
    forward = vmap(lambda given: functional_call(module, given, (words.start, words.end)))
    for step in range(MOST_STEPS + 1):
        log_p = forward(weights).log_softmax(dim=-1)
        losses = -log_p.gather(-1, label)[..., 0]
        if step % EVERY == 0:
            held_out = (losses.detach() * stop).sum(-1) / stop.sum(-1).clamp_min(1)
            better = held_out < lowest
            lowest, kept[better] = torch.where(better, held_out, lowest), log_p.detach()[better]
            since = 0 if better.any() else since + EVERY
            if since >= PATIENCE:
                break
        optimizer.zero_grad()
        ((losses * use).sum(-1) / use.sum(-1).clamp_min(1)).sum().backward()
        optimizer.step()
    weight = torch.from_numpy(1 / (train.sum(axis=1) + 1))[:, None, None]
    mixed = torch.logaddexp(torch.log1p(-weight) + kept.double(), weight.log() - float(np.log(classes)))
    return np.asarray(mixed.numpy())
