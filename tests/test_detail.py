"""By layer, by position, over seeds: what the finer tables must agree with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.core import InputError


@pytest.fixture(scope="module")
def sft(organism: Callable[[str], Any]) -> Any:
    return organism("sft")


def test_from_the_first_layer_on_it_is_the_table(sft: Any, tmp_path: Path) -> None:
    pairs = sft.task.pairs(8, vary="operand.2")
    found = lb.analyses.by_layer(sft, pairs)
    table = lb.analyses.channels(sft, pairs, boundary=False)
    log_odds = table.log_p[..., 0] - table.log_p[..., 1]
    np.testing.assert_allclose(found.log_odds[0], log_odds, atol=1e-4)
    np.testing.assert_allclose(found.wire("tokens")[0], table.shares("operand.2")[2], atol=1e-4)
    # Above the last layer no key is read: only the reader's own token can still be the donor's.
    top = found.log_odds[-1]
    np.testing.assert_allclose(top[..., :4], np.broadcast_to(top[..., :1], top[..., :4].shape), atol=1e-5)
    assert lb.load(found.save(tmp_path / "layers.safetensors")).frame().equals(found.frame())


def test_a_wire_is_gone_above_the_layer_that_reads_it(organism: Callable[[str], Any]) -> None:
    model = organism("copy-tokens")
    found = lb.analyses.by_layer(model, model.task.pairs(8), target="answer")
    np.testing.assert_allclose(found.wire("tokens")[:, 0], [1, 1, 0], atol=1e-3)
    np.testing.assert_allclose(found.wire("direct")[:, 0], 0, atol=1e-3)


def test_layers_of_cots_of_unequal_length_are_left_out_and_counted(sft: Any) -> None:
    pairs = sft.task.pairs(3, vary="operand.1")
    texts = {p.key: p.cot for pair in pairs for p in (pair.recipient, pair.donor)}
    texts[pairs[0].donor.key] += " 1"
    found = lb.analyses.by_layer(sft, pairs, cot=texts, target="step.2")
    assert found.log_odds.shape[1] == 3  # up to step 2 all are of equal length
    found = lb.analyses.by_layer(sft, pairs, cot=texts, target="answer")
    assert found.manifest.circumstance["left_out"] == {"CoTs of unequal length": 1}


def test_relay_by_position_of_known_models(organism: Callable[[str], Any], tmp_path: Path) -> None:
    for name, share in (("copy-relay", 1.0), ("copy-direct", 0.0)):
        model = organism(name)
        found = lb.analyses.relay_by_position(model, model.task.pairs(8), target="answer", cot="task")
        np.testing.assert_allclose(found.frame()["estimate"], share, atol=1e-3)
        assert found.frame()["part"].tolist() == ["step.1", "all"]
        assert lb.load(found.save(tmp_path / f"{name}.safetensors")).frame().equals(found.frame())


def test_all_parts_together_are_the_relay_of_the_table(sft: Any) -> None:
    pairs = sft.task.pairs(8, vary="operand.3")
    found = lb.analyses.relay_by_position(sft, pairs)
    table = lb.analyses.channels(sft, pairs, boundary=False)
    whole = found.frame().query("part == 'all'")["estimate"].tolist()
    np.testing.assert_allclose(whole, table.estimates("operand.3").get("log-odds", "sufficiency")[1], atol=1e-4)
    assert found.coords["part"] == ("step.1", "step.2", "all")


def test_cots_without_steps_are_split_into_equal_stretches(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    task = lb.tasks.Questions("sums")
    for number in range(4):
        partner = f"q{number ^ 1}"
        task.add(f"q{number}", f"{number} + 2 mod 10", str(number + 2), cot=" 3" * (9 + number), partner=partner)
    problems = task.problems(4)
    runs = lb.hooks.replay(model, problems, {p.key: p.cot for p in problems}, max_answer_tokens=1)
    runs = lb.hooks.Runs(tuple(replace(run, answer=run.problem.answer) for run in runs), runs.mode, model)
    found = lb.analyses.relay_by_position(model, task.pairs(2), cot=runs, target="answer")
    assert found.coords["part"] == (*(f"cot {k}/8" for k in range(1, 9)), "all")
    assert np.isfinite(found.alone).all()


def test_seeds_widen_the_interval_and_are_shown_singly(organism: Callable[[str], Any]) -> None:
    one, other = organism("copy-direct"), organism("copy-relay")
    pairs = one.task.pairs(8)
    tables = {m.name: lb.analyses.channels(m, pairs, cot="task", target="answer") for m in (one, other)}
    found: Any = lb.analyses.over_seeds(tables).query("variable == 'value'").set_index("term")
    assert found.loc["direct", "estimate"] == pytest.approx(0.5, abs=1e-3)
    assert (found.loc["direct", "low"], found.loc["direct", "high"]) == (
        pytest.approx(0, abs=1e-3),
        pytest.approx(1, abs=1e-3),
    )
    assert found.loc["direct", "seeds"]["copy-relay"] == pytest.approx(0, abs=1e-3)
    with pytest.raises(InputError, match="expected results of two models at least, got 1"):
        lb.analyses.over_seeds({"a": tables[one.name]})
    sft = organism("sft")
    tables["sft"] = lb.analyses.channels(sft, sft.task.pairs(8, vary="operand.1"), target="answer")
    with pytest.raises(InputError, match="the results differ in task"):
        lb.analyses.over_seeds(tables)
