"""The examples of the README and of the pages in docs run."""

import importlib.util
import re
from pathlib import Path

import pytest

PAGES = (
    "README.md",
    "docs/channels.md",
    "docs/cluster.md",
    "docs/coming-from.md",
    "docs/command-line.md",
    "docs/concepts.md",
    "docs/cost.md",
    "docs/debate.md",
    "docs/direct.md",
    "docs/figures.md",
    "docs/limits.md",
    "docs/own-figure.md",
    "docs/patching.md",
    "docs/probes.md",
    "docs/reading.md",
    "docs/start.md",
    "docs/store.md",
    "docs/study.md",
    "docs/training.md",
    "docs/your-model.md",
    "docs/your-problems.md",
)
# What the first three run is tested in test_grokking.py, test_laws.py and test_report.py, the others run nothing
# (test_docs.py).
WITHOUT_EXAMPLES = ("docs/grokking.md", "docs/laws.md", "docs/report.md", "docs/architecture.md", "docs/index.md")


def examples_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


# TRL calls transformers' old names for activation checkpointing.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("page", PAGES)
def test_every_python_example_runs(page: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results").symlink_to(root / "docs" / "results")  # read as in a clone, written elsewhere
    examples = examples_of(root / page)
    assert examples
    names: dict[str, object] = {}  # later blocks of a page go on from earlier ones
    for number, example in enumerate(examples):
        file = tmp_path / f"example_{number}.py"  # nnsight reads the source of the block that it runs
        file.write_text(example)
        exec(compile(example, str(file), "exec"), names)
        file.unlink()


def test_every_page_is_tested(root: Path) -> None:
    assert {f"docs/{path.name}" for path in (root / "docs").glob("*.md")} | {"README.md"} == {*PAGES, *WITHOUT_EXAMPLES}


def test_pages_without_examples_have_none(root: Path) -> None:
    assert not any(examples_of(root / page) for page in WITHOUT_EXAMPLES)


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
