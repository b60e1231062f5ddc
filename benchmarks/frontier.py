"""What one pass can learn: size x length x updates, on answers alone: `python benchmarks/frontier.py --out FOLDER`.

Every model is trained from random weights on the answers of problems of growing length, as the debate's organisms are,
and asked for held-out problems of the last length every tenth of the training. Writes `frontier.csv` (a row a model and
tenth) and `frontier.pdf`; a model that is in the table is not trained again. The debate's small size is also trained
five times as long. Takes hours.
"""

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from matplotlib import pyplot as plt

from loadbearing import figures
from loadbearing.core import atomic_write
from loadbearing.organisms.debate import BATCH, MODULUS, RATES, UPDATES, lessons
from loadbearing.organisms.debate import SIZES as SIZES_OF_DEBATE
from loadbearing.organisms.specs import FORMAT, Supervised, Trained
from loadbearing.organisms.supervised import new_model, train_supervised
from loadbearing.organisms.tokenizer import build_tokenizer
from loadbearing.tasks import load

KINDS, TERMS = ("program", "sum"), (3, 4, 5, 6)
SIZES = ((1, 16), (1, 32), (2, 32), (2, 64), (4, 64))
COLUMNS = ["kind", "terms", "layers", "width", "parameters", "updates", "update", "loss", "accuracy", "seconds"]


@dataclass(frozen=True)
class Cell:
    """A model to train: the kind and length of its problems, its size, its number of updates."""

    kind: str
    terms: int
    layers: int
    width: int
    updates: int = UPDATES

    def row(self) -> tuple[str, int, int, int, int]:
        """What names the cell in the table."""
        return self.kind, self.terms, self.layers, self.width, self.updates


def train(cell: Cell) -> pd.DataFrame:
    """Train one model; its held-out accuracy along the way."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    task = f"modular-{cell.kind}:modulus={MODULUS},terms={cell.terms}"
    tokenizer = build_tokenizer(load(task), FORMAT)
    model = new_model(Trained("cell", "", (), task, layers=cell.layers, width=cell.width), tokenizer)
    rate = RATES["small" if cell.width <= SIZES_OF_DEBATE["small"]["width"] else "large"]
    stage = Supervised(lessons(cell.kind, "nothing", last=cell.terms), updates=cell.updates, batch=BATCH, rate=rate)
    with tempfile.TemporaryDirectory() as scratch:
        curve = train_supervised(model, stage, tokenizer, FORMAT, Path(scratch), progress=False)
    parameters = sum(weight.numel() for weight in model.parameters())
    seconds = round(time.perf_counter() - began)
    rows = [
        (*cell.row()[:4], parameters, cell.updates, row["update"], row["loss"], row["accuracy"], seconds)
        for row in curve
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Held-out accuracy at the end against the number of operations, a line a size, a panel a kind."""
    with figures.style():
        _, axes = plt.subplots(1, len(KINDS), figsize=(figures.DOUBLE_COLUMN, 2.2), sharey=True)
        last = table[(table["update"] == table["updates"]) & (table["updates"] == UPDATES)]
        for ax, kind in zip(axes, KINDS, strict=True):
            for number, ((layers, width), rows) in enumerate(last[last["kind"] == kind].groupby(["layers", "width"])):
                line = rows.sort_values("terms")
                label = f"{layers} x {width} ({line['parameters'].iloc[0] / 1000:.0f}k)"
                marker = "osD^v"[number % 5]
                ax.plot(line["terms"] - 1, line["accuracy"], marker=marker, markersize=4, label=label)
            ax.axhline(1 / MODULUS, color="0.6", linewidth=0.8, linestyle=":")
            ax.set(xlabel="operations", title=f"modular-{kind}", xticks=[terms - 1 for terms in TERMS], ylim=(0, 1.03))
        axes[0].set_ylabel("one-pass accuracy")
        axes[1].legend(title="layers x width", fontsize="small")
        figures.save(axes[0], path, formats=("pdf", "png"))


def main() -> None:
    """Train what is not in the table yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    path = given.out / "frontier.csv"
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)
    there = set(table[["kind", "terms", "layers", "width", "updates"]].itertuples(index=False, name=None))
    cells = [Cell(kind, terms, *size) for kind, terms, size in product(KINDS, TERMS, SIZES)]
    cells += [Cell("program", terms, 1, 32, 5 * UPDATES) for terms in TERMS]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(train, cell) for cell in cells if cell.row() not in there]
        for job in as_completed(jobs):
            table = pd.concat([table, job.result()], ignore_index=True)
            atomic_write(path, partial(table.to_csv, index=False))
            print(job.result().tail(1).to_string(index=False, header=False), flush=True)
    draw(table, given.out / "frontier")
    print(table[table["update"] == table["updates"]].to_string(index=False))


if __name__ == "__main__":
    main()
