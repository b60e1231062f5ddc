"""Runs: what a model was given and what it wrote, as token ids with named spans."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..core import InputError, check_name
from ..tasks import Piece, Problem
from .cut import CutBackend, check_regions
from .decoding import continue_each
from .format import MODES, Mode, Segment, Spans, decode, render_prompts, token_ends, tokenize
from .model import Model


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
    def correct(self) -> bool:
        """Whether the own answer is the gold answer."""
        return self.answer == self.problem.answer

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
        """The share of runs whose own answer is the gold answer."""
        return sum(run.correct for run in self) / len(self)

    def by_problem(self) -> dict[str, Run]:
        """The first run of every problem, by the problem's key."""
        return {run.problem.key: run for run in reversed(self.items)}

    def frame(self) -> pd.DataFrame:
        """A row a run: problem, answers, whether it finished, and the text that the model wrote."""
        rows = [
            {
                "problem": run.problem.key,
                "sample": run.sample,
                "gold": run.problem.answer,
                "answer": run.answer,
                "correct": run.correct,
                "finished": run.finished,
                "cot": decode(self.model.tokenizer, run.tokens("cot")) if "cot" in run.spans else "",
            }
            for run in self
        ]
        return pd.DataFrame(rows)


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
    progress: bool = False,
) -> Runs:
    """Let the model write its own chain of thought and answer; greedy unless `temperature` is above 0.

    The chain of thought ends where the model writes `format.close`; then the cue is given and the answer is decoded
    greedily. `samples` chains of thought a problem (with a temperature).

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
        limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "progress": progress}
        written = continue_each(model, begun, model.format.close, temperature=temperature, seed=seed, **limits)
        cots = [(ids, end is not None) for ids, end in written]
    return _answered(model, mode, starts, cots, max_answer_tokens, batch_size, progress)


def replay(
    model: Model,
    problems: Sequence[Problem],
    transcripts: Mapping[str, str | Sequence[int]] | Sequence[str | Sequence[int]],
    *,
    max_answer_tokens: int = 16,
    batch_size: int = 256,
    progress: bool = False,
) -> Runs:
    """Runs whose chain of thought was written elsewhere (text or token ids); the answer is the model's own.

    transcripts: one a problem, in the same order or by the problem's key. A text is tokenized once, by itself.
    """
    if not problems:
        raise InputError("no problems to run")
    if isinstance(transcripts, Mapping):
        missing = [p.key for p in problems if p.key not in transcripts]
        if missing:
            raise InputError(f"no transcript for {len(missing)} problems, the first of them {missing[0]!r}")
        chosen = [transcripts[p.key] for p in problems]
    else:
        chosen = list(transcripts)
        if len(chosen) != len(problems):
            raise InputError(f"{len(problems)} problems and {len(chosen)} transcripts: expected one each")
    cots = []
    for text in chosen:
        ids = tokenize(model.tokenizer, [Piece(text)]).ids if isinstance(text, str) else tuple(text)
        if not ids:
            raise InputError("a transcript is empty: use mode='answer-only' for runs without a chain of thought")
        cots.append((ids, True))
    prompts = render_prompts(model.tokenizer, model.format, problems, "cot")
    starts = [(p, 0, prompt) for p, prompt in zip(problems, prompts, strict=True)]
    return _answered(model, "cot", starts, cots, max_answer_tokens, batch_size, progress)


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
    max_answer_tokens: int,
    batch_size: int,
    progress: bool,
) -> Runs:
    """Give the cue after prompt and chain of thought, decode the answer greedily, and name the spans."""
    cue = tokenize(model.tokenizer, [Piece(model.format.cue_of(mode))]).ids
    prefixes = [start.ids + (cot[0] if cot else ()) + cue for (_, _, start), cot in zip(starts, cots, strict=True)]
    limits: dict[str, Any] = {"max_new_tokens": max_answer_tokens, "batch_size": batch_size, "progress": progress}
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
