"""The rooms at the top, imported as `loadbearing.*`: the lists agree, the wheel is whole, imports are lean."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import loadbearing

NOT_ROOMS = {"tests", "docs", "examples", "benchmarks", "build", "dist", "results", "study"}
HEAVY = ("transformers", "transformer_lens", "nnsight", "matplotlib")


@pytest.fixture(scope="session")
def project(root: Path) -> Any:
    return tomllib.loads((root / "pyproject.toml").read_text())


def python(code: str, cwd: str | Path = "/") -> Any:
    """What a fresh interpreter prints as JSON."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestLists:
    """A new room is an edit in each of these."""

    def test_the_folders_at_the_top(self, root: Path, rooms: tuple[str, ...]) -> None:
        found = {path.parent.name for path in root.glob("*/__init__.py")}
        assert found - NOT_ROOMS == set(rooms)
        assert not any((root / name / "__init__.py").exists() for name in NOT_ROOMS)

    def test_the_links(self, root: Path, rooms: tuple[str, ...]) -> None:
        links = {path.name: path for path in (root / ".namespace" / "loadbearing").iterdir() if path.is_symlink()}
        assert set(links) == set(rooms)
        for name, link in links.items():
            assert os.readlink(link) == f"../../{name}"
            assert link.resolve() == root / name

    def test_wheel_and_sdist(self, project: Any, rooms: tuple[str, ...]) -> None:
        targets = project["tool"]["hatch"]["build"]["targets"]
        own = [".namespace/loadbearing/__init__.py", ".namespace/loadbearing/py.typed"]
        assert targets["wheel"]["only-include"] == [*own, *rooms]
        assert targets["sdist"]["only-include"] == [*own, *rooms, "tests"]
        expected = {".namespace/loadbearing": "loadbearing"} | {room: f"loadbearing/{room}" for room in rooms}
        assert targets["wheel"]["sources"] == expected
        assert project["tool"]["hatch"]["build"]["dev-mode-dirs"] == [".namespace"]

    def test_the_layers_of_the_import_contract(self, project: Any, rooms: tuple[str, ...]) -> None:
        (layers,) = (c["layers"] for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
        named = [room.strip() for layer in layers for room in layer.split("|")]
        assert sorted(named) == [f"loadbearing.{room}" for room in rooms]

    def test_what_the_package_offers(self, rooms: tuple[str, ...]) -> None:
        assert loadbearing.__all__ == sorted([*rooms, "__version__", "load"])
        assert dir(loadbearing) == loadbearing.__all__
        for room in rooms:
            assert getattr(loadbearing, room).__name__ == f"loadbearing.{room}"
        assert loadbearing.__version__ == metadata.version("loadbearing")
        assert loadbearing.load is loadbearing.analyses.load

    def test_what_the_type_checker_sees(self, root: Path, rooms: tuple[str, ...]) -> None:
        text = (root / ".namespace" / "loadbearing" / "__init__.py").read_text()
        (line,) = (line.strip() for line in text.splitlines() if line.strip().startswith("from . import "))
        assert line.removeprefix("from . import ").split(", ") == list(rooms)

    def test_an_unknown_room(self) -> None:
        with pytest.raises(AttributeError) as error:
            getattr(loadbearing, "hoks")  # noqa: B009 - mypy knows that it is not there
        for part in ("module 'loadbearing' has no attribute 'hoks'", "it has ", "hooks", "probes"):
            assert part in str(error.value)


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """The names in the wheel and in the sdist; the wheel is built from the sdist, as a package index would get it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(root)]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as tar:
        return archive.namelist(), [name.partition("/")[2] for name in tar.getnames()]


def sources(root: Path, room: str) -> set[str]:
    """What a room is made of: code, and data without what Python leaves behind."""
    files = (path for path in (root / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(root)) for path in files if not path.name.startswith(".")}


class TestBuilt:
    def test_the_wheel_holds_the_package_and_nothing_else(self, built: Any) -> None:
        wheel, _ = built
        tops = {name.partition("/")[0] for name in wheel}
        assert tops == {"loadbearing", f"loadbearing-{loadbearing.__version__}.dist-info"}
        assert not [name for name in wheel if "test" in name or "__pycache__" in name or "namespace" in name]

    def test_the_wheel_holds_every_file_of_every_room(self, built: Any, root: Path, rooms: tuple[str, ...]) -> None:
        wheel, _ = built
        held = {name.removeprefix("loadbearing/") for name in wheel if name.startswith("loadbearing/")}
        expected = {"__init__.py", "py.typed"} | set().union(*(sources(root, room) for room in rooms))
        assert held == expected

    def test_the_wheel_holds_the_shipped_organisms(self, built: Any) -> None:
        from loadbearing.hooks import organism_names

        wheel, _ = built
        assert len(organism_names()) >= 5
        for name in organism_names():
            for file in ("card.json", "config.json", "model.safetensors", "tokenizer.json"):
                assert f"loadbearing/organisms/shipped/{name}/{file}" in wheel

    def test_license_and_command(self, built: Any) -> None:
        wheel, sdist = built
        assert [name for name in wheel if name.endswith("/licenses/LICENSE")]
        assert [name for name in wheel if name.endswith(".dist-info/entry_points.txt")]
        assert {"LICENSE", "README.md", "pyproject.toml"} <= set(sdist)

    def test_the_sdist_holds_the_tests_and_every_room(self, built: Any, root: Path, rooms: tuple[str, ...]) -> None:
        _, sdist = built
        for room in (*rooms, "tests"):
            assert sources(root, room) <= set(sdist)
        assert {".namespace/loadbearing/__init__.py", ".namespace/loadbearing/py.typed"} <= set(sdist)

    def test_together_the_shipped_organisms_are_small(self, root: Path) -> None:
        size = sum(path.stat().st_size for path in (root / "organisms" / "shipped").rglob("*") if path.is_file())
        assert 0 < size <= 25e6


LOADED = "import json, sys; {}; print(json.dumps(sorted(m for m in {!r} if m in sys.modules)))"


class TestImports:
    @pytest.mark.parametrize(
        ("statement", "watched", "expected"),
        [
            ("import loadbearing", ["torch", "numpy", "sklearn", *HEAVY], []),
            ("from loadbearing.probes import RidgeProbe", ["sklearn", *HEAVY], ["sklearn"]),
            ("import loadbearing.core, loadbearing.tasks", ["torch", "sklearn", *HEAVY], []),
            ("import loadbearing.hooks", ["torch", *HEAVY], ["torch"]),
            ("import loadbearing.figures", ["transformers", "transformer_lens", "nnsight"], []),
        ],
    )
    def test_a_room_loads_no_more_than_it_needs(self, statement: str, watched: list[str], expected: list[str]) -> None:
        assert python(LOADED.format(statement, watched)) == expected

    def test_nothing_lands_in_anyones_site_packages(self, rooms: tuple[str, ...]) -> None:
        code = (
            "import importlib.util as u, json; find = lambda n: u.find_spec(n) is not None;"
            f"bare = [n for n in {[*rooms, 'tests']!r} if find(n)];"
            f"ours = [n for n in {list(rooms)!r} if find('loadbearing.' + n)];"
            "print(json.dumps([bare, ours]))"
        )
        assert python(code) == [[], list(rooms)]

    def test_an_editable_install_is_live(self, root: Path) -> None:
        where = python("import json, loadbearing.core as h; print(json.dumps(h.__file__))")
        assert Path(where).resolve() == root / "core" / "__init__.py"


def lint(cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(cwd / ".namespace")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


class TestContracts:
    def test_imports_point_one_way(self, root: Path) -> None:
        done = lint(root)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Contracts: 2 kept, 0 broken." in done.stdout

    def test_a_planted_violation_is_found(self, root: Path, rooms: tuple[str, ...], tmp_path: Path) -> None:
        package = tmp_path / ".namespace" / "loadbearing"
        ignored = shutil.ignore_patterns("shipped", "__pycache__")
        for room in rooms:
            shutil.copytree(root / room, package / room, ignore=ignored)
        shutil.copy(root / ".namespace" / "loadbearing" / "__init__.py", package)
        shutil.copy(root / "pyproject.toml", tmp_path)
        assert lint(tmp_path).returncode == 0
        (package / "tasks" / "planted.py").write_text("from ..hooks import load\n")
        (package / "probes" / "planted.py").write_text("from ..core import InputError\n")
        done = lint(tmp_path)
        assert done.returncode != 0
        for part in ("loadbearing.tasks.planted", "loadbearing.probes.planted", "0 kept, 2 broken"):
            assert part in done.stdout
