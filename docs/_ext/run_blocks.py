"""The blocks of Python of every page run while the site is built; what each prints and draws stands below it."""

import json
import linecache
import os
import re
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

from loadbearing import figures
from loadbearing.figures.alt import told

# A block, and whether the page itself shows what it draws, for those who read it elsewhere.
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?=(?P<picture>\s*!\[)?)", re.DOTALL)
EM = 7.5  # of the page, for an inch of paper
shown: dict[str, list[str]] = {}  # what to add below each block of each page


def run_pages(app: Sphinx, _: BuildEnvironment, pages: list[str]) -> None:
    """Run the pages that are about to be read, side by side."""
    with_code = [page for page in pages if BLOCK.search(Path(app.env.doc2path(page)).read_text())]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as processes:
        shown.update(zip(with_code, processes.map(partial(run_page, app.srcdir), with_code), strict=True))


def run_page(pages: Path, page: str) -> list[str]:
    """Run the blocks of a page one after another, as a reader does in a clone; what to add below each."""
    names: dict[str, Any] = {}
    with TemporaryDirectory() as folder, chdir(folder):
        Path("docs").mkdir()
        Path("docs/results").symlink_to(pages / "results")  # what they write elsewhere is lost
        pd.set_option("display.width", 120)  # of a terminal that is not narrow
        found = []
        for n, block in enumerate(BLOCK.finditer((pages / f"{page}.md").read_text())):
            plt.close("all")  # of the block or page before
            found.append(run_block(block, names, pages / "_build" / "drawn", f"{page}-{n}"))
        return found


def run_block(block: re.Match[str], names: dict[str, Any], folder: Path, name: str) -> str:
    """Run one block; what it printed and drew, as lines of the page. A warning is an error."""
    code, printed = block["code"], StringIO()
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # nnsight reads what it runs
    try:
        with redirect_stdout(printed), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("error")
            # TRL calls transformers' old names for activation checkpointing.
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
            exec(compile(code, name, "exec"), names)
    except Exception as error:
        raise ExtensionError(f"block {name} of the pages does not run: {error!r}\n{code}") from error
    text = f"\n````{{code-block}} text\n:class: printed\n\n{printed.getvalue()}````\n" if printed.getvalue() else ""
    drawn = [] if block["picture"] else plt.get_fignums()
    return text + "".join(picture(plt.figure(number), folder / f"{name}-{number}") for number in drawn)


def picture(figure: Any, path: Path) -> str:
    """Save a figure; the lines that show it, with its words."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figures.save(figure.axes[0], path, formats=("png",))
    words = json.dumps(told(figure) or "What the lines above draw.")  # quoted, as YAML
    place = "/".join(path.parts[-3:])
    return f"\n```{{image}} {place}.png\n:width: {round(EM * figure.get_figwidth())}em\n:alt: {words}\n```\n"


def insert(_: Sphinx, page: str, source: list[str]) -> None:
    """Add what was found below the blocks of a page."""
    found = iter(shown.get(page, ()))
    source[0] = BLOCK.sub(lambda block: block[0] + next(found, ""), source[0])


def outdated(_app: Sphinx, env: BuildEnvironment, *_: object) -> list[str]:
    """Run all pages again at every build: the code that they call is no file of theirs."""
    return [page for page in env.all_docs if Path(env.doc2path(page)).suffix == ".md"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("env-get-outdated", outdated)
    app.connect("env-before-read-docs", run_pages)
    app.connect("source-read", insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
