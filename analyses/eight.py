"""The eight cells of a pair, computed exactly by running segments over spliced caches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from tqdm import tqdm

from ..hooks import Model
from ..hooks.cache import Caches
from ..hooks.format import decode
from ..hooks.splice import Job, extend, plain_logits, run_jobs
from .cells import N_CELLS
from .targets import Aim

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Scores:
    """What the model says in every cell; a cell's bits tell whose wires it has (0: the first run's, 1: the second's).

    log_p: natural-log probability of each candidate answer, to its end; greedy: the text of the greedy answer;
    entropy: of the answer's first token, in nats
    """

    log_p: Float[np.ndarray, "pair 8 candidate"]
    greedy: NDArray[Any]
    entropy: Float[np.ndarray, "pair 8"]


def eight_cells(
    model: Model,
    aims: Sequence[tuple[Aim, Aim]],
    thirds: Sequence[tuple[int, ...] | None],
    *,
    open_with_cot: bool = False,
    batch_size: int = 64,
    progress: bool = False,
) -> Scores:
    """Run all eight cells of each pair of cut runs, and score the first run's answer, the second's, and a third's.

    Two prompt passes, four CoT passes and eight reader passes a pair: `KV_P`, `KV_C(R, T)`, and the reader of T over
    `[KV_P(D), KV_C(R, T)]`. Both directions of a pair are the same eight cells. A third answer of None scores NaN.
    `open_with_cot` counts the opening text with the chain of thought instead of the prompt.
    """
    parts: list[Scores] = []
    longest = max(len(aim.answer) for pair in aims for aim in pair)  # what a mixed cell says may be longer than its own
    starts = range(0, len(aims), batch_size)
    for start in tqdm(starts, desc="eight cells", disable=not progress, leave=False):
        chunk = slice(start, start + batch_size)
        parts.append(_chunk(model, aims[chunk], thirds[chunk], open_with_cot, longest))
    return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("log_p", "greedy", "entropy")))


def _chunk(
    model: Model,
    aims: Sequence[tuple[Aim, Aim]],
    thirds: Sequence[tuple[int, ...] | None],
    open_with_cot: bool,
    longest: int,
) -> Scores:
    caches = Caches()
    both = (0, 1)
    pairs = range(len(aims))

    def head(aim: Aim) -> tuple[int, ...]:
        return aim.prompt if open_with_cot else aim.head

    def body(aim: Aim) -> tuple[int, ...]:
        return aim.open + aim.body if open_with_cot else aim.body

    run_jobs(model, {("P", i, o): Job((), head(aims[i][o])) for i in pairs for o in both}, caches)
    cots = {
        ("C", i, r, t): Job((("P", i, r),), body(aims[i][t]))
        for i, r, t in product(pairs, both, both)
        if body(aims[i][t])
    }
    run_jobs(model, cots, caches)
    readers = {}
    for i, cell in product(pairs, range(N_CELLS)):
        d, r, t = cell & 1, cell >> 1 & 1, cell >> 2 & 1
        past: tuple[Key, ...] = (("P", i, d),)
        if ("C", i, r, t) in cots:
            past += (("C", i, r, t),)
        readers[i, cell] = Job(past, aims[i][t].reader)
    candidates = {i: _candidates(aims[i], thirds[i]) for i in pairs}

    def read(logits: torch.Tensor, keys: list[Key]) -> Iterator[tuple[list[float], float, int]]:
        """Log probability of each candidate's first token, entropy, and the most likely token."""
        log_p = logits[:, -1].log_softmax(-1)
        starts = torch.tensor([[answer[0] if answer else 0 for answer, _ in candidates[i]] for i, _ in keys])
        first = log_p.gather(-1, starts.to(log_p.device))
        entropy = -(log_p.exp() * log_p).nan_to_num().sum(-1)
        yield from zip(first.tolist(), entropy.tolist(), log_p.argmax(-1).tolist(), strict=True)

    said = run_jobs(model, readers, caches, read)
    later = _later(model, readers, candidates, caches)
    greedy: dict[Key, tuple[int, ...]] = {key: (token,) for key, (_, _, token) in said.items()}
    lengths = dict.fromkeys(readers, longest)
    extend(model, {key: (*job.past, key) for key, job in readers.items()}, greedy, lengths, caches)
    shape = (len(aims), N_CELLS)
    keys = list(product(pairs, range(N_CELLS)))
    log_p = [
        [said[key][0][c] + later.get((*key, c), 0.0) if candidates[key[0]][c][0] else np.nan for c in range(3)]
        for key in keys
    ]
    texts = np.array([decode(model.tokenizer, greedy[key]) for key in keys], dtype=object)
    entropies = np.array([said[key][1] for key in keys])
    return Scores(np.array(log_p).reshape(*shape, 3), texts.reshape(shape), entropies.reshape(shape))


def _candidates(aims: tuple[Aim, Aim], third: tuple[int, ...] | None) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Answer tokens to be scored, and the token after them where it is the same in both natural runs."""
    end = (aims[0].end,) if aims[0].end == aims[1].end and aims[0].end is not None else ()
    return [(answer, end) for answer in (aims[0].answer, aims[1].answer, third or ())]


def _later(model: Model, readers: dict[Key, Job], candidates: dict[Any, Any], caches: Caches) -> dict[Key, float]:
    """Log probability of every candidate's tokens after the first, given those before."""
    jobs, wanted = {}, {}
    for key, job in readers.items():
        for c, (answer, end) in enumerate(candidates[key[0]]):
            forced = (*answer, *end)
            if answer and len(forced) > 1:
                jobs[(*key, c)] = Job((*job.past, key), forced[:-1])
                wanted[(*key, c)] = forced[1:]

    def read(logits: torch.Tensor, keys: list[Key]) -> list[float]:
        tokens = torch.tensor([wanted[key] for key in keys], device=logits.device)
        chosen = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        return list(chosen.sum(-1).tolist())

    return run_jobs(model, jobs, caches, read, keep=False)


def plain_log_p(model: Model, aim: Aim, answer: tuple[int, ...], end: int | None) -> float:
    """The log probability of an answer in one plain forward pass, without a cache."""
    before = aim.head + aim.cot
    wanted = answer + ((end,) if end is not None else ())
    logits = plain_logits(model, before + wanted[:-1])[len(before) - 1 :].log_softmax(-1)
    return float(sum(logits[place, token] for place, token in enumerate(wanted)))
