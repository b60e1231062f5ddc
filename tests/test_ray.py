"""A real Ray cluster on this machine: the results of one process, also when a worker is killed while it has a shard.

The driver is another process: Ray warns in its own ways, and no test of this process may be disturbed by its threads.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadbearing.analyses import channels
from loadbearing.core import load_result
from loadbearing.hooks import ModelSource, Store, StoreJob, run_shards

SHARDS = 16
DRIVER = """
import json, sys
from dataclasses import dataclass
from loadbearing.analyses import Parts, channels
from loadbearing.core import InputError, Interrupted
from loadbearing.hooks import ModelSource, StoreJob, run_shards

folder = sys.argv[1]
told = []
source = ModelSource("organism:sft")
model = source.load()
job = StoreJob(folder + "/store", source, model.task.problems(80), 5, {"positions": ["step.*[-1]"]})
told.append(run_shards(job, engine="ray", workers=2, progress=False))
parts = Parts(folder + "/parts", (1, 1), "ray", 2, None, source)
channels(model, model.task.pairs(3), batch_size=4, parts=parts).save(folder + "/channels.safetensors")

@dataclass(frozen=True)
class Unlucky:
    opens: bool = True

    def missing(self, part):
        return [0, 1, 2]

    def open(self):
        if not self.opens:
            raise InputError("no such model here")
        return self.do

    def do(self, number):
        if number == 1:
            raise ValueError("bad luck")

for job in (Unlucky(), Unlucky(opens=False)):
    try:
        run_shards(job, engine="ray", progress=False)
    except (InputError, Interrupted) as error:
        told.append([type(error).__name__, str(error), getattr(error, "partial", None)])
with open(folder + "/told.json", "w") as file:
    json.dump(told, file)
"""


def killed_at_a_shard(shards: Path, driver: "subprocess.Popen[str]") -> tuple[int, int]:
    """Kill the process that writes a shard while it does; the shard and the process."""
    for number in range(2, SHARDS):
        lock, receipt = shards / f"{number:05d}.lock", shards / f"{number:05d}.json"
        while driver.poll() is None and not receipt.exists():
            time.sleep(0.002)  # leaves the workers the processor
            try:
                pid = int(lock.read_text().partition("\n")[0])
            except (OSError, ValueError):
                continue  # not there yet, or being written
            os.kill(pid, signal.SIGSTOP)
            held = lock.exists() and not receipt.exists()
            os.kill(pid, signal.SIGKILL if held else signal.SIGCONT)
            if held:
                return number, pid
    raise AssertionError("no worker was seen inside a shard")


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, int, list[Any]]]:
    """The folder that a driver filled, the shard at which a worker was killed, its process, and what it told."""
    folder = tmp_path_factory.mktemp("ray")
    environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(folder)]
    with (folder / "output").open("w") as output:
        driver = subprocess.Popen(command, stdout=output, stderr=output, text=True, env=environment, cwd=folder)
    try:
        number, pid = killed_at_a_shard(folder / "store" / "shards", driver)
        assert driver.wait() == 0, (folder / "output").read_text()
        yield folder, number, pid, json.loads((folder / "told.json").read_text())
    finally:
        driver.kill()
        driver.wait()


def test_a_killed_worker_loses_and_doubles_nothing(
    driven: tuple[Path, int, int, list[Any]], organism: Callable[[str], Any], tmp_path: Path
) -> None:
    folder, number, pid, (done, *_) = driven
    store = Store.open(folder / "store")
    assert done == list(range(SHARDS)) and store.missing() == [] and store.verify() == []
    problems = organism("sft").task.problems(80)
    options = {"positions": ["step.*[-1]"]}
    run_shards(StoreJob(tmp_path, ModelSource("organism:sft"), problems, 5, options), progress=False)
    mine, theirs = (
        {path.name: path.read_bytes() for path in (at / "shards").iterdir()} for at in (tmp_path, folder / "store")
    )
    assert theirs == mine
    wrote = [json.loads(path.read_text())["process"] for path in sorted((folder / "store" / "circumstances").iterdir())]
    assert wrote[number] != pid and len(set(wrote) - {pid}) >= 1 and os.getpid() not in wrote


def test_channels_are_those_of_one_process(
    driven: tuple[Path, int, int, list[Any]], organism: Callable[[str], Any]
) -> None:
    model = organism("sft")
    expected = channels(model, model.task.pairs(3), batch_size=4)
    found = load_result(driven[0] / "channels.safetensors")
    assert found.manifest.identity == expected.manifest.identity
    for name, values in expected.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], values, err_msg=name)


def test_what_fails_on_the_cluster_is_told_here(driven: tuple[Path, int, int, list[Any]]) -> None:
    unlucky, closed = driven[3][1:]
    assert unlucky[0] == "Interrupted" and unlucky[2] == [0, 2]
    assert unlucky[1].startswith(
        "1 shards failed 3 times, the others of this part are done: shard 1 (ValueError: bad l"
    )
    assert closed == ["InputError", "no such model here", None]
