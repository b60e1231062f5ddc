"""One row of the history of a training: what a few pairs and problems say of the model as it is now."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..core import GateError, InputError
from ..hooks import Model, Runs, generate
from ..tasks import Pairs, Problem
from .cells import WIRES
from .channel_table import SUMMARY
from .channels import channels
from .ledger import ledger
from .ledger_texts import comparable

SPLITS = ("ok", "not available to tokens")  # the status under which three shares say what they seem to say

WHY = "why_no_"

Row = dict[str, float | int | str]


def snapshot(
    model: Model,
    pairs: Pairs,
    problems: Sequence[Problem],
    *,
    target: str = "onset",
    max_new_tokens: int = 256,
    batch_size: int = 64,
    seed: int = 0,
) -> Row:
    """Accuracy with and without a chain of thought, channel shares and serial share of a model, from one set of runs.

    usable: 1, or 0 where the eight cells could not be measured (what the model writes cannot be read, a gate stopped);
        why stands in `why_no_shares`; and in `why_no_serial_share` where the ledger could not
    direct, relay, tokens, each with `_low` and `_high`: the shares of `channels`; left out where its `status` is
        withheld or joint
    total_nats: the total effect; cots_differ: P(the CoTs of a pair differ before the target); pairs: what was used
    serial_share (with `_low` and `_high`), serial_chance: as in `ledger`; left out where no step can be swapped

    Every gate is run. What is not a number is left out. Raises InputError for problems that the model cannot be given.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> row = snapshot(model, model.task.pairs(8), model.task.problems(16))
    >>> row["status"], round(row["tokens"], 2), row["serial_share"], row["cot_accuracy"]
    ('ok', 1.0, 1.0, 1.0)
    """
    asked = list(dict.fromkeys([*problems, *pairs.problems]))
    limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    runs = generate(model, asked, **limits)
    wanted = {problem.key for problem in problems}
    few = Runs(tuple(run for run in runs if run.problem.key in wanted), runs.mode, model)
    row: Row = {
        "cot_accuracy": few.accuracy,
        "one_pass_accuracy": generate(model, problems, "answer-only", **limits).accuracy,
        "usable": 0.0,
    }
    how: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    parts = {
        "shares": partial(_shares, model, pairs, runs, target, how),
        "serial_share": partial(_serial, model, problems, few, how),
    }
    for name, measure in parts.items():
        try:
            told = measure()
        except (InputError, GateError) as error:
            told = {WHY + name: str(error)}
        row |= {key: value for key, value in told.items() if isinstance(value, str) or not math.isnan(value)}
    return row


def _shares(model: Model, pairs: Pairs, runs: Runs, target: str, how: dict[str, Any]) -> Row:
    found = channels(model, pairs, cot=runs, target=target, boundary=False, **how)
    status, told = found.status(), found.estimates(SUMMARY)
    row: Row = {
        "usable": 1.0,
        "status": status,
        "total_nats": float(told.get("log-odds", "total")[0]),
        "cots_differ": found.differing(SUMMARY),
        "pairs": float(told.n),
    }
    if status in SPLITS:
        for end, bound in (("", "estimate"), ("_low", "low"), ("_high", "high")):
            values = told.get("log-odds", "share", bound)
            row |= {wire + end: float(value) for wire, value in zip(WIRES, values, strict=True)}
    return row


def _serial(model: Model, problems: Sequence[Problem], runs: Runs, how: dict[str, Any]) -> Row:
    steps = [f"step.{k}" for k in sorted(comparable(runs)[0][0].values)]
    found = ledger(model, problems, cot=runs, sources=steps, **how)
    share, low, high = found.serial_share()
    chance = found.serial_share("chance")[0]
    return {"serial_share": share, "serial_share_low": low, "serial_share_high": high, "serial_chance": chance}
