"""Solved examples before a prompt: part of the prompt, no piece of it, and nothing that a cut could mistake."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import loadbearing as lb
from loadbearing.core import InputError
from loadbearing.hooks import FORMATS, MODES, Format, generate, replay_gold
from loadbearing.hooks.format import decode, render_prompt, tokenize
from loadbearing.organisms.specs import FORMAT
from loadbearing.tasks import ModularSum, Piece, Questions

TASK = ModularSum()
SHOWN = TASK.problems(2, split="train")
FEW = FORMAT.with_examples(SHOWN)
PARTS = ("prompt", "open", "cot", "cue", "answer")


def test_an_example_is_a_whole_run_of_its_mode() -> None:
    first = SHOWN[0]
    form = Format().with_examples([first])
    assert form.examples == f"{first.prompt}\nLet's think step by step.{first.cot}\nAnswer: {first.answer}\n\n"
    assert form.direct_examples == f"{first.prompt}\nAnswer: {first.answer}\n\n"
    assert form.examples_of("cot") == form.examples and form.examples_of("answer-only") == form.direct_examples
    assert Format(examples="12 ").examples_of("answer-only") == "12 "


@pytest.mark.parametrize("name", ["chat", "think", "harmony"])
def test_in_a_chat_examples_hold_no_marks(name: str) -> None:
    form = FORMATS[name].with_examples(SHOWN)
    assert form.examples == Format().with_examples(SHOWN).examples
    assert replace(form, examples="", direct_examples=None) == FORMATS[name]


@pytest.mark.parametrize("mode", MODES)
def test_examples_are_prompt_and_no_piece(mode: Any, word_tokenizer: Any) -> None:
    problem = TASK.problems(1)[0]
    plain, few = (render_prompt(word_tokenizer, form, problem, mode) for form in (FORMAT, FEW))
    more = len(few.ids) - len(plain.ids)
    assert more == len(word_tokenizer(FEW.examples_of(mode), add_special_tokens=False)["input_ids"])
    assert few.spans["prompt"] == (0, plain.spans["prompt"][1] + more)
    rest = {name: span for name, span in plain.spans.items() if name != "prompt"}
    assert {name: few.spans[name] for name in rest} == {n: (a + more, b + more) for n, (a, b) in rest.items()}
    assert few.spans.keys() == plain.spans.keys()
    assert few.ids[0] == word_tokenizer.bos_token_id and few.ids[1 + more :] == plain.ids[1:]


def test_in_a_chat_they_begin_the_users_message(bpe_tokenizer: Any) -> None:
    form = FORMATS["think"].with_examples(SHOWN)
    problem = TASK.problems(1)[0]
    segment = render_prompt(bpe_tokenizer, form, problem, "cot")
    shown = decode(bpe_tokenizer, segment.ids)
    assert shown == (f"<|im_start|>user\n{form.examples}{problem.prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n")
    assert decode(bpe_tokenizer, segment.ids[slice(*segment.spans["operand.1"])]).strip() == problem.values["operand.1"]


def test_a_problem_that_is_an_example_is_refused(word_tokenizer: Any) -> None:
    for mode in MODES:
        with pytest.raises(InputError) as error:
            render_prompt(word_tokenizer, FEW, SHOWN[1], mode)
        assert str(error.value) == (
            f"problem {SHOWN[1].key!r} is one of the format's examples, so that its answer stands before it: take "
            "examples from the train split, or leave the problem out"
        )


def test_problems_without_a_chain_of_thought_are_examples_of_answers_only() -> None:
    task = Questions()
    task.add("q", "What is 12 + 30?", "42")
    with pytest.raises(
        InputError, match=r"problem 'q' has no gold chain of thought to show: .*modes=\['answer-only'\]"
    ):
        Format().with_examples(task.problems(1))
    form = Format().with_examples(task.problems(1), modes=["answer-only"])
    assert (form.examples, form.direct_examples) == ("", "What is 12 + 30?\nAnswer: 42\n\n")


class TestFormatValues:
    def test_what_is_not_set_is_left_out(self) -> None:
        assert list(FORMAT.asdict()) == ["open", "close", "cue", "direct_open", "direct_cue", "end", "chat"]
        assert Format(**FORMAT.asdict()) == FORMAT

    def test_a_format_goes_through_json_and_can_be_hashed(self) -> None:
        form = Format(chat=True, system="Be brief.", template={"enable_thinking": False}, examples="12 ")
        assert Format(**json.loads(json.dumps(form.asdict()))) == form
        assert hash(form) == hash(Format(**form.asdict())) and len({form, FORMAT, Format()}) == 3

    def test_values_that_json_has_not_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"expected a template of JSON values and an ISO date: .*set"):
            Format(chat=True, template={"tools": {1}})
        with pytest.raises(InputError, match=r"ISO date: .*26 Jul 2024"):
            Format(date="26 Jul 2024")

    def test_system_and_template_need_a_chat(self) -> None:
        for options in ({"system": "Be brief."}, {"template": {"enable_thinking": False}}):
            with pytest.raises(InputError, match="`system` and `template` belong to a chat template: set chat=True"):
                Format(**options)


class TestCut:
    """A cut finds the parts of a run after the examples, which hold the same marks."""

    @pytest.fixture
    def model(self, tiny: Callable[[str], Any]) -> Any:
        return tiny("llama").with_format(examples=FEW.examples, direct_examples=FEW.direct_examples)

    @pytest.mark.parametrize("name", PARTS[:4])
    def test_parts_are_found_behind_the_examples(self, name: str, model: Any) -> None:
        import torch

        cut = model.cut(queries="answer", keys=name)
        problems = TASK.problems(4)
        for runs in (replay_gold(cut, problems), generate(cut, problems, "answer-only", max_answer_tokens=1)):
            for run in runs:  # making them has checked the same
                starts = cut.backend.scanner.starts(torch.tensor([run.ids]))[0].tolist()
                found = dict(zip(PARTS, starts, strict=True))
                assert {part: found[part] for part in run.spans if part in PARTS} == {
                    part: span[0] for part, span in run.spans.items() if part in PARTS
                }

    def test_the_cue_cut_from_the_prompt_does_not_see_the_examples(self, model: Any) -> None:
        """Other examples of as many tokens change what follows the cue, and nothing where it cannot see the prompt."""
        import torch

        from loadbearing.hooks.splice import plain_logits

        run = replay_gold(model, TASK.problems(1))[0]
        changed = list(run.ids)
        changed[1:5] = [run.ids[2], run.ids[1], run.ids[4], run.ids[3]]
        at = run.spans["cue"][1] - 1
        blind = model.cut(queries="open+cot+cue+answer", keys="prompt")
        for one, same in ((model, False), (blind, True)):
            # The examples are told by their ids, so a text with other ids is cut as a format with these examples.
            swapped = one.with_format(examples=decode(model.tokenizer, changed[1 : 1 + _more(model)]) + "\n\n")
            logits = [plain_logits(m, ids)[at] for m, ids in ((one, run.ids), (swapped, tuple(changed)))]
            assert torch.equal(*logits) is same

    def test_a_place_in_the_prompt_is_refused_where_the_modes_differ(self, organism: Callable[[str], Any]) -> None:
        both = organism("both").with_format(examples=FEW.examples, direct_examples=FEW.direct_examples)
        with pytest.raises(InputError) as error:
            both.cut(queries="cue", keys="operand.2")
        assert "'operand.2' stands elsewhere in an answer-only run" in str(error.value)
        same = organism("both").with_format(examples=FEW.examples)
        place = same.cut(queries="cue", keys="operand.2").backend
        assert isinstance(place, lb.hooks.cut.CutBackend)

    def test_a_token_that_joins_examples_and_problem_is_refused(
        self, random_module: Callable[..., Any], bpe_tokenizer: Any
    ) -> None:
        model = lb.hooks.load(random_module("llama", bpe_tokenizer), tokenizer=bpe_tokenizer, format="plain")
        assert tokenize(bpe_tokenizer, [Piece("12")]).ids != tokenize(bpe_tokenizer, [Piece("1"), Piece(" 2")]).ids
        with pytest.raises(InputError, match="a token joins the examples and the problem: end them with a line break"):
            model.with_format(examples="4 1").cut(queries="cue", keys="cot")


def _more(model: Any) -> int:
    return len(model.tokenizer(model.format.examples, add_special_tokens=False)["input_ids"])
