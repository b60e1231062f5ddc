"""A store of many rows is written and read in the memory that a store of few rows takes."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

# Writes and reads stores of two sizes, and prints the peak of memory during each, in bytes.
MEMORY = """
import json, sys
from collections.abc import Sequence
import torch
from loadbearing.hooks import Store, load
from loadbearing.organisms.specs import FORMAT
from loadbearing.organisms.tokenizer import build_tokenizer
from loadbearing.tasks import load as load_task
from transformers import LlamaConfig, LlamaForCausalLM

class Many(Sequence):
    def __init__(self, n):
        self.n = n
    def __len__(self):
        return self.n
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.n))]
        if index >= self.n:
            raise IndexError
        return task.problem(tuple(index // 10**k % 10 for k in range(16)))

def peak(work):
    open("/proc/self/clear_refs", "w").write("5")
    start = status("VmRSS")
    work()
    return status("VmHWM"), start

def status(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024

def read(folder):
    for features, rows in Store.open(folder).batches("resid_post", 1, "prompt"):
        assert features.isfinite().all() and len(features) == len(rows)

task = load_task("modular-sum:terms=16")
tokenizer = build_tokenizer(task, FORMAT)
config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=8, num_hidden_layers=2,
                     num_attention_heads=1, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
                     bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
torch.manual_seed(0)
model = load(LlamaForCausalLM(config).eval(), tokenizer=tokenizer, format=FORMAT)
sizes = json.loads(sys.argv[2])
stores = {n: Store.create(f"{sys.argv[1]}/{n}", model, Many(n), sites=["resid_pre", "resid_post"], positions=["prompt"],
                          mode="answer-only", max_answer_tokens=1, shard_size=128) for n in sizes}
Store.create(sys.argv[1] + "/first", model, Many(512), mode="answer-only", max_answer_tokens=1).fill(progress=False)
written = {n: peak(lambda: store.fill(progress=False)) for n, store in stores.items()}
found = {n: peak(lambda: read(f"{sys.argv[1]}/{n}")) for n in sizes}
rows = {n: len(store) for n, store in stores.items()}
print(json.dumps({"rows": rows, "written": written, "read": found}))
"""


def peaks(folder: Path, sizes: Sequence[int]) -> Any:
    script = [sys.executable, "-c", MEMORY, str(folder), json.dumps(sizes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_memory(told: Any, few: int, many: int) -> None:
    """More rows take no more memory.

    The bound is a tenth of the activations by which the stores differ (2 sites x 2 layers x 64 floats, 1 kB a row): a
    shard has 4 MB, whatever the store; what is left is the allocator's.
    """
    added = (told["rows"][str(many)] - told["rows"][str(few)]) * 4 * 64 * 4
    for work in ("written", "read"):
        (small, _), (large, _) = told[work][str(few)], told[work][str(many)]
        assert large - small < added / 10, (work, told)


class TestMemory:
    def test_eight_times_the_rows_take_the_same_memory(self, tmp_path: Path) -> None:
        told = peaks(tmp_path, [768, 6144])
        assert told["rows"]["768"] > 25_000 and told["rows"]["6144"] > 200_000
        check_memory(told, 768, 6144)

    @pytest.mark.slow
    def test_a_million_rows(self, tmp_path: Path) -> None:
        told = peaks(tmp_path, [768, 30720])
        assert told["rows"]["30720"] > 1_000_000
        check_memory(told, 768, 30720)
