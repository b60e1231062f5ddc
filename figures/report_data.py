"""What the page of a report knows of one model, in plain lists: runs, cells, ledger and readings, by problem."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..analyses import Beyond, Channels, Commitment, Decodability, Ledger
from ..analyses.beyond_table import CURVES
from ..analyses.cells import N_CELLS, TERMS

GROUPS = ("prompt", "open", "cot", "cue", "answer")
# An outcome is one letter: follows the donor, keeps, implied by program and text, broken.
OUTCOMES = "DKIB"
NOTHING, MIXED = ".", "~"  # not scored; samples of the problem differ


def model_data(
    name: str, told: Mapping[str, Any], results: Mapping[str, Any], reasons: Mapping[str, str]
) -> dict[str, Any]:
    """All of one model, as JSON can hold it.

    told: what a study keeps of its runs (`problems.json`); results: by the name of the analysis, those that are there
    reasons: why others are not
    """
    at = {run["problem"]: i for i, run in enumerate(told["runs"])}
    vocabulary: dict[str, int] = {}
    channels = results.get("channels", results.get("known"))
    return {
        "name": name,
        "mode": told["mode"],
        "problems": told["problems"],
        "samples": told["samples"],
        "runs": [_run(run, vocabulary) for run in told["runs"]],
        "tokens": list(vocabulary),
        "cells": _cells(channels, told["pairs"], at) if channels is not None else None,
        "ledger": _ledger(results["ledger"], at) if "ledger" in results else None,
        "probes": _probes(results["decodability"], at) if "decodability" in results else None,
        "beyond": _beyond(results["beyond"], at) if "beyond" in results else None,
        "forced": _forced(results["commitment"], at) if "commitment" in results else None,
        "reasons": dict(reasons),
    }


def _run(run: Mapping[str, Any], vocabulary: dict[str, int]) -> dict[str, Any]:
    spans: dict[str, list[int]] = run["spans"]
    tokens = [vocabulary.setdefault(token, len(vocabulary)) for token in run["tokens"]]
    parts = [[name, *spans[name], _inner(spans, name)] for name in GROUPS if name in spans]
    kept = {name: run[name] for name in ("prompt", "gold", "answer", "finished")}
    return {**kept, "tokens": tokens, "parts": sorted(parts, key=lambda part: part[1])}


def _inner(spans: Mapping[str, Sequence[int]], group: str) -> list[list[Any]]:
    """The named spans inside a part of the run, in their order; of two that overlap the shorter one."""
    start, stop = spans[group]
    inside = [(b - a, a, b, name) for name, (a, b) in spans.items() if name not in GROUPS and start <= a < b <= stop]
    found: list[list[Any]] = []
    for _, a, b, name in sorted(inside):
        if all(b <= first or last <= a for _, first, last in found):
            found.append([name, a, b])
    return sorted(found, key=lambda span: span[1])


def _cells(channels: Channels, pairs: Sequence[Sequence[str]], at: Mapping[str, int]) -> dict[str, Any]:
    """The eight cells of every row whose recipient is shown, in both directions, and rates over all rows."""
    log_odds = channels.log_p[..., 0] - channels.log_p[..., 1]
    p = np.exp(channels.log_p)
    rows = []
    for i, keys in enumerate(pairs):
        for direction in (0, 1):
            recipient, donor = keys[direction], keys[1 - direction]
            if recipient in at:
                said = "".join(OUTCOMES[code] for code in channels.outcome[i, direction])
                numbers = [_rounded(log_odds[i, direction], 2)]
                numbers += [_rounded(p[i, direction, :, candidate], 3) for candidate in (0, 1)]
                rows.append([at[recipient], at.get(donor, donor), int(channels.variable[i]), said, *numbers])
    facts = channels.manifest.circumstance
    return {
        "terms": list(TERMS),
        "target": str(channels.manifest.identity["target"]),
        "slot": str(facts["onset"]["slot"]),
        "variables": list(channels.variables),
        "rows": rows,
        "rates": [_rates(channels, variable) for variable in channels.variables],
        "pairs": [int(channels.select(variable).sum()) for variable in channels.variables],
    }


def _rates(channels: Channels, variable: str) -> list[list[float | None]]:
    """How often each outcome is met in each cell, `[cell][outcome]`."""
    said = channels.outcome[channels.select(variable)].reshape(-1, N_CELLS)
    return [[_number((said[:, cell] == code).mean(), 3) for code in range(len(OUTCOMES))] for cell in range(N_CELLS)]


def _ledger(ledger: Ledger, at: Mapping[str, int]) -> dict[str, Any]:
    """Every edge with its rates, and for every problem a letter an edge."""
    keys = ledger.coords["problem"]
    quantities = ledger.quantities[:2]
    edges, letters = [], []
    for t, target in enumerate(ledger.targets):
        for s, source in enumerate(ledger.sources):
            arrays = [array[t, s] for array in (ledger.load, ledger.keep, ledger.broken)]
            if np.isnan(arrays[0]).all():
                continue
            rates = [_rounded(np.array(ledger.rate(quantity, target, source)), 3) for quantity in quantities]
            edges.append([target, source, bool(ledger.copy_edge[t, s]), *rates])
            letters.append(_letters(arrays, keys))
    by_problem = {key: "".join(edge[key] for edge in letters) for key in dict.fromkeys(keys)}
    return {
        "scored": ledger.scored,
        "problems": len(by_problem),
        "edges": edges,
        "by": {at[key]: said for key, said in by_problem.items() if key in at},
    }


def _letters(arrays: Sequence[NDArray[Any]], keys: Sequence[str]) -> dict[str, str]:
    """The outcome of an edge by problem; of several samples the one that they agree in."""
    found: dict[str, str] = {}
    for key, load, keep, broken in zip(keys, *arrays, strict=True):
        letter = NOTHING if np.isnan(load) else "D" if load else "K" if keep else "B" if broken else NOTHING
        found[key] = letter if found.get(key, letter) == letter else MIXED
    return found


def _probes(probes: Decodability, at: Mapping[str, int]) -> dict[str, Any]:
    """Hundredths of a bit: by problem `[place, site, layer, variable]`, flat, and their means."""
    names = {name: list(probes.coords[name]) for name in ("place", "site", "layer", "variable")}
    bits = np.moveaxis(probes.bits, -1, 0)
    entropy = _rounded(probes.null.mean(axis=1), 2)
    return {**names, "entropy": entropy, **_by_problem(bits, probes.coords["problem"], at)}


def _beyond(beyond: Beyond, at: Mapping[str, int]) -> dict[str, Any]:
    """Hundredths of a bit: by problem `[curve, variable, place]`, flat, and their means."""
    names = {name: list(beyond.coords[name]) for name in ("variable", "place")}
    found = _by_problem(np.moveaxis(beyond.bits, -1, 0), beyond.coords["problem"], at)
    return {"curve": list(CURVES), **names, **found}


def _forced(commitment: Commitment, at: Mapping[str, int]) -> dict[str, Any] | None:
    """Whether an answer forced after k steps is the final one: by problem `[k]`, and the rates."""
    if "forced" not in commitment.lines or commitment.manifest.identity.get("parts"):
        return None  # after parts of the text, which are no steps
    hits = commitment.hit[commitment.coords["line"].index("forced"), commitment.coords["condition"].index("truncated")]
    return {"k": list(commitment.coords["k"]), **_by_problem(hits.T, commitment.coords["problem"], at)}


def _by_problem(values: NDArray[Any], keys: Sequence[str], at: Mapping[str, int]) -> dict[str, Any]:
    """Hundredths of values `[problem, ...]`: the first of every problem that is shown, and the mean over all."""
    flat = values.reshape(len(values), -1)
    return {
        "problems": len(set(keys)),
        "by": {at[key]: _hundredths(row) for key, row in reversed(list(zip(keys, flat, strict=True))) if key in at},
        "mean": _hundredths(pd.DataFrame(flat).mean().to_numpy()),
    }


def _hundredths(values: NDArray[Any]) -> list[int | None]:
    return [round(100 * float(value)) if np.isfinite(value) else None for value in values]


def _rounded(values: NDArray[Any], digits: int) -> list[float | None]:
    return [_number(value, digits) for value in values]


def _number(value: Any, digits: int) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None
