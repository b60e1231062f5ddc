"""Time of exact patching sweeps against TransformerLens' and against the floor: computing only what can change.

    python benchmarks/patch_sweep.py [--repeats 5] [--threads 2]

Every case is one (layer x position) map of `resid_pre` of the same weights and runs; TransformerLens runs one whole
forward pass a cell. Times are medians; ratios are taken in each repeat, side by side in this process. "counted" is the
work in plain forward passes as the sweep counts it, "floor" that of recomputing positions >= p in layers >= l, and in
the last layer keys and values only but for the last position; "time" is the sweep's time in plain forward passes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformer_lens import patching
from transformers import LlamaConfig, LlamaForCausalLM

import loadbearing as lb
from loadbearing.hooks.interior import Interior
from loadbearing.hooks.sweep import Cell, Sweep, kv_share
from loadbearing.hooks.trace import trace
from loadbearing.hooks.writes import Write
from loadbearing.organisms.specs import FORMAT

VOCABULARY = 1000


def random_case(layers: int, length: int, width: int, runs: int) -> tuple[Any, Any, Any]:
    """A random Llama without a tokenizer of its own, and two batches of runs."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    tokenizer = lb.hooks.load("organism:direct").tokenizer
    model = lb.hooks.load(LlamaForCausalLM(config).eval(), tokenizer=tokenizer, format=FORMAT)
    ids = torch.randint(5, VOCABULARY, (2, runs, length))
    return model, ids[0], ids[1]


def organism_case(name: str, mode: Any, pairs: int) -> tuple[Any, Any, Any]:
    """An organism and the runs of pairs that differ in the first operand, up to the answer."""
    model: Any = lb.hooks.load(f"organism:{name}")
    chosen = model.task.pairs(pairs, vary="operand.1")
    runs = lb.hooks.generate(model, [p for pair in chosen for p in (pair.recipient, pair.donor)], mode).by_problem()
    sides = [[runs[getattr(pair, side).key] for pair in chosen] for side in ("recipient", "donor")]
    ids = [torch.tensor([run.ids[: run.spans["answer"][0]] for run in side]) for side in sides]
    return model, ids[0], ids[1]


def odds(logits: torch.Tensor) -> torch.Tensor:
    """A metric of the last position."""
    return logits[:, -1, 7] - logits[:, -1, 8]


@torch.no_grad()
def ours(model: Any, base_ids: Any, source_ids: Any) -> tuple[torch.Tensor, float]:
    """The map `[layer, position, run]`, and the work in plain forward passes of one run."""
    interior = Interior.of(model.module, model.sites)
    base, source = trace(model, interior, base_ids), trace(model, interior, source_ids)
    runs = torch.arange(len(base_ids))
    places = [(layer, p) for layer in range(model.n_layers) for p in range(base_ids.shape[1])]

    def taken(layer: int, p: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda rows: source.residual[layer][rows][:, [p]]

    cells = [Cell((Write("resid_pre", layer, (p,), taken(layer, p)),), runs) for layer, p in places]
    values = torch.zeros(len(cells), len(runs))

    def read(which: Any, rows: Any, logits: Any) -> None:
        values[which, rows] = odds(logits)

    sweep = Sweep(model, interior, base)
    for _ in sweep.run(cells, read):
        pass
    return values.view(model.n_layers, -1, len(runs)), sweep.forwards / len(runs)


@torch.no_grad()
def theirs(bridge: Any, base_ids: Any, source_ids: Any) -> torch.Tensor:
    """TransformerLens' map, the mean over runs."""
    _, cache = bridge.run_with_cache(source_ids)
    found: torch.Tensor = patching.get_act_patch_resid_pre(bridge, base_ids, cache, lambda logits: odds(logits).mean())
    return found


def floor(model: Any, length: int) -> float:
    """The work of recomputing only what can change, in plain forward passes."""
    share, layers = kv_share(model.sites.blocks[0].block), int(model.n_layers)
    cells = [(layer, length - p) for layer in range(layers) for p in range(length)]
    return sum((layers - 1 - layer) * n + 1 + share * (n - 1) for layer, n in cells) / (layers * length)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out."""
    began = time.perf_counter()
    found = function()
    return time.perf_counter() - began, found


def measure(name: str, model: Any, base_ids: Any, source_ids: Any, repeats: int) -> None:
    """Print one row of the table."""
    bridge: Any = lb.hooks.load(
        model.module, tokenizer=model.tokenizer, format=model.format, backend="transformer_lens"
    ).backend
    run: Any = model.module

    @torch.no_grad()
    def plain() -> Any:
        return run(input_ids=base_ids, use_cache=False)

    timed(plain), timed(lambda: ours(model, base_ids, source_ids))
    rows = []
    for _ in range(repeats):
        own, (values, forwards) = timed(lambda: ours(model, base_ids, source_ids))
        other, reference = timed(lambda: theirs(bridge.bridge, base_ids, source_ids))
        one = statistics.median(timed(plain)[0] for _ in range(7))
        rows.append((own, other, other / own, own / one))
        error = float((values.mean(-1) - reference).abs().max())
    ratios = sorted(row[2] for row in rows)
    least = floor(model, base_ids.shape[1])
    told = [statistics.median(row[i] for row in rows) for i in range(4)]
    print(
        f"{name:34} {told[0]:8.2f} {told[1]:8.2f} {told[2]:6.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        f" {forwards:8.1f} {least:8.1f} {forwards / least:6.2f} {told[3]:8.1f} {told[3] / least:6.2f} {error:9.1e}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    vars(patching)["tqdm"] = lambda cells, **_: cells
    print(
        f"{'case':34} {'ours s':>8} {'TL s':>8} {'times faster':>18}"
        f" {'counted':>8} {'floor':>8} {'ratio':>6} {'time':>8} {'ratio':>6} {'largest difference':>9}"
    )
    repeats = arguments.repeats
    for name, runs in (("direct", 64), ("sft", 64), ("direct", 8), ("sft", 8)):
        case = organism_case(name, "answer-only" if name == "direct" else "cot", runs)
        measure(f"{name}, {len(case[1])} pairs, {case[1].shape[1]} tokens", *case, repeats)
    measure("8 layers x 24 tokens, d 512, 2 runs", *random_case(8, 24, 512, 2), repeats)
    measure("8 layers x 24 tokens, d 512, 8 runs", *random_case(8, 24, 512, 8), max(1, repeats // 2))
    measure("16 layers x 64 tokens, d 256, 2 runs", *random_case(16, 64, 256, 2), max(1, repeats // 3))


if __name__ == "__main__":
    main()
