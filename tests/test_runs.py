"""Runs against a loop that knows no cache, no padding and no batch: one token at a time, the most likely one."""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from loadbearing.core import InputError, UnknownNameError
from loadbearing.hooks import Format, Runs, generate, load, replay, replay_gold
from loadbearing.hooks.format import decode, render_prompt
from loadbearing.tasks import Copy, ModularSum

KINDS = ["llama", "qwen3", "gpt2", "gemma2"]


@torch.no_grad()
def greedily(model: Any, ids: Sequence[int], n: int, stops: set[int]) -> tuple[tuple[int, ...], int | None]:
    """The oracle: what follows `ids`, and the token that stopped it."""
    written: list[int] = []
    while len(written) < n:
        logits = model.module(input_ids=torch.tensor([[*ids, *written]]), use_cache=False).logits
        token = int(logits[0, -1].argmax())
        if token in stops:
            return tuple(written), token
        written.append(token)
    return tuple(written), None


def ids_of(runs: Runs) -> list[tuple[int, ...]]:
    return [run.ids for run in runs]


def same(one: Runs, other: Runs) -> bool:
    """Whether two sets of runs agree in everything that was written and read."""
    read = ("ids", "spans", "values", "answer", "end")
    return [[getattr(r, name) for name in read] for r in one] == [[getattr(r, name) for name in read] for r in other]


@pytest.mark.parametrize("kind", KINDS)
class TestOracle:
    def test_generation_is_the_greedy_loop(self, tiny: Callable[[str], Any], ragged: Any, kind: str) -> None:
        model = tiny(kind)
        tokenizer = model.tokenizer
        close, eos = tokenizer.convert_tokens_to_ids("answer"), tokenizer.eos_token_id
        runs = generate(model, ragged.problems(5), max_new_tokens=6, max_answer_tokens=2)
        for run in runs:
            start = render_prompt(tokenizer, model.format, run.problem, "cot").ids
            cot, stop = greedily(model, start, 6, {close, eos})
            answer, end = greedily(model, (*start, *cot, close), 2, {eos})
            assert run.ids == (*start, *cot, close, *answer)
            assert run.end == end
            assert run.finished == (stop is not None and bool(cot))
            at = len(start)
            expected = {"cot": (at, at + len(cot))} if cot else {}
            expected["cue"] = (at + len(cot), at + len(cot) + 1)
            if answer:
                expected["answer"] = (expected["cue"][1], len(run.ids))
            assert {k: v for k, v in run.spans.items() if k in ("cot", "cue", "answer")} == expected

    def test_an_answer_only_run_is_prompt_cue_and_answer(
        self, tiny: Callable[[str], Any], ragged: Any, kind: str
    ) -> None:
        model = tiny(kind)
        cue, eos = model.tokenizer.convert_tokens_to_ids("answer"), model.tokenizer.eos_token_id
        for run in generate(model, ragged.problems(6), "answer-only", max_answer_tokens=3):
            start = render_prompt(model.tokenizer, model.format, run.problem, "answer-only").ids
            answer, end = greedily(model, (*start, cue), 3, {eos})
            assert run.ids == (*start, cue, *answer) and run.end == end
            assert "cot" not in run.spans and "open" not in run.spans and run.finished and run.mode == "answer-only"

    def test_batches_and_padding_change_nothing(self, tiny: Callable[[str], Any], ragged: Any, kind: str) -> None:
        model = tiny(kind)
        problems = ragged.problems(6)
        limits: Any = {"max_new_tokens": 4, "max_answer_tokens": 1}
        together = generate(model, problems, **limits)
        assert len({len(render_prompt(model.tokenizer, model.format, p, "cot").ids) for p in problems}) > 3
        assert same(generate(model, problems, batch_size=1, **limits), together)
        assert same(generate(model, problems, batch_size=4, **limits), together)
        assert [run.problem.key for run in together] == [problem.key for problem in problems]

    def test_replaying_what_was_generated_gives_the_same_runs(
        self, tiny: Callable[[str], Any], ragged: Any, kind: str
    ) -> None:
        model = tiny(kind)
        runs = generate(model, ragged.problems(6), max_new_tokens=5, max_answer_tokens=2)
        written = [run for run in runs if "cot" in run.spans]
        assert len(written) >= 3
        problems = [run.problem for run in written]
        in_order = replay(model, problems, [run.tokens("cot") for run in written], max_answer_tokens=2)
        by_key = {run.problem.key: run.tokens("cot") for run in reversed(written)}
        assert same(in_order, Runs(tuple(written), "cot", model))
        assert same(replay(model, problems, by_key, max_answer_tokens=2), in_order)


def test_transcripts_as_text_are_the_same_as_token_ids(tiny: Callable[[str], Any], ragged: Any) -> None:
    model = tiny("llama")
    problems = ragged.problems(6)
    texts = [problem.cot for problem in problems]
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    runs = replay(model, problems, texts)
    assert same(replay(model, problems, ids), runs)
    assert same(replay_gold(model, problems), runs)
    for run, text in zip(runs, texts, strict=True):
        assert decode(model.tokenizer, run.tokens("cot")) == text.strip()


class TestHandSet:
    """`copy-tokens` writes the value as its CoT, and the CoT's token as its answer."""

    def test_every_problem_is_solved_and_every_span_is_where_it_should_be(self, organism: Any) -> None:
        model = organism("copy-tokens")
        runs = generate(model, model.task.all_problems())
        assert runs.accuracy == 1.0 and all(run.correct and run.finished for run in runs)
        for run in runs:
            value = run.problem.values["value"]
            assert run.values == {1: value} and run.answer == value
            shown = model.tokenizer.convert_ids_to_tokens(list(run.ids))
            assert shown == ["<bos>", "copy", value, "think", value, "answer", value]
            assert run.end == model.tokenizer.eos_token_id
            assert run.spans == {
                "prompt": (0, 3),
                "value": (2, 3),
                "open": (3, 4),
                "cot": (4, 5),
                "step.1": (4, 5),
                "cue": (5, 6),
                "answer": (6, 7),
            }

    def test_the_answer_follows_a_given_cot(self, organism: Any) -> None:
        model = organism("copy-tokens")
        problems = model.task.problems(8)
        given = [str((int(problem.values["value"]) + 3) % 16) for problem in problems]
        runs = replay(model, problems, given)
        assert [run.answer for run in runs] == given
        assert runs.accuracy == 0.0
        direct = organism("copy-direct")
        independent = [Copy("copy:cot=independent").problem(int(p.values["value"])) for p in problems]
        assert replay(direct, independent, given).accuracy == 1.0  # the twin that does not read the CoT

    def test_the_table_of_runs(self, organism: Any) -> None:
        model = organism("copy-tokens")
        runs = replay(model, [model.task.problem(3), model.task.problem(4)], ["3", "5"])
        frame = runs.frame()
        assert frame.to_dict("records") == [
            {
                "problem": "copy 3 3",
                "sample": 0,
                "gold": "3",
                "answer": "3",
                "correct": True,
                "finished": True,
                "ended": True,
                "cot": "3",
                "said": "3",
            },
            {
                "problem": "copy 4 4",
                "sample": 0,
                "gold": "4",
                "answer": "5",
                "correct": False,
                "finished": True,
                "ended": True,
                "cot": "5",
                "said": "5",
            },
        ]
        assert runs.by_problem() == {"copy 3 3": runs[0], "copy 4 4": runs[1]}
        assert runs.accuracy == 0.5 and len(runs) == 2

    def test_steps_are_found_among_other_words(self, tiny: Any) -> None:
        model = tiny("llama")
        run = replay(model, [ModularSum().problem((6, 2, 9, 1))], ["8 + 7 . 3"])[0]
        assert run.values == {1: "8", 2: "7", 3: "3"}
        cot = run.spans["cot"][0]
        assert [run.spans[f"step.{k}"] for k in (1, 2, 3)] == [(cot + i, cot + i + 1) for i in (0, 2, 4)]


class TestCutOff:
    def test_a_cot_that_is_cut_off_is_not_finished(self, tiny: Any, ragged: Any) -> None:
        model = tiny("llama")
        problems = ragged.problems(6)
        long = generate(model, problems, max_new_tokens=24, max_answer_tokens=1)
        for n, run in itertools.product((1, 3), long):
            if "cot" not in run.spans or len(run.tokens("cot")) <= n:
                continue
            short = generate(model, [run.problem], max_new_tokens=n, max_answer_tokens=1)[0]
            assert not short.finished and short.tokens("cot") == run.tokens("cot")[:n]
            assert short.tokens("cue") == run.tokens("cue")  # the cue is given all the same
            break
        else:
            pytest.fail("no run was long enough: the test shows nothing")
        assert generate(model, problems, max_new_tokens=1, max_answer_tokens=1).frame()["finished"].dtype == bool

    def test_an_answer_that_is_cut_off_has_no_end(self, organism: Any) -> None:
        model = organism("copy-tokens")
        problems = model.task.problems(3)
        assert [run.end for run in generate(model, problems, max_answer_tokens=1)] == [None] * 3
        assert [run.end for run in generate(model, problems, max_answer_tokens=2)] == [2] * 3
        assert model.tokenizer.eos_token_id == 2


class TestSampling:
    SETTINGS: Any = {"samples": 3, "temperature": 1.0, "max_new_tokens": 6, "max_answer_tokens": 1}  # noqa: RUF012

    def test_the_same_seed_gives_the_same_text_and_another_another(self, tiny: Any, ragged: Any) -> None:
        model = tiny("qwen3")
        problems = ragged.problems(4)
        one = generate(model, problems, seed=1, **self.SETTINGS)
        torch.rand(3)  # what others drew does not matter
        assert same(generate(model, problems, seed=1, **self.SETTINGS), one)
        assert ids_of(generate(model, problems, seed=2, **self.SETTINGS)) != ids_of(one)
        assert [(run.problem.key, run.sample) for run in one] == [(p.key, s) for p in problems for s in range(3)]
        assert len(set(ids_of(one))) > len(problems)  # and samples of one problem differ

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_the_global_generator_is_left_as_it_was(self, tiny: Any, ragged: Any, temperature: float) -> None:
        before = torch.random.get_rng_state()
        generate(tiny("llama"), ragged.problems(2), temperature=temperature, max_new_tokens=3)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_towards_temperature_zero_a_sample_is_the_greedy_text(self, tiny: Any, ragged: Any) -> None:
        model = tiny("qwen3")
        limits: Any = {"max_new_tokens": 6, "max_answer_tokens": 1}
        cold = generate(model, ragged.problems(4), temperature=1e-4, seed=3, **limits)
        assert same(cold, generate(model, ragged.problems(4), **limits))

    def test_first_tokens_are_drawn_from_the_models_own_distribution(self, tiny: Any, ragged: Any) -> None:
        model = tiny("llama")
        problem, n, temperature = ragged.problems(1)[0], 1000, 1.5
        start = render_prompt(model.tokenizer, model.format, problem, "cot").ids
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([start])).logits[0, -1]
        expected = (logits / temperature).softmax(-1)
        settings: Any = {"samples": n, "temperature": temperature, "max_new_tokens": 1, "max_answer_tokens": 1}
        runs = generate(model, [problem], batch_size=n, **settings)
        stops = {model.tokenizer.convert_tokens_to_ids("answer"), model.tokenizer.eos_token_id}
        counts = torch.zeros_like(expected)
        for run in runs:
            if "cot" in run.spans:
                counts[run.tokens("cot")[0]] += 1
        kept = torch.tensor([token not in stops for token in range(len(expected))])
        spread = (expected * (1 - expected) / n).sqrt()
        assert ((counts / n - expected).abs()[kept] < 4.5 * spread[kept] + 1e-9).all()

    def test_samples_of_different_batches_are_different_draws(self, tiny: Any, ragged: Any) -> None:
        settings: Any = {"samples": 8, "temperature": 2.0, "max_new_tokens": 8, "max_answer_tokens": 1}
        runs = generate(tiny("llama"), ragged.problems(1), batch_size=4, **settings)
        texts = [run.tokens("cot") if "cot" in run.spans else () for run in runs]
        assert texts[:4] != texts[4:]

    def test_several_samples_need_a_temperature(self, tiny: Any, ragged: Any) -> None:
        with pytest.raises(InputError) as error:
            generate(tiny("llama"), ragged.problems(1), samples=2)
        assert str(error.value) == "samples=2 with temperature 0 gives the same text every time: set temperature"
        assert len(generate(tiny("llama"), ragged.problems(1), samples=1, max_new_tokens=1)) == 1


class TestClosingText:
    """Where the text that closes the CoT is several tokens, a run ends at the first of them."""

    def test_the_cot_ends_where_the_text_begins(self, bpe_tokenizer: Any, random_module: Any, ragged: Any) -> None:
        module = random_module("llama", bpe_tokenizer)
        plain = load(module, tokenizer=bpe_tokenizer, format=Format(close="###", cue="###", end=""))
        problem = ragged.problems(1)[0]
        start = render_prompt(bpe_tokenizer, plain.format, problem, "cot").ids
        free, _ = greedily(plain, start, 16, {bpe_tokenizer.eos_token_id})
        text = decode(bpe_tokenizer, free)
        # Close with a text that the model writes anyway, of two tokens, where it occurs for the first time.
        pairs = [decode(bpe_tokenizer, free[i : i + 2]) for i in range(3, len(free) - 1)]
        close = next(p for p in pairs if p.isascii() and p.strip() == p and text.find(p) > 0)
        assert len(bpe_tokenizer(close)["input_ids"]) > 1
        model = plain.with_format(close=close, cue=close)
        run = generate(model, [problem], max_new_tokens=16, max_answer_tokens=1)[0]
        sizes = [len(decode(bpe_tokenizer, free[:i])) for i in range(len(free) + 1)]
        count = max(i for i, size in enumerate(sizes) if size <= text.find(close))
        assert run.finished and run.tokens("cot") == free[:count]
        assert decode(bpe_tokenizer, run.tokens("cue")) == close
        assert not generate(plain, [problem], max_new_tokens=16, max_answer_tokens=1)[0].finished


class TestErrors:
    def test_an_unknown_mode_gets_the_nearest(self, tiny: Any, ragged: Any) -> None:
        mode: Any = "cott"
        # Where annotations are checked, they see it first; both name what came.
        with pytest.raises((UnknownNameError, TypeError), match="cott"):
            generate(tiny("llama"), ragged.problems(1), mode)

    def test_a_missing_transcript(self, organism: Any) -> None:
        model = organism("copy-tokens")
        problems = [model.task.problem(value) for value in (1, 2, 3)]
        with pytest.raises(InputError) as error:
            replay(model, problems, {"copy 2 2": "2"})
        assert str(error.value) == "no transcript for 2 problems, the first of them 'copy 1 1'"
        with pytest.raises(InputError) as error:
            replay(model, problems[:1], {"copy 1  1": "2"})
        told = "no transcript for 1 problems, the first of them 'copy 1 1'; nearest: 'copy 1  1'"
        assert str(error.value) == told
        with pytest.raises(InputError) as error:
            replay(model, problems[:1], {"copy 1 1": "1", "copy 2 2": "2", "copy 3 3": "3"})
        told = "transcripts of 2 keys that no problem has, the first of them 'copy 2 2'; nearest: 'copy 1 1'"
        assert str(error.value) == f"{told}; leave them out"
        with pytest.raises(InputError) as error:
            replay(model, problems, ["1", "2"])
        assert str(error.value) == "3 problems and 2 transcripts: expected one each"

    @pytest.mark.parametrize("empty", ["", "   ", [], "think answer 3", [[]]])
    def test_an_empty_transcript(self, organism: Any, empty: Any) -> None:
        model = organism("copy-tokens")
        with pytest.raises(InputError) as error:
            replay(model, [model.task.problem(1)], [empty])
        told = "the transcript of 'copy 1 1' is empty: leave the problem out, or use mode='answer-only' for runs"
        assert str(error.value) == f"{told} without a chain of thought"

    def test_no_gold_cot(self, tiny: Any) -> None:
        from loadbearing.tasks import Questions

        task = Questions()
        task.add("a", "6 + 2", "8")
        with pytest.raises(InputError) as error:
            replay_gold(tiny("llama"), task.problems(1))
        assert str(error.value) == "1 problems have no gold chain of thought, the first of them 'a'"

    def test_a_transcript_outside_of_the_vocabulary(self, organism: Any) -> None:
        model = organism("copy-tokens")
        with pytest.raises(InputError, match="'seven' is outside the tokenizer's vocabulary"):
            replay(model, [model.task.problem(1)], ["seven"])


def test_greedy_is_the_most_likely_token_whatever_the_generation_config_says(
    random_module: Callable[..., Any], word_tokenizer: Any, ragged: Any
) -> None:
    from loadbearing.organisms.specs import FORMAT

    module = random_module("llama", word_tokenizer)
    limits: Any = {"max_new_tokens": 8, "max_answer_tokens": 1}
    plain = generate(load(module, tokenizer=word_tokenizer, format=FORMAT), ragged.problems(6), **limits)
    for option, value in {"do_sample": True, "temperature": 3.0, "top_k": 2, "top_p": 0.5}.items():
        setattr(module.generation_config, option, value)
    before = copy.deepcopy(module.generation_config).to_dict()
    model = load(module, tokenizer=word_tokenizer, format=FORMAT)
    assert ids_of(generate(model, ragged.problems(6), **limits)) == ids_of(plain)
    assert module.generation_config.to_dict() == before


def test_a_repetition_penalty_does_not_change_what_is_measured(
    random_module: Callable[..., Any], word_tokenizer: Any, ragged: Any
) -> None:
    from loadbearing.organisms.specs import FORMAT

    module = random_module("llama", word_tokenizer)
    limits: Any = {"max_new_tokens": 8, "max_answer_tokens": 1}
    model = load(module, tokenizer=word_tokenizer, format=FORMAT)
    plain = generate(model, ragged.problems(6), **limits)
    module.generation_config.repetition_penalty = 2.0
    assert ids_of(generate(model, ragged.problems(6), **limits)) == ids_of(plain)
