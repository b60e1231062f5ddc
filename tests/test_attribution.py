"""Attribution: the parts add up on every architecture, and are TransformerLens' where it has them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformer_lens.tools.analysis import direct_logit_attribution
from transformers import GraniteConfig, GraniteForCausalLM

import loadbearing as lb
from loadbearing.analyses.aligned import align
from loadbearing.analyses.attribution import Readout, attribution
from loadbearing.analyses.attribution_table import Attribution
from loadbearing.core import InputError
from loadbearing.figures.attribution import attribution as draw
from loadbearing.hooks import Runs
from loadbearing.organisms.specs import FORMAT

KINDS = (
    "llama",
    "llama3",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "mistral",
    "olmo2",
    "phi3",
    "gpt2",
    "gpt-neox",
    "gpt-neox-serial",
    "gpt-oss",
)
SANDWICHES = ("gemma2", "gemma3", "olmo2")
TASK = lb.tasks.load("modular-sum")
OPTIONS: dict[str, Any] = {"mode": "cot", "target": "step.2", "cot": "task"}  # what a random model can be asked


@pytest.fixture(scope="module")
def model_of(random_module: Callable[..., Any], word_tokenizer: Any) -> Callable[..., Any]:
    """A tiny model with logits of a few nats: 1e-5 is then what float32 can give."""
    known: dict[str, Any] = {}

    def get(kind: str, dtype: torch.dtype = torch.float32) -> Any:
        key = f"{kind} {dtype}"
        if key not in known:
            made = random_module(kind, word_tokenizer, attn_implementation="eager")
            with torch.no_grad():
                for weight in made.parameters():
                    weight.mul_(0.5 if weight.ndim > 1 else 1.0)
            known[key] = lb.hooks.load(made.to(dtype), tokenizer=word_tokenizer, format=FORMAT)
        return known[key]

    return get


def batch_of(model: Any) -> Any:
    """The runs that `attribution` measures, all of one length."""
    (batch,) = align(model, TASK.pairs(2), **OPTIONS).batches
    assert batch.index == tuple(range(len(batch.index)))
    return batch


def logit_differences(model: Any, batch: Any) -> np.ndarray[Any, Any]:
    """Of the donor's first answer token over the recipient's in a plain pass, `[run, pair]`."""
    first, second = (answer[:, :1] for answer in batch.answers)
    with torch.no_grad():
        logits = [model.module(input_ids=ids, use_cache=False).logits[:, -1] for ids in (batch.recipient, batch.donor)]
    return np.stack([(each.gather(1, second) - each.gather(1, first))[:, 0].float().numpy() for each in logits])


@pytest.mark.parametrize("unit", ["component", "head", "neuron"])
@pytest.mark.parametrize("kind", KINDS)
def test_components_add_up_to_the_logits(kind: str, unit: str, model_of: Callable[..., Any]) -> None:
    model = model_of(kind)
    if unit == "neuron" and kind == "gpt-oss":
        with pytest.raises(InputError, match=r"GptOssDecoderLayer \(layer 0\) has no neurons that are known here"):
            attribution(model, TASK.pairs(1), unit=unit, **OPTIONS)
        return
    if unit != "component" and kind in SANDWICHES:
        text = rf"DecoderLayer \(layer 0\) puts the sum of its {unit}s through a norm before it is added"
        with pytest.raises(InputError, match=text):
            attribution(model, TASK.pairs(1), unit=unit, **OPTIONS)
        return
    found = attribution(model, TASK.pairs(2), unit=unit, **OPTIONS)
    own = logit_differences(model, batch_of(model))
    if kind == "gemma2":  # caps its logits: what is split is what the cap is put on
        assert found.manifest.circumstance["changed"]
        cap = model.module.config.final_logit_softcapping
        with torch.no_grad():
            logits = model.module(input_ids=batch_of(model).recipient, use_cache=False).logits[:, -1]
        raw = cap * torch.atanh(logits.double() / cap)
        first, second = (answer[:, :1] for answer in batch_of(model).answers)
        own[0] = (raw.gather(1, second) - raw.gather(1, first))[:, 0].numpy()
        own[1] = found.logits[1]
    else:
        assert not found.manifest.circumstance["changed"]
    np.testing.assert_allclose(found.logits, own, atol=1e-5)
    np.testing.assert_allclose(found.recipient.sum(0), found.logits[0], atol=1e-5)
    np.testing.assert_allclose(found.donor.sum(0), found.logits[1], atol=1e-5)
    assert np.abs(found.logits).max() > 0.1
    assert found.manifest.circumstance["gates"][0]["measured"] < 1e-5


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gpt-neox", "gpt-neox-serial", "phi3"])
def test_a_layer_is_the_sum_of_its_heads_and_their_bias(kind: str, model_of: Callable[..., Any]) -> None:
    model = model_of(kind)
    whole, heads, neurons = (
        attribution(model, TASK.pairs(2), unit=u, **OPTIONS) for u in ("component", "head", "neuron")
    )

    def rows(found: Attribution, start: str) -> Any:
        return sum(found.donor[i] for i, name in enumerate(found.components) if name.startswith(start))

    for found, parts in ((heads, ("attn.{}", "L{}H")), (neurons, ("mlp.{}", "L{}N"))):
        left = sum(rows(whole, parts[0].format(layer)) - rows(found, parts[1].format(layer)) for layer in range(3))
        np.testing.assert_allclose(left, rows(found, "bias") - rows(whole, "bias"), atol=1e-6)
        biased = kind.startswith("gpt")
        assert (np.abs(left).max() > 1e-3) == biased


@pytest.mark.parametrize("unit", ["component", "head"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gpt-neox"])
def test_parts_are_those_of_transformer_lens(kind: str, unit: str, model_of: Callable[..., Any]) -> None:
    model = model_of(kind)
    batch = batch_of(model)
    found = attribution(model, TASK.pairs(2), unit=unit, **OPTIONS)
    backend: Any = lb.hooks.load(
        model.module, tokenizer=model.tokenizer, format=FORMAT, backend="transformer_lens"
    ).backend
    # Otherwise the values' biases, which attention passes on whole, are taken out of the heads.
    backend.bridge.enable_compatibility_mode(fold_value_biases=False)
    first, second = (answer[:, 0] for answer in batch.answers)
    for ids, ours in ((batch.recipient, found.recipient), (batch.donor, found.donor)):
        with torch.no_grad():
            theirs = direct_logit_attribution(
                backend.bridge, ids, answer_tokens=second, incorrect_tokens=first, unit=unit
            )
        values = dict(zip(theirs.labels, theirs.attribution.numpy(), strict=True))
        known = {name: values[name] for name in values if name.startswith("L")}
        if unit == "component":
            known = {f"attn.{layer}": values[f"{layer}_attn_out"] for layer in range(3)}
            known |= {f"mlp.{layer}": values[f"{layer}_mlp_out"] for layer in range(3)}
            known["embed"] = values["embed"] + values.get("pos_embed", 0)
        assert len(known) == (7 if unit == "component" else 6)
        for name, wanted in known.items():
            np.testing.assert_allclose(ours[found.components.index(name)], wanted, atol=1e-4, err_msg=name)
        assert max(np.abs(wanted).max() for wanted in known.values()) > 0.05


def test_neurons_by_hand(model_of: Callable[..., Any]) -> None:
    """A neuron's part is its activation times its row of weights, through the norm's weights, along the two tokens."""
    model = model_of("llama")
    batch = batch_of(model)
    found = attribution(model, TASK.pairs(2), unit="neuron", **OPTIONS)
    decoder, kept = model.module.model, []
    down = decoder.layers[1].mlp.down_proj
    handles = [down.register_forward_pre_hook(lambda _, args: kept.append(args[0][:, -1]))]
    handles.append(decoder.norm.register_forward_pre_hook(lambda _, args: kept.append(args[0][:, -1])))
    with torch.no_grad():
        model.module(input_ids=batch.recipient, use_cache=False)
    for handle in handles:
        handle.remove()
    neurons, final = kept
    scale = (final.pow(2).mean(-1) + decoder.norm.variance_epsilon).rsqrt()
    tokens = model.module.lm_head.weight[batch.answers[1][:, 0]] - model.module.lm_head.weight[batch.answers[0][:, 0]]
    by_hand = neurons * ((scale[:, None] * decoder.norm.weight * tokens) @ down.weight)
    at = found.components.index("L1N0")
    np.testing.assert_allclose(found.recipient[at : at + 64].T, by_hand.detach().numpy(), atol=1e-5)


def test_half_precision_is_judged_by_what_it_can_give(model_of: Callable[..., Any]) -> None:
    exact, rough = (
        attribution(model_of("llama", d), TASK.pairs(2), **OPTIONS) for d in (torch.float32, torch.bfloat16)
    )
    np.testing.assert_allclose(rough.recipient, exact.recipient, atol=0.05)
    gate = rough.manifest.circumstance["gates"][0]
    assert 1e-4 < gate["measured"] < 0.05 and gate["verdict"] in ("pass", "warn")


# As the weights are set: which part of layer 1 writes to the signal that the unembedding reads.
WRITERS = [("copy-direct", "L1H0"), ("copy-relay", "L1H1"), ("copy-tokens", "L1H1"), ("copy-sum", "mlp.1")]


@pytest.mark.parametrize(("name", "writer"), WRITERS)
def test_one_part_writes_the_answer(name: str, writer: str, organism: Callable[[str], Any]) -> None:
    model = organism(name)
    cot = model.card.measure["cot"]
    found = attribution(model, model.task.pairs(8), mode="cot", target="answer", cot=cot, unit="head")
    frame = found.frame()
    changed = frame[frame["run"] == "difference"].set_index("component")["attribution"]
    assert changed[writer] == pytest.approx(40, abs=0.05)  # 20 nats for the one answer, and 20 against the other
    np.testing.assert_allclose(changed.drop(writer), 0, atol=0.05)
    run = frame[frame["run"] == "recipient"].set_index("component")["attribution"]
    assert run[writer] == pytest.approx(-20, abs=0.05)


def test_a_result_keeps_what_it_is(organism: Callable[[str], Any], tmp_path: Any) -> None:
    model = organism("direct")
    found = attribution(model, model.task.pairs(4))
    assert found.components == ("embed", "attn.0", "mlp.0", "attn.1", "mlp.1", "attn.2", "mlp.2", "bias")
    np.testing.assert_array_equal(found.values(), found.donor - found.recipient)
    frame = found.frame()
    assert frame["layer"].fillna(-1).tolist() == [-1, 0, 0, 1, 1, 2, 2, -1] * 3
    assert ((frame["low"] <= frame["attribution"]) & (frame["attribution"] <= frame["high"])).all()
    again = lb.load(found.save(tmp_path / "attribution.safetensors"))
    assert isinstance(again, Attribution) and again.table() == found.table()
    lines = found.table().splitlines()
    assert lines[0] == "logit of the donor's answer over the recipient's by component, answer-only runs, 16 pairs"
    assert lines[-1].split()[0] == "sum" and lines[1].split() == ["component", "recipient", "donor", "difference"]


class Curve(nn.Module):
    """What stands where a norm should."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(states)


def test_bad_input(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    with pytest.raises(
        InputError, match=r"unknown unit 'heads': expected one of component, head, neuron; nearest: 'head'"
    ):
        attribution(model, model.task.pairs(1), unit="heads")
    with pytest.raises(InputError, match=r"unknown run 'donors': expected one of recipient, donor, difference"):
        attribution(model, model.task.pairs(1)).values("donors")


def test_answers_that_begin_alike_have_no_direction(random_module: Callable[..., Any], bpe_tokenizer: Any) -> None:
    made = random_module("qwen3", bpe_tokenizer, max_position_embeddings=256, seed=2)
    model = lb.hooks.load(made, tokenizer=bpe_tokenizer)
    task = lb.tasks.Questions()
    task.add("a", "What is 12 + 30?", "42", partner="b")
    task.add("b", "What is 12 + 42?", "54", partner="a")
    runs = lb.hooks.replay(model, task.problems(2), {"a": "so 42", "b": "so 30"}, max_answer_tokens=2)
    one, other = runs[0].tokens("answer")[0], runs[1].spans["answer"][0]
    changed = (*runs[1].ids[:other], one, *runs[1].ids[other + 1 :])
    alike = Runs((runs[0], replace(runs[1], ids=changed)), "cot", model)
    attribution(model, task.pairs(1), mode="cot", target="answer", cot=runs)
    with pytest.raises(InputError, match=r"attribution is of the first tokens of the answers, and some pairs' are the"):
        attribution(model, task.pairs(1), mode="cot", target="answer", cot=alike)


def test_what_is_no_norm_is_refused(random_module: Callable[..., Any], word_tokenizer: Any) -> None:
    made = random_module("llama", word_tokenizer)
    attribution(lb.hooks.load(made, tokenizer=word_tokenizer, format=FORMAT), TASK.pairs(1), **OPTIONS)
    made.model.norm = Curve().eval()
    model = lb.hooks.load(made, tokenizer=word_tokenizer, format=FORMAT)
    with pytest.raises(
        InputError, match=r"LlamaForCausalLM: between its last layer and its unembedding there is no RMS"
    ):
        attribution(model, TASK.pairs(1), **OPTIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_norm_that_is_measured_is_the_models(kind: str, model_of: Callable[..., Any]) -> None:
    """Its weights and bias, where they are known by name: Gemma adds 1 to its weights."""
    module = model_of(kind).module
    decoder = model_of(kind).sites.decoder
    norm: Any = next(getattr(decoder, name) for name in ("norm", "ln_f", "final_layer_norm") if hasattr(decoder, name))
    offset = 1 if type(module).__name__.startswith("Gemma") else 0
    readout = Readout(model_of(kind))
    torch.testing.assert_close(readout._weight, norm.weight.detach().double() + offset, atol=1e-5, rtol=0)
    bias = getattr(norm, "bias", None)
    expected = torch.zeros_like(readout._weight) if bias is None else bias.detach().double()
    torch.testing.assert_close(readout._bias, expected, atol=1e-5, rtol=0)
    assert readout._centred == isinstance(norm, nn.LayerNorm)


@pytest.mark.parametrize("multiplier", [1.0, 0.5])
def test_a_model_whose_parts_do_not_add_up_is_refused(multiplier: float, word_tokenizer: Any) -> None:
    """Granite multiplies what a layer adds, and divides its logits."""
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    names: dict[str, Any] = {f"{name}_token_id": getattr(word_tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    options: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "logits_scaling": 4.0}
    config = GraniteConfig(
        vocab_size=len(word_tokenizer), residual_multiplier=multiplier, pad_token_id=0, **sizes, **names, **options
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = GraniteForCausalLM(config).eval()
        for weight in made.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    model = lb.hooks.load(made, tokenizer=word_tokenizer, format=FORMAT)
    if multiplier == 1:
        found = attribution(model, TASK.pairs(2), **OPTIONS)
        assert found.manifest.circumstance["changed"]
        np.testing.assert_allclose(found.logits, 4 * logit_differences(model, batch_of(model)), atol=1e-5)
        assert "before the model changes its logits (a soft cap, a scale)" in found.summary()
    else:
        with pytest.raises(InputError, match=r"adds 0\.5 times what attention and MLP put out"):
            attribution(model, TASK.pairs(2), **OPTIONS)


def test_the_model_is_what_it_was(organism: Callable[[str], Any]) -> None:
    model = organism("direct")

    def seen() -> list[Any]:
        parts = model.module.modules()
        hooks = [(id(m), len(m._forward_hooks), len(m._forward_pre_hooks), m.__dict__.get("forward")) for m in parts]
        return [*hooks, *(weight.grad for weight in model.module.parameters())]

    before = seen()
    for unit in ("component", "head", "neuron"):
        attribution(model, model.task.pairs(1), unit=unit)
    assert seen() == before


def test_the_figure_shows_means_and_intervals(organism: Callable[[str], Any]) -> None:
    model = organism("both")
    pairs = model.task.pairs(3)
    found = {"answer-only": attribution(model, pairs), "CoT": attribution(model, pairs, mode="cot")}
    ax = draw(found, run="donor")
    assert [label.get_text() for label in ax.get_yticklabels()] == list(found["CoT"].components)
    assert ax.get_xlabel().endswith("in the donor's run")
    legend = ax.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == list(found)
    marks, bars = [line for line in ax.lines if line.get_linestyle() == "None"], ax.collections
    for result, line, bar in zip(found.values(), marks, bars, strict=True):
        estimate, low, high = result.effect("donor")
        np.testing.assert_array_equal(line.get_xdata(), estimate)
        ends = np.array([np.asarray(path.vertices)[:, 0] for path in bar.get_paths()])
        np.testing.assert_array_equal(ends, np.stack([low, high], axis=1))
    few = draw(found, top=2)
    assert [label.get_text() for label in few.get_yticklabels()] == ["mlp.1", "mlp.2"]
    assert "2 of 8 components" in [text.get_text() for text in few.texts]
