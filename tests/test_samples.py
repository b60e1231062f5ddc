"""Choices that change verdicts: sampled CoTs, kept pairs, gold answers, baselines; and what stands beside a table."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.analyses.cells import N_CELLS
from loadbearing.analyses.channels import distances
from loadbearing.core import InputError


@pytest.fixture(scope="module")
def sft(organism: Callable[[str], Any]) -> Any:
    return organism("sft")


def edited(runs: Any, change: Callable[[Any], Any]) -> Any:
    """The runs, each changed."""
    return lb.hooks.Runs(tuple(map(change, runs)), runs.mode, runs.model)


def test_samples_are_nested_in_pairs_of_problems(sft: Any) -> None:
    pairs = sft.task.pairs(8, vary="operand.1")
    found = lb.analyses.channels(sft, pairs, samples=3, temperature=1.0, boundary=False)
    assert np.bincount(found.unit).tolist() == [3] * 8
    assert found.estimates("operand.1").n == 8  # not 24: samples of one pair are not independent
    assert found.manifest.identity["samples"] == 3
    assert found.manifest.circumstance["asked"] == {"operand.1": 24}
    np.testing.assert_allclose(found.shares("operand.1"), [0, 0, 1], atol=0.05)
    again = lb.analyses.channels(sft, pairs, samples=3, temperature=1.0, boundary=False)
    np.testing.assert_array_equal(found.log_p, again.log_p)
    with pytest.raises(InputError, match='samples and temperature are for cot="model"'):
        lb.analyses.channels(sft, pairs, cot="task", samples=2, temperature=1.0)


def test_only_correct_pairs_are_kept_and_the_others_counted(sft: Any) -> None:
    pairs = sft.task.pairs(9, vary="operand.1")
    wrong = pairs[0].donor.key
    runs = lb.hooks.generate(sft, [p for pair in pairs for p in (pair.recipient, pair.donor)])
    problem = replace(pairs[0].donor, answer=str((int(pairs[0].donor.answer) + 1) % 10))
    runs = edited(runs, lambda run: replace(run, problem=problem) if run.problem.key == wrong else run)
    everything = lb.analyses.channels(sft, pairs, cot=runs, boundary=False)
    assert len(everything.variable) == 9
    found = lb.analyses.channels(sft, pairs, cot=runs, keep="correct", boundary=False)
    assert len(found.variable) == 8
    assert found.manifest.circumstance["dropped"]["operand.1"] == {
        'set aside by keep="correct": an answer is not the gold one': 1
    }
    assert found.manifest.circumstance["asked"] == {"operand.1": 8}  # chosen by the user, so not held against the table
    assert found.status("operand.1") == "ok"


def test_gold_answers_are_a_second_report(sft: Any) -> None:
    pairs = sft.task.pairs(8, vary="operand.2")
    found = lb.analyses.channels(sft, pairs, boundary=False)
    gold = found.frame().query(
        "variable == 'operand.2' and outcome == 'log-odds, gold answers' and quantity == 'share'"
    )
    np.testing.assert_allclose(gold["estimate"], found.shares("operand.2"), atol=1e-9)  # every answer is right
    # Where a model is wrong, its own answer and the gold one are told apart.
    moved = [replace(p, recipient=replace(p.recipient, answer=str((int(p.recipient.answer) + 5) % 10))) for p in pairs]
    moved = [p for p in moved if p.recipient.answer != p.donor.answer]
    runs = lb.hooks.generate(sft, [p for pair in moved for p in (pair.recipient, pair.donor)])
    wrong = lb.analyses.channels(sft, replace(pairs, items=tuple(moved)), cot=runs, boundary=False)
    assert wrong.manifest.circumstance["accuracy"] < 0.8
    own = wrong.log_p[..., 0] - wrong.log_p[..., 1]
    other = wrong.log_p_gold[..., 0] - wrong.log_p_gold[..., 1]
    assert np.nanmax(np.abs(own - other)) > 1.0


def test_a_state_off_the_map_is_far_from_natural_runs(sft: Any) -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(20, N_CELLS, 6))
    states[:, 3] += 50.0
    far = distances(states).mean(axis=0)
    assert far[3] > 10
    assert far[[0, 1, 7]].max() < 2
    found = lb.analyses.channels(sft, sft.task.pairs(8), boundary=False)
    assert np.isfinite(found.distance).all()
    rows = found.frame().query("variable == 'mean' and outcome == 'distance from natural runs'")
    assert len(rows) == N_CELLS
    assert "reader in mixed cells, distance from natural runs (theirs: 1)" in found.notes()


def test_one_pass_accuracy_is_printed_for_every_opening_text(organism: Callable[[str], Any]) -> None:
    model = organism("both")
    found = lb.analyses.channels(model, model.task.pairs(2), open=" think", boundary=False)
    accuracy = found.manifest.circumstance["one_pass"]
    assert accuracy[""] == 1.0
    assert set(accuracy) == {"", " think"}
    assert "one-pass accuracy, opened by ' think'" in found.notes()


def test_memory_bounds_the_batch_and_changes_nothing(sft: Any) -> None:
    from loadbearing.analyses import eight

    pairs = sft.task.pairs(8, vary="operand.1")
    sizes: list[int] = []
    original = eight.splice_pairs

    def watched(model: Any, aims: Any, **options: Any) -> Any:
        sizes.append(len(aims))
        return original(model, aims, **options)

    whole = lb.analyses.channels(sft, pairs, boundary=False)
    need = whole.manifest.circumstance["cache_gigabytes_a_pair"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eight, "splice_pairs", watched)
        small = lb.analyses.channels(sft, pairs, boundary=False, memory=2 * 3.5 * need)  # half is for what is kept
    assert sizes[:3] == [3, 3, 2]
    np.testing.assert_allclose(small.log_p, whole.log_p, atol=1e-4)


# Problems without a partner.


@pytest.mark.parametrize("baseline", ["neutral", "mean", "zero"])
def test_redundancy_shows_where_either_wire_alone_gives_the_answer(
    baseline: str, organism: Callable[[str], Any], tmp_path: Path
) -> None:
    model = organism("copy-redundant")
    found = lb.analyses.ablation(model, model.task.problems(16), baseline=baseline, target="answer", cot="task")
    assert found.suffice() == ["direct", "tokens"]
    assert found.rate("kept", "none")[0] < 0.1
    assert found.rate("kept", "relay")[0] < 0.1
    assert found.loss("none")[0] > 2
    assert found.loss("direct+relay+tokens")[0] == 0.0
    assert found.manifest.identity["baseline"] == baseline
    assert lb.load(found.save(tmp_path / "ablation.safetensors")).frame().equals(found.frame())


def test_one_wire_suffices_where_only_one_is_used(organism: Callable[[str], Any]) -> None:
    for name, wire in (("copy-direct", "direct"), ("copy-relay", "relay"), ("copy-tokens", "tokens")):
        model = organism(name)
        found = lb.analyses.ablation(model, model.task.problems(16), target="answer", cot="task")
        assert found.suffice() == [wire]


def test_a_chain_needs_prompt_and_text_whatever_stands_in_their_place(sft: Any) -> None:
    for text in ("filler", "shuffled", "repeated"):
        found = lb.analyses.ablation(sft, sft.task.problems(16), text=text)
        assert found.rate("kept", "direct+tokens")[0] == 1.0
        assert found.rate("kept", "tokens")[0] < 0.5
        assert found.rate("kept", "direct")[0] < 1.0
        assert found.suffice() == []


def test_a_mean_needs_enough_prompts_of_one_length(tiny: Callable[[str], Any], ragged: Any) -> None:
    model = tiny("llama")
    problems = ragged.problems(6)
    runs = lb.hooks.replay(model, problems, {p.key: p.cot for p in problems}, max_answer_tokens=1)
    runs = edited(runs, lambda run: replace(run, answer=run.problem.answer))
    with pytest.raises(InputError, match="fewer than 8 problems of the same prompt length, for a mean"):
        lb.analyses.ablation(model, problems, baseline="mean", target="answer", cot=runs)


def test_samples_and_kept_problems(sft: Any) -> None:
    problems = sft.task.problems(5)
    found = lb.analyses.ablation(sft, problems, samples=2, temperature=1.0, keep="correct")
    assert found.manifest.circumstance["asked"] == 10
    assert set(np.unique(found.unit)) == set(range(5))
    assert found.frame()["n"].unique().tolist() == [5]


def test_a_neutral_prompt_keeps_what_all_prompts_share(tiny: Callable[[str], Any]) -> None:
    """A task that names no variables: the template around a question says nothing of it, and stays."""
    from loadbearing.analyses.ablation import _off, _shared
    from loadbearing.analyses.targets import cut, resolve_target

    model = tiny("llama")
    task = lb.tasks.Questions("sums")
    for name, text in (("a", "3 + 4 + 1 mod 10"), ("b", "3 + 5 + 2 + 2 mod 10")):
        task.add(name, text, "8", cot=" 7 8")
    runs = lb.hooks.replay(model, task.problems(2), [" 7 8", " 8 9"], max_answer_tokens=1)
    runs = edited(runs, lambda run: replace(run, answer="8"))
    aims: list[Any] = [cut(run, resolve_target("answer", runs), "answer", model) for run in runs]
    shared = _shared([aim.prompt for aim in aims])
    rng = np.random.default_rng(0)
    off = _off(runs[1], aims[1], ("neutral", "shuffled"), 9, shared, rng)
    assert off.prompt == (*aims[1].prompt[:3], *[9] * 5, *aims[1].prompt[-2:])  # "<bos> 3 +" and "mod 10" stay
    assert off.body == aims[1].body[::-1]
    assert _shared([aims[0].prompt]) == (1, 0)


def test_a_text_baseline_that_changes_nothing_is_refused(organism: Callable[[str], Any]) -> None:
    model = organism("copy-tokens")
    with pytest.raises(InputError, match="text='shuffled' leaves every chain of thought as it is: take another"):
        lb.analyses.ablation(model, model.task.problems(8), text="shuffled", target="answer")


# Bad input.


def test_bad_pairs_and_problems_are_named(sft: Any) -> None:
    problem = sft.task.problem((1, 2, 3, 4))
    with pytest.raises(
        InputError, match=r"expected pairs \(task.pairs\(n\)\): problems without a partner have no donor"
    ):
        lb.analyses.channels(sft, [problem])
    pair = lb.tasks.Pairs((lb.tasks.Pair(problem, problem, "all"),), sft.task)
    with pytest.raises(InputError, match="is its own donor: pair two different problems"):
        lb.analyses.channels(sft, pair)


def test_an_answer_that_begins_the_other_is_dropped_without_a_common_end(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    task = lb.tasks.Questions("sums")
    task.add("a", "1 + 2 mod 10", "1 2", cot=" 3", partner="b")
    task.add("b", "3 + 2 mod 10", "1", cot=" 4", partner="a")
    problems = task.problems(2)
    runs = lb.hooks.replay(model, problems, {p.key: p.cot for p in problems}, max_answer_tokens=2)

    def answered(run: Any) -> Any:
        ids = tuple(model.tokenizer(run.problem.answer, add_special_tokens=False)["input_ids"])
        start = run.spans["cue"][1]
        spans = {**run.spans, "answer": (start, start + len(ids))}
        return replace(run, ids=run.ids[:start] + ids, spans=spans, answer=run.problem.answer, end=None)

    with pytest.raises(InputError, match="one answer is the beginning of the other, and they do not end in the same"):
        lb.analyses.channels(model, task.pairs(1), cot=edited(runs, answered), target="answer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "cot": (s["cot"][0], s["cot"][0])}, "has no chain of thought: its span `cot` is empty"),
        (
            lambda s: {**s, "cot": (s["cot"][0] - 2, s["cot"][1])},
            r"spans overlap or leave a gap \(prompt .*cot .*\); exp",
        ),
    ],
)
def test_a_cot_that_is_empty_or_overlaps_the_prompt_is_refused(
    change: Callable[[Any], Any], message: str, sft: Any
) -> None:
    pairs = sft.task.pairs(2, vary="operand.1")
    runs = lb.hooks.generate(sft, [p for pair in pairs for p in (pair.recipient, pair.donor)])
    with pytest.raises(InputError, match=message):
        lb.analyses.channels(sft, pairs, cot=edited(runs, lambda run: replace(run, spans=change(run.spans))))
