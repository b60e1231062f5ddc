"""Recovered against built in: `python benchmarks/truth.py --models FOLDER [--out FILE.csv]`.

FOLDER is what `truth_models.py` wrote: models whose wires are forced by cuts, which stay on while scored. Beside
them stand the hand-set organisms. First table: a row a model, target and variable, with the wire that is built in and
the shares that `channels` finds. Second table: what the published alternatives (`alternatives.py`), which give one
figure a model, say of the same models at the answer. Between them: the ledger of chains whose steps were removed.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import truth_tasks  # noqa: F401 - makes known the task that the cards name
from alternatives_table import state_columns, text_columns
from tqdm import tqdm
from transformers.utils import logging

import loadbearing as lb
from loadbearing.analyses.cells import WIRES
from loadbearing.analyses.targets import cot_runs
from loadbearing.core import InputError

HANDSET = ("copy-direct", "copy-relay", "copy-tokens", "copy-sum", "copy-redundant")
PAIRS, PROBLEMS = 32, 64


def trained(folder: Path) -> Iterator[tuple[str, Any, dict[str, dict[str, str]], str]]:
    """Name, model, wire by target and variable, and the CoT to measure over, of every trained model that is used."""
    for name, told in json.loads((folder / "truth.json").read_text()).items():
        if told["used"]:
            wires = {target: known for target, known in told["truth"].items() if target != "one-pass"}
            yield name, lb.hooks.load(folder / name), wires, told["cot"]


def scored(name: str, model: Any, wires: dict[str, dict[str, str]], cot: str) -> Iterator[dict[str, Any]]:
    """A row a target and variable: the wire that is built in, and the shares that are found."""
    for target, known in wires.items():
        found = lb.analyses.channels(model, model.task.pairs(PAIRS), target=target, cot=cot, boundary=False)
        for variable, wire in known.items():
            shares = found.shares(variable)
            truth = np.array([float(name == wire) for name in WIRES])
            row: dict[str, Any] = {"model": name, "target": target, "variable": variable, "built in": wire}
            row |= dict(zip(WIRES, shares.round(3), strict=True))
            yield {**row, "error": float(np.abs(shares - truth).max()), "status": found.status(variable)}


def handset(name: str) -> dict[str, Any]:
    """The summary row of a hand-set organism beside its card."""
    model: Any = lb.hooks.load(f"organism:{name}")
    measure = dict(model.card.measure)
    pairs = model.task.pairs(16, vary=measure.pop("vary"))
    found = lb.analyses.channels(model, pairs, boundary=False, **measure)
    truth = np.array([model.card.known[wire] for wire in WIRES])
    row: dict[str, Any] = {"model": name, "target": measure["target"], "variable": "mean"}
    row["built in"] = " / ".join(f"{share:g}" for share in truth)
    row |= dict(zip(WIRES, (found.shares() + 0.0).round(3), strict=True))
    return {**row, "error": float(np.abs(found.shares() - truth).max()), "status": found.status()}


def published(name: str, model: Any, cot: str) -> dict[str, Any]:
    """What the alternatives say of a model; a reason where they cannot be computed."""
    n = min(PROBLEMS, len(model.task.problems(16)) if model.card.known else PROBLEMS)
    runs = cot_runs(model, model.task.problems(n), cot)
    try:
        return {"model": name, **text_columns(model, runs), **state_columns(model, runs)}
    except InputError as reason:
        return {"model": name, "not computed": str(reason)}


def chained(name: str, model: Any) -> dict[str, Any]:
    """What the ledger says of a chain whose first steps were removed."""
    steps = 3 - int(name.rpartition("-")[2])
    found = lb.analyses.ledger(model, model.task.problems(PROBLEMS))
    share, low, high = found.serial_share()
    told = {"serial share": share, "low": low, "high": high, "depth": found.depth()}
    return {"model": name, "steps": steps, "built-in depth": steps - 1, **told}


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="the folder that truth_models.py wrote")
    parser.add_argument("--out", type=Path, help="also write the first table here, and the second beside it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    rows = [handset(name) for name in HANDSET]
    others: list[dict[str, Any]] = []
    chains: list[dict[str, Any]] = []
    for name, model, wires, cot in tqdm(list(trained(given.models)), desc="models"):
        rows += scored(name, model, wires, cot)
        if "answer" in wires:
            others.append(published(name, model, cot))
        if name.startswith("internalised") and wires:
            chains.append(chained(name, model))
    own, alternatives = pd.DataFrame(rows), pd.DataFrame(others)
    print(own.to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
    shown = own[~own["status"].str.startswith("withheld")]
    withheld = len(own) - len(shown)
    print(f"\nlargest error of a share: {shown['error'].max():.3f} over {len(shown)} rows; withheld: {withheld}\n")
    print(pd.DataFrame(chains).to_string(index=False, float_format="{:.2f}".format, na_rep="-"), end="\n\n")
    print(alternatives.set_index("model").T.to_string(float_format="{:.2f}".format, na_rep="-"))
    if given.out is not None:
        own.to_csv(given.out, index=False)
        alternatives.to_csv(given.out.with_stem(given.out.stem + "-published"), index=False)


if __name__ == "__main__":
    main()
