"""Work in parts, by processes and again after kills: the same bytes and the same tables as in one process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadbearing.analyses import Parts, channels, patch, patch_in_parts
from loadbearing.analyses.channel_table import Channels
from loadbearing.core import InputError, Interrupted, UnknownNameError
from loadbearing.hooks import ModelSource, Store, StoreJob, part_of, run_shards
from loadbearing.tasks import Pairs, Problem

SOURCE = ModelSource("organism:sft")
OPTIONS: dict[str, Any] = {"positions": ["operand.2", "step.*[-1]"], "layers": [0, 2]}
SMALL: dict[str, Any] = {"batch_size": 4}
# A job of an array: it loads everything for itself.
CHANNELS = """
import sys
import time
from loadbearing.analyses import Parts, channels
from loadbearing.core import Interrupted
from loadbearing.hooks import load, part_of
model = load("organism:sft")
try:
    channels(model, model.task.pairs(3), batch_size=4, parts=Parts(sys.argv[1], part_of(sys.argv[2])))
    print("whole")
except Interrupted as told:
    print(told)
"""


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def run(*words: str) -> "subprocess.Popen[str]":
    """Another Python process."""
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]") -> str:
    """What a process printed, once it has ended well."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def assert_same(found: Channels, expected: Channels) -> None:
    """Every number is the same, to the last bit, and so is the identity."""
    assert found.manifest.identity == expected.manifest.identity and found.coords == expected.coords
    for name, values in expected.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], values, err_msg=name)


@dataclass(frozen=True)
class Files:
    """A job that writes a file a shard, and misbehaves as it is told to."""

    folder: str
    count: int
    fails: tuple[int, ...] = ()
    dies: tuple[int, ...] = ()
    opens: bool = True

    def path(self, number: int) -> Path:
        return Path(self.folder, str(number))

    def missing(self, part: tuple[int, int]) -> list[int]:
        return [n for n in range(part[0] - 1, self.count, part[1]) if not self.path(n).exists()]

    def open(self) -> Callable[[int], object]:
        if not self.opens:
            raise InputError("no such model")
        return self.do

    def do(self, number: int) -> None:
        tried = Path(self.folder, f"tried {number}")
        tried.write_text((tried.read_text() if tried.exists() else "") + "x")
        if number in self.fails or (number in self.dies and len(tried.read_text()) == 1):
            if number in self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError(f"bad luck with {number}")
        assert not self.path(number).exists()  # nothing is done twice
        self.path(number).write_text(str(os.getpid()))


@pytest.fixture(scope="module")
def model(organism: Callable[[str], Any]) -> Any:
    return organism("sft")


@pytest.fixture(scope="module")
def problems(model: Any) -> list[Problem]:
    found: list[Problem] = model.task.problems(22)
    return found


@pytest.fixture(scope="module")
def pairs(model: Any) -> Pairs:
    found: Pairs = model.task.pairs(3)
    return found


@pytest.fixture(scope="module")
def table(model: Any, pairs: Pairs) -> Channels:
    """The channels of one plain call."""
    return channels(model, pairs, **SMALL)


@pytest.fixture(scope="module")
def whole(model: Any, problems: list[Problem], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards of a store that `fill` wrote."""
    store = Store.create(tmp_path_factory.mktemp("whole"), model, problems, shard_size=5, **OPTIONS)
    store.fill(progress=False)
    return contents(store.folder / "shards")


@pytest.mark.parametrize("text", ["3", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2", ""])
def test_a_bad_part_is_told(text: str) -> None:
    with pytest.raises(InputError) as error:
        part_of(text)
    assert str(error.value) == (
        f"shard {text!r}: expected K/N with K from 1 to N, such as 3/8 for the third of eight parts"
    )


def test_a_model_object_is_no_source(model: Any) -> None:
    for given in (model, model.module):
        with pytest.raises(InputError, match=r"cannot be sent to workers: expected a name or a folder that each can"):
            ModelSource(given)


class TestRunning:
    def test_parts_and_failures(self, tmp_path: Path) -> None:
        """Failing shards are tried three times after the others, and are named; a good second call does just those."""
        job = Files(str(tmp_path), 7, fails=(1, 4))
        assert run_shards(job, part=(3, 3), progress=False) == [2, 5]
        with pytest.raises(Interrupted) as error:
            run_shards(job, progress=False)
        assert str(error.value) == (
            "2 shards failed 3 times, the others of this part are done: shard 1 (ValueError: bad luck with 1); "
            "shard 4 (ValueError: bad luck with 4). The same call tries them again"
        )
        assert error.value.partial == [0, 3, 6] and job.missing((1, 1)) == [1, 4]
        assert (tmp_path / "tried 1").read_text() == "xxx" and (tmp_path / "tried 0").read_text() == "x"
        assert run_shards(replace(job, fails=()), progress=False) == [1, 4]

    def test_processes_that_die_are_replaced(self, tmp_path: Path) -> None:
        """One dies once, at shard 0; another one whenever it comes to shard 1."""
        job = Files(str(tmp_path), 4, fails=(1,), dies=(0, 1))
        with pytest.raises(Interrupted, match=r"^1 shards failed 3 times.*shard 1 \(BrokenProcessPool: ") as error:
            run_shards(job, workers=2, progress=False)
        assert error.value.partial == [0, 2, 3]
        assert (tmp_path / "tried 0").read_text() == "xx" and (tmp_path / "tried 1").read_text() == "xxx"
        assert str(os.getpid()) not in {job.path(n).read_text() for n in (0, 2, 3)}

    def test_a_job_that_cannot_be_opened_stops_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such model"):
            run_shards(Files(str(tmp_path), 3, opens=False), progress=False)
        assert list(tmp_path.iterdir()) == []

    def test_bad_choices(self, tmp_path: Path) -> None:
        job = Files(str(tmp_path), 1)
        with pytest.raises(UnknownNameError, match=r"unknown engine 'rai': expected one of local, ray"):
            run_shards(job, engine="rai")
        with pytest.raises(InputError, match=r"workers=0: expected 1 or more"):
            run_shards(job, workers=0)

    def test_without_ray(self) -> None:
        code = (
            "import sys; sys.modules['ray'] = None\n"
            "from loadbearing.hooks import *\n"
            "try: run_shards(StoreJob('x', ModelSource('organism:sft'), []), engine='ray')\n"
            "except ValueError as error: print(error)"
        )
        assert ended(run("-c", code)) == "engine='ray' needs Ray: pip install 'loadbearing[ray]'\n"


class TestStore:
    def test_three_processes_write_the_bytes_of_one(self, whole: dict[str, bytes], tmp_path: Path) -> None:
        command = "import sys; from loadbearing.cli import main; main()"
        options = ["--problems", "22", "--shard-size", "5", "--position", "operand.2", "--position", "step.*[-1]"]
        options += ["--layer", "0", "--layer", "2", "--model", "organism:sft", "--out", str(tmp_path / "s"), "--quiet"]
        jobs = [run("-c", command, "record", *options, "--shard", f"{k}/3") for k in (1, 2, 3)]
        assert all("of 5 shards" in ended(job) for job in jobs)
        store = Store.open(tmp_path / "s")
        assert store.verify() == [] and store.missing() == []
        assert contents(store.folder / "shards") == whole

    def test_two_processes_of_a_pool(self, whole: dict[str, bytes], problems: list[Problem], tmp_path: Path) -> None:
        job = StoreJob(tmp_path / "s", SOURCE, problems, 5, OPTIONS)
        assert run_shards(job, part=(1, 2), workers=2, progress=False) == [0, 2, 4]
        assert run_shards(job, progress=False) == [1, 3]
        assert contents(tmp_path / "s" / "shards") == whole

    def test_a_full_store_of_something_else_is_not_taken_for_this(
        self, problems: list[Problem], tmp_path: Path
    ) -> None:
        run_shards(StoreJob(tmp_path / "s", SOURCE, problems, 5, OPTIONS), progress=False)
        other = StoreJob(tmp_path / "s", SOURCE, problems[::-1], 5, OPTIONS)
        with pytest.raises(InputError, match=r"is a store of something else: problems.sha256 is"):
            run_shards(other, progress=False)


class TestChannels:
    def test_three_processes_and_then_the_table(
        self, model: Any, pairs: Pairs, table: Channels, tmp_path: Path
    ) -> None:
        with pytest.raises(Interrupted) as error:
            channels(model, pairs, parts=Parts(tmp_path, (1, 3)), **SMALL)
        assert str(error.value).startswith(f"4 of 6 pieces are still missing in {tmp_path} (the first is 1): run the")
        jobs = [run("-c", CHANNELS, str(tmp_path), f"{k}/3") for k in (2, 3)]
        assert "whole\n" in [ended(job) for job in jobs]
        before = contents(tmp_path)
        assert len(before) == 6
        assert_same(channels(model, pairs, parts=tmp_path, **SMALL), table)
        assert contents(tmp_path) == before

    def test_a_killed_call_goes_on(self, model: Any, pairs: Pairs, table: Channels, tmp_path: Path) -> None:
        """What a kill leaves is some whole pieces: they are kept as they are, and the others computed."""
        process = run("-c", CHANNELS, str(tmp_path), "1/1")
        while process.poll() is None and not list(tmp_path.glob("0*.safetensors")):
            time.sleep(0.01)  # leaves it the processor
        process.kill()
        process.communicate()
        before = contents(tmp_path)
        assert_same(channels(model, pairs, parts=tmp_path, **SMALL), table)
        kept = {name: data for name, data in before.items() if not name.startswith(".")}
        assert kept and all(contents(tmp_path)[name] == data for name, data in kept.items())

    def test_workers(self, model: Any, pairs: Pairs, table: Channels, tmp_path: Path) -> None:
        assert_same(channels(model, pairs, parts=Parts(tmp_path, workers=2, source=SOURCE), **SMALL), table)

    def test_runs_of_a_store(self, model: Any, pairs: Pairs, table: Channels, tmp_path: Path) -> None:
        """CoTs that were written before, by jobs of their own, give the table of CoTs written now."""
        wanted = pairs.problems
        run_shards(StoreJob(tmp_path / "s", SOURCE, wanted, 5), progress=False)
        found = channels(model, pairs, cot=Store.open(tmp_path / "s").runs(model), parts=tmp_path / "p", **SMALL)
        np.testing.assert_array_equal(found.log_p, table.log_p)

    def test_pieces_of_something_else_are_named(
        self, model: Any, pairs: Pairs, organism: Callable[[str], Any], tmp_path: Path
    ) -> None:
        channels(model, pairs, parts=tmp_path, **SMALL)
        before = contents(tmp_path)
        first = tmp_path / "00000.safetensors"
        for other, key in (
            ({"model": organism("both")}, "fingerprint is"),
            ({"pairs": model.task.pairs(3, seed=1)}, "pairs is"),
            ({"batch_size": 3}, "pairs is"),
        ):
            how = {"model": model, "pairs": pairs, "parts": tmp_path, **SMALL, **other}
            with pytest.raises(InputError) as error:
                channels(**how)
            assert str(error.value).startswith(f"{first} is a piece of something else: {key}")
        assert contents(tmp_path) == before

    def test_workers_need_a_source_that_is_this_model(self, model: Any, pairs: Pairs, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"workers load the model for themselves: pass Parts\(source=ModelSource"):
            channels(model, pairs, parts=Parts(tmp_path, workers=2))
        other = model.with_format(direct_open=" so")
        with pytest.raises(
            InputError, match=r"'organism:sft' is another model: format.direct_open is '' there and ' so'"
        ):
            channels(other, pairs, parts=Parts(tmp_path, workers=2, source=SOURCE))
        assert contents(tmp_path) == {}


class TestSweeps:
    @pytest.mark.parametrize(("site", "how"), [("resid_pre", {}), ("z", {"mode": "cot", "cot": "task"})])
    def test_a_layer_a_piece(self, site: str, how: dict[str, Any], model: Any, pairs: Pairs, tmp_path: Path) -> None:
        expected = patch(model, pairs, site, **how)
        with pytest.raises(Interrupted, match=r"1 of 3 pieces are still missing"):
            patch_in_parts(model, pairs, site, parts=Parts(tmp_path, (1, 2)), **how)
        found = patch_in_parts(model, pairs, site, parts=Parts(tmp_path, (2, 2)), **how)
        np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
        np.testing.assert_array_equal(found.outcome, expected.outcome)
        assert found.coords == expected.coords and found.manifest.identity == expected.manifest.identity
        with pytest.raises(InputError, match=r"00000.safetensors is a piece of something else: problems is"):
            patch_in_parts(model, model.task.pairs(2), site, parts=tmp_path, **how)

    def test_workers(self, model: Any, pairs: Pairs, tmp_path: Path) -> None:
        found = patch_in_parts(model, pairs, parts=Parts(tmp_path, workers=2, source=SOURCE), layers=[0, 2])
        np.testing.assert_allclose(found.values, patch(model, pairs, layers=[0, 2]).values, atol=1e-5)

    @pytest.mark.parametrize(
        ("how", "told"),
        [
            ({"method": "gradient"}, "method='gradient' in parts: expected 'exact'"),
            ({"resume": "x.safetensors"}, "parts: a named metric is expected, and no resume"),
            ({"layers": []}, "layers=[]: this model has layers 0 to 2"),
        ],
    )
    def test_what_has_no_parts(self, how: dict[str, Any], told: str, model: Any, pairs: Pairs, tmp_path: Path) -> None:
        with pytest.raises(InputError) as error:
            patch_in_parts(model, pairs, parts=tmp_path, **how)
        assert str(error.value).startswith(told) and contents(tmp_path) == {}


class TestCommands:
    @pytest.fixture
    def command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Callable[[Sequence[str]], tuple[int, str, str]]:
        """Run a command from an empty folder: its status, and what it printed."""
        from loadbearing.cli import main

        monkeypatch.chdir(tmp_path)

        def call(words: Sequence[str]) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", ["loadbearing", *words])
            with pytest.raises(SystemExit) as exit:
                main()
            return (int(exit.value.code or 0), *capsys.readouterr())

        return call

    def test_recorded_and_measured_in_two_parts(self, command: Any) -> None:
        few = ["--model", "organism:sft", "--pairs", "2", "--quiet"]
        for k in (1, 2):
            status, out, _ = command(["record", *few, "--out", "runs", "--shard-size", "4", "--shard", f"{k}/2"])
            assert status == 0 and ("missing shards" in out) == (k == 1)
        plain = command(["channels", *few])
        shared = [command(["channels", *few, "--runs", "runs", "--parts", "p", "--shard", f"{k}/2"]) for k in (1, 2)]
        assert shared[0][0] == 0 and shared[0][1].startswith("1 of 2 pieces are still missing in p")
        assert shared[1][1] == plain[1] and plain[0] == 0

    def test_a_sweep_in_two_parts(self, command: Any) -> None:
        few = [
            "patch",
            "--model",
            "organism:copy-direct",
            "--pairs",
            "4",
            "--mode",
            "cot",
            "--target",
            "answer",
            "--quiet",
        ]
        plain = command(few)
        first, second = (command([*few, "--parts", "p", "--shard", f"{k}/2"]) for k in (1, 2))
        assert first[0] == 0 and "pieces are still missing" in first[1]
        assert second[1].partition("- patched")[0] == plain[1].partition("- patched")[0] and plain[0] == 0

    def test_bad_options(self, command: Any) -> None:
        few = ["channels", "--model", "organism:sft"]
        status, _, err = command([*few, "--shard", "1/2"])
        assert status == 2 and "share what is kept in a folder: pass --parts FOLDER" in err
        status, _, err = command(["record", "--model", "organism:sft", "--out", "s", "--shard", "9/8"])
        assert status == 2 and "shard '9/8': expected K/N with K from 1 to N" in err
        assert list(Path().iterdir()) == []


def test_a_receipt_names_no_worker(whole: dict[str, bytes]) -> None:
    """What differs from one worker to the next lies outside the shards."""
    for name, data in whole.items():
        if name.endswith(".json"):
            assert not {"host", "process", "seconds"} & set(json.loads(data))
