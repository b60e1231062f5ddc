"""A user's own questions: what was added is there, what has a partner is paired, what can be is made one, the rest is
counted."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadbearing.core import InputError, UnknownNameError
from loadbearing.tasks import Pair, Piece, Questions, Step, Task

LONE = "no counterfactual partner and no number to change"


def questions(**options: Any) -> Questions:
    task = Questions("mine", **options)
    task.add("a", "1 + 1?", "2", partner="b")
    task.add("b", [Piece("1 + "), Piece("2", "operand.2"), Piece("?")], "3", cot=" 1 and 2", partner="a")
    task.add("c", "2 + 2?", "4", partner="b")
    task.add("d", "3 + 3?", "6")
    task.add("e", "four and four?", "8")
    return task


class TestQuestions:
    def test_what_was_added_is_there(self) -> None:
        task = questions()
        found = {problem.key: problem for problem in task.problems(5)}
        assert sorted(found) == ["a", "b", "c", "d", "e"]
        assert found["b"].prompt == "1 + 2?" and found["b"].cot == " 1 and 2" and found["b"].answer == "3"
        assert found["b"].pieces[1] == Piece("2", "operand.2")
        assert found["a"].steps == ()
        assert all(problem.task is task for problem in found.values())

    def test_pairs_are_the_partners_each_once_and_the_rest_is_counted(self) -> None:
        pairs = questions(partners="given").pairs(2)
        keys = {frozenset((pair.recipient.key, pair.donor.key)) for pair in pairs}
        assert keys == {frozenset("ab"), frozenset("cb")}
        assert pairs.left_out == {"no counterfactual partner": 2}
        assert pairs.variables == ("question",)
        assert len(questions().pairs(1, vary="question")) == 1

    def test_nothing_is_left_out_where_all_have_partners(self) -> None:
        task = Questions()
        task.add("a", "1 + 1?", "2", partner="b")
        task.add("b", "1 + 2?", "3", partner="a")
        assert task.pairs(1).left_out == {}

    def test_the_seed_decides_the_order(self) -> None:
        orders = {tuple(p.key for p in questions().problems(5, seed=seed)) for seed in range(8)}
        assert len(orders) > 1
        assert questions().problems(5, seed=1)[0].key == questions().problems(5, seed=1)[0].key

    def test_a_key_that_is_there_already(self) -> None:
        with pytest.raises(InputError, match="question 'a' is there already: keys must be unique"):
            questions().add("a", "?", "1")

    def test_a_partner_that_is_not_there(self) -> None:
        task = questions()
        task.add("f", "5 + 5?", "10", partner="dd")
        with pytest.raises(UnknownNameError) as error:
            task.pairs(1)
        for part in ("unknown partner of question 'f' 'dd'", "expected one of a, b, c, d, e, f", "nearest: 'd'"):
            assert part in str(error.value)

    def test_more_than_there_are(self) -> None:
        with pytest.raises(InputError, match="task 'mine' has 5 questions, 6 were asked for"):
            questions().problems(6)
        with pytest.raises(InputError) as error:
            questions(partners="given").pairs(3)
        assert str(error.value) == ("task 'mine' has 2 pairs, 3 were asked for (2 left out: no counterfactual partner)")
        with pytest.raises(InputError) as error:
            questions().pairs(4)
        assert str(error.value) == f"task 'mine' has 3 pairs, 4 were asked for (1 left out: {LONE})"

    def test_an_unknown_variable(self) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown variable 'qestion': .*nearest: 'question'"):
            questions().pairs(1, vary="qestion")

    def test_an_unknown_way_to_partners(self) -> None:
        with pytest.raises(UnknownNameError, match="unknown partners 'mad': expected one of made, given"):
            Questions(partners="mad")

    def test_an_answer_is_its_text_without_loose_space(self) -> None:
        task = Questions()
        assert task.parse_answer("  forty \n two ") == "forty two"
        assert task.parse_answer("  \n ") is None
        assert task.parse_steps("1. first 2. second") == []

    def test_the_first_whole_match_is_the_onset(self) -> None:
        task: Task = Questions()
        assert task.onset("142 or 42, so 42", "42") == (7, 9)
        assert task.onset("142 or 421", "42") is None
        assert task.program(questions().problems(1)[0], {}, "answer") is None

    def test_the_onset_of_a_number_is_that_however_it_is_written(self) -> None:
        task = Questions(answer="number")
        assert task.onset("5 times 1,234.50 and x1234.5", "1234.5") == (8, 16)
        assert task.onset("12345", "1234.5") is None

    def test_what_a_task_without_a_program_cannot_do(self) -> None:
        task = questions()
        with pytest.raises(InputError, match="task 'mine' cannot set a variable of a problem"):
            task.replace(task.problems(1)[0], "question", "?")
        with pytest.raises(InputError, match="task 'mine' has no closed vocabulary"):
            task.words()
        with pytest.raises(InputError, match="task 'mine' cannot list its problems"):
            task.all_problems()

    def test_there_is_no_train_split(self) -> None:
        with pytest.raises(InputError, match="train"):
            questions().problems(1, split="train")

    def test_a_question_is_not_its_own_partner(self) -> None:
        task = questions()
        with pytest.raises(InputError, match="'f' is named as its own partner: pair it with another one"):
            task.add("f", "5 + 5?", "10", partner="f")


class TestRules:
    def test_gold_answers_are_read_by_the_rule(self) -> None:
        task = Questions(answer="number")
        task.add("a", "?", "It is 1,234.0")
        assert task.problems(1)[0].answer == task.parse_answer("01234 apples") == "1234"
        assert task.problems(1)[0].values == {"v_1": "1234"}

    def test_a_boxed_answer_may_stand_by_itself(self) -> None:
        task = Questions(answer="boxed")
        task.add("a", "?", r"\frac{1}{2}")
        task.add("b", "?", r"thus \boxed{2}")
        assert {problem.answer for problem in task.problems(2)} == {r"\frac{1}{2}", "2"}

    def test_a_gold_answer_that_the_rule_cannot_read(self) -> None:
        with pytest.raises(
            InputError, match="question 'a': the rule 'number' finds no answer in the gold answer 'two'"
        ):
            Questions(answer="number").add("a", "1 + 1?", "two")

    def test_steps_of_a_function(self) -> None:
        task = Questions(steps=lambda text: [Step(1, text[:1], 0, 1)])
        assert task.parse_steps("ab") == [Step(1, "a", 0, 1)]

    def test_a_gold_chain_of_several_steps_has_a_line_each(self) -> None:
        task = Questions(steps="line")
        task.add("a", "1 + 1 + 1?", "3", cot=["1 + 1 = 2", "2 + 1 = 3"], values={"carry": "0"})
        (problem,) = task.problems(1)
        assert problem.cot == "1 + 1 = 2\n2 + 1 = 3" and [piece.name for piece in problem.steps] == ["step.1", "step.2"]
        assert [step.value for step in task.parse_steps(problem.cot)] == ["1 + 1 = 2", "2 + 1 = 3"]
        assert problem.values == {"carry": "0"}

    def test_counts(self) -> None:
        task = questions(answer="number", steps="line")
        task.add("f", "5 + ?", transcripts=["no\nidea", "5 is 5", " "])
        assert task.transcripts == {"f": ("no\nidea", "5 is 5", " ")}
        assert task.counts() == {
            "questions": 6,
            "without a gold answer": 1,
            "with a gold chain of thought": 1,
            "naming a partner": 3,
            "with a transcript": 1,
            "transcripts": 3,
            "transcripts without steps": 1,
            "transcripts without an answer": 2,
        }


def differences(pair: Pair) -> list[tuple[str, str]]:
    """The numbers in which two prompts differ; everything else must be the same."""
    one, other = (re.split(r"([0-9](?:[0-9.,]*[0-9])?)", problem.prompt) for problem in (pair.recipient, pair.donor))
    assert one[::2] == other[::2]
    return [(a, b) for a, b in zip(one[1::2], other[1::2], strict=True) if a != b]


class TestMadePartners:
    def test_given_ones_come_first_and_what_cannot_be_made_is_counted(self) -> None:
        for seed in range(4):
            pairs = questions().pairs(3, seed=seed)
            assert pairs.variables == ("question", "number") and pairs.left_out == {LONE: 1}
            assert pairs[2].recipient.key == "d" and len(differences(pairs[2])) == 1

    def test_of_a_made_one_only_the_prompt_is_known(self) -> None:
        pair = questions().pairs(3)[2]
        ((old, new),) = differences(pair)
        assert pair.donor.key == f"d [{old} -> {new}]"
        assert (pair.donor.answer, pair.donor.steps, dict(pair.donor.values)) == ("", (), {})

    def test_one_named_number_is_a_variable(self) -> None:
        task = questions()
        assert task.inputs == ("question", "number", "operand.2")
        pairs = task.pairs(1, vary="operand.2")  # of "b", which has a partner for another variable
        assert pairs.left_out == {"no number to change in 'operand.2'": 4}
        assert pairs[0].recipient.key == "b" and pairs[0].donor.pieces[1].name == "operand.2"
        assert differences(pairs[0])[0][0] == "2" and pairs.variables == ("operand.2",)
        assert questions(partners="given").inputs == ("question",)

    def test_every_number_has_its_turn(self) -> None:
        task = Questions()
        task.add("a", "12 and 345 and 6.7")
        assert {differences(task.pairs(1, seed=seed)[0])[0][0] for seed in range(20)} == {"12", "345", "6.7"}

    @pytest.mark.parametrize("prompt", ["vitamin B12 or x2?", "the 12th", "version 1.2.3", "3D", "½", "1,2345"])
    def test_what_is_no_number_of_its_own(self, prompt: str) -> None:
        task = Questions()
        task.add("a", prompt)
        with pytest.raises(InputError, match="has 0 pairs, 1 were asked for"):
            task.pairs(1)

    def test_a_number_in_two_pieces_is_left_alone(self) -> None:
        task = Questions()
        task.add("a", [Piece("1"), Piece("2", "operand.1"), Piece(" + 3")])
        assert {differences(task.pairs(1, seed=seed)[0])[0][0] for seed in range(9)} == {"3"}

    @given(st.lists(st.sampled_from(["7", "10", "1,200", "0.50", "007", "B12", " x2", "a. ", " ", "-", "$", "."])))
    @settings(max_examples=200)
    def test_one_number_differs_and_no_other_character(self, parts: list[str]) -> None:
        task = Questions()
        task.add("a", "?" + "".join(parts))
        try:
            pair = task.pairs(1)[0]
        except InputError as error:
            assert LONE in str(error)
            return
        ((old, new),) = differences(pair)
        shape = re.compile("[0-9]")
        assert shape.sub("0", old) == shape.sub("0", new)
        assert not (new.startswith("0") and not new.startswith("0."))

    @given(st.lists(st.integers(0, 12345), min_size=1, max_size=4), st.integers(0, 5))
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_tokens_stay_where_they_are(self, bpe_tokenizer: Any, numbers: list[int], seed: int) -> None:
        task = Questions()
        pieces = [Piece("What is")]
        for k, number in enumerate(numbers, start=1):
            pieces += [Piece(" + " if k > 1 else " "), Piece(str(number), f"operand.{k}")]
        task.add("a", pieces)
        try:
            pair = task.pairs(1, seed=seed, tokenizer=bpe_tokenizer)[0]
        except InputError as error:
            assert "1 left out: no other number keeps the tokens where they are" in str(error)
            return
        offsets = [
            bpe_tokenizer(p.prompt, return_offsets_mapping=True)["offset_mapping"] for p in (pair.recipient, pair.donor)
        ]
        assert offsets[0] == offsets[1] and len(differences(pair)) == 1

    def test_a_word_outside_a_closed_vocabulary_is_not_taken(self, word_tokenizer: Any) -> None:
        task = Questions()
        task.add("a", "6 + 2 mod 10")
        for seed in range(6):
            old, _ = differences(task.pairs(1, seed=seed, tokenizer=word_tokenizer)[0])[0]
            assert old in ("6", "2")
        task = Questions()
        task.add("a", "mod 10")
        with pytest.raises(InputError, match="1 left out: no other number keeps the tokens where they are"):
            task.pairs(1, tokenizer=word_tokenizer)

    def test_given_partners_of_another_token_count_are_left_out(self, bpe_tokenizer: Any) -> None:
        task = questions(partners="given")
        task.add("long", "3 + 3 + 3 + 3?", "12", partner="d")
        assert len(task.pairs(3)) == 3
        pairs = task.pairs(2, tokenizer=bpe_tokenizer)
        assert pairs.left_out == {
            "the partner's prompt has another number of tokens": 1,
            "no counterfactual partner": 1,
        }

    def test_the_seed_decides(self) -> None:
        assert [*questions().pairs(3, seed=1)] == [*questions().pairs(3, seed=1)]
        assert len({questions().pairs(3, seed=seed)[2].donor.prompt for seed in range(9)}) > 3


class TestUnknownAnswers:
    """A gold answer that is not known is neither right nor wrong."""

    def asked(self, known: int) -> Questions:
        from loadbearing.tasks import load

        task = Questions(answer="number")
        for number, problem in enumerate(load("modular-sum").problems(12)):
            task.add(problem.key, problem.pieces, problem.answer if number < known else "")
        return task

    def test_accuracy_is_over_the_known_ones(self, organism: Callable[[str], Any]) -> None:
        from loadbearing.hooks import generate

        runs = generate(organism("sft"), self.asked(known=5).problems(12))
        assert runs.accuracy == 1.0 and sum(run.correct for run in runs) == 5
        assert math.isnan(generate(organism("sft"), self.asked(known=0).problems(3)).accuracy)

    def test_channels_of_made_pairs_read_what_the_task_says(self, organism: Callable[[str], Any]) -> None:
        from loadbearing.analyses import channels

        model = organism("sft")
        pairs = self.asked(known=12).pairs(12, vary="operand.2", tokenizer=model.tokenizer)
        frame = channels(model, pairs, target="answer").frame()
        rows = (frame.quantity == "share") & (frame.variable == "operand.2") & (frame.outcome == "log-odds")
        shares = frame[rows].set_index("term").estimate
        assert shares["tokens"] > 0.95 and abs(shares["direct"]) < 0.05


def test_pairs_with_made_partners_are_set_aside_only_where_an_answer_is_known_to_be_wrong(
    organism: Callable[[str], Any],
) -> None:
    from loadbearing.analyses import channels

    task, problems = Questions("sums"), organism("sft").task.problems(12)
    for problem in problems[:11]:
        task.add(problem.key, problem.prompt, problem.answer)
    wrong = str((int(problems[11].answer) + 1) % 10)
    task.add(problems[11].key, problems[11].prompt, wrong)
    pairs = task.pairs(12, tokenizer=organism("sft").tokenizer)
    found = channels(organism("sft"), pairs, target="answer", keep="correct").manifest.circumstance
    reason = 'set aside by keep="correct": an answer is not the gold one'
    assert found["dropped"]["number"][reason] == 1
    assert found["asked"]["number"] == 11
