"""A cut wire carries nothing, in every operation, and nothing else changes."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.core import InputError, UnknownNameError
from loadbearing.hooks import Format
from loadbearing.hooks.cache import Caches, forward_segment
from loadbearing.hooks.cut import REGIONS, CutBackend
from loadbearing.hooks.decoding import continue_each, pad
from loadbearing.hooks.masks import position_mask
from loadbearing.hooks.splice import Job, decode_greedily, plain_logits, run_jobs
from loadbearing.hooks.sweep import Cell, Sweep, open_interior
from loadbearing.hooks.trace import trace
from loadbearing.hooks.writes import Write
from loadbearing.organisms.specs import FORMAT
from loadbearing.tasks import Piece, Questions

KINDS = ("llama", "mistral", "olmo2", "gemma2", "gemma3", "gpt2", "gpt-neox", "gpt-oss")
# <bos> 6 + 2 + 9 mod 10 | think | 8 7 | answer | 7
OPERANDS = "operand.1+operand.2+operand.3+operand.4"
PARTS = (("6 + 2 + 9 mod 10", " think", " 8 7", " answer", " 7"), ("1 + 2 mod 10", " think", " 3 5 6", " answer", " 4"))


def segments(tokenizer: Any, parts: tuple[str, ...]) -> list[tuple[int, ...]]:
    """The token ids of prompt, open, cot, cue and answer."""
    first, *rest = parts
    return [tuple(tokenizer(first)["input_ids"])] + [
        tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in rest
    ]


def spans_of(pieces: list[tuple[int, ...]]) -> dict[str, slice]:
    """Where each part stands."""
    ends = np.cumsum([len(ids) for ids in pieces]).tolist()
    return {name: slice(end - len(ids), end) for name, ids, end in zip(REGIONS, pieces, ends, strict=True)}


@pytest.fixture(scope="module")
def model_of(random_module: Callable[..., Any], word_tokenizer: Any) -> Callable[..., Any]:
    """A random model of an architecture with an attention implementation."""
    known: dict[tuple[str, str], Any] = {}

    def get(kind: str, attention: str) -> Any:
        if (kind, attention) not in known:
            module = random_module(kind, word_tokenizer, attn_implementation=attention)
            known[kind, attention] = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
        return known[kind, attention]

    return get


WITHOUT_SDPA = ("gemma2", "gpt-oss")  # as transformers has them
ATTENTIONS = [(kind, a) for kind in KINDS for a in ("eager", "sdpa") if a == "eager" or kind not in WITHOUT_SDPA]
every_model = pytest.mark.parametrize(("kind", "attention"), ATTENTIONS)


@every_model
def test_what_nobody_may_read_changes_nothing(
    kind: str, attention: str, model_of: Callable[..., Any], word_tokenizer: Any
) -> None:
    model = model_of(kind, attention)
    cut = model.cut(queries="open+cot+cue+answer", keys="prompt")
    pieces = segments(word_tokenizer, PARTS[0])
    other = [pieces[0][:2] + pieces[0][3:1:-1] + pieces[0][4:], *pieces[1:]]  # two tokens of the prompt change places
    one, two = (plain_logits(cut, sum(ids, ()))[len(pieces[0]) :] for ids in (pieces, other))
    assert torch.equal(one, two)
    free = [plain_logits(model, sum(ids, ()))[len(pieces[0]) :] for ids in (pieces, other)]
    assert (free[0] - free[1]).abs().max() > 0.01


@every_model
def test_a_cut_is_the_plain_model_behind_a_mask_without_these_places(
    kind: str, attention: str, model_of: Callable[..., Any], word_tokenizer: Any
) -> None:
    model = model_of(kind, attention)
    pieces = segments(word_tokenizer, PARTS[0])
    at, ids = spans_of(pieces), torch.tensor([sum(pieces, ())])
    place = torch.arange(ids.shape[1])[None]
    mask = position_mask(model.module, place, place, torch.float32)
    for part in mask.values() if isinstance(mask, dict) else [mask]:
        for query in (at["cot"], at["cue"]):
            part[:, :, query, at["prompt"]] = torch.finfo(torch.float32).min
        part[:, :, at["cue"], at["open"]] = torch.finfo(torch.float32).min
    want = model.module(input_ids=ids, attention_mask=mask, use_cache=False).logits[0]
    cut = model.cut("cot", "prompt").cut(["cue"], ["prompt", "open"])
    torch.testing.assert_close(plain_logits(cut, ids[0].tolist()), want, rtol=0, atol=2e-5)
    assert (want - plain_logits(model, ids[0].tolist())).abs().max() > 0.01
    # What stands before the first cut query is as it was, to the last bit.
    stop = at["cot"].start
    torch.testing.assert_close(
        plain_logits(cut, ids[0].tolist())[:stop], plain_logits(model, ids[0].tolist())[:stop], rtol=0, atol=2e-5
    )


@every_model
def test_splicing_is_the_plain_pass_also_in_ragged_batches(
    kind: str, attention: str, model_of: Callable[..., Any], word_tokenizer: Any
) -> None:
    cut = model_of(kind, attention).cut("cue", "prompt+cot").cut("cot", "open")
    runs = [segments(word_tokenizer, parts) for parts in PARTS]
    caches = Caches()

    def everything(logits: torch.Tensor, keys: list[Any]) -> list[torch.Tensor]:
        return list(logits)

    read: dict[Any, Any] = {"read": everything, "last": 1}
    run_jobs(cut, {("P", i): Job((), run[0] + run[1]) for i, run in enumerate(runs)}, caches)
    run_jobs(cut, {("C", i): Job((("P", i),), run[2]) for i, run in enumerate(runs)}, caches)
    found = run_jobs(cut, {i: Job((("P", i), ("C", i)), run[3]) for i, run in enumerate(runs)}, caches, **read)
    for i, run in enumerate(runs):
        plain = plain_logits(cut, sum(run[:4], ()))[-1]
        torch.testing.assert_close(found[i][-1], plain, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_branches_of_a_row_are_texts_of_their_own(kind: str, model_of: Callable[..., Any], word_tokenizer: Any) -> None:
    cut = model_of(kind, "eager").cut("cue+answer", "prompt").cut("cot", "open").cut("answer", "cue")
    runs = [segments(word_tokenizer, parts) for parts in PARTS]
    # The first branch closes the chain of thought: what follows the cue there is no answer in the other branch.
    branches = [(run[2][-1:] + run[3] + run[4], run[2] + run[3]) for run in runs]
    jobs = {
        i: Job((), run[0] + run[1] + run[2], texts) for i, (run, texts) in enumerate(zip(runs, branches, strict=True))
    }
    found = run_jobs(cut, jobs, Caches(), lambda logits, _: list(logits), keep=False, last=7)
    for i, (run, texts) in enumerate(zip(runs, branches, strict=True)):
        trunk = run[0] + run[1] + run[2]
        want = [plain_logits(cut, trunk + text)[len(trunk) :] for text in texts]
        torch.testing.assert_close(found[i][-sum(map(len, texts)) :], torch.cat(want), rtol=0, atol=2e-5)


@every_model
def test_generating_with_a_cache_and_padding_is_decoding_without(
    kind: str, attention: str, model_of: Callable[..., Any], word_tokenizer: Any
) -> None:
    cut = model_of(kind, attention).cut("cot+cue", "prompt").cut("answer", "cot")
    prefixes = [sum(segments(word_tokenizer, parts)[:n], ()) for parts in PARTS for n in (2, 4)]
    limits: dict[str, Any] = {"max_new_tokens": 5, "batch_size": 4, "progress": False}
    written = continue_each(cut, prefixes, "", **limits)
    for prefix, (ids, _) in zip(prefixes, written, strict=True):
        for n, token in enumerate(ids):
            logits = plain_logits(cut, prefix + ids[:n])[-1]
            # a random model often has two tokens that are as likely as one another
            assert logits[token] >= logits.max() - 2e-5
    some = [(prefix, ids) for prefix, (ids, _) in zip(prefixes, written, strict=True) if ids]
    assert len(some) >= 2
    again = decode_greedily(cut, [prefix for prefix, _ in some], [len(ids) for _, ids in some])
    assert again == [ids for _, ids in some]


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_right_padding_and_recording(kind: str, model_of: Callable[..., Any], word_tokenizer: Any) -> None:
    cut = model_of(kind, "sdpa").cut("cue+answer", "cot")
    rows = [sum(segments(word_tokenizer, parts), ()) for parts in PARTS]
    ids, mask = pad(rows, cut)
    for row, own in enumerate(rows):
        logits = cut.module(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[row, : len(own)]
        torch.testing.assert_close(logits, plain_logits(cut, own), rtol=0, atol=2e-5)


def test_record_reads_the_cut_model(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    cut = model.cut("cue", "prompt+open+cot")
    runs = lb.hooks.replay_gold(cut, model.task.problems(8))
    acts = [lb.hooks.record(m, runs, ["resid_post"], ["cue[-1]", "step.3"]).values["resid_post"] for m in (cut, model)]
    cue = acts[0][0::2]
    assert torch.equal(cue[:1].expand_as(cue), cue)  # it can see nothing that differs
    assert (acts[0][1::2] == acts[1][1::2]).all()
    assert (acts[0][0::2] - acts[1][0::2]).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_of_own_states_is_the_plain_pass(kind: str, model_of: Callable[..., Any], word_tokenizer: Any) -> None:
    cut = model_of(kind, "eager").cut("cue", "prompt").cut("cot", "open", layers=[1])
    ids = torch.tensor([sum(segments(word_tokenizer, PARTS[0])[:4], ())])
    hidden = cut.module(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    plain = plain_logits(cut, ids[0].tolist())[-1]
    interior = open_interior(cut)
    sweep = Sweep(cut, interior, trace(cut, interior, ids))
    for layer in range(cut.n_layers):
        for position in (0, 3, ids.shape[1] - 1):
            own = hidden[layer][:, position:]
            write = Write("resid_pre", layer, tuple(range(position, ids.shape[1])), own.__getitem__)
            found = sweep.logits([Cell((write,), ids.new_zeros(1))])[0, 0, -1]
            torch.testing.assert_close(found, plain, rtol=0, atol=2e-5)


def test_layers_are_cut_one_by_one(model_of: Callable[..., Any], word_tokenizer: Any) -> None:
    model = model_of("llama", "sdpa")
    ids = sum(segments(word_tokenizer, PARTS[0]), ())
    logits = {
        layers: plain_logits(model.cut("cue", "prompt", layers=layers), ids)
        for layers in (None, (0,), (1,), (0, 1, 2), (0, 1))
    }
    assert torch.equal(logits[None], logits[0, 1, 2])
    different = [logits[None], logits[(0,)], logits[(1,)], logits[0, 1], plain_logits(model, ids)]
    for i, one in enumerate(different):
        assert all((one - other).abs().max() > 1e-3 for other in different[:i])
    assert torch.equal(plain_logits(model.cut("cue", "prompt", [0]).cut("cue", "prompt", [1]), ids), logits[0, 1])


def _hooks(module: Any) -> list[int]:
    return [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt-oss"])
def test_the_model_itself_stays_what_it_is(kind: str, model_of: Callable[..., Any], word_tokenizer: Any) -> None:
    model = model_of(kind, "eager")
    ids = sum(segments(word_tokenizer, PARTS[0]), ())
    before, parts = plain_logits(model, ids), [id(part) for part in model.module.modules()]
    hooks = _hooks(model.module)
    cut = model.cut("cue", "prompt")
    assert (plain_logits(cut, ids) - before).abs().max() > 1e-3
    assert torch.equal(plain_logits(model, ids), before)
    assert [id(part) for part in model.module.modules()] == parts
    assert _hooks(model.module) == hooks
    assert all(a is b for a, b in zip(model.module.parameters(), cut.module.parameters(), strict=True))
    assert (model.cuts, model.identity()["cut"]) == ((), [])
    assert cut.identity()["cut"] == [{"queries": "cue", "keys": "prompt", "layers": None}]


def test_the_card_keeps_the_cut_and_load_applies_it(organism: Callable[[str], Any], tmp_path: Path) -> None:
    model = organism("sft")
    cut = model.cut("cue", "cot", layers=[0, 2]).cut(["cot", "cue"], "operand.2")
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    cut.card.save(tmp_path)
    again = lb.hooks.load(tmp_path)
    assert again.cuts == cut.cuts == (again.cuts[0], again.cuts[1])
    assert again.identity()["cut"] == [
        {"queries": "cue", "keys": "cot", "layers": [0, 2]},
        {"queries": "cot+cue", "keys": "operand.2", "layers": None},
    ]
    assert again.card == lb.hooks.Card.load(tmp_path)
    ids = lb.hooks.replay_gold(model, model.task.problems(1))[0].ids
    assert torch.equal(plain_logits(again, ids), plain_logits(cut, ids))
    assert not torch.equal(plain_logits(again, ids), plain_logits(model, ids))
    assert model.card.cut == ()


def test_named_places_are_cut_and_no_others(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    problem, other = model.task.problem((6, 2, 9, 1)), model.task.problem((6, 5, 9, 1))
    cut = model.cut("prompt+open+cot+cue+answer", "operand.2")
    one, two = (lb.hooks.replay(m, [p], [" 8 7 8"])[0].ids for m, p in ((cut, problem), (cut, other)))
    place = next(i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)
    a, b = plain_logits(cut, one), plain_logits(cut, two)
    assert torch.equal(a[place + 1 :], b[place + 1 :])
    assert torch.equal(a[:place], b[:place])
    third = model.task.problem((6, 2, 4, 1))
    assert not torch.equal(plain_logits(cut, lb.hooks.replay(cut, [third], [" 8 7 8"])[0].ids), a)
    step = plain_logits(model.cut("cue", "step.2"), one)
    assert torch.equal(step, plain_logits(model.cut("cue", "cot[1]"), one))
    assert not torch.equal(step, plain_logits(model.cut("cue", "step.3"), one))
    assert torch.equal(plain_logits(model.cut("cue[-1]", "prompt"), one), plain_logits(model.cut("cue", "prompt"), one))


def test_a_cut_kills_what_it_carries(organism: Callable[[str], Any]) -> None:
    def accuracy(model: Any) -> float:
        return float(lb.hooks.generate(model, model.task.problems(100), max_new_tokens=8).accuracy)

    sft = organism("sft")
    assert accuracy(sft.cut("cue", "cot")) < 0.3
    assert accuracy(sft.cut("cue", OPERANDS)) > 0.95
    redundant = organism("copy-redundant")
    pairs = redundant.task.pairs(16, vary="all")
    for keys, shares in (("cot", [1, 0, 0]), ("prompt", [0, 0, 1])):
        cut = redundant.cut("cue", keys)
        found = lb.analyses.channels(cut, pairs, cot="task", target="answer")
        np.testing.assert_allclose(found.shares("all"), shares, atol=1e-3)
        assert found.manifest.identity["cut"] == [{"queries": "cue", "keys": keys, "layers": None}]
    np.testing.assert_allclose(
        lb.analyses.channels(redundant, pairs, cot="task", target="answer").shares("all"), [0.5, 0, 0.5], atol=1e-3
    )


def test_patching_ledger_and_generation_agree_with_the_cut(organism: Callable[[str], Any]) -> None:
    cut = organism("sft").cut("cue", OPERANDS)
    runs = lb.hooks.generate(cut, cut.task.problems(32), max_new_tokens=8)
    replayed = lb.hooks.replay(cut, [r.problem for r in runs], [r.tokens("cot") for r in runs])
    assert [run.ids for run in runs] == [run.ids for run in replayed]
    found = lb.analyses.patch(cut, cut.task.pairs(8, vary="operand.4"), mode="cot", target="answer")
    assert found.manifest.circumstance["gates"][0]["verdict"] == "pass"
    ledger = lb.analyses.ledger(cut, cut.task.problems(48))
    assert ledger.rate("load", "answer", "operand.4")[0] == 0.0
    assert ledger.rate("keep", "answer", "operand.4")[0] == 1.0


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_other_backends_are_cut_alike(backend: str, model_of: Callable[..., Any], word_tokenizer: Any) -> None:
    model = model_of("llama", "eager")
    other = lb.hooks.load(deepcopy(model.module), tokenizer=word_tokenizer, format=FORMAT, backend=backend)
    ids = sum(segments(word_tokenizer, PARTS[0]), ())
    before = plain_logits(other, ids)
    cut = other.cut("cue", "prompt+cot")
    torch.testing.assert_close(
        plain_logits(cut, ids), plain_logits(model.cut("cue", "prompt+cot"), ids), rtol=0, atol=2e-5
    )
    assert torch.equal(plain_logits(other, ids), before)


def test_gradients_flow_through_a_cut_but_not_along_it(model_of: Callable[..., Any], word_tokenizer: Any) -> None:
    model = model_of("llama", "sdpa")
    cut = model.cut("open+cot+cue+answer", "prompt")
    pieces = segments(word_tokenizer, PARTS[0])
    ids = torch.tensor([sum(pieces, ())])
    own, later = set(pieces[0]) - set(sum(pieces[1:], ())), set(pieces[2])
    weight = model.module.model.embed_tokens.weight
    for module, reads in ((cut.module, False), (model.module, True)):
        (grad,) = torch.autograd.grad(module(input_ids=ids).logits[0, -1].logsumexp(0), weight)
        assert (grad[sorted(later)] != 0).any()
        assert bool((grad[sorted(own)] != 0).any()) == reads


def test_a_cache_that_the_model_returned_can_be_used_and_no_other(
    model_of: Callable[..., Any], word_tokenizer: Any
) -> None:
    from transformers import DynamicCache

    cut = model_of("gemma3", "sdpa").cut("cue", "prompt")
    ids = torch.tensor([sum(segments(word_tokenizer, PARTS[0]), ())])
    cache = cut.module(input_ids=ids[:, :-2], use_cache=True).past_key_values
    for place in (-2, -1):
        stop = place + 1 or None
        output = cut.module(input_ids=ids[:, place:stop], past_key_values=cache, use_cache=True)
        whole = plain_logits(cut, ids[0, :stop].tolist())[-1]
        torch.testing.assert_close(output.logits[0, -1], whole, rtol=0, atol=2e-5)
    foreign = DynamicCache()
    for number, layer in enumerate(forward_segment(cut, ids[:, :4])[1]):
        foreign.update(*layer, number)
    with pytest.raises(
        InputError, match="which tokens its cache is of: the cache has 4 positions and `token_ids` for 0"
    ):
        cut.module(input_ids=ids[:, 4:], past_key_values=foreign)
    with pytest.raises(InputError, match="the cache has 4 positions and `token_ids` for 3"):
        _, past = forward_segment(cut, ids[:, :4])
        room = [(torch.cat([k, k], 2), torch.cat([v, v], 2)) for k, v in past]
        _forward_with_wrong_ids(cut, ids, room)


@torch.no_grad()
def test_embeddings_need_their_tokens(model_of: Callable[..., Any], word_tokenizer: Any) -> None:
    from transformers import DynamicCache

    cut = model_of("llama", "eager").cut("cue", "prompt")
    ids = torch.tensor([sum(segments(word_tokenizer, PARTS[0]), ())])
    embeds = cut.module.get_input_embeddings()(ids)
    cache: Any = DynamicCache()
    with pytest.raises(InputError, match="a model with a cut wire must know the tokens: set `token_ids` of the cache"):
        cut.module(inputs_embeds=embeds, past_key_values=cache)
    cache.token_ids = ids
    logits = cut.module(inputs_embeds=embeds, past_key_values=cache).logits[0]
    torch.testing.assert_close(logits, plain_logits(cut, ids[0].tolist()), rtol=0, atol=2e-5)


def _forward_with_wrong_ids(cut: Any, ids: torch.Tensor, room: Any) -> None:
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    for number, (keys, values) in enumerate(room):
        cache.update(keys[:, :, :4], values[:, :, :4], number)
    cache.token_ids = ids[:, :3]
    cut.module(input_ids=ids[:, 4:], past_key_values=cache)


def test_chat_formats_and_subword_tokens(random_module: Callable[..., Any], bpe_tokenizer: Any) -> None:
    module = random_module("qwen3", bpe_tokenizer, max_position_embeddings=256)
    model = lb.hooks.load(module, tokenizer=bpe_tokenizer)
    assert model.format.chat
    task = Questions()
    for number, prompt in enumerate(["What is 12 + 30?", "12 + 12", "the sum is 42 42"]):
        task.add(f"q{number}", [Piece(prompt)], "42", cot=" 12 30")
    cut = model.cut("cue+answer", "prompt+open+cot")
    for mode in ("cot", "answer-only"):
        runs = lb.hooks.generate(cut, task.problems(3), mode, max_new_tokens=6)  # refuses parts that are not the spans
        last = [plain_logits(cut, run.ids[: run.spans["cue"][1]])[-1] for run in runs]
        assert all(torch.isfinite(row).all() for row in last)
    assert isinstance(cut.backend, CutBackend)
    run = lb.hooks.replay(cut, task.problems(1), [" 12 30"])[0]
    starts = cut.backend.scanner.starts(torch.tensor([run.ids]))[0].tolist()
    assert starts[:4] == [run.spans[name][0] for name in REGIONS[:4]]
    # With another format the parts are others, and the same cut means those.
    other = cut.with_format(open="<think>\n the")
    assert lb.hooks.replay(other, task.problems(1), [" 12 30"])[0].spans["cot"][0] > run.spans["cot"][0]


def test_a_text_that_holds_the_cue_is_refused(organism: Callable[[str], Any]) -> None:
    model = organism("sft").cut("cue", "prompt")
    task = Questions()
    task.add("q", "6 + think 2 answer mod 10", "8")
    with pytest.raises(InputError, match="'open' starts at token 8, but the cut finds it at 3: a prompt must not hold"):
        lb.hooks.replay(model, task.problems(1), [" 8 7"])


@pytest.mark.parametrize(
    ("queries", "keys", "layers", "message"),
    [
        ("cuee", "prompt", None, r"unknown position 'cuee': .*nearest: 'cue'"),
        ("cue", "", None, r"position '': expected NAME"),
        ("cue", "operand.9", None, r"unknown position 'operand.9'"),
        ("cue", "cot[5:5]", None, r"'cot\[5:5\]' names no position: give a span that has tokens"),
        ("cue", "cot[7]", None, r"position 'cot\[7\]': the span has 3 tokens"),
        ("prompt", "cue", None, r"nothing to cut: 'prompt' comes before 'cue', and no position reads ahead"),
        ("cue", "prompt", [3], r"layers=\[3\]: this model has layers 0 to 2"),
        ("cue", "prompt", [], r"layers=\[\]: this model has layers 0 to 2"),
    ],
)
def test_bad_cuts(organism: Callable[[str], Any], queries: str, keys: str, layers: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        organism("sft").cut(queries, keys, layers=layers)


def test_cuts_that_a_model_cannot_have(model_of: Callable[..., Any], organism: Callable[[str], Any]) -> None:
    model = model_of("llama", "sdpa")
    with pytest.raises(UnknownNameError, match=r"unknown part of a run \(a model without a task knows no others\)"):
        model.cut("cue", "operand.2")
    with pytest.raises(InputError, match="the format's `open` is empty, and the tokens do not tell where the prompt"):
        replace(model, format=Format(open="", close=" answer", cue=" answer")).cut("cue", "prompt")
    flash = deepcopy(model.module)
    flash.config._attn_implementation_internal = "flex_attention"
    with pytest.raises(InputError, match="attention='eager' or 'sdpa', whose masks can be edited; this one has 'flex"):
        lb.hooks.load(flash, tokenizer=model.tokenizer, format=FORMAT).cut("cue", "prompt")
    sft = organism("sft")
    mixed = deepcopy(sft.task)
    questions = [sft.task.problem((1, 2, 3, 4)), *lb.tasks.load("modular-sum:terms=3").problems(1)]
    mixed.problems = lambda *_, **__: questions
    given = _WithTask(**vars(sft), chosen=mixed)
    with pytest.raises(InputError, match=r"'prompt\[-1\]' does not stand at the same place in every problem of task"):
        given.cut("cue", "prompt[-1]")


def _WithTask(*, chosen: Any, **fields: Any) -> Any:
    from loadbearing.hooks import Model

    class Given(Model):
        @property
        def task(self) -> Any:
            return chosen

    known = {name: value for name, value in fields.items() if name in Model.__dataclass_fields__}
    return Given(**known)
