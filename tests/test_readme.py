"""The examples of the README run."""

import re
from pathlib import Path

import pytest


def blocks(root: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), flags=re.DOTALL)


def test_every_python_example_runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = blocks(root)
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})


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
