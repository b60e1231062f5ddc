"""Questions from folders of `datasets` and from logs of `inspect_ai`, both written by those libraries themselves."""

import sys
from pathlib import Path
from typing import Any

import pytest

from loadbearing.core import InputError, UnknownNameError
from loadbearing.tasks import Piece, Questions, load

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "12 + 7?", "answer": "19", "values": {"v_1": 19, "v_2": None}, "cot": ["12 + 7", "19"]},
    {"id": "b", "prompt": "13 + 7?", "answer": None, "values": {"v_1": None, "v_2": 2}, "cot": None},
]


def read(spec: str) -> Questions:
    task = load(spec)
    assert isinstance(task, Questions) and task.spec == spec
    return task


class TestDatasets:
    def test_a_folder_of_rows(self, tmp_path: Path) -> None:
        from datasets import Dataset

        Dataset.from_list(ROWS).save_to_disk(tmp_path / "set")
        first, second = sorted(read(f"dataset:{tmp_path / 'set'}").problems(2), key=lambda problem: problem.key)
        assert (first.key, first.prompt, first.answer, first.cot) == ("a", "12 + 7?", "19", "12 + 7\n19")
        assert first.values == {"v_1": "19"} and second.values == {"v_2": "2"}
        assert second.answer == "" and second.steps == ()

    def test_named_pieces(self, tmp_path: Path) -> None:
        from datasets import Dataset

        pieces = [{"text": "12", "name": "operand.1"}, {"text": " + 7?", "name": None}]
        Dataset.from_list([{"prompt": pieces}]).save_to_disk(tmp_path / "set")
        assert read(f"dataset:{tmp_path / 'set'}").problems(1)[0].pieces == (Piece("12", "operand.1"), Piece(" + 7?"))

    def test_splits_and_columns_of_other_names(self, tmp_path: Path) -> None:
        from datasets import Dataset, DatasetDict

        row = {"question": "Tom has 3 apples and buys 4. How many?", "answer": "3 + 4 = <<3+4=7>>7 #### 1,007"}
        splits = {"train": Dataset.from_list([row] * 3), "test": Dataset.from_list([row])}
        DatasetDict(splits).save_to_disk(tmp_path / "set")
        options = r"fields=prompt:question&answer=regex:(?:####)?\s*([0-9,]+)$"
        task = read(f"dataset:{tmp_path / 'set'}?split=test&{options}")
        assert task.problems(1)[0].answer == "1,007" and task.counts()["questions"] == 1
        assert read(f"dataset:{tmp_path / 'set'}?split=train&fields=prompt:question&answer=last-number").problems(3)
        with pytest.raises(InputError, match=r"several splits; add the option split=NAME, one of train, test"):
            load(f"dataset:{tmp_path / 'set'}")
        with pytest.raises(
            UnknownNameError, match="unknown split 'tset': expected one of train, test; nearest: 'test'"
        ):
            load(f"dataset:{tmp_path / 'set'}?split=tset")

    def test_a_wrong_row_is_told_by_its_number(self, tmp_path: Path) -> None:
        from datasets import Dataset

        Dataset.from_list([*ROWS, {"id": "c", "prompt": " "}]).save_to_disk(tmp_path / "set")
        with pytest.raises(InputError, match="set, row 3: field 'prompt': expected a text"):
            load(f"dataset:{tmp_path / 'set'}")
        Dataset.from_list([{"question": "?"}]).save_to_disk(tmp_path / "other")
        with pytest.raises(InputError, match="other, row 1: unknown field 'question'"):
            load(f"dataset:{tmp_path / 'other'}")

    def test_no_folder_of_datasets(self, tmp_path: Path) -> None:
        from datasets import Dataset

        for path in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(InputError, match="expected a folder written by save_to_disk"):
                load(f"dataset:{path}")
        Dataset.from_list(ROWS).save_to_disk(tmp_path / "set")
        with pytest.raises(InputError, match="one dataset without splits; leave split=test out"):
            load(f"dataset:{tmp_path / 'set'}?split=test")

    def test_the_library_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(InputError, match=r"install datasets: pip install 'loadbearing\[organisms\]'"):
            load("dataset:x")


def log_of(samples: list[Any]) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec

    about = EvalSpec(
        created="2026-01-01T00:00:00+00:00", task="sums", dataset=EvalDataset(), model="mock/model", config=EvalConfig()
    )
    return EvalLog(eval=about, status="success", samples=samples)


def write(path: Path, samples: list[Any]) -> Path:
    from inspect_ai.log import write_eval_log

    write_eval_log(log_of(samples), str(path))
    return path


def samples() -> list[Any]:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        ContentReasoning,
        ContentText,
        ModelOutput,
    )

    def output(*content: Any) -> ModelOutput:
        return ModelOutput.from_content("mock/model", list(content))

    talk: list[Any] = [
        ChatMessageSystem(content="Be brief."),
        ChatMessageUser(content="Hello"),
        ChatMessageAssistant(content="Yes?"),
        ChatMessageUser(content=[ContentText(text="What is 1 + 7? " + "x" * 300)]),
    ]
    thought, said = ContentReasoning(reasoning="12 + 7 = 19"), ContentText(text="It is 19.")
    hidden = ContentReasoning(reasoning="encrypted", summary="a sum", redacted=True)
    return [
        EvalSample(id="a", epoch=2, input="12 + 7?", target="19", output=output(said)),
        EvalSample(id="a", epoch=1, input="12 + 7?", target="19", output=output(thought, said)),
        EvalSample(id=2, epoch=1, input=talk, target=["8", "eight"], output=output(hidden, said)),
        EvalSample(id="c", epoch=1, input="Which?", choices=["one", "two"], target="", output=ModelOutput()),
    ]


class TestInspect:
    @pytest.mark.parametrize("kind", ["eval", "json"])
    def test_a_log(self, tmp_path: Path, kind: str) -> None:
        task = read(f"inspect:{write(tmp_path / f'log.{kind}', samples())}?answer=number&steps=line")
        found = {problem.key: problem for problem in task.problems(3)}
        assert {key: problem.answer for key, problem in found.items()} == {"a": "19", "2": "8", "c": ""}
        assert found["a"].prompt == "12 + 7?"
        assert found["2"].prompt == "What is 1 + 7? " + "x" * 300
        assert found["c"].prompt == "Which?\nA) one\nB) two"
        assert task.transcripts == {"a": ("12 + 7 = 19\nIt is 19.", "It is 19."), "2": ("a sum\nIt is 19.",)}
        assert [step.value for step in task.parse_steps(task.transcripts["a"][0])] == ["12 + 7 = 19", "It is 19."]

    def test_more_than_text_is_refused(self, tmp_path: Path) -> None:
        from inspect_ai.log import EvalSample
        from inspect_ai.model import ChatMessageSystem, ChatMessageUser, ContentImage

        image = ChatMessageUser(content=[ContentImage(image="data:image/png;base64,iVBORw0KGgo=")])
        path = write(tmp_path / "log.json", [EvalSample(id="a", epoch=1, input=[image], target="1")])
        with pytest.raises(InputError, match=r"log.json, sample 'a': the user's message holds more than text"):
            load(f"inspect:{path}")
        alone: list[Any] = [ChatMessageSystem(content="Be brief.")]
        path = write(tmp_path / "log.json", [EvalSample(id="a", epoch=1, input=alone, target="1")])
        with pytest.raises(InputError, match="sample 'a': the input holds no message of a user"):
            load(f"inspect:{path}")

    def test_a_gold_answer_that_the_rule_cannot_read(self, tmp_path: Path) -> None:
        path = write(tmp_path / "log.eval", samples()[:2])
        with pytest.raises(InputError, match=r"log.eval, sample 'a': question 'a': the rule 'choice' finds no answer"):
            load(f"inspect:{path}?answer=choice")

    def test_what_is_no_log(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere.eval: there is no such file; expected a log of inspect_ai"):
            load(f"inspect:{tmp_path / 'nowhere.eval'}")
        for name in ("log.eval", "log.json"):
            (tmp_path / name).write_text("{")
            with pytest.raises(InputError, match=f"{name}: expected a log of inspect_ai"):
                load(f"inspect:{tmp_path / name}")
        with pytest.raises(InputError, match=r"empty.json: there are no questions in it"):
            load(f"inspect:{write(tmp_path / 'empty.json', [])}")
        with pytest.raises(UnknownNameError, match="unknown option of task 'inspect' 'extra'"):
            load("inspect:x?extra=ignore")

    def test_the_library_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
        with pytest.raises(InputError, match=r"install inspect_ai: pip install 'loadbearing\[inspect\]'"):
            load("inspect:x")
