"""The contract of the three backends, and that a user's object is not changed."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.core import InputError, UnknownNameError
from loadbearing.hooks.sites import RESIDUAL_SITES, Site
from loadbearing.organisms.specs import FORMAT

KINDS = ("llama", "qwen3", "gemma2", "olmo2", "gpt2", "gpt-neox")


def states(module: Any) -> dict[str, Any]:
    """All that a caller can see of a module."""
    return {
        "class": type(module),
        "forward": module.forward.__func__,
        "own": sorted(vars(module)),
        "keys": list(module.state_dict()),
        "classes": [type(m) for m in module.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()],
        "config": module.config.to_dict(),
        "training": module.training,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_three_backends_read_the_same(kind: str, random_module: Callable[..., Any], word_tokenizer: Any) -> None:
    # The bridge runs eager attention; sdpa sums in another order, which is not what is compared here.
    module = random_module(kind, word_tokenizer, attn_implementation="eager")
    models = [
        lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT, backend=backend)
        for backend in ("torch", "transformer_lens", "nnsight")
    ]
    task = lb.tasks.load("modular-sum")
    problems = [*task.problems(3), *lb.tasks.load("modular-sum:terms=2").problems(2)]  # of unequal length
    runs = lb.hooks.replay(models[0], problems, [p.cot for p in problems], max_answer_tokens=1)
    sites = [name for name in RESIDUAL_SITES if not (name == "resid_mid" and kind == "gpt-neox")]
    places = ["prompt", "open[-1]", "step.*[-1]", "cue[-1]"]
    first, *others = (lb.hooks.record(model, runs, sites, places) for model in models)
    for other in others:
        for site in sites:
            scale = max(1.0, float(first.values[site].abs().max()))  # these random weights make activations of about 10
            torch.testing.assert_close(other.values[site], first.values[site], atol=1e-5 * scale, rtol=0)
        assert other.rows.equals(first.rows)
    assert len({model.fingerprint for model in models}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_adds_up(kind: str, tiny: Callable[[str], Any], ragged: Any) -> None:
    model = tiny(kind)
    problems = ragged.problems(6)
    runs = lb.hooks.replay(model, problems, {p.key: p.cot for p in problems}, max_answer_tokens=1)
    acts = lb.hooks.record(model, runs, ["resid_pre", "attn_out", "mlp_out", "resid_post"], ["prompt", "cue"])
    total = acts.values["resid_pre"] + acts.values["attn_out"] + acts.values["mlp_out"]
    torch.testing.assert_close(total, acts.values["resid_post"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "transformer_lens", "nnsight"])
def test_the_users_object_is_not_changed(
    backend: str, random_module: Callable[..., Any], word_tokenizer: Any, tmp_path: Path
) -> None:
    module = random_module("llama", word_tokenizer)
    module.save_pretrained(tmp_path / "before")
    before, weights = states(module), deepcopy(module.state_dict())
    model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT, backend=backend)
    task = lb.tasks.load("modular-sum")
    pairs = task.pairs(2, vary="operand.1")
    problems = [p for pair in pairs for p in (pair.recipient, pair.donor)]
    runs = lb.hooks.replay(model, problems, [p.cot for p in problems], max_answer_tokens=1)
    lb.hooks.record(model, runs, ["resid_mid"], ["cue[-1]"])
    lb.hooks.generate(model, problems, "answer-only", max_answer_tokens=2)
    lb.analyses.channels(model, pairs, cot=runs, target="step.2")
    assert states(module) == before
    for key, value in module.state_dict().items():
        assert torch.equal(value, weights[key])
    module.save_pretrained(tmp_path / "after")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()


def test_a_bridge_and_an_nnsight_model_are_used_as_they_are(organism: Callable[[str], Any]) -> None:
    from nnsight import NNsight
    from transformer_lens.model_bridge import TransformerBridge

    model = organism("sft")
    inner = deepcopy(model.module)
    bridge = TransformerBridge.boot_transformers("sft", hf_model=inner, tokenizer=model.tokenizer, device="cpu")
    wrapped = NNsight(deepcopy(model.module))
    for given, name in ((bridge, "transformer_lens"), (wrapped, "nnsight")):
        loaded = lb.hooks.load(given, tokenizer=model.tokenizer, format=model.format)
        assert loaded.backend.name == name
        pairs = model.task.pairs(4, vary="operand.1")
        mine, theirs = (lb.analyses.channels(m, pairs, boundary=False) for m in (model, loaded))
        np.testing.assert_allclose(mine.log_p, theirs.log_p, atol=1e-4)
        patched, again = (lb.analyses.patch(m, pairs, mode="cot") for m in (model, loaded))
        np.testing.assert_allclose(patched.values, again.values, atol=1e-4)
        with pytest.raises(InputError, match="pass the Hugging Face model instead"):
            lb.hooks.load(given, tokenizer=model.tokenizer, backend="torch")


def test_a_folder_and_an_organism_are_the_same_model(organism: Callable[[str], Any], tmp_path: Path) -> None:
    model = organism("copy-sum")
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    model.card.save(tmp_path)
    loaded: Any = lb.hooks.load(tmp_path)
    assert loaded.fingerprint == model.fingerprint
    assert loaded.card == model.card
    assert loaded.task.spec == "copy:cot=independent,answer=sum"
    assert loaded.format == model.format


def test_unknown_names_and_folders(organism: Callable[[str], Any], tmp_path: Path) -> None:
    module, tokenizer = organism("sft").module, organism("sft").tokenizer
    with pytest.raises(UnknownNameError, match=r"unknown organism 'stf': expected one of .*; nearest: 'sft'"):
        lb.hooks.load("organism:stf")
    with pytest.raises(InputError, match=r"is no model folder: expected config.json, weights and tokenizer files"):
        lb.hooks.load(tmp_path)
    with pytest.raises(InputError, match=r"no folder at ./nowhere"):
        lb.hooks.load("./nowhere")
    with pytest.raises(UnknownNameError, match=r"unknown backend 'nsight': .*nearest: 'nnsight'"):
        lb.hooks.load(module, tokenizer=tokenizer, backend="nsight")
    with pytest.raises(InputError, match="LlamaForCausalLM brings no tokenizer: pass tokenizer="):
        lb.hooks.load(module)
    with pytest.raises(InputError, match=r"cannot load a int: expected a name, a folder"):
        lb.hooks.load(3)
    training = deepcopy(module).train()
    with pytest.raises(InputError, match=r"training mode .* call model.eval\(\) first"):
        lb.hooks.load(training, tokenizer=tokenizer)


def test_sites_that_a_model_lacks(tiny: Callable[[str], Any]) -> None:
    with pytest.raises(
        InputError, match="has no resid_mid: attention and MLP are added to the residual stream at once"
    ):
        tiny("gpt-neox").sites.check(Site("resid_mid", 0))
    with pytest.raises(InputError, match="layer 9: this model has layers 0 to 2"):
        tiny("llama").sites.check(Site("resid_post", 9))
