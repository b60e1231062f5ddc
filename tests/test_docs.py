"""The site: it builds without a warning or a network, and says what the code says: names, commands, imports."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import pytest
import yaml
from sphinx.errors import ExtensionError
from sphinx.util.inventory import InventoryFile

import loadbearing

NO_NETWORK = """\
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("the site asked for the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it, in a process in which nothing can be reached."""
    out = tmp_path_factory.mktemp("site")
    options = ["--fail-on-warning", "--keep-going", "--quiet"]
    command = [sys.executable, "-c", NO_NETWORK, *options, str(root / "docs"), str(out)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def documented(site: Path) -> set[str]:
    """Every Python name that the site describes."""
    found = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    return {name for kind, names in found.data.items() if kind.startswith("py:") for name in names}


def test_every_public_name_is_in_the_reference(documented: set[str], rooms: tuple[str, ...]) -> None:
    offered = {room: getattr(importlib.import_module(f"loadbearing.{room}"), "__all__", None) for room in rooms}
    assert [room for room, names in offered.items() if not names] == ["cli"]  # its names are commands
    public = {f"loadbearing.{room}.{name}" for room, names in offered.items() for name in names or ()}
    missing = sorted(public - documented)
    assert not missing, "add docstrings, or for constants a py:data in docs/reference/ROOM.md: " + ", ".join(missing)


def test_public_methods_are_in_the_reference(documented: set[str]) -> None:
    for name in ("analyses.Channels.frame", "hooks.Store.fill", "probes.base.ProbeClassifier.fit", "core.Result.save"):
        assert f"loadbearing.{name}" in documented


def test_every_command_is_in_the_reference(site: Path) -> None:
    from typer.main import get_command

    from loadbearing.cli.app import app

    page = (site / "reference" / "command-line.html").read_text()
    shown = set(re.findall(r'<section id="loadbearing-([a-z-]+)">', page))
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) <= shown


def test_shapes_are_shown(site: Path) -> None:
    page = unescape(re.sub(r"<[^>]+>", "", (site / "reference" / "hooks.html").read_text()))
    assert "Float[Tensor, 'rows d_model']" in page


def test_arguments_are_lists_of_definitions(site: Path) -> None:
    page = (site / "reference" / "hooks.html").read_text()
    patch = page[page.index('id="loadbearing.hooks.KnockOut"') :]
    assert re.search(r"<dt><code[^>]*><span[^>]*>queries,</span> <span[^>]*>keys</span></code></dt>\s*<dd>", patch)


def test_every_page_is_reached_from_the_first(site: Path, root: Path) -> None:
    first = (site / "index.html").read_text()
    for page in (root / "docs").rglob("*.md"):
        if "_build" not in page.parts and page.stem != "index":
            assert f'href="{page.relative_to(root / "docs").with_suffix(".html")}' in first, page


def test_every_figure_is_drawn_and_said_in_words(site: Path, root: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs" / "figures.md").read_text(), flags=re.DOTALL)
    drawing = [number for number, block in enumerate(blocks) if "ax = figures." in block]
    shown = re.findall(r'<img alt="[^"]{40,}" src="_images/figures-(\d+)-1\.png"', (site / "figures.html").read_text())
    assert len(drawing) > 20 and list(map(int, shown)) == drawing


def imported(root: Path, rooms: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Which room imports which, read from the text of its modules."""
    for room in rooms:
        for path in (root / room).rglob("*.py"):
            depth = len(path.relative_to(root).parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom):
                    parts = (node.module or "").split(".")
                    if node.level == depth:
                        yield from ((room, part) for part in ([parts[0]] if parts[0] else [n.name for n in node.names]))
                    elif not node.level and parts[0] == "loadbearing":
                        yield from ((room, part) for part in (parts[1:2] or [n.name for n in node.names]))
                elif isinstance(node, ast.Import):
                    yield from ((room, n.name.split(".")[1]) for n in node.names if n.name.startswith("loadbearing."))


@pytest.fixture(scope="module")
def arrows(root: Path, rooms: tuple[str, ...]) -> set[tuple[str, str]]:
    found = {(room, other) for room, other in imported(root, rooms) if other in rooms and other != room}
    assert ("analyses", "probes") in found and not any(room in {"core", "probes"} for room, _ in found)
    return found


def test_the_picture_of_the_rooms_is_that_of_the_imports(root: Path, arrows: set[tuple[str, str]]) -> None:
    drawn = set(re.findall(r'id="import-(\w+)-(\w+)"', (root / "docs" / "rooms.svg").read_text()))
    assert drawn == arrows, "draw it again: python docs/pictures.py"


def test_the_table_of_the_rooms_is_that_of_the_imports(
    root: Path, arrows: set[tuple[str, str]], rooms: tuple[str, ...]
) -> None:
    page = (root / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\w ,]+) \|$", page, flags=re.MULTILINE)
    assert {room for room, _ in rows} == set(rooms)
    written = {(room, other) for room, others in rows if others != "nothing of ours" for other in others.split(", ")}
    assert written == arrows


def test_the_citation(root: Path) -> None:
    """What the Citation File Format 1.2.0 requires, and what must agree with the rest."""
    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    expected = ("loadbearing", project["version"], project["license"])
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert (cited["title"], str(cited["version"]), cited["license"]) == expected
    assert [author["name"] for author in cited["authors"]] == ["The loadbearing authors"]
    assert "The loadbearing authors" in (root / "LICENSE").read_text()


def test_the_changelog_names_this_version_and_every_room(root: Path, rooms: tuple[str, ...]) -> None:
    text = (root / "CHANGELOG.md").read_text()
    assert loadbearing.__version__ in text and re.search(r"^## \[Unreleased\]$", text, flags=re.MULTILINE)
    for room in set(rooms) - {"core"}:
        assert f"**{room}**" in text


def test_the_commands_of_contributing_are_targets(root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), flags=re.MULTILINE))
    block = re.findall(r"```sh\n(.*?)```", (root / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)[0]
    commands = [line.partition("#")[0].split() for line in block.strip().splitlines()]
    assert len(commands) == 3
    for make, *names in commands:
        assert make == "make" and names and set(names) <= targets


def test_files_that_contributing_links_are_there(root: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (root / "CONTRIBUTING.md").read_text())
    assert links and all((root / link).exists() for link in links)


def test_what_the_blocks_of_a_page_print_stands_below_them(site: Path, root: Path) -> None:
    pages = {path.stem: path.read_text() for path in (root / "docs").glob("*.md")}
    printing = {name for name, text in pages.items() if re.search(r"```python\n[^`]*print\(", text)}
    shown = {path.stem for path in site.glob("*.html") if 'class="printed' in path.read_text()}
    assert len(printing) > 10 and shown == printing
    start = unescape(re.sub("<[^>]+>", "", (site / "start.html").read_text()))
    assert re.search(r"serial share 1\.00 \[0\.\d\d, 1\.00\]\n", start)


class TestBlocks:
    """What the site shows of a page, from the extension that runs it."""

    @pytest.fixture
    def shown(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
        monkeypatch.syspath_prepend(root / "docs" / "_ext")
        extension = importlib.import_module("run_blocks")

        def run(page: str) -> list[str]:
            (tmp_path / "page.md").write_text(page)
            return list(extension.run_page(tmp_path, "page"))

        return run

    def test_later_blocks_go_on_from_earlier_ones(self, shown: Callable[[str], list[str]]) -> None:
        first, second = shown("```python\nx = 3\n```\nText.\n\n```python\nprint(x + 1)\n```\n")
        assert first == "" and re.findall(r"\n\n(.*)\n````", second) == ["4"]

    def test_a_figure_stands_there_unless_the_page_shows_one(self, shown: Callable[[str], list[str]]) -> None:
        block = "```python\nimport matplotlib.pyplot as plt\nplt.subplots()\n```\n"
        drawn, own = shown(f"{block}\nText.\n\n{block}\n![Mine](mine.png)\n")
        assert "_build/drawn/page-0-1.png" in drawn and own == ""

    @pytest.mark.parametrize("line", ["1 / 0", "import warnings; warnings.warn('old')"])
    def test_an_error_or_a_warning_ends_the_build(self, line: str, shown: Callable[[str], list[str]]) -> None:
        with pytest.raises(ExtensionError, match=r"block page-1 of the pages does not run") as failed:
            shown(f"```python\nx = 3\n```\n\n```python\n{line}\n```\n")
        assert line in str(failed.value)
