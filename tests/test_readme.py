"""The README is true: its examples run (those of the pages in docs run where the site is built, test_docs.py)."""

import importlib.util
import re
from pathlib import Path

import pytest


def test_every_python_example_runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), flags=re.DOTALL)
    assert examples
    names: dict[str, object] = {}  # later blocks go on from earlier ones
    for example in examples:
        exec(example, names)


def test_every_file_that_it_shows_is_there(root: Path) -> None:
    text = (root / "README.md").read_text()
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    assert linked
    for path in linked:
        assert (root / path).exists(), path


def test_commands_are_targets_of_the_makefile(root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), flags=re.MULTILINE))
    commands = re.findall(r"^make ([a-z]+)", (root / "README.md").read_text(), flags=re.MULTILINE)
    assert {"study", "test"} <= set(commands) <= targets


@pytest.mark.parametrize("name", ["where", "decodable_or_used"])
def test_examples_run(name: str, root: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"example_{name}", root / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(pairs=4, out=tmp_path / name)
    assert {path.suffix for path in tmp_path.iterdir()} == {".pdf", ".png"}
