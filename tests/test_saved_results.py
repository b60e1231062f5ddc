"""The saved results that the page of the figures draws: all are read, none is missing, and the script makes them."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from loadbearing import figures, load

FOLDER = Path(__file__).parents[1] / "docs" / "results"
SAVED = sorted(FOLDER.glob("*.safetensors"))
OTHERS = {"claims.csv", "history.jsonl"}


@pytest.fixture(scope="module")
def script(root: Path) -> ModuleType:
    """The script that makes them."""
    spec = importlib.util.spec_from_file_location("saved_results", root / "docs" / "saved_results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_each_is_read(path: Path, script: ModuleType) -> None:
    result = load(path)
    assert result.arrays() and result.kind.startswith(script.RESULTS[path.stem][1])
    assert path.stat().st_size < 64_000


def test_there_are_those_of_the_script_and_they_are_small(script: ModuleType) -> None:
    there = {path.name for path in FOLDER.iterdir()}
    assert there == {f"{name}.safetensors" for name in script.RESULTS} | OTHERS
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000


def test_the_page_draws_every_figure_and_every_file(root: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (root / "docs" / "figures.md").read_text(), flags=re.DOTALL))
    drawing = {
        name for name in figures.__all__ if getattr(getattr(figures, name), "__annotations__", {}).get("return") is Axes
    }
    assert drawing >= {"channels", "claims", "patch_heads"}
    missing = drawing - set(re.findall(r"ax = figures\.(\w+)\(", code))
    assert not missing, f"save a result in docs/saved_results.py and draw it in docs/figures.md: {sorted(missing)}"
    unused = [path.name for path in FOLDER.iterdir() if path.name not in code]
    assert not unused, f"no figure of docs/figures.md draws {unused}"


@pytest.mark.parametrize("name", ["errors-large-direct", "ledger"])
def test_made_again_it_is_the_same(name: str, script: ModuleType) -> None:
    again, saved = script.measure(name), load(FOLDER / f"{name}.safetensors")
    assert again.coords == saved.coords and again.manifest.identity == saved.manifest.identity
    for array, values in again.arrays().items():
        np.testing.assert_allclose(values, saved.arrays()[array], atol=1e-4, err_msg=array)


def test_the_training_taught_the_steps() -> None:
    rows = pd.read_json(FOLDER / "history.jsonl", lines=True).set_index("step")
    assert rows["cot_accuracy"].iloc[0] < 0.2 and rows["cot_accuracy"].iloc[-1] > 0.9
    assert rows.index.tolist() == list(range(0, 25, 4))


def test_the_claims_are_those_of_the_debate(script: ModuleType) -> None:
    assert tuple(pd.read_csv(FOLDER / "claims.csv")["id"]) == script.CLAIMS
