"""Decodable is not used: variables that a probe reads perfectly, and what moves the answer when it is swapped.

The organism `sft` adds four numbers mod 10 step by step. After its second step a probe reads the partial sum and the
last operand in every layer without error. In half a minute on two cores this swaps what goes linearly with each between
runs, beside random subspaces, permuted labels and a model with random weights; then it puts the state of a run that
reasoned into one that did not. It writes `decodable_or_used.pdf`.
"""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import typer

import loadbearing as lb
from loadbearing.figures.style import DOUBLE_COLUMN, style

# A variable, and the operand in which the pairs differ.
ASKED = {
    "partial sum": ("v_2", "operand.1"),
    "last operand": ("operand.4", "operand.4"),
    "answer": ("v_3", "operand.1"),
}


def main(
    pairs: int = 64,
    out: Annotated[Path, typer.Option(help="the figure, without its ending")] = Path("decodable_or_used"),
) -> None:
    """Swap two subspaces, put states across runs, print tables, draw one figure."""
    model = lb.hooks.load("organism:sft")
    assert model.task is not None
    swapped = {
        name: lb.analyses.subspace(
            model, model.task.pairs(pairs, vary=vary), variable, position="step.2[-1]", mode="cot", progress=True
        )
        for name, (variable, vary) in ASKED.items()
    }
    for name, found in swapped.items():
        print(f"\n{name}\n{found.table()}")
    moved = {}
    for name in ("sft", "both", "post-hoc"):
        other = lb.hooks.load(f"organism:{name}")
        assert other.task is not None
        moved[name] = lb.analyses.across(other, other.task.problems(100), progress=True)
        print(f"\n{name}: {moved[name].table()}")
    with style():
        _, axes = plt.subplots(2, 1, figsize=(DOUBLE_COLUMN, 4.4), layout="constrained")
        lb.figures.subspace(swapped, axes[0])
        lb.figures.across(moved, axes[1])
    for path in lb.figures.save(axes[0], out, formats=("pdf", "png")):
        print(path)


if __name__ == "__main__":
    typer.run(main)
