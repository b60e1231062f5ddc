"""Where does a model that answers in one pass hold its answer, and in what shape?

The organism `direct` adds four numbers mod 10 without a word in between. In half a minute on two cores this prints
where its answer becomes readable, in bits, layer by layer, and whether a probe that never saw some of the ten values
still
finds them: a look-up table would not let it, a circle does. It writes `direct_answer.pdf`.
"""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import typer

import loadbearing as lb
from loadbearing.figures.style import DOUBLE_COLUMN, style


def main(
    problems: int = 600,
    out: Annotated[Path, typer.Option(help="the figure, without its ending")] = Path("direct_answer"),
) -> None:
    """Probe `direct`, print two tables, draw one figure."""
    model = lb.hooks.load("organism:direct")
    assert model.task is not None
    asked = model.task.problems(problems)
    bits = lb.analyses.decodability(model, asked, text=False, progress=True)
    print(f"Bits about the answer, by layer and position, of {bits.null[-1].mean():.2f} that there are to know")
    print(bits.layers().round(2).to_string())
    print("\nAt the layer that each training fold chose, and what the controls read there")
    print(bits.curve().drop(columns="text-only").round(2).to_string(index=False))
    shape = lb.analyses.circularity(model, asked, progress=True)
    for place in shape.coords["place"]:
        print(f"\nR^2 on values that the probe was not fitted to, {place}")
        print(shape.r2(place=place).round(2).to_string(index=False))
    with style():
        _, axes = plt.subplots(1, 2, figsize=(DOUBLE_COLUMN, 1.7), layout="constrained", width_ratios=[1, 3])
        lb.figures.decodability_map(bits, axes[0])
        lb.figures.circularity(shape, axes[1])
    for path in lb.figures.save(axes[0], out, formats=("pdf", "png")):
        print(f"wrote {path}")


if __name__ == "__main__":
    typer.run(main)
