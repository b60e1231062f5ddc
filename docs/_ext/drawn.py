"""The page of the figures: its blocks of code run, and what each draws stands below it."""

import json
import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from sphinx.application import Sphinx

from loadbearing import figures

PAGE = "figures"
BLOCK = re.compile(r"```python\n(.*?)```\n", re.DOTALL)
EM = 7.5  # of the page, for an inch of paper


def draw(app: Sphinx, page: str, source: list[str]) -> None:
    """Run the blocks one after another, as a reader does in the root of a clone, and add the pictures."""
    if page != PAGE:
        return
    names: dict[str, Any] = {}

    def run(block: re.Match[str]) -> str:
        names.pop("ax", None)
        with chdir(app.srcdir.parent):
            exec(block[1], names)
        return block[0] + (picture(names["ax"], block[1], app.srcdir) if "ax" in names else "")

    source[0] = BLOCK.sub(run, source[0])
    plt.close("all")


def picture(ax: Any, code: str, pages: Path) -> str:
    """Save the figure under the name of the function that drew it; the lines that show it, with its words."""
    name = re.findall(r"figures\.(\w+)\(", code)[-1]
    figures.save(ax, pages / "_build" / PAGE / name, formats=("png",))
    width = round(EM * ax.figure.get_figwidth())
    words = json.dumps(figures.alt(ax))  # quoted, as YAML
    return f"\n```{{image}} _build/{PAGE}/{name}.png\n:width: {width}em\n:alt: {words}\n```\n"


def outdated(*_: object) -> list[str]:
    """Draw again at every build: the code of the figures is no file of the page."""
    return [PAGE]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", draw)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
