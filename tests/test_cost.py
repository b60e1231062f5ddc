"""What `cost` says is what analyses do: tokens are counted where they pass through the network, in real calls.

Batches of one, so that there is no padding and no finished row that waits; the cost of one more problem or pair is the
difference of two calls, in which gates and other work that is done once a call falls out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import LlamaConfig

import loadbearing as lb
from loadbearing.analyses import Lengths, cost
from loadbearing.analyses.behaviour_table import TAMPERINGS
from loadbearing.analyses.cost_rows import ROWS
from loadbearing.analyses.eight import memory_of
from loadbearing.analyses.prepare import prepare
from loadbearing.core import InputError
from loadbearing.hooks import Runs, generate, record

CLOSE = 0.15
# One organism at once; the others take minutes.
MODELS = ("both", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rl-able", "long answers")))
Call = Callable[[Any, Any, Any], Any]


class Passed:
    """How many tokens went through all layers; a token that goes through one of two is half of one.

    Counted at the MLPs, which views of a model and its random twin have too: positions that only give keys and values
    never come there.
    """

    def __init__(self, model: Any) -> None:
        self.layers, self.kind, self.count = model.n_layers, type(model.sites.blocks[0].block.mlp), 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        def see(module: Any, given: tuple[Any, ...]) -> None:
            if isinstance(module, self.kind):
                self.count += given[0].shape[:-1].numel()

        handle = register_module_forward_pre_hook(see)
        try:
            yield
        finally:
            handle.remove()


def tokens(model: Any, run: Callable[[], Any]) -> float:
    """The tokens that a call sends through the network."""
    passed = Passed(model)
    with passed.counting():
        run()
    assert passed.count
    return float(passed.count / passed.layers)


def forwards(model: Any, runs: Any, run: Callable[[int], Any], few: int, many: int) -> float:
    """Forward-equivalents of one more problem or pair."""
    more = tokens(model, lambda: run(many)) - tokens(model, lambda: run(few))
    return more / (many - few) / float(np.mean([len(one.ids) for one in runs]))


def told(model: Any, runs: Any, name: str, **options: Any) -> float:
    """What `cost` says of an analysis."""
    return float(cost(model, runs, **options).set_index("analysis")["forwards"][name])


def first(many: Any, n: int) -> Any:
    """The first few pairs or runs."""
    return replace(many, items=many.items[:n])


def of(runs: Any) -> list[Any]:
    """The problems of runs."""
    return [run.problem for run in runs]


@pytest.fixture(scope="module")
def made(organism: Any) -> Callable[[str], tuple[Any, Any, Any]]:
    """A model, pairs, and their runs: steps of a token, more steps, and answers of several tokens."""
    known: dict[str, tuple[Any, Any, Any]] = {}

    def get(name: str) -> tuple[Any, Any, Any]:
        if name not in known:
            model = organism("both" if name == "long answers" else name)
            pairs = model.task.pairs(18)
            runs = generate(model, pairs.problems)
            known[name] = model, pairs, _with_long(runs) if name == "long answers" else runs
        return known[name]

    return get


def _with_long(runs: Any) -> Any:
    """The runs with their chain of thought, said once more, as the answer."""
    longer = []
    for run in runs:
        start, said = run.spans["answer"][0], run.tokens("cot")
        spans = {**run.spans, "answer": (start, start + len(said))}
        longer.append(replace(run, ids=run.ids[:start] + said, spans=spans, answer=" ".join(run.values.values())))
    return Runs(tuple(longer), runs.mode, runs.model)


ONE: dict[str, Any] = {"batch_size": 1}
A = lb.analyses
OF_PAIRS: dict[str, Call] = {
    "channels, answer": lambda model, pairs, runs: A.channels(model, pairs, target="answer", cot=runs),
    "patch, cot": lambda model, pairs, runs: A.patch(model, pairs, mode="cot", target="answer", cot=runs),
    "attribution, cot": lambda model, pairs, runs: A.attribution(model, pairs, mode="cot", target="answer", cot=runs),
}
OF_RUNS: dict[str, Call] = {
    "ablation": lambda model, runs, some: A.ablation(model, of(some), target="answer", cot=runs),
    "behaviour": lambda model, runs, some: A.behaviour(model, of(some), cot=runs, tamperings=TAMPERINGS, **ONE),
    "commitment": lambda model, runs, some: A.commitment(
        model, of(some), cot=runs, lines=["probe", "forced"], shuffles=0, folds=3, **ONE
    ),
    "knockout of the cue, by layer": lambda model, _, some: A.knockout(model, some, "cue", "cot", each="layer"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("analysis", OF_PAIRS)
def test_analyses_of_pairs(name: str, analysis: str, made: Any) -> None:
    model, pairs, runs = made(name)
    found = forwards(model, runs, lambda n: OF_PAIRS[analysis](model, first(pairs, n), runs), 8, 16)
    assert found == pytest.approx(told(model, runs, analysis), rel=CLOSE)


@pytest.mark.parametrize("analysis", OF_RUNS)
def test_analyses_of_runs(analysis: str, made: Any) -> None:
    model, _, runs = made("both")
    found = forwards(model, runs, lambda n: OF_RUNS[analysis](model, runs, first(runs, n)), 16, 24)
    assert found == pytest.approx(told(model, runs, analysis), rel=CLOSE)


def test_writing_and_recording(made: Any) -> None:
    model, _, runs = made("both")

    def recorded(n: int) -> Any:
        return record(model, first(runs, n), **ONE)

    calls: dict[str, Callable[[int], Any]] = {
        "generate, cot": lambda n: generate(model, of(runs)[:n], **ONE),
        "generate, answer-only": lambda n: generate(model, of(runs)[:n], "answer-only", **ONE),
        "record, one position": recorded,
    }
    for name, call in calls.items():
        assert forwards(model, runs, call, 8, 16) == pytest.approx(told(model, runs, name), rel=CLOSE), name
    kept = cost(model, runs).set_index("analysis")["kept_bytes"]["record, one position"]
    assert kept == recorded(8).values["resid_post"].nbytes / 8


def test_probes_write_and_record_both_runs_and_the_twin_s(made: Any) -> None:
    model, _, runs = made("both")
    how: dict[str, Any] = {"shuffles": 0, "folds": 3, "text": False}
    found = forwards(model, runs, lambda n: A.decodability(model, of(runs)[:n], **how), 24, 36)
    assert found == pytest.approx(told(model, runs, "decodability"), rel=CLOSE)
    seen = tokens(model, lambda: A.beyond(model, of(runs), cot=runs, shuffles=0, folds=3, readers=["linear"]))
    assert seen / sum(len(run.ids) for run in runs) == pytest.approx(told(model, runs, "beyond"), rel=CLOSE)


@pytest.mark.parametrize("name", MODELS[:2])
def test_the_ledger_is_what_its_scored_swaps_take_and_no_more_than_all(name: str, made: Any) -> None:
    model, _, runs = made(name)
    results = []
    found = forwards(model, runs, lambda n: results.append(A.ledger(model, of(runs)[:n], cot=runs, **ONE)), 16, 24)
    targets, sources, _ = results[0].load.shape
    steps = len(results[0].coords["step"])
    swaps = targets * (sources - steps) + steps * (steps + 1) // 2  # a step is a source of later targets only
    scored = float(np.isfinite(results[0].load).mean(axis=2).sum() / swaps)
    assert found == pytest.approx(told(model, runs, "ledger", scored=scored), rel=CLOSE)
    assert found <= told(model, runs, "ledger")


def test_the_onset_is_a_bound(made: Any) -> None:
    model, pairs, runs = made("both")
    found = forwards(model, runs, lambda n: A.channels(model, first(pairs, n), cot=runs), 8, 16)
    assert 0.7 * told(model, runs, "channels, onset") < found <= told(model, runs, "channels, onset")


def test_bytes_of_the_splice_are_those_that_batches_are_made_by(made: Any) -> None:
    model, pairs, runs = made("both")
    aims = prepare(model, pairs, "answer", runs).aims
    said = cost(model, runs).set_index("analysis").loc["channels, answer"]
    assert said["row_bytes"] == pytest.approx(memory_of(model, aims), rel=CLOSE)
    result = A.channels(model, pairs, target="answer", cot=runs)
    states = 8 * 4 * model.module.config.hidden_size
    assert said["kept_bytes"] == pytest.approx(
        sum(a.nbytes for a in result.arrays().values()) / len(pairs) + states, rel=CLOSE
    )


def test_a_configuration_is_enough_and_costs_no_weights() -> None:
    shape = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, dtype="bfloat16")
    found = cost(shape, Lengths(prompt=150, cot=1000, cue=5, answer=3, steps=10, step=3, inputs=4))
    assert found["analysis"].tolist() == list(ROWS)
    assert (found["forwards"] > 0).all() and found["forwards"].max() == found.set_index("analysis")["forwards"][
        "patch, cot"
    ]


def test_longer_chains_cost_more(made: Any) -> None:
    model, _, _ = made("both")
    short, long = (cost(model, Lengths(prompt=20, cot=n, steps=4)) for n in (10, 100))
    assert (long["row_bytes"] >= short["row_bytes"]).all()


def test_what_cannot_be_reckoned_is_said(made: Any) -> None:
    model, _, runs = made("both")
    with pytest.raises(InputError, match="a prompt of at least one token, and no number below 0"):
        Lengths(prompt=0, cot=3)
    with pytest.raises(InputError, match="expected a model, a module or a configuration of transformers, got str"):
        cost("both", Lengths(prompt=3, cot=3))
    with pytest.raises(InputError, match="unknown tampering 'mistakes'"):
        cost(model, runs, tamperings=["mistakes"])
    with pytest.raises(InputError, match="expected a share from 0 to 1"):
        cost(model, runs, scored=2.0)
    with pytest.raises(InputError, match="no run has a chain of thought"):
        cost(model, generate(model, of(runs)[:2], "answer-only"))
