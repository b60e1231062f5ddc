"""Models that run elsewhere: what is read and written there is what it is here, and what cannot be there says so."""

import io
import linecache
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.core import InputError
from loadbearing.hooks.backends.base import Edit
from loadbearing.hooks.sites import RESIDUAL_SITES, Site
from loadbearing.hooks.support import check_here
from loadbearing.organisms.specs import FORMAT

KINDS = ("llama", "gpt2", "gemma3", "gpt-neox")


def server_for(served: Any) -> Any:
    """A backend for traces that does what a server does: it knows no module of ours, has weights of its own, runs the
    block that was sent on the values that were sent, and gives back what was saved, as bytes."""
    from nnsight.intervention.backends.local import LocalSimulationBackend
    from nnsight.ndif import pull_env
    from nnsight.schema.request import RequestModel
    from nnsight.tracing.tracer import _saves, save
    from nnsight.tracing.util import push

    class Server(LocalSimulationBackend):
        requests = 0
        returned = 0

        def __call__(self, tracer: Any) -> None:
            self.requests += 1
            pull_env()
            blob = RequestModel.serialize(tracer, compress=False)
            filename = tracer.info.frame.f_code.co_filename
            line = linecache.cache.get(filename)
            hidden = self._hide_local_modules()
            try:
                sent = RequestModel.deserialize(blob, self.model._remoteable_persistent_objects(), compress=False)
            finally:
                self._restore(hidden)
                linecache.cache.pop(filename, None)
                if line is not None:
                    linecache.cache[filename] = line
            sent.execute(sent.info.code)
            saved = {name: value for name, value in sent.info.frame.f_locals.items() if id(value) in _saves()}
            stream = io.BytesIO()
            torch.save(saved, stream)
            self.returned = stream.tell()
            stream.seek(0)
            result = torch.load(stream, weights_only=False, map_location="cpu")
            for value in result.values():
                save(value)
            push(tracer.info.frame, result)

    return Server(served)


def wrap(module: Any, tokenizer: Any) -> Any:
    from nnsight import TransformersModel

    return TransformersModel(deepcopy(module), tokenizer=deepcopy(tokenizer))


def problems_of_unequal_length() -> list[Any]:
    return [*lb.tasks.load("modular-sum").problems(3), *lb.tasks.load("modular-sum:terms=2").problems(2)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["local", "server"])
def test_recorded_and_patched_elsewhere_it_is_the_same(
    kind: str, where: str, random_module: Callable[..., Any], word_tokenizer: Any
) -> None:
    module = random_module(kind, word_tokenizer)
    here = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
    wrapped = wrap(module, word_tokenizer)
    there: Any = lb.hooks.load(wrapped, format=FORMAT, remote="local")
    server = server_for(wrapped)
    if where == "server":
        there.backend.how = {"backend": server}
    assert there.fingerprint == here.fingerprint

    # The documented path: runs made with the weights here, recorded there.
    problems = problems_of_unequal_length()
    runs = lb.hooks.replay(here, problems, [p.cot for p in problems], max_answer_tokens=1)
    sites = [name for name in RESIDUAL_SITES if not (name == "resid_mid" and kind == "gpt-neox")]
    mine, theirs = (lb.hooks.record(m, runs, sites, ["prompt", "step.*[-1]", "cue[-1]"]) for m in (here, there))
    assert theirs.rows.equals(mine.rows)
    for site in sites:
        scale = max(1.0, float(mine.values[site].abs().max()))
        torch.testing.assert_close(theirs.values[site], mine.values[site], atol=1e-5 * scale, rtol=0)

    ids, mask = lb.hooks.decoding.pad([run.ids for run in runs], here)
    ends = torch.stack([torch.arange(len(ids)), mask.sum(1) - 1], dim=1)
    at = torch.tensor([(row, place) for row in range(len(ids)) for place in (2, 4)])
    generator = torch.Generator().manual_seed(0)
    plain = here.backend.write(ids, mask, [], ends)
    heads, again = (m.backend.read_heads(ids, mask, [1], at)[Site("z", 1)] for m in (here, there))
    torch.testing.assert_close(again, heads, atol=1e-5 * max(1.0, float(heads.abs().max())), rtol=0)
    for name in [*sites, "z"]:
        values = torch.randn(heads.shape if name == "z" else (len(at), 32), generator=generator)
        edits = [Edit(Site(name, layer), at, values) for layer in (0, 1)]
        patched = here.backend.write(ids, mask, edits, ends)
        torch.testing.assert_close(there.backend.write(ids, mask, edits, ends), patched, atol=1e-5, rtol=0)
        assert (patched - plain).abs().max() > 0.1
    assert (server.requests > 0) == (where == "server")


def test_what_comes_back_is_what_was_asked_for(random_module: Callable[..., Any], word_tokenizer: Any) -> None:
    module = random_module("llama", word_tokenizer)
    wrapped = wrap(module, word_tokenizer)
    there: Any = lb.hooks.load(wrapped, format=FORMAT, remote="local")
    there.backend.how = {"backend": (server := server_for(wrapped))}
    ids = torch.randint(5, 20, (8, 40), generator=torch.Generator().manual_seed(0))
    one = torch.tensor([(0, 3)])
    there.backend.read(ids, ids > 0, [Site("resid_post", 2)], one)
    assert server.returned < 4 * 32 + 2500  # one row, and the frame of the file
    there.backend.write(ids, ids > 0, [], one)
    assert server.returned < 4 * len(word_tokenizer) + 2500 < 4 * ids.numel() * 32


def test_the_double_refuses_what_a_server_would(random_module: Callable[..., Any], word_tokenizer: Any) -> None:
    """The positive twin: a block that reads a name of our package, or brings nothing back by saving it, fails."""
    wrapped = wrap(random_module("llama", word_tokenizer), word_tokenizer)
    server = server_for(wrapped)
    ids = torch.arange(5, 10)[None]
    site = Site("resid_post", 0)
    with (
        pytest.raises(ModuleNotFoundError, match="loadbearing"),
        wrapped.trace(input_ids=ids, use_cache=False, backend=server),
    ):
        layer = site.layer
        out = wrapped.model.layers[layer].output.save()  # noqa: F841
    kept: list[Any] = []
    with wrapped.trace(input_ids=ids, use_cache=False, backend=server):
        kept.append(wrapped.model.layers[0].output)
    assert not kept


def test_weights_that_are_not_here(random_module: Callable[..., Any], word_tokenizer: Any, tmp_path: Path) -> None:
    """nnsight's usual client has the shapes only; the server has the weights."""
    from nnsight import TransformersModel

    module = random_module("llama", word_tokenizer)
    module.save_pretrained(tmp_path)
    client = TransformersModel(str(tmp_path), task="text-generation", tokenizer=deepcopy(word_tokenizer))
    with pytest.raises(InputError, match=r"weights of this TransformersModel are not loaded: call its dispatch\(\)"):
        lb.hooks.load(client, tokenizer=word_tokenizer)
    here = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
    there: Any = lb.hooks.load(client, tokenizer=word_tokenizer, format=FORMAT, remote=True)
    assert there.device == torch.device("cpu") and next(there.module.parameters()).is_meta
    assert there.fingerprint == f"remote {tmp_path}@main" and there.n_layers == 3
    assert there.with_format(cue=" answer :").device == torch.device("cpu")
    assert there.backend.how == {"remote": True}
    there.backend.how = {"backend": (server := server_for(wrap(module, word_tokenizer)))}

    problems = problems_of_unequal_length()
    runs = lb.hooks.replay(here, problems, [p.cot for p in problems], max_answer_tokens=1)
    mine, theirs = (lb.hooks.record(m, runs, ["resid_mid"], ["prompt", "cue[-1]"]) for m in (here, there))
    torch.testing.assert_close(theirs.values["resid_mid"], mine.values["resid_mid"], atol=1e-5, rtol=0)
    ids, mask = lb.hooks.decoding.pad([run.ids for run in runs], there)
    rows = torch.tensor([(0, 5), (1, 6)])
    edits = [Edit(Site("resid_pre", 1), rows - torch.tensor([0, 2]), torch.ones(2, 32))]
    patched = there.backend.write(ids, mask, edits, rows)
    torch.testing.assert_close(patched, here.backend.write(ids, mask, edits, rows), atol=1e-5, rtol=0)
    assert server.requests == 2


@pytest.fixture(scope="module")
def elsewhere(organism: Callable[[str], Any]) -> Any:
    """The organism `sft` as a model that runs elsewhere."""
    model = organism("sft")
    return lb.hooks.load(wrap(model.module, model.tokenizer), format=model.format, remote="local")


def test_what_needs_the_weights_here_says_so(elsewhere: Any, organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    pairs = model.task.pairs(2, vary="operand.1")
    problems = model.task.problems(2)
    advice = r"record, and patched runs one by one \(`backend.write`\), work there.*load its weights here"
    for call, name in (
        (lambda: lb.hooks.generate(elsewhere, problems), "generate"),
        (lambda: lb.hooks.replay_gold(elsewhere, problems), "replay"),
        (lambda: lb.analyses.channels(elsewhere, pairs), "channels"),
        (lambda: lb.analyses.ledger(elsewhere, problems), "ledger"),
        (lambda: check_here(elsewhere, "commitment"), "commitment"),
        (lambda: elsewhere.module(torch.ones(1, 3).long()), "LlamaForCausalLM"),
        (lambda: elsewhere.module.generate(torch.ones(1, 3).long(), max_new_tokens=2), "LlamaForCausalLM"),
    ):
        with pytest.raises(InputError, match=rf"(?s){name}.*cannot be run.*{advice}"):
            call()
    check_here(model, "commitment")
    runs = lb.hooks.generate(model, problems)
    cut = elsewhere.cut(queries="cue", keys="cot")
    with pytest.raises(InputError, match=r"LlamaForCausalLM cannot be run here"):
        lb.hooks.record(cut, runs, ["resid_post"], ["cue[-1]"])
    assert np.isfinite(lb.hooks.record(elsewhere, runs).values["resid_post"].numpy()).all()


def test_only_what_nnsight_can_serve_is_taken(organism: Callable[[str], Any]) -> None:
    from nnsight import NNsight

    model = organism("sft")
    for given, name in ((model.module, "LlamaForCausalLM"), (NNsight(deepcopy(model.module)), "NNsight"), ("x", "str")):
        with pytest.raises(InputError, match=rf"a {name} cannot be: pass nnsight.TransformersModel\(name\)"):
            lb.hooks.load(given, tokenizer=model.tokenizer, remote=True)
    wrapped = wrap(model.module, model.tokenizer)
    with pytest.raises(InputError, match=r"a TransformersModel with backend='torch' cannot be"):
        lb.hooks.load(wrapped, remote=True, backend="torch")
    with pytest.raises(InputError, match=r"unknown remote 'lokal': expected one of local"):
        lb.hooks.load(wrapped, remote="lokal")


@pytest.mark.parametrize("site", ["resid_pre", "z"])
def test_a_patching_map_of_a_model_elsewhere(site: str, elsewhere: Any, organism: Callable[[str], Any]) -> None:
    """Runs are made by the same weights here; every cell is a whole pass there."""
    here = organism("sft")
    pairs = here.task.pairs(1, vary="operand.4")
    runs = lb.hooks.generate(here, [p for pair in pairs for p in (pair.recipient, pair.donor)])
    options: Any = {"mode": "cot", "cot": runs, "positions": ["operand.4", "step.2"]}
    theirs, ours = (lb.analyses.patch(model, pairs, site, **options) for model in (elsewhere, here))
    np.testing.assert_allclose(theirs.values, ours.values, atol=1e-5)
    np.testing.assert_array_equal(theirs.outcome, ours.outcome)
    assert "in whole passes: its weights are not run here" in theirs.summary()
    with pytest.raises(InputError, match="site 'q' needs a model that can be resumed midway, and this one"):
        lb.analyses.patch(elsewhere, pairs, "q", **options)
    with pytest.raises(InputError, match="its weights are not run here"):
        lb.analyses.patch(elsewhere, pairs, method="gradient", **options)
