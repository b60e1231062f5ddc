"""Errors, files that exist whole or not at all, and saved results."""

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from loadbearing.core import (
    GateError,
    InputError,
    LoadbearingError,
    Manifest,
    Result,
    UnknownNameError,
    atomic_write,
    check_name,
    load_result,
    new_folder,
)


class TestErrors:
    def test_every_error_of_ours_is_a_value_error_under_one_base(self) -> None:
        for kind in (InputError, UnknownNameError, GateError):
            assert issubclass(kind, LoadbearingError)
        assert issubclass(UnknownNameError, InputError)
        assert issubclass(LoadbearingError, ValueError)
        assert not issubclass(GateError, InputError)

    def test_a_known_name_comes_back(self) -> None:
        assert check_name("mode", "cot", iter(["answer-only", "cot"])) == "cot"

    def test_an_unknown_name_is_shown_with_all_choices_and_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError) as error:
            check_name("fruit", "aple", iter(["banana", "apple"]))
        assert str(error.value) == "unknown fruit 'aple': expected one of banana, apple; nearest: 'apple'"

    def test_a_name_that_resembles_nothing_still_gets_the_choices(self) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown fruit 'zzz': expected one of banana"):
            check_name("fruit", "zzz", ["banana"])

    def test_without_choices_there_is_no_nearest(self) -> None:
        with pytest.raises(UnknownNameError) as error:
            check_name("fruit", "apple", [])
        assert str(error.value) == "unknown fruit 'apple': expected one of (none)"


class TestAtomicWrite:
    def test_the_file_is_written_and_nothing_else_is_left(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "folder" / "result.txt"
        assert atomic_write(str(path), lambda p: p.write_text("whole")) == path
        assert path.read_text() == "whole"
        assert os.listdir(path.parent) == ["result.txt"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o644

    def test_the_writer_gets_another_path_with_the_same_ending_in_the_same_folder(self, tmp_path: Path) -> None:
        seen: list[Path] = []
        atomic_write(tmp_path / "figure.pdf", seen.append)
        assert seen[0].suffix == ".pdf" and seen[0].parent == tmp_path and seen[0].name != "figure.pdf"

    def test_an_old_file_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "result.txt"
        path.write_text("old")
        atomic_write(path, lambda p: p.write_text("new"))
        assert path.read_text() == "new"
        assert os.listdir(tmp_path) == ["result.txt"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_error_inside_leaves_the_old_file_and_no_other(self, tmp_path: Path, error: type[BaseException]) -> None:
        path = tmp_path / "result.txt"
        path.write_text("old")

        def half(temporary: Path) -> None:
            temporary.write_text("ha")
            raise error("stopped")

        with pytest.raises(error, match="stopped"):
            atomic_write(path, half)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["result.txt"]

    def test_an_error_inside_leaves_nothing_where_nothing_was(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            atomic_write(tmp_path / "result.txt", lambda p: 1 / 0)
        assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from loadbearing.core import new_folder
with new_folder(sys.argv[1]) as folder:
    (folder / "half").write_text("half")
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "other half").write_text("whole")
"""


class TestNewFolder:
    @pytest.mark.parametrize("existing", [False, True])
    def test_the_folder_appears_when_the_block_ends(self, tmp_path: Path, existing: bool) -> None:
        path = tmp_path / "organism"
        if existing:
            path.mkdir()  # an empty folder may be used
        with new_folder(str(path)) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / "file").write_text("whole")
            assert temporary != path and temporary.parent == tmp_path
            assert not existing or os.listdir(path) == []
        assert (path / "sub" / "file").read_text() == "whole"
        assert os.listdir(tmp_path) == ["organism"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o755

    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_what_is_there_is_never_touched(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "organism"
        old = path
        if kind == "folder":
            path.mkdir()
            old = path / "weights"
        old.write_text("old")
        with pytest.raises(InputError) as error, new_folder(path):
            pytest.fail("the block must not run")
        told = (str(path), "exists and is not an empty folder", "nothing was overwritten", "choose another folder")
        for part in told:
            assert part in str(error.value)
        assert old.read_text() == "old"
        assert os.listdir(tmp_path) == ["organism"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_error_inside_leaves_nothing(self, tmp_path: Path, error: type[BaseException]) -> None:
        with pytest.raises(error, match="stopped"), new_folder(tmp_path / "organism") as temporary:
            (temporary / "file").write_text("half")
            raise error("stopped")
        assert os.listdir(tmp_path) == []

    def test_a_killed_run_leaves_no_folder_and_does_not_block_the_next(self, tmp_path: Path) -> None:
        path = tmp_path / "organism"

        def run(how: str) -> int:
            return subprocess.run([sys.executable, "-c", KILLED, str(path), how], timeout=60).returncode

        assert run("kill") == -signal.SIGKILL
        assert not path.exists()
        assert run("finish") == 0
        assert sorted(os.listdir(path)) == ["half", "other half"]


@pytest.fixture
def small() -> Iterator[Any]:
    """A result class that no other test sees."""

    @dataclass(frozen=True, eq=False, repr=False)
    class Small(Result):
        kind: ClassVar[str] = "small"
        axes: ClassVar[dict[str, tuple[str, ...]]] = {"means": ("layer", "pair"), "counts": ("pair",)}

        means: np.ndarray[Any, Any]
        counts: np.ndarray[Any, Any]

    yield Small
    del Result.kinds["small"]


def make(kind: Any, **changes: Any) -> Any:
    parts: dict[str, Any] = {
        "coords": {"layer": (0, 1), "pair": ("a", "b", "c")},
        "manifest": Manifest({"model": "tiny", "dtype": "float32"}, {"seed": 3, "left out": {"unparsable": 2}}),
        "means": np.array([[1.5, float("nan"), -0.0], [1e-30, 2.0, 3.0]]),
        "counts": np.array([1, 2, 3]),
    }
    return kind(**{**parts, **changes})


class TestResult:
    def test_what_is_saved_is_what_is_loaded(self, small: Any, tmp_path: Path) -> None:
        made = make(small)
        path = made.save(tmp_path / "deep" / "result.safetensors")
        found = load_result(str(path))
        assert type(found) is small
        assert found.coords == made.coords
        assert found.manifest == made.manifest
        for name, array in made.arrays().items():
            other = found.arrays()[name]
            assert other.dtype == array.dtype
            assert other.tobytes() == array.tobytes()

    def test_the_same_result_gives_the_same_bytes(self, small: Any, tmp_path: Path) -> None:
        one = make(small).save(tmp_path / "1.safetensors").read_bytes()
        again = make(
            small,
            coords={"pair": ("a", "b", "c"), "layer": (0, 1)},  # in another order
            manifest=Manifest({"dtype": "float32", "model": "tiny"}, {"left out": {"unparsable": 2}, "seed": 3}),
        )
        other = make(small, counts=np.array([1, 2, 4])).save(tmp_path / "3.safetensors").read_bytes()
        assert again.save(tmp_path / "2.safetensors").read_bytes() == one
        assert load_result(tmp_path / "1.safetensors").save(tmp_path / "4.safetensors").read_bytes() == one
        assert other != one

    def test_the_file_is_one_metadata_key_of_sorted_json(self, small: Any, tmp_path: Path) -> None:
        path = make(small).save(tmp_path / "result.safetensors")
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
        assert list(metadata) == ["loadbearing"]
        header = json.loads(metadata["loadbearing"])
        assert json.dumps(header, sort_keys=True) == metadata["loadbearing"]
        assert header["kind"] == "small" and header["schema"] == 1
        assert header["axes"] == {"means": ["layer", "pair"], "counts": ["pair"]}

    def test_an_array_in_another_memory_order_is_saved_by_its_values(self, small: Any, tmp_path: Path) -> None:
        means = np.asfortranarray(np.arange(6.0).reshape(2, 3))
        found: Any = load_result(make(small, means=means).save(tmp_path / "result.safetensors"))
        assert np.array_equal(found.means, means)

    @pytest.mark.parametrize("loaded", [False, True])
    def test_a_result_cannot_be_changed(self, small: Any, tmp_path: Path, loaded: bool) -> None:
        made = make(small)
        found: Any = load_result(made.save(tmp_path / "result.safetensors")) if loaded else made
        with pytest.raises(ValueError, match="read-only"):
            found.means[0, 0] = 9.0
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.means = np.zeros((2, 3))

    def test_an_array_that_the_caller_kept_does_not_reach_into_a_result(self, small: Any) -> None:
        kept = np.zeros((2, 3))
        made = make(small, means=kept[:])
        kept[0, 0] = 9.0
        assert made.means[0, 0] == 0.0

    @pytest.mark.parametrize(
        ("changes", "parts"),
        [
            ({"counts": np.arange(4)}, ("small", "array 'counts' has 4 entries along 'pair'", "others have 3")),
            ({"means": np.zeros((5, 3))}, ("array 'means' has 5 entries along 'layer'", "others have 2")),
            ({"coords": {"pair": ("a",)}}, ("array 'means' has 3 entries along 'pair'", "others have 1")),
            ({"coords": {}, "counts": np.arange(2)}, ("array 'counts' has 2 entries along 'pair'", "others have 3")),
        ],
    )
    def test_arrays_and_labels_must_agree_along_every_axis(
        self, small: Any, changes: dict[str, Any], parts: tuple[str, ...]
    ) -> None:
        with pytest.raises(InputError) as error:
            make(small, **changes)
        for part in parts:
            assert part in str(error.value)

    def test_an_axis_without_labels_is_fine_where_the_arrays_agree(self, small: Any) -> None:
        assert make(small, coords={"layer": (4, 5)}).means.shape == (2, 3)

    def test_an_array_with_another_number_of_axes_is_an_error(self, small: Any) -> None:
        with pytest.raises(InputError, match="small: array 'means' has 1 axes, expected layer, pair"):
            make(small, means=np.zeros(2))

    def test_it_prints_what_it_holds(self, small: Any) -> None:
        text = repr(make(small))
        assert text == "<Small tiny: means [layer 2, pair 3], counts [pair 3]>"

    def test_a_kind_without_a_table_says_so(self, small: Any) -> None:
        with pytest.raises(InputError, match="a small has no table of its own"):
            make(small).frame()


def write(path: Path, header: Any, **arrays: np.ndarray[Any, Any]) -> Path:
    metadata = {"loadbearing": header if isinstance(header, str) else json.dumps(header)}
    save_file(arrays or {"means": np.zeros((2, 3)), "counts": np.zeros(3)}, path, metadata)
    return path


class TestLoadResult:
    HEADER: ClassVar[dict[str, Any]] = {
        "kind": "small",
        "schema": 1,
        "axes": {},
        "coords": {},
        "identity": {},
        "circumstance": {},
    }

    def test_a_file_made_by_hand_loads(self, small: Any, tmp_path: Path) -> None:
        found = load_result(write(tmp_path / "x.safetensors", self.HEADER))
        assert type(found) is small

    def test_a_missing_file(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.safetensors", tmp_path):
            with pytest.raises(InputError) as error:
                load_result(path)
            assert str(error.value) == f"no result at {path}: expected a .safetensors file that Result.save wrote"

    @pytest.mark.parametrize("content", [b"", b"not a safetensors file", b"\x08\x00\x00\x00\x00\x00\x00\x00{}{}{}{}"])
    def test_a_file_of_another_kind(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            load_result(path)
        assert str(error.value).startswith(f"{path} is no result of loadbearing: ")

    @pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"loadbearing": "{half"}])
    def test_a_safetensors_file_of_others(self, tmp_path: Path, metadata: dict[str, str] | None) -> None:
        path = tmp_path / "weights.safetensors"
        save_file({"weight": np.zeros(2)}, path, metadata)
        with pytest.raises(InputError) as error:
            load_result(path)
        assert str(error.value).startswith(f"{path} is no result of loadbearing: ")

    def test_a_newer_schema(self, small: Any, tmp_path: Path) -> None:
        path = write(tmp_path / "x.safetensors", {**self.HEADER, "schema": 2})
        with pytest.raises(InputError) as error:
            load_result(path)
        assert str(error.value) == f"{path} has schema 2; this version reads up to 1: update loadbearing"

    def test_an_unknown_kind_names_the_nearest(self, small: Any, tmp_path: Path) -> None:
        path = write(tmp_path / "x.safetensors", {**self.HEADER, "kind": "smal"})
        with pytest.raises(UnknownNameError) as error:
            load_result(path)
        for part in ("unknown kind of result 'smal'", "expected one of", "nearest: 'small'"):
            assert part in str(error.value)

    def test_missing_arrays_are_named(self, small: Any, tmp_path: Path) -> None:
        path = write(tmp_path / "x.safetensors", self.HEADER, counts=np.zeros(3))
        with pytest.raises(InputError) as error:
            load_result(path)
        assert str(error.value) == f"{path}: arrays ['means'] are missing"

    @pytest.mark.parametrize("header", [[], {"schema": 1}, {"kind": "small"}])
    def test_a_header_that_is_no_header_of_ours(self, small: Any, tmp_path: Path, header: Any) -> None:
        path = write(tmp_path / "x.safetensors", header)
        with pytest.raises(InputError, match="is no result of loadbearing"):
            load_result(path)
