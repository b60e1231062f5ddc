"""Segments over caches: what a batch gives is what each row gives alone, whatever the lengths and the architecture."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import loadbearing as lb
from loadbearing.hooks import splice
from loadbearing.hooks.cache import Caches, forward_over
from loadbearing.hooks.splice import Job, decode_greedily, pads_exactly, plain_logits, run_jobs
from loadbearing.organisms.specs import FORMAT

KINDS = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "olmo2",
    "phi3",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt-neox",
    "gpt-neox-serial",
    "gpt-oss",
)


def texts(n: int, seed: int = 0) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """A prompt and a continuation for each of n rows, all of different lengths, longer than the sliding window."""
    rng = torch.Generator().manual_seed(seed)

    def draw(size: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, 14, (size,), generator=rng).tolist())

    return [(draw(5 + i % 4), draw(12 - i)) for i in range(n)]


def run(model: Any, rows: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> dict[Any, torch.Tensor]:
    """The logits of the last three positions of each row, the prompt first and then the text over its cache."""
    caches = Caches()
    run_jobs(model, {("P", i): Job((), prompt) for i, (prompt, _) in enumerate(rows)}, caches)
    jobs = {("C", i): Job((("P", i),), text) for i, (_, text) in enumerate(rows)}
    run_jobs(model, jobs, caches)
    last = {i: Job((("P", i), ("C", i)), (4, 5, 6)) for i in range(len(rows))}
    return run_jobs(model, last, caches, lambda logits, _: list(logits), last=3)


# transformers has no sdpa for models with attention sinks (gpt-oss) or soft caps (Gemma 2).
EAGER_ONLY = ("gpt-oss", "gemma2")


@pytest.mark.parametrize(
    ("kind", "attention"),
    [(kind, name) for kind in KINDS for name in ("eager", "sdpa") if name == "eager" or kind not in EAGER_ONLY],
)
def test_a_padded_batch_is_what_each_row_is_alone(
    kind: str, attention: str, random_module: Callable[..., Any], word_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = random_module(kind, word_tokenizer, attn_implementation=attention)
    model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
    assert pads_exactly(model)
    monkeypatch.setattr(splice, "FILLED", 0.1)
    rows = texts(6)
    widths = set()
    original = forward_over

    def watched(model: Any, ids: Any, *arguments: Any, **options: Any) -> Any:
        widths.add((ids.shape[0], options.get("mask") is not None))
        return original(model, ids, *arguments, **options)

    monkeypatch.setattr(splice, "forward_over", watched)
    together = run(model, rows)
    assert (6, True) in widths  # it was one padded batch
    for i, (prompt, text) in enumerate(rows):
        ids = torch.tensor([prompt + text + (4, 5, 6)])
        with torch.no_grad():
            plain = module(input_ids=ids, use_cache=False).logits[0, -3:]
        torch.testing.assert_close(together[i], plain, atol=1e-5 * max(1.0, float(plain.abs().max())), rtol=0)


def test_a_model_that_ignores_masks_is_run_in_batches_of_equal_length(
    random_module: Callable[..., Any], word_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = random_module("llama", word_tokenizer)
    plain = module.forward

    def ignores(*, attention_mask: Any = None, **rest: Any) -> Any:
        return plain(**rest)

    monkeypatch.setattr(module, "forward", ignores)
    model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
    assert not pads_exactly(model)
    found = run(model, texts(4))
    alone = [run(model, [row])[0] for row in texts(4)]
    for i, one in enumerate(alone):
        torch.testing.assert_close(found[i], one, atol=1e-5 * max(1.0, float(one.abs().max())), rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_each_decoded_token_is_run_once_and_is_what_a_plain_pass_says(
    kind: str, random_module: Callable[..., Any], word_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = random_module(kind, word_tokenizer)
    model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
    monkeypatch.setattr(splice, "FILLED", 0.1)
    prefixes, steps = [prompt + text for prompt, text in texts(6)], 6
    assert pads_exactly(model)
    run: list[tuple[int, ...]] = []
    original = forward_over

    def watched(model: Any, ids: Any, *arguments: Any, **options: Any) -> Any:
        run.append(tuple(ids.shape))
        return original(model, ids, *arguments, **options)

    monkeypatch.setattr(splice, "forward_over", watched)
    written = decode_greedily(model, prefixes, [steps] * 6)
    assert run == [(6, max(map(len, prefixes)))] + [(6, 1)] * (steps - 1)
    for prefix, tokens in zip(prefixes, written, strict=True):
        for n, token in enumerate(tokens):
            logits = plain_logits(model, prefix + tokens[:n])[-1]
            # A random model often has two tokens that are as likely as one another.
            assert logits[token] >= logits.max() - 1e-5 * max(1.0, float(logits.abs().max()))


def test_equal_lengths_need_no_mask_and_groups_waste_little(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    caches = Caches()
    jobs = {i: Job((), (4,) * (3 if i < 20 else 3 + i % 5)) for i in range(40)}
    chunks = list(splice._batches(model, jobs, caches, lambda *_: 512))
    assert sorted(key for chunk in chunks for key in chunk) == list(range(40))
    for chunk in chunks:
        sizes = [len(jobs[key].ids) for key in chunk]
        assert sum(sizes) >= splice.FILLED * max(sizes) * len(sizes)
    assert max(len(chunk) for chunk in splice._batches(model, jobs, caches, lambda *_: 7)) <= 7
