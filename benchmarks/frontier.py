"""What one pass can learn: size x length x updates, on answers alone: `python benchmarks/frontier.py --out FOLDER`.

Every model is trained from random weights on the answers of problems of growing length, as the debate's organisms are,
and asked for held-out problems of every length at every tenth of its training. Writes `frontier.csv` (a row a model,
tenth and length) and `frontier.pdf`; a model that is in the table is not trained again. The debate's small size is also
trained five times as long. Takes an hour on two cores.
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
from typing import Any

import pandas as pd
import torch
from matplotlib import pyplot as plt

from loadbearing import figures
from loadbearing.core import atomic_write
from loadbearing.organisms.data import examples_of
from loadbearing.organisms.debate import BATCH, LONG, MODULUS, RATES, SIZES, UPDATES, lessons
from loadbearing.organisms.specs import FORMAT, Supervised, Trained
from loadbearing.organisms.supervised import answer_accuracy, held_out_problems, new_model, train_supervised
from loadbearing.organisms.tokenizer import build_tokenizer
from loadbearing.tasks import load

KINDS, TERMS = ("program", "sum"), range(2, LONG + 1)
GRID = ((1, 16), (1, 32), (2, 32), (2, 64), (4, 64))
LONGER = 5
COLUMNS = ["kind", "layers", "width", "parameters", "updates", "update", "terms", "n", "accuracy", "seconds"]


@dataclass(frozen=True)
class Cell:
    """A model to train: the kind of its problems, its size, its number of updates."""

    kind: str
    layers: int
    width: int
    updates: int = UPDATES

    def row(self) -> tuple[str, int, int, int]:
        """What names the cell in the table."""
        return self.kind, self.layers, self.width, self.updates


def train(cell: Cell) -> pd.DataFrame:
    """Train one model; its held-out accuracy at every length along the way."""
    from transformers import TrainerCallback

    torch.set_num_threads(1)
    began = time.perf_counter()
    parts = lessons(cell.kind, "nothing", last=LONG)
    tasks = [load(part.task) for part in parts]
    tokenizer = build_tokenizer(tasks[-1], FORMAT)
    model = new_model(Trained("cell", "", (), parts[-1].task, layers=cell.layers, width=cell.width), tokenizer)
    held_out = [
        examples_of(part, task, held_out_problems(task, 1000, seed=1), tokenizer, FORMAT, seed=0)
        for part, task in zip(parts, tasks, strict=True)
    ]
    found: list[tuple[int, int, int, float]] = []

    class Lengths(TrainerCallback):
        """Asks for every length whenever the trainer logs."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs is not None and "loss" in logs:
                asked = zip(TERMS, held_out, strict=True)
                found.extend((state.global_step, n, len(ex.ids), answer_accuracy(model, ex)) for n, ex in asked)

    rate = RATES["small" if cell.width <= SIZES["small"]["width"] else "large"]
    stage = Supervised(parts, updates=cell.updates, batch=BATCH, rate=rate)
    with tempfile.TemporaryDirectory() as scratch:
        train_supervised(model, stage, tokenizer, FORMAT, Path(scratch), callbacks=[Lengths()], progress=False)
    parameters = sum(weight.numel() for weight in model.parameters())
    seconds = round(time.perf_counter() - began)
    rows = [(*cell.row()[:3], parameters, cell.updates, *row, seconds) for row in found]
    return pd.DataFrame(rows, columns=COLUMNS)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Held-out accuracy at the end against the number of operations, a line a model, a panel a kind."""
    last = table[table["update"] == table["updates"]].sort_values("terms")
    with figures.style():
        _, axes = plt.subplots(1, len(KINDS), figsize=(figures.DOUBLE_COLUMN, 2.4), sharey=True, layout="constrained")
        for ax, kind in zip(axes, KINDS, strict=True):
            trained: Any = last[last["kind"] == kind].groupby(["layers", "width", "updates"])
            for (layers, width, updates), rows in trained:
                number = GRID.index((layers, width))
                label = f"{layers} x {width} ({rows['parameters'].iloc[0] / 1000:.0f}k)"
                longer = updates > UPDATES
                ax.plot(
                    rows["terms"] - 1,
                    rows["accuracy"],
                    linestyle="--" if longer else "-",
                    marker="osD^v"[number],
                    markersize=4,
                    color=figures.MODEL_COLOURS[number],
                    label=f"{label}, {updates:,} updates" if longer else label,
                )
            ax.axhline(1 / MODULUS, color="0.6", linewidth=0.8, linestyle=":")
            ax.set(xlabel="operations", title=f"modular-{kind}", xticks=[n - 1 for n in TERMS], ylim=(0, 1.03))
        axes[0].set_ylabel("one-pass accuracy")
        # Beside the lines of the panel on the left, in the empty half of the other.
        handles, labels = axes[0].get_legend_handles_labels()
        axes[1].legend(handles, labels, title="layers x width (weights)", loc="lower left", handlelength=3)
        figures.save(axes[0], path, formats=("pdf", "png"))


def main() -> None:
    """Train what is not in the table yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    path = given.out / "frontier.csv"
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)
    there = set(table[["kind", "layers", "width", "updates"]].itertuples(index=False, name=None))
    small = SIZES["small"]
    cells = [Cell(kind, *size) for kind, size in product(KINDS, GRID)]
    cells += [Cell("program", small["layers"], small["width"], LONGER * UPDATES)]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(train, cell) for cell in cells if cell.row() not in there]
        for job in as_completed(jobs):
            table = pd.concat([table, job.result()], ignore_index=True)
            atomic_write(path, partial(table.to_csv, index=False))
            print(job.result().tail(len(TERMS)).to_string(index=False, header=False), flush=True)
    draw(table, given.out / "frontier")
    print(table[table["update"] == table["updates"]].to_string(index=False))


if __name__ == "__main__":
    main()
