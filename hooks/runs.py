"""Runs: what a model was given and what it wrote, as token ids with named spans."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..core import InputError, check_name
from ..tasks import Piece, Problem
from .cut import CutBackend, check_regions
from .decoding import continue_each
from .format import MODES, Mode, Segment, Spans, decode, render_prompts, token_ends, tokenize
from .memory import MEMORY
from .model import Model
from .transcripts import Transcripts, read_transcripts


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a model on one problem: `[prompt][open][cot][cue][answer]`, or without open and CoT.

    ids: all token ids, the answer included; spans: token ranges by name (`cot`, `step.2`, `operand.1`, ...)
    values: what the chain of thought states, by step; answer: the value of the run's own answer, None if unparsable
    end: the token that the model wrote after its answer, None where it was cut off
    finished: whether the model closed its chain of thought by itself
    """

    problem: Problem
    mode: Mode
    ids: tuple[int, ...]
    spans: Spans
    values: Mapping[int, str]
    answer: str | None
    end: int | None
    finished: bool = True
    sample: int = 0

    @property
    def score(self) -> float:
        """1 where the own answer is the gold answer, 0 where it is not, NaN where the gold answer is not known."""
        return self.problem.score(self.answer)

    @property
    def correct(self) -> bool:
        """Whether the own answer is known to be the gold answer; False where that is not known (see `score`)."""
        return self.score == 1

    def tokens(self, span: str) -> tuple[int, ...]:
        """The token ids of a span."""
        start, end = self.spans[span]
        return self.ids[start:end]


@dataclass(frozen=True, eq=False)
class Runs(Sequence[Run]):
    """Runs of one model in one mode."""

    items: tuple[Run, ...]
    mode: Mode
    model: Model = field(repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.items)

    @property
    def accuracy(self) -> float:
        """The share of runs whose own answer is the gold answer, among those where that is known; NaN without any."""
        known = [run.score for run in self if run.problem.answer]
        return sum(known) / len(known) if known else math.nan

    def by_problem(self) -> dict[str, Run]:
        """The first run of every problem, by the problem's key."""
        return {run.problem.key: run for run in reversed(self.items)}

    def notes(self) -> dict[str, int]:
        """How many problems and runs, and of the runs how many went wrong, by what went wrong (only what occurs).

        An answer that is not found is one that the task's rule cannot read; one that is cut off reached
        `max_answer_tokens` before the format's `end`.

        >>> from loadbearing.hooks import load
        >>> model = load("organism:sft")
        >>> generate(model, model.task.problems(8), max_new_tokens=2).notes()
        {'problems': 8, 'runs': 8, 'chain of thought cut off': 8}
        """
        wrong = {
            "chain of thought cut off": sum(not run.finished and "cot" in run.spans for run in self),
            "chain of thought empty": sum(run.mode == "cot" and "cot" not in run.spans for run in self),
            "answer not found": sum(run.answer is None for run in self),
            "answer cut off": sum(run.end is None for run in self),
        }
        asked = {"problems": len({run.problem.key for run in self}), "runs": len(self)}
        return asked | {reason: count for reason, count in wrong.items() if count}

    def frame(self) -> pd.DataFrame:
        """A row a run: problem, answers, whether CoT and answer came to their end, and the texts that were written.

        correct is None where the gold answer is not known.
        """
        rows = [
            {
                "problem": run.problem.key,
                "sample": run.sample,
                "gold": run.problem.answer,
                "answer": run.answer,
                "correct": run.correct if run.problem.answer else None,
                "finished": run.finished,
                "ended": run.end is not None,
                "cot": self._text(run, "cot"),
                "said": self._text(run, "answer"),
            }
            for run in self
        ]
        return pd.DataFrame(rows)

    def _text(self, run: Run, span: str) -> str:
        return decode(self.model.tokenizer, run.tokens(span)) if span in run.spans else ""


def generate(
    model: Model,
    problems: Sequence[Problem],
    mode: Mode = "cot",
    *,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 256,
    max_answer_tokens: int = 16,
    batch_size: int = 256,
    memory: float = MEMORY,
    progress: bool = False,
) -> Runs:
    """Let the model write its own chain of thought and answer; greedy unless `temperature` is above 0.

    The chain of thought ends where the model writes `format.close`, or after `max_new_tokens`; then the cue is given
    and the answer is decoded greedily, up to `format.end` (where it is empty, up to the end-of-sequence token) or
    `max_answer_tokens`. How many came to no end: `Runs.notes`.

    samples: chains of thought a problem (with a temperature); a problem's n-th one depends on `seed`, its key and n
        alone, and not on what else is drawn
    memory: gigabytes for a batch: its caches at their full length, a pass over its prompts, its logits (about); so many
        runs share a batch as fit, `batch_size` at most, and one that does not fit is run alone

    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> run = generate(model, [model.task.problem((6, 2, 9, 1))])[0]
    >>> run.values, run.answer
    ({1: '8', 2: '7', 3: '8'}, '8')
    """
    check_name("mode", mode, MODES)
    if not problems:
        raise InputError("no problems to run")
    if samples > 1 and temperature <= 0:
        raise InputError(f"samples={samples} with temperature 0 gives the same text every time: set temperature")
    prompts = render_prompts(model.tokenizer, model.format, problems, mode)
    starts = [(p, s, prompt) for p, prompt in zip(problems, prompts, strict=True) for s in range(samples)]
    cots: list[tuple[tuple[int, ...], bool] | None] = [None] * len(starts)
    if mode == "cot":
        begun = [start.ids for _, _, start in starts]
        limits: dict[str, Any] = {"batch_size": batch_size, "memory": memory, "progress": progress}
        if temperature > 0:
            limits |= {"temperature": temperature, "seeds": [(seed, s, *p.key.encode()) for p, s, _ in starts]}
        written = continue_each(model, begun, model.format.close, max_new_tokens=max_new_tokens, **limits)
        cots = [(ids, end is not None) for ids, end in written]
    limits = {"batch_size": batch_size, "memory": memory, "progress": progress}
    return _answered(model, mode, starts, cots, max_new_tokens=max_answer_tokens, **limits)


def replay(
    model: Model,
    problems: Sequence[Problem],
    transcripts: Transcripts,
    *,
    max_answer_tokens: int = 16,
    batch_size: int = 256,
    memory: float = MEMORY,
    progress: bool = False,
) -> Runs:
    """Runs whose chain of thought was written elsewhere (text or token ids); the answer is the model's own.

    transcripts: one a problem, or a list of several (`Run.sample` counts them); in the same order, or by the problem's
        key. A text is tokenized once, by itself. A whole response will do: an opening mark that repeats `format.open`
        is removed, and the chain of thought ends before the first `format.close` (or end-of-sequence token); what
        stood there and after it is dropped, the answer of the other engine included.
    memory: as in `generate`

    Raises InputError, with its key, for a problem without a transcript, an empty one, and a key that no problem has.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> problem = model.task.problem((6, 2, 9, 1))
    >>> [run.answer for run in replay(model, [problem], {problem.key: [" 8 7 8", " 8 7 4"]})]
    ['8', '4']
    """
    if not problems:
        raise InputError("no problems to run")
    read = read_transcripts(model, problems, transcripts)
    prompts = render_prompts(model.tokenizer, model.format, problems, "cot")
    starts = [(problems[number], sample, prompts[number]) for number, sample, _ in read]
    cots = [(ids, True) for *_, ids in read]
    limits: dict[str, Any] = {"batch_size": batch_size, "memory": memory, "progress": progress}
    return _answered(model, "cot", starts, cots, max_new_tokens=max_answer_tokens, **limits)


def replay_gold(model: Model, problems: Sequence[Problem], **options: Any) -> Runs:
    """Runs over the task's gold chain of thought (off-policy: the model did not choose it)."""
    without = [p.key for p in problems if not p.steps]
    if without:
        raise InputError(f"{len(without)} problems have no gold chain of thought, the first of them {without[0]!r}")
    return replay(model, problems, [p.cot for p in problems], **options)


def _answered(
    model: Model,
    mode: Mode,
    starts: Sequence[tuple[Problem, int, Segment]],
    cots: Sequence[tuple[tuple[int, ...], bool] | None],
    **limits: Any,
) -> Runs:
    """Give the cue after prompt and chain of thought, decode the answer greedily, and name the spans."""
    cue = tokenize(model.tokenizer, [Piece(model.format.cue_of(mode))]).ids
    prefixes = [start.ids + (cot[0] if cot else ()) + cue for (_, _, start), cot in zip(starts, cots, strict=True)]
    answers = continue_each(model, prefixes, model.format.end, **limits)
    runs = []
    for (problem, sample, start), cot, prefix, (ids, end) in zip(starts, cots, prefixes, answers, strict=True):
        spans = dict(start.spans)
        values: dict[int, str] = {}
        if cot is not None and cot[0]:
            first = len(start.ids)
            spans["cot"] = (first, first + len(cot[0]))
            values = _step_spans(model, problem, cot[0], first, spans)
        spans["cue"] = (len(prefix) - len(cue), len(prefix))
        if ids:
            spans["answer"] = (len(prefix), len(prefix) + len(ids))
        answer = problem.task.parse_answer(decode(model.tokenizer, ids)) if ids else None
        finished = cot is None or (cot[1] and bool(cot[0]))
        runs.append(Run(problem, mode, prefix + ids, spans, values, answer, end, finished, sample))
    if isinstance(model.backend, CutBackend):
        check_regions(model, runs)
    return Runs(tuple(runs), mode, model)


def _step_spans(model: Model, problem: Problem, cot: Sequence[int], first: int, spans: Spans) -> dict[int, str]:
    """Add the spans `step.k` of the steps that the task reads in a chain of thought; return their values."""
    text = decode(model.tokenizer, cot)
    steps = problem.task.parse_steps(text)
    if not steps:
        return {}
    ends = token_ends(model.tokenizer, cot)
    for step in steps:
        inside = [i for i in range(len(cot)) if ends[i] < step.end and ends[i + 1] > step.start]
        spans[f"step.{step.item}"] = (first + inside[0], first + inside[-1] + 1)
    return {step.item: step.value for step in steps}
