"""Long runs: memory that is kept to, texts that do not hang on their neighbours, time that grows with the length."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from inspect import signature
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import loadbearing as lb
from loadbearing.core import InputError
from loadbearing.hooks import Format, Runs, generate, load, record, replay
from loadbearing.hooks.format import decode, token_ends
from loadbearing.hooks.memory import MEMORY, batches, cache_bytes, pass_bytes, written_bytes
from loadbearing.hooks.splice import Job, run_jobs
from loadbearing.hooks.transcripts import thinking

TINY = 1e-9  # gigabytes: every run is alone
SAMPLED: Any = {"samples": 3, "temperature": 1.5, "max_new_tokens": 8, "max_answer_tokens": 2, "seed": 5}


def ids_of(runs: Runs) -> list[tuple[int, ...]]:
    return [run.ids for run in runs]


def batch_sizes(module: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every pass that starts without a cache, as they come."""
    seen: list[int] = []
    forward = module.forward

    def counting(*given: Any, **options: Any) -> Any:
        cache = options.get("past_key_values")
        if cache is None or cache.get_seq_length() == 0:
            seen.append(len(options["input_ids"]))
        return forward(*given, **options)

    monkeypatch.setattr(module, "forward", counting)
    return seen


class TestMemory:
    @pytest.mark.parametrize("name", ["sft", "copy-tokens", "post-hoc"])
    def test_greedy_runs_do_not_hang_on_it(self, organism: Callable[[str], Any], name: str) -> None:
        model = organism(name)
        problems = model.task.problems(12)
        assert ids_of(generate(model, problems, memory=TINY)) == ids_of(generate(model, problems))

    def test_so_many_runs_share_a_batch_as_fit(
        self, random_module: Callable[..., Any], word_tokenizer: Any, ragged: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from loadbearing.organisms.specs import FORMAT

        module = random_module("llama", word_tokenizer)
        model = load(module, tokenizer=word_tokenizer, format=FORMAT)
        seen = batch_sizes(module, monkeypatch)
        limits: Any = {"mode": "answer-only", "max_answer_tokens": 2}
        problems = ragged.problems(6)
        whole = generate(model, problems, **limits)
        assert seen == [6]
        longest = max(len(run.ids) - len(run.tokens("answer")) for run in whole if "answer" in run.spans)
        seen.clear()
        three = 3.01 * written_bytes(module, longest, 2) / 1e9
        assert ids_of(generate(model, problems, memory=three, **limits)) == ids_of(whole)
        assert sum(seen) == 6 and max(seen) >= 3 and len(seen) >= 2
        seen.clear()
        generate(model, problems, memory=TINY, **limits)
        assert seen == [1] * 6
        seen.clear()
        generate(model, problems, batch_size=4, **limits)
        assert seen == [4, 2]

    def test_shared_heads_and_precision_count(self, random_module: Callable[..., Any], word_tokenizer: Any) -> None:
        for kind in ("llama", "qwen3", "gemma2", "gpt2", "gpt-neox"):
            module = random_module(kind, word_tokenizer)
            output = module(input_ids=torch.tensor([[4, 5, 6]]), use_cache=True)
            held = [part for layer in output.past_key_values.layers for part in (layer.keys, layer.values)]
            assert 3 * cache_bytes(module) == sum(part.numel() * part.element_size() for part in held)
        assert cache_bytes(random_module("llama", word_tokenizer).half()) * 2 == cache_bytes(
            random_module("llama", word_tokenizer)
        )

    def test_record_does_not_hang_on_it(self, organism: Callable[[str], Any]) -> None:
        model = organism("sft")
        runs = generate(model, model.task.problems(6))
        whole, alone = (record(model, runs, ["resid_post"], ["cot", "cue[-1]"], memory=m) for m in (2.0, TINY))
        assert whole.rows.equals(alone.rows)
        assert torch.allclose(whole.values["resid_post"], alone.values["resid_post"], atol=1e-5)

    @pytest.mark.parametrize("memory", [0.0, -1.0, float("nan")])
    def test_none_is_refused(self, memory: float) -> None:
        with pytest.raises(InputError, match=f"memory={memory}: expected 1 or more, and gigabytes above 0"):
            list(batches([0], [1.0], 1, memory))

    @given(
        sizes=st.lists(st.floats(1.0, 1e10), max_size=20),
        most=st.integers(1, 8),
        memory=st.floats(0.01, 20.0),
    )
    def test_batches_hold_every_row_once_and_fit(self, sizes: list[float], most: int, memory: float) -> None:
        made = list(batches(range(len(sizes)), sizes, most, memory))
        assert [row for chunk in made for row in chunk] == list(range(len(sizes)))
        for chunk in made:
            assert len(chunk) <= most
            assert len(chunk) == 1 or len(chunk) * max(sizes[row] for row in chunk) <= memory * 1e9

    def test_segments_over_caches_are_bounded_too(self, tiny: Callable[[str], Any]) -> None:
        model = tiny("llama")
        jobs = {i: Job((), tuple(4 + (i + n) % 9 for n in range(3 + i))) for i in range(5)}
        from loadbearing.hooks.cache import Caches

        whole, alone = (
            run_jobs(model, jobs, Caches(), lambda logits, _: list(logits[:, -1]), memory=memory)
            for memory in (0.5, TINY)
        )
        for key in jobs:
            assert torch.allclose(whole[key], alone[key], atol=1e-4)

    @pytest.mark.parametrize("analysis", ["channels", "ablation", "mean", "ledger", "commitment"])
    def test_every_pass_keeps_to_it_and_no_result_hangs_on_it(
        self, organism: Callable[[str], Any], analysis: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = organism("sft")
        pairs, problems = model.task.pairs(6), model.task.problems(12)
        probed: dict[str, Any] = {"lines": ["forced", "probe"], "folds": 3, "shuffles": 1, "twin": False}
        calls: dict[str, Callable[[float], Any]] = {
            "channels": lambda memory: lb.analyses.channels(model, pairs, memory=memory),
            "ablation": lambda memory: lb.analyses.ablation(model, problems, memory=memory),
            "mean": lambda memory: lb.analyses.ablation(model, problems, baseline="mean", memory=memory),
            "ledger": lambda memory: lb.analyses.ledger(model, problems, memory=memory),
            "commitment": lambda memory: lb.analyses.commitment(model, problems, memory=memory, **probed),
        }
        whole = calls[analysis](2.0).arrays()
        rows: list[int] = []
        forward = model.module.forward

        def counting(*given: Any, **options: Any) -> Any:
            rows.append(len(options["input_ids"]))
            return forward(*given, **options)

        monkeypatch.setattr(model.module, "forward", counting)
        alone = calls[analysis](TINY).arrays()
        # Padding cannot be tried on one row.
        assert max(rows) == (2 if analysis == "channels" else 1) and rows.count(2) <= 4
        for array, values in whole.items():
            np.testing.assert_allclose(alone[array], values, atol=1e-4, err_msg=array)

    def test_one_default_for_all(self) -> None:
        from loadbearing.cli import carrying, studying

        takers: list[Callable[..., Any]] = [generate, replay, record, run_jobs, lb.analyses.channels]
        takers += [lb.analyses.ablation, lb.analyses.ledger, lb.analyses.commitment]
        takers += [carrying.channels, carrying.ablation, carrying.ledger, studying.study]
        for taker in takers:
            assert signature(taker).parameters["memory"].default == MEMORY, taker

    @pytest.mark.parametrize("step", ["generate", "sample", "replay", "record", "channels", "ablation", "ledger"])
    def test_a_process_stays_within_it(self, root: Path, step: str) -> None:
        """Chains of 700 tokens, 24 of them, which together would take several times as much."""
        allowed, tokens = 0.06, 700
        words = [sys.executable, str(root / "benchmarks" / "long_chains.py"), step, f"--tokens={tokens}"]
        done = subprocess.run(
            [*words, "--runs=24", "--layers=2", "--width=128", f"--memory={allowed}"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        # The allocator keeps some of what is freed: a fifth, and 60 MB of what transformers and the caches of the
        # tokenizer take at any size.
        assert json.loads(done.stdout.splitlines()[-1])["peak"] < 1.2 * allowed + 0.06


class TestSampling:
    def test_texts_do_not_hang_on_batches_memory_or_neighbours(self, tiny: Callable[[str], Any], ragged: Any) -> None:
        model = tiny("qwen3")
        problems = ragged.problems(4)
        runs = generate(model, problems, **SAMPLED)
        for changed in ({"batch_size": 1}, {"batch_size": 5}, {"memory": TINY}):
            assert ids_of(generate(model, problems, **SAMPLED, **changed)) == ids_of(runs)
        shards = [ids_of(generate(model, part, **SAMPLED)) for part in (problems[2:], problems[:2])]
        assert shards[1] + shards[0] == ids_of(runs)
        more = generate(model, problems, **(SAMPLED | {"samples": 5}))
        assert [run.ids for run in more if run.sample < 3] == ids_of(runs)

    def test_samples_and_seeds_differ(self, tiny: Callable[[str], Any], ragged: Any) -> None:
        model = tiny("llama")
        one = ids_of(generate(model, ragged.problems(6), **SAMPLED))
        other = ids_of(generate(model, ragged.problems(6), **(SAMPLED | {"seed": 6})))
        assert len(set(one)) == len(one) and not set(one) & set(other)


BYTES = [f"<0x{value:02X}>" for value in range(256)]


def fallback_tokenizer() -> Any:
    """Pieces with a space of their own, and bytes for what they do not spell: as Llama 2 has them."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", *BYTES, "▁", "▁▁", "▁a", "b", "▁12", "12", "+", "∑", "\ufffd"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", clean_up_tokenization_spaces=False)


def by_definition(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Every prefix decoded from its start; half a character that is shown as several is taken back."""
    sizes = [len(decode(tokenizer, ids[:i])) for i in range(len(ids) + 1)]
    return list(accumulate(reversed(sizes), min))[::-1]


class TestTokenEnds:
    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_they_are_those_of_every_prefix(self, bpe_tokenizer: Any, word_tokenizer: Any, data: Any) -> None:
        for tokenizer in (bpe_tokenizer, word_tokenizer, fallback_tokenizer()):
            ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=90))
            assert token_ends(tokenizer, ids) == by_definition(tokenizer, ids)

    @settings(max_examples=60, deadline=None)
    @given(text=st.text(max_size=80))
    @example("🙂" * 30)
    @example("naïve ∑ <think> 12 + 30 🙂🙂</think> a  b\n" * 3)
    def test_and_of_any_text(self, bpe_tokenizer: Any, text: str) -> None:
        for tokenizer in (bpe_tokenizer, fallback_tokenizer()):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert token_ends(tokenizer, ids) == by_definition(tokenizer, ids)

    def test_every_token_of_a_character_ends_where_it_does(self) -> None:
        tokenizer = fallback_tokenizer()
        ids = [2 + value for value in "∑a".encode()]
        assert token_ends(tokenizer, ids) == [0, 1, 1, 1, 2]

    def test_tokens_that_are_decoded_grow_with_the_length(self, bpe_tokenizer: Any, counted: Any) -> None:
        ids = bpe_tokenizer("What is 12 + 30? 🙂 so " * 400)["input_ids"]
        sizes = []
        for n in (1000, 4000):
            counting = counted(bpe_tokenizer)
            token_ends(counting, ids[:n])
            sizes.append(counting.decoded)
        assert sizes[1] < 5 * sizes[0] and sizes[1] < 60 * 4000


@pytest.fixture
def counted() -> Callable[[Any], Any]:
    """A tokenizer that counts the tokens that it decodes."""

    class Counting:
        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer, self.decoded = tokenizer, 0

        def decode(self, ids: list[int], **options: Any) -> str:
            self.decoded += len(ids)
            return str(self.tokenizer.decode(ids, **options))

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return list(self.tokenizer.convert_ids_to_tokens(ids))

    return Counting


THINK = Format(open="<think>\n", close="</think>", cue="</think>\n\nAnswer:", direct_open="<think>\n\n", chat=True)


class TestTranscripts:
    @pytest.mark.parametrize(
        "response",
        [
            "12 + 30 is 42.\n",
            "<think>\n12 + 30 is 42.\n",
            "12 + 30 is 42.\n</think>\n\nThe answer is 42.",
            "<think>\n12 + 30 is 42.\n</think>\n\n42<|im_end|>",
            "\n<think>\n12 + 30 is 42.\n</think> no: <think> 43 </think> 43",
        ],
    )
    def test_a_whole_response_is_its_thinking(
        self, random_module: Callable[..., Any], bpe_tokenizer: Any, ragged: Any, response: str
    ) -> None:
        model = load(random_module("llama", bpe_tokenizer), tokenizer=bpe_tokenizer, format=THINK)
        ids = bpe_tokenizer(response.lstrip())["input_ids"]
        for given_as in (response, ids):
            run = replay(model, ragged.problems(1), [given_as], max_answer_tokens=1)[0]
            assert decode(bpe_tokenizer, run.tokens("cot")) == "12 + 30 is 42.\n"
            assert (
                decode(bpe_tokenizer, run.ids).count("</think>")
                - decode(bpe_tokenizer, run.tokens("answer") if "answer" in run.spans else ()).count("</think>")
                == 1
            )

    def test_only_marks_are_removed(self) -> None:
        assert thinking(THINK, "I <think> so") == "I <think> so"
        assert thinking(THINK, "<think> so") == " so"
        assert (
            thinking(Format(open="", close="\nAnswer:", cue="\nAnswer:"), "The Answer: 4\nAnswer: 5") == "The Answer: 4"
        )

    def test_several_samples_a_problem(self, organism: Callable[[str], Any]) -> None:
        model = organism("copy-tokens")
        problems = [model.task.problem(value) for value in (1, 2)]
        runs = replay(model, problems, {"copy 2 2": ["3", "4", "5"], "copy 1 1": "6"})
        assert [(r.problem.key, r.sample, r.answer) for r in runs] == [
            ("copy 1 1", 0, "6"),
            ("copy 2 2", 0, "3"),
            ("copy 2 2", 1, "4"),
            ("copy 2 2", 2, "5"),
        ]
        ids = model.tokenizer.convert_tokens_to_ids
        assert ids_of(replay(model, problems, [[ids("6")], [[ids("3")], [ids("4")], "5"]])) == ids_of(runs)

    def test_analyses_take_of_a_data_set_what_they_need(self, organism: Callable[[str], Any]) -> None:
        from loadbearing.analyses.targets import cot_runs

        model = organism("copy-tokens")
        every = {p.key: p.cot for p in model.task.all_problems()}
        assert len(cot_runs(model, [model.task.problem(3)], every)) == 1


class TestCounts:
    def test_notes_say_how_many_went_wrong_and_how(self, tiny: Callable[[str], Any], ragged: Any) -> None:
        model = tiny("llama")
        runs = generate(model, ragged.problems(6), max_new_tokens=3, max_answer_tokens=1)
        told = runs.notes()
        frame = runs.frame()
        assert told["problems"] == told["runs"] == 6
        empty = int((frame["cot"] == "").sum())
        assert told.get("chain of thought empty", 0) == empty
        assert told.get("chain of thought cut off", 0) == int((~frame["finished"]).sum()) - empty > 0
        assert told.get("answer not found", 0) == int(frame["answer"].isna().sum())
        assert told["answer cut off"] == int((~frame["ended"]).sum()) > 0

    def test_nothing_wrong_is_not_told(self, organism: Callable[[str], Any]) -> None:
        model = organism("sft")
        assert generate(model, model.task.problems(4), samples=2, temperature=0.1).notes() == {"problems": 4, "runs": 8}


class TestAnswers:
    LIMITS: Any = {"mode": "answer-only", "max_answer_tokens": 40}  # noqa: RUF012

    @pytest.mark.parametrize("size", [0, 1, 3])
    def test_an_answer_goes_on_to_the_formats_end(
        self, random_module: Callable[..., Any], bpe_tokenizer: Any, ragged: Any, size: int
    ) -> None:
        """Against what is written without an end, of several lines: the text before the end, which occurs in it."""
        module = random_module("llama", bpe_tokenizer, seed=3)
        free = load(module, tokenizer=bpe_tokenizer, format=Format(end=""))
        third = generate(free, ragged.problems(6), **self.LIMITS)[0].tokens("answer")[2]
        (line,) = bpe_tokenizer("\n")["input_ids"]
        module.lm_head.weight.data[line] = 1.01 * module.lm_head.weight.data[third]  # a line break where that was
        whole = generate(free, ragged.problems(6), **self.LIMITS)
        long = whole.frame()["said"][0]
        at = next(i for i in range(long.index("\n") + 1, len(long)) if long.isascii() or long[i : i + 3].isascii())
        end = long[at : at + size]
        assert "\n" in long[:at]
        found = generate(free.with_format(end=end), ragged.problems(6), **self.LIMITS)
        for one, other, run in zip(whole.frame()["said"], found.frame()["said"], found, strict=True):
            stops = bool(end) and end in one
            # The tokens before the one in which the end begins.
            assert (one.partition(end)[0] if stops else one).startswith(other)
            assert (other == one) or stops
            assert run.end is not None or not stops
        assert any(found.frame()["ended"]) == bool(end)

    def test_a_row_stops_where_its_text_ends(
        self, random_module: Callable[..., Any], bpe_tokenizer: Any, ragged: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stop of several tokens ends the work of a batch, not only the text that is cut out of it."""
        module = random_module("llama", bpe_tokenizer, seed=3)
        free = load(module, tokenizer=bpe_tokenizer, format=Format(end=""))
        whole = generate(free, ragged.problems(1), "answer-only", max_answer_tokens=40)[0]
        text = decode(bpe_tokenizer, whole.tokens("answer"))
        end = next(
            text[i : i + 3] for i in range(4, 20) if text[i : i + 3].isascii() and text.find(text[i : i + 3]) == i
        )
        steps: list[int] = []
        forward = module.forward

        def counting(*given: Any, **options: Any) -> Any:
            steps.append(1)
            return forward(*given, **options)

        monkeypatch.setattr(module, "forward", counting)
        generate(free.with_format(end=end), ragged.problems(1), "answer-only", max_answer_tokens=40)
        assert len(steps) < 40


def test_a_block_on_its_way_takes_more_for_more(tiny: Callable[[str], Any]) -> None:
    module = tiny("llama").module
    assert 0 < pass_bytes(module, 10) < pass_bytes(module, 20) < pass_bytes(module, 20, past=50)
