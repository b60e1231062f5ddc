"""Five laws of the literature on chains of thought, tried on models of a hundred thousand weights: docs/laws.md.

python examples/laws.py all --out laws

Trains what is not in the tables of the folder yet, three quarters of an hour for one process; then prints each table
with intervals and what held, and draws `LAW.pdf` and `LAW.png`. A law's figure is drawn again from its table, without
training.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import astuple
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from laws_figure import DRAWN
from laws_models import CELL, Cell, train

import loadbearing as lb
from loadbearing.analyses.interval import interval_text, rate_interval
from loadbearing.core import atomic_write, check_name

SUM, PROGRAM, PARITY = "modular-sum:modulus=5", "modular-program:modulus=5", "modular-sum:modulus=2"
S5, MATCH = "permutations:group=S5,elements=generators", "match3:modulus=10"
# A longer problem's steps begin behind a shorter one's: one layer cannot tell which step it is at but by its position.
LESSONS = "2 3 5 8 13"
PARITIES = ("2 3 5", "2 3 5 8", "2 3 5 8 12", "2 3 5 8 12 18")

CELLS: dict[str, list[Cell]] = {
    "serial": [
        Cell("serial", task, LESSONS, arm, layers, 2000)
        for layers, task, arm in product((1, 2), (SUM, S5), ("answer", "CoT"))
    ],
    "filler": [
        Cell("filler", task, lessons, arm, 2, updates)
        for (task, lessons, updates), arm in product(
            ((MATCH, "6", 1500), (PROGRAM, "2 3 4", 1000)), ("answer", "dots", "mixed")
        )
    ],
    "parity": [
        Cell("parity", PARITY, lessons, arm, 1, 1000, seed=seed)
        for lessons, arm, seed in product(PARITIES, ("answer", "CoT"), (0, 1))
    ],
    "iteration": [
        Cell("iteration", SUM, "2 3 4 5 6 7 8", "CoT", layers, 2500, heads=1, seed=seed, asked="4 6 8")
        for layers, seed in ((1, 0), (2, 0))
    ],
    "same": [
        Cell("same", PROGRAM, "2 3 5 8", "both", layers, 2000, width, asked="2 3 5 8")
        for layers, width in ((1, 16), (1, 64), (2, 64))
    ],
}


# --- what held

Claim = tuple[str, bool]
Interval = tuple[float, float]


def interval_of(table: pd.DataFrame, **where: Any) -> Interval:
    """Wilson's interval of the one rate that is asked for."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, where
    return rate_interval(table["value"].item(), table["n"].item())


def gain(after: Interval, before: Interval) -> Interval:
    """Bounds of a difference, from the intervals of the two (wider than need be)."""
    return after[0] - before[1], after[1] - before[0]


def told(gains: Mapping[str, Interval]) -> str:
    """The bounds of gains by task."""
    return ", ".join(f"{task.partition(':')[0]} {low:.2f} to {high:.2f}" for task, (low, high) in gains.items())


def serial(table: pd.DataFrame) -> Iterator[Claim]:
    """A chain of thought gains more on the serial task, depth by depth."""
    for layers, rows in table.groupby("layers"):
        gains = {
            task: gain(interval_of(rows, task=task, measure="CoT"), interval_of(rows, task=task, measure="answer"))
            for task in (SUM, S5)
        }
        yield f"depth {layers}: CoT gains more on the serial task ({told(gains)})", gains[S5][0] > gains[SUM][1]


def filler(table: pd.DataFrame) -> Iterator[Claim]:
    """Dots help on the parallel task, and not on the serial one."""
    for arm in ("dots", "mixed"):
        gains = {
            task: gain(
                interval_of(table, task=task, arm=arm, measure="dots"), interval_of(table, task=task, arm="answer")
            )
            for task in (MATCH, PROGRAM)
        }
        yield f"trained on {arm}: dots gain on the parallel task ({told(gains)})", gains[MATCH][0] > 0
        yield f"trained on {arm}: and more than on the serial task", gains[MATCH][0] > gains[PROGRAM][1]


def parity(table: pd.DataFrame) -> Iterator[Claim]:
    """Answers alone fall to chance with length; chains of thought do not."""
    for seed, rows in table.groupby("seed"):
        lengths = sorted(set(rows["length"].tolist()))
        found = {(way, n): interval_of(rows, measure=way, length=n) for way, n in product(("answer", "CoT"), lengths)}
        known = [n for n in lengths if found["answer", n][0] > 0.5]
        fell = bool(known) and lengths[-1] not in known
        yield f"seed {seed}: answers alone above chance at {known or 'no length'}, not at the longest", fell
        right = [n for n in lengths if found["CoT", n][0] > found["answer", n][1]]
        yield (
            f"seed {seed}: CoT better than answers alone at {right or 'no length'}, at the longest",
            lengths[-1] in right,
        )


def iteration(table: pd.DataFrame) -> Iterator[Claim]:
    """The second of two layers reads the next operand, other than with random weights or in a single layer."""
    longest = table[table["length"] == table["length"].max()]
    single = interval_of(longest, layers=1, measure="layer 1, operand")
    for seed, rows in longest[longest["layers"] == 2].groupby("seed"):
        trained, untrained = (interval_of(rows, measure=f"{start}layer 2, operand") for start in ("", "untrained "))
        half = f"seed {seed}: more than half of layer 2's attention on the next operand"
        yield f"{half}, less with random weights and with one layer", trained[0] > 0.5 > max(untrained[1], single[1])
        yield f"seed {seed}: two layers solve the longest problems", interval_of(rows, measure="CoT")[0] > 0.9


def same(table: pd.DataFrame) -> Iterator[Claim]:
    """The answer without a chain is the answer with one: less often for long problems, more often in large models."""
    rows = table[table["measure"] == "same"]
    sizes, lengths = (sorted(set(rows[column].tolist())) for column in ("parameters", "length"))
    found = {(p, n): interval_of(rows, parameters=p, length=n) for p, n in product(sizes, lengths)}
    for p in sizes:
        falls = found[p, lengths[0]][0] > found[p, lengths[-1]][1]
        yield f"{p} weights: falls from {lengths[0]} to {lengths[-1]} terms", falls
    for n in lengths:
        yield f"{n} terms: rises from the smallest to the largest", found[sizes[-1], n][0] > found[sizes[0], n][1]


LAWS: dict[str, Callable[[pd.DataFrame], Iterator[Claim]]] = {
    "serial": serial,
    "filler": filler,
    "parity": parity,
    "iteration": iteration,
    "same": same,
}


def verdict(claims: Sequence[Claim]) -> str:
    """Every part of a law with whether it held, and the whole in a word."""
    held = [found for _, found in claims]
    whole = "held" if all(held) else "held in part" if any(held) else "did not hold"
    return "\n".join([*(f"  {'yes' if found else 'NO '} {text}" for text, found in claims), f"the law {whole}"])


# --- the command


def grown(path: Path, cells: Sequence[Cell], workers: int) -> pd.DataFrame:
    """The table of these cells: what is in the file, and what is trained now, written after each cell."""
    table = pd.read_csv(path, dtype={"asked": str, "lengths": str}, keep_default_na=False) if path.is_file() else None
    there = set() if table is None else set(table[CELL].itertuples(index=False, name=None))
    missing = [cell for cell in cells if astuple(cell) not in there]
    if missing:
        with ProcessPoolExecutor(min(workers, len(missing)), mp_context=get_context("spawn")) as pool:
            for job in as_completed([pool.submit(train, cell) for cell in missing]):
                table = job.result() if table is None else pd.concat([table, job.result()], ignore_index=True)
                atomic_write(path, partial(table.to_csv, index=False))
                print(job.result().drop(columns=CELL[:2]).head(1).to_string(index=False, header=False), flush=True)
    assert table is not None
    asked = {astuple(cell) for cell in cells}
    return table[[row in asked for row in table[CELL].itertuples(index=False, name=None)]]


def shown(table: pd.DataFrame) -> str:
    """The table in few columns, rates with their intervals, without the single entries of attention maps."""
    rows = table[~table["measure"].str.contains(", step ")].copy()
    rates = zip(rows["value"], rows["n"], strict=True)
    rows["rate"] = [interval_text(value, *rate_interval(value, n)) for value, n in rates]
    kept = [
        "task",
        "arm",
        "layers",
        "width",
        "seed",
        "updates",
        "parameters",
        "length",
        "measure",
        "rate",
        "n",
        "seconds",
    ]
    return rows[kept].to_string(index=False)


def main(
    law: Annotated[str, typer.Argument(help=f"one of {', '.join(LAWS)}, or all")],
    out: Annotated[Path, typer.Option(help="the folder of tables and figures")] = Path("laws"),
    workers: Annotated[int, typer.Option(help="how many models are trained at a time, one thread each")] = 1,
) -> None:
    """Train what a law still lacks, print its table and what held, draw its figure."""
    for name in LAWS if law == "all" else [check_name("law", law, LAWS)]:
        table = grown(out / f"{name}.csv", CELLS[name], workers)
        print(f"\n{name}\n{shown(table)}\n{verdict(list(LAWS[name](table)))}")
        lb.figures.save(DRAWN[name](table), out / name, formats=("pdf", "png"))


if __name__ == "__main__":
    typer.run(main)
