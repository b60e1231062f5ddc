"""The eight cells of a pair, computed exactly by running segments over spliced caches."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from tqdm import tqdm

from ..hooks import Model
from ..hooks.format import decode
from ..hooks.splice import Caches, Job, plain_logits, run_jobs
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
    starts = range(0, len(aims), batch_size)
    for start in tqdm(starts, desc="eight cells", disable=not progress, leave=False):
        chunk = slice(start, start + batch_size)
        parts.append(_chunk(model, aims[chunk], thirds[chunk], open_with_cot))
    return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("log_p", "greedy", "entropy")))


def _chunk(
    model: Model, aims: Sequence[tuple[Aim, Aim]], thirds: Sequence[tuple[int, ...] | None], open_with_cot: bool
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
    first = {key: logits[-1].log_softmax(-1) for key, logits in run_jobs(model, readers, caches).items()}

    candidates = {i: _candidates(aims[i], thirds[i]) for i in pairs}
    log_p = _log_probabilities(model, readers, first, candidates, caches)
    lengths = {i: max(len(aim.answer) for aim in aims[i]) for i in pairs}
    greedy = _greedy(model, readers, first, lengths, caches)
    keys = list(product(pairs, range(N_CELLS)))
    entropies = torch.stack([-(first[key].exp() * first[key]).nan_to_num().sum() for key in keys]).cpu().numpy()
    return Scores(
        np.array([[log_p[i, cell] for cell in range(N_CELLS)] for i in pairs]),
        np.array([[greedy[i, cell] for cell in range(N_CELLS)] for i in pairs], dtype=object),
        entropies.astype(float).reshape(len(aims), N_CELLS),
    )


def _candidates(aims: tuple[Aim, Aim], third: tuple[int, ...] | None) -> list[tuple[tuple[int, ...], int | None]]:
    """Answer tokens to be scored, and the token after them where it is the same in both natural runs."""
    end = aims[0].end if aims[0].end == aims[1].end else None
    return [(answer, end) for answer in (aims[0].answer, aims[1].answer, third or ())]


def _log_probabilities(
    model: Model, readers: dict[Key, Job], first: dict[Key, Any], candidates: dict[Any, Any], caches: Caches
) -> dict[Key, list[float]]:
    jobs = {}
    for key, job in readers.items():
        for c, (answer, end) in enumerate(candidates[key[0]]):
            given = answer if end is not None else answer[:-1]
            if given and answer:
                jobs[(*key, c)] = Job((*job.past, key), given)
    later = {key: logits.log_softmax(-1) for key, logits in run_jobs(model, jobs, caches, keep=False).items()}
    found = {}
    for key in readers:
        row = []
        for c, (answer, end) in enumerate(candidates[key[0]]):
            if not answer:
                row.append(float("nan"))
                continue
            value = first[key][answer[0]]
            wanted = answer[1:] + ((end,) if end is not None else ())
            if wanted:
                value = value + sum(later[(*key, c)][place, token] for place, token in enumerate(wanted))
            row.append(float(value))
        found[key] = row
    return found


def _greedy(
    model: Model, readers: dict[Key, Job], first: dict[Key, Any], lengths: dict[Any, int], caches: Caches
) -> dict[Key, str]:
    written: dict[Key, tuple[int, ...]] = {key: (int(first[key].argmax()),) for key in readers}
    for length in range(1, max(lengths.values())):
        jobs = {key: Job((*job.past, key), written[key]) for key, job in readers.items() if lengths[key[0]] > length}
        for key, logits in run_jobs(model, jobs, caches, keep=False).items():
            written[key] += (int(logits[-1].argmax()),)
    return {key: decode(model.tokenizer, ids) for key, ids in written.items()}


def plain_log_p(model: Model, aim: Aim, answer: tuple[int, ...], end: int | None) -> float:
    """The log probability of an answer in one plain forward pass, without a cache."""
    before = aim.head + aim.cot
    wanted = answer + ((end,) if end is not None else ())
    logits = plain_logits(model, before + wanted[:-1])[len(before) - 1 :].log_softmax(-1)
    return float(sum(logits[place, token] for place, token in enumerate(wanted)))
