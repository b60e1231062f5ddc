"""What a study measures of the user's own model, each step only where it applies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from .. import analyses, hooks
from ..analyses.gold import scores
from ..analyses.interval import mean_estimate
from ..analyses.targets import resolve_target
from ..core import InputError, Result
from ..tasks import Pair, Pairs, Problem
from .measured import ALTERED, COT, PATCHED, PROBED, READ, SWAPPED, Measured, Unmeasured
from .own_draw import Drawn, Options

PARTS = 5  # of a chain of thought without steps
FOLDS = 3  # of readers of the text and of probes beyond it
REPEATED = 4  # problems a value that a probe is to tell apart, at least


@dataclass
class Subject:
    """A model under study, what it is asked, and its runs: with a chain of thought and answered at once."""

    model: hooks.Model
    drawn: Drawn
    options: Options
    runs: hooks.Runs | None = None
    direct: hooks.Runs | None = None

    def problems(self, n: int) -> list[Problem]:
        """The first problems."""
        return self.drawn.problems[:n]

    def own(self, **options: Any) -> dict[str, Any]:
        """Options of an analysis of the runs."""
        return {"cot": self.runs, "seed": self.options.seed, **options}

    def both(self) -> dict[str, Any]:
        """Options of an analysis of the runs in both modes, as far as the model was made for them."""
        return self.own(cot="model" if self.runs is None else self.runs, direct=self.direct)

    def written(self, problems: list[Problem]) -> hooks.Runs:
        """Runs with a chain of thought: the model's own, the gold one, or given ones."""
        options = self.options
        limits: dict[str, Any] = {"memory": options.memory}
        if options.cot == "task":
            return hooks.replay_gold(self.model, problems, **limits)
        if options.cot == "given":
            return hooks.replay(self.model, problems, [self.drawn.texts[p.key] for p in problems], **limits)
        how: dict[str, Any] = {"samples": options.samples, "temperature": options.temperature, "seed": options.seed}
        return hooks.generate(self.model, problems, max_new_tokens=options.max_new_tokens, **how, **limits)

    def answered(self, problems: list[Problem]) -> hooks.Runs:
        """Runs that answer at once."""
        return hooks.generate(self.model, problems, "answer-only", memory=self.options.memory)

    @cached_property
    def target(self) -> tuple[str, str]:
        """The target of the analyses of wires, and why it is not the onset, where it is not."""
        assert self.runs is not None
        try:
            resolve_target("onset", self.runs)
        except InputError as error:
            return "answer", str(error)
        return "onset", ""


def accuracies(subject: Subject) -> dict[str, Any]:
    """By mode the share of right answers among the problems whose answer is known, with its interval and number."""
    asked = {problem.key for problem in subject.drawn.problems}
    found = {}
    for name, runs in (("cot", subject.runs), ("answer-only", subject.direct)):
        told = mean_estimate(scores(run for run in runs or () if run.problem.key in asked))
        if told[3]:
            found[name] = told
    return found


def step(name: str, subject: Subject, found: Measured) -> dict[str, Result]:
    """Take a step. Raises Unmeasured, InputError or GateError where it does not apply, with the reason."""
    if name in COT | {"ablation"} and subject.runs is None:
        raise Unmeasured("not made for CoT")
    return STEPS[name](subject, found)


def _doctor(subject: Subject, found: Measured) -> dict[str, Result]:
    """On prompts of the user's own: any two of equal token count will do."""
    problems = [problem for problem in subject.drawn.problems if problem.answer]
    try:
        items = tuple(Pair(*both, "question") for both in combinations(problems[:16], 2))
        return {"doctor": analyses.doctor(subject.model, Pairs(items, subject.drawn.task))}
    except InputError:
        return {"doctor": analyses.doctor(subject.model)}


def _errors(subject: Subject, found: Measured) -> dict[str, Result]:
    """Of steps: accuracy alone is told by the runs that there are."""
    if subject.options.cot != "model":
        raise Unmeasured("only for the model's own chains of thought")
    gold = [problem for problem in subject.drawn.problems if problem.task.parse_steps(problem.cot)]
    if not gold:
        raise Unmeasured("no gold chain of thought whose steps the task can read")
    length = subject.options.max_new_tokens
    return {"errors": analyses.errors(subject.model, gold, max_new_tokens=length, **subject.both())}


def _paired(subject: Subject) -> Pairs:
    if not len(subject.drawn.pairs):
        raise Unmeasured(f"no counterfactual partners ({subject.drawn.no_pairs})")
    return subject.drawn.pairs


def _channels(subject: Subject, found: Measured) -> dict[str, Result]:
    pairs, memory = _paired(subject), subject.options.memory
    target, _ = subject.target
    return {"channels": analyses.channels(subject.model, pairs, target=target, memory=memory, **subject.own())}


def _copies(subject: Subject, found: Measured) -> dict[str, Result]:
    if "channels" not in found.results:
        raise Unmeasured("no channels")
    if found.results["channels"].manifest.circumstance["onset"]["slot"] == "answer":
        raise Unmeasured("the chain of thought was not seen to state the answer: the channels are at the answer itself")
    pairs = subject.drawn.pairs
    chosen = _fewer(pairs, max(8 * len(pairs.variables), len(pairs) // PATCHED))
    memory = subject.options.memory
    return {"copies": analyses.channels(subject.model, chosen, target="answer", memory=memory, **subject.own())}


def _ablation(subject: Subject, found: Measured) -> dict[str, Result]:
    if "channels" in found.results:
        return {}  # no baseline without a donor is needed
    memory, (target, _) = subject.options.memory, subject.target
    given = subject.drawn.problems
    return {"ablation": analyses.ablation(subject.model, given, target=target, memory=memory, **subject.own())}


def _maps(subject: Subject, found: Measured) -> dict[str, Result]:
    """A map for each mode that the model was made for; every fourth pair, since they are means over all variables."""
    model, pairs = subject.model, _paired(subject)
    chosen = _fewer(pairs, max(2, len(pairs) // PATCHED))
    how: dict[str, Any] = {"memory": int(subject.options.memory * 1e9)}
    maps: dict[str, Result] = {}
    if model.supports("answer-only"):
        maps["patch-answer-only"] = analyses.patch(model, chosen, mode="answer-only", **how)
    if subject.runs is not None:
        target, _ = subject.target
        maps["patch-cot"] = analyses.patch(model, chosen, mode="cot", target=target, cot=subject.runs, **how)
    return maps


def _fewer(pairs: Pairs, n: int) -> Pairs:
    """About n of the pairs, of every variable alike: they stand one variable after the other."""
    return Pairs(pairs.items[:: max(1, len(pairs) // n)], pairs.task, pairs.left_out)


def labelled(problems: Sequence[Problem]) -> tuple[list[Problem], list[str]]:
    """The problems with gold values, and the variables whose values repeat, the one that is the answer last."""
    known = [problem for problem in problems if problem.values]
    task = problems[0].task
    shared = [name for name in known[0].values if all(name in p.values for p in known)] if known else []
    names = [name for name in task.intermediates or shared if name in shared]
    if not names:
        raise Unmeasured("the problems have no gold values to probe")
    counts = {name: len({problem.values[name] for problem in known}) for name in names}
    usable = [name for name, count in counts.items() if 1 < count <= len(known) / REPEATED]
    if not usable:
        told = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise Unmeasured(
            f"probes must see each value {REPEATED} times or more, and no variable has so few values (values among "
            f"{len(known)} problems: {told})"
        )
    return known, sorted(usable, key=lambda name: is_answer(known, name))


def is_answer(problems: Sequence[Problem], name: str) -> bool:
    """Whether the gold value of a variable is the gold answer, wherever both are known; False where they never are."""
    told = [problem.score(problem.values[name]) for problem in problems if problem.values and problem.answer]
    return bool(told) and min(told) == 1


def _decodability(subject: Subject, found: Measured) -> dict[str, Result]:
    """No copy with random weights: it would take the model's memory once more."""
    if not subject.model.supports("answer-only"):
        raise Unmeasured("not made for answer-only")
    known, names = labelled(subject.problems(PROBED))
    options: dict[str, Any] = {"shuffles": 3, "text": False, "twin": False, **subject.both()}
    return {"decodability": analyses.decodability(subject.model, known, variables=names, **options)}


def _beyond(subject: Subject, found: Measured) -> dict[str, Result]:
    """Of the last variable, which can be known long before it is written; one reader of the text, few folds."""
    known, names = labelled(subject.problems(READ))
    options = subject.own(variables=names[-1:], readers=["linear"], folds=FOLDS, shuffles=0, twin=False)
    return {"beyond": analyses.beyond(subject.model, known, **options)}


def _behaviour(subject: Subject, found: Measured) -> dict[str, Result]:
    """Of problems whose answer is known first: what is lost of accuracy is told by them alone."""
    first = sorted(subject.drawn.problems, key=lambda problem: not problem.answer)
    options = subject.own(max_new_tokens=subject.options.max_new_tokens)
    return {"behaviour": analyses.behaviour(subject.model, first[:ALTERED], **options)}


def _commitment(subject: Subject, found: Measured) -> dict[str, Result]:
    """After each step, or, where the task reads none, after each of equal parts of the text."""
    assert subject.runs is not None
    parts = None if any(run.values for run in subject.runs) else PARTS
    options = subject.own(lines=["forced"], parts=parts)
    return {"commitment": analyses.commitment(subject.model, subject.problems(ALTERED), **options)}


STEPS: Mapping[str, Callable[[Subject, Measured], dict[str, Result]]] = {
    "doctor": _doctor,
    "channels": _channels,
    "copies": _copies,
    "ablation": _ablation,
    "errors": _errors,
    "ledger": lambda subject, _: {"ledger": analyses.ledger(subject.model, subject.problems(SWAPPED), **subject.own())},
    "behaviour": _behaviour,
    "decodability": _decodability,
    "beyond": _beyond,
    "commitment": _commitment,
    "patch": _maps,
}
