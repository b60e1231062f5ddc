"""Hints in the prompt: which answer is paid, what stays true, and which pairs there are."""

import itertools

import pytest

from loadbearing.core import InputError, UnknownNameError
from loadbearing.hooks import Format
from loadbearing.hooks.format import render_prompt
from loadbearing.tasks import Chain, ModularProgram, ModularSum, Pair, Problem, load
from loadbearing.tasks.problem import in_test_split

PLAIN = [
    "modular-sum",
    "modular-sum:modulus=7,terms=3,signs=+-,cot=short",
    "modular-program",
    "modular-program:terms=3",
]
HINTS = ["half", "always", "ignored"]


def hinted(spec: str, hint: str) -> Chain:
    task = load(spec).changed(hint=hint)
    assert isinstance(task, Chain)
    return task


def parts(problem: Problem) -> tuple[str, str]:
    """The text before the hint, and the hint, as the prompt has them."""
    text, _, hint = problem.prompt.partition(" hint ")
    return text, hint or "none"


def differing(pair: Pair, names: tuple[str, ...]) -> set[str]:
    return {name for name in names if pair.recipient.values[name] != pair.donor.values[name]}


@pytest.mark.parametrize(("spec", "hint"), [*itertools.product(PLAIN, HINTS)])
class TestHints:
    def test_steps_stay_true_and_the_answer_is_what_is_paid(self, spec: str, hint: str) -> None:
        task, plain = hinted(spec, hint), load(spec)
        for one, other in zip(plain.problems(40, seed=3), task.problems(40, seed=3), strict=True):
            text, given = parts(other)
            assert text == one.prompt and other.cot == one.cot
            assert {name: other.values[name] for name in one.values} == dict(one.values)
            assert other.values["hint"] == given
            assert other.answer == (one.answer if hint == "ignored" or given == "none" else given)
            named = [piece.text for piece in other.pieces if piece.name == "hint"]
            assert named == ([] if given == "none" else [f" hint {given}"])

    def test_a_text_decides_whether_it_has_a_hint_and_which(self, spec: str, hint: str) -> None:
        task = hinted(spec, hint)
        problems = task.problems(60, seed=1, split="train") + task.problems(30, seed=1)
        given = [parts(problem)[1] for problem in problems]
        again = {problem.key for problem in task.problems(60, seed=1, split="train") + task.problems(30, seed=1)}
        assert {problem.key for problem in problems} == again
        share = 1 - given.count("none") / len(given)
        assert 0.3 < share < 0.7 if hint == "half" else share == 1
        values = set(given) - {"none"}
        assert values == set(map(str, range(task.options["modulus"])))  # any value: right by chance only
        last = task.intermediates[-1]
        right = sum(p.values[last] == p.values["hint"] for p in problems) / len(problems)
        assert right < 0.35

    def test_the_program_follows_the_hint_only_where_it_is_paid(self, spec: str, hint: str) -> None:
        task, plain = hinted(spec, hint), load(spec)
        for problem in task.problems(20):
            text, given = parts(problem)
            bare = next(p for p in plain.problems(20) if p.key == text)
            for written in ({}, {1: "3"}, {1: "3", 2: "5"}):
                paid = given != "none" and hint != "ignored"
                assert task.program(problem, written, "answer") == (
                    given if paid else plain.program(bare, written, "answer")
                )
                for k in range(1, task.length + 1):
                    assert task.program(problem, written, k) == plain.program(bare, written, k)

    def test_a_variable_replaced_changes_no_other(self, spec: str, hint: str) -> None:
        task = hinted(spec, hint)
        names = (*task.inputs, *task.distractors)
        assert set(names) == {*load(spec).inputs, "hint"}
        for problem, name in itertools.product(task.problems(5), names):
            for value in ["3", "0", *(["none"] if (name, hint) == ("hint", "half") else [])]:
                other = task.replace(problem, name, value)
                assert other.values[name] == value
                assert {n for n in names if other.values[n] != problem.values[n]} <= {name}
                assert parts(other)[1] == other.values["hint"]
                assert task.replace(other, name, problem.values[name]) == problem

    def test_pairs(self, spec: str, hint: str) -> None:
        from loadbearing.organisms.tokenizer import build_tokenizer

        task = hinted(spec, hint)
        form = Format(open=" think", close=" answer", cue=" answer")
        tokenizer = build_tokenizer(task, form)
        last = task.intermediates[-1]
        varied = (*task.inputs, *task.distractors)
        assert task.pairs(2).variables == task.inputs
        for variable in (*varied, "all"):
            for pair in task.pairs(4, vary=variable):
                sides = pair.recipient, pair.donor
                if variable == "all":
                    assert differing(pair, task.inputs) == {*task.inputs}
                else:
                    assert differing(pair, varied) == {variable}
                assert (sides[0].answer != sides[1].answer) == (variable not in task.distractors)
                assert all(in_test_split(parts(side)[0]) for side in sides)
                ids = [render_prompt(tokenizer, form, side, "cot").ids for side in sides]
                assert len(ids[0]) == len(ids[1])
                has = {side.values["hint"] != "none" for side in sides}
                assert has == {hint != "half" or not variable.startswith("operand")}
                if variable == "hint":
                    assert sides[0].values[last] == sides[1].values[last] and sides[0].cot == sides[1].cot

    def test_where_a_hint_is_used_and_what_is_stated(self, spec: str, hint: str) -> None:
        task = hinted(spec, hint)
        assert task.first_use("hint") == (None if hint == "ignored" else task.length + 1)
        assert task.first_use("operand.1") == 1
        stated = {"half": None, "always": "hint", "ignored": f"v_{task.length}"}[hint]
        assert task.states("answer") == stated and task.states(1) == "v_1"
        for problem in task.problems(9):
            assert stated is None or problem.values[stated] == problem.answer
        full = "short" not in spec
        assert task.answer_steps == ((task.length,) if full and hint != "always" else ())

    def test_words(self, spec: str, hint: str) -> None:
        task, plain = hinted(spec, hint), load(spec)
        assert {*task.words()} == {*plain.words(), "hint"} and len({*task.words()}) == len(task.words())
        assert task.all_words() == plain.all_words() and {*task.words()} < {*task.all_words()}


@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize("spec", ["modular-sum:modulus=7,terms=3,signs=+-", "modular-program:terms=3"])
def test_the_same_sums_are_held_out_with_and_without_a_hint(spec: str, hint: str) -> None:
    task, plain = hinted(spec, hint), load(spec)
    for split in ("train", "test"):
        texts = [parts(problem)[0] for problem in task.all_problems(split)]
        assert texts == [problem.key for problem in plain.all_problems(split)]


def test_a_task_without_hints_has_no_such_variable() -> None:
    for task in (ModularSum(), ModularProgram()):
        assert "hint" not in task.inputs and "hint" not in task.problems(1)[0].values
        with pytest.raises(UnknownNameError, match="unknown variable 'hint'"):
            task.pairs(1, vary="hint")
        with pytest.raises(UnknownNameError, match="unknown variable 'hint'"):
            task.first_use("hint")
        with pytest.raises(UnknownNameError, match="unknown variable 'hint'"):
            task.replace(task.problems(1)[0], "hint", "3")


def test_hints_that_cannot_be() -> None:
    half, always = ModularSum("modular-sum:hint=half"), ModularSum("modular-sum:hint=always")
    with pytest.raises(UnknownNameError, match="unknown value of hint '10'"):
        half.replace(half.problems(1)[0], "hint", "10")
    with pytest.raises(UnknownNameError, match="unknown value of hint 'none'"):
        always.replace(always.problems(1)[0], "hint", "none")
    with pytest.raises(UnknownNameError, match="unknown variable 'hnt'"):
        half.replace(half.problems(1)[0], "hnt", "1")
    with pytest.raises(InputError, match="unknown hint 'yes'"):
        ModularSum("modular-sum:hint=yes")


def test_a_hinted_problem_by_hand() -> None:
    task = ModularSum("modular-sum:hint=always,style=words")
    problem = task.replace(task.problem((6, 2, 9, 1)), "hint", "3")
    assert problem.prompt == "6 + 2 + 9 + 1 mod 10 hint 3"
    assert (problem.cot, problem.answer, task.say(problem.answer)) == (" eight seven eight", "3", "three")
    assert (problem.values["v_3"], problem.values["hint"]) == ("8", "3")
