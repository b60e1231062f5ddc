"""Rules for steps and answers, against hand-read texts and, for numbers, against Python's decimals."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadbearing.core import InputError, UnknownNameError
from loadbearing.tasks import Step, answer_rule, step_rule
from loadbearing.tasks.rules import canonical_number

TEXT = "1. First, 12 + 7 = 19.\n\n  2. Then 19 - 4 \t = 15!  So 15."
RULES = [
    "none",
    "line",
    "sentence",
    "marker:Then",
    r"regex:= (\d+)",
    r"regex:(?P<rest>\w+) (?P<value>\d+)?",
    "regex:x*",
]


def values(rule: Any, text: str) -> list[str]:
    return [step.value for step in step_rule(rule)(text)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("none", []),
        ("line", ["1. First, 12 + 7 = 19.", "2. Then 19 - 4 = 15! So 15."]),
        ("sentence", ["1. First, 12 + 7 = 19.", "2. Then 19 - 4 = 15!", "So 15."]),
        ("marker:Then", ["Then 19 - 4 = 15! So 15."]),
        ("marker:19", ["19. 2. Then", "19 - 4 = 15! So 15."]),
        (r"regex:\d+ [+-] \d+", ["12 + 7", "19 - 4"]),
        (r"regex:= (\d+)", ["19", "15"]),
        (r"regex:([+-]) (?P<value>\d)", ["7", "4"]),
        (r"regex:^\s*\d\. (\w+)", ["First", "Then"]),  # ^ stands for every line
        (r"regex:(x)?Then", []),  # the group took no part
    ],
)
def test_steps_by_a_rule(rule: str, expected: list[str]) -> None:
    assert values(rule, TEXT) == expected
    assert values(rule, "") == [] == values(rule, " \n ")


def test_a_number_of_three_and_a_half_ends_no_sentence() -> None:
    assert values("sentence", 'He has 3.5 (or "so.") Right?\nYes') == ['He has 3.5 (or "so.")', "Right?", "Yes"]


@given(st.text(st.sampled_from("aThen 19.=x!\n\t\r12\u2003é"), max_size=60), st.sampled_from(RULES))
def test_every_step_is_what_its_characters_say(text: str, rule: str) -> None:
    steps = step_rule(rule)(text)
    assert [step.item for step in steps] == list(range(1, len(steps) + 1))
    end = 0
    for step in steps:
        stretch = text[step.start : step.end]
        assert end <= step.start < step.end
        assert stretch == stretch.strip() and step.value == " ".join(stretch.split())
        end = step.end


@given(st.text(max_size=60))
def test_lines_and_sentences_lose_nothing_but_space(text: str) -> None:
    for rule in ("line", "sentence"):
        assert "".join("".join(values(rule, text)).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("text", "  forty \n two ", "forty two"),
        ("text", " \n", None),
        ("number", "It is 1,234.50 of 9", "1234.5"),
        ("number", "x2 and B12, then -3", "-3"),
        ("number", "10-3", "10"),
        ("number", "\u22127 degrees", "-7"),
        ("number", "**42**kg", "42"),
        ("number", "$.50", "0.5"),
        ("number", "1,2345", "1"),
        ("number", "none", None),
        ("last-number", "10-3", "3"),
        ("last-number", "3 + 4 = 7 #### 007.", "7"),
        ("last-number", "none", None),
        ("choice", "B", "B"),
        ("choice", "(B)", "B"),
        ("choice", "**B**", "B"),
        ("choice", "B. Because A is wrong", "B"),
        ("choice", "A good answer is C\nsurely", "C"),
        ("choice", "I think so", None),
        ("choice", "The answer", None),
        ("boxed", r"\boxed{1} and \boxed{\frac{1}{2} }.", r"\frac{1}{2}"),
        ("boxed", r"\boxed{ \{1\} }", r"\{1\}"),
        ("boxed", r"\boxed{1", None),
        ("boxed", r"\boxed{}", None),
        ("boxed", "boxed{1}", None),
        (r"regex:####\s*(.+)", "so\n#### 4  2\nmore", "4 2"),
        (r"regex:is (?P<value>\w)(\d)", "is x7", "x"),
        ("regex:[0-9]+", "a 12 b", "12"),
        ("regex:(x)?a", "a", None),
        ("regex:b", "a", None),
    ],
)
def test_answers_by_a_rule(rule: str, text: str, expected: str | None) -> None:
    assert answer_rule(rule)(text) == expected


NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=3)


@given(NUMBERS, st.booleans(), st.integers(0, 3), st.integers(0, 3))
def test_a_number_has_one_way_of_writing(number: Decimal, grouped: bool, before: int, after: int) -> None:
    text = f"{abs(number):,f}" if grouped else "0" * before + f"{abs(number):f}"
    text = ("-" if number < 0 else "") + text + "0" * after
    canonical = canonical_number(text)
    assert Decimal(canonical) == number
    assert canonical_number(canonical) == canonical == format(number.normalize() + 0, "f")
    for rule in ("number", "last-number"):
        assert answer_rule(rule)(f"It is {text}: so.") == canonical


@given(st.text(max_size=40), st.sampled_from(["text", "number", "last-number", "choice", "boxed", r"regex:(\d)"]))
def test_an_answer_says_something_or_is_none(text: str, rule: str) -> None:
    found = answer_rule(rule)(text)
    assert found is None or found == " ".join(found.split()) != ""
    if found is not None and rule == "number":
        assert answer_rule(rule)(found) == found


class TestFunctions:
    def test_a_function_of_ones_own(self) -> None:
        words = step_rule(lambda text: [Step(3, "x", 0, 1), Step(5, "y", 1, 2)])
        assert [step.item for step in words("ab")] == [3, 5]
        assert answer_rule(lambda text: text[:1] or None)("ab") == "a"
        assert answer_rule(lambda text: "")("ab") is None

    @pytest.mark.parametrize(
        "found", [["x"], [Step(0, "x", 0, 1)], [Step(1, "x", 1, 1)], [Step(1, "x", 0, 3)], [Step(1, "x", 0, 1)] * 2]
    )
    def test_steps_that_cannot_be(self, found: list[Any]) -> None:
        with pytest.raises(InputError, match=r"the function for steps returned .*: expected Step\(item, value"):
            step_rule(lambda text: found)("ab")

    def test_an_answer_that_is_no_text(self) -> None:
        number: Any = 7
        with pytest.raises(InputError, match="the function for answers returned 7: expected a text, or None"):
            answer_rule(lambda text: number)("7")


class TestErrors:
    @pytest.mark.parametrize("rule", ["lines", "line:x", ""])
    def test_an_unknown_rule(self, rule: str) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown rule for steps .*: expected one of none, line, "):
            step_rule(rule)

    def test_the_nearest_is_named(self) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown rule for answers 'numbr': .*nearest: 'number'"):
            answer_rule("numbr")

    @pytest.mark.parametrize("rule", ["marker:", "marker", "regex:", "regex"])
    def test_nothing_behind_the_colon(self, rule: str) -> None:
        with pytest.raises(InputError, match=f"rule for steps '{rule}': nothing stands behind"):
            step_rule(rule)

    @pytest.mark.parametrize("pattern", ["(", "[a", "a{99999999999}", "(?P<1>a)"])
    def test_no_regular_expression(self, pattern: str) -> None:
        for make in (step_rule, answer_rule):
            with pytest.raises(InputError) as error:
                make(f"regex:{pattern}")
            assert f"{pattern!r} is no regular expression of Python: " in str(error.value)
