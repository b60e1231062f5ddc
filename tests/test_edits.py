"""Edits hold in every operation while their block lasts, are what a by-hand edit gives, and leave nothing behind."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.core import InputError, UnknownNameError
from loadbearing.hooks import Format
from loadbearing.hooks.decoding import continue_each, pad
from loadbearing.hooks.edits import KnockOut, Patch, edited
from loadbearing.hooks.splice import plain_logits
from loadbearing.organisms.specs import FORMAT

KINDS = ("llama", "qwen3", "gemma2", "gemma3", "mistral", "gpt2", "gpt-neox", "gpt-oss")
WITHOUT_SDPA = ("gemma2", "gpt-oss")  # as transformers has them
ATTENTIONS = [(kind, a) for kind in KINDS for a in ("eager", "sdpa") if a == "eager" or kind not in WITHOUT_SDPA]
every_model = pytest.mark.parametrize(("kind", "attention"), ATTENTIONS)
every_kind = pytest.mark.parametrize("kind", KINDS)
# <bos> 6 + 2 + 9 mod 10 | think | 8 7 | answer | 7
TEXT = ("6 + 2 + 9 mod 10", " think", " 8 7", " answer", " 7")
OTHER = ("1 + 2 mod 10", " think", " 3 5 6", " answer", " 4")
PROMPT, OPEN, COT, CUE, ANSWER = slice(0, 8), slice(8, 9), slice(9, 11), slice(11, 12), slice(12, 13)
LENGTH, LOWEST = 13, torch.finfo(torch.float32).min
WAYS = ("renormalise", "zero")
# Both ways on every architecture: where there are two implementations, one way with each.
every_way = pytest.mark.parametrize(
    ("kind", "attention", "how"),
    [(kind, a, "zero" if a == "sdpa" else "renormalise") for kind, a in ATTENTIONS]
    + [(kind, "eager", "zero") for kind in WITHOUT_SDPA],
)


@pytest.fixture(scope="module")
def model_of(random_module: Callable[..., Any], word_tokenizer: Any) -> Callable[..., Any]:
    """A random model of an architecture with an attention implementation; the same weights with either."""
    known: dict[tuple[str, str], Any] = {}

    def get(kind: str, attention: str = "eager") -> Any:
        if (kind, attention) not in known:
            module = random_module(kind, word_tokenizer, attn_implementation=attention)
            known[kind, attention] = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
        return known[kind, attention]

    return get


@pytest.fixture(scope="module")
def ids_of(word_tokenizer: Any) -> Callable[..., tuple[int, ...]]:
    """The token ids of a text in parts, `<bos>` first."""

    def get(parts: tuple[str, ...]) -> tuple[int, ...]:
        first, *rest = (word_tokenizer(text, add_special_tokens=not i)["input_ids"] for i, text in enumerate(parts))
        return tuple(first) + sum((tuple(ids) for ids in rest), ())

    return get


def close(one: torch.Tensor, other: torch.Tensor, far: float = 1e-5) -> None:
    """Log-probabilities: logits of random models are large, and known up to a constant only."""
    torch.testing.assert_close(one.log_softmax(-1), other.log_softmax(-1), rtol=0, atol=far)


def differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one.log_softmax(-1) - other.log_softmax(-1)).abs().max() > 1e-3)


def by_hand(
    model: Any, ids: tuple[int, ...], edges: list[tuple[list[int], list[int], slice, slice]], how: str
) -> torch.Tensor:
    """Logits where the eager attention's own pattern is edited after the softmax: (layers, heads, queries, keys).

    To renormalise, what is left of a row is divided by its sum, what goes to an attention sink included.
    """
    name = type(model.module).__module__
    own = sys.modules[name].eager_attention_forward

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
        _, pattern = own(module, query, key, value, mask, *args, **kwargs)
        left = pattern.clone()
        for layers, heads, queries, keys in edges:
            for head in heads if module.layer_idx in layers else []:
                left[:, head, queries, keys] = 0
        if how == "renormalise":
            exact = [
                part.double() for part in (query, key, value, mask)
            ]  # what goes to the sink may be next to nothing
            sink = 1 - own(module, *exact, *args, **kwargs)[1].sum(-1, keepdim=True) if hasattr(module, "sinks") else 0
            left = (left / (left.sum(-1, keepdim=True) + sink)).to(query.dtype)
        groups = query.shape[1] // value.shape[1]
        return (left @ value.repeat_interleave(groups, dim=1)).transpose(1, 2).contiguous(), left

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(sys.modules[name], "eager_attention_forward", attention)
        logits: torch.Tensor = model.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


@every_model
def test_a_span_that_no_later_position_reads_changes_nothing_later(
    kind: str, attention: str, model_of: Callable[..., Any], ids_of: Callable[..., Any]
) -> None:
    model, one = model_of(kind, attention), ids_of(TEXT)
    two = one[:2] + one[3:1:-1] + one[4:]  # two tokens of the prompt change places
    with edited(model, [KnockOut("later", "prompt")]) as blind:
        close(plain_logits(blind, one)[PROMPT.stop :], plain_logits(blind, two)[PROMPT.stop :])
    assert differ(plain_logits(model, one)[PROMPT.stop :], plain_logits(model, two)[PROMPT.stop :])


@every_model
def test_renormalising_is_the_plain_model_behind_masks_without_these_edges(
    kind: str, attention: str, model_of: Callable[..., Any], ids_of: Callable[..., Any]
) -> None:
    """A mask for each attention type, made here from the configuration: one for all would take the windows away."""
    model, ids = model_of(kind, attention), ids_of(TEXT)
    config = model.module.config
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    window = getattr(config, "sliding_window", None) or LENGTH
    types = getattr(config, "layer_types", None) or (["sliding_attention"] if kind == "mistral" else ["full_attention"])
    masks = {}
    for name in set(types):
        seen = (distance >= 0) & (distance < (window if name == "sliding_attention" else LENGTH))
        seen[COT, PROMPT] = seen[CUE, OPEN] = False
        masks[name] = torch.zeros(LENGTH, LENGTH).masked_fill(~seen, LOWEST)[None, None]
    mask = masks if len(masks) > 1 else next(iter(masks.values()))
    with torch.no_grad():
        want = model.module(input_ids=torch.tensor([ids]), attention_mask=mask, use_cache=False).logits[0]
    with edited(model, [KnockOut("cot", "prompt"), KnockOut("cue", "open")]) as found:
        close(plain_logits(found, ids), want)
    assert differ(want, plain_logits(model, ids))


@every_model
@pytest.mark.parametrize("how", WAYS)
def test_heads_layers_and_both_ways_are_a_pattern_edited_by_hand(
    kind: str, attention: str, how: str, model_of: Callable[..., Any], ids_of: Callable[..., Any]
) -> None:
    model, ids = model_of(kind, attention), ids_of(TEXT)
    knocks = [KnockOut("cue", "cot", [1], [1], how), KnockOut("cot", "prompt+open", [0, 2], how=how)]
    edges = [([1], [1], CUE, COT), ([0, 2], [0, 1], COT, slice(0, OPEN.stop))]
    want = by_hand(model_of(kind), ids, edges, how)
    with edited(model, knocks) as found:
        close(plain_logits(found, ids), want)
    with edited(model, knocks[:1]) as found:
        close(plain_logits(found, ids), by_hand(model_of(kind), ids, edges[:1], how))
        assert differ(plain_logits(found, ids)[CUE], want[CUE])
    other = by_hand(model_of(kind), ids, edges, next(way for way in WAYS if way != how))
    assert differ(want[CUE], other[CUE])  # the two ways are not one


@every_kind
@pytest.mark.parametrize("how", WAYS)
def test_all_heads_one_after_the_other_are_all_heads(
    kind: str, how: str, model_of: Callable[..., Any], ids_of: Callable[..., Any]
) -> None:
    model, ids = model_of(kind), ids_of(TEXT)
    with edited(model, [KnockOut("cue", "prompt", heads=[head], how=how) for head in (0, 1)]) as found:
        single = plain_logits(found, ids)
    with edited(model, [KnockOut("cue", "prompt", how=how)]) as found:
        assert torch.equal(plain_logits(found, ids), single)
    with edited(model, [KnockOut("cue", "prompt", heads=[0], how=how)]) as found:
        assert differ(plain_logits(found, ids), single)


@every_model
def test_knocking_out_parts_is_cutting_them(
    kind: str, attention: str, model_of: Callable[..., Any], ids_of: Callable[..., Any]
) -> None:
    model = model_of(kind, attention)
    cut = model.cut("cue+answer", "prompt").cut("cot", "open", layers=[1])
    with edited(model, [KnockOut("cue+answer", "prompt"), KnockOut("cot", "open", [1])]) as found:
        for parts in (TEXT, OTHER):
            close(plain_logits(found, ids_of(parts)), plain_logits(cut, ids_of(parts)))
    with edited(model.cut("cue+answer", "prompt"), [KnockOut("cot", "open", [1])]) as found:  # and on top of a cut
        close(plain_logits(found, ids_of(TEXT)), plain_logits(cut, ids_of(TEXT)))


OUT = {"gpt2": "c_proj", "gpt-neox": "dense"}


def hooked(model: Any, ids: tuple[int, ...], site: str, layer: int, places: Any, value: Any, heads: Any) -> Any:
    """Logits where plain hooks on the module itself set a value."""
    block = model.sites.blocks[layer]
    entering: list[torch.Tensor] = []

    def put(states: torch.Tensor) -> torch.Tensor:
        made = states.clone()
        if site == "z":
            view = made.view(*made.shape[:2], model.module.config.num_attention_heads, -1)
            view[:, places, slice(None) if heads is None else heads] = value
        else:
            made[:, places] = value - entering[0][:, places] if site == "resid_mid" else value
        return made

    def before(_: Any, args: Any, kwargs: Any) -> Any:
        states = args[0] if args else kwargs.pop("hidden_states")
        entering.append(states)
        return ((put(states) if site in ("resid_pre", "z") else states), *args[1:]), kwargs

    def after(_: Any, __: Any, output: Any) -> Any:
        return (put(output[0]), *output[1:]) if isinstance(output, tuple) else put(output)

    handles = []
    attention = next(getattr(block.block, n) for n in ("self_attn", "attn", "attention") if hasattr(block.block, n))
    if site in ("resid_pre", "resid_mid"):
        handles.append(block.block.register_forward_pre_hook(before, with_kwargs=True))
    if site == "z":
        projection = getattr(attention, OUT.get(model.module.config.model_type.replace("_", "-"), "o_proj"))
        handles.append(projection.register_forward_pre_hook(before, with_kwargs=True))
    part = {"resid_post": block.block, "mlp_out": block.mlp_out}.get(site, block.attn_out)
    if site not in ("resid_pre", "z"):
        handles.append(part.register_forward_hook(after))
    try:
        return plain_logits(model, ids)
    finally:
        for handle in handles:
            handle.remove()


@every_model
@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z"])
def test_patches_are_what_plain_hooks_set(
    kind: str, attention: str, site: str, model_of: Callable[..., Any], ids_of: Callable[..., Any]
) -> None:
    model, ids = model_of(kind, attention), ids_of(TEXT)
    config = model.module.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape, heads = ([1, width], [1]) if site == "z" else ([config.hidden_size], None)
    value = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    if site == "resid_mid" and kind == "gpt-neox":
        with pytest.raises(
            InputError, match="no resid_mid: attention and MLP are added to the residual stream at once"
        ):
            edited(model, [Patch(site, 1, "cot", value)]).__enter__()
        return
    for position, places in (("cot", COT), (9, 9), ("open+cue", [8, 11])):
        want = hooked(model, ids, site, 1, places, value, heads)
        with edited(model, [Patch(site, 1, position, value, heads)]) as found:
            close(plain_logits(found, ids), want)
        assert differ(want, plain_logits(model, ids))


@every_kind
def test_several_patches_of_one_site(kind: str, model_of: Callable[..., Any], ids_of: Callable[..., Any]) -> None:
    model, ids = model_of(kind), ids_of(TEXT)
    value = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    want = hooked(model, ids, "mlp_out", 1, [9, 3], value, None)
    with edited(model, [Patch("mlp_out", 1, place, row) for place, row in zip((9, 3), value, strict=True)]) as found:
        close(plain_logits(found, ids), want)


def test_a_row_of_the_value_goes_to_each_of_the_named_places_of_a_task(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    run = lb.hooks.replay_gold(model, model.task.problems(1))[0]
    at = [run.spans["step.2"][0], run.spans["operand.3"][0]]
    heads, d_model = model.module.config.num_attention_heads, model.module.config.hidden_size
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(2, d_model, generator=generator)
    with edited(model, [Patch("resid_pre", 1, "step.2+operand.3", rows)]) as found:
        close(plain_logits(found, run.ids), hooked(model, run.ids, "resid_pre", 1, at, rows, None))
    z = torch.randn(2, heads, d_model // heads, generator=generator)
    with edited(model, [Patch("z", 1, "step.2+operand.3", z)]) as found:
        close(plain_logits(found, run.ids), hooked(model, run.ids, "z", 1, at, z, None))


@every_way
def test_generating_with_a_cache_and_padding_honours_edits_at_every_step(
    kind: str, attention: str, how: str, model_of: Callable[..., Any], ids_of: Callable[..., Any]
) -> None:
    model = model_of(kind, attention)
    value = torch.randn(32, generator=torch.Generator().manual_seed(1))
    edits: list[Patch | KnockOut] = [
        KnockOut("answer", "prompt+cot", [0, 1], [0], how),
        KnockOut("later", "open", [2], how=how),
        Patch("resid_post", 0, "answer", value),
        Patch("attn_out", 1, 9, value),
    ]
    prefixes = [ids_of(parts[:n]) for parts in (TEXT, OTHER) for n in (2, 4)]
    limits: dict[str, Any] = {"max_new_tokens": 4, "batch_size": 4, "progress": False}
    with edited(model, edits) as found:
        written = continue_each(found, prefixes, "", **limits)
        for prefix, (ids, _) in zip(prefixes, written, strict=True):
            for n, token in enumerate(ids):
                logits = plain_logits(found, prefix + ids[:n])[-1]
                assert logits[token] >= logits.max() - 2e-5  # a random model often has two tokens that are as likely
        rows = [ids_of(TEXT), ids_of(OTHER)]
        padded, mask = pad(rows, found)
        for row, own in enumerate(rows):
            whole = found.module(input_ids=padded, attention_mask=mask.long(), use_cache=False).logits[row, : len(own)]
            close(whole, plain_logits(found, own))
    assert sum(len(ids) for ids, _ in written) >= 4


def test_channels_replay_and_record_run_under_edits(organism: Callable[[str], Any]) -> None:
    model = organism("copy-redundant")
    pairs = model.task.pairs(16, vary="all")
    for keys, shares in (("cot", [1, 0, 0]), ("prompt", [0, 0, 1])):
        with edited(model, [KnockOut("cue", keys)]) as found:
            result = lb.analyses.channels(found, pairs, cot="task", target="answer")
        np.testing.assert_allclose(result.shares("all"), shares, atol=1e-3)
        assert result.manifest.identity["edits"][0]["keys"] == keys
    sft = organism("sft")
    value = torch.randn(sft.module.config.hidden_size, generator=torch.Generator().manual_seed(1))
    with edited(sft, [KnockOut("cue", "prompt+open+cot"), Patch("resid_pre", 1, "step.2", value)]) as found:
        runs = lb.hooks.replay_gold(found, sft.task.problems(8))
        acts = lb.hooks.record(found, runs, ["resid_pre"], ["cue[-1]", "step.2"]).values["resid_pre"]
    assert torch.equal(acts[0:1, 1].expand(8, -1), acts[0::2, 1])  # the cue sees nothing that differs
    assert torch.equal(acts[1::2, 1], value.expand(8, -1))


def _hooks(module: Any) -> list[int]:
    return [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
@every_kind
def test_nothing_is_left_on_the_model(
    kind: str, error: Any, model_of: Callable[..., Any], ids_of: Callable[..., Any]
) -> None:
    model, ids = model_of(kind), ids_of(TEXT)
    before, hooks, parts = plain_logits(model, ids), _hooks(model.module), [id(part) for part in model.module.modules()]
    edits: list[Patch | KnockOut] = [KnockOut("cue", "prompt"), Patch("mlp_out", 1, "cot", torch.zeros(32))]
    with pytest.raises(error) if error else nullcontext(), edited(model, edits) as found:
        assert differ(plain_logits(found, ids), before)
        assert torch.equal(plain_logits(model, ids), before)
        assert all(a is b for a, b in zip(model.module.parameters(), found.module.parameters(), strict=True))
        if error:
            raise error
    assert torch.equal(plain_logits(model, ids), before)
    assert _hooks(model.module) == hooks
    assert [id(part) for part in model.module.modules()] == parts
    with pytest.raises(InputError, match="the edits of this model ended with their `with` block: use it inside"):
        plain_logits(found, ids)


def test_an_error_inside_of_a_pass_leaves_nothing_either(
    model_of: Callable[..., Any], ids_of: Callable[..., Any]
) -> None:
    model, ids = model_of("llama"), ids_of(TEXT)
    before, hooks = plain_logits(model, ids), _hooks(model.module)
    with edited(model, [KnockOut("cue", "prompt")]) as found:
        with pytest.raises((IndexError, RuntimeError)):
            plain_logits(found, (*ids, 10**6))
        once = plain_logits(found, ids)
    assert torch.equal(plain_logits(model, ids), before) and differ(once, before)
    assert _hooks(model.module) == hooks


def test_no_edits_are_the_plain_model(model_of: Callable[..., Any], ids_of: Callable[..., Any]) -> None:
    model, ids = model_of("gemma3", "sdpa"), ids_of(TEXT)
    with edited(model, []) as found:
        assert torch.equal(plain_logits(found, ids), plain_logits(model, ids))
        assert found.identity() == {**model.identity(), "edits": []}


def test_identity_tells_values_apart(model_of: Callable[..., Any]) -> None:
    model = model_of("llama")
    told = []
    for value in (torch.zeros(32), torch.ones(32)):
        with edited(model, [Patch("resid_pre", 0, "cue", value), KnockOut("cue", "cot", heads=(1,))]) as found:
            told.append(found.identity()["edits"])
    assert told[0][0] != told[1][0] and told[0][1] == told[1][1]
    assert told[0][1] == {
        "edit": "KnockOut",
        "queries": "cue",
        "keys": "cot",
        "layers": None,
        "heads": [1],
        "how": "renormalise",
    }


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (KnockOut("cuee", "prompt"), r"unknown position 'cuee': .*nearest: 'cue'"),
        (KnockOut("prompt", "cue"), "nothing to cut: 'prompt' comes before 'cue', and no position reads ahead"),
        (KnockOut("cue", "prompt", [3]), r"layers=\[3\]: this model has layers 0 to 2"),
        (KnockOut("cue", "prompt", heads=[9]), r"heads=\[9\]: this model has heads 0 to 3, each to be named once"),
        (KnockOut("cue", "prompt", heads=[]), r"heads=\[\]: this model has heads 0 to 3"),
        (KnockOut("cue", "prompt", how="mean"), "unknown how 'mean': expected one of renormalise, zero"),
        (Patch("residpost", 0, "cue", torch.zeros(64)), "unknown site 'residpost': .*nearest: 'resid_post'"),
        (Patch("resid_pre", 5, "cue", torch.zeros(64)), r"layers=\[5\]: this model has layers 0 to 2"),
        (
            Patch("resid_pre", 0, -1, torch.zeros(64)),
            "position -1: expected the number of a token from 0 on, or a name",
        ),
        (Patch("resid_pre", 0, "operand.9", torch.zeros(64)), "unknown position 'operand.9'"),
        (Patch("resid_pre", 0, "cue", torch.zeros(64), [0]), r"heads=\[0\]: only site 'z' has heads, not 'resid_pre'"),
        (
            Patch("resid_pre", 0, 3, torch.zeros(5)),
            r"the value for resid_pre at 3 has shape \[5\]: expected \[D\]$",
        ),
        (
            Patch("resid_pre", 0, "operand.1+operand.2", torch.zeros(3, 64)),
            r"has shape \[3, 64\]: expected \[D\] or \[2, D\], a row for each position$",
        ),
        (
            Patch("resid_pre", 0, "cot", torch.zeros(3, 64)),
            r"expected \[D\] or \['n', D\], a row for each position; 'cot' is as long as the run has it: name places",
        ),
        (Patch("z", 0, "cue", torch.zeros(64)), r"the value for z at 'cue' has shape \[64\]: expected \[4, "),
    ],
)
def test_bad_edits(organism: Callable[[str], Any], edit: Any, message: str) -> None:
    model = organism("sft")
    with pytest.raises(InputError, match=message.replace("D", str(model.module.config.hidden_size))):
        edited(model, [edit]).__enter__()


def test_what_an_edited_model_refuses(model_of: Callable[..., Any], word_tokenizer: Any) -> None:
    model = model_of("llama")
    with edited(model, [KnockOut("cue", "prompt")]) as found:
        with pytest.raises(InputError, match="this model is edited already: give all edits in one list"):
            edited(found, []).__enter__()
        with pytest.raises(InputError, match="an edited model is not cut: cut the model first, then edit it"):
            found.cut("cue", "cot")
        with pytest.raises(InputError, match="an edited model keeps its format: change the format first"):
            found.with_format(cue=" so")
    with pytest.raises(UnknownNameError, match=r"unknown part of a run \(a model without a task knows no others\)"):
        edited(model, [KnockOut("cue", "operand.2")]).__enter__()
    plain = lb.hooks.load(
        model.module, tokenizer=word_tokenizer, format=Format(open="", close=" answer", cue=" answer")
    )
    with pytest.raises(InputError, match="the format's `open` is empty"):
        edited(plain, [KnockOut("cue", "prompt")]).__enter__()
    ids = tuple(range(5, 15))
    with edited(plain, [Patch("resid_pre", 1, 3, torch.zeros(32))]) as found:  # the number of a token needs no text
        close(plain_logits(found, ids), hooked(model, ids, "resid_pre", 1, 3, torch.zeros(32), None))
