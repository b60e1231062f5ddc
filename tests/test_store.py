"""Stores that are really killed, truncated, flipped, filled up and written by several processes at once."""

import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from loadbearing.core import InputError, UnknownNameError
from loadbearing.hooks import Store, generate, load, record, replay, replay_gold
from loadbearing.hooks.store_files import PARTS, ClaimedError, Receipt, canonical
from loadbearing.tasks import ModularSum, Piece, Problem, Questions

N, SIZE = 90, 5
SHARDS = N // SIZE
PLACES: dict[str, Any] = {
    "sites": ["resid_post", "mlp_out"],
    "positions": ["operand.2", "step.*[-1]", "cue[-1]"],
    "layers": [0, 2],
    "shard_size": SIZE,
    "batch_size": 4,
}
# What another process does with a store: it makes it, waits for a line, and fills it.
FILL = """
import json, sys
from loadbearing.hooks import Store, load
model = load("organism:sft")
store = Store.create(sys.argv[1], model, model.task.problems(int(sys.argv[2])), **json.loads(sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
store.fill(progress=False)
"""


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all that is in the folder of shards."""
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def whole(number: int) -> set[str]:
    """The names of the files of a shard."""
    return {f"{number:05d}{end}" for end in (*PARTS.values(), ".json")}


@contextmanager
def filling(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has made the store in `folder` and waits for a line to fill it."""
    command = [sys.executable, "-c", FILL, str(folder), str(N), json.dumps(PLACES)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder.parent
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def begun(folder: Path, process: subprocess.Popen[str], first: int) -> int:
    """Wait until the process is at a shard from `first` on, stop it there, and return the shard."""
    for number in range(first, SHARDS):
        lock, receipt = (folder / "shards" / f"{number:05d}.{end}" for end in ("lock", "json"))
        while process.poll() is None and not lock.exists() and not receipt.exists():
            pass
        os.kill(process.pid, signal.SIGSTOP)
        if lock.exists() and lock.read_text() and not receipt.exists():
            return number
        os.kill(process.pid, signal.SIGCONT)
    raise AssertionError("the process was never seen inside a shard")


@pytest.fixture(scope="module")
def model(organism: Callable[[str], Any]) -> Any:
    return organism("sft")


@pytest.fixture(scope="module")
def problems(model: Any) -> list[Problem]:
    found: list[Problem] = model.task.problems(N)
    return found


@pytest.fixture(scope="module")
def unbroken(model: Any, problems: list[Problem], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that one process wrote at one go."""
    store = Store.create(tmp_path_factory.mktemp("unbroken"), model, problems, **PLACES)
    assert store.fill(progress=False) == list(range(SHARDS))
    return store


@pytest.fixture
def small(model: Any, problems: list[Problem], unbroken: Store, tmp_path: Path) -> Store:
    """A copy of it that may be spoiled."""
    shutil.copytree(unbroken.folder, tmp_path / "store")
    return Store.create(tmp_path / "store", model, problems, **PLACES)


class TestContents:
    def test_one_shard_holds_exactly_what_record_gives(
        self, model: Any, problems: list[Problem], tmp_path: Path
    ) -> None:
        store = Store.create(tmp_path, model, problems, **{**PLACES, "shard_size": N})
        store.fill(progress=False)
        runs = generate(model, problems, batch_size=4)
        acts = record(model, runs, PLACES["sites"], PLACES["positions"], layers=[0, 2], batch_size=4)
        found = Store.open(tmp_path)
        for site in PLACES["sites"]:
            for layer in (0, 2):
                for position in (None, "operand.2", "step.*[-1]", "step.2[-1]", "cue[-1]"):
                    expected, rows = acts.select(site, layer, position)
                    features, told = found.select(site, layer, position)
                    assert torch.equal(features, expected) and features.dtype == expected.dtype
                    pd.testing.assert_frame_equal(told, rows)
        shard = found.shard(0)
        assert all(torch.equal(shard.values[site], acts.values[site]) for site in PLACES["sites"])
        assert shard.layers == acts.layers and shard.unmatched == acts.unmatched
        pd.testing.assert_frame_equal(found.rows, acts.rows)

    def test_many_shards_hold_the_same(self, model: Any, problems: list[Problem], unbroken: Store) -> None:
        acts = record(model, generate(model, problems), PLACES["sites"], PLACES["positions"], layers=[0, 2])
        pd.testing.assert_frame_equal(unbroken.rows, acts.rows)
        assert len(unbroken) == len(acts.rows) and unbroken.unmatched == acts.unmatched
        features, rows = unbroken.select("blocks.2.hook_mlp_out", position="step.*[-1]")
        expected, told = acts.select("mlp_out", 2, "step.*[-1]")
        assert torch.allclose(features, expected, atol=1e-4)
        pd.testing.assert_frame_equal(rows, told)

    @pytest.mark.parametrize("size", [None, 1, 3, 1000])
    def test_batches_are_the_selection_in_pieces(self, unbroken: Store, size: int | None) -> None:
        found = list(Store.open(unbroken.folder).batches("resid_post", 2, "step.*[-1]", size=size))
        features, rows = unbroken.select("resid_post", 2, "step.*[-1]")
        assert torch.equal(torch.cat([batch for batch, _ in found]), features)
        pd.testing.assert_frame_equal(pd.concat([told for _, told in found], ignore_index=True), rows)
        assert all(len(batch) == len(told) <= (size or len(rows)) for batch, told in found)
        assert len(found) >= SHARDS

    def test_runs_come_back(self, model: Any, problems: list[Problem], unbroken: Store) -> None:
        runs = generate(model, problems)
        for store in (unbroken, Store.open(unbroken.folder)):
            back = store.runs(model)
            assert back.mode == "cot" and len(back) == N
            for run, told in zip(runs, back, strict=True):
                for name in ("ids", "spans", "values", "answer", "end", "finished", "sample", "mode"):
                    assert getattr(told, name) == getattr(run, name), name
                assert told.problem == run.problem and told.problem.task.spec == model.task.spec
                assert list(told.problem.values) == list(run.problem.values)
        pd.testing.assert_frame_equal(back.frame(), runs.frame())
        rows = unbroken.rows
        assert [back[run].problem.key for run in rows["run"]] == rows["problem"].tolist()
        part = unbroken.runs(model, shards=[3])
        assert [run.problem.key for run in part] == [p.key for p in problems[3 * SIZE : 4 * SIZE]]
        first = unbroken.shard(3).rows
        assert [part[run].problem.key for run in first["run"]] == first["problem"].tolist()

    def test_analyses_go_on_from_stored_runs(self, model: Any, unbroken: Store) -> None:
        runs = unbroken.runs(model, shards=[2])
        acts = record(model, runs, PLACES["sites"], PLACES["positions"], layers=[0, 2], batch_size=4)
        stored = unbroken.shard(2)
        assert all(torch.equal(acts.values[site], stored.values[site]) for site in PLACES["sites"])

    def test_runs_that_went_wrong_come_back_too(self, model: Any, problems: list[Problem], tmp_path: Path) -> None:
        store = Store.create(tmp_path, model, problems[:8], max_new_tokens=2, max_answer_tokens=1, shard_size=4)
        store.fill(progress=False)
        runs = generate(model, problems[:8], max_new_tokens=2, max_answer_tokens=1)
        assert not any(run.finished for run in runs) and {run.end for run in runs} == {None}
        back = store.runs(model)
        assert [(r.finished, r.end, r.answer) for r in back] == [(r.finished, r.end, r.answer) for r in runs]

    def test_samples_are_runs_of_their_own(self, model: Any, problems: list[Problem], tmp_path: Path) -> None:
        sampled: dict[str, Any] = {"samples": 3, "temperature": 5.0, "seed": 7}
        store = Store.create(tmp_path, model, problems[:6], positions=["cot[0]"], shard_size=2, **sampled)
        store.fill(progress=False)
        runs = generate(model, problems[:6], **sampled)
        back = store.runs(model)
        assert [(run.problem.key, run.sample) for run in back] == [(run.problem.key, run.sample) for run in runs]
        assert store.rows["run"].tolist() == list(range(18))
        # what is drawn for a problem depends on it alone, so shards draw what one call draws
        assert [run.ids for run in back] == [run.ids for run in runs]
        assert len({run.ids for run in back}) > 6

    @pytest.mark.parametrize("cot", ["task", "given"])
    def test_chains_of_thought_written_elsewhere(
        self, model: Any, problems: list[Problem], tmp_path: Path, cot: str
    ) -> None:
        given: Any = {p.key: [" 1 2 3", p.cot] for p in problems[:5]}
        chosen = "task" if cot == "task" else given
        store = Store.create(tmp_path, model, problems[:5], cot=chosen, positions=["step.*[-1]"], shard_size=2)
        store.fill(progress=False)
        runs = replay_gold(model, problems[:5]) if cot == "task" else replay(model, problems[:5], given)
        assert [run.ids for run in store.runs(model)] == [run.ids for run in runs]
        told = record(model, runs, positions=["step.*[-1]"]).rows
        pd.testing.assert_frame_equal(store.rows, told)
        if cot == "given":
            other = {**given, problems[4].key: [" 1 2 3"]}
            with pytest.raises(InputError, match=r"is a store of something else: cot is 'given: "):
                Store.create(tmp_path, model, problems[:5], cot=other, positions=["step.*[-1]"], shard_size=2)

    def test_a_wildcard_without_a_match_gives_no_rows_and_a_count(
        self, model: Any, problems: list[Problem], tmp_path: Path
    ) -> None:
        store = Store.create(tmp_path, model, problems[:4], positions=["step.*[-1]"], mode="answer-only", shard_size=2)
        store.fill(progress=False)
        features, rows = store.select("resid_post", 0, "step.*[-1]")
        assert features.shape == (0, model.module.config.hidden_size) and features.dtype == torch.float32
        assert len(rows) == len(store) == 0 and store.unmatched == {"step.*[-1]": 4}
        assert list(store.batches("resid_post", 0)) == []
        assert store.shard(1).values["resid_post"].shape[:2] == (0, model.n_layers)

    def test_questions_of_ones_own_come_back_with_their_task(
        self, tiny: Callable[[str], Any], ragged: Any, tmp_path: Path
    ) -> None:
        model = tiny("llama")
        store = Store.create(tmp_path, model, ragged.problems(6), cot="task", positions=["cot"], shard_size=4)
        store.fill(progress=False)
        with pytest.raises(InputError) as error:
            store.runs(model)
        assert str(error.value) == (
            f"the problems of {tmp_path} are of the task 'questions', which no spec makes: pass task="
        )
        runs = store.runs(model, task=ragged)
        assert [run.problem for run in runs] == ragged.problems(6) and runs[0].problem.task is ragged
        # ragged: as many rows a run as its chain of thought has tokens
        counts = store.rows.groupby("run", sort=True).size().tolist()
        assert counts == [run.spans["cot"][1] - run.spans["cot"][0] for run in runs] and len(set(counts)) > 2


class TestTypes:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_the_dtype_is_kept(self, random_module: Any, word_tokenizer: Any, tmp_path: Path, dtype: Any) -> None:
        from loadbearing.organisms.specs import FORMAT

        model = load(random_module("llama", word_tokenizer).to(dtype), tokenizer=word_tokenizer, format=FORMAT)
        problems = ModularSum().problems(6)
        store = Store.create(tmp_path, model, problems, positions=["prompt"], mode="answer-only")
        store.fill(progress=False)
        acts = record(model, generate(model, problems, "answer-only"), positions=["prompt"])
        features, _ = Store.open(tmp_path).select("resid_post", 1)
        assert features.dtype == dtype and torch.equal(features, acts.values["resid_post"][:, 1])
        with safe_open(tmp_path / "shards" / "00000.safetensors", framework="pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {dtype}  # noqa: SIM118 - not a dict

    def test_a_smaller_one_may_be_asked_for(self, model: Any, problems: list[Problem], tmp_path: Path) -> None:
        sizes = {}
        for dtype in ("float32", torch.float16):
            store = Store.create(tmp_path / str(dtype), model, problems[:9], dtype=dtype, shard_size=9)
            store.fill(progress=False)
            sizes[dtype] = store.estimate().bytes
        small = Store.open(tmp_path / "torch.float16").select("resid_post", 1)[0]
        large = Store.open(tmp_path / "float32").select("resid_post", 1)[0]
        assert small.dtype == torch.float16 and torch.equal(small, large.half())
        assert sizes["float32"] == 2 * sizes[torch.float16]
        with pytest.raises(UnknownNameError, match=r"unknown dtype 'int8': expected one of bfloat16, float16"):
            Store.create(tmp_path / "c", model, problems, dtype=torch.int8)


class TestSameBytes:
    def test_written_twice(self, model: Any, problems: list[Problem], unbroken: Store, tmp_path: Path) -> None:
        again = Store.create(tmp_path, model, problems, **PLACES)
        again.fill(progress=False)
        assert contents(tmp_path) == contents(unbroken.folder)
        assert set(contents(tmp_path)) == set().union(*map(whole, range(SHARDS)))  # no lock, nothing temporary
        told = [json.loads((f / "circumstances" / "00000.json").read_text()) for f in (tmp_path, unbroken.folder)]
        assert told[0].keys() == {"host", "process", "seconds", "threads", "versions"}
        assert told[0]["seconds"] != told[1]["seconds"]  # which is why they lie outside

    def test_in_any_order_and_in_parts(
        self, model: Any, problems: list[Problem], unbroken: Store, tmp_path: Path
    ) -> None:
        parts = [(3, 4), (1, 4), (4, 4), (2, 4)]
        written: list[int] = []
        for part in parts:
            written += Store.create(tmp_path, model, problems, **PLACES).fill(part, progress=False)
        assert sorted(written) == list(range(SHARDS)) and written != sorted(written)
        assert contents(tmp_path) == contents(unbroken.folder)

    @pytest.mark.parametrize("n", [1, 2, 5, SHARDS, SHARDS + 3])
    def test_parts_are_a_partition(self, model: Any, problems: list[Problem], tmp_path: Path, n: int) -> None:
        store = Store.create(tmp_path, model, problems, **PLACES)
        parts = [store.missing((k, n)) for k in range(1, n + 1)]
        assert sorted(itertools.chain(*parts)) == list(range(SHARDS))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1

    def test_a_shard_that_is_there_is_not_written_again(self, small: Store) -> None:
        path = small.folder / "shards" / "00002.safetensors"
        before = path.stat().st_mtime_ns
        assert small.write(2) is False and small.fill(progress=False) == []
        assert path.stat().st_mtime_ns == before


class TestKilled:
    def test_a_killed_run_resumes_to_the_same_bytes(
        self, model: Any, problems: list[Problem], unbroken: Store, tmp_path: Path
    ) -> None:
        folder = tmp_path / "store"
        with filling(folder) as process:
            go(process)
            number = begun(folder, process, first=3)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        lock = folder / "shards" / f"{number:05d}.lock"
        assert 3 <= number < SHARDS and str(process.pid) in lock.read_text()
        assert Store.open(folder, partial=True).rows["run"].max() == number * SIZE - 1  # what is there can be read
        with pytest.raises(InputError, match=rf"{number:05d}.json is missing: it was not written yet: fill the store"):
            Store.open(folder).select("resid_post", 2)
        for name in (f".{number:05d}-x1.safetensors", f".{number:05d}.rows-x2.parquet", f"{number:05d}.runs.parquet"):
            (folder / "shards" / name).write_bytes(b"half")  # killed elsewhere, it would have left these
        store = Store.create(folder, model, problems, **PLACES)
        assert store.fill(progress=False) == list(range(number, SHARDS))
        assert contents(folder) == contents(unbroken.folder) and store.verify() == []

    def test_an_interrupted_shard_leaves_nothing(self, small: Store) -> None:
        small._files(4).clear()

        class Stopping(list[Problem]):
            def __getitem__(self, index: Any) -> Any:
                raise KeyboardInterrupt

        assert small.source is not None
        stopping = Store(
            small.folder, small.identity, source=type(small.source)(small.source.model, Stopping(), "model")
        )
        with pytest.raises(KeyboardInterrupt):
            stopping.fill(progress=False)
        assert not [name for name in contents(small.folder) if "00004" in name]
        assert small.fill(progress=False) == [4]


class TestTwoWriters:
    def test_both_at_once_end_with_what_one_writes(
        self, model: Any, problems: list[Problem], unbroken: Store, tmp_path: Path
    ) -> None:
        folder = tmp_path / "store"
        with filling(folder) as process:
            store = Store.create(folder, model, problems, **PLACES)
            go(process)
            mine = store.fill(progress=False)
            assert process.wait() == 0
        theirs = set(range(SHARDS)) - set(mine)
        assert contents(folder) == contents(unbroken.folder) and store.verify() == []
        told = {n: json.loads((folder / "circumstances" / f"{n:05d}.json").read_text()) for n in range(SHARDS)}
        assert {n for n in told if told[n]["process"] == process.pid} == theirs
        assert mine and theirs

    def test_what_another_process_is_writing_is_left_to_it(
        self, model: Any, problems: list[Problem], unbroken: Store, tmp_path: Path
    ) -> None:
        folder = tmp_path / "store"
        with filling(folder) as process:
            go(process)
            number = begun(folder, process, first=0)
            store = Store.create(folder, model, problems, **PLACES)
            with pytest.raises(ClaimedError) as error:
                store.write(number)
            lock = folder / "shards" / f"{number:05d}.lock"
            host = os.uname().nodename
            assert str(error.value) == (
                f"shard {number} of {folder} is being written by process {process.pid} on {host}; if that process is "
                f"gone, delete {lock}"
            )
            assert number not in store.fill(progress=False) and store.missing() == [number]
            os.kill(process.pid, signal.SIGCONT)
            assert process.wait() == 0
        assert store.missing() == [] and contents(folder) == contents(unbroken.folder)

    def test_even_without_locks_a_store_is_not_spoiled(self, unbroken: Store, small: Store) -> None:
        # Both compute the shard, both put it in place.
        assert small.source is not None
        files = small._files(1)
        files.clear()
        with files.claimed():
            (small.folder / "shards" / "00001.lock").unlink()  # as a careless clean-up does
            assert small.write(1)
        assert contents(small.folder) == contents(unbroken.folder)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "flip": (flip, "is damaged: its bytes are not those that were written: repair the store, then fill it"),
    "truncate": (truncate, "is truncated: it has another size than when it was written: repair the store, then fill"),
    "delete": (Path.unlink, "is lost: its shard was whole and it is gone: repair the store, then fill it"),
}


class TestDamaged:
    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_it_is_found_and_named_and_repaired(
        self, model: Any, small: Store, unbroken: Store, damage: str, part: str
    ) -> None:
        harm, told = DAMAGES[damage]
        path = small.folder / "shards" / f"00003{PARTS[part]}"
        harm(path)
        (fault,) = small.verify()
        assert (fault.shard, fault.file) == (3, path) and str(fault).startswith(f"{path} {told}")
        reading = Store.open(small.folder, partial=True)  # damaged is never the same as missing
        reads: list[Callable[[], object]] = [
            lambda: reading.select("mlp_out", 0),
            lambda: reading.rows,
            lambda: reading.shard(3),
            lambda: reading.runs(model),
        ]
        for read in reads:
            with pytest.raises(InputError, match=f"00003{PARTS[part]} {told}"):
                read()
        assert reading.shard(2).rows["run"].tolist()  # the others are as they were
        assert reading.repair() == [3] == small.missing()
        assert small.fill(progress=False) == [3]
        assert contents(small.folder) == contents(unbroken.folder) and small.verify() == []

    @pytest.mark.parametrize("harm", [flip, truncate])
    def test_a_damaged_receipt_too(self, small: Store, unbroken: Store, harm: Callable[[Path], None]) -> None:
        harm(small.folder / "shards" / "00005.json")
        assert [str(fault.file.name) for fault in small.verify()] == ["00005.json"]
        with pytest.raises(InputError, match=r"00005.json is damaged"):
            len(small)
        assert small.fill(progress=False) == [5] and contents(small.folder) == contents(unbroken.folder)

    def test_every_missing_shard_is_named(self, small: Store) -> None:
        for number in (1, 7):
            small._files(number).clear()
        flip(small.folder / "shards" / "00004.safetensors")
        assert [(fault.shard, fault.kind) for fault in small.verify()] == [
            (1, "missing"),
            (4, "damaged"),
            (7, "missing"),
        ]
        assert small.repair() == [4] and small.missing() == [1, 4, 7]

    def test_without_checks_sizes_are_still_compared(self, small: Store) -> None:
        quick = Store.open(small.folder, check=False)
        before, _ = quick.select("resid_post", 0)
        truncate(small.folder / "shards" / "00000.safetensors")
        with pytest.raises(InputError, match=r"is truncated"):
            quick.select("resid_post", 0)
        assert len(before)

    def test_a_file_that_is_none_is_named_even_if_its_receipt_agrees(self, small: Store) -> None:
        # what the checks cannot see: somebody wrote another file, and a receipt that vouches for it
        files = small._files(0)
        for part, harmless in (("activations", b"no tensors"), ("rows", b"no table")):
            told = files.receipt()
            files.path(part).write_bytes(harmless)
            sums = {**told.files, part: {"bytes": len(harmless), "sha256": _sha(harmless)}}
            files.receipt_path.write_text(Receipt(**{**vars(told), "files": sums}).text())
            with pytest.raises(InputError, match=f"00000{PARTS[part]} is damaged"):
                Store.open(small.folder).shard(0)

    def test_a_shard_of_another_place_or_store_is_not_read_and_not_overwritten(self, small: Store) -> None:
        shards = small.folder / "shards"
        small._files(6).clear()
        for end in (*PARTS.values(), ".json"):
            shutil.copy(shards / f"00002{end}", shards / f"00006{end}")
        (fault,) = small.verify()
        assert fault.kind == "foreign" and fault.file.name == "00006.json"
        for attempt in (lambda: small.write(6), lambda: small.rows, lambda: small.fill(progress=False)):
            with pytest.raises(
                InputError, match=r"00006.json is foreign: it belongs to another store or to another place"
            ):
                attempt()
        assert small.repair() == []


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let the kernel refuse every write beyond `size` bytes of a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


# In a namespace of its own: fills a disk of one megabyte, reads, makes the disk larger, goes on, and copies the result.
FULL = """
import json, os, shutil, subprocess, sys
from loadbearing.core import InputError
from loadbearing.hooks import Store, load
folder, out, n, places = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
model = load("organism:sft")
store = Store.create(folder + "/store", model, model.task.problems(n), **places)
try:
    store.fill(progress=False)
except InputError as error:
    told = str(error)
there = sorted(set(range(store.n_shards)) - set(store.missing()))
readable = Store.open(folder + "/store", partial=True)
rows, bad = len(readable.select("resid_post", 2)[1]), [f.kind for f in readable.verify() if f.kind != "missing"]
names = sorted(os.listdir(folder + "/store/shards"))
subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
written = store.fill(progress=False)
shutil.copytree(folder + "/store", out)
print(json.dumps({"told": told, "there": there, "rows": rows, "bad": bad, "names": names, "written": written}))
"""


class TestFullDisk:
    @pytest.mark.parametrize("part", ["activations", "rows"])
    def test_a_refused_write_is_told_and_leaves_no_half_shard(self, small: Store, unbroken: Store, part: str) -> None:
        for number in (4, 5):
            small._files(number).clear()
        there = contents(small.folder)
        # the tables are smaller than the activations: a limit between them stops the first file, one below the second
        sizes = {name: (unbroken.folder / "shards" / f"00004{end}").stat().st_size for name, end in PARTS.items()}
        limit = {"activations": sizes["activations"] - 1, "rows": sizes["rows"] - 1}[part]
        if part == "rows":
            small._files(4).path("activations").write_bytes(b"")  # what a killed writer left goes first
        with no_file_above(limit), pytest.raises(InputError) as error:
            small.fill(progress=False)
        assert str(error.value).startswith(f"shard 4 could not be written to {small.folder} (")
        assert str(error.value).endswith(
            "; nothing of it is left, and the other shards can be read: make room and fill the store again, it goes on "
            "where it stopped"
        )
        assert "File too large" in str(error.value)
        assert contents(small.folder) == there
        kept = ~(unbroken.rows["run"] // SIZE).isin([4, 5])
        assert len(Store.open(small.folder, partial=True)) == kept.sum()
        assert small.fill(progress=False) == [4, 5] and contents(small.folder) == contents(unbroken.folder)

    def test_a_disk_that_is_really_full(self, unbroken: Store, tmp_path: Path) -> None:
        disk, out = tmp_path / "disk", tmp_path / "out"
        disk.mkdir()
        total = sum(map(len, contents(unbroken.folder).values()))
        inside = f'mount -t tmpfs -o size={total // 2} tmpfs {disk} && exec "$@"'
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh"]
        if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
            pytest.skip("this machine lets nobody but root mount a disk of a chosen size")
        script = [sys.executable, "-c", FULL, str(disk), str(out), str(N), json.dumps(PLACES)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        done = subprocess.run([*command, *script], capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert "No space left on device" in told["told"] and "make room and fill the store again" in told["told"]
        assert told["there"] == list(range(len(told["there"]))) and 0 < len(told["there"]) < SHARDS
        assert set(told["names"]) == set().union(*map(whole, told["there"])) and told["bad"] == []
        assert told["rows"] == sum(unbroken.rows["run"] // SIZE < len(told["there"]))
        assert told["written"] == list(range(len(told["there"]), SHARDS))
        assert contents(out) == contents(unbroken.folder)


class TestIdentity:
    @pytest.mark.parametrize(
        ("change", "key"),
        [
            ({"sites": ["resid_post"]}, "sites is ['resid_post', 'mlp_out'] there and ['resid_post'] here"),
            ({"layers": [0]}, "layers is [0, 2] there and [0] here"),
            ({"positions": ["cue[-1]"]}, "positions is ['operand.2', 'step.*[-1]', 'cue[-1]'] there"),
            ({"shard_size": 6}, "shard_size is 5 there and 6 here"),
            ({"batch_size": 5}, "generation.batch_size is 4 there and 5 here"),
            ({"seed": 1}, "generation.seed is 0 there and 1 here"),
            ({"dtype": "bfloat16"}, "dtype is None there and 'bfloat16' here"),
            ({"cot": "task"}, "cot is 'model' there and 'task' here"),
            ({"mode": "answer-only"}, "mode is 'cot' there and 'answer-only' here"),
        ],
    )
    def test_another_store_is_refused_and_the_first_difference_named(
        self, model: Any, problems: list[Problem], unbroken: Store, change: dict[str, Any], key: str
    ) -> None:
        before = contents(unbroken.folder)
        with pytest.raises(InputError) as error:
            Store.create(unbroken.folder, model, problems, **{**PLACES, **change})
        assert key in str(error.value) and str(error.value).startswith(
            f"{unbroken.folder} is a store of something else: "
        )
        assert contents(unbroken.folder) == before

    def test_other_weights_and_other_problems(
        self, model: Any, problems: list[Problem], unbroken: Store, organism: Callable[[str], Any]
    ) -> None:
        with pytest.raises(InputError, match=r"model\.fingerprint is '\w+' there and '\w+' here"):
            Store.create(unbroken.folder, organism("both"), problems, **PLACES)
        with pytest.raises(InputError, match=r"problems.sha256 is "):
            Store.create(unbroken.folder, model, [*problems[1:], problems[0]], **PLACES)
        with pytest.raises(InputError, match=r"holds runs of another model: model\.fingerprint is"):
            unbroken.runs(organism("both"))

    def test_naming_a_default_changes_nothing(self, model: Any, problems: list[Problem], unbroken: Store) -> None:
        sites = ["blocks.0.hook_resid_post", "blocks.2.hook_mlp_out"]
        again = Store.create(
            unbroken.folder, model, tuple(problems), **{**PLACES, "sites": sites, "layers": None}, temperature=0.0
        )
        assert again.missing() == []

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"sites": []}, "a store needs at least one problem, one site and one position"),
            ({"sites": ["resid"]}, "unknown site 'resid': expected one of resid_pre"),
            ({"layers": [9]}, "layer 9: this model has layers 0 to 2"),
            ({"layers": []}, "layers=[], but the sites name layers []: give one of the two"),
            ({"cot": "modle"}, "unknown cot 'modle': expected one of model, task"),
            ({"cot": "task", "mode": "answer-only"}, "mode='answer-only' has no chain of thought: leave cot='model'"),
            ({"cot": {}}, "no transcript for problem "),
            ({"shard_size": 0}, "shard_size=0: expected a positive number of problems"),
            ({"sed": 3}, "unknown option of generate 'sed'"),
            ({"cot": "task", "temperature": 1.0}, "unknown option of replay 'temperature'"),
        ],
    )
    def test_bad_input_is_told_before_anything_is_written(
        self, model: Any, problems: list[Problem], tmp_path: Path, change: dict[str, Any], told: str
    ) -> None:
        with pytest.raises(InputError) as error:
            Store.create(tmp_path / "store", model, problems, **{**PLACES, **change})
        assert str(error.value).startswith(told)
        assert os.listdir(tmp_path) == []

    def test_problems_of_several_tasks_and_values_that_are_no_texts(
        self, model: Any, problems: list[Problem], tmp_path: Path
    ) -> None:
        other = ModularSum("modular-sum:terms=3").problems(1)
        with pytest.raises(
            InputError, match=r"problems of 'modular-sum' and of 'modular-sum:terms=3': make a store for"
        ):
            Store.create(tmp_path, model, [problems[0], *other])
        odd: Any = {"v_1": 3}
        odd_problem = Problem("q", (Piece("1 + 1"),), "2", (), odd, Questions())
        with pytest.raises(InputError, match=r"problem 'q': values are texts in a store, got {'v_1': 3}"):
            Store.create(tmp_path, model, [odd_problem])

    def test_a_folder_with_something_else_is_left_alone(
        self, model: Any, problems: list[Problem], tmp_path: Path
    ) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(InputError) as error:
            Store.create(tmp_path, model, problems)
        assert str(error.value) == (
            f"{tmp_path} holds 'thesis.tex' and no store: nothing was written; choose another folder"
        )
        file = tmp_path / "thesis.tex"
        with pytest.raises(InputError, match=r"no store can be made at .*thesis.tex"):
            Store.create(file, model, problems)
        assert file.read_text() == "years of work"

    def test_a_lost_manifest_is_made_again_and_the_shards_are_kept(
        self, small: Store, model: Any, problems: list[Problem], unbroken: Store
    ) -> None:
        path = small.folder / "store.json"
        truncate(path)
        with pytest.raises(InputError, match=r"store.json is damaged \(.*delete it and call Store.create as before"):
            Store.open(small.folder)
        path.unlink()
        assert Store.create(small.folder, model, problems, **PLACES).missing() == []
        path.unlink()
        other = Store.create(small.folder, model, problems, **{**PLACES, "shard_size": 6})
        with pytest.raises(InputError, match=r"00000.json is foreign"):
            other.fill(progress=False)
        assert contents(small.folder) == contents(unbroken.folder)


class TestStrangeFiles:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"schema": 2}, "has schema 2; this version reads up to 1: update loadbearing"),
            ({"schema": None}, "is no store's: expected 'schema' to be int, got None"),
            ({"shards": "9"}, "is no store's: expected 'shards' to be int, got '9'"),
            ({"shards": True}, "is no store's: expected 'shards' to be int, got True"),
            ({"shards": -1}, "is no store's: shards, shard_size and layers must be whole numbers"),
            ({"layers": ["../../x"]}, "is no store's: shards, shard_size and layers must be whole numbers"),
            ({"sites": ["../x"]}, "store.json '../x': expected one of resid_pre"),
            ({"sites": [["x"]]}, "is no store's: sites and positions must be texts"),
            ({"mode": "/etc"}, "store.json '/etc': expected one of answer-only"),
        ],
    )
    def test_a_manifest_is_checked(self, small: Store, change: dict[str, Any], told: str) -> None:
        path = small.folder / "store.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(InputError) as error:
            Store.open(small.folder)
        assert told in str(error.value)

    def test_what_is_no_store(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no store at .*: expected a folder with store.json"):
            Store.open(tmp_path / "nowhere")
        (tmp_path / "store.json").write_text("[1]")
        with pytest.raises(InputError, match=r"is no store's: expected an object, got list"):
            Store.open(tmp_path)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 3}', "\x00", '"x"', "null"])
    def test_a_receipt_is_checked(self, small: Store, text: str) -> None:
        path = small.folder / "shards" / "00001.json"
        path.write_text(text)
        assert [(fault.file, fault.kind) for fault in small.verify()] == [(path, "damaged")]

    def test_no_name_is_read_from_a_receipt(self, small: Store, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("x")
        files = small._files(1)
        told = files.receipt()
        for names in ({"../../../secret": {"bytes": 1, "sha256": _sha(b"x")}}, {**told.files, "../secret": {}}):
            files.receipt_path.write_text(Receipt(**{**vars(told), "files": names}).text())
            assert [fault.kind for fault in small.verify()] == ["damaged"]
        assert small.repair() == [1] and secret.read_text() == "x"

    def test_a_receipt_tells_what_is_there(self, unbroken: Store) -> None:
        text = (unbroken.folder / "shards" / "00000.json").read_text()
        told, shard = json.loads(text), unbroken.shard(0)
        assert text == canonical(told) + "\n"
        assert (told["rows"], told["runs"]) == (len(shard.rows), SIZE)
        assert told["positions"] == shard.rows["position"].value_counts().to_dict()


class TestReading:
    def test_names_are_checked(self, unbroken: Store) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown recorded site 'attn_out'"):
            unbroken.select("attn_out", 0)
        with pytest.raises(InputError, match=r"layer 1 was not recorded: recorded are \[0, 2\]"):
            unbroken.select("resid_post", 1)
        with pytest.raises(UnknownNameError, match=r"unknown recorded position 'prompt\[-1\]'"):
            unbroken.select("resid_post", 0, "prompt[-1]")
        assert len(unbroken.select("resid_post", 0, "operand.*")[1]) == N

    def test_what_it_cannot_do(self, unbroken: Store) -> None:
        reading = Store.open(unbroken.folder)
        for attempt in (lambda: reading.write(0), reading.estimate):
            with pytest.raises(InputError, match=r"was opened to be read: call Store.create as when it was made"):
                attempt()
        with pytest.raises(InputError, match=f"shard {SHARDS}: this store has shards 0 to {SHARDS - 1}"):
            reading.shard(SHARDS)
        for part in ((0, 2), (3, 2)):
            with pytest.raises(InputError, match=r"expected \(k, n\) with k from 1 to n"):
                reading.missing(part)

    def test_reading_changes_no_file(self, unbroken: Store) -> None:
        before = contents(unbroken.folder)
        features, _ = unbroken.select("resid_post", 2)
        features.zero_()
        for batch, _ in unbroken.batches("resid_post", 2):
            batch.zero_()
        unbroken.shard(0).values["resid_post"].zero_()
        assert contents(unbroken.folder) == before and unbroken.select("resid_post", 2)[0].abs().sum() > 0

    def test_a_probe_learns_from_batches(self, unbroken: Store) -> None:
        """The last written value can be read off the cue: a least-squares fit over batches does better than chance."""
        gram: Any = 0
        cross: Any = 0
        for features, rows in unbroken.batches("resid_post", 2, "cue[-1]"):
            x, y = features.double().numpy(), np.eye(10)[rows["v_3"].astype(int)]
            gram, cross = gram + x.T @ x, cross + x.T @ y
        weights = np.linalg.solve(gram + 1e-3 * np.eye(len(gram)), cross)
        features, rows = unbroken.select("resid_post", 2, "cue[-1]")
        assert ((features.double().numpy() @ weights).argmax(1) == rows["v_3"].astype(int)).mean() > 0.9


class TestEstimate:
    def test_exact_where_positions_fix_it(self, model: Any, problems: list[Problem], tmp_path: Path) -> None:
        store = Store.create(tmp_path, model, problems[:9], positions=["cue[-1]", "operand.2[0]"], shard_size=4)
        told = store.estimate()
        store.fill(progress=False)
        assert (told.rows, told.basis) == (len(store), "positions") == (18, "positions")
        paths = [tmp_path / "shards" / f"{number:05d}.safetensors" for number in range(3)]
        assert told.bytes == sum(path.stat().st_size - header_of(path) for path in paths)

    def test_from_a_sample_and_from_what_is_there(self, model: Any, problems: list[Problem], tmp_path: Path) -> None:
        store = Store.create(tmp_path, model, problems[:12], positions=["cot", "step.*[-1]"], shard_size=5)
        assert store.estimate(sample=4).basis == "sample"
        store.write(0)
        told = store.estimate()
        store.fill(progress=False)
        assert told.basis == "shards"
        assert told == store.estimate() and told.rows == len(store) == 12 * 6  # this model always writes three steps


def header_of(path: Path) -> int:
    """How many bytes of a safetensors file are no tensor."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")
