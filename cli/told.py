"""What a study prints: the tables in blocks, how to read them, why figures are missing, a verdict for every claim."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .. import analyses, hooks
from ..analyses.claims import Judged
from ..analyses.interval import interval_text
from .measured import Measured
from .rows import blocks

TABLES = ("channels", "known", "copies")
LEGEND = (
    "direct, relay, tokens: shares of what the answer owes to variables used before its last step (95 % interval);",
    "serial share, its chance level, depth: from the ledger; copy share: tokens, where the CoT states the answer;",
    "forward-pass bits: what a linear probe reads of the answer in the answer-only run, of H(answer); hidden bits:",
    "what it reads of a step more than one step before it is written, beyond the text so far; settled at: the part of",
    "the chain after which a forced answer is the final one; lost: accuracy lost with the chain in another style.",
)


def printed(table: pd.DataFrame) -> list[str]:
    """The table as it is printed, in blocks."""
    lines = []
    for title, block in blocks(table).items():
        lines += [f"{title}:", block.to_string(index=False), ""]
    return lines


def checks(measured: Mapping[str, Measured]) -> list[str]:
    """The worst null, gate and control over all models and tables."""
    tables: list[Any] = [r for found in measured.values() for k, r in found.results.items() if k in TABLES]
    probes: list[Any] = [f.results["decodability"] for f in measured.values() if "decodability" in f.results]
    lines = []
    if tables:
        facts = [table.manifest.circumstance for table in tables]
        third = max(table.third(name) for table in tables for name in table.variables)
        gates = [gate for fact in facts for gate in fact["gates"]]
        distractor = [fact["distractor"] for fact in facts if fact["distractor"] is not None]
        passed, replayed = sum(gate["verdict"] == "pass" for gate in gates), min(fact["replayed"] for fact in facts)
        own = max(fact["self_donor"] for fact in facts)
        effectless = f"; a variable without effect {max(distractor):.1g} nats" if distractor else ""
        lines = [
            f"nulls, the worst of {len(tables)} tables: own donor {own:.1g} nats; a third "
            f"answer as the donor's {third:.1g} in probability{effectless}",
            f"gates passed: {passed} of {len(gates)}; generated = replayed, the lowest: {replayed:.3f}",
        ]
    shuffled = [float(np.nanmean(probe.shuffled, axis=-1).max()) for probe in probes if probe.shuffled.size]
    if shuffled:
        lines.append(f"bits with shuffled labels, the highest mean of a place: {max(shuffled) + 0.0:.3f}")
    return lines


def told(table: pd.DataFrame, measured: Mapping[str, Measured], judged: Sequence[Judged]) -> str:
    """The tables as they are printed, the verdicts, how to read them, and why figures are missing."""
    lines = [
        *printed(table),
        *LEGEND,
        *[f"- {text}" for text in checks(measured)],
        *[f"- {note}" for note in notes(measured)],
    ]
    if judged:
        lines += ["", "Claims:", *[line for one in judged for line in _verdict(one)]]
    return "\n".join(lines) + "\n"


def notes(measured: Mapping[str, Measured]) -> list[str]:
    """Why figures are missing, each reason with its models."""
    found: dict[str, list[str]] = {}
    for name, one in measured.items():
        for mode in hooks.MODES:
            if mode not in one.card.modes:
                found.setdefault(f"not made for {mode}", []).append(name)
        for reason in one.reasons.values():
            if not reason.startswith("not made for"):
                found.setdefault(reason, []).append(name)
        for reason in withheld(one):
            found.setdefault(reason, []).append(name)
    return [f"{reason}: {', '.join(dict.fromkeys(names))}" for reason, names in found.items()]


def withheld(found: Measured) -> Iterator[str]:
    """Why figures of analyses that were run are not shown."""
    ledger: Any = found.results.get("ledger")
    if ledger is not None and ledger.depth() is None:
        yield "no depth: no step in the CoT whose swap can be scored"
    channels: Any = found.results.get("channels", found.results.get("known"))
    if channels is not None and channels.status().startswith("withheld"):
        for letter in channels.status().removeprefix("withheld: ").split(", "):
            yield f"withheld ({letter}): {analyses.CONDITIONS[letter]}"


def _verdict(one: Judged) -> list[str]:
    """A claim in words: the verdict, the claim, the endpoint with the interval that decides it, what else was seen."""
    claim = one.claim
    ends = " ".join(map(str, claim.endpoint))
    measured = f"{ends} = {interval_text(one.estimate, one.low, one.high)}, claimed {claim.side} {claim.threshold:g}"
    trainings = min((len(seeds) for seeds in one.seeds.values()), default=0)
    of = "one training each" if trainings == 1 else f"at least {trainings} trainings each"
    said = one.verdict.upper() + (f" ({of})" if trainings and not one.reason else "")
    lines = [f"({claim.id}) {said}: {claim.claim}", f"    {measured}"]
    if claim.revised:
        lines.append(f"    endpoint revised: {claim.revised}")
    if one.reason:
        lines.append(f"    not settled since: {one.reason}")
    own = {f"{term.measure} of {term.organism}" for term in claim.endpoint}
    beside = [f"{name} {interval_text(*value)}" for name, value in one.secondary.items() if name not in own]
    return [*lines, *(f"    {text}" for text in beside)]
