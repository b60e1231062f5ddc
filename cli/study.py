"""The main job: every analysis on every shipped organism. Orchestration only."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib.metadata import version
from math import isnan
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from .. import analyses, figures, hooks, organisms
from ..analyses.interval import interval_text
from ..core import InputError, Result, atomic_write, check_name, new_folder

PROBE_PROBLEMS = 500
LEDGER_PROBLEMS = 64
PATCHED = 4  # the maps take every fourth pair: they are means over all variables
TABLES = ("channels", "known", "copies")
STEPS = ("channels", "copies", "ledger", "decodability", "patch")


@dataclass
class Measured:
    """The results of one model, by the name of the analysis, and why others are missing."""

    card: hooks.Card
    fingerprint: str
    results: dict[str, Result] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def run_study(
    out: Path, *, pairs: int = 64, names: Sequence[str] | None = None, seed: int = 0, progress: bool = True
) -> pd.DataFrame:
    """Measure organisms, print one table, and write tables, results and figures to a new folder.

    Models are measured side by side, one process a core. The folder appears when everything is done: a killed run
    leaves only a hidden folder beside it.
    """
    shipped = [name for name in organisms.ORGANISMS if name in hooks.organism_names()]
    chosen = [check_name("organism", name.strip(), shipped) for name in names or shipped]
    if len(set(chosen)) < len(chosen):
        raise InputError(f"an organism is named twice: {', '.join(chosen)}")
    workers = min(len(chosen), os.cpu_count() or 1)
    # Spawned, not forked: a process that has used threads cannot be forked safely.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
    with (
        new_folder(out) as folder,
        pool,
        tqdm(total=len(chosen), disable=not progress, leave=False, unit="model") as bar,
    ):
        measured = _measure_all(pool, chosen, pairs, seed, bar)
        bar.set_description("figures")
        _write(pool, folder, measured, {"pairs": pairs, "seed": seed, "organisms": chosen})
        table = _table(measured)
        text = _text(table, measured)
        atomic_write(folder / "table.txt", lambda path: path.write_text(text))
        atomic_write(folder / "table.csv", lambda path: table.to_csv(path, index=False))
    print(text)
    print(f"Tables, results and figures: {out}")
    return table


def _measure_all(pool: Executor, names: Sequence[str], pairs: int, seed: int, bar: Any) -> dict[str, Measured]:
    """Measure every model in the worker processes."""
    jobs = {pool.submit(_measure, name, pairs, seed): name for name in names}
    bar.set_description("measuring")
    found: dict[str, Measured] = {}
    try:
        for job in as_completed(jobs):
            found[jobs[job]] = job.result()
            bar.set_description(f"measured {jobs[job]}")
            bar.update()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return {name: found[name] for name in names}


def _start_worker() -> None:
    """Set up a worker process: one thread, since small tensors gain nothing from more."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # all weights are in the package
    torch.set_num_threads(1)
    threadpool_limits(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the study is killed: nothing else would tell it."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _measure(name: str, pairs: int, seed: int) -> Measured:
    """Every analysis of one model that its modes allow."""
    model = hooks.load(f"organism:{name}")
    assert model.card is not None
    found = Measured(model.card, model.fingerprint)
    for step in STEPS:
        try:
            found.results |= _analyses(step, model, found, pairs, seed)
        except Unmeasured as reason:
            found.reasons[step] = str(reason)
    return found


class Unmeasured(Exception):
    """Why an analysis was not run on a model."""


def _analyses(step: str, model: hooks.Model, found: Measured, pairs: int, seed: int) -> dict[str, Result]:
    card, task = found.card, model.task
    assert task is not None
    measure = dict(card.measure)
    vary = measure.pop("vary", None)
    if step != "decodability" and step != "patch" and not model.supports("cot"):
        raise Unmeasured("not made for CoT")
    if step == "channels":
        # Set by hand: measured where its card says that its table is known.
        kind = "known" if card.known else "channels"
        return {kind: analyses.channels(model, task.pairs(pairs, seed=seed, vary=vary), seed=seed, **measure)}
    if card.known:
        raise Unmeasured("set by hand: only its table is known")
    if step == "copies":
        if found.results["channels"].manifest.circumstance["onset"]["slot"] == "answer":
            raise Unmeasured("the CoT does not state the answer")
        chosen = task.pairs(pairs, seed=seed)
        return {"copies": analyses.channels(model, chosen, target="answer", seed=seed)}
    if step == "ledger":
        return {"ledger": analyses.ledger(model, task.problems(LEDGER_PROBLEMS, seed=seed), seed=seed)}
    if step == "decodability":
        probed = task.problems(PROBE_PROBLEMS, seed=seed)
        # The text alone is read by trained readers where a model writes no gold chain: minutes, and no column needs it.
        return {"decodability": analyses.decodability(model, probed, shuffles=5, text=False, seed=seed)}
    chosen = task.pairs(max(2, pairs // PATCHED), seed=seed)
    return {f"patch-{mode}": analyses.patch(model, chosen, mode=mode) for mode in hooks.MODES if mode in card.modes}


# Every figure: the function that draws it, and the results that it shows.
FIGURES = {
    "channels": ("channels", "channels"),
    "cells": ("cells", "channels"),
    "copies": ("channels", "copies"),
    "known": ("channels", "known"),
    "ledger": ("ledger", "ledger"),
    "decodability": ("decodability", "decodability"),
    "patch-answer-only": ("patch", "patch-answer-only"),
    "patch-cot": ("patch", "patch-cot"),
}


def _draw(function: str, results: dict[str, Result], path: Path) -> None:
    """Draw and save one figure."""
    ax = getattr(figures, function)(results)
    figures.save(ax, path)
    plt.close(ax.figure)


def _write(pool: Executor, folder: Path, measured: Mapping[str, Measured], options: Mapping[str, Any]) -> None:
    """Results, figures and the manifest."""
    for name, found in measured.items():
        for kind, result in found.results.items():
            result.save(folder / "results" / name / f"{kind}.safetensors")
    jobs = []
    for name, (function, kind) in FIGURES.items():
        have = {m: found.results[kind] for m, found in measured.items() if kind in found.results}
        if have:
            jobs.append(pool.submit(_draw, function, have, folder / "figures" / name))
    for job in jobs:
        job.result()
    manifest = {
        "options": dict(options),
        "models": {name: found.fingerprint for name, found in measured.items()},
        "versions": {name: version(name) for name in ("loadbearing", "torch", "transformers")},
    }
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    atomic_write(folder / "manifest.json", lambda path: path.write_text(text))


def _table(measured: Mapping[str, Measured]) -> pd.DataFrame:
    """A row a model; "-" where there is no figure (the reason stands in the notes)."""
    return pd.DataFrame([_row(name, found) for name, found in measured.items()])


def _row(name: str, found: Measured) -> dict[str, str]:
    row = {"model": name, **_accuracies(found)}
    channels: Any = found.results.get("channels", found.results.get("known"))
    status = channels.status() if channels else "-"
    for i, wire in enumerate(("direct", "relay", "tokens")):
        shown = "-"
        if channels and status == "joint":
            shown = "joint"
        elif channels and not status.startswith("withheld"):
            shown = interval_text(
                *(channels.estimates("mean").get("log-odds", "share", b)[i] for b in ("estimate", "low", "high"))
            )
        if wire == "tokens" and status == "not available to tokens":
            shown = "not available"  # no pair's CoTs differ: no evidence that the text is ignored
        row[wire] = shown
    ledger: Any = found.results.get("ledger")
    row["serial share"] = interval_text(*ledger.serial_share()) if ledger else "-"
    row["chance"] = "-" if row["serial share"] == "-" else f"{ledger.serial_share('chance')[0]:.2f}"
    depth = ledger.depth() if ledger else None
    row["depth"] = "-" if depth is None else str(depth)
    copies: Any = found.results.get("copies")
    row["copy share"] = f"{copies.shares()[2]:.2f}" if copies else "-"
    probes: Any = found.results.get("decodability")
    row["forward-pass bits"] = "-"
    if probes and not isnan(probes.forward_pass_bits()[0]):
        row["forward-pass bits"] = f"{interval_text(*probes.forward_pass_bits())} of {probes.null[-1].mean():.2f}"
    row["withheld"] = status if status.startswith("withheld") else "-"
    return row


def _accuracies(found: Measured) -> dict[str, str]:
    probes: Any = found.results.get("decodability")
    values = {mode: probes.accuracy(mode) if probes else float("nan") for mode in hooks.MODES}
    if found.card.known:
        values["cot"] = found.results["known"].manifest.circumstance["accuracy"]
    named = {"answer-only": "one-pass accuracy", "cot": "CoT accuracy"}
    return {named[mode]: "-" if isnan(value) else f"{value:.3f}" for mode, value in values.items()}


def _checks(measured: Mapping[str, Measured]) -> list[str]:
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


def _text(table: pd.DataFrame, measured: Mapping[str, Measured]) -> str:
    """The table as it is printed: a block of rows, then how to read it and why figures are missing."""
    lines = [table.to_string(index=False), ""]
    lines += [
        "direct, relay, tokens: shares of what the answer owes to variables used before its last step (95 % interval);",
        "serial share, its chance level, depth: from the ledger; copy share: tokens, where the CoT states the answer;",
        "forward-pass bits: what a linear probe reads of the answer in the answer-only run, of H(answer).",
    ]
    lines += [f"- {text}" for text in _checks(measured)]
    notes: dict[str, list[str]] = {}
    for name, found in measured.items():
        for mode in hooks.MODES:
            if mode not in found.card.modes:
                notes.setdefault(f"not made for {mode}", []).append(name)
        for reason in found.reasons.values():
            if reason != "not made for CoT":
                notes.setdefault(reason, []).append(name)
        ledger: Any = found.results.get("ledger")
        if ledger is not None and ledger.depth() is None:
            notes.setdefault("no depth: no step in the CoT whose swap can be scored", []).append(name)
        channels: Any = found.results.get("channels", found.results.get("known"))
        if channels is not None and channels.status().startswith("withheld"):
            for letter in channels.status().removeprefix("withheld: ").split(", "):
                notes.setdefault(f"withheld ({letter}): {analyses.CONDITIONS[letter]}", []).append(name)
    lines += [f"- {reason}: {', '.join(dict.fromkeys(names))}" for reason, names in notes.items()]
    return "\n".join(lines) + "\n"
