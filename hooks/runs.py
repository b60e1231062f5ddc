"""Runs: what a model was given and what it wrote, as token ids with named spans."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from ..core import InputError, check_name
from ..tasks import Piece, Problem
from .format import MODES, Mode, Segment, Spans, decode, render_prompt, token_ends, tokenize
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
    starts = [(p, s, render_prompt(model.tokenizer, model.format, p, mode)) for p in problems for s in range(samples)]
    cots: list[tuple[tuple[int, ...], bool] | None] = [None] * len(starts)
    if mode == "cot":
        prompts = [start.ids for _, _, start in starts]
        limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "progress": progress}
        written = _continue(model, prompts, model.format.close, temperature=temperature, seed=seed, **limits)
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
    starts = [(p, 0, render_prompt(model.tokenizer, model.format, p, "cot")) for p in problems]
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
    answers = _continue(model, prefixes, model.format.end, **limits)
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
def _continue(
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
