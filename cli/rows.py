"""The row of a model in the table that a study prints."""

from collections.abc import Mapping
from math import isnan, nan
from typing import Any

import pandas as pd

from ..analyses.errors_table import HOME
from ..analyses.interval import interval_text
from .measured import Measured

RIGHT = 0.9  # accuracy from which on a chain can be held against gold values
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


def blocks(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table in blocks, by title; models without a figure in a block are left out of it."""
    found = {}
    for title, columns in BLOCKS.items():
        shown = (table[list(columns)] != "-").any(axis=1)
        if shown.any():
            found[title] = table.loc[shown, ["model", *columns]]
    return found


def row(label: str, found: Measured) -> dict[str, str]:
    """The columns of a model; "-" where there is no figure (the reason stands in the notes)."""
    results: dict[str, Any] = dict(found.results)
    return {
        "model": label,
        **_accuracies(found, results),
        **_wires(results),
        **_steps(found, results),
        **_altered(results),
    }


def _text(estimate: Any) -> str:
    return interval_text(*estimate[:3])


def _accuracies(found: Measured, results: Mapping[str, Any]) -> dict[str, str]:
    errors, elicited = results.get("errors"), found.card.elicited
    values = dict.fromkeys(("one-pass accuracy", "CoT accuracy"), "-")
    for name, mode in (("one-pass accuracy", "answer-only"), ("CoT accuracy", "cot")):
        if mode in found.accuracy:
            values[name] = _text(found.accuracy[mode])
        elif errors is not None:
            values[name] = _text(errors.rate(f"accuracy, {mode}", HOME))
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


def _steps(found: Measured, results: Mapping[str, Any]) -> dict[str, str]:
    ledger: Any = results.get("ledger")
    probes, beyond, settled = (results.get(name) for name in ("decodability", "beyond", "commitment"))
    share = _text(ledger.serial_share()) if ledger else "-"
    depth = ledger.depth() if ledger else None
    bits = "-"
    if probes and not isnan(probes.forward_pass_bits()[0]):
        bits = f"{_text(probes.forward_pass_bits())} of {probes.null[-1].mean():.2f}"
    # Labels are gold values: of a chain that says others, nothing is known of when it says them.
    own = found.accuracy.get("cot")
    if own is None and "errors" in results:
        own = results["errors"].rate("accuracy, cot", HOME)
    right = own is not None and own[0] >= RIGHT
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
            gap = behaviour.accuracy()[0] - behaviour.rate("correct", f"style:{style}", "whole")[0]
            lost = "-" if isnan(gap) else f"{gap:.2f}"
        values[f"lost in {style}"] = lost
    columns = {
        "longer: one pass": "accuracy, answer-only",
        "longer: CoT": "accuracy, cot",
        "step wrong | answer wrong": "step wrong | answer wrong",
        "answer is the text's": "answer is the last step | step wrong",
    }
    has = errors is not None and "longer" in errors.sets
    return values | {name: _text(errors.rate(rate, "longer")) if has else "-" for name, rate in columns.items()}
