"""A user's own questions: what was added is there, what has a partner is paired, the rest is counted."""

import pytest

from loadbearing.core import InputError, UnknownNameError
from loadbearing.tasks import Piece, Questions, Task


def questions() -> Questions:
    task = Questions("mine")
    task.add("a", "1 + 1?", "2", partner="b")
    task.add("b", [Piece("1 + "), Piece("2", "operand.2"), Piece("?")], "3", cot=" 1 and 2", partner="a")
    task.add("c", "2 + 2?", "4", partner="b")
    task.add("d", "3 + 3?", "6")
    task.add("e", "4 + 4?", "8")
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
        pairs = questions().pairs(2)
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
            questions().pairs(3)
        assert str(error.value) == "task 'mine' has 2 pairs, 3 were asked for (2 without a partner)"

    def test_an_unknown_variable(self) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown variable 'qestion': .*nearest: 'question'"):
            questions().pairs(1, vary="qestion")

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

    def test_what_a_task_without_a_program_cannot_do(self) -> None:
        task = questions()
        with pytest.raises(InputError, match="task 'mine' cannot set a variable of a problem"):
            task.replace(task.problems(1)[0], "question", "?")
        with pytest.raises(InputError, match="task 'mine' has no closed vocabulary"):
            task.words()

    def test_there_is_no_train_split(self) -> None:
        with pytest.raises(InputError, match="train"):
            questions().problems(1, split="train")

    def test_a_question_is_not_its_own_partner(self) -> None:
        task = questions()
        with pytest.raises(InputError, match="'f' is named as its own partner: pair it with another one"):
            task.add("f", "5 + 5?", "10", partner="f")
