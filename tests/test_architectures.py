"""Splicing on every architecture: own caches give the plain run, the donor's its own, a batch what one alone gives."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.analyses.cells import N_CELLS
from loadbearing.analyses.eight import eight_cells, plain_log_p
from loadbearing.analyses.targets import Aim
from loadbearing.core import InputError
from loadbearing.hooks import splice
from loadbearing.hooks.cache import forward_over
from loadbearing.hooks.checks import additive_error
from loadbearing.hooks.sites import Site
from loadbearing.hooks.support import check_spliceable
from loadbearing.organisms.specs import FORMAT

KINDS = (
    "llama",
    "llama3",  # its frequencies are rescaled
    "qwen2",  # biased queries, keys and values
    "qwen3",
    "gemma2",  # soft caps, sliding windows in every other layer
    "gemma3",
    "mistral",
    "olmo2",
    "phi3",
    "gpt2",  # learned positions
    "gpt-neox",
    "gpt-neox-serial",
    "gpt-oss",  # attention sinks, mixture of experts
)
# transformers has no sdpa for attention sinks; soft caps it would leave out, see below.
EAGER_ONLY = ("gpt-oss", "gemma2")
CASES = [(kind, name) for kind in KINDS for name in ("eager", "sdpa") if name == "eager" or kind not in EAGER_ONLY]
# Two prompts of equal length that differ in one word, and two chains of thought of unequal length; longer than the
# sliding window of 6 positions.
PAIRS = (
    ("{} + 2 mod 10", ("6", " 8"), ("7", " 9 9 9 9")),
    ("{} + 2 + 3 mod 10", ("1", " 3 6 3 6 3 6 3"), ("4", " 6 9")),
    ("{} mod 10", ("9", " 9 9 9 9 1 2 3 4 5 6"), ("5", " 5 . 5")),
    ("{} + 4 + 4 + 4 + 4 mod 10", ("4", " 8 2 6 0 0"), ("2", " 6")),
)
# Nats: what bfloat16 changes of log p on these tiny models, at most. Measured: up to 0.014 with sdpa (spliced against
# plain; a batch against one by one), up to 3e-7 with eager attention, against 1e-6 in float32.
BF16 = 0.03


def model_of(kind: str, attention: str, random_module: Callable[..., Any], tokenizer: Any) -> Any:
    """A tiny model whose weights are small enough for logits of about 1: 1e-5 is then what fp32 can give."""
    module = random_module(kind, tokenizer, attn_implementation=attention)
    shrink(module)
    return lb.hooks.load(module, tokenizer=tokenizer, format=FORMAT)


@torch.no_grad()
def shrink(module: Any) -> None:
    """Matrices of a standard deviation of 0.1 instead of 0.25."""
    for weight in module.parameters():
        if weight.ndim > 1:
            weight.mul_(0.4)


def aims_of(model: Any) -> list[tuple[Aim, Aim]]:
    """The pairs above as cut runs; answers of one and of two tokens."""
    task = lb.tasks.Questions()
    for number, (text, *sides) in enumerate(PAIRS):
        for side, (word, cot) in enumerate(sides):
            answer = cot.split()[-1] if number % 2 else f"{cot.split()[-1]} {word}"
            task.add(f"{number}.{side}", text.format(word), answer, cot=cot)
    runs = lb.hooks.replay_gold(model, task.problems(2 * len(PAIRS)), max_answer_tokens=1).by_problem()

    def aim(key: str) -> Aim:
        run = runs[key]
        prompt, opened, cot, cue = (run.tokens(name) for name in ("prompt", "open", "cot", "cue"))
        answer = tuple(model.tokenizer(run.problem.answer, add_special_tokens=False)["input_ids"])
        return Aim(prompt, opened, cot, cue, answer, None, run.problem.answer, {})

    return [(aim(f"{number}.0"), aim(f"{number}.1")) for number in range(len(PAIRS))]


def errors(model: Any, pairs: int = len(PAIRS)) -> tuple[float, float, float, float]:
    """The largest error of the own-cache splice, of the full donor splice, of a batch, and how far cells lie apart."""
    aims = aims_of(model)[:pairs]
    log_p = eight_cells(model, aims, [None] * len(aims)).log_p[..., :2]
    plain = np.array([[[plain_log_p(model, run, side.answer, None) for side in pair] for run in pair] for pair in aims])
    alone = np.concatenate([eight_cells(model, [pair], [None]).log_p[..., :2] for pair in aims])
    apart = np.abs(log_p[:, :, None] - log_p[:, None]).max(axis=(0, 3))[np.triu_indices(N_CELLS, 1)].min()
    spliced = [np.abs(log_p[:, cell] - plain[:, side]).max() for side, cell in ((0, 0), (1, N_CELLS - 1))]
    return float(spliced[0]), float(spliced[1]), float(np.abs(alone - log_p).max()), float(apart)


@pytest.mark.parametrize(("kind", "attention"), CASES)
def test_splices_are_plain_runs_and_batches_are_single_runs(
    kind: str, attention: str, random_module: Callable[..., Any], word_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(kind, attention, random_module, word_tokenizer)
    assert model.module.config._attn_implementation == attention
    check_spliceable(model)
    monkeypatch.setattr(splice, "FILLED", 0.1)  # so that rows of unequal length do share a batch
    padded = []

    def watched(model: Any, ids: Any, *arguments: Any, **options: Any) -> Any:
        padded.append(options.get("mask") is not None)
        return forward_over(model, ids, *arguments, **options)

    monkeypatch.setattr(splice, "forward_over", watched)
    own, donor, batch, apart = errors(model)
    assert any(padded)
    assert max(own, donor, batch) <= 1e-5
    assert apart > 1e-3  # no two cells are the same, so that none of this holds by itself


def test_transformers_has_no_sdpa_where_only_eager_attention_is_tested(
    random_module: Callable[..., Any], word_tokenizer: Any
) -> None:
    for kind in EAGER_ONLY:
        with pytest.raises(ValueError, match="scaled_dot_product_attention"):
            random_module(kind, word_tokenizer, attn_implementation="sdpa")


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_off_by_what_is_documented(
    kind: str, random_module: Callable[..., Any], word_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # oneDNN plans anew for every shape, and is slow on many small ones.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    attention = "eager" if kind in EAGER_ONLY else "sdpa"
    model = model_of(kind, attention, random_module, word_tokenizer)
    model.module.to(torch.bfloat16)
    own, donor, batch, _ = errors(model, 2)
    print(f"{kind} {attention}: own caches {own:.1e}, donor's caches {donor:.1e}, batch {batch:.1e} nats")
    assert max(own, donor, batch) <= BF16


# Attention-only decoders beyond those: what is cached is one entry a position, whatever it is.
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
}
OTHERS: dict[str, dict[str, Any]] = {
    "DeepseekV2": {**LATENT, "q_lora_rank": None},  # multi-head latent attention: latents are cached
    "DeepseekV3": LATENT,
    "Falcon": {"new_decoder_architecture": False, "parallel_attn": True},
    "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "Bloom": {"n_head": 2, "n_layer": 2},  # ALiBi: positions are counted in the cache, which must then have no gap
    "Granite": {"residual_multiplier": 0.2},
    "Mixtral": {"num_local_experts": 4, "num_key_value_heads": 2},
    "Glm4": {"head_dim": 16, "num_key_value_heads": 2},
}
STATE = r"keep a running state, .* Needed: a model whose layers all keep keys and values"
MIXED = {"layer_types": ["linear_attention", "full_attention"]}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "Mamba": ({"state_size": 8}, rf"MambaForCausalLM .* 2 of its 2 layers \(linear_attention\) {STATE}"),
    "Mamba2": (
        {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1},
        rf"Mamba2ForCausalLM .* 2 of its 2 layers \(linear_attention\) {STATE}",
    ),
    "Rwkv": ({"context_length": 64}, rf"RwkvForCausalLM .* its forward takes state: its layers {STATE}"),
    "Jamba": (
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "num_key_value_heads": 2,
            "use_mamba_kernels": False,
        },
        rf"JambaForCausalLM .* 1 of its 2 layers \(linear_attention\) {STATE}",
    ),
    "Zamba": (
        {
            "num_hidden_layers": 4,
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "n_mamba_heads": 2,
            "use_mamba_kernels": False,
        },
        rf"ZambaForCausalLM .* 4 of its 4 layers \(hybrid, linear_attention\) {STATE}",
    ),
    "FalconH1": (
        {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
        rf"FalconH1ForCausalLM .* 2 of its 2 layers \(hybrid\) {STATE}",
    ),
    "GraniteMoeHybrid": (
        {**MIXED, "mamba_n_heads": 4, "mamba_d_head": 16, "num_local_experts": 2, "shared_intermediate_size": 64},
        rf"GraniteMoeHybridForCausalLM .* 1 of its 2 layers \(linear_attention\) {STATE}",
    ),
    "Qwen3Next": (
        {**MIXED, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        rf"Qwen3NextForCausalLM .* 1 of its 2 layers \(linear_attention\) {STATE}",
    ),
    "Lfm2": ({"layer_types": ["conv", "full_attention"]}, rf"1 of its 2 layers \(conv\) {STATE}"),
    "DeepseekV32": (
        {**LATENT, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 4},
        r"2 of its 2 layers \(indexed_attention\) choose what they attend to by an index .* Needed: the index spliced",
    ),
    "OpenAIGPT": (
        {"n_embd": 32, "n_layer": 2, "n_head": 2},
        r"OpenAIGPTLMHeadModel .* leaves the DynamicCache that it is given empty\. Needed: a forward that keeps",
    ),
    "T5": (
        {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2},
        r"T5ForConditionalGeneration cannot be spliced \(channels, ledger, patch\): it is an encoder-decoder, whose "
        r"prompt .* through cross-attention, .* Needed: a decoder-only model",
    ),
}


def other(prefix: str, options: dict[str, Any], tokenizer: Any) -> Any:
    """A Model of a tiny random transformers model that has no fixture of its own."""
    import transformers

    suffixes = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    made = next(getattr(transformers, prefix + suffix) for suffix in suffixes if hasattr(transformers, prefix + suffix))
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = getattr(transformers, f"{prefix}Config")(**{"vocab_size": len(tokenizer), **SMALL, **ids, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = made(config).eval()
        for weight in module.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.1)
    return lb.hooks.load(module, tokenizer=tokenizer, format=FORMAT)


@pytest.mark.parametrize("prefix", OTHERS)
def test_other_attention_only_decoders_are_spliced_too(prefix: str, word_tokenizer: Any) -> None:
    model = other(prefix, OTHERS[prefix], word_tokenizer)
    check_spliceable(model)
    own, donor, batch, apart = errors(model)
    assert max(own, donor, batch) <= 1e-5
    assert apart > 1e-5


@pytest.mark.parametrize("prefix", REFUSED)
def test_models_that_cannot_be_spliced_are_refused_by_name(prefix: str, word_tokenizer: Any) -> None:
    options, told = REFUSED[prefix]
    model = other(prefix, options, word_tokenizer)
    for _ in range(2):  # also when the answer is remembered
        with pytest.raises(InputError, match=told):
            check_spliceable(model)


def test_a_refusal_is_per_analysis(word_tokenizer: Any) -> None:
    """A hybrid is loaded, written with and recorded; only what splices refuses it."""
    model = other("Jamba", REFUSED["Jamba"][0], word_tokenizer)
    task = lb.tasks.load("modular-sum")
    runs = lb.hooks.generate(model, task.problems(3), max_new_tokens=4, max_answer_tokens=2)
    acts = lb.hooks.record(model, runs, ["resid_pre", "resid_post"], ["prompt[-1]"])
    assert acts.values["resid_post"].shape == (3, 2, 32)
    torch.testing.assert_close(acts.values["resid_pre"][:, 1], acts.values["resid_post"][:, 0])
    with pytest.raises(
        InputError, match=r"JambaMambaDecoderLayer \(layer 0\) has no attn_out: .* record resid_pre and"
    ):
        lb.hooks.record(model, runs, ["attn_out"], ["prompt[-1]"])
    with pytest.raises(InputError, match="JambaForCausalLM cannot be spliced"):
        lb.analyses.channels(model, task.pairs(2))


@pytest.mark.parametrize(
    ("prefix", "lacks"),
    [("OPT", "OPTDecoderLayer .* no mlp_out"), ("Bloom", "BloomBlock .* no attn_out"), ("T5", "its sites are unknown")],
)
def test_sites_that_are_not_what_is_added_are_refused(prefix: str, lacks: str, word_tokenizer: Any) -> None:
    model = other(prefix, {**OTHERS, "T5": REFUSED["T5"][0]}[prefix], word_tokenizer)
    with pytest.raises(InputError, match=lacks):
        for site in ("attn_out", "mlp_out"):
            model.sites.check(Site(site, 0))


@pytest.mark.parametrize("prefix", ["Falcon", "Glm4", "Mixtral", "DeepseekV3"])
def test_the_parts_of_other_decoders_add_up(prefix: str, word_tokenizer: Any) -> None:
    model = other(prefix, OTHERS[prefix], word_tokenizer)
    assert additive_error(model, [pair[0].head for pair in aims_of(model)]) < 1.0
    assert model.sites.blocks[0].parallel == (prefix == "Falcon")
