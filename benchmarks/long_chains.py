"""What long chains of thought cost: peak memory against the `memory` that is allowed, and time.

`python benchmarks/long_chains.py` prints a line for every step of the work (in a process of its own, since a process
does not give back its peak), on a random Llama of `--layers` blocks of `--width` with a vocabulary of 32,000 words, for
`--runs` chains of `--tokens` tokens: the gigabytes allowed, the peak above what the loaded model takes, the seconds.
`python benchmarks/long_chains.py STEP` measures one step in this process and prints it as JSON.
"""

import argparse
import gc
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import loadbearing as lb

WORDS = 32_000
FORM = lb.hooks.Format(open=" think", close=" answer", cue=" answer", end=" stop")


def build(layers: int, width: int, longest: int) -> lb.hooks.Model:
    """A random Llama over words, whose heads share keys four by four."""
    words = ["<eos>", "think", "answer", "stop", *(f"w{i}" for i in range(WORDS - 4))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=longest,
        eos_token_id=0,
        pad_token_id=0,
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", clean_up_tokenization_spaces=False)
    return lb.hooks.load(LlamaForCausalLM(config).eval(), tokenizer=wrapped, format=FORM)


class Words(lb.tasks.Questions):
    """Questions whose answer is any word; the first two words of a chain are its steps."""

    def parse_steps(self, text: str) -> list[lb.tasks.Step]:
        """So that the ledger has something to swap at the start of a long text."""
        words = enumerate(islice(re.finditer(r"\S+", text), 2), start=1)
        return [lb.tasks.Step(item, word[0], *word.span()) for item, word in words]

    def parse_answer(self, text: str) -> str | None:
        """The first word."""
        return next(iter(text.split()), None)


def questions(runs: int) -> Any:
    """Pairs of problems that differ in one word; chains of unequal lengths are written for them by `chains`."""
    task = Words()
    for i in range(runs):
        task.add(f"q{i}", f"w{i} w1 w2", f"w{i}", partner=f"q{i ^ 1}")
    return task


def chains(runs: int, tokens: int) -> dict[str, list[int]]:
    """Random tokens, no two chains of one length."""
    draw = torch.Generator().manual_seed(1)
    return {f"q{i}": torch.randint(4, WORDS, (tokens - i,), generator=draw).tolist() for i in range(runs)}


def steps(model: lb.hooks.Model, runs: int, tokens: int, memory: float) -> dict[str, Callable[[], Any]]:
    """The work that is measured, by name."""
    task = questions(runs)
    problems = task.problems(runs)
    given = chains(runs, tokens)
    drawn: dict[str, Any] = {"samples": 2, "temperature": 1.0, "max_new_tokens": tokens // 4}

    def replayed(few: int = 16) -> Any:
        return lb.hooks.replay(model, problems, given, max_answer_tokens=few, memory=memory)

    return {
        "generate": lambda: lb.hooks.generate(model, problems, max_new_tokens=tokens // 2, memory=memory),
        "sample": lambda: lb.hooks.generate(model, problems, memory=memory, **drawn),
        "replay": replayed,
        "record": lambda: lb.hooks.record(model, replayed(1), ["resid_post"], ["cot[:64]", "cue[-1]"], memory=memory),
        "channels": lambda: lb.analyses.channels(
            model, task.pairs(runs // 2), cot=replayed(1), target="answer", boundary=False, memory=memory
        ),
        "ablation": lambda: lb.analyses.ablation(model, problems, cot=replayed(1), target="answer", memory=memory),
        "ledger": lambda: lb.analyses.ledger(model, problems, cot=replayed(1), memory=memory),
    }


def peak() -> float:
    """The most memory that this process has taken, in gigabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """One step in this process: what it took above what the same step takes on two short chains."""
    model = build(asked.layers, asked.width, 2 * asked.tokens)
    steps(model, 2, 16, asked.memory)[asked.step]()
    gc.collect()
    before, began = peak(), time.perf_counter()
    steps(model, asked.runs, asked.tokens, asked.memory)[asked.step]()
    return {"step": asked.step, "memory": asked.memory, "peak": peak() - before, "seconds": time.perf_counter() - began}


def main(given: Sequence[str] | None = None) -> None:
    """Print a line a step."""
    names = ("generate", "sample", "replay", "record", "channels", "ablation", "ledger")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", nargs="?", choices=names)
    for name, kind, default in (
        ("layers", int, 4), ("width", int, 256), ("runs", int, 16), ("tokens", int, 2000), ("memory", float, 0.25)
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=default)
    asked = parser.parse_args(given)
    if asked.step:
        print(json.dumps(measure(asked)))
        return
    options = [f"--{name}={value}" for name, value in vars(asked).items() if name != "step"]
    for name in names:
        told = subprocess.run([sys.executable, __file__, name, *options], capture_output=True, text=True, check=True)
        facts = json.loads(told.stdout.splitlines()[-1])
        print(f"{name:10} allowed {facts['memory']:.2f} GB  peak {facts['peak']:.2f} GB  {facts['seconds']:.0f} s")


if __name__ == "__main__":
    main()
