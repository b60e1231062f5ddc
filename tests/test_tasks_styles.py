"""Surface styles: the same values in other words, and back."""

import itertools
from typing import Any

import pytest

from loadbearing.core import UnknownNameError
from loadbearing.tasks import Copy, ModularSum, Task, load
from loadbearing.tasks.numerals import english, german

STYLED = {
    "modular-sum": ("digits", "words", "german"),
    "modular-sum:modulus=100,terms=3": ("digits", "words", "german"),
    "modular-sum:modulus=101": ("digits",),
    "modular-program:cot=short": ("digits", "words", "german"),
    "modular-sum:hint=half": ("digits", "words", "german"),
    "permutations": ("digits", "letters", "cycles"),
    "permutations:group=S5": ("digits", "letters", "cycles"),
    "pointers": ("lower", "upper"),
    "addition": ("digits", "words", "german"),
}


@pytest.mark.parametrize(("spec", "styles"), [*STYLED.items()])
class TestStyles:
    def test_a_restyled_chain_of_thought_states_the_same_and_turns_back(
        self, spec: str, styles: tuple[str, ...]
    ) -> None:
        task = load(spec)
        assert task.styles == styles
        for problem in task.problems(9):
            gold = [(step.item, step.value) for step in task.parse_steps(problem.cot)]
            assert len(gold) == len(problem.steps) > 0
            for style in styles:
                text = task.restyle(problem.cot, style)
                assert [(step.item, step.value) for step in task.parse_steps(text)] == gold
                assert [text[s.start : s.end] for s in task.parse_steps(text)] == text.split()  # as it is written
                assert all(task.restyle(task.restyle(text, other), style) == text for other in styles)
                if spec != "addition":  # whose answer has digits in every style
                    assert {task.parse_answer(" " + task.say(value, style)) == value for _, value in gold} == {True}

    def test_no_word_means_two_values(self, spec: str, styles: tuple[str, ...]) -> None:
        task: Any = load(spec)
        said: dict[str, set[str]] = {}
        for style in styles:
            for value in task._values:
                said.setdefault(task.say(value, style), set()).add(value)
        assert max(map(len, said.values())) == 1
        assert all(len(word.split()) == 1 for word in said)

    def test_a_task_of_a_style_writes_it_and_is_the_same_otherwise(self, spec: str, styles: tuple[str, ...]) -> None:
        plain = load(spec)
        for style in styles:
            task = plain.changed(style=style)
            assert task.styles[0] == style and {*task.styles} == {*styles}
            for one, other in zip(plain.problems(5, seed=2), task.problems(5, seed=2), strict=True):
                assert (one.key, one.answer, one.values) == (other.key, other.answer, other.values)
                assert other.cot == plain.restyle(one.cot, style)
                assert task.say(one.values["v_1"]) == plain.say(one.values["v_1"], style)

    def test_a_style_that_is_not_there(self, spec: str, styles: tuple[str, ...]) -> None:
        for ask in (load(spec).restyle, load(spec).say):
            with pytest.raises(UnknownNameError, match=f"unknown style 'french': expected one of {', '.join(styles)};"):
                ask("7", "french")


def test_words_that_are_no_values_stay() -> None:
    task = ModularSum()
    text = "First 8, then nine; someone wrote acht and 12 and eighty."
    assert task.restyle(text, "german") == "First acht, then neun; someone wrote acht and 12 and eighty."
    assert task.restyle("", "words") == ""
    assert [step.value for step in task.parse_steps(text)] == ["8", "9", "8", "12"]
    assert [(step.start, step.end) for step in task.parse_steps(" 8 nine")] == [(1, 2), (3, 7)]


def test_a_longer_word_is_not_read_as_the_one_that_it_begins_with() -> None:
    task = ModularSum("modular-sum:modulus=100")
    assert [s.value for s in task.parse_steps("seventy seventeen seventy-seven siebenundsiebzig siebzig")] == [
        "70",
        "17",
        "77",
        "77",
        "70",
    ]
    assert ModularSum().parse_steps("eighteen one-off zweihundert") == []


def test_a_task_without_styles_refuses_them() -> None:
    task: Task = Copy()
    assert task.styles == () and task.say("7") == "7" and task.all_words() == task.words()
    with pytest.raises(UnknownNameError, match=r"unknown style 'words': expected one of \(none\)"):
        task.restyle("7", "words")


@pytest.mark.parametrize(
    ("number", "in_english", "in_german"),
    [
        (0, "zero", "null"),
        (1, "one", "eins"),
        (12, "twelve", "zwölf"),
        (16, "sixteen", "sechzehn"),
        (17, "seventeen", "siebzehn"),
        (19, "nineteen", "neunzehn"),
        (20, "twenty", "zwanzig"),
        (21, "twenty-one", "einundzwanzig"),
        (30, "thirty", "dreißig"),
        (46, "forty-six", "sechsundvierzig"),
        (67, "sixty-seven", "siebenundsechzig"),
        (70, "seventy", "siebzig"),
        (99, "ninety-nine", "neunundneunzig"),
    ],
)
def test_numbers_in_words(number: int, in_english: str, in_german: str) -> None:
    assert (english(number), german(number)) == (in_english, in_german)


def test_number_words_are_made_of_their_tens_and_units() -> None:
    for say in (english, german):
        assert len({say(number) for number in range(100)}) == 100
    for tens, unit in itertools.product(range(2, 10), range(1, 10)):
        assert english(10 * tens + unit) == f"{english(10 * tens)}-{english(unit)}"
        start = {1: "ein"}.get(unit, german(unit))
        assert german(10 * tens + unit) == f"{start}und{german(10 * tens)}"
