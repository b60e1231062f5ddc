"""What a study measures of one model, and the row that it prints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import isnan, nan
from typing import Any

from .. import analyses, hooks, organisms
from ..analyses.interval import interval_text
from ..core import GateError, InputError, Result

PROBED, ERRED, ALTERED, SWAPPED, READ = 400, 200, 64, 64, 150  # problems of each analysis
LENGTH = 24  # tokens that a chain of these models may have
RIGHT = 0.9  # accuracy from which on a chain can be held against gold values
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
    """The results of one model, by the name of the analysis, and why others are missing."""

    card: hooks.Card
    fingerprint: str
    results: dict[str, Result] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What is to be measured: an organism of a seed, by these analyses."""

    name: str
    seed: int = 0
    steps: tuple[str, ...] = ROW
    pairs: int = 64
    draw: int = 0

    @property
    def label(self) -> str:
        """The name, with the seed of its training where that is not 0."""
        return self.name if not self.seed else f"{self.name}@{self.seed}"


def measure(asked: Asked) -> Measured:
    """Every analysis of one model that its modes allow."""
    model = hooks.load(str(organisms.organism_path(asked.name, asked.seed)))
    assert model.card is not None
    found = Measured(model.card, model.fingerprint)
    for step in asked.steps:
        try:
            found.results |= _step(step, model, found, asked)
        except (Unmeasured, InputError, GateError) as reason:
            found.reasons[step] = str(reason)
    return found


def _step(step: str, model: hooks.Model, found: Measured, asked: Asked) -> dict[str, Result]:
    card, task, seed = found.card, model.task, asked.draw
    assert task is not None
    if step in COT and not model.supports("cot"):
        raise Unmeasured("not made for CoT")
    if step == "channels" and card.known:
        # Set by hand: measured where its card says that its table is known.
        measured = dict(card.measure)
        chosen = task.pairs(asked.pairs, seed=seed, vary=measured.pop("vary"))
        return {"known": analyses.channels(model, chosen, seed=seed, **measured)}
    if card.known:
        raise Unmeasured("set by hand: only its table is known")
    if step in ("copies", "patch"):
        return _copies(model, found, asked) if step == "copies" else _maps(model, asked)
    return {step: STEPS[step](model, task, asked)}


def _copies(model: hooks.Model, found: Measured, asked: Asked) -> dict[str, Result]:
    if "channels" not in found.results:
        raise Unmeasured("no channels")
    if found.results["channels"].manifest.circumstance["onset"]["slot"] == "answer":
        raise Unmeasured("the CoT does not state the answer")
    assert model.task is not None
    chosen = model.task.pairs(max(8, asked.pairs // PATCHED), seed=asked.draw)
    return {"copies": analyses.channels(model, chosen, target="answer", seed=asked.draw)}


def _maps(model: hooks.Model, asked: Asked) -> dict[str, Result]:
    assert model.task is not None and model.card is not None
    chosen = model.task.pairs(max(2, asked.pairs // PATCHED), seed=asked.draw)
    modes = [mode for mode in hooks.MODES if mode in model.card.modes]
    return {f"patch-{mode}": analyses.patch(model, chosen, mode=mode) for mode in modes}


def _behaviour(model: hooks.Model, task: Any, asked: Asked) -> Result:
    options: dict[str, Any] = {"paraphrase": organisms.reworded, "max_new_tokens": LENGTH, "seed": asked.draw}
    return analyses.behaviour(model, task.problems(ALTERED, seed=asked.draw), **options)


def _decodability(model: hooks.Model, task: Any, asked: Asked) -> Result:
    if not model.supports("answer-only"):
        raise Unmeasured("not made for answer-only")
    # The text alone is read by trained readers where a model writes no gold chain: minutes, and no column needs it.
    return analyses.decodability(model, task.problems(PROBED, seed=asked.draw), shuffles=5, text=False, seed=asked.draw)


def _beyond(model: hooks.Model, task: Any, asked: Asked) -> Result:
    """Of the last two steps, which can be known long before they are written; one reader of the text, few folds."""
    options: dict[str, Any] = {"shuffles": 0, "twin": False, "readers": ["linear"], "folds": 3, "seed": asked.draw}
    last = task.intermediates[-2:]
    return analyses.beyond(model, task.problems(READ, seed=asked.draw), variables=last, **options)


def _begun(model: hooks.Model, task: Any, asked: Asked) -> Result:
    """With the first word of the chain given: that of an author who explains."""
    form = replace(model.format, open=f"{model.format.open} {organisms.CONNECTIVES[0]}")
    begun = replace(model, format=form)
    return analyses.errors(begun, task.problems(ERRED, seed=asked.draw), max_new_tokens=LENGTH)


def _monitor(model: hooks.Model, task: Any, asked: Asked) -> Result:
    if "hint" not in task.inputs:
        raise Unmeasured("no hints in its task")
    return analyses.monitor(model, task.problems(2 * ERRED, seed=asked.draw), seed=asked.draw)


STEPS: Mapping[str, Callable[[hooks.Model, Any, Asked], Result]] = {
    "errors": lambda model, task, asked: analyses.errors(model, task, n=ERRED, max_new_tokens=LENGTH, seed=asked.draw),
    "channels": lambda model, task, asked: analyses.channels(
        model, task.pairs(asked.pairs, seed=asked.draw), seed=asked.draw
    ),
    "channels-hint": lambda model, task, asked: analyses.channels(
        model, task.pairs(asked.pairs, seed=asked.draw, vary="hint"), target="answer", seed=asked.draw
    ),
    "ledger": lambda model, task, asked: analyses.ledger(
        model, task.problems(SWAPPED, seed=asked.draw), seed=asked.draw
    ),
    "errors-begun": _begun,
    "behaviour": _behaviour,
    "decodability": _decodability,
    "beyond": _beyond,
    "commitment": lambda model, task, asked: analyses.commitment(
        model, task.problems(ALTERED, seed=asked.draw), lines=["forced"], seed=asked.draw
    ),
    "monitor": _monitor,
}

# The table is printed in blocks, a model's columns below one another being too many for a page.
BLOCKS = {
    "what it can do, and the wires of its answer": (
        "one-pass accuracy",
        "elicited",
        "CoT accuracy",
        "direct",
        "relay",
        "tokens",
        "copy share",
    ),
    "its steps, and what states hold beyond the text": (
        "serial share",
        "chance",
        "depth",
        "forward-pass bits",
        "hidden bits",
        "settled at",
    ),
    "its text altered, and problems longer than it was trained on": (
        "follows mistakes",
        "lost in words",
        "lost in german",
        "longer: one pass",
        "longer: CoT",
        "step wrong | answer wrong",
        "answer is the text's",
    ),
}


def row(label: str, found: Measured) -> dict[str, str]:
    """The columns of a model; "-" where there is no figure (the reason stands in the notes)."""
    results: dict[str, Any] = dict(found.results)
    return {
        "model": label,
        **_accuracies(found, results),
        **_wires(results),
        **_steps(results),
        **_altered(results),
    }


def _text(estimate: Any) -> str:
    return interval_text(*estimate[:3])


def _accuracies(found: Measured, results: Mapping[str, Any]) -> dict[str, str]:
    errors, elicited = results.get("errors"), found.card.elicited
    values = dict.fromkeys(("one-pass accuracy", "CoT accuracy"), "-")
    if errors is not None:
        values["one-pass accuracy"] = _text(errors.rate("accuracy, answer-only", "in distribution"))
        values["CoT accuracy"] = _text(errors.rate("accuracy, cot", "in distribution"))
    if found.card.known:
        values["CoT accuracy"] = f"{found.results['known'].manifest.circumstance['accuracy']:.2f}"
    shown = f"{elicited['accuracy']:.2f} (twin {elicited['twin']:.2f})" if elicited else "-"
    return {"one-pass accuracy": values["one-pass accuracy"], "elicited": shown, "CoT accuracy": values["CoT accuracy"]}


def _wires(results: Mapping[str, Any]) -> dict[str, str]:
    channels = results.get("channels", results.get("known"))
    status = channels.status() if channels else "-"
    values = dict.fromkeys(("direct", "relay", "tokens"), "joint" if status == "joint" else "-")
    if status.startswith(("ok", "not available")):
        bounds = [channels.estimates("mean").get("log-odds", "share", b) for b in ("estimate", "low", "high")]
        values = {wire: _text([bound[i] for bound in bounds]) for i, wire in enumerate(values)}
    if status == "not available to tokens":
        values["tokens"] = "not available"  # no pair's CoTs differ: no evidence that the text is ignored
    copies = results.get("copies")
    copied = copies.shares()[2] if copies else nan
    return {**values, "copy share": "-" if isnan(copied) else f"{copied:.2f}"}


def _steps(results: Mapping[str, Any]) -> dict[str, str]:
    ledger: Any = results.get("ledger")
    probes, beyond, settled = (results.get(name) for name in ("decodability", "beyond", "commitment"))
    share = _text(ledger.serial_share()) if ledger else "-"
    depth = ledger.depth() if ledger else None
    bits = "-"
    if probes and not isnan(probes.forward_pass_bits()[0]):
        bits = f"{_text(probes.forward_pass_bits())} of {probes.null[-1].mean():.2f}"
    # Labels are gold values: of a chain that says others, nothing is known of when it says them.
    right = "errors" in results and results["errors"].rate("accuracy, cot", "in distribution")[0] >= RIGHT
    hidden = [beyond.hidden_bits(name) for name in beyond.variables] if beyond and right else []
    most = max((each for each in hidden if not isnan(each[0])), default=None)
    passage = settled.first_passage("forced") if settled else None
    return {
        "serial share": share,
        "chance": "-" if share == "-" else f"{ledger.serial_share('chance')[0]:.2f}",
        "depth": "-" if depth is None else str(depth),
        "forward-pass bits": bits,
        "hidden bits": "-" if most is None else _text(most),
        "settled at": "-" if passage is None else interval_text(passage.mean, passage.low, passage.high),
    }


def _altered(results: Mapping[str, Any]) -> dict[str, str]:
    behaviour: Any = results.get("behaviour")
    errors: Any = results.get("errors")
    made = behaviour.tamperings if behaviour else ()
    values = {"follows mistakes": _text(behaviour.rate("follow", "mistake")) if "mistake" in made else "-"}
    for style in ("words", "german"):
        lost = "-"
        if f"style:{style}" in made:
            lost = f"{behaviour.accuracy()[0] - behaviour.rate('correct', f'style:{style}', 'whole')[0]:.2f}"
        values[f"lost in {style}"] = lost
    columns = {
        "longer: one pass": "accuracy, answer-only",
        "longer: CoT": "accuracy, cot",
        "step wrong | answer wrong": "step wrong | answer wrong",
        "answer is the text's": "answer is the last step | step wrong",
    }
    has = errors is not None and "longer" in errors.sets
    return values | {name: _text(errors.rate(rate, "longer")) if has else "-" for name, rate in columns.items()}
