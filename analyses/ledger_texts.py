"""The texts of a ledger: runs that state the same steps, where a target begins, what is decoded there, donors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core import InputError
from ..hooks import Model, Run, Runs
from ..hooks.decoding import until_stop
from ..hooks.format import decode
from ..hooks.memory import MEMORY
from ..hooks.splice import decode_greedily
from ..tasks import Target
from .targets import count_reasons

SEPARATORS = " \t\r\n.,;:"  # what stands between two steps and belongs to neither


def target_of(name: str) -> Target:
    """The target of a program by its name in the ledger."""
    return "answer" if name == "answer" else number(name)


def number(name: str) -> int:
    """The number of a step by its name."""
    return int(name.partition(".")[2])


def value_of(run: Run, name: str) -> str | None:
    """What a run holds under a name: a step or the answer as written, a variable as given."""
    if name == "answer":
        return run.answer
    return run.values[number(name)] if name.startswith("step.") else run.problem.values[name]


def comparable(runs: Runs) -> tuple[list[Run], dict[str, int]]:
    """The finished runs that state the same steps as most do, and how many others there are, by reason.

    Steps may have any number of tokens: it is swaps that need the same number.
    """
    readable = [run for run in runs if run.finished and run.answer is not None]
    if not readable:
        raise InputError("no run ends in an answer that the task can read: look at runs.frame() and at the format")
    stated = [tuple(sorted(run.values)) for run in readable]
    common = max(sorted(set(stated)), key=stated.count)
    kept = [run for run, items in zip(readable, stated, strict=True) if items == common]
    reasons = ["no answer that the task can read, or a chain of thought that was cut off"] * (len(runs) - len(readable))
    reasons += [f"states {_list(items)} where most runs state {_list(common)}" for items in stated if items != common]
    dropped = count_reasons(reasons)
    if 2 * len(kept) < len(runs):
        raise InputError(
            f"{len(runs) - len(kept)} of {len(runs)} runs cannot be compared step by step ({dropped}): take problems "
            "whose chains of thought have the same steps, or give runs that do (cot=)"
        )
    return kept, dropped


def _list(items: Sequence[int]) -> str:
    return f"steps {', '.join(map(str, items))}" if items else "no step"


@dataclass(frozen=True)
class Texts:
    """Runs of the same steps, and what the model says at each target without any swap (None: no value)."""

    model: Model
    runs: Sequence[Run]
    starts: dict[str, list[int]]
    lengths: dict[str, int]
    own: dict[str, list[str | None]]
    batch_size: int
    memory: float

    @classmethod
    def decode(
        cls, model: Model, runs: Sequence[Run], targets: Sequence[str], batch_size: int, memory: float = MEMORY
    ) -> "Texts":
        """Decode every target of the unswapped runs again."""
        steps = [f"step.{k}" for k in runs[0].values]
        longest = {name: max(len(run.tokens(name)) for run in runs) for name in [*steps, "answer"]}
        # As long as the longest value that any run wrote at any step: what a swap implies may be longer than what it
        # replaces.
        values = {name: max(longest[other] for other in {*steps, name}) for name in targets}
        texts = cls(model, runs, {}, {}, {}, batch_size, memory)
        for name in targets:
            starts = [texts._start(run, name) for run in runs]
            words = max(run.spans[name][0] - start for run, start in zip(runs, starts, strict=True))
            texts.starts[name], texts.lengths[name] = starts, words + values[name]
            prefixes = [run.ids[:start] for run, start in zip(runs, starts, strict=True)]
            texts.own[name] = texts.say(name, range(len(runs)), prefixes)
        return texts

    def _start(self, run: Run, target: str) -> int:
        """The position of a target's first token: the first word after the step before it; the answer's, after the cue.

        Not the first token of its value: with its own words held, "8 + 4 =" would carry the old value.
        """
        if target == "answer":
            return run.spans[target][0]
        before = [run.spans[f"step.{k}"][1] for k in run.values if k < number(target)]
        at = max(before, default=run.spans["cot"][0])
        while at < run.spans[target][0] and not decode(self.model.tokenizer, run.ids[at : at + 1]).strip(SEPARATORS):
            at += 1
        return at

    def say(self, target: str, rows: Sequence[int], prefixes: Sequence[tuple[int, ...]]) -> list[str | None]:
        """The value of a target in the runs `rows`, decoded after the prefixes to its end; None where there is none."""
        lengths = [self.lengths[target]] * len(prefixes)
        written = decode_greedily(self.model, prefixes, lengths, batch_size=self.batch_size, memory=self.memory)
        form, tokenizer = self.model.format, self.model.tokenizer
        ended = until_stop(self.model, written, form.end if target == "answer" else form.close)
        found: list[str | None] = []
        for row, prefix, said in zip(rows, prefixes, ended, strict=True):
            run = self.runs[row]
            if target == "answer":
                found.append(run.problem.task.parse_answer(decode(tokenizer, said)) if said else None)
            else:
                cot = decode(tokenizer, prefix[run.spans["cot"][0] :] + said)
                steps = {step.item: step.value for step in run.problem.task.parse_steps(cot)}
                found.append(steps.get(number(target)))
        return found

    def donor(self, run: Run, source: str, rng: np.random.Generator) -> Run | str:
        """A run of another problem that holds another value of the source in as many tokens, or why there is none.

        The problem's partner is taken first, where it has one that fits.
        """
        others: list[Run] = [self.runs[i] for i in rng.permutation(len(self.runs))]
        others.sort(key=lambda other: other.problem.key != run.problem.partner)
        own = value_of(run, source)
        differ = [o for o in others if o.problem.key != run.problem.key and value_of(o, source) != own]
        size = len(run.tokens(source))
        if not differ:
            return f"no other problem has another value of {source}"
        missing = f"{source} has {size} tokens, and no other value of it has as many"
        return next((other for other in differ if len(other.tokens(source)) == size), missing)
