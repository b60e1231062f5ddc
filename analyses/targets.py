"""Where a run is cut for a target: what counts with the prompt, the chain of thought, the reader, the scored answer."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from ..core import InputError
from ..hooks import Model, Run, Runs, generate, replay, replay_gold
from ..hooks.format import decode, token_ends
from ..hooks.memory import MEMORY
from ..tasks import Problem

SLOT_AGREEMENT = 0.9
CHANCE_LIMIT = 0.05
# The slot of a target: a step by its number, "search" where the value is looked for, "answer" after the cue.
Slot = int | Literal["answer", "search"]

NO_TEXT = "no CoT before the onset"


@dataclass(frozen=True)
class Aim:
    """A run cut for one target: `[prompt][open][body][reader][answer]`.

    reader: the segment recomputed last; its last position predicts the target
    answer: the tokens that are scored, end: the token after them; value: what they state
    written: the steps that stand before the target, by number
    """

    prompt: tuple[int, ...]
    open: tuple[int, ...]
    body: tuple[int, ...]
    reader: tuple[int, ...]
    answer: tuple[int, ...]
    end: int | None
    value: str
    written: Mapping[int, str]

    @property
    def head(self) -> tuple[int, ...]:
        """Prompt and open."""
        return self.prompt + self.open

    @property
    def cot(self) -> tuple[int, ...]:
        """The tokens of the chain of thought that stand before the target."""
        return self.body + self.reader


@dataclass(frozen=True)
class Onset:
    """The slot of a target for one model and format, and how well it is met."""

    slot: Slot
    agreement: float
    chance: float | None = None


def cot_runs(
    model: Model,
    problems: Sequence[Problem],
    cot: str | Runs | Mapping[str, Any],
    progress: bool = False,
    max_new_tokens: int = 256,
    *,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    memory: float = MEMORY,
) -> Runs:
    """The CoT runs that an analysis stands on: the model's own, over gold chains of thought, or over given ones.

    samples, temperature: draw so many chains of thought a problem instead of the greedy one; `seed` is theirs
    memory: as in `generate`
    """
    if (samples > 1 or temperature > 0) and not (isinstance(cot, str) and cot == "model"):
        raise InputError('samples and temperature are for cot="model": given chains of thought are taken as they are')
    if isinstance(cot, Runs):
        return given_runs(model, problems, cot)
    limits: dict[str, Any] = {"memory": memory, "progress": progress}
    if not isinstance(cot, str):
        if all(p.key in cot for p in problems):  # transcripts of a whole data set, of which an analysis takes some
            cot = {p.key: cot[p.key] for p in problems}
        return replay(model, problems, cot, **limits)
    if cot == "task":
        return replay_gold(model, problems, **limits)
    if cot != "model":
        raise InputError(f"cot={cot!r}: expected 'model', 'task', runs, or transcripts by problem")
    drawn: dict[str, Any] = {"samples": samples, "temperature": temperature, "seed": seed}
    return generate(model, problems, "cot", max_new_tokens=max_new_tokens, **drawn, **limits)


def given_runs(model: Model, problems: Sequence[Problem], runs: Runs) -> Runs:
    """Those of the runs that are of these problems; InputError where one has none."""
    have = {run.problem.key for run in runs}
    if missing := [p.key for p in problems if p.key not in have]:
        raise InputError(f"the given runs lack {len(missing)} problems, the first of them {missing[0]!r}")
    wanted = {p.key for p in problems}
    return Runs(tuple(run for run in runs if run.problem.key in wanted), runs.mode, model)


def find_onset(runs: Runs) -> Onset:
    """The first slot whose value equals the run's own answer in at least 90 % of runs, else the answer after the cue.

    A slot is a step that the task names as stating the answer. Tasks that read no steps are searched for the first
    match of the whole value; if the same search finds *another* problem's answer in more than 5 % of the runs, it is
    refused.
    """
    usable = [run for run in runs if run.finished and run.answer is not None]
    if not usable:
        raise InputError("no run ends in an answer that the task can read: look at runs.frame() and at the format")
    task = usable[0].problem.task
    if task.answer_steps is not None:
        for item in task.answer_steps:
            agreement = sum(run.values.get(item) == run.answer for run in usable) / len(usable)
            if agreement >= SLOT_AGREEMENT:
                return Onset(item, agreement)
        return Onset("answer", 1.0)
    texts = [decode(runs.model.tokenizer, run.tokens("cot")) for run in usable]
    answers = [str(run.answer) for run in usable]
    found = sum(task.onset(t, a) is not None for t, a in zip(texts, answers, strict=True)) / len(usable)
    others = answers[1:] + answers[:1]
    tried = [(t, o) for t, a, o in zip(texts, answers, others, strict=True) if a != o]
    chance = sum(task.onset(t, o) is not None for t, o in tried) / max(1, len(tried))
    if found >= SLOT_AGREEMENT and chance > CHANCE_LIMIT:
        raise InputError(
            f"the first match of the answer is no onset: another problem's answer matches in {chance:.0%} of the "
            "chains of thought (limit 5 %). Give the task an `onset`, or use target='answer'"
        )
    return Onset("search" if found >= SLOT_AGREEMENT else "answer", found, chance)


def resolve_target(target: str, runs: Runs) -> Onset:
    """The slot of `target`: "onset", "answer" or "step.k"."""
    if target == "onset":
        return find_onset(runs)
    if target == "answer":
        return Onset("answer", 1.0)
    if match := re.fullmatch(r"step\.([1-9]\d*)", target):
        return Onset(int(match[1]), float("nan"))
    raise InputError(f"target {target!r}: expected 'onset', 'answer' or 'step.K' with K from 1")


def cut(run: Run, onset: Onset, target: str, model: Model) -> Aim | str:
    """The run cut at the target, or the reason why it cannot be."""
    if not run.finished:
        return "the chain of thought was cut off or is empty"
    if run.answer is None and not target.startswith("step."):
        return "no answer that the task can read"
    _check_spans(run)
    place = _place(run, onset, model)
    if isinstance(place, str):
        return place
    start, stop, value, item = place
    if target == "onset" and onset.slot != "answer" and value != run.answer:
        return "the onset slot does not state the run's own answer"
    first, last = run.spans["cot"]
    reader = run.spans["cue"] if onset.slot == "answer" else (start - 1, start)
    if reader[0] < first:
        return NO_TEXT
    opened = run.spans.get("open", (first, first))
    after = run.end if onset.slot == "answer" else run.ids[stop]
    before = len(run.values) + 1 if item is None else item
    return Aim(
        prompt=run.ids[: opened[0]],
        open=run.ids[opened[0] : first],
        body=run.ids[first : min(last, reader[0])],
        reader=run.ids[slice(*reader)],
        answer=run.ids[start:stop],
        end=after,
        value=value,
        written={k: v for k, v in run.values.items() if k < before},
    )


def _check_spans(run: Run) -> None:
    """Segments that a run of ours always has in this order; runs put together by hand may not."""
    order = [run.spans[name] for name in ("prompt", "open", "cot", "cue") if name in run.spans]
    if "cot" not in run.spans or run.spans["cot"][0] >= run.spans["cot"][1]:
        raise InputError(f"the run of {run.problem.key!r} has no chain of thought: its span `cot` is empty")
    for (_, stop), (start, _) in pairwise(order):
        if stop != start:
            told = ", ".join(
                f"{name} {run.spans[name]}" for name in ("prompt", "open", "cot", "cue") if name in run.spans
            )
            raise InputError(
                f"the run of {run.problem.key!r}: spans overlap or leave a gap ({told}); expected one after the other"
            )


def _place(run: Run, onset: Onset, model: Model) -> tuple[int, int, str, int | None] | str:
    """First token, stop, value and step number of the scored text, or the reason why there is none."""
    if onset.slot == "answer":
        assert run.answer is not None
        return (*run.spans["answer"], run.answer, None)
    if isinstance(onset.slot, int):
        span = run.spans.get(f"step.{onset.slot}")
        if span is None:
            return f"no step {onset.slot} in the chain of thought"
        return (*span, run.values[onset.slot], onset.slot)
    assert run.answer is not None
    text = decode(model.tokenizer, run.tokens("cot"))
    found = run.problem.task.onset(text, run.answer)
    if found is None:
        return "the chain of thought does not state the run's own answer"
    ends = token_ends(model.tokenizer, run.tokens("cot"))
    inside = [i for i in range(len(ends) - 1) if ends[i] < found[1] and ends[i + 1] > found[0]]
    first = run.spans["cot"][0]
    return first + inside[0], first + inside[-1] + 1, run.answer, None


def count_reasons(reasons: Sequence[str]) -> dict[str, int]:
    """How often each reason occurs."""
    return dict(sorted(Counter(reasons).items()))
