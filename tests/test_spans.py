"""The grammar of positions, against Python's own indexing."""

import itertools
import re

import pytest

from loadbearing.core import InputError, UnknownNameError
from loadbearing.hooks import resolve
from loadbearing.hooks.spans import Place

SPANS = {
    "prompt": (0, 6),
    "operand.1": (1, 2),
    "operand.2": (3, 4),
    "open": (6, 7),
    "cot": (7, 15),
    "step.1": (7, 9),
    "step.2": (9, 10),
    "step.10": (10, 14),
    "cue": (15, 17),
    "answer": (17, 18),
}


def positions(text: str) -> list[int]:
    return [place.position for place in resolve(SPANS, text)]


def labels(text: str) -> list[str]:
    return [place.label for place in resolve(SPANS, text)]


@pytest.mark.parametrize("name", SPANS)
def test_a_bare_name_is_all_tokens_of_its_span(name: str) -> None:
    start, end = SPANS[name]
    assert resolve(SPANS, name) == [Place(name, position) for position in range(start, end)]


@pytest.mark.parametrize("index", range(-6, 6))
def test_an_index_is_pythons(index: int) -> None:
    assert resolve(SPANS, f"prompt[{index}]") == [Place(f"prompt[{index}]", range(0, 6)[index])]


BOUNDS = ["", "0", "1", "-2", "5", "99", "-99"]


@pytest.mark.parametrize("name", ["prompt", "cot", "step.2"])
def test_a_slice_is_pythons(name: str) -> None:
    tokens = list(range(*SPANS[name]))
    for start, stop, step in itertools.product(BOUNDS, BOUNDS, ["", "1", "2", "-1"]):
        text = f"{start}:{stop}" + (f":{step}" if step else "")
        expected = tokens[slice(*(int(part) if part else None for part in (start, stop, step)))]
        assert positions(f"{name}[{text}]") == expected, text


def test_spaces_inside_the_brackets_do_not_matter() -> None:
    assert positions("prompt[ 1 : 3 ]") == [1, 2]
    assert positions("prompt[ -1 ]") == [5]


def test_an_item_counts_from_one_and_is_not_mixed_up_with_longer_numbers() -> None:
    assert positions("step.1") == [7, 8]
    assert positions("step.10[-1]") == [13]
    assert labels("step.10[-1]") == ["step.10[-1]"]


def test_a_wildcard_gives_every_item_in_the_order_of_numbers_under_its_own_label() -> None:
    assert resolve(SPANS, "step.*[-1]") == [Place("step.1[-1]", 8), Place("step.2[-1]", 9), Place("step.10[-1]", 13)]
    assert resolve(SPANS, "operand.*") == [Place("operand.1", 1), Place("operand.2", 3)]


def test_a_wildcard_may_match_nothing_where_items_could_have_been() -> None:
    without = {"prompt": (0, 6)}
    assert resolve(without, "step.*[-1]") == []
    assert resolve(without, "operand.*") == []
    assert resolve(SPANS, "step.*[5:]") == []  # and a slice may be empty


def test_a_wildcard_of_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as error:
        resolve(SPANS, "stpe.*")
    for part in ("unknown position 'stpe'", "expected one of", "operand", "nearest: 'step'"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "nearest"), [("promt[-1]", "prompt"), ("step.11", "step.1"), ("step.0", "step."), ("anser", "answer")]
)
def test_an_unknown_position_is_an_error_with_all_spans_and_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        resolve(SPANS, text)
    name = text.partition("[")[0]
    assert f"unknown position {name!r}" in str(error.value)
    assert f"expected one of {', '.join(SPANS)}" in str(error.value)
    assert f"nearest: '{nearest}" in str(error.value)


@pytest.mark.parametrize(("text", "size"), [("prompt[6]", 6), ("prompt[-7]", 6), ("step.2[1]", 1), ("prompt[]", 6)])
def test_an_index_outside_of_the_span_says_how_long_it_is(text: str, size: int) -> None:
    with pytest.raises(InputError, match=re.escape(f"position {text!r}: the span has {size} tokens")):
        resolve(SPANS, text)


def test_an_index_must_fit_every_item_of_a_wildcard() -> None:
    with pytest.raises(InputError, match=r"step\.\*\[1\].*has 1 tokens"):
        resolve(SPANS, "step.*[1]")
    assert positions("step.*[0]") == [7, 9, 10]


@pytest.mark.parametrize("inside", ["x", "1.5", "-", "--1", "1 2", "1:2:3:4", "1:-", "a:b", "*"])
def test_what_is_no_index_and_no_slice_is_shown(inside: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(SPANS, f"prompt[{inside}]")
    assert str(error.value) == f"position 'prompt[{inside}]': [{inside}] is no index and no slice"


@pytest.mark.parametrize(
    "text",
    ["", "Prompt", "prompt[", "prompt]", "prompt[1][2]", "step.", "step.x", "step.*.1", "step.-1", " prompt", "*"],
)
def test_what_is_no_position_gets_the_grammar_and_examples(text: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(SPANS, text)
    for part in (f"position {text!r}", "expected NAME[.ITEM][SLICE]", "'prompt[-1]'", "'step.*[-1]'"):
        assert part in str(error.value)


def test_a_slice_with_step_zero_is_an_error_of_ours() -> None:
    with pytest.raises(InputError, match=re.escape("prompt[::0]")):
        resolve(SPANS, "prompt[::0]")
