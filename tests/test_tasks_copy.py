"""`copy` by its definition: every problem of a small space."""

import pytest

from loadbearing.core import InputError, UnknownNameError
from loadbearing.tasks import Copy, Pair


def changed(pair: Pair, names: tuple[str, ...]) -> set[str]:
    return {name for name in names if pair.recipient.values[name] != pair.donor.values[name]}


COPIES = [
    f"copy:values={values},cot={cot},answer={answer}"
    for values in (3, 5, 6)
    for cot in ("same", "independent")
    for answer in ("value", "sum")
]


@pytest.mark.parametrize("spec", COPIES)
class TestCopy:
    def test_problems_are_what_the_options_say(self, spec: str) -> None:
        task = Copy(spec)
        size = task.modulus
        problems = task.all_problems()
        assert len({problem.key for problem in problems}) == len(problems)
        assert len(problems) == (size**2 if "independent" in spec else size)
        for problem in problems:
            word, value = problem.prompt.split()
            token = problem.cot.strip()
            assert word == "copy" and problem.values["value"] == value and problem.values["written"] == token
            assert token == value or "independent" in spec
            expected = str((int(value) + int(token)) % size) if "sum" in spec else value
            assert problem.answer == expected == problem.values["v_1"]
            assert [piece.name for piece in problem.pieces] == [None, "value"]
            assert [piece.name for piece in problem.steps] == ["step.1"]
            assert {*problem.prompt.split(), token, problem.answer} <= set(task.words())

    def test_the_program_by_its_definition(self, spec: str) -> None:
        task = Copy(spec)
        for problem in task.all_problems():
            value, token = int(problem.values["value"]), int(problem.values["written"])
            assert task.program(problem, {}, "answer") == problem.answer
            assert task.program(problem, {}, 1) == str(token)
            for written in range(task.modulus):
                if "sum" in spec:
                    expected = (value + written) % task.modulus
                elif "independent" in spec:
                    expected = value  # the written token says nothing about the answer
                else:
                    expected = written
                assert task.program(problem, {1: str(written)}, "answer") == str(expected)

    def test_pairs_differ_as_asked_and_in_the_answer(self, spec: str) -> None:
        task = Copy(spec)
        for vary in (None, "value", "all"):
            pairs = task.pairs(1, vary=vary)
            assert [pair.variable for pair in pairs] == ([vary] if vary else list(task.inputs))
            for pair in pairs:
                names = task.inputs if vary == "all" else (pair.variable,)
                assert changed(pair, task.inputs) == set(names)
                assert pair.recipient.answer != pair.donor.answer

    def test_problems_and_pairs_are_the_same_under_a_seed(self, spec: str) -> None:
        task = Copy(spec)
        n = len(task.all_problems())
        assert task.problems(n, seed=1) == Copy(spec).problems(n, seed=1)
        assert {p.key for p in task.problems(n, seed=1)} == {p.key for p in task.all_problems()}
        assert [*task.pairs(1, seed=1)] == [*Copy(spec).pairs(1, seed=1)]

    def test_a_value_replaced(self, spec: str) -> None:
        task = Copy(spec)
        every = {problem.key: problem for problem in task.all_problems()}
        for problem in every.values():
            for name in task.inputs:
                for value in range(task.modulus):
                    other = task.replace(problem, name, str(value))
                    assert other.values[name] == str(value)
                    assert other == every[other.key]
                    assert {n for n in task.inputs if other.values[n] != problem.values[n]} <= {name}

    def test_errors(self, spec: str) -> None:
        task = Copy(spec)
        n = len(task.all_problems())
        with pytest.raises(InputError) as error:
            task.problems(n + 1)
        assert str(error.value) == f"task {task.spec!r} has {n} test problems, {n + 1} were asked for"
        with pytest.raises(InputError, match="has no train split: its models are set by hand"):
            task.problems(1, split="train")
        with pytest.raises(UnknownNameError, match=r"unknown variable 'valu': .*nearest: 'value'"):
            task.pairs(1, vary="valu")
        with pytest.raises(UnknownNameError, match="unknown variable 'valu'"):
            task.replace(task.problem(0), "valu", "1")
        with pytest.raises(InputError, match="999999 were asked for"):
            task.pairs(999_999)


class TestCopyOthers:
    def test_another_seed_gives_another_order(self) -> None:
        assert Copy().problems(16, seed=1) != Copy().problems(16, seed=2)
        assert [*Copy().pairs(5, seed=1)] != [*Copy().pairs(5, seed=2)]

    def test_a_token_that_is_a_variable_of_its_own_can_be_varied_where_the_answer_depends_on_it(self) -> None:
        adds = Copy("copy:cot=independent,answer=sum")
        for pair in adds.pairs(5, vary="written"):
            assert changed(pair, adds.inputs) == {"written"} and pair.recipient.answer != pair.donor.answer
        ignores = Copy("copy:cot=independent")
        assert (ignores.inputs, ignores.distractors) == (("value",), ("written",))
        for pair in ignores.pairs(5, vary="written"):
            assert changed(pair, ("value", "written")) == {"written"} and pair.recipient.answer == pair.donor.answer
        with pytest.raises(UnknownNameError, match="unknown variable 'written'"):
            Copy("copy").pairs(1, vary="written")

    def test_steps_and_answers_are_read_where_they_are_numbers(self) -> None:
        task = Copy()
        (step,) = task.parse_steps("  12 ")
        assert (step.item, step.value, step.start, step.end) == (1, "12", 2, 4)
        assert task.parse_steps("twelve") == task.parse_steps("1 2") == []
        assert [task.parse_answer(text) for text in (" 7", "7 8", "seven", "")] == ["7", "7", None, None]

    def test_a_copy_edge_joins_the_token_and_the_answer_only_where_they_state_the_same(self) -> None:
        assert Copy().states(1) == Copy().states("answer") == "v_1"
        assert Copy("copy:cot=independent").states(1) != Copy("copy:cot=independent").states("answer")

    @pytest.mark.parametrize(
        ("spec", "parts"),
        [
            ("copy:values=1", ("copy:values=1", "expected values >= 2")),
            ("copy:cot=smae", ("unknown cot 'smae'", "same, independent", "nearest: 'same'")),
            ("copy:answer=som", ("unknown answer 'som'", "value, sum", "nearest: 'sum'")),
        ],
    )
    def test_a_spec_that_is_wrong(self, spec: str, parts: tuple[str, ...]) -> None:
        with pytest.raises(InputError) as error:
            Copy(spec)
        for part in parts:
            assert part in str(error.value)
