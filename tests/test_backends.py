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
from loadbearing.hooks.backends.base import WRITABLE, Edit
from loadbearing.hooks.interior import Interior
from loadbearing.hooks.sites import RESIDUAL_SITES, Site
from loadbearing.hooks.sweep import Cell, Sweep
from loadbearing.hooks.trace import trace
from loadbearing.hooks.writes import Write
from loadbearing.organisms.specs import FORMAT

BACKENDS = ("torch", "transformer_lens", "nnsight")
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


def batch(seed: int, rows: int = 3, length: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and the mask of a batch whose second row is shorter."""
    ids = torch.randint(5, 20, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, length - 2 :] = False
    return ids, mask


def values_at(model: Any, ids: torch.Tensor, mask: torch.Tensor, site: Site, rows: torch.Tensor) -> torch.Tensor:
    """What stands at a site, heads too."""
    if site.name == "z":
        found: torch.Tensor = model.backend.read_heads(ids, mask, [site.layer], rows)[site]
    else:
        found = model.backend.read(ids, mask, [site], rows)[site]
    return found


@pytest.mark.parametrize("kind", [*KINDS, "gemma3"])
def test_three_backends_write_the_same(kind: str, random_module: Callable[..., Any], word_tokenizer: Any) -> None:
    """Every site and layer alone, and many at once; what is written of a donor moves the logits and is what counts."""
    module = random_module(kind, word_tokenizer, attn_implementation="eager")
    models = [lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT, backend=backend) for backend in BACKENDS]
    (ids, mask), (donors, _) = batch(0), batch(1)
    at = torch.tensor([(0, 2), (0, 5), (1, 4), (2, 8)])
    ends = torch.tensor([(0, 8), (1, 6), (2, 8), (0, 6)])
    plain = models[0].backend.write(ids, mask, [], ends)
    many = []
    for name in WRITABLE:
        if name == "resid_mid" and kind == "gpt-neox":
            continue
        for layer in range(3):
            edit = Edit(Site(name, layer), at, values_at(models[0], donors, mask, Site(name, layer), at))
            first, *others = (model.backend.write(ids, mask, [edit], ends) for model in models)
            for other in others:
                torch.testing.assert_close(other, first, atol=1e-5, rtol=0)
            assert (first - plain).abs().max() > 0.01
            own = Edit(Site(name, layer), at, values_at(models[0], ids, mask, Site(name, layer), at))
            torch.testing.assert_close(models[0].backend.write(ids, mask, [own], ends), plain, atol=1e-5, rtol=0)
            many.append(Edit(edit.site, at[layer : layer + 1], edit.values[layer : layer + 1]))
    heads = models[0].backend.read_heads(donors, mask, [1], at)[Site("z", 1)]
    for edits in (many, many[::-1], [Edit(Site("z", 1), at, heads[:, 1:], heads=(1,))]):
        first, *others = (model.backend.write(ids, mask, edits, ends) for model in models)
        for other in others:
            torch.testing.assert_close(other, first, atol=1e-5, rtol=0)
        assert (first - plain).abs().max() > 0.01
    theirs = [model.backend.read_heads(donors, mask, [1], at)[Site("z", 1)] for model in models[1:]]
    for other in theirs:
        torch.testing.assert_close(other, heads, atol=1e-5 * max(1.0, float(heads.abs().max())), rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_whole_input_of_a_block_written_is_the_donors_run(
    backend: str, random_module: Callable[..., Any], word_tokenizer: Any
) -> None:
    module = random_module("qwen3", word_tokenizer, attn_implementation="eager")
    model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT, backend=backend)
    (ids, mask), (donors, _) = batch(0), batch(1)
    every, ends = mask.nonzero(), torch.tensor([(0, 8), (1, 6), (2, 0)])
    wanted = model.backend.write(donors, mask, [], ends)
    for row, place in ends.tolist():  # each row of a padded batch is what it is alone
        alone = module(input_ids=donors[row : row + 1, : place + 1]).logits[0, -1]
        torch.testing.assert_close(wanted[ends[:, 0] == row][0], alone, atol=1e-5, rtol=0)
    for site in (Site("resid_pre", 0), Site("resid_mid", 1), Site("resid_post", 2)):
        edit = Edit(site, every, values_at(model, donors, mask, site, every))
        torch.testing.assert_close(model.backend.write(ids, mask, [edit], ends), wanted, atol=1e-5, rtol=0)
        assert (model.backend.write(ids, mask, [], ends) - wanted).abs().max() > 0.1


def swept(model: Any, ids: torch.Tensor, donors: torch.Tensor, sites: list[str]) -> torch.Tensor:
    """Logits at the end of exact sweeps over sites, layers and positions, `[site, layer, position, row, vocab]`."""
    interior = Interior.of(model.module, model.sites)
    kept = [Site(name, layer) for name in ("attn_out", "mlp_out") for layer in range(model.n_layers)]
    base, donor = (trace(model, interior, given, sites=kept) for given in (ids, donors))
    shape = (len(sites), model.n_layers, ids.shape[1])
    cells = []
    for which, layer, place in np.ndindex(shape):
        values = donor.get(sites[which], layer)[:, [place]]
        cells.append(Cell((Write(sites[which], layer, (place,), values.__getitem__),), torch.arange(len(ids))))
    found = Sweep(model, interior, base).logits(cells)[:, :, 0]
    return found.view(*shape, *found.shape[1:])


@pytest.mark.parametrize("kind", ["llama", "gemma3", "olmo2", "gpt2", "gpt-neox"])
@torch.no_grad()
def test_sweeps_are_the_same_in_three_backends_and_are_what_they_write(
    kind: str, random_module: Callable[..., Any], word_tokenizer: Any
) -> None:
    """Two engines: a packed sweep computes what may differ, a write runs the whole model."""
    module = random_module(kind, word_tokenizer, attn_implementation="eager")
    models = [lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT, backend=backend) for backend in BACKENDS]
    (ids, mask), (donors, _) = batch(0), batch(1)
    mask = torch.ones_like(mask)
    sites = [name for name in WRITABLE if not (name == "resid_mid" and kind == "gpt-neox")]
    first, *others = (swept(model, ids, donors, sites) for model in models)
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-5, rtol=0)
    ends = torch.tensor([(row, ids.shape[1] - 1) for row in range(len(ids))])
    for which, name in enumerate(sites):
        for layer, place in ((0, 0), (1, 4), (2, 8)):
            at = torch.tensor([(row, place) for row in range(len(ids))])
            edit = Edit(Site(name, layer), at, values_at(models[0], donors, mask, Site(name, layer), at))
            for model in models:
                written = model.backend.write(ids, mask, [edit], ends)
                torch.testing.assert_close(written, first[which, layer, place], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_bridge_is_opened_with_its_cut_and_refused_where_it_computes_something_else(
    organism: Callable[[str], Any],
) -> None:
    model = organism("sft")
    module = deepcopy(model.module)
    module.set_attn_implementation("eager")
    models = [
        lb.hooks.load(module, tokenizer=model.tokenizer, format=model.format, backend=backend).cut(
            queries="cue", keys="cot"
        )
        for backend in BACKENDS[:2]
    ]
    runs = lb.hooks.generate(model, model.task.problems(4))
    assert len({len(run.ids) for run in runs}) == 1
    ids, donors = (torch.tensor([run.ids for run in runs[half]]) for half in (slice(0, 2), slice(2, 4)))
    mine, theirs = (swept(m, ids, donors, ["resid_pre", "z"]) for m in models)
    torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=0)
    assert (swept(model, ids, donors, ["resid_pre", "z"]) - mine).abs().max() > 0.1  # the cut is felt

    bridge = lb.hooks.load(module, tokenizer=model.tokenizer, format=model.format, backend="transformer_lens")
    inner: Any = bridge.backend
    Interior.of(bridge.module, bridge.sites)
    inner.bridge.add_hook("blocks.0.hook_mlp_out", lambda value, hook: 2 * value)
    with pytest.raises(InputError, match=r"does not compute what the model inside it does .* pass the Hugging Face"):
        Interior.of(bridge.module, bridge.sites)


@pytest.mark.parametrize(("kind", "exact"), [("llama", True), ("gpt2", False)])
@torch.no_grad()
def test_a_bridge_of_processed_weights_is_swept_as_it_is_or_refused(
    kind: str, exact: bool, random_module: Callable[..., Any], word_tokenizer: Any
) -> None:
    """Folded weights stay in the model inside, but for queries, keys and values that the bridge has split."""
    module = random_module(kind, word_tokenizer, attn_implementation="eager")
    model: Any = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT, backend="transformer_lens")
    (ids, mask), (donors, _) = batch(0), batch(1)
    model.backend.bridge.enable_compatibility_mode()
    assert (model.module(input_ids=ids).logits - module(input_ids=ids).logits).abs().max() > 0.1
    if not exact:
        with pytest.raises(InputError, match=r"does not compute what the model inside it does \(its weights were"):
            Interior.of(model.module, model.sites)
        return
    mask = torch.ones_like(mask)
    at, ends = (torch.tensor([(row, place) for row in range(len(ids))]) for place in (4, 8))
    edit = Edit(Site("resid_pre", 1), at, values_at(model, donors, mask, Site("resid_pre", 1), at))
    written = model.backend.write(ids, mask, [edit], ends)
    torch.testing.assert_close(swept(model, ids, donors, ["resid_pre"])[0, 1, 4], written, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error_in_the_middle(
    backend: str, error: type[BaseException], random_module: Callable[..., Any], word_tokenizer: Any
) -> None:
    module = random_module("llama", word_tokenizer, attn_implementation="eager")
    model: Any = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT, backend=backend)
    ids, mask = batch(0)
    at, ends = torch.tensor([(0, 2), (1, 3)]), torch.tensor([(0, 8), (1, 6), (2, 8)])
    edits = [Edit(Site(name, layer), at, torch.ones(2, 32)) for name in RESIDUAL_SITES for layer in range(3)]
    edits.append(Edit(Site("z", 1), at, torch.ones(2, 2, 16)))
    calls: tuple[Callable[[], Any], ...] = (
        lambda: model.backend.write(ids, mask, edits, ends),
        lambda: model.backend.read(ids, mask, [Site("resid_post", 2), Site("attn_out", 0)], ends),
        lambda: model.backend.read_heads(ids, mask, [0, 2], ends),
    )
    wanted = [call() for call in calls]  # a bridge puts some hooks of its own at its first pass

    def hooks() -> dict[str, tuple[int, ...]]:
        whole = model.backend.bridge if backend == "transformer_lens" else model.module
        return {
            path: tuple(len(vars(part)[name]) for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"))
            for path, part in whole.named_modules()
        }

    before = hooks()

    def fail(*_: Any) -> None:
        raise error("in the middle")

    inside = [part for path, part in model.module.named_modules() if path.endswith(("mlp", "mlp._original_component"))]
    for call in calls:
        handle = inside[len(inside) // 2].register_forward_pre_hook(fail)
        with pytest.raises(error, match="in the middle"):
            call()
        handle.remove()
        assert hooks() == before
    for call, found in zip(calls, wanted, strict=True):
        torch.testing.assert_close(call(), found, atol=0, rtol=0)


def test_edits_that_make_no_sense(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    ids, mask = batch(0)
    at = torch.tensor([(0, 1), (2, 8)])

    def write(*edits: Edit, of: Any = model) -> None:
        of.backend.write(ids, mask, edits, at)

    with pytest.raises(UnknownNameError, match=r"unknown site to write 'neurons': expected one of resid_pre, .*, z"):
        write(Edit(Site("neurons", 0), at, torch.ones(2, 32)))
    with pytest.raises(InputError, match="layer 3: this model has layers 0 to 2"):
        write(Edit(Site("z", 3), at, torch.ones(2, 2, 16)))
    with pytest.raises(InputError, match="has no resid_mid"):
        write(Edit(Site("resid_mid", 0), at, torch.ones(2, 32)), of=tiny("gpt-neox"))
    with pytest.raises(InputError, match=r"attn_out: expected values of shape \(2, 32\), got \(2, 16\)"):
        write(Edit(Site("attn_out", 0), at, torch.ones(2, 16)))
    with pytest.raises(InputError, match=r"z: expected values of shape \(2, 1\), got \(2, 2\) \(d_head left out\)"):
        write(Edit(Site("z", 0), at, torch.ones(2, 2, 16), heads=(1,)))
    with pytest.raises(InputError, match=r"heads=\[2\]: this model has heads 0 to 1"):
        write(Edit(Site("z", 0), at, torch.ones(2, 1, 16), heads=(2,)))
    with pytest.raises(InputError, match=r"heads=\[0\] of mlp_out: only z has heads"):
        write(Edit(Site("mlp_out", 0), at, torch.ones(2, 32), heads=(0,)))
    with pytest.raises(InputError, match=r"mlp_out: rows outside of the batch, which has \(3, 9\) tokens"):
        write(Edit(Site("mlp_out", 0), at + 1, torch.ones(2, 32)))


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
    ids, mask = batch(0)
    model.backend.write(ids, mask, [Edit(Site("resid_mid", 1), ids[:1, :2] * 0, torch.ones(1, 32))], ids[:, :2] * 0)
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
