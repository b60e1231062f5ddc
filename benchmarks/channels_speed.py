"""The cost of the eight cells against two plain CoT runs of the pair, side by side in one process.

`python benchmarks/channels_speed.py` prints the ratio of times (median over repeats), the floor (the operations of the
segments over those of the plain runs) and the memory of the caches. Weights are random: time does not depend on them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from loadbearing.analyses.eight import eight_cells, memory_of
from loadbearing.analyses.targets import Aim
from loadbearing.hooks.backends.torch import TorchBackend
from loadbearing.hooks.format import Format
from loadbearing.hooks.model import Model

VOCABULARY = 1000


def random_model(layers: int, width: int, device: str, dtype: str) -> Model:
    """A Llama of a size, with random weights."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = LlamaForCausalLM(config).eval().to(device, getattr(torch, dtype))
    return Model("random", TorchBackend(module), None, Format())


class _Texts:
    """Stands for a tokenizer: only the texts of greedy answers are asked for."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


def random_aims(pairs: int, prompt: int, cot: int, ragged: int) -> list[tuple[Aim, Aim]]:
    """Pairs of runs of random tokens; CoTs up to `ragged` tokens longer than `cot`."""
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, VOCABULARY, n).tolist())

    def aim() -> Aim:
        size = cot - 1 + int(rng.integers(ragged + 1))
        return Aim(draw(prompt), (), draw(size), draw(1), draw(1), None, "", {})

    return [(aim(), aim()) for _ in range(pairs)]


@torch.no_grad()
def plain_runs(model: Model, aims: list[tuple[Aim, Aim]]) -> None:
    """The two natural CoT runs of every pair, in batches of equal length, with the logits of the last token only."""
    groups: dict[int, list[tuple[int, ...]]] = {}
    for pair in aims:
        for aim in pair:
            ids = aim.head + aim.cot
            groups.setdefault(len(ids), []).append(ids)
    for rows in groups.values():
        for start in range(0, len(rows), 32):
            model.module(
                input_ids=torch.tensor(rows[start : start + 32], device=model.device), use_cache=False, logits_to_keep=1
            )


def timed(run: Callable[[], Any], device: str) -> float:
    """Seconds of one call: of processor time on a CPU, which other work on the machine disturbs less."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - began


def floor(prompt: int, cot: int, layers: int, width: int) -> float:
    """Operations of 2 prompt, 4 CoT and 8 reader passes over those of 2 plain runs (weights and attention)."""
    weights = layers * (4 * width**2 + 3 * width * (width * 8 // 3))

    def cost(tokens: int, before: int) -> float:
        attended = tokens * before + tokens * (tokens + 1) / 2
        return 2 * weights * tokens + 4 * layers * width * attended

    cells = 2 * cost(prompt, 0) + 4 * cost(cot - 1, prompt) + 8 * cost(1, prompt + cot - 1)
    return cells / (2 * cost(prompt + cot, 0))


def main() -> None:
    """Print one line a repeat and the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 8), ("width", 512), ("pairs", 32), ("prompt", 128), ("cot", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ragged", type=int, default=0, help="CoTs are up to so many tokens longer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    model = random_model(given.layers, given.width, given.device, given.dtype)
    object.__setattr__(model, "tokenizer", _Texts())
    aims = random_aims(given.pairs, given.prompt, given.cot, given.ragged)
    ratios = []
    for repeat in range(given.repeats + 1):
        plain = timed(lambda: plain_runs(model, aims), given.device)
        cells = timed(lambda: eight_cells(model, aims, [None] * len(aims)), given.device)
        if repeat:  # the first warms up
            ratios.append(cells / plain)
            print(f"plain {plain:.2f} s  eight cells {cells:.2f} s  ratio {ratios[-1]:.2f}")
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"ratio: median {middle:.2f} (range {low:.2f} to {high:.2f}) of the two plain runs; target <= 2")
    print(f"floor: {floor(given.prompt, given.cot, given.layers, given.width):.2f} (operations of the segments)")
    print(f"caches: {memory_of(model, aims) / 1e6:.0f} MB a pair")


if __name__ == "__main__":
    main()
