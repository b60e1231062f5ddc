"""What the published alternatives say of models whose mechanism is known: `python benchmarks/alternatives_table.py`.

One row a model, measured as its card says (`cot`), on 64 problems, or 16 for the hand-set models, which have few.
"""

import sys
from collections.abc import Sequence

import pandas as pd
from alternatives import CHAINS, FIXES, attention_knockout, cmi, nldd

import loadbearing as lb
from loadbearing.analyses.targets import cot_runs
from loadbearing.core import InputError
from loadbearing.hooks import Model, Runs

NAMES = ("sft", "both", "post-hoc", "filler", "copy-direct", "copy-relay", "copy-tokens", "copy-redundant", "copy-sum")


def text_columns(model: Model, runs: Runs) -> dict[str, float]:
    """What altering the text gives; nothing where the chain of thought states no step."""
    try:
        found = lb.analyses.behaviour(model, [run.problem for run in runs], cot=runs)
        decay = {f"NLDD {chain}": nldd(model, runs, chain=chain).value for chain in CHAINS}
    except InputError:
        return {}
    return {
        "early AOC": found.area("truncated")[0],
        "content-free AOC": found.area("content-free")[0],
        "mistakes AOC": found.area("mistake")[0],
        "follow": found.rate("follow", "mistake")[0],
        **decay,
    }


def state_columns(model: Model, runs: Runs) -> dict[str, float]:
    """What patching states and blocking attention gives."""
    mended = cmi(model, runs, fixes=FIXES)
    return {
        "CMI published": cmi(model, runs).value,
        "CMI controls mended": cmi(model, runs, fixes=("controls",)).value,
        "CMI all mended": mended.value,
        "its drop (nats)": mended.parts["drop"],
        "knock-out": attention_knockout(model, runs).value,
        "sink kept": attention_knockout(model, runs, keep_sink=True).value,
        "later readers": attention_knockout(model, runs, readers="later", keep_sink=True).value,
    }


def table(names: Sequence[str] = NAMES) -> pd.DataFrame:
    """One row a model."""
    rows = {}
    for name in names:
        model = lb.hooks.load(f"organism:{name}")
        assert model.card is not None and model.task is not None
        problems = model.task.problems(16 if model.card.known else 64)
        runs = cot_runs(model, problems, model.card.measure.get("cot", "model"))
        rows[name] = {**text_columns(model, runs), **state_columns(model, runs)}
    return pd.DataFrame.from_dict(rows, orient="index")


if __name__ == "__main__":
    print(table(sys.argv[1:] or NAMES).T.to_string(float_format="{:.2f}".format, na_rep="-"))
