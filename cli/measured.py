"""What a study measures of one model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from .. import analyses, hooks, organisms, tasks
from ..analyses.interval import Estimate
from ..core import GateError, InputError, Result
from .single import single

PROBED, ERRED, ALTERED, SWAPPED, READ = 200, 128, 48, 48, 64  # problems of each analysis
LENGTH = 24  # tokens that a chain of these models may have
PATCHED = 4  # the maps take every fourth pair: they are means over all variables
ROW = (
    "errors",
    "channels",
    "copies",
    "ledger",
    "behaviour",
    "decodability",
    "beyond",
    "commitment",
    "patch",
    "monitor",
)
COT = {
    "errors-begun",
    "channels",
    "copies",
    "ledger",
    "behaviour",
    "beyond",
    "commitment",
    "channels-hint",
}


class Unmeasured(Exception):
    """Why an analysis was not run on a model."""


@dataclass
class Measured:
    """The results of one model, by the name of the analysis, and why others are missing.

    accuracy: by mode, where it was measured beside the analyses; problems: what single problems are shown by
    """

    card: hooks.Card
    fingerprint: str
    results: dict[str, Result] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    accuracy: dict[str, Estimate] = field(default_factory=dict)
    problems: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What is to be measured: an organism of a seed, by these analyses."""

    name: str
    folder: Path  # told to workers: their environment, where a cache may be named, is that of their server
    seed: int = 0
    steps: tuple[str, ...] = ROW
    pairs: int = 32
    draw: int = 0

    @property
    def label(self) -> str:
        """The name, with the seed of its training where that is not 0."""
        return self.name if not self.seed else f"{self.name}@{self.seed}"


@dataclass
class _Subject:
    """A model under study, with what is asked of it."""

    model: hooks.Model
    asked: Asked

    @property
    def task(self) -> Any:
        """The task that the model was made for, the same one for every model of a spec."""
        assert self.model.task is not None
        return _task(self.model.task.spec)

    def problems(self, n: int) -> list[Any]:
        """The first held-out problems of the draw."""
        return _problems(self.task, n, self.asked.draw)

    @cached_property
    def runs(self) -> hooks.Runs:
        """The chains of thought that several analyses stand on, written once."""
        return hooks.generate(self.model, self.problems(ERRED), max_new_tokens=LENGTH)

    def own(self, **options: Any) -> dict[str, Any]:
        """Options of an analysis of these chains."""
        return {"cot": self.runs, "seed": self.asked.draw, **options}

    def pairs(self, n: int, vary: str | None = None) -> Any:
        """Counterfactual pairs of the draw."""
        return _pairs(self.task, n, self.asked.draw, vary)


# Most models of a study have the same task and are given the same problems: a worker draws them once.
_task = cache(tasks.load)


@cache
def _problems(task: tasks.Task, n: int, draw: int) -> list[Any]:
    return task.problems(n, seed=draw)


@cache
def _pairs(task: tasks.Task, n: int, draw: int, vary: str | None) -> Any:
    return task.pairs(n, seed=draw, vary=vary)


def measure(asked: Asked) -> Measured:
    """Every analysis of one model that its modes allow."""
    subject = _Subject(hooks.load(str(asked.folder)), asked)
    assert subject.model.card is not None
    found = Measured(subject.model.card, subject.model.fingerprint)
    for step in asked.steps:
        try:
            found.results |= _step(step, subject, found)
        except (Unmeasured, InputError, GateError) as reason:
            found.reasons[step] = str(reason)
    if set(ROW) <= set(asked.steps):
        found.problems = _single(subject, found)
    return found


def _single(subject: _Subject, found: Measured) -> dict[str, Any]:
    """The runs of single problems, those of the pairs written again as the channels had them."""
    model, channels = subject.model, found.results.get("channels")
    if found.card.known:
        return {}
    if not model.supports("cot"):
        return single(model.tokenizer, hooks.generate(model, subject.problems(ERRED), "answer-only"))
    runs, pairs = list(subject.runs), subject.pairs(subject.asked.pairs)
    if channels is not None:
        runs += hooks.generate(model, pairs.problems, max_new_tokens=LENGTH)
    return single(model.tokenizer, runs, pairs, channels)


def _step(step: str, subject: _Subject, found: Measured) -> dict[str, Result]:
    card = found.card
    if step in COT and not subject.model.supports("cot"):
        raise Unmeasured("not made for CoT")
    if step == "channels" and card.known:
        # Set by hand: measured where its card says that its table is known.
        measured = dict(card.measure)
        chosen = subject.pairs(subject.asked.pairs, vary=measured.pop("vary"))
        return {"known": analyses.channels(subject.model, chosen, seed=subject.asked.draw, **measured)}
    if card.known:
        raise Unmeasured("set by hand: only its table is known")
    if step in ("copies", "patch"):
        return _copies(subject, found) if step == "copies" else _maps(subject)
    return {step: STEPS[step](subject)}


def _channels(subject: _Subject, pairs: Any, **options: Any) -> Result:
    return analyses.channels(subject.model, pairs, seed=subject.asked.draw, max_new_tokens=LENGTH, **options)


def _copies(subject: _Subject, found: Measured) -> dict[str, Result]:
    if "channels" not in found.results:
        raise Unmeasured("no channels")
    if found.results["channels"].manifest.circumstance["onset"]["slot"] == "answer":
        raise Unmeasured("the CoT does not state the answer")
    chosen = subject.pairs(max(8, subject.asked.pairs // PATCHED))
    return {"copies": _channels(subject, chosen, target="answer")}


def _maps(subject: _Subject) -> dict[str, Result]:
    model = subject.model
    assert model.card is not None
    chosen = subject.pairs(max(2, subject.asked.pairs // PATCHED))
    modes = [mode for mode in hooks.MODES if mode in model.card.modes]
    return {f"patch-{mode}": analyses.patch(model, chosen, mode=mode) for mode in modes}


def _errors(subject: _Subject) -> Result:
    """Of harder problems too where the model is a row of the table: no claim asks others for them."""
    whole = set(ROW) <= set(subject.asked.steps)
    problems = subject.task if whole else subject.problems(ERRED)
    return analyses.errors(subject.model, problems, n=ERRED, max_new_tokens=LENGTH, seed=subject.asked.draw)


def _begun(subject: _Subject) -> Result:
    """With the first word of the chain given: that of an author who explains."""
    model = subject.model
    begun = replace(model, format=replace(model.format, open=f"{model.format.open} {organisms.CONNECTIVES[0]}"))
    return analyses.errors(begun, subject.problems(ERRED), max_new_tokens=LENGTH)


def _behaviour(subject: _Subject) -> Result:
    options = subject.own(paraphrase=organisms.reworded, max_new_tokens=LENGTH)
    return analyses.behaviour(subject.model, subject.problems(ALTERED), **options)


def _decodability(subject: _Subject) -> Result:
    if not subject.model.supports("answer-only"):
        raise Unmeasured("not made for answer-only")
    # The text alone is read by trained readers where a model writes no gold chain: minutes, and no column needs it.
    problems = subject.problems(PROBED)
    return analyses.decodability(subject.model, problems, shuffles=3, text=False, seed=subject.asked.draw)


def _beyond(subject: _Subject) -> Result:
    """Of the last step, which can be known long before it is written; one reader of the text, few folds."""
    last = subject.task.intermediates[-1:]
    options = subject.own(variables=last, readers=["linear"], folds=3, shuffles=0, twin=False)
    return analyses.beyond(subject.model, subject.problems(READ), **options)


def _monitor(subject: _Subject) -> Result:
    if "hint" not in subject.task.inputs:
        raise Unmeasured("no hints in its task")
    return analyses.monitor(subject.model, subject.problems(ERRED), **subject.own())


STEPS: Mapping[str, Callable[[_Subject], Result]] = {
    "errors": _errors,
    "errors-begun": _begun,
    "channels": lambda subject: _channels(subject, subject.pairs(subject.asked.pairs)),
    "channels-hint": lambda subject: _channels(
        subject, subject.pairs(subject.asked.pairs, vary="hint"), target="answer"
    ),
    "ledger": lambda subject: analyses.ledger(subject.model, subject.problems(SWAPPED), **subject.own()),
    "behaviour": _behaviour,
    "decodability": _decodability,
    "beyond": _beyond,
    "commitment": lambda subject: analyses.commitment(
        subject.model, subject.problems(ALTERED), **subject.own(lines=["forced"])
    ),
    "monitor": _monitor,
}
