"""How far maps by gradients are from exact ones, over all cells, and what they cost.

`python benchmarks/patch_gradient.py` prints a line for every organism, site and number of steps: the rank correlation
of effects over the cells that can change something, their slope through 0, the largest miss in units of the whole
effect and its cell, how many of the ten largest cells are found, and the time beside that of the exact sweep.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import loadbearing as lb
from loadbearing.analyses.patch_guess import agreement
from loadbearing.organisms.specs import FORMAT

RUNS = (("direct", "answer-only"), ("sft", "cot"), ("both", "cot"))
SITES = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "neurons")
TOP = 10


def timed(**how: Any) -> tuple[Any, float]:
    """A map, and the seconds that it took."""
    began = time.process_time()
    return lb.analyses.patch(**how), time.process_time() - began


def effects(found: Any) -> Any:
    """Mean effect of every cell in units of the whole."""
    return (found.values - found.base).mean(-1) / (found.source - found.base).mean()


def compare(exact: Any, guess: Any) -> dict[str, Any]:
    """The agreement over all cells that can change something."""
    live = ~guess.exact
    measured, guessed = effects(exact), effects(guess)
    facts: dict[str, Any] = agreement(measured[live], guessed[live])
    at = np.unravel_index(int(np.where(live, np.abs(measured - guessed), -1).argmax()), measured.shape)
    names = [guess.coords[name][place] for name, place in zip(guess.axes["values"][:-1], at, strict=True)]
    largest = [set(np.argsort(-np.abs(one[live]))[:TOP].tolist()) for one in (measured, guessed)]
    return {
        **facts,
        "cells": int(live.sum()),
        "where": " ".join(map(str, names)),
        "found": len(largest[0] & largest[1]),
        "of": len(largest[0]),
        "at": f"{measured[at]:+.2f} guessed {guessed[at]:+.2f}",
        "wide": float(np.abs(measured[live]).max()),
    }


def random_case(layers: int = 8, words: int = 18, width: int = 512) -> dict[str, Any]:
    """A larger Llama with random weights, and a pair that differs in its first word: for times, not for agreement."""
    tokenizer = lb.hooks.load("organism:direct").tokenizer
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
    )
    module = LlamaForCausalLM(config).eval()
    module.set_attn_implementation("eager")
    model = lb.hooks.load(module, tokenizer=tokenizer, format=FORMAT)
    task = lb.tasks.Questions()
    for number, first in enumerate("4783"):
        text = [lb.tasks.Piece(first, "operand.1"), lb.tasks.Piece(" + 2" * ((words - 1) // 2))]
        task.add(f"q{number}", text, "6", cot=f" {9 - int(first)}", partner=f"q{number ^ 1}")
    problems = [p for pair in task.pairs(2) for p in (pair.recipient, pair.donor)]
    runs = lb.hooks.replay(model, problems, [p.cot for p in problems], max_answer_tokens=1)
    return {"model": model, "pairs": task.pairs(2), "mode": "cot", "target": "answer", "cot": runs}


def organism_case(name: str, mode: str, pairs: int) -> dict[str, Any]:
    """An organism and pairs of its task."""
    model: Any = lb.hooks.load(f"organism:{name}", attention="eager")
    return {"model": model, "pairs": model.task.pairs(pairs), "mode": mode}


def report(name: str, how: dict[str, Any], steps: Sequence[int]) -> None:
    """Print the lines of one site."""
    timed(**how, method="gradient", sample=0)  # warms up
    exact, seconds = timed(**how)
    for n in steps:
        guess, taken = timed(**how, method="gradient", steps=n, sample=0)
        facts = compare(exact, guess)
        forwards = [f"{found.manifest.circumstance['forwards']:.0f}" for found in (guess, exact)]
        print(
            f"{name:7s}{how['site']:10s}{n:4d} steps  cells {facts['cells']:5d}  "
            f"rank {facts['spearman'] or np.nan:6.2f}  slope {facts['slope'] or np.nan:6.2f}  "
            f"largest {facts['wide']:5.2f}  miss {facts['miss']:5.2f} ({facts['where']}: {facts['at']})  "
            f"top {facts['found']} of {facts['of']}  time {taken:5.2f} s of {seconds:6.2f} s, "
            f"forwards {' of '.join(forwards)}",
            flush=True,
        )


def main() -> None:
    """Print all lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=[name for name, _ in RUNS])
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--sites", nargs="+", default=SITES)
    parser.add_argument("--metric", default="log-odds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = {name: partial(organism_case, name, mode, given.pairs) for name, mode in RUNS} | {"random": random_case}
    for name in given.cases:
        case = cases[name]()
        for site in given.sites:
            report(name, {**case, "site": site, "metric": given.metric}, given.steps)


if __name__ == "__main__":
    main()
