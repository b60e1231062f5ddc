"""Questions from a file: every field arrives, and every wrong line is told by its number and field."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from loadbearing.core import InputError
from loadbearing.tasks import Piece, Questions, load

GOOD = {"prompt": "1 + 1?", "answer": "2"}


def write(folder: Path, *lines: Any) -> Path:
    """A file with these lines: objects as JSON, bytes as they are."""
    path = folder / "mine.jsonl"
    path.write_bytes(b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines))
    return path


def read(folder: Path, *lines: Any, options: str = "") -> Questions:
    task = load(f"jsonl:{write(folder, *lines)}{options}")
    assert isinstance(task, Questions)
    return task


def told(folder: Path, *lines: Any, options: str = "") -> str:
    """The error, without the name of the file."""
    with pytest.raises(InputError) as error:
        read(folder, *lines, options=options)
    assert str(error.value).startswith(f"{folder / 'mine.jsonl'}")
    return str(error.value).removeprefix(f"{folder / 'mine.jsonl'}").removeprefix(", ")


class TestReading:
    def test_every_field_arrives(self, tmp_path: Path) -> None:
        first = {
            "id": "a",
            "prompt": [{"text": "12", "name": "operand.1"}, {"text": " + 7?"}],
            "answer": 1019.0,
            "values": {"carry": 1, "v_2": "x", "no": None},
            "cot": ["12 + 7", "= 19"],
            "transcript": ["one", "two"],
            "partner": 7,
        }
        second = {"id": 7, "prompt": "13 + 7?", "answer": "1,020 apples", "cot": "19 + 1", "transcript": "three"}
        task = read(tmp_path, first, second, {"prompt": "?", "answer": None}, options="?answer=number&steps=line")
        found = {problem.key: problem for problem in task.problems(3)}
        assert list(sorted(found)) == ["3", "7", "a"]  # without an id, the number of the line
        assert found["a"].pieces == (Piece("12", "operand.1"), Piece(" + 7?"))
        assert [problem.answer for _, problem in sorted(found.items())] == ["", "1020", "1019"]
        assert found["a"].values == {"carry": "1", "v_2": "x"} and found["7"].values == {"v_1": "1020"}
        assert found["a"].cot == "12 + 7\n= 19" and found["7"].cot == "19 + 1" and found["3"].steps == ()
        assert task.transcripts == {"a": ("one", "two"), "7": ("three",)}
        (pair,) = task.pairs(1)
        assert (pair.recipient.key, pair.donor.key) == ("a", "7")
        assert [step.value for step in task.parse_steps("a\n\nb")] == ["a", "b"]

    def test_the_spec_is_the_name_and_gives_the_same_task_again(self, tmp_path: Path) -> None:
        task = read(tmp_path, GOOD, options="?partners=given")
        assert task.spec == f"jsonl:{tmp_path / 'mine.jsonl'}?partners=given" and task.partners == "given"
        again = load(task.spec)
        assert again.problems(1) == task.problems(1) and load(task) is task

    def test_a_path_may_hold_colons_and_commas(self, tmp_path: Path) -> None:
        folder = tmp_path / "a:b,c=d"
        folder.mkdir()
        assert read(folder, GOOD).problems(1)[0].answer == "2"

    def test_a_pattern_may_hold_what_separates_options(self, tmp_path: Path) -> None:
        task = read(tmp_path, GOOD | {"answer": "a&b=2"}, options=r"?answer=regex:(?:&b|,)=(\d)&steps=regex:a?=&b")
        assert task.rules == ("regex:a?=&b", r"regex:(?:&b|,)=(\d)") and task.problems(1)[0].answer == "2"

    def test_a_byte_order_mark_and_blank_lines(self, tmp_path: Path) -> None:
        assert (
            len(read(tmp_path, b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r", b"", b" ", GOOD).problems(2)) == 2
        )

    def test_fields_of_other_names(self, tmp_path: Path) -> None:
        line = {"question": "1 + 1?", "solution": "1 + 1 = 2", "level": 3}
        options = "?fields=prompt:question,answer:solution,cot:solution&answer=last-number&extra=ignore"
        problem = read(tmp_path, line, options=options).problems(1)[0]
        assert (problem.prompt, problem.answer, problem.cot) == ("1 + 1?", "2", "1 + 1 = 2")


WRONG = [
    ({"prompt": 3}, 'field \'prompt\': expected a text, or a list of {"text": ..., "name": ...}, got 3'),
    ({"answer": "2"}, "field 'prompt' is missing: expected a text, or a list of"),
    ({"prompt": " \n"}, "field 'prompt': expected a text, or a list of .*: a blank text says nothing"),
    ({"prompt": []}, "field 'prompt': .* got \\[\\]: a prompt without text asks nothing"),
    ({"prompt": [{"text": "a", "nam": "b"}]}, "field 'prompt': expected a text, or a list of"),
    ({"prompt": [{"text": "a", "name": "B"}]}, "field 'prompt': .*: the name 'B' is not of the form name or name.3"),
    ({"prompt": [{"text": "a", "name": "step.1"}]}, "'step.1' is what a part of every run is called"),
    ({"prompt": [{"text": "a", "name": "x"}] * 2}, "the name 'x' stands twice"),
    ({"prompt": [{"text": "a"}, {"text": " ", "name": "x"}]}, "the name 'x' stands twice, or its text is blank"),
    (GOOD | {"answer": True}, "field 'answer': expected a text or a number, got True"),
    (GOOD | {"answer": ""}, "field 'answer': expected a text or a number, got '': a blank text says nothing"),
    (GOOD | {"id": 1.5}, "field 'id': expected a text or a whole number that no other question has, got 1.5"),
    (GOOD | {"values": ["a"]}, "field 'values': expected an object of names and their gold values"),
    (GOOD | {"values": {"V": 1}}, "field 'values': .*: the name 'V' is not of the form"),
    (GOOD | {"cot": {"a": 1}}, "field 'cot': expected a text, or a list of texts: the steps, got {'a': 1}"),
    (GOOD | {"transcript": ["a", ""]}, "field 'transcript': .*: a blank text says nothing; leave the field out"),
    (GOOD | {"transcript": [1]}, "field 'transcript': expected a text that a model wrote, or a list of them, got"),
    (GOOD | {"id": "x", "partner": "x"}, "field 'partner': 'x' is the question itself; name the id of another one"),
    (GOOD | {"partner": "y"}, "field 'partner': no question has the id 'y'; name the id of another one"),
    (
        GOOD | {"promt": 1},
        "unknown field 'promt': expected one of id, prompt, .*nearest: 'prompt' \\(or pass the option",
    ),
    ([1, 2], "expected an object such as .*, got \\[1, 2\\]"),
    (b'{"prompt": "a"', r"no JSON at character 15 \(Expecting ',' delimiter\); expected one object a line"),
    (b'{"prompt": "a\xff"}', r"byte 14 is no UTF-8 \(invalid start byte\); save the file as UTF-8"),
    (b'{"prompt": "\\ud800"}', "field 'prompt': .*: the text holds half of a surrogate pair"),
    (b'{"prompt": "a", "answer": NaN}', "NaN is no number of JSON; write null, or leave the field out"),
    (b'{"prompt": "a", "answer": -Infinity}', "-Infinity is no number of JSON"),
    (b'{"prompt": "a", "answer": 1e999}', "field 'answer': expected a text or a number, got inf"),
    (b'{"prompt": "a", "prompt": "b"}', "no JSON that can be used: the field 'prompt' stands twice"),
    (b"[" * 200_000, "no JSON that can be used: "),
    (b'{"prompt": "a", "answer": ' + b"9" * 5000 + b"}", "no JSON that can be used: "),
]


class TestErrors:
    @pytest.mark.parametrize(("line", "message"), WRONG, ids=lambda value: str(value)[:30])
    def test_the_line_the_field_and_what_to_do(self, tmp_path: Path, line: Any, message: str) -> None:
        text = told(tmp_path, {"id": "first", **GOOD}, line)
        assert text.startswith("line 2: ")
        with pytest.raises(InputError, match=message):
            raise InputError(text)

    def test_all_wrong_lines_are_counted(self, tmp_path: Path) -> None:
        lines = [GOOD, *[{"prompt": 3}] * 12, GOOD, b"{"]
        text = told(tmp_path, *lines)
        assert text.startswith("line 2: ") and text.endswith(" (and 12 more wrong lines or rows)")

    def test_blank_lines_count(self, tmp_path: Path) -> None:
        assert told(tmp_path, GOOD, b"", b"", {"prompt": 3}).startswith("line 4: ")

    def test_an_id_that_stands_twice_names_both_lines(self, tmp_path: Path) -> None:
        text = told(tmp_path, GOOD | {"id": "1"}, GOOD, GOOD | {"id": 1})
        assert text.startswith("line 3: field 'id': '1' stands at ") and "mine.jsonl, line 1 already" in text

    def test_a_gold_answer_that_the_rule_cannot_read(self, tmp_path: Path) -> None:
        text = told(tmp_path, GOOD, GOOD | {"answer": "two"}, options="?answer=number")
        assert text.startswith("line 2: question '2': the rule 'number' finds no answer in the gold answer 'two'")

    def test_a_column_that_is_not_there(self, tmp_path: Path) -> None:
        text = told(tmp_path, GOOD, options="?fields=prompt:question")
        assert text == "line 1: field 'prompt': nothing is called 'question' here, only prompt, answer"

    def test_no_questions(self, tmp_path: Path) -> None:
        for lines in ((), (b"", b" ")):
            assert told(tmp_path, *lines) == ": there are no questions in it"

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("jsonl:", "task 'jsonl:': expected jsonl:PATH"),
            ("jsonl", "task 'jsonl': expected jsonl:PATH"),
            ("jsonl:nowhere.jsonl", "nowhere.jsonl: there is no such file; expected one question a line, as JSON"),
            ("jsonl:x?colour=red", "unknown option of task 'jsonl' 'colour': expected one of steps, answer, partners"),
            ("jsonl:x?steps", "task option 'steps': expected key=value, each key once"),
            ("jsonl:x?steps=line&steps=line", "task option 'steps=line': expected key=value, each key once"),
        ],
    )
    def test_a_spec_that_is_wrong(self, spec: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            load(spec)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("steps=lines", "unknown rule for steps 'lines'"),
            ("answer=regex:(", "is no regular expression of Python"),
            ("partners=some", "unknown partners 'some'"),
            ("extra=yes", "unknown extra 'yes': expected one of error, ignore"),
            ("fields=question", "fields='question': expected FIELD:NAME,FIELD:NAME, each field once"),
            ("fields=promt:a", "unknown field 'promt': .*nearest: 'prompt'"),
            ("fields=prompt:a,prompt:b", "each field once"),
        ],
    )
    def test_an_option_that_is_wrong(self, tmp_path: Path, options: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            read(tmp_path, GOOD, options=f"?{options}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELD = st.sampled_from(["id", "prompt", "answer", "values", "cot", "transcript", "partner", "text"])
FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


class TestFuzz:
    """Whatever a line holds, it is read, or it is an InputError with its number."""

    def read_or_told(self, folder: Path, before: int, line: bytes) -> bool:
        assume(b"\n" not in line)
        lines = [GOOD | {"id": f"good {number}"} for number in range(before)]
        try:
            read(folder, *lines, line)
        except InputError as error:
            text = str(error).removeprefix(f"{folder / 'mine.jsonl'}")
            assert text.startswith(f", line {before + 1}: ") or (
                not before and text == ": there are no questions in it"
            )
            return False
        return True

    @given(st.integers(0, 3), st.binary(max_size=30))
    @FUZZ
    def test_random_bytes(self, tmp_path: Path, before: int, line: bytes) -> None:
        assert not self.read_or_told(tmp_path, before, line) or not line.strip()

    @given(st.integers(0, 3), st.integers(1, 1000))
    @FUZZ
    def test_a_line_cut_short(self, tmp_path: Path, before: int, cut: int) -> None:
        whole = json.dumps(GOOD | {"values": {"a": 1}, "cot": ["é", "2"]}, ensure_ascii=False).encode()
        assert self.read_or_told(tmp_path, before, whole)
        assert not self.read_or_told(tmp_path, before, whole[: cut % (len(whole) - 1) + 1])

    @given(st.integers(0, 3), st.dictionaries(FIELD, JSON, max_size=4))
    @FUZZ
    def test_wrong_types(self, tmp_path: Path, before: int, record: dict[str, Any]) -> None:
        self.read_or_told(tmp_path, before, json.dumps(record).encode())

    @given(st.integers(0, 3), FIELD, JSON)
    @FUZZ
    def test_one_field_of_any_type(self, tmp_path: Path, before: int, field: str, value: Any) -> None:
        self.read_or_told(tmp_path, before, json.dumps(GOOD | {field: value}).encode())
