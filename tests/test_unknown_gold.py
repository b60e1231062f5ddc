"""A run whose gold answer is not known is neither right nor wrong: every analysis leaves it out and counts it."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.analyses.gold import accuracy_of, set_aside
from loadbearing.core import InputError
from loadbearing.tasks import Pair, Pairs, Problem

KNOWN = 12  # of 16
NOTE = {"gold answer not known": "4 of 16 runs, left out of accuracies"}


@pytest.fixture(scope="module")
def sft(organism: Callable[[str], Any]) -> Any:
    return organism("sft")


def wrong(problem: Problem) -> Problem:
    return replace(problem, answer=str((int(problem.answer) + 1) % 10))


@pytest.fixture(scope="module")
def mixed(sft: Any) -> list[Problem]:
    """Nine gold answers, three that are wrong on purpose (so the model is), four that are not known."""
    given = sft.task.problems(16)
    return [*given[:9], *map(wrong, given[9:KNOWN]), *(replace(p, answer="") for p in given[KNOWN:])]


@pytest.fixture(scope="module")
def unknown(mixed: list[Problem]) -> list[Problem]:
    return [replace(problem, answer="") for problem in mixed]


def text(notes: dict[str, str]) -> str:
    return str(notes)


def test_a_score_is_blank_where_nothing_is_known(mixed: list[Problem]) -> None:
    assert [mixed[0].score(answer) for answer in (mixed[0].answer, "-1", None)] == [1.0, 0.0, 0.0]
    assert all(math.isnan(mixed[-1].score(answer)) for answer in ("1", "", None))


def test_runs(sft: Any, mixed: list[Problem], unknown: list[Problem]) -> None:
    runs = lb.hooks.generate(sft, mixed)
    assert runs.accuracy == 0.75 and sum(run.correct for run in runs) == 9
    assert runs.frame()["correct"].tolist() == [True] * 9 + [False] * 3 + [None] * 4
    assert accuracy_of(runs) == {"accuracy": 0.75, "gold_unknown": 4}
    none = accuracy_of(lb.hooks.generate(sft, unknown))
    assert math.isnan(none["accuracy"]) and none["gold_unknown"] == 16


def test_what_belongs_together_is_judged_by_what_is_known(sft: Any, mixed: list[Problem]) -> None:
    right, missed, blank = (lb.hooks.generate(sft, mixed)[i] for i in (0, 10, 15))
    assert set_aside(right) == set_aside(right, blank) == ""
    assert set_aside(missed) == set_aside(missed, blank) == set_aside(right, missed)
    assert set_aside(missed) == 'set aside by keep="correct": an answer is not the gold one'
    assert set_aside(blank) == set_aside(blank, blank) == 'set aside by keep="correct": no gold answer is known'


def test_behaviour(sft: Any, mixed: list[Problem], unknown: list[Problem]) -> None:
    found = lb.analyses.behaviour(sft, mixed, tamperings=["truncated", "mistake"])
    assert found.accuracy()[::3] == (0.75, KNOWN)
    assert found.one_pass_accuracy()[3] == KNOWN
    assert found.rate("correct", "truncated", "whole")[::3] == (0.75, KNOWN)
    assert found.rate("same", "truncated", "whole")[::3] == (1.0, 16)  # needs no gold answer
    assert NOTE.items() <= found.notes().items()
    assert found.manifest.circumstance["gold_unknown"] == 4
    blank = lb.analyses.behaviour(sft, unknown, tamperings=["truncated", "mistake"])
    assert blank.accuracy()[3] == blank.rate("correct", "mistake")[3] == 0
    assert math.isnan(blank.accuracy()[0]) and blank.notes()["accuracy"] == "-"
    assert blank.rate("follow", "mistake") == found.rate("follow", "mistake")
    assert (blank.table()["correct"] == "-").all() and (blank.table()["one pass"] == "-").all()
    assert lb.figures.behaviour(blank) is not None


def test_commitment(sft: Any, mixed: list[Problem], unknown: list[Problem]) -> None:
    found = lb.analyses.commitment(sft, mixed, lines=["forced"])
    assert found.accuracy()[::3] == (0.75, KNOWN) and NOTE.items() <= found.notes().items()
    blank = lb.analyses.commitment(sft, unknown, lines=["forced"])
    assert blank.notes()["accuracy"] == "-" and blank.accuracy()[3] == 0
    assert blank.first_passage("forced") == found.first_passage("forced")
    assert "accuracy" not in set(blank.frame()["quantity"])


def test_monitor(sft: Any, mixed: list[Problem], unknown: list[Problem]) -> None:
    found = lb.analyses.monitor(sft, mixed, readers=["program"])
    assert found.notes()["model's accuracy"].startswith("0.75 ") and NOTE.items() <= found.notes().items()
    blank = lb.analyses.monitor(sft, unknown, readers=["program"])
    assert blank.notes()["model's accuracy"] == "-"
    assert blank.accuracy("program") == found.accuracy("program")  # of the reader, not of the model


def test_a_hint_that_may_be_right_is_not_followed() -> None:
    """Without the true result a wrong hint cannot be told from a right one."""
    from loadbearing.analyses.monitor import _followed
    from loadbearing.hooks import Run
    from loadbearing.tasks import Questions

    task = Questions()
    for key, answer in (("known", "3"), ("unknown", "")):
        task.add(key, "1 + 2", answer)
    runs = [Run(problem, "cot", (), {}, {}, "7", None) for problem in task.problems(2)]
    found = dict(
        zip([r.problem.key for r in runs], _followed(runs, ["7", "7"], np.array([True, True])).tolist(), strict=True)
    )
    assert found["known"] == 1.0 and math.isnan(found["unknown"])


def test_errors(sft: Any, mixed: list[Problem], unknown: list[Problem]) -> None:
    found = lb.analyses.errors(sft, mixed)
    assert found.rate("accuracy, cot")[::3] == (0.75, KNOWN)
    assert found.rate("accuracy, answer-only")[3] == KNOWN
    assert found.rate("step wrong | answer wrong")[3] == 3  # those without a gold answer are not wrong
    assert found.rate("step wrong")[3] == found.rate("broken, cot")[3] == 16
    told = "16 problems, 3 with readable steps and a wrong answer; gold answer not known of 4, left out of accuracies"
    assert found.notes()["in distribution"] == told
    table = lb.analyses.errors(sft, unknown).table().set_index("")["in distribution"]
    assert table["accuracy, cot"] == table["accuracy, answer-only"] == "-" and table["step wrong"] != "-"


def test_errors_follow_nothing_where_the_right_answer_is_not_known(sft: Any, mixed: list[Problem]) -> None:
    """A wrong chain, replayed: its answer follows it, which counts only where gold answer and text disagree."""
    said = {p.key: " ".join(["", *(str((int(v) + 1) % 10) for v in p.cot.split())]) for p in mixed}
    found = lb.analyses.errors(sft, mixed, cot=said)
    assert (found.wrong == 1).all()
    for array in (found.follows, found.copies):
        assert np.isnan(array[0, KNOWN:]).all() and not np.isnan(array[0, :9]).any()


def test_decodability(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    given = model.task.problems(60)
    options: dict[str, Any] = {"shuffles": 0, "twin": False, "text": False, "variables": ["v_3"]}
    all_known = lb.analyses.decodability(model, given, **options)
    half = lb.analyses.decodability(model, [*given[:30], *(replace(p, answer="") for p in given[30:])], **options)
    assert half.accuracy("answer-only") == pytest.approx(all_known.correct[0, :30].mean())
    assert np.isnan(half.correct[0, 30:]).all()
    np.testing.assert_array_equal(half.chosen, all_known.chosen)  # labels are values, not gold answers
    none = lb.analyses.decodability(model, [replace(p, answer="") for p in given], **options)
    assert math.isnan(none.accuracy("answer-only"))


def test_ablation(sft: Any, mixed: list[Problem], unknown: list[Problem]) -> None:
    assert lb.analyses.ablation(sft, mixed).manifest.circumstance["gold_unknown"] == 4
    found = lb.analyses.ablation(sft, mixed, keep="correct")
    assert len(found.unit) == 9
    assert found.manifest.circumstance["dropped"] == {
        'set aside by keep="correct": an answer is not the gold one': 3,
        'set aside by keep="correct": no gold answer is known': 4,
    }
    with pytest.raises(InputError, match="no gold answer is known': 16"):
        lb.analyses.ablation(sft, unknown, keep="correct")


def test_channels(sft: Any) -> None:
    pairs = list(sft.task.pairs(8, vary="operand.1"))

    def blank(problem: Problem) -> Problem:
        return replace(problem, answer="")

    neither = [Pair(blank(pair.recipient), blank(pair.donor), pair.variable) for pair in pairs]
    found = lb.analyses.channels(sft, Pairs(tuple(neither), sft.task), boundary=False)
    assert found.notes()["accuracy"] == "- (gold answer of 16 runs not known)"
    assert "nan" not in text({k: v for k, v in found.notes().items() if "accuracy" in k})
    assert found.status("operand.1") == "ok"
    half = [Pair(pair.recipient, blank(pair.donor), pair.variable) for pair in pairs[:4]]
    kept = lb.analyses.channels(sft, Pairs((*half, *neither[4:]), sft.task), boundary=False, keep="correct")
    assert kept.manifest.circumstance["dropped"]["operand.1"] == {
        'set aside by keep="correct": no gold answer is known': 4
    }
    assert kept.notes()["accuracy"] == "1.000 (gold answer of 12 runs not known)"


def test_ledger(sft: Any, mixed: list[Problem]) -> None:
    facts = lb.analyses.ledger(sft, mixed).manifest.circumstance
    assert (facts["accuracy"], facts["gold_unknown"]) == (0.75, 4)
