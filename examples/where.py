"""Where is the answer? Patching maps of a model that can answer at once and by reasoning.

The organism `both` adds four numbers mod 10 in one pass or step by step. In a quarter of a minute on two cores this
patches every layer and position of both runs, exactly, and the heads at the cue; it writes `where.pdf`.
"""

from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import typer

import loadbearing as lb
from loadbearing.figures.style import DOUBLE_COLUMN, style


def main(
    pairs: int = 32,
    out: Annotated[Path, typer.Option(help="the figure, without its ending")] = Path("where"),
) -> None:
    """Print two tables, draw one figure."""
    model = lb.hooks.load("organism:both")
    assert model.task is not None
    chosen = model.task.pairs(pairs)
    maps = {"answer-only": lb.analyses.patch(model, chosen), "CoT": lb.analyses.patch(model, chosen, mode="cot")}
    heads: Any = lb.analyses.patch(model, chosen, "z", positions=["cue[-1]"])
    for name, found in (*maps.items(), ("heads at the cue, answer-only", heads)):
        print(f"\n{name}\n{found.table()}")
    with style():
        figure = plt.figure(figsize=(DOUBLE_COLUMN, 3.0), layout="constrained")
        grid = figure.add_gridspec(2, 3, height_ratios=[1.6, 1])
        whole = figure.add_subplot(grid[0, :])
        lb.figures.patch(maps, whole)
        lb.figures.patch_heads(heads, figure.add_subplot(grid[1, 0]))
        lb.figures.patch_depth(maps["answer-only"], figure.add_subplot(grid[1, 1:]), position="cue")
    for path in lb.figures.save(whole, out, formats=("pdf", "png")):
        print(path)


if __name__ == "__main__":
    typer.run(main)
