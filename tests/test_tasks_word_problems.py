"""Word problems against an independent reading of their own text."""

import re
from typing import Any

import pytest

from loadbearing.core import InputError, UnknownNameError
from loadbearing.tasks import Pair, Problem, WordProblems, load
from loadbearing.tasks.problem import in_test_split

SPECS = [
    "word-problems",
    "word-problems:terms=2,largest=9",
    "word-problems:terms=5,largest=99",
    "word-problems:ops=+",
    "word-problems:terms=4,cot=short",
    "word-problems:terms=4,cot=last-2",
]
GAIN = ("buys", "finds", "gets", "wins")


def story(problem: Problem) -> list[int]:
    """The values after each sentence, read from the prompt alone."""
    first, *changes = problem.prompt.split(". ")[:-1]
    states = [int(re.findall(r"\d+", first)[0])]
    for change in changes:
        ((verb, number),) = re.findall(r"(?:he|she|He|She) (\w+)(?: away)? (\d+)", change)
        states.append(states[-1] + (int(number) if verb in GAIN else -int(number)))
    return states


@pytest.mark.parametrize("spec", SPECS)
class TestTexts:
    def test_gold_values_are_what_the_story_tells(self, spec: str) -> None:
        task = WordProblems(spec)
        for problem in task.problems(40):
            states = story(problem)
            assert len(states) == task.terms and min(states) >= 0 and max(states) < 1000
            assert [problem.values[name] for name in task.intermediates] == list(map(str, states[1:]))
            assert problem.answer == str(states[-1]) and in_test_split(problem.prompt)
            assert [problem.values[name] for name in task.inputs] == re.findall(r"\d+", problem.prompt)
            assert {p.name: p.text for p in problem.pieces if p.name} == {n: problem.values[n] for n in task.inputs}

    def test_the_gold_chain_is_arithmetic_and_is_read_back(self, spec: str) -> None:
        task = WordProblems(spec)
        for problem in task.problems(20):
            for line in problem.cot.strip().split("\n"):
                left, _, right = line.removesuffix(".").partition(" = ")
                assert str(eval(left)) == right
            steps = task.parse_steps(problem.cot)
            assert [step.item for step in steps] == list(task.written)
            assert [step.value for step in steps] == [problem.values[f"v_{k}"] for k in task.written]
            assert [problem.cot[step.start : step.end] for step in steps] == [step.value for step in steps]
            assert [piece.name for piece in problem.steps] == [f"step.{k}" for k in task.written]

    def test_the_program_goes_on_from_what_is_written(self, spec: str) -> None:
        task = WordProblems(spec)
        for problem in task.problems(10):
            states = story(problem)
            assert task.program(problem, {}, "answer") == problem.answer
            for k in range(1, task.terms - 1):
                assert task.program(problem, {k: "100"}, "answer") == str(100 + states[-1] - states[k])
                assert task.program(problem, {k: "x"}, "answer") is None
            assert task.program(problem, {}, 1) == str(states[1])

    def test_pairs_differ_in_one_number_alone(self, spec: str) -> None:
        task = WordProblems(spec)
        pairs = task.pairs(6)
        assert pairs.variables == task.inputs and len(pairs) == 6 * task.terms
        for pair in pairs:
            self.check(task, pair)

    def check(self, task: WordProblems, pair: Pair) -> None:
        one, other = pair.recipient, pair.donor
        assert re.sub(r"\d+", "#", one.prompt) == re.sub(r"\d+", "#", other.prompt)
        assert [name for name in task.inputs if one.values[name] != other.values[name]] == [pair.variable]
        assert one.answer != other.answer and min(story(other)) >= 0
        assert task.replace(one, pair.variable, other.values[pair.variable]) == other

    def test_pairs_of_equal_token_count(self, spec: str, bpe_tokenizer: Any) -> None:
        task = WordProblems(spec)
        pairs = task.pairs(6, tokenizer=bpe_tokenizer)
        assert len(pairs) == 6 * task.terms
        for pair in pairs:
            lengths = {len(bpe_tokenizer(problem.prompt)["input_ids"]) for problem in (pair.recipient, pair.donor)}
            assert len(lengths) == 1

    def test_a_spec_is_canonical_and_read_back(self, spec: str) -> None:
        task = load(spec)
        assert task.spec == spec and load(task.spec).problems(3, seed=2) == task.problems(3, seed=2)
        assert task.problems(3, seed=1) != task.problems(3, seed=2)
        assert task.out_of_distribution()["longer"].problems(1)


class TestReading:
    @pytest.mark.parametrize(
        ("text", "values"),
        [
            ("12 + 7 = 19\n19 - 4 = 15", ["19", "15"]),
            ("12 + 7 = **19**, then 19 - 4 = $15.", ["19", "15"]),
            ("12 plus 7 is 19.\n\nTaking 4 away leaves 15 of 19", ["19", "19"]),
            ("Tom has 12 apples.\nStep 1: he buys 7, so 19.\nStep 2: 4 go, so 15\nThe answer is 15.", ["19", "15"]),
            ("1. 12 and 7 make 019\n- 2) 19 less 4: 15", ["19", "15"]),
            ("4 - 7 = -3", ["-3"]),
            ("x = y + 3 of 4", []),
            ("so 15", []),
            ("", []),
        ],
    )
    def test_steps(self, text: str, values: list[str]) -> None:
        steps = WordProblems().parse_steps(text)
        assert [step.value for step in steps] == values
        assert [step.item for step in steps] == list(range(1, len(values) + 1))
        assert all(int(text[step.start : step.end]) == int(step.value) for step in steps)

    @pytest.mark.parametrize(
        ("text", "value"),
        [(" 15.", "15"), ("Tom has **15** apples", "15"), ("19 - 4 = 15 apples", "15"), ("-3", "-3"), ("none", None)],
    )
    def test_answers(self, text: str, value: str | None) -> None:
        assert WordProblems().parse_answer(text) == value

    def test_a_problem_by_hand(self) -> None:
        problem = WordProblems().problem((12, 4, 3), "--", "Mei", "coins")
        assert problem.prompt == (
            "Mei has 12 coins. She gives away 4. Then she gives away 3. How many coins does Mei have now?"
        )
        assert problem.cot == "\n12 - 4 = 8.\n8 - 3 = 5." and problem.answer == "5"


class TestErrors:
    def test_a_value_below_zero(self) -> None:
        with pytest.raises(InputError, match=r"no value below 0, got \(3, 4, 5\) with '-\+'"):
            WordProblems().problem((3, 4, 5), "-+")

    @pytest.mark.parametrize(("operands", "operators"), [((1, 2), "+"), ((1, 2, 21), "++"), ((0, 1, 2), "++")])
    def test_numbers_that_the_task_has_not(self, operands: tuple[int, ...], operators: str) -> None:
        with pytest.raises(InputError, match="expected 3 numbers from 1 to 20, an operator between any two"):
            WordProblems().problem(operands, operators)

    def test_an_operator_that_the_task_has_not(self) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown operator '-': expected one of \+;"):
            WordProblems("word-problems:ops=+").problem((1, 2, 3), "+-")

    @pytest.mark.parametrize("options", ["terms=1", "largest=1", "terms=10,largest=100"])
    def test_options_out_of_range(self, options: str) -> None:
        with pytest.raises(InputError, match=r"expected terms >= 2, largest >= 2, and terms \* largest below 1000"):
            load(f"word-problems:{options}")

    def test_no_words_and_no_other_style(self) -> None:
        for ask in (WordProblems().words, WordProblems().all_words):
            with pytest.raises(InputError, match="task 'word-problems' has no closed vocabulary"):
                ask()
        with pytest.raises(UnknownNameError, match="unknown style 'words'"):
            load("word-problems:style=words")


class TestModel:
    def test_a_model_of_text_runs_it(self, random_module: Any, bpe_tokenizer: Any) -> None:
        """Spans are where they should be under a chat template and a byte-level BPE."""
        from loadbearing.hooks import load as load_model
        from loadbearing.hooks import replay_gold

        module = random_module("qwen2", bpe_tokenizer, max_position_embeddings=256)
        model = load_model(module, tokenizer=bpe_tokenizer)
        problems = WordProblems().problems(4)
        for run, problem in zip(replay_gold(model, problems, max_answer_tokens=2), problems, strict=True):
            assert run.values == {1: problem.values["v_1"], 2: problem.values["v_2"]}
            for name in ("operand.1", "operand.2", "operand.3"):
                assert bpe_tokenizer.decode(run.tokens(name)).strip() == problem.values[name]
            for k in (1, 2):
                assert bpe_tokenizer.decode(run.tokens(f"step.{k}")).strip() == problem.values[f"v_{k}"]
