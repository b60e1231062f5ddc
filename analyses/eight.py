"""The eight cells of a pair, computed exactly by running segments over spliced caches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from tqdm import tqdm

from ..core import InputError
from ..hooks import Model
from ..hooks.cache import Caches
from ..hooks.format import decode
from ..hooks.memory import MEMORY, cache_bytes
from ..hooks.splice import Job, extend, plain_logits, run_jobs
from .cells import N_CELLS
from .score import Reading, score
from .targets import Aim

Key = tuple[Any, ...]
BOTH = (0, 1)
FORCED = 3  # answers that a cell scores: both runs' own and a third; a wrong own answer adds the gold one
Third = tuple[int, ...] | None


@dataclass(frozen=True)
class Scores:
    """What the model says in every cell; a cell's bits tell whose wires it has (0: the first run's, 1: the second's).

    log_p: natural-log probability of each candidate answer, to its end; greedy: the text of the greedy answer;
    entropy: of the answer's first token, in nats; state: the reader's last state, after the model's final norm
    """

    log_p: Float[np.ndarray, "pair 8 candidate"]
    greedy: NDArray[Any]
    entropy: Float[np.ndarray, "pair 8"]
    state: Float[np.ndarray, "pair 8 d_model"]

    @classmethod
    def joined(cls, parts: Sequence["Scores"]) -> "Scores":
        """The scores of several batches as one."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


def eight_cells(
    model: Model,
    aims: Sequence[tuple[Aim, Aim]],
    thirds: Sequence[Third],
    *,
    more: Sequence[Sequence[Third]] | None = None,
    open_with_cot: bool = False,
    batch_size: int = 64,
    memory: float = MEMORY,
    longest: int | None = None,
    edit: Callable[[Caches, Sequence[Key]], None] | None = None,
    progress: bool = False,
) -> Scores:
    """Run all eight cells of each pair of cut runs, and score the first run's answer, the second's, and a third's.

    Two prompt passes, four CoT passes and eight reader passes a pair: `KV_P`, `KV_C(R, T)`, and the reader of T over
    `[KV_P(D), KV_C(R, T)]`. Both directions of a pair are the same eight cells. A third answer of None scores NaN.

    more: further answers to score, a row a pair; open_with_cot: count the opening text with the CoT, not the prompt
    memory: gigabytes, half for the caches of a batch of pairs, half for what is run over them; so many pairs share one
        as fit, `batch_size` at most (on a CPU more is not faster), and one that does not fit is run alone
    longest: tokens of the greedy answer; None: as many as the longest answer has
    edit: changes the prompts' caches (keys `("P", pair, side)`) before anything is run over them
    """
    size = batch_of(model, aims, batch_size, memory)
    longest = longest_of(aims) if longest is None else longest
    answers = [answers_of(pair, [thirds[i], *(more[i] if more else ())]) for i, pair in enumerate(aims)]
    parts: list[Scores] = []
    for start in tqdm(range(0, len(aims), size), desc="eight cells", disable=not progress, leave=False):
        chunk = slice(start, start + size)
        how: dict[str, Any] = {"open_with_cot": open_with_cot, "memory": memory / 2, "edit": edit}
        # Not under a name, which would keep the caches of a batch until those of the next are made.
        parts.append(_read(model, splice_pairs(model, aims[chunk], **how), answers[chunk], longest, memory / 2))
    return Scores.joined(parts)


def batch_of(model: Model, aims: Sequence[tuple[Aim, Aim]], batch_size: int, memory: float) -> int:
    """How many pairs share a batch."""
    if not aims:
        raise InputError("no pairs to run")
    return max(1, min(batch_size, int(memory / 2 * 1e9 / memory_of(model, aims))))


def longest_of(aims: Sequence[tuple[Aim, Aim]]) -> int:
    """The tokens of the longest answer: what a mixed cell says may be longer than its own."""
    return max(len(aim.answer) for pair in aims for aim in pair)


def memory_of(model: Model, aims: Sequence[tuple[Aim, Aim]]) -> float:
    """Bytes of keys and values of the largest pair: two heads, each text twice, eight readers, and a reader's past."""
    answers = FORCED * longest_of(aims)
    sizes = []
    for pair in aims:
        head, bodies, readers = (
            [len(part) for part in parts]
            for parts in ([a.head for a in pair], [a.body for a in pair], [a.reader for a in pair])
        )
        sizes.append(3 * max(head) + 2 * sum(bodies) + max(bodies) + N_CELLS * (max(readers) + answers))
    return float(max(sizes) * cache_bytes(model.module))


@dataclass(frozen=True)
class Spliced:
    """The caches of a batch of pairs, and the job of every reader: `[pair, cell]`, or more where a caller adds some."""

    caches: Caches
    readers: dict[Key, Job]
    n: int


def splice_pairs(
    model: Model,
    aims: Sequence[tuple[Aim, Aim]],
    *,
    open_with_cot: bool = False,
    memory: float = MEMORY,
    edit: Callable[[Caches, Sequence[Key]], None] | None = None,
) -> Spliced:
    """Run prompts and CoTs: `("P", pair, side)` and `("C", pair, R, T)`, and lay out the readers of all cells.

    memory: as in `run_jobs`; what is kept is not counted
    """
    caches = Caches()
    pairs = range(len(aims))

    def head(aim: Aim) -> tuple[int, ...]:
        return aim.prompt if open_with_cot else aim.head

    def body(aim: Aim) -> tuple[int, ...]:
        return aim.open + aim.body if open_with_cot else aim.body

    prompts: dict[Key, Job] = {("P", i, o): Job((), head(aims[i][o])) for i in pairs for o in BOTH}
    run_jobs(model, prompts, caches, memory=memory)
    if edit is not None:
        edit(caches, list(prompts))
    cots: dict[Key, Job] = {
        ("C", i, r, t): Job((("P", i, r),), body(aims[i][t]))
        for i, r, t in product(pairs, BOTH, BOTH)
        if body(aims[i][t])
    }
    run_jobs(model, cots, caches, memory=memory)
    readers: dict[Key, Job] = {}
    for i, cell in product(pairs, range(N_CELLS)):
        d, r, t = cell & 1, cell >> 1 & 1, cell >> 2 & 1
        past: tuple[Key, ...] = (("P", i, d),)
        if ("C", i, r, t) in cots:
            past += (("C", i, r, t),)
        readers[i, cell] = Job(past, aims[i][t].reader)
    return Spliced(caches, readers, len(aims))


def _read(model: Model, spliced: Spliced, answers: Sequence[Sequence[Third]], longest: int, memory: float) -> Scores:
    """Score the answers in all cells, and decode the greedy one."""
    wanted = {key: answers[key[0]] for key in spliced.readers}
    found = score(model, spliced.readers, wanted, spliced.caches, memory)
    greedy: dict[Key, tuple[int, ...]] = {key: (reading.top,) for key, reading in found.items()}
    past = {key: (*job.past, key) for key, job in spliced.readers.items()}
    extend(model, past, greedy, dict.fromkeys(spliced.readers, longest), spliced.caches, memory=memory)
    keys = list(product(range(spliced.n), range(N_CELLS)))

    def array(of: Callable[[Reading], Any]) -> NDArray[Any]:
        values = np.array([of(found[key]) for key in keys])
        return values.reshape(spliced.n, N_CELLS, *values.shape[1:])

    texts = np.array([decode(model.tokenizer, greedy[key]) for key in keys], dtype=object)
    return Scores(
        array(lambda reading: reading.log_p),
        texts.reshape(spliced.n, N_CELLS),
        array(lambda reading: reading.entropy),
        array(lambda reading: reading.state),
    )


def answers_of(aims: tuple[Aim, Aim], more: Sequence[Third] = ()) -> list[Third]:
    """Answers to be scored, the first run's first, with the token after them where it is the same in both runs."""
    end = (aims[0].end,) if aims[0].end == aims[1].end and aims[0].end is not None else ()
    return [answer + end if answer else None for answer in (aims[0].answer, aims[1].answer, *more)]


def plain_log_p(model: Model, aim: Aim, answer: tuple[int, ...], end: int | None) -> float:
    """The log probability of an answer in one plain forward pass, without a cache."""
    before = aim.head + aim.cot
    wanted = answer + ((end,) if end is not None else ())
    logits = plain_logits(model, before + wanted[:-1], last=len(wanted)).log_softmax(-1)
    return float(sum(logits[place, token] for place, token in enumerate(wanted)))
