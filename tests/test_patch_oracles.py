"""Sweeps against TransformerLens' patching, on the same weights, at every site and architecture that it has."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import patching

import loadbearing as lb
from loadbearing.analyses.patch_cells import Writer, unit_count
from loadbearing.hooks.interior import Interior
from loadbearing.hooks.sites import Site
from loadbearing.hooks.sweep import Cell, Sweep
from loadbearing.hooks.trace import trace
from loadbearing.organisms.specs import FORMAT

KINDS = ("llama", "qwen3", "gemma3", "gpt2", "gpt-neox")
WHOLE = ("resid_pre", "resid_mid", "attn_out", "mlp_out")
HEADS = {"z": "out", "q": "q", "k": "k", "v": "v", "pattern": "pattern"}
LENGTH, RUNS = 9, 2


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """TransformerLens' bar cannot be turned off."""
    monkeypatch.setattr(patching, "tqdm", lambda cells, **_: cells)


@pytest.fixture(scope="module")
def both(random_module: Callable[..., Any], word_tokenizer: Any) -> Callable[[str], Any]:
    """A tiny model of an architecture, its bridge, and two batches of runs."""
    known: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in known:
            module = random_module(kind, word_tokenizer, attn_implementation="eager")
            with torch.no_grad():
                for weight in module.parameters():
                    weight.mul_(0.5 if weight.ndim > 1 else 1.0)  # logits of a few nats
            model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
            bridge: Any = lb.hooks.load(
                module, tokenizer=word_tokenizer, format=FORMAT, backend="transformer_lens"
            ).backend
            ids = torch.randint(5, 20, (2, RUNS, LENGTH), generator=torch.Generator().manual_seed(0))
            known[kind] = (model, bridge.bridge, ids[0], ids[1])
        return known[kind]

    return get


def odds(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 7] - logits[:, -1, 8]


@torch.no_grad()
def our_map(model: Any, site: str, base_ids: Any, source_ids: Any, each: bool) -> np.ndarray:
    """Mean log-odds `[layer, position]`, with units as a last axis."""
    interior = Interior.of(model.module, model.sites)
    layers = range(model.n_layers)
    base = trace(model, interior, base_ids)
    source = trace(model, interior, source_ids, sites=[Site(site, layer) for layer in layers])
    writer = Writer(site, base, source)
    units: Any = range(unit_count(site, model, interior)) if each else [None]
    runs = torch.arange(len(base_ids))
    cells = [Cell((writer.write(at, (p,), (p,), u),), runs) for at in layers for p in range(LENGTH) for u in units]
    logits = Sweep(model, interior, base, memory=1 << 18).logits(cells)  # several chunks
    shape = (len(layers), LENGTH, *((len(units),) if each else ()))
    return np.asarray(odds(logits.flatten(0, 1)).view(len(cells), -1).mean(dim=1).view(shape).numpy())


def their_map(bridge: Any, name: str, base_ids: Any, source_ids: Any) -> np.ndarray:
    with torch.no_grad():
        _, cache = bridge.run_with_cache(source_ids)
        found = getattr(patching, f"get_act_patch_{name}")(bridge, base_ids, cache, lambda logits: odds(logits).mean())
    return np.asarray(found.numpy())


@pytest.mark.parametrize("site", WHOLE)
@pytest.mark.parametrize("kind", KINDS)
def test_residual_sites_are_those_of_transformer_lens(kind: str, site: str, both: Callable[[str], Any]) -> None:
    if kind == "gpt-neox" and site == "resid_mid":
        pytest.skip("a parallel block has no resid_mid, here or there: test_bad_input of test_patch refuses it")
    model, bridge, base, source = both(kind)
    ours, theirs = our_map(model, site, base, source, False), their_map(bridge, site, base, source)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.ptp(theirs) > 0.1


@pytest.mark.parametrize("site", HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_those_of_transformer_lens(kind: str, site: str, both: Callable[[str], Any]) -> None:
    model, bridge, base, source = both(kind)
    ours = our_map(model, site, base, source, True)
    theirs = their_map(bridge, f"attn_head_{HEADS[site]}_by_pos", base, source)
    theirs = theirs.swapaxes(1, 2) if site == "pattern" else theirs  # [layer, head, position]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.ptp(theirs) > 1e-2
