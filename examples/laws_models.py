"""The small models of examples/laws.py: cells to train, and what is counted in a trained one."""

import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from loadbearing import hooks
from loadbearing.core import InputError
from loadbearing.hooks.format import Spans
from loadbearing.hooks.sites import Site
from loadbearing.hooks.sweep import open_interior
from loadbearing.hooks.trace import trace
from loadbearing.organisms.specs import FORMAT, Part, Supervised
from loadbearing.organisms.supervised import held_out_problems, train_supervised
from loadbearing.organisms.tokenizer import build_tokenizer
from loadbearing.tasks import Piece, Problem, Step, Task, load
from loadbearing.tasks.problem import Pairs, Split, in_test_split, parse_options, write_spec
from loadbearing.tasks.registry import TASKS

BATCH, RATE, ASKED, LEAST = 64, 2e-3, 500, 50
# What training examples write between prompt and answer, and in which ways the trained model is asked.
ARMS = {
    "answer": (("nothing",), ("answer",)),
    "CoT": (("gold",), ("CoT",)),
    "dots": (("dots",), ("dots",)),
    "mixed": (("dots", "gold"), ("dots", "CoT")),
    "both": (("nothing", "gold"), ("answer", "CoT")),
}


class Match3(Task):
    """Do three of the numbers add up to 0 modulo `modulus`? A chain of thought writes the sum of every two.

    A shrunk 3SUM (arXiv:2404.15758). Every step reads the prompt alone, so that the chain is parallelisable. Half of
    the problems are a "1" (three do); one in ten is held out, by a hash of its text.

    >>> problem = Match3("match3:terms=4,modulus=10").problem((1, 2, 7, 9))
    >>> problem.prompt, problem.cot, problem.answer
    ('1 2 7 9', ' 3 8 0 9 1 6', '1')
    """

    name: ClassVar[str] = "match3"
    defaults: ClassVar[Mapping[str, Any]] = {"terms": 6, "modulus": 10}
    serial = False

    def __init__(self, spec: str = name) -> None:
        options = parse_options(spec, self.defaults)
        self.spec = write_spec(self.name, options, self.defaults)
        self.terms, self.modulus = int(options["terms"]), int(options["modulus"])
        self.inputs = tuple(f"operand.{k}" for k in range(1, self.terms + 1))
        self.intermediates = tuple(f"v_{k}" for k in range(1, self.terms * (self.terms - 1) // 2 + 1))

    def problem(self, numbers: Sequence[int]) -> Problem:
        """The problem of these numbers."""
        words = [str(number) for number in numbers]
        pieces = [
            Piece(" " * (k > 0) + word, name) for k, (word, name) in enumerate(zip(words, self.inputs, strict=True))
        ]
        sums = [str((one + other) % self.modulus) for one, other in itertools.combinations(numbers, 2)]
        steps = [Piece(f" {value}", f"step.{k}") for k, value in enumerate(sums, start=1)]
        found = any(sum(three) % self.modulus == 0 for three in itertools.combinations(numbers, 3))
        values = dict(zip((*self.inputs, *self.intermediates), (*words, *sums), strict=True))
        return Problem(" ".join(words), tuple(pieces), str(int(found)), tuple(steps), values, self)

    def problems(self, n: int, seed: int = 0, split: Split = "test") -> list[Problem]:
        rng, left = np.random.default_rng(seed), {"0": (n + 1) // 2, "1": n // 2}
        found: dict[str, Problem] = {}
        while len(found) < n:
            problem = self.problem(rng.integers(self.modulus, size=self.terms).tolist())
            held_out = in_test_split(problem.key)
            if left[problem.answer] and problem.key not in found and held_out == (split == "test"):
                found[problem.key] = problem
                left[problem.answer] -= 1
        return list(found.values())

    def pairs(self, n: int, seed: int = 0, vary: str | None = None, tokenizer: Any = None) -> Pairs:
        raise InputError(f"task {self.spec!r} makes no pairs")

    def parse_steps(self, text: str) -> list[Step]:
        return []

    def parse_answer(self, text: str) -> str | None:
        return text.strip() or None

    def words(self) -> list[str]:
        return [str(number) for number in range(self.modulus)]


# Training and tokenizer take tasks by their spec.
cast("dict[str, type[Task]]", TASKS).setdefault(Match3.name, Match3)


@dataclass(frozen=True)
class Cell:
    """A model to train.

    task: spec without its length; lengths: those trained on, "2 4 8", each joining the shorter ones a little later;
    arm: a name in `ARMS`; asked: the lengths at which held-out problems are asked, empty for the last one
    """

    law: str
    task: str
    lengths: str
    arm: str
    layers: int
    updates: int
    width: int = 64
    heads: int = 4
    seed: int = 0
    asked: str = ""

    def spec(self, length: int) -> str:
        """The task at a length."""
        name = "length" if self.task.startswith("permutations") else "terms"
        return f"{self.task}{',' if ':' in self.task else ':'}{name}={length}"

    @property
    def trained(self) -> list[int]:
        """The lengths trained on."""
        return [int(length) for length in self.lengths.split()]

    @property
    def problems(self) -> dict[int, list[Problem]]:
        """By length `ASKED` held-out problems or, where fewer than `LEAST` are held out, all there are."""
        lengths = [int(length) for length in self.asked.split()] or self.trained[-1:]
        found = {}
        for n in lengths:
            task = load(self.spec(n))
            held_out = held_out_problems(task, ASKED, seed=1)
            found[n] = held_out if len(held_out) >= min(LEAST, ASKED) else task.all_problems()
        return found


CELL = [field.name for field in fields(Cell)]
COLUMNS = [*CELL, "parameters", "length", "measure", "value", "n", "seconds"]
Row = tuple[int, str, float, int]
"""Length, measure, its mean over problems, and how many problems."""


def new_model(cell: Cell, tokenizer: Any) -> Any:
    """A GPT-2 (learned positions, as in the papers) without dropout, its weights drawn from the cell's seed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=96,
        n_embd=cell.width,
        n_layer=cell.layers,
        n_head=cell.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        model = GPT2LMHeadModel(config)
    model.set_attn_implementation("eager")  # the one that gives its pattern
    return model


def lessons(cell: Cell) -> tuple[Part, ...]:
    """The parts of the training: a longer problem joins later, and is drawn more often."""
    lengths = cell.trained
    return tuple(
        Part(cell.spec(length), write, share=1 + place, since=place / (2 * len(lengths)))
        for place, length in enumerate(lengths)
        for write in ARMS[cell.arm][0]
    )


def train(cell: Cell) -> pd.DataFrame:
    """Train one model and measure it: a row a measure."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    tokenizer = build_tokenizer(load(cell.spec(cell.trained[-1])), FORMAT)
    module = new_model(cell, tokenizer)
    untrained = hooks.load(new_model(cell, tokenizer).eval(), tokenizer=tokenizer, format=FORMAT)
    stage = Supervised(lessons(cell), updates=cell.updates, batch=BATCH, rate=RATE, pool=20_000)
    with tempfile.TemporaryDirectory() as scratch:
        train_supervised(module, stage, tokenizer, FORMAT, Path(scratch), seed=cell.seed, progress=False)
    model = hooks.load(module, tokenizer=tokenizer, format=FORMAT)
    rows = accuracies(model, cell)
    if cell.law == "iteration":
        rows += heads_of(model, cell, "") + heads_of(untrained, cell, "untrained ")
    parameters = sum(weight.numel() for weight in module.parameters())
    seconds = round(time.perf_counter() - began)
    found = [(*astuple(cell), parameters, *row, seconds) for row in rows]
    return pd.DataFrame(found, columns=COLUMNS)


# --- what is counted


def answers(model: hooks.Model, problems: Sequence[Problem], way: str) -> list[str | None]:
    """What the model answers: at once, after its own chain of thought (greedy), or after dots that it is given."""
    if way == "dots":
        runs = hooks.replay(model, problems, [" ." * len(problem.steps) for problem in problems])
    else:
        longest = 8 + max(len(problem.steps) for problem in problems)
        runs = hooks.generate(model, problems, "cot" if way == "CoT" else "answer-only", max_new_tokens=longest)
    return [run.answer for run in runs]


def accuracies(model: hooks.Model, cell: Cell) -> list[Row]:
    """The share of right answers in every way that the arm is asked, and, asked in two, the share of equal ones."""
    rows: list[Row] = []
    for length, problems in cell.problems.items():
        found = {way: answers(model, problems, way) for way in ARMS[cell.arm][1]}
        right = {way: [a == p.answer for a, p in zip(given, problems, strict=True)] for way, given in found.items()}
        rows += [(length, way, float(np.mean(hits)), len(hits)) for way, hits in right.items()]
        if cell.arm == "both":
            same = [one == other for one, other in zip(found["answer"], found["CoT"], strict=True)]
            rows.append((length, "same", float(np.mean(same)), len(same)))
    return rows


def heads_of(model: hooks.Model, cell: Cell, name: str) -> list[Row]:
    """The attention of each layer (its heads' mean) over gold chains, from the step before."""
    rows: list[Row] = []
    for length, problems in cell.problems.items():
        runs = hooks.replay_gold(model, problems)
        spans = runs[0].spans
        ids = torch.tensor([run.ids[: spans["cue"][1]] for run in runs])  # answers may differ in length
        layers = range(model.n_layers)
        with torch.no_grad():
            inside = trace(model, open_interior(model), ids, sites=[Site("pattern", layer) for layer in layers])
        for layer in layers:
            pattern = inside.get("pattern", layer).mean(2).numpy()
            found = masses(pattern, spans, length)
            rows += [(length, f"{name}layer {layer + 1}, {what}", value, len(ids)) for what, value in found.items()]
    return rows


def masses(pattern: Float[np.ndarray, "run query key"], spans: Spans, length: int) -> dict[str, float]:
    """Where the token of step k, from which step k + 1 is predicted, attends to: means over runs and steps.

    Step k + 1 needs operand k + 2, and nothing else of the prompt: "operand" is the mass there, "operand > .5" how
    often it is more than half (the two measures of arXiv:2406.02128), "open" the mass on the mark that ends the prompt,
    "step 2 to 7" the mean attention from step 2 to the token at position 7.
    """
    steps = [spans[f"step.{k}"][0] for k in range(1, length - 1)]  # from the last one the cue is predicted
    operands = [spans[f"operand.{k}"][0] for k in range(3, length + 1)]
    mark = spans["open"][0]
    mass = pattern[:, steps, operands]
    found = {"operand": mass.mean(), "operand > .5": (mass > 0.5).mean(), "open": pattern[:, steps, mark].mean()}
    means = pattern[:, steps, : mark + 1].mean(0)
    found |= {f"step {k} to {at}": means[k - 1, at] for k in range(1, length - 1) for at in range(mark + 1)}
    return {name: float(value) for name, value in found.items()}
