"""Patching: exact against TransformerLens and against a plain hook, on the same model."""

import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.analyses.patch_cells import check_site
from loadbearing.core import InputError, Interrupted
from loadbearing.hooks.checks import identity_error
from loadbearing.hooks.interior import Interior
from loadbearing.hooks.sites import Site
from loadbearing.hooks.sweep import Cell, Sweep, open_interior
from loadbearing.hooks.trace import trace
from loadbearing.hooks.writes import Write
from loadbearing.organisms.specs import FORMAT


def first_token_odds(logits: torch.Tensor, donor: int, recipient: int) -> torch.Tensor:
    return logits[0, -1, donor] - logits[0, -1, recipient]


@pytest.mark.parametrize(("name", "mode"), [("sft", "cot"), ("direct", "answer-only")])
def test_the_map_is_that_of_transformer_lens(name: str, mode: str) -> None:
    from transformer_lens import patching

    # Eager, as the bridge is: sdpa sums in another order.
    model: Any = lb.hooks.load(f"organism:{name}", attention="eager")
    bridge = lb.hooks.load(model.module, tokenizer=model.tokenizer, format=model.format, backend="transformer_lens")
    pairs = model.task.pairs(1)
    chosen: Any = mode
    found = lb.analyses.patch(model, pairs, mode=chosen)
    runs = lb.hooks.generate(model, [p for pair in pairs for p in (pair.recipient, pair.donor)], chosen).by_problem()
    assert len(found.variable) == len(pairs)
    for number, pair in enumerate(pairs):
        ids = [torch.tensor([runs[p.key].ids[: found.values.shape[1]]]) for p in (pair.recipient, pair.donor)]
        after = [runs[p.key].ids[found.values.shape[1]] for p in (pair.recipient, pair.donor)]
        inner: Any = bridge.backend
        _, cache = inner.bridge.run_with_cache(ids[1])
        theirs = patching.get_act_patch_resid_pre(
            inner.bridge, ids[0], cache, lambda logits, after=after: first_token_odds(logits, after[1], after[0])
        )
        np.testing.assert_allclose(found.values[..., number], theirs.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gemma3", "gpt2", "gpt-neox", "mistral", "olmo2"])
@torch.no_grad()
def test_a_sweep_is_what_a_hook_in_a_whole_pass_gives(kind: str, tiny: Callable[[str], Any]) -> None:
    model = tiny(kind)
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randint(5, 20, (2, 1, 10), generator=generator)
    every = torch.tensor([(0, t) for t in range(10)])
    mask = torch.ones(1, 10, dtype=torch.bool)
    interior = open_interior(model)
    sweep = Sweep(model, interior, trace(model, interior, one))
    for layer in range(model.n_layers):
        site = Site("resid_pre", layer)
        foreign = model.backend.read(other, mask, [site], every)[site]
        for position in (0, 4, 9):
            given = foreign[None, [position]]
            write = Write(site.name, layer, (position,), given.__getitem__)
            found = sweep.logits([Cell((write,), torch.zeros(1, dtype=torch.long))])[0]

            def replaced(_m: Any, args: Any, kwargs: Any, p: int = position, new: Any = foreign) -> Any:
                state = args[0].clone()
                state[0, p] = new[p]
                return (state, *args[1:]), kwargs

            handle = model.sites.blocks[layer].block.register_forward_pre_hook(replaced, with_kwargs=True)
            plain = model.module(input_ids=one, use_cache=False).logits[:, -1]
            handle.remove()
            torch.testing.assert_close(found[:, -1], plain.float(), atol=1e-5, rtol=0)


def test_a_forward_that_was_put_on_an_instance_is_not_resumed(
    random_module: Callable[..., Any], word_tokenizer: Any
) -> None:
    """A view of the block runs its class' forward: what is taken up there would be the run of another model."""
    module = random_module("llama", word_tokenizer)
    model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
    assert len(open_interior(model).blocks) == model.n_layers
    plain = module.model.layers[0].forward
    module.model.layers[0].forward = lambda hidden, *rest, **more: 0.5 * plain(hidden, *rest, **more)
    with pytest.raises(InputError, match="LlamaForCausalLM cannot be resumed midway: its logits are off by"):
        open_interior(model)
    assert identity_error(model, (1, 5, 6, 7), (5, 6)) < 1e-5  # in whole passes


def test_the_known_path_of_a_hand_set_model(organism: Callable[[str], Any]) -> None:
    """copy-relay: the value goes from its token to the CoT's state in layer 0, from there to the cue in layer 1."""
    model = organism("copy-relay")
    found = lb.analyses.patch(model, model.task.pairs(8), mode="cot", target="answer", cot="task")
    effect = found.effect()[0]
    names = found.coords["position"]
    assert effect[0, names.index("value")] == pytest.approx(1.0, abs=1e-3)
    assert effect[1, names.index("cot")] == pytest.approx(1.0, abs=1e-3)
    expected = np.zeros_like(effect)
    expected[0, names.index("value")] = expected[1, names.index("cot")] = 1.0
    np.testing.assert_allclose(effect, expected, atol=1e-3)


def test_every_position_of_the_last_layers_input_adds_up_to_nothing_before_the_pair_differs(
    organism: Callable[[str], Any],
) -> None:
    model = organism("direct")
    found = lb.analyses.patch(model, model.task.pairs(4, vary="operand.3"))
    first = found.coords["position"].index("operand.3")
    np.testing.assert_allclose(found.values[:, :first] - found.recipient, 0.0, atol=1e-4)
    assert abs(found.effect()[0][0, first]) > 0.5
    assert found.manifest.circumstance["gates"][0]["measured"] < 1e-5


def test_answers_of_two_tokens(random_module: Callable[..., Any], bpe_tokenizer: Any) -> None:
    module = random_module("qwen3", bpe_tokenizer, max_position_embeddings=256, seed=2)
    model = lb.hooks.load(module, tokenizer=bpe_tokenizer)
    task = lb.tasks.Questions()
    task.add("a", "What is 12 + 30?", "42", partner="b")
    task.add("b", "What is 12 + 42?", "54", partner="a")
    runs = lb.hooks.replay(model, task.problems(2), {"a": "so 42", "b": "so 30"}, max_answer_tokens=2)
    found = lb.analyses.patch(model, task.pairs(1), mode="cot", target="answer", cot=runs)
    by = runs.by_problem()
    recipient, donor = task.pairs(1)[0].recipient, task.pairs(1)[0].donor
    before = found.values.shape[1]
    prefix = by[recipient.key].ids[:before]
    odds = 0.0
    for sign, problem in ((1, donor), (-1, recipient)):
        answer = by[problem.key].tokens("answer")
        assert len(answer) == 2
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([[*prefix, answer[0]]])).logits[0].log_softmax(-1)
        odds += sign * float(logits[-2, answer[0]] + logits[-1, answer[1]])
    assert found.recipient[0] == pytest.approx(odds, abs=1e-4)
    # At the very first layer, patching every differing position would make the donor; one position moves it part way.
    assert np.abs(found.values - found.recipient).max() > 0.01


def test_the_models_object_is_what_it_was(organism: Callable[[str], Any]) -> None:
    model = organism("sft")

    def seen() -> list[tuple[int, int, int]]:
        # Compared, not expected to be empty: transformers leaves hooks of its own where hidden states were asked for.
        return [(id(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.module.modules()]

    before = seen()
    lb.analyses.patch(model, model.task.pairs(2, vary="operand.1"), mode="cot")
    assert seen() == before


def test_bad_input(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    pairs = model.task.pairs(2, vary="operand.1")
    with pytest.raises(InputError, match=r"target 'onse': expected 'onset', 'answer' or 'step.K'"):
        lb.analyses.patch(model, pairs, mode="cot", target="onse")
    with pytest.raises(InputError, match="no pairs to measure"):
        lb.analyses.patch(model, lb.tasks.Pairs((), model.task))


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_embeddings_of_the_whole_prompt_are_the_other_run(direction: str, organism: Callable[[str], Any]) -> None:
    """All that differs is in the prompt."""
    model = organism("both")
    found = lb.analyses.patch(model, model.task.pairs(8), positions=["prompt", "cue"], direction=direction)
    assert found.values.shape == (model.n_layers, 2, len(found.variable))
    np.testing.assert_allclose(found.values[0, 0], found.source, atol=1e-4)
    assert found.moved()[0, 0] == 1.0
    np.testing.assert_allclose(found.values[0, 1], found.base, atol=1e-4)


@pytest.mark.parametrize("site", ["resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "neurons"])
def test_in_the_last_layer_only_what_the_answer_reads_can_move_it(site: str, organism: Callable[[str], Any]) -> None:
    """The prompt gives its keys and values there from what comes in; so they can be patched, and these sites cannot."""
    model = organism("both")
    pairs = model.task.pairs(8)
    top: dict[str, Any] = {"positions": ["prompt", "cue"], "layers": [model.n_layers - 1], "units": "all"}
    found, values = (lb.analyses.patch(model, pairs, which, **top).values[0] for which in (site, "v"))
    plain = lb.analyses.patch(model, pairs, **top)
    np.testing.assert_allclose(found[0], plain.recipient, atol=1e-4)
    assert np.abs(found[1] - plain.recipient).max() > 0.1
    assert np.abs(values[0] - plain.recipient).max() > 0.1


def test_a_window_of_all_parts_of_all_layers_makes_the_other_run(organism: Callable[[str], Any]) -> None:
    """attn_out and mlp_out of all layers, and the embeddings, are all that there is: a window that holds them all."""
    model = organism("both")
    pairs = model.task.pairs(4)
    last = lb.analyses.patch(model, pairs, "resid_post", positions=["cue"], layers=[model.n_layers - 1])
    np.testing.assert_allclose(last.values[0, 0], last.donor, atol=1e-4)
    wide = lb.analyses.patch(model, pairs, "attn_out", positions=["cue"], window=model.n_layers)
    # From layer 0 on every attention at the cue is the donor's, and the cue's tokens are the same: it is the donor.
    np.testing.assert_allclose(wide.values[0, 0], wide.donor, atol=1e-4)
    assert np.abs(wide.values[-1, 0] - wide.donor).max() > 0.01


def test_all_heads_together_are_the_attention(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    pairs = model.task.pairs(3)
    together, whole = (lb.analyses.patch(model, pairs, site, mode="cot", units="all") for site in ("z", "attn_out"))
    np.testing.assert_allclose(together.values, whole.values, atol=1e-4)
    neurons, mlp = (lb.analyses.patch(model, pairs, site, mode="cot", units="all") for site in ("neurons", "mlp_out"))
    np.testing.assert_allclose(neurons.values, mlp.values, atol=1e-4)
    each = lb.analyses.patch(model, pairs, "z", mode="cot", layers=[1], positions=["step.2", "open"])
    assert each.coords["unit"] == tuple(range(each.values.shape[2]))
    some = lb.analyses.patch(model, pairs, "z", mode="cot", layers=[1], positions=["step.2", "open"], units=[1])
    np.testing.assert_array_equal(some.values[:, :, 0], each.values[:, :, 1])


def test_noising_is_denoising_of_the_pair_turned_round(organism: Callable[[str], Any]) -> None:
    model = organism("both")
    pairs = model.task.pairs(6, vary="operand.2")
    turned = lb.tasks.Pairs(tuple(replace(p, recipient=p.donor, donor=p.recipient) for p in pairs), pairs.task)
    one = lb.analyses.patch(model, pairs, direction="noising")
    other = lb.analyses.patch(model, turned, direction="denoising")
    np.testing.assert_allclose(one.values, -other.values, atol=1e-5)
    np.testing.assert_allclose(one.effect()[0], other.effect()[0], atol=1e-5)
    np.testing.assert_array_equal(one.moved(), other.moved())


def test_metrics_are_what_they_say(organism: Callable[[str], Any]) -> None:
    model = organism("both")
    pairs = model.task.pairs(5)

    def own(logits: torch.Tensor, answers: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        log_p = logits.log_softmax(-1)
        recipient, donor = (log_p.gather(1, answer[:, :1])[:, 0] for answer in answers)
        return donor - recipient

    odds, difference, log_p, kl, mine = (
        lb.analyses.patch(model, pairs, metric=metric)
        for metric in ("log-odds", "logit-difference", "log-probability", "kl", own)
    )
    np.testing.assert_allclose(odds.values, difference.values, atol=1e-4)
    np.testing.assert_allclose(odds.values, mine.values, atol=1e-4)
    assert (log_p.values <= 0).all()
    assert kl.values.min() > -1e-5
    np.testing.assert_allclose(kl.recipient, 0.0, atol=1e-6)
    # A cell that moves nothing has no divergence; one that makes the donor's run has the donor's.
    first = np.abs(odds.values - odds.recipient) < 1e-9
    np.testing.assert_allclose(kl.values[first], 0.0, atol=1e-6)
    assert kl.donor.min() > 0.5
    for found in (odds, kl):  # outcomes do not depend on the metric
        np.testing.assert_array_equal(found.outcome, log_p.outcome)
    assert mine.manifest.identity["metric"] == "own"


def test_user_metrics_are_checked(organism: Callable[[str], Any]) -> None:
    model = organism("both")
    pairs = model.task.pairs(2)
    with pytest.raises(InputError, match=r"metric 'mean': expected one figure a row, shape \(\d+,\), got float"):
        lb.analyses.patch(model, pairs, metric=named("mean", lambda logits, _: float(logits.mean())))
    with pytest.raises(
        InputError, match=r"metric 'whole': expected one figure a row, shape \(\d+,\), got \(\d+, \d+\)"
    ):
        lb.analyses.patch(model, pairs, metric=named("whole", lambda logits, _: logits))
    with pytest.raises(InputError, match=r"metric 'odd' gave nan for \d+ of \d+ rows: expected finite figures"):
        lb.analyses.patch(model, pairs, metric=named("odd", lambda logits, _: logits[:, 0] * torch.nan))
    with pytest.raises(InputError, match=r"unknown metric 'logodds'.*nearest: 'log-odds'"):
        lb.analyses.patch(model, pairs, metric="logodds")


def named(name: str, function: Any) -> Any:
    function.__name__ = name
    return function


def test_named_places_compare_runs_of_unequal_length(bpe_tokenizer: Any, random_module: Callable[..., Any]) -> None:
    module = random_module("qwen3", bpe_tokenizer, max_position_embeddings=256, seed=2)
    model = lb.hooks.load(module, tokenizer=bpe_tokenizer)
    task = lb.tasks.Questions()
    task.add("a", "What is 12 + 30?", "42", partner="b")
    task.add("b", "What is 12 + 42?", "54", partner="a")
    runs = lb.hooks.replay(model, task.problems(2), {"a": "so 42 so 42", "b": "so 30"}, max_answer_tokens=2)
    options: Any = {"mode": "cot", "target": "answer", "cot": runs}
    with pytest.raises(InputError, match=r"no pair is left to patch.*unequal length: name positions to compare them"):
        lb.analyses.patch(model, task.pairs(1), **options)
    found = lb.analyses.patch(model, task.pairs(1), positions=["prompt[-1]", "cue[-1]"], **options)
    assert found.coords["position"] == ("prompt[-1]", "cue[-1]")
    top = found.values[-1, 1]
    last = lb.analyses.patch(model, task.pairs(1), "resid_post", positions=["cue"], **options)
    assert np.abs(top - found.recipient).min() > 0.01
    assert last.values.shape == (model.n_layers, 1, 1)
    with pytest.raises(InputError, match="cot has unequal token counts in the two runs"):
        lb.analyses.patch(model, task.pairs(1), positions=["cot"], **options)
    with pytest.raises(InputError, match=r"site 'q' belongs to its position: expected the same positions in both runs"):
        lb.analyses.patch(model, task.pairs(1), "q", positions=["cue[-1]"], **options)
    with pytest.raises(InputError, match=r"position 'answer' of problem .* name places before the target"):
        lb.analyses.patch(model, task.pairs(1), positions=["answer"], **options)
    with pytest.raises(InputError, match=r"unknown position 'step.7'"):
        lb.analyses.patch(model, task.pairs(1), positions=["step.7"], **options)


def test_places_before_a_pair_differs_cost_nothing(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    early, late = (lb.analyses.patch(model, model.task.pairs(8, vary=f"operand.{k}")) for k in (1, 4))
    first = late.coords["position"].index("operand.4")
    np.testing.assert_array_equal(late.values[:, :first], np.broadcast_to(late.recipient, late.values[:, :first].shape))
    assert late.manifest.circumstance["forwards"] < 0.6 * early.manifest.circumstance["forwards"]


@pytest.mark.parametrize("memory", ["300kB", "1MB", "1GB"])
def test_less_memory_gives_the_same_map(
    memory: str, organism: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = organism("sft")
    pairs = model.task.pairs(6)
    sizes = []
    module = sys.modules["loadbearing.analyses.measured"]
    traced = module.trace

    def watched(*arguments: Any, **options: Any) -> Any:
        sizes.append(len(arguments[2]))
        return traced(*arguments, **options)

    monkeypatch.setattr(module, "trace", watched)
    found = lb.analyses.patch(model, pairs, mode="cot", memory=memory)
    assert max(sizes) == {"300kB": 1, "1MB": 3, "1GB": 24}[memory]  # pairs whose runs are kept at once
    monkeypatch.undo()
    np.testing.assert_allclose(found.values, lb.analyses.patch(model, pairs, mode="cot").values, atol=1e-5)


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException) -> None:
    """Let the sweep fail at every chunk from the `after`-th on."""
    from loadbearing.hooks import packed

    real, calls = packed.Packed.run, []

    def run(self: Any, entries: Any) -> Any:
        calls.append(len(entries))
        if len(calls) > after:
            raise error
        return real(self, entries)

    monkeypatch.setattr(packed.Packed, "run", run)


def test_where_memory_runs_out_chunks_are_halved(
    organism: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from loadbearing.hooks import packed

    model = organism("sft")
    pairs = model.task.pairs(4)
    whole = lb.analyses.patch(model, pairs, mode="cot")
    real, sizes = packed.Packed.run, []

    def run(self: Any, entries: Any) -> Any:
        sizes.append(sum(len(entry.runs) for entry in entries))
        if sizes[-1] > 50:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried")
        return real(self, entries)

    monkeypatch.setattr(packed.Packed, "run", run)
    found = lb.analyses.patch(model, pairs, mode="cot")
    assert max(sizes) > 50 >= min(sizes)
    np.testing.assert_allclose(found.values, whole.values, atol=1e-5)


def test_a_sweep_without_memory_goes_on_where_it_stopped(
    organism: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = organism("sft")
    pairs = model.task.pairs(2, vary="operand.1")
    whole = lb.analyses.patch(model, pairs, mode="cot")
    options: Any = {"mode": "cot", "memory": "20kB"}
    with monkeypatch.context() as patched:
        interrupted(patched, 5, MemoryError("no room"))
        with pytest.raises(Interrupted, match=r"memory ran out after \d+ of \d+ patched runs \(no room\)") as caught:
            lb.analyses.patch(model, pairs, **options)
    kept: Any = caught.value.partial
    done = np.isfinite(kept.values)
    assert 0 < done.sum() < done.size
    np.testing.assert_allclose(kept.values[done], whole.values[done], atol=1e-5)
    again = lb.analyses.patch(model, pairs, resume=kept, **options)
    np.testing.assert_allclose(again.values, whole.values, atol=1e-5)
    np.testing.assert_array_equal(again.outcome, whole.outcome)
    assert again.manifest.circumstance["forwards"] < whole.manifest.circumstance["forwards"]

    path = tmp_path / "sweep.safetensors"
    with monkeypatch.context() as patched:
        interrupted(patched, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            lb.analyses.patch(model, pairs, resume=path, **options)
    assert path.is_file()
    with pytest.raises(InputError, match=r"is of another sweep \(site differ\)"):
        lb.analyses.patch(model, pairs, "attn_out", resume=path, **options)
    with pytest.raises(InputError, match=r"is of another sweep \(pairs"):
        lb.analyses.patch(model, model.task.pairs(2, seed=1, vary="operand.1"), resume=path, **options)
    resumed = lb.analyses.patch(model, pairs, resume=path, **options)
    np.testing.assert_allclose(resumed.values, whole.values, atol=1e-5)
    assert not path.exists()  # nothing is left to go on from
    with pytest.raises(InputError, match="expected an interrupted sweep"):
        lb.analyses.patch(model, pairs, resume=whole, **options)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")])
def test_an_interrupted_sweep_leaves_the_model_as_it_was(
    error: BaseException, organism: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = organism("sft")
    pairs = model.task.pairs(2, vary="operand.1")

    def seen() -> list[tuple[int, int, int]]:
        return [(id(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.module.modules()]

    before, plain = seen(), lb.analyses.patch(model, pairs, mode="cot").recipient
    for after in (1, 2):  # the first chunk is the trial, whose errors mean the plain way
        with monkeypatch.context() as patched:
            interrupted(patched, after, error)
            with pytest.raises(type(error)):
                lb.analyses.patch(model, pairs, "mlp_out", mode="cot", memory="20kB")
    assert seen() == before
    np.testing.assert_array_equal(lb.analyses.patch(model, pairs, mode="cot").recipient, plain)


def test_bad_cells(organism: Callable[[str], Any], tiny: Callable[[str], Any]) -> None:
    model = organism("sft")
    pairs = model.task.pairs(2, vary="operand.1")
    for arguments, told in (
        ({"site": "resid_pst"}, "unknown site 'resid_pst'.*nearest: 'resid_post'"),
        ({"layers": [5]}, r"layers=\[5\]: this model has layers 0 to 2"),
        ({"site": "q", "window": 2}, "window=2 for site 'q': expected 1 or more layers, and 1 for q, k, v and pattern"),
        ({"site": "z", "units": [9]}, r"units=\[9\]: site 'z' has units 0 to \d+ in every layer"),
        ({"site": "z", "units": "alone"}, "unknown units 'alone'"),
        ({"direction": "noise"}, "unknown direction 'noise'.*nearest: 'noising'"),
        ({"memory": "2 gigs"}, "memory='2 gigs': expected a number of bytes, or a text such as '512MB' or '2GB'"),
        ({"resume": "kept.txt"}, "resume='kept.txt': expected the name of a .safetensors file"),
        ({"site": "pattern"}, "site 'pattern': sdpa attention makes no pattern; load the model with attention='eager'"),
    ):
        with pytest.raises(InputError, match=told):
            lb.analyses.patch(model, pairs, mode="cot", **arguments)
    parallel = tiny("gpt-neox")
    interior = Interior.of(parallel.module, parallel.sites)
    with pytest.raises(InputError, match="this model has no resid_mid: attention and MLP are added"):
        check_site(parallel, interior, "resid_mid", [0])
    experts = tiny("gpt-oss")
    with pytest.raises(InputError, match="has no neurons that are known here: patch mlp_out instead"):
        check_site(experts, Interior.of(experts.module, experts.sites), "neurons", [0])


def test_the_map_saves_loads_and_tells(organism: Callable[[str], Any], tmp_path: Path) -> None:
    model = organism("direct")
    found = lb.analyses.patch(model, model.task.pairs(4), "z", positions=["operand.1", "cue[-1]"])
    again = lb.load(found.save(tmp_path / "map.safetensors"))
    assert type(again) is type(found)
    np.testing.assert_array_equal(again.values, found.values)
    assert again.table() == found.table()
    frame = found.frame()
    assert list(frame)[:4] == ["layer", "position", "unit", "effect"]
    np.testing.assert_allclose(frame[["recipient's", "donor's", "other"]].sum(axis=1), 1.0)
    assert "z into the recipient's answer-only run, log-odds" in found.table()


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"])
@pytest.mark.parametrize("window", [2, 3])
def test_windows_are_those_of_whole_passes(
    site: str, window: int, organism: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = organism("direct")
    pairs = model.task.pairs(6, vary="operand.2")
    resumed = lb.analyses.patch(model, pairs, site, window=window)

    def refuse(_: Any) -> Any:
        raise InputError("asked for whole passes")

    monkeypatch.setattr(sys.modules["loadbearing.analyses.patch"], "open_interior", refuse)
    whole = lb.analyses.patch(model, pairs, site, window=window)
    assert "in whole passes: asked for whole passes" in whole.summary()
    np.testing.assert_allclose(resumed.values, whole.values, atol=5e-5)
    np.testing.assert_array_equal(resumed.outcome, whole.outcome)
    assert np.abs(whole.effect()[0]).max() > 0.3


def test_the_order_of_a_slice_does_not_matter(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    pairs = model.task.pairs(4)
    for site in ("resid_pre", "v"):
        one, turned = (
            lb.analyses.patch(model, pairs, site, positions=[name], units="all") for name in ("prompt", "prompt[::-1]")
        )
        np.testing.assert_array_equal(one.values, turned.values)
        assert one.effect()[0].max() > 0.5


def test_answers_that_begin_one_another_are_left_out_and_counted() -> None:
    from loadbearing.analyses.aligned import begins

    assert begins((70, 255), (70,)) and begins((70,), (70, 255)) and not begins((70, 1), (70, 2))


def test_resuming_knows_weights_and_functions(
    organism: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = organism("sft")
    model = lb.hooks.load(deepcopy(given.module), tokenizer=given.tokenizer, format=given.format)
    pairs = given.task.pairs(2, vary="operand.1")
    options: Any = {"mode": "cot", "memory": "20kB", "resume": tmp_path / "kept.safetensors"}
    with pytest.raises(InputError, match="what a function measures cannot be told from another's: use a named metric"):
        lb.analyses.patch(model, pairs, metric=lambda logits, _: logits[:, 0], **options)
    with monkeypatch.context() as patched:
        interrupted(patched, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            lb.analyses.patch(model, pairs, **options)
    with torch.no_grad():
        next(model.module.parameters()).mul_(1.1)
    with pytest.raises(InputError, match=r"is of another sweep \(weights differ\)"):
        lb.analyses.patch(model, pairs, **options)


def test_scaled_residual_streams_are_refused(random_module: Callable[..., Any], word_tokenizer: Any) -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    config = GraniteConfig(
        vocab_size=len(word_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, residual_multiplier=0.5,
    )  # fmt: skip
    model = lb.hooks.load(GraniteForCausalLM(config).eval(), tokenizer=word_tokenizer)
    with pytest.raises(
        InputError, match=r"adds 0\.5 times what attention and MLP put out, so resid_mid is not read here"
    ):
        model.sites.check(Site("resid_mid", 0))
    assert model.sites.check(Site("resid_post", 0))
