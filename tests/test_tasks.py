"""Tasks against an independent reading of their own text: Python evaluates the prompt."""

import itertools
from typing import Any

import pytest

from loadbearing.core import InputError, UnknownNameError
from loadbearing.tasks import Copy, ModularSum, Pair, Pairs, Problem, Questions, load
from loadbearing.tasks.problem import draw_pairs, in_test_split, parse_options

SUMS = [
    "modular-sum",
    "modular-sum:terms=2,modulus=7,signs=+-",
    "modular-sum:terms=3,modulus=12,signs=-",
    "modular-sum:terms=4,cot=short",
    "modular-sum:terms=4,modulus=4,signs=+-,cot=short",
    "modular-sum:terms=6,modulus=13,signs=+-",  # too many problems to list
]
LISTED = SUMS[:5]


def words(problem: Problem) -> tuple[list[str], int]:
    """The sum of a prompt as words, `["6", "+", "2"]`, and its modulus: read from the text alone."""
    text, _, modulus = problem.prompt.partition(" mod ")
    return text.split(), int(modulus)


def value_of(terms: list[str], modulus: int) -> str:
    return str(eval(" ".join(terms)) % modulus)


def partial_sums(problem: Problem) -> list[str]:
    terms, modulus = words(problem)
    return [value_of(terms[: 2 * k + 1], modulus) for k in range(1, len(terms) // 2 + 1)]


def changed(pair: Pair, names: tuple[str, ...]) -> set[str]:
    return {name for name in names if pair.recipient.values[name] != pair.donor.values[name]}


@pytest.mark.parametrize("spec", SUMS)
class TestModularSum:
    def test_gold_values_are_what_python_computes_from_the_prompt(self, spec: str) -> None:
        task = ModularSum(spec)
        for problem in task.problems(12):
            terms, modulus = words(problem)
            assert len(terms) == 2 * task.terms - 1 and modulus == task.modulus
            assert set(terms[1::2]) <= set(task.signs)
            assert [problem.values[name] for name in task.inputs] == terms[::2]
            assert [problem.values[name] for name in task.intermediates] == partial_sums(problem)
            assert problem.answer == value_of(terms, modulus)
            assert problem.key == problem.prompt

    def test_steps_write_partial_sums_and_nothing_else(self, spec: str) -> None:
        task = ModularSum(spec)
        for problem in task.problems(12):
            expected = partial_sums(problem)
            if "short" in spec:
                expected = expected[:-1]
                assert task.answer_steps == ()
            else:
                assert task.answer_steps == (len(expected),)
            assert [piece.name for piece in problem.steps] == [f"step.{k}" for k in range(1, len(expected) + 1)]
            assert problem.cot.split() == expected
            read = task.parse_steps(problem.cot)
            assert [(step.item, step.value) for step in read] == list(enumerate(expected, start=1))
            assert [problem.cot[step.start : step.end] for step in read] == expected

    def test_pieces_carry_the_names_of_the_operands(self, spec: str) -> None:
        task = ModularSum(spec)
        problem = task.problems(1)[0]
        named = {piece.name: piece.text for piece in problem.pieces if piece.name}
        assert named == {name: problem.values[name] for name in task.inputs}
        assert set("".join(task.words()).split()) and set(problem.prompt.split()) <= set(task.words())

    def test_the_program_restarts_from_the_last_step_that_is_written(self, spec: str) -> None:
        task = ModularSum(spec)
        steps = range(1, task.terms)
        for problem in task.problems(3):
            terms, modulus = words(problem)
            assert task.program(problem, {}, "answer") == problem.answer
            for target, item in itertools.product([*steps, "answer"], steps):
                last = task.terms - 1 if target == "answer" else int(target)
                assert task.program(problem, {}, target) == value_of(terms[: 2 * last + 1], modulus)
                for wrong in range(modulus):
                    # What is written counts if it stands before the target (or is it); what comes later does not.
                    rest = [str(wrong), *terms[2 * item + 1 : 2 * last + 1]] if item <= last else terms[: 2 * last + 1]
                    assert task.program(problem, {item: str(wrong)}, target) == value_of(rest, modulus)

    def test_an_earlier_step_is_overruled_by_a_later_one(self, spec: str) -> None:
        task = ModularSum(spec)
        problem = task.problems(1)[0]
        last = task.terms - 1
        for first, second in itertools.product(range(task.modulus), repeat=2):
            written = {1: str(first), last: str(second)}
            assert task.program(problem, written, "answer") == str(second)

    def test_a_problem_with_one_variable_replaced(self, spec: str) -> None:
        task = ModularSum(spec)
        problem = task.problems(1)[0]
        terms, modulus = words(problem)
        for place, name in enumerate(task.inputs):
            for value in range(modulus):
                other = task.replace(problem, name, str(value))
                expected = [*terms[: 2 * place], str(value), *terms[2 * place + 1 :]]
                assert other.prompt == f"{' '.join(expected)} mod {modulus}"  # the signs stay
                assert other.answer == value_of(expected, modulus)
        assert task.replace(problem, "operand.1", problem.values["operand.1"]) == problem

    @pytest.mark.parametrize("seed", [0, 5])
    def test_pairs_differ_in_one_variable_and_in_the_answer_and_are_held_out(self, spec: str, seed: int) -> None:
        task = ModularSum(spec)
        n = 2
        pairs = task.pairs(n, seed=seed)
        assert pairs.variables == task.inputs and len(pairs) == n * len(task.inputs)
        for pair in pairs:
            assert changed(pair, task.inputs) == {pair.variable}
            assert pair.recipient.answer != pair.donor.answer
            assert in_test_split(pair.recipient.key) and in_test_split(pair.donor.key)
            signs = [words(problem)[0][1::2] for problem in (pair.recipient, pair.donor)]
            assert signs[0] == signs[1]
        for variable in task.inputs:
            assert task.pairs(n, seed=seed, vary=variable).items == tuple(p for p in pairs if p.variable == variable)

    def test_pairs_that_differ_everywhere(self, spec: str) -> None:
        task = ModularSum(spec)
        pairs = task.pairs(3, vary="all")
        assert pairs.variables == ("all",) and len(pairs) == 3
        for pair in pairs:
            assert changed(pair, task.inputs) == set(task.inputs)
            assert pair.recipient.answer != pair.donor.answer
            assert in_test_split(pair.recipient.key) and in_test_split(pair.donor.key)

    def test_the_same_seed_gives_the_same_and_another_seed_another(self, spec: str) -> None:
        one, other = ModularSum(spec), ModularSum(spec)
        assert one.problems(9, seed=3) == other.problems(9, seed=3)
        assert one.problems(9, seed=3) != one.problems(9, seed=4)
        assert one.problems(9, seed=3)[:4] == one.problems(4, seed=3)  # more of the same
        assert [*one.pairs(2, seed=3)] == [*other.pairs(2, seed=3)]
        assert [*one.pairs(2, seed=3)] != [*one.pairs(2, seed=4)]

    def test_problems_are_different_from_one_another(self, spec: str) -> None:
        task = ModularSum(spec)
        for split in ("train", "test"):
            keys = [problem.key for problem in task.problems(9, split=split)]
            assert len(set(keys)) == 9
            assert {in_test_split(key) for key in keys} == {split == "test"}


@pytest.mark.parametrize("spec", [spec for spec in LISTED if "modulus" in spec] + ["modular-sum:terms=3,modulus=11"])
def test_train_and_test_are_a_partition_of_all_problems(spec: str) -> None:
    task = ModularSum(spec)
    train, test = ({problem.key for problem in task.all_problems(split)} for split in ("train", "test"))
    signs = len(task.signs) ** (task.terms - 1)
    assert len(train | test) == task.modulus**task.terms * signs
    assert not train & test
    assert len(train | test) < 1000 or 0.08 < len(test) / len(train | test) < 0.12
    assert {problem.key for problem in task.problems(len(test), seed=1)} == test


def test_held_out_problems_depend_on_their_text_alone() -> None:
    full, short = ModularSum("modular-sum:terms=3"), ModularSum("modular-sum:terms=3,cot=short")
    assert [p.key for p in full.all_problems("test")] == [p.key for p in short.all_problems("test")]


def test_a_problem_by_hand() -> None:
    problem = ModularSum("modular-sum:signs=+-,modulus=5,terms=3").problem((3, 4, 1), (-1, 1))
    assert (problem.prompt, problem.cot, problem.answer) == ("3 - 4 + 1 mod 5", " 4 0", "0")
    assert repr(problem) == "<problem '3 - 4 + 1 mod 5' -> '0'>"


def test_no_problem_stands_in_two_pairs_where_there_are_enough() -> None:
    for vary in ("operand.2", "all"):
        pairs = ModularSum("modular-sum").pairs(40, vary=vary)
        keys = [problem.key for pair in pairs for problem in (pair.recipient, pair.donor)]
        assert len(set(keys)) == 80


def test_pairs_repeat_a_problem_rather_than_run_out_and_never_a_pair() -> None:
    made = [Copy("copy:values=3").problem(value) for value in range(3)]
    everything = list(itertools.permutations(made, 2))
    assert len(draw_pairs(iter(everything), 3, "value", "copy")) == 3
    drawn = draw_pairs(iter(everything), 3, "value", "copy")
    assert {frozenset((p.recipient.key, p.donor.key)) for p in drawn} == {
        frozenset((a.key, b.key)) for a, b in itertools.combinations(made, 2)
    }
    with pytest.raises(InputError) as error:
        draw_pairs(iter(everything), 4, "value", "copy")
    assert str(error.value) == "task 'copy' has 3 pairs that differ in 'value', 4 were asked for"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("8", "8"),
        (" 8", "8"),
        ("12 and more", "12"),
        ("08", "8"),
        ("eight", "8"),
        ("", None),
        ("x 8", None),
        ("8x", None),
    ],
)
def test_the_answer_is_the_number_that_a_text_starts_with(text: str, answer: str | None) -> None:
    assert ModularSum().parse_answer(text) == answer


def test_what_a_step_states_and_where_an_operand_is_first_used() -> None:
    task = ModularSum("modular-sum:terms=4")
    assert [task.states(target) for target in (1, 2, 3, "answer")] == ["v_1", "v_2", "v_3", "v_3"]
    assert [task.first_use(name) for name in task.inputs] == [1, 1, 2, 3]
    with pytest.raises(UnknownNameError, match=r"unknown variable 'operand\.5'"):
        task.first_use("operand.5")


class TestModularSumErrors:
    @pytest.mark.parametrize(
        ("spec", "parts"),
        [
            ("modular-sum:term=3", ("option of task 'modular-sum'", "'term'", "modulus, terms", "nearest: 'terms'")),
            ("modular-sum:terms=three", ("task option terms='three'", "expected a whole number")),
            ("modular-sum:terms=1.5", ("task option terms='1.5'", "expected a whole number")),
            ("modular-sum:terms", ("task option 'terms'", "expected key=value")),
            ("modular-sum:terms=1", ("modular-sum:terms=1", "expected terms >= 2 and modulus >= 2")),
            ("modular-sum:modulus=1", ("expected terms >= 2 and modulus >= 2",)),
            ("modular-sum:signs=*", ("unknown signs '*'", "expected one of +, -, +-")),
            (
                "modular-sum:cot=shrt",
                ("unknown cot 'shrt'", "expected one of full, short, last-N, every-N", "nearest: 'short'"),
            ),
        ],
    )
    def test_a_spec_that_is_wrong(self, spec: str, parts: tuple[str, ...]) -> None:
        with pytest.raises(InputError) as error:
            ModularSum(spec)
        for part in parts:
            assert part in str(error.value)

    def test_an_unknown_variable_gets_the_nearest(self) -> None:
        task = ModularSum()
        with pytest.raises(UnknownNameError) as error:
            task.pairs(1, vary="operand.22")
        for part in ("unknown variable 'operand.22'", "operand.1, operand.2", "all", "nearest: 'operand.2'"):
            assert part in str(error.value)
        with pytest.raises(UnknownNameError, match=r"unknown variable 'all'"):
            task.replace(task.problems(1)[0], "all", "3")

    def test_more_than_there_are(self) -> None:
        task = ModularSum("modular-sum:terms=2,modulus=7")
        count = len(task.all_problems("test"))
        with pytest.raises(InputError) as error:
            task.problems(count + 1)
        told = f"task 'modular-sum:modulus=7,terms=2' has {count} test problems, {count + 1} were asked for"
        assert str(error.value) == told
        possible = {
            frozenset((one.key, other.key))
            for one, other in itertools.combinations(task.all_problems("test"), 2)
            if changed(Pair(one, other, ""), task.inputs) == {"operand.1"} and one.answer != other.answer
        }
        assert len(task.pairs(len(possible), vary="operand.1")) == len(possible) > 0
        with pytest.raises(InputError) as error:
            task.pairs(999, vary="operand.1")
        for part in (f"has {len(possible)} pairs that differ in 'operand.1'", "999 were asked for"):
            assert part in str(error.value)

    @pytest.mark.parametrize("n", [0, -3])
    def test_no_problems_at_all(self, n: int) -> None:
        for ask in (ModularSum().problems, ModularSum().pairs, Copy().problems, Copy().pairs, Questions().pairs):
            with pytest.raises(InputError, match=f"expected a positive number of problems, got {n}"):
                ask(n)

    def test_an_unknown_split(self) -> None:
        split: Any = "tset"
        # The annotation already forbids it where checks are on.
        with pytest.raises((UnknownNameError, TypeError), match="split"):
            ModularSum().problems(1, split=split)

    def test_a_space_too_large_to_list(self) -> None:
        task = ModularSum("modular-sum:terms=6,modulus=13")
        with pytest.raises(InputError, match=f"has {13**6} problems: too many to list, draw some"):
            task.all_problems("test")


class TestSpecs:
    @pytest.mark.parametrize("spec", SUMS)
    def test_a_spec_written_out_is_read_back(self, spec: str) -> None:
        task = load(spec)
        assert load(task.spec).problems(3) == task.problems(3)

    def test_a_spec_leaves_out_what_is_the_default_and_has_one_order(self) -> None:
        assert load("modular-sum:terms=4,modulus=7").spec == "modular-sum:modulus=7"
        assert load("modular-sum:terms=3,modulus=7").spec == load("modular-sum:modulus=7,terms=3").spec
        assert load("copy:values=16").spec == "copy"
        assert repr(load("copy:answer=sum")) == "<task copy:answer=sum>"

    def test_a_task_passes_through(self) -> None:
        for task in (ModularSum(), Copy(), Questions()):
            assert load(task) is task

    def test_an_unknown_task_gets_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError) as error:
            load("modular-sums:terms=3")
        for part in ("unknown task 'modular-sums'", "expected one of", "copy", "nearest: 'modular-sum'"):
            assert part in str(error.value)

    def test_options_have_the_type_of_their_default(self) -> None:
        assert parse_options("x:a=-3,b=c", {"a": 1, "b": "z", "d": 2}) == {"a": -3, "b": "c", "d": 2}


def test_pairs_are_a_sequence() -> None:
    pairs = ModularSum().pairs(2)
    assert isinstance(pairs, Pairs)
    assert [pairs[i] for i in range(len(pairs))] == list(pairs)
    assert pairs[:2] == tuple(list(pairs)[:2])


def test_a_problem_can_be_a_key() -> None:
    task = ModularSum()
    one, same, other = task.problem((1, 2, 3, 4)), task.problem((1, 2, 3, 4)), task.problem((1, 2, 3, 5))
    assert {one: "x"}[same] == "x"
    assert other not in {one: "x"}
