"""The ledger: a chain is told from a projection, copies from computing, blank from zero."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.core import InputError, Manifest

STEPS = ("step.1", "step.2", "step.3")
VARIABLES = ("operand.1", "operand.2", "operand.3", "operand.4")


@pytest.fixture(scope="module")
def chain(organism: Callable[[str], Any]) -> Any:
    model = organism("sft")
    return lb.analyses.ledger(model, model.task.problems(32))


def test_a_trained_chain_loads_on_the_step_before_and_the_next_operand(chain: Any) -> None:
    expected = {
        "step.1": {"operand.1", "operand.2"},
        "step.2": {"step.1", "operand.3"},
        "step.3": {"step.2", "operand.4"},
        "answer": {"step.3"},
    }
    for target, sources in expected.items():
        for source in chain.sources:
            load, _, _, n = chain.rate("load", target, source)
            if n:
                assert (load > 0.95) == (source in sources), (target, source, load)
                keep = chain.rate("keep", target, source)[0]
                assert (keep > 0.95) == (source not in sources), (target, source, keep)
    assert chain.serial_share()[0] > 0.95
    assert chain.depth() == 2


def test_load_keep_and_broken_are_all_that_can_happen(chain: Any) -> None:
    known = ~np.isnan(chain.load)
    np.testing.assert_array_equal((chain.load + chain.keep + chain.broken)[known], 1.0)
    assert np.isnan(chain.keep[~known]).all()


def test_edges_that_say_nothing_are_blank_and_not_zero(chain: Any) -> None:
    # Step 1 does not contain operand 3, and no text after a step can reach it.
    for target, source in (("step.1", "operand.3"), ("step.1", "step.2"), ("step.2", "step.2")):
        assert math.isnan(chain.rate("load", target, source)[0])
        assert chain.rate("load", target, source)[3] == 0
        assert chain.frame().query("target == @target and source == @source").empty


def test_the_answer_copies_the_last_step_and_the_copy_is_no_depth(chain: Any) -> None:
    marked = {(chain.targets[t], chain.sources[s]) for t, s in zip(*np.nonzero(chain.copy_edge), strict=True)}
    assert marked == {("answer", "step.3")}
    assert ("answer", "step.3") not in chain.step_edges
    assert chain.step_edges == [("step.2", "step.1"), ("step.3", "step.2")]


def test_a_model_that_reads_the_prompt_only_has_no_load_from_its_steps(organism: Callable[[str], Any]) -> None:
    model = organism("copy-direct")
    found = lb.analyses.ledger(model, model.task.problems(32), cot="task")
    assert found.rate("load", "answer", "value")[0] == 1.0
    # The program gives the written token no part in the answer: nothing to score, so the edge is blank.
    assert found.rate("load", "answer", "step.1")[3] == 0


def test_a_short_chain_ends_in_an_answer_that_is_computed(organism: Callable[[str], Any]) -> None:
    """One step short of the answer, the last edge is no copy: for `sft`, which never saw such texts, just measured."""
    model = organism("sft")
    task = lb.tasks.load("modular-sum:cot=short")
    found = lb.analyses.ledger(model, task.problems(16), cot="task")
    assert found.targets == ("step.1", "step.2", "answer")
    assert not found.copy_edge.any()
    assert found.step_edges == [("step.2", "step.1"), ("answer", "step.2")]


def table(load: dict[tuple[str, str], float], n: int = 40) -> Any:
    """A ledger with these loads, all other edges at 0."""
    targets, sources = (*STEPS, "answer"), (*VARIABLES, *STEPS)
    values = np.full((4, 7, n), np.nan)
    copies = np.zeros((4, 7), dtype=bool)
    copies[3, 6] = True
    for (target, source), rate in load.items():
        values[targets.index(target), sources.index(source)] = np.arange(n) < rate * n
    arrays: dict[str, Any] = {"load": values, "keep": 1 - values, "broken": 0 * values, "chance": 0 * values}
    arrays |= {"unswapped": 0 * values + 1, "own": np.zeros((4, n)), "copy_edge": copies}
    coords = {"target": targets, "source": sources, "problem": tuple(map(str, range(n)))}
    return lb.analyses.Ledger(coords=coords, manifest=Manifest(), **arrays)


@pytest.mark.parametrize(
    ("load", "serial", "depth"),
    [
        ({("step.2", "step.1"): 1, ("step.3", "step.2"): 1, ("answer", "step.3"): 1}, 1.0, 2),
        ({("step.2", "step.1"): 0, ("step.3", "step.2"): 0, ("answer", "step.3"): 1}, 0.0, 0),
        ({("step.2", "step.1"): 1, ("step.3", "step.2"): 0, ("answer", "step.3"): 1}, 0.5, 1),
        # A step that skips one: step 3 from step 1.
        ({("step.2", "step.1"): 0, ("step.3", "step.2"): 0, ("step.3", "step.1"): 1}, 0.0, 1),
        # The answer computed from step 2, not copied from step 3.
        ({("step.2", "step.1"): 1, ("step.3", "step.2"): 0, ("answer", "step.2"): 1}, 0.5, 2),
        # Just above one half is not enough: the lower bound must be.
        ({("step.2", "step.1"): 0.55, ("step.3", "step.2"): 0.9}, 0.725, 1),
    ],
)
def test_serial_share_and_depth_of_tables_made_by_hand(
    load: dict[tuple[str, str], float], serial: float, depth: int
) -> None:
    found = table(load)
    estimate, low, high = found.serial_share()
    assert estimate == pytest.approx(serial, abs=1e-9)
    assert low <= estimate <= high
    assert found.depth() == depth


def test_a_wrong_step_does_not_make_an_edge_that_the_program_lacks(organism: Callable[[str], Any]) -> None:
    """Step 1 has no operand 3: where the model got step 1 wrong, a return to the right value is no load."""
    from loadbearing.analyses.ledger import _edge, _swap
    from loadbearing.analyses.ledger_texts import Texts

    model = organism("sft")
    runs = list(lb.hooks.generate(model, model.task.problems(8)))
    texts = Texts.decode(model, runs, ("step.1",), 512)
    texts.own["step.1"][:] = [str((int(run.values[1]) + 1) % 10) for run in runs]
    for source, scorable in (("operand.3", False), ("operand.2", True)):
        rng = np.random.default_rng(0)
        swaps = [_swap(texts, i, source, "step.1", "program", rng) for i in range(len(runs))]
        found = _edge(texts, "step.1", swaps)
        if scorable:
            assert np.nanmean(found["load"]) == 1.0
            assert np.nanmax(found["unswapped"]) == 0.0
        else:
            assert set(swaps) == {"the swap does not change what the program implies"}
            assert all(np.isnan(values).all() for values in found.values())


def test_few_problems_do_not_make_a_path() -> None:
    certain = {("step.2", "step.1"): 1.0, ("step.3", "step.2"): 1.0}
    assert table(certain, n=2).depth() == 0
    assert table(certain, n=40).depth() == 2
    _, low, high = table(certain, n=32).serial_share()
    assert (low, high) == (pytest.approx(0.893, abs=1e-3), 1.0)


def test_chance_is_what_the_swap_implies_elsewhere(chain: Any) -> None:
    assert chain.serial_share("chance")[0] < 0.35
    assert chain.serial_share()[0] > 0.95


def test_saved_and_loaded(chain: Any, tmp_path: Path) -> None:
    loaded = lb.load(chain.save(tmp_path / "ledger.safetensors"))
    assert loaded.frame().equals(chain.frame())
    assert loaded.depth() == chain.depth()


def test_a_task_without_program_and_steps_is_refused(tiny: Callable[[str], Any], ragged: Any) -> None:
    model = tiny("llama")
    runs = lb.hooks.replay(model, ragged.problems(6), {p.key: p.cot for p in ragged.problems(6)}, max_answer_tokens=1)
    told = "has no reference program and reads no step in these chains of thought.*Give the task a parse_steps"
    with pytest.raises(InputError, match=told):
        lb.analyses.ledger(model, ragged.problems(6), cot=runs)


def test_runs_that_state_other_steps_are_left_out_and_counted(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    problems = model.task.problems(12)
    texts = {p.key: p.cot if i else " 1 2" for i, p in enumerate(problems)}
    found = lb.analyses.ledger(model, problems, cot=texts)
    reason = "states steps 1, 2 where most runs state steps 1, 2, 3"
    assert found.manifest.circumstance["dropped"] == {reason: 1}
    assert problems[0].key not in found.coords["problem"]
    assert ("all", "all", reason, 1) in found.left_out().itertuples(index=False, name=None)
    assert found.notes()["left out"] == f"1 runs: {reason}"


def test_runs_of_which_most_cannot_be_compared_are_refused(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    problems = model.task.problems(9)
    texts = {p.key: " 1" * (2 + i % 3) for i, p in enumerate(problems)}
    told = (
        r"6 of 9 runs cannot be compared step by step \(\{'states steps 1, 2, 3 where most runs state steps 1, 2': 3, "
        r".*\): take problems whose chains of thought have the same steps"
    )
    with pytest.raises(InputError, match=told):
        lb.analyses.ledger(model, problems, cot=texts)
