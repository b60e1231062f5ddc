"""From text pieces to token ids: every named span decodes to its own text, whatever the tokenizer."""

from collections.abc import Callable
from typing import Any

import pytest

from loadbearing.core import InputError
from loadbearing.hooks import Format, load
from loadbearing.hooks.format import decode, render_prompt, token_ends, tokenize
from loadbearing.organisms.specs import FORMAT
from loadbearing.tasks import ModularSum, Piece, Problem, Questions

CHAT = Format(open="<think>\n", close="</think>", cue="</think>\n\nAnswer:", direct_open="<think>\n\n", chat=True)


def question(*pieces: Piece) -> Problem:
    task = Questions()
    task.add("q", pieces, "42")
    return task.problems(1)[0]


QUESTION = question(Piece("What is "), Piece("12", "operand.1"), Piece(" + "), Piece("30", "operand.2"), Piece("?"))


class TestPlain:
    def test_words_by_hand(self, word_tokenizer: Any) -> None:
        problem = ModularSum().problem((6, 2, 9, 1))
        segment = render_prompt(word_tokenizer, FORMAT, problem, "cot")
        shown = word_tokenizer.convert_ids_to_tokens(list(segment.ids))
        assert shown == ["<bos>", "6", "+", "2", "+", "9", "+", "1", "mod", "10", "think"]
        assert segment.spans == {
            "prompt": (0, 10),  # <bos> counts with the prompt and belongs to no piece
            "open": (10, 11),
            "operand.1": (1, 2),
            "operand.2": (3, 4),
            "operand.3": (5, 6),
            "operand.4": (7, 8),
        }

    def test_without_an_open_there_is_no_such_span(self, word_tokenizer: Any) -> None:
        problem = ModularSum().problem((6, 2, 9, 1))
        segment = render_prompt(word_tokenizer, FORMAT, problem, "answer-only")
        assert "open" not in segment.spans
        assert segment.spans["prompt"] == (0, 10) == (0, len(segment.ids))
        with_open = Format(open=" think", close=" answer", cue=" answer", direct_open=" answer think")
        assert render_prompt(word_tokenizer, with_open, problem, "answer-only").spans["open"] == (10, 12)

    @pytest.mark.parametrize("mode", ["cot", "answer-only"])
    def test_there_is_exactly_one_bos_and_it_is_first(self, word_tokenizer: Any, mode: Any) -> None:
        for problem in ModularSum().problems(5):
            ids = render_prompt(word_tokenizer, FORMAT, problem, mode).ids
            assert [i for i, token in enumerate(ids) if token == word_tokenizer.bos_token_id] == [0]

    def test_every_named_piece_decodes_to_its_text(self, bpe_tokenizer: Any) -> None:
        segment = render_prompt(bpe_tokenizer, Format(), QUESTION, "cot")
        text = {name: decode(bpe_tokenizer, segment.ids[slice(*span)]) for name, span in segment.spans.items()}
        assert text["operand.1"].strip() == "12" and text["operand.2"].strip() == "30"
        assert text["prompt"] == "What is 12 + 30?"
        assert text["open"] == "\nLet's think step by step."
        assert decode(bpe_tokenizer, segment.ids) == text["prompt"] + text["open"]

    def test_the_ids_are_those_of_the_whole_text(self, bpe_tokenizer: Any) -> None:
        text = QUESTION.prompt + Format().open
        segment = render_prompt(bpe_tokenizer, Format(), QUESTION, "cot")
        assert list(segment.ids) == bpe_tokenizer(text)["input_ids"]

    def test_a_tokenizer_that_appends_eos_does_not_end_the_prompt(self, word_tokenizer: Any) -> None:
        import copy

        from tokenizers import processors

        appends = copy.deepcopy(word_tokenizer)
        pair = [("<bos>", appends.bos_token_id), ("<eos>", appends.eos_token_id)]
        appends.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=pair
        )
        segment = render_prompt(appends, FORMAT, ModularSum().problem((6, 2, 9, 1)), "cot")
        assert appends.eos_token_id not in segment.ids


class TestChat:
    def test_the_template_stands_around_the_prompt(self, bpe_tokenizer: Any) -> None:
        segment = render_prompt(bpe_tokenizer, CHAT, QUESTION, "cot")
        shown = decode(bpe_tokenizer, segment.ids)
        assert shown == "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n<think>\n"
        message = [{"role": "user", "content": QUESTION.prompt}]
        given = bpe_tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        assert shown == given + CHAT.open

    def test_spans_of_template_prompt_pieces_and_open(self, bpe_tokenizer: Any) -> None:
        segment = render_prompt(bpe_tokenizer, CHAT, QUESTION, "cot")
        text = {name: decode(bpe_tokenizer, segment.ids[slice(*span)]) for name, span in segment.spans.items()}
        assert text["prompt"] == "<|im_start|>user\nWhat is 12 + 30?"
        assert text["open"] == "<|im_end|>\n<|im_start|>assistant\n<think>\n"
        assert text["operand.1"].strip() == "12" and text["operand.2"].strip() == "30"
        assert segment.spans["prompt"][1] == segment.spans["open"][0]
        assert segment.spans["open"][1] == len(segment.ids)

    def test_thinking_marks_are_one_token_each(self, bpe_tokenizer: Any) -> None:
        ids = render_prompt(bpe_tokenizer, CHAT, QUESTION, "cot").ids
        assert ids.count(bpe_tokenizer.convert_tokens_to_ids("<think>")) == 1
        assert ids.count(bpe_tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2

    def test_an_answer_only_run_has_an_open_of_its_own(self, bpe_tokenizer: Any) -> None:
        segment = render_prompt(bpe_tokenizer, CHAT, QUESTION, "answer-only")
        assert decode(bpe_tokenizer, segment.ids).endswith("assistant\n<think>\n\n")

    def test_a_template_that_trims_does_not_lose_the_prompts_own_space(self, bpe_tokenizer: Any) -> None:
        segment = render_prompt(bpe_tokenizer, CHAT, question(Piece("  12 ", "a"), Piece("+ 30  ", "b")), "cot")
        assert "user\n  12 + 30  <|im_end|>" in decode(bpe_tokenizer, segment.ids)

    @pytest.mark.parametrize("template", ["none", "first"])
    def test_never_two_bos(self, word_tokenizer: Any, template: str) -> None:
        import copy

        tokenizer = copy.deepcopy(word_tokenizer)
        bos = "{{ bos_token }} " if template != "none" else ""
        tokenizer.chat_template = bos + "{{ messages[0].content }} +"
        form = Format(open=" think", close=" answer", cue=" answer", chat=True)
        ids = render_prompt(tokenizer, form, ModularSum().problem((6, 2, 9, 1)), "cot").ids
        assert ids.count(tokenizer.bos_token_id) == (0 if template == "none" else 1)

    def test_a_template_that_hides_the_message_is_refused(self, bpe_tokenizer: Any) -> None:
        import copy

        tokenizer = copy.deepcopy(bpe_tokenizer)
        tokenizer.chat_template = "<|im_start|>assistant\n"
        with pytest.raises(InputError) as error:
            render_prompt(tokenizer, CHAT, QUESTION, "cot")
        for part in ("the chat template does not show the user's message", "give a format with chat=False"):
            assert part in str(error.value)
        assert render_prompt(tokenizer, Format(), QUESTION, "cot").ids  # and so it can be used

    def test_auto_does_not_open_the_reasoning_twice(
        self, bpe_tokenizer: Any, random_module: Callable[..., Any]
    ) -> None:
        import copy

        tokenizer = copy.deepcopy(bpe_tokenizer)
        tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
        model = load(random_module("llama", tokenizer), tokenizer=tokenizer)
        ids = render_prompt(tokenizer, model.format, QUESTION, "cot").ids
        assert ids.count(tokenizer.convert_tokens_to_ids("<think>")) == 1


class TestAuto:
    def test_a_chat_template_gives_the_chat_format(self, bpe_tokenizer: Any, random_module: Callable[..., Any]) -> None:
        module = random_module("llama", bpe_tokenizer)
        assert load(module, tokenizer=bpe_tokenizer).format.chat
        assert load(module, tokenizer=bpe_tokenizer, format="plain").format == Format()
        assert load(module, tokenizer=bpe_tokenizer, format=FORMAT).format is FORMAT
        with pytest.raises(InputError, match=r"unknown format 'chta': .*nearest: 'chat'"):
            load(module, tokenizer=bpe_tokenizer, format="chta")

    def test_without_a_template_it_is_plain_text(self, word_tokenizer: Any, random_module: Callable[..., Any]) -> None:
        assert load(random_module("llama", word_tokenizer), tokenizer=word_tokenizer).format == Format()

    def test_an_organism_brings_its_own(self, organism: Callable[[str], Any]) -> None:
        assert organism("copy-direct").format == FORMAT


class TestErrors:
    def test_a_token_that_straddles_two_named_spans_names_both(self, bpe_tokenizer: Any) -> None:
        assert len(bpe_tokenizer("12")["input_ids"]) == 1
        with pytest.raises(InputError) as error:
            tokenize(bpe_tokenizer, [Piece("1", "tens"), Piece("2", "units")])
        assert str(error.value) == (
            "the token '12' straddles 'tens' and 'units': put a space or another text between the pieces"
        )
        apart = tokenize(bpe_tokenizer, [Piece("1", "tens"), Piece(" "), Piece("2", "units")])
        found = {name: decode(bpe_tokenizer, apart.ids[slice(*span)]).strip() for name, span in apart.spans.items()}
        assert found == {"tens": "1", "units": "2"}

    @pytest.mark.parametrize(("first", "second"), [("named", None), (None, "named")])
    def test_a_named_and_a_nameless_piece_straddled_too(
        self, bpe_tokenizer: Any, first: str | None, second: str | None
    ) -> None:
        with pytest.raises(InputError, match="straddles") as error:
            tokenize(bpe_tokenizer, [Piece("1", first), Piece("2", second)])
        assert "'named'" in str(error.value)
        assert ("'2'" if first else "'1'") in str(error.value)  # the nameless piece is shown by its text

    def test_nameless_pieces_may_share_a_token(self, bpe_tokenizer: Any) -> None:
        segment = tokenize(bpe_tokenizer, [Piece("1"), Piece("2"), Piece(" + 30", "b")])
        assert decode(bpe_tokenizer, segment.ids[slice(*segment.spans["b"])]) == " + 30"

    def test_prompt_and_open_may_not_share_a_token(self, bpe_tokenizer: Any) -> None:
        with pytest.raises(InputError, match="straddles '1' and 'open'"):
            render_prompt(bpe_tokenizer, Format(open="2"), question(Piece("1")), "cot")

    def test_a_space_before_a_piece_belongs_to_whoever_has_the_letters(self, bpe_tokenizer: Any) -> None:
        segment = tokenize(bpe_tokenizer, [Piece("12 + ", "a"), Piece("30", "b")])
        assert decode(bpe_tokenizer, segment.ids[slice(*segment.spans["b"])]).strip() == "30"
        assert decode(bpe_tokenizer, segment.ids[slice(*segment.spans["a"])]).strip() == "12 +"

    def test_a_word_outside_of_the_vocabulary_is_shown_with_its_text(self, word_tokenizer: Any) -> None:
        with pytest.raises(InputError) as error:
            render_prompt(word_tokenizer, FORMAT, question(Piece("6 plus 2", "x")), "cot")
        for part in (
            "'plus' is outside the tokenizer's vocabulary",
            "6 plus 2 think",
            "use a task whose words it knows",
        ):
            assert part in str(error.value)

    @pytest.mark.parametrize("text", ["", "   "])
    def test_a_piece_without_a_token_is_named(self, word_tokenizer: Any, text: str) -> None:
        with pytest.raises(InputError) as error:
            tokenize(word_tokenizer, [Piece("6"), Piece(text, "empty"), Piece(" + 2")])
        assert str(error.value) == "the piece 'empty' has no token of its own: give it text"
        assert tokenize(word_tokenizer, [Piece("6"), Piece(text), Piece(" + 2")]).spans == {}

    def test_an_empty_prompt_is_an_error_too(self, bpe_tokenizer: Any) -> None:
        with pytest.raises(InputError, match="'prompt' has no token of its own"):
            render_prompt(bpe_tokenizer, Format(), question(Piece("")), "cot")

    def test_two_pieces_of_one_name(self, word_tokenizer: Any) -> None:
        with pytest.raises(InputError, match="operand"):
            tokenize(word_tokenizer, [Piece("6", "operand.1"), Piece(" + "), Piece("2", "operand.1")])


class TestFormat:
    @pytest.mark.parametrize(
        ("close", "cue"), [("</think>", "Answer:"), (" answer", "answer"), ("", "Answer:"), ("", "")]
    )
    def test_the_cue_starts_with_the_text_that_closes_the_cot(self, close: str, cue: str) -> None:
        with pytest.raises(InputError) as error:
            Format(close=close, cue=cue)
        assert str(error.value) == f"format: the cue {cue!r} must start with the text that closes the CoT, {close!r}"

    def test_the_cue_may_be_longer(self) -> None:
        form = Format(close="</think>", cue="</think>\n\nAnswer:")
        assert form.cue_of("cot") == form.cue_of("answer-only") == "</think>\n\nAnswer:"

    def test_an_answer_only_run_may_have_another_cue(self) -> None:
        form = Format(direct_cue=" =")
        assert form.cue_of("answer-only") == " =" and form.cue_of("cot") == form.cue
        assert Format(direct_cue="").cue_of("answer-only") == ""


@pytest.mark.parametrize("text", ["12 + 30 is 42", "\nAnswer: 42", " so 42,\n 42.", "naïve ∑ 42"])
def test_token_ends_say_how_much_text_the_first_tokens_make(bpe_tokenizer: Any, text: str) -> None:
    ids = bpe_tokenizer(text)["input_ids"]
    ends = token_ends(bpe_tokenizer, ids)
    assert len(ends) == len(ids) + 1 and ends[0] == 0 and ends[-1] == len(text)
    if text.isascii():
        assert [text[:end] for end in ends] == [decode(bpe_tokenizer, ids[:i]) for i in range(len(ids) + 1)]


def test_words_decode_with_one_space_between(word_tokenizer: Any) -> None:
    ids = word_tokenizer("6 + 2", add_special_tokens=False)["input_ids"]
    assert decode(word_tokenizer, ids) == "6 + 2"
    assert token_ends(word_tokenizer, ids) == [0, 1, 3, 5]
