"""The messy path: a chat model with a byte-level tokenizer, thinking marks, answers of two tokens, ragged CoTs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.analyses.cells import N_CELLS
from loadbearing.core import InputError

COTS = {
    "q1": "12 + 30 is 42.",
    "q2": "The sum of 12 and 40: 12 + 40 is 52. Yes.",
    "q3": "30 + 30, so 60",
    "q4": "First 30, then 12: 42 and 30 more. So 72",
    "q5": "easy",
}


@pytest.fixture(scope="module")
def model(random_module: Callable[..., Any], bpe_tokenizer: Any) -> Any:
    module = random_module("qwen3", bpe_tokenizer, max_position_embeddings=256)
    return lb.hooks.load(module, tokenizer=bpe_tokenizer)


@pytest.fixture(scope="module")
def task() -> Any:
    questions = lb.tasks.Questions("sums in words", partners="given")
    questions.add("q1", "What is 12 + 30?", "42", partner="q2")
    questions.add("q2", "What is 12 + 42?", "52", partner="q1")
    questions.add("q3", "What is 30 + 30?", "60", partner="q4")
    questions.add("q4", "What is 30 + 42?", "72", partner="q3")
    questions.add("q5", "What is 1 + 1?", "2")
    return questions


@pytest.fixture(scope="module")
def runs(model: Any, task: Any) -> Any:
    return lb.hooks.replay(model, task.problems(5), COTS, max_answer_tokens=2)


def test_the_chat_template_becomes_prompt_and_open(model: Any, task: Any, runs: Any) -> None:
    run = runs.by_problem()["q1"]
    shown = {name: model.tokenizer.decode(list(run.tokens(name))) for name in ("prompt", "open", "cot", "cue")}
    assert shown["prompt"].endswith("What is 12 + 30?")
    assert shown["open"].endswith("assistant\n<think>\n")
    assert shown["cot"] == COTS["q1"]
    assert shown["cue"] == "</think>\n\nAnswer:"
    assert len(run.tokens("answer")) == 2


def test_generate_writes_until_it_is_cut_off_or_closes(model: Any, task: Any) -> None:
    written = lb.hooks.generate(model, task.problems(5), "cot", max_new_tokens=12, max_answer_tokens=2)
    assert all("cot" in run.spans for run in written)
    again = lb.hooks.generate(model, task.problems(5), "cot", max_new_tokens=12, max_answer_tokens=2)
    assert [run.ids for run in written] == [run.ids for run in again]


def test_from_generate_to_figure(model: Any, task: Any, runs: Any, tmp_path: Path) -> None:
    pairs = task.pairs(2)
    assert pairs.left_out == {"no counterfactual partner": 1}
    found = lb.analyses.channels(model, pairs, cot=runs, target="answer")
    facts = found.manifest.circumstance
    assert facts["left_out"] == {"no counterfactual partner": 1}
    assert {gate["verdict"] for gate in facts["gates"]} == {"pass"}
    assert max(gate["measured"] for gate in facts["gates"][:3]) < 1e-4
    assert found.log_p.shape == (len(found.variable), 2, N_CELLS, 3)
    assert np.isfinite(found.log_p).all()
    assert found.cots_differ.all()
    # Both directions are the same eight runs, read the other way round.
    np.testing.assert_allclose(found.log_p[:, 0, :, 0], found.log_p[:, 1, ::-1, 1])
    # A random model's answers are no answer to the question: nothing is claimed about it.
    assert found.status().startswith("withheld")
    assert np.isnan(found.shares()).all()
    path = found.save(tmp_path / "channels.safetensors")
    ax = lb.figures.channels({"random": lb.load(path)})
    written = lb.figures.save(ax, tmp_path / "figure", formats=("pdf",))
    assert written[0].stat().st_size > 1000

    patched = lb.analyses.patch(model, pairs, mode="answer-only")
    assert np.isfinite(patched.values).all()
    lb.figures.save(lb.figures.patch(patched), tmp_path / "patch", formats=("svg",))


def test_ragged_cots_in_a_batch_are_what_they_are_alone(model: Any, task: Any, runs: Any) -> None:
    together = lb.analyses.channels(model, task.pairs(2), cot=runs, target="answer")
    for number, pair in enumerate(task.pairs(2)):
        alone = lb.tasks.Pairs((pair,), task)
        found = lb.analyses.channels(model, alone, cot=runs, target="answer")
        np.testing.assert_allclose(found.log_p[0, ..., :2], together.log_p[number, ..., :2], atol=1e-5)


def test_prompts_of_unequal_length_are_refused(model: Any, task: Any) -> None:
    questions = lb.tasks.Questions("uneven")
    questions.add("a", "What is 12 + 30?", "42", partner="b")
    questions.add("b", "What is the sum of 12 + 30 + 30?", "72", partner="a")
    runs = lb.hooks.replay(model, questions.problems(2), {"a": "so 42", "b": "so 72"}, max_answer_tokens=2)
    with pytest.raises(InputError, match=r"'a' / 'b' have .* tokens: wires can only be exchanged between prompts"):
        lb.analyses.channels(model, questions.pairs(1), cot=runs, target="answer")
