"""Knock-outs: exact where they are resumed, right per run, and right about models whose wires are known."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh

import loadbearing as lb
from loadbearing import figures
from loadbearing.analyses.knockout import knockout
from loadbearing.analyses.knockout_table import KnockOutEffect
from loadbearing.core import InputError, Manifest
from loadbearing.figures.knockout import knockout as figure
from loadbearing.hooks.edits import KnockOut, edited
from loadbearing.hooks.splice import plain_logits
from loadbearing.organisms.specs import FORMAT

KINDS = ("llama", "qwen3", "gemma2", "gemma3", "mistral", "gpt2", "gpt-neox", "gpt-oss")
WITHOUT_SDPA = ("gemma2", "gpt-oss")
ATTENTIONS = [(kind, a) for kind in KINDS for a in ("eager", "sdpa") if a == "eager" or kind not in WITHOUT_SDPA]
every_model = pytest.mark.parametrize(("kind", "attention"), ATTENTIONS)
WAYS = ("renormalise", "zero")
# Both ways on every architecture: where there are two implementations, one way with each.
every_way = pytest.mark.parametrize(
    ("kind", "attention", "how"),
    [(kind, a, "zero" if a == "sdpa" else "renormalise") for kind, a in ATTENTIONS]
    + [(kind, "eager", "zero") for kind in WITHOUT_SDPA],
)


@pytest.fixture(scope="module")
def runs_of(random_module: Callable[..., Any], word_tokenizer: Any, ragged: Any) -> Callable[..., Any]:
    """Six runs of unequal length of a random model, the last steps of each its own span."""
    known: dict[Any, Any] = {}

    def get(kind: str, attention: str = "eager") -> Any:
        if (kind, attention) not in known:
            module = random_module(kind, word_tokenizer, attn_implementation=attention)
            model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
            runs = lb.hooks.replay_gold(model, ragged.problems(6), max_answer_tokens=3)
            known[kind, attention] = [run for run in runs if "answer" in run.spans]
            assert len({len(run.ids) for run in known[kind, attention]}) >= 4
            assert len({len(run.tokens("answer")) for run in known[kind, attention]} - {1}) >= 1
            known[kind, attention] = (model, known[kind, attention])
        return known[kind, attention]

    return get


def scores(model: Any, run: Any) -> tuple[float, torch.Tensor]:
    """Log p of the run's own answer, and the log-probabilities where it starts, from one whole pass."""
    start, stop = run.spans["answer"]
    log_p = plain_logits(model, run.ids).log_softmax(-1)
    return sum(float(log_p[at - 1, run.ids[at]]) for at in range(start, stop)), log_p[start - 1]


@every_way
def test_every_cell_of_ragged_runs_is_a_whole_pass_with_an_attention_edited_by_hand(
    kind: str, attention: str, how: str, runs_of: Callable[..., Any]
) -> None:
    model, runs = runs_of(kind, attention)
    plain = [scores(model, run) for run in runs]
    options: dict[str, Any] = {"how": how, "controls": 0}
    found = {
        "all": knockout(model, runs, "later", "operand.1", layers=[0, 2], heads=[1], **options),
        "layer": knockout(model, runs, "later", "operand.1", each="layer", window=2, **options),
        "head": knockout(model, runs, "later", "operand.1", each="head", layers=[1, 2], **options),
    }
    np.testing.assert_allclose(found["all"].plain, [p for p, _ in plain], atol=1e-5)
    cells: list[Any] = [("all", 0, 0, (0, 2), (1,)), *(("layer", i, 0, (i, i + 1), None) for i in (0, 1))]
    cells += [("head", i, j, (i + 1,), (j,)) for i in (0, 1) for j in (0, 1)]
    for name, i, j, layers, heads in cells:
        with by_hand(model, layers, heads, how) as other:
            for r, run in enumerate(runs):
                log_p, first = scores(other, run)
                assert found[name].log_p[i, j, r] == pytest.approx(log_p, abs=1e-5)
                kl = float((plain[r][1].exp() * (plain[r][1] - first)).sum())
                assert found[name].kl[i, j, r] == pytest.approx(kl, abs=1e-5)
    assert (np.abs(found["all"].log_p - found["all"].plain) > 1e-3).any()


@contextmanager
def by_hand(model: Any, layers: Any, heads: Any, how: str) -> Iterator[Any]:
    """The whole model where nobody later reads the token after `<bos>`, by an edit of its eager attention."""
    own = sys.modules[type(model.module).__module__].eager_attention_forward
    name = type(model.module).__module__
    config = model.module.config

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
        if module.layer_idx not in layers:
            return own(module, query, key, value, mask, *args, **kwargs)
        chosen = list(range(query.shape[1])) if heads is None else list(heads)
        length = query.shape[2]
        blocked = torch.zeros(1, query.shape[1], length, length, dtype=torch.bool)
        blocked[:, chosen, 2:, 1] = True
        if how == "renormalise":
            return own(
                module, query, key, value, mask.masked_fill(blocked, torch.finfo(mask.dtype).min), *args, **kwargs
            )
        _, pattern = own(module, query, key, value, mask, *args, **kwargs)
        left = pattern.masked_fill(blocked, 0)
        groups = query.shape[1] // value.shape[1]
        return (left @ value.repeat_interleave(groups, dim=1)).transpose(1, 2).contiguous(), left

    before = config._attn_implementation
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[name], "eager_attention_forward", attention)
        model.module.set_attn_implementation("eager")
        try:
            yield model
        finally:
            model.module.set_attn_implementation(before)


@every_model
def test_a_span_that_nobody_reads_may_be_anything(kind: str, attention: str, runs_of: Callable[..., Any]) -> None:
    model, runs = runs_of(kind, attention)
    other = []
    for run in runs:
        start, stop = run.spans["cot"]
        other.append(replace(run, ids=(*run.ids[:start], *[9] * (stop - start), *run.ids[stop:])))
    for queries, same in (("later", True), ("cue", False)):
        one, two = (knockout(model, each, queries, "cot", controls=2) for each in (runs, other))
        assert np.allclose(one.log_p, two.log_p, atol=1e-5) == same
        assert not np.allclose(one.plain, two.plain, atol=1e-3)


@every_way
def test_a_batch_of_unequal_runs_is_one_by_one(
    kind: str, attention: str, how: str, runs_of: Callable[..., Any]
) -> None:
    model, runs = runs_of(kind, attention)
    options: dict[str, Any] = {"how": how, "each": "head", "controls": 0}
    together = knockout(model, runs, "cue+answer", "cot[0]+open", **options)
    for r in (0, len(runs) // 2, len(runs) - 1):
        alone = knockout(model, [runs[r]], "cue+answer", "cot[0]+open", **options)
        for name in ("log_p", "kl", "kept"):
            np.testing.assert_allclose(getattr(together, name)[..., r], getattr(alone, name)[..., 0], atol=1e-5)


@every_model
def test_it_is_the_cut_model_and_the_edited_one(kind: str, attention: str, runs_of: Callable[..., Any]) -> None:
    model, runs = runs_of(kind, attention)
    found = knockout(model, runs, "cue+answer", "prompt", controls=0)
    cut = model.cut("cue+answer", "prompt")
    np.testing.assert_allclose(found.log_p[0, 0], [scores(cut, run)[0] for run in runs], atol=1e-5)
    on_top = knockout(cut, runs, "cot", "open", heads=[0], controls=0)
    with edited(cut, [KnockOut("cot", "open", heads=[0])]) as other:
        np.testing.assert_allclose(on_top.log_p[0, 0], [scores(other, run)[0] for run in runs], atol=1e-5)
    np.testing.assert_allclose(on_top.plain, found.log_p[0, 0], atol=1e-5)


def test_batch_size_changes_nothing(runs_of: Callable[..., Any]) -> None:
    model, runs = runs_of("gemma3", "sdpa")
    one, other = (knockout(model, runs, "cue", "cot", each="head", batch_size=size) for size in (2, 256))
    for name in one.axes:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5)
    assert one.manifest.circumstance["gates"][0]["verdict"] == "pass"


def kept(model: Any, runs: Any, queries: str, keys: str, **options: Any) -> float:
    return float(knockout(model, runs, queries, keys, controls=0, **options).effect("kept")[0].item())


@pytest.mark.parametrize("how", WAYS)
def test_what_the_answer_is_read_from_in_trained_models(organism: Callable[[str], Any], how: str) -> None:
    sft = organism("sft")
    runs = lb.hooks.generate(sft, sft.task.problems(64))
    assert kept(sft, runs, "cue", "cot", how=how) < 0.3
    assert kept(sft, runs, "cue", "operand.*", how=how) == 1.0
    # Of the whole prompt, <bos> included: a cue that must read something else instead is lost, one that reads less not.
    assert kept(sft, runs, "cue", "prompt", how=how) == (0.0 if how == "renormalise" else 1.0)
    post_hoc = organism("post-hoc")
    rationalised = lb.hooks.generate(post_hoc, post_hoc.task.problems(64))
    assert kept(post_hoc, rationalised, "cue", "cot", how=how) > 0.9
    assert kept(post_hoc, rationalised, "cue", "operand.*", how=how) < 0.3
    direct = organism("direct")
    short = lb.hooks.generate(direct, direct.task.problems(64), "answer-only")
    assert kept(direct, short, "later", "operand.*", how=how) < 0.3


def test_the_wires_of_hand_set_models(organism: Callable[[str], Any]) -> None:
    """copy-tokens reads the chain of thought, copy-direct the prompt, copy-redundant both; copy-relay carries the value
    from the prompt to the chain of thought in layer 0, and from there to the cue in layer 1."""
    wires = {
        "copy-tokens": {("cue", "cot"): 1},
        "copy-direct": {("cue", "prompt"): 1},
        "copy-redundant": {},
        "copy-relay": {("cot", "prompt"): 0, ("cue", "cot"): 1},
    }
    for name, needed in wires.items():
        model = organism(name)
        runs = lb.hooks.replay_gold(model, model.task.problems(16))
        assert runs.accuracy == 1.0
        for edge in (("cue", "cot"), ("cue", "prompt"), ("cot", "prompt")):
            found = knockout(model, runs, *edge, each="layer", how="zero", controls=0).effect("kept")[0][:, 0]
            assert found.tolist() == [float(layer != needed.get(edge)) for layer in range(model.n_layers)], (name, edge)
            assert kept(model, runs, *edge, how="zero") == float(edge not in needed)
    # Renormalised, a head whose only key is gone reads something else: here the same value, where it stands as well.
    tokens = organism("copy-tokens")
    assert kept(tokens, lb.hooks.replay_gold(tokens, tokens.task.problems(16)), "cue", "cot") == 1.0


def test_controls_are_as_many_other_keys_that_the_queries_see(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    runs = lb.hooks.generate(model, model.task.problems(32))
    found = knockout(model, runs, "cue", "step.3", controls=4)
    assert found.controls == 4 and set(found.keys) == set(found.drawn) == {1}
    assert found.effect("kept")[0].item() < 0.3 < 0.9 < found.effect("kept", control=True)[0].item()
    again = knockout(model, runs, "cue", "step.3", controls=4)
    assert all(np.array_equal(getattr(found, name), getattr(again, name)) for name in found.axes)
    assert not np.array_equal(knockout(model, runs, "cue", "step.3", controls=4, seed=1).control_kl, found.control_kl)
    few = knockout(model, runs, "cue", "prompt", controls=1)  # four other positions: all of them are drawn
    assert set(few.keys) == {10} and set(few.drawn) == {4}
    rest = knockout(model, runs, "cue", "open+cot", controls=0)
    np.testing.assert_allclose(few.control_log_p[0], rest.log_p, atol=1e-5)
    none = knockout(model, runs, "prompt[1]", "prompt[0]", controls=2)
    assert np.isnan(none.control_kl).all() and set(none.drawn) == {0}
    assert none.frame()["control"].isna().all() and set(none.frame()["n_control"]) == {0}


def test_effects_are_means_over_problems() -> None:
    """Two runs of a problem count as one; the interval is that of the problems."""
    coords = {"layer": ("all",), "head": ("all",), "run": ("a", "a", "b", "c")}
    plain = np.array([-1.0, -1.0, -2.0, -3.0])
    change = np.array([-2.0, -4.0, -6.0, 0.0])
    values, kinds = np.array([1.0, 0.0, 1.0, 1.0])[None, None], np.zeros(4, int)
    drawn = {name: np.zeros((0, 1, 1, 4)) for name in ("control_log_p", "control_kl", "control_kept")}
    made = {"log_p": (plain + change)[None, None], "kl": values, "kept": values, "plain": plain}
    result = KnockOutEffect(coords=coords, manifest=Manifest(), keys=kinds, drawn=kinds, **made, **drawn)
    estimate, low, high = (part.item() for part in result.effect())
    assert estimate == pytest.approx(np.mean([-3, -6, 0])) and -6 <= low < estimate < high <= 0
    assert result.effect("kept")[0].item() == pytest.approx(np.mean([0.5, 1, 1]))
    assert set(result.frame()["n"]) == {3} and result.frame()["control"].isna().all()
    assert (result.each, result.controls) == ("all", 0)


def test_a_result_is_saved_and_its_work_is_counted(organism: Callable[[str], Any], tmp_path: Path) -> None:
    model = organism("sft")
    runs = lb.hooks.generate(model, model.task.problems(16))
    found = knockout(model, runs, "cue", "cot", each="head", controls=0)
    again = lb.load(found.save(tmp_path / "k.safetensors"))
    assert isinstance(again, KnockOutEffect) and (again.each, again.coords) == ("head", found.coords)
    assert again.frame().equals(found.frame())
    # One position of fifteen, in the layers from the knocked-out one on, beside the plain pass.
    heads, length = len(found.coords["head"]), runs[0].spans["cue"][1]
    shares = heads * sum(3 - layer for layer in range(3)) / 3 + 1
    assert found.manifest.circumstance["forwards"] == pytest.approx(16 * (1 + shares / length), abs=0.1)
    assert found.manifest.circumstance["replayed"] == 1.0
    assert (found.manifest.identity["queries"], found.manifest.identity["how"]) == ("cue", "renormalise")


def _hooks(module: Any) -> list[int]:
    return [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt-oss"])
def test_nothing_is_left_on_the_model(kind: str, runs_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, runs = runs_of(kind)
    before, hooks = plain_logits(model, runs[0].ids), _hooks(model.module)
    knockout(model, runs, "cue", "cot", each="head", how="zero")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("loadbearing.hooks.edges.attend_without", stop)
    with pytest.raises(KeyboardInterrupt):
        knockout(model, runs, "cue", "cot")
    assert torch.equal(plain_logits(model, runs[0].ids), before)
    assert _hooks(model.module) == hooks


def test_runs_that_cannot_be_knocked_out_are_counted(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    runs = list(lb.hooks.generate(model, model.task.problems(4)))
    spans = {name: span for name, span in runs[0].spans.items() if name != "answer"}
    mixed = [replace(runs[0], spans=spans, answer=None), *runs[1:]]
    found = knockout(model, mixed, "cue", "cot", controls=0)
    assert found.manifest.circumstance["dropped"] == {"no answer": 1} and len(found.plain) == 3


@pytest.mark.parametrize(
    ("queries", "keys", "options", "message"),
    [
        ("cuee", "cot", {}, "unknown position 'cuee': .*nearest: 'cue'"),
        ("cue", "step.9", {}, "unknown position 'step.9'"),
        ("cue", "cot[7]", {}, r"position 'cot\[7\]': the span has 3 tokens"),
        ("cue", "", {}, "position '': expected NAME"),
        (
            "prompt",
            "cot",
            {},
            "no run is left in which 'prompt' could be kept from reading 'cot': 4 with queries that all",
        ),
        ("cue", "cue", {}, "4 with queries that all stand before the keys, which nothing reads ahead"),
        ("answer", "cot", {}, "4 with no query that the answer could feel"),
        ("cue", "cot[3:]", {}, "4 with no such keys"),
        ("cue", "cot", {"layers": [3]}, r"layers=\[3\]: this model has layers 0 to 2"),
        ("cue", "cot", {"layers": []}, r"layers=\[\]: this model has layers 0 to 2"),
        ("cue", "cot", {"heads": [7]}, r"heads=\[7\]: this model has heads 0 to 3, each to be named once"),
        ("cue", "cot", {"heads": [0, 0]}, r"heads=\[0, 0\]: this model has heads 0 to 3, each to be named once"),
        ("cue", "cot", {"how": "mean"}, "unknown how 'mean': expected one of renormalise, zero"),
        ("cue", "cot", {"each": "position"}, "unknown each 'position': expected one of all, layer, head"),
        ("cue", "cot", {"window": 2}, "window=2 is for each=\"layer\", got each='all'"),
        ("cue", "cot", {"window": 4, "each": "layer"}, "window=4: expected 1 to 3, the number of layers"),
        ("cue", "cot", {"controls": -1}, "controls=-1: expected a number of draws, 0 for none"),
    ],
)
def test_bad_input(
    organism: Callable[[str], Any], queries: str, keys: str, options: dict[str, Any], message: str
) -> None:
    model = organism("sft")
    runs = lb.hooks.generate(model, model.task.problems(4))
    with pytest.raises(InputError, match=message):
        knockout(model, runs, queries, keys, **options)


def test_more_bad_input(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    with pytest.raises(InputError, match="no runs to measure"):
        knockout(model, [], "cue", "cot")
    runs = lb.hooks.generate(model, model.task.problems(4))
    with pytest.raises(InputError, match="unknown quantity 'logp'"):
        knockout(model, runs, "cue", "cot").effect("logp")
    found = {each: knockout(model, runs, "cue", "cot", each=each) for each in ("all", "layer")}
    with pytest.raises(InputError, match="expected results of one kind, got each='all' and 'layer': draw each kind"):
        figure(found)


def test_figures_show_the_numbers(organism: Callable[[str], Any], tmp_path: Path) -> None:
    model = organism("sft")
    runs = lb.hooks.generate(model, model.task.problems(16))
    found = {each: knockout(model, runs, "cue", "cot", each=each) for each in ("all", "layer", "head")}
    for quantity in ("log_p", "kl", "kept"):
        lines: Any = figure({"a": found["layer"], "b": found["layer"]}, quantity=quantity).get_lines()
        shown = next(line.get_ydata() for line in lines if line.get_label() == "b")
        np.testing.assert_allclose(shown, found["layer"].effect(quantity)[0][:, 0])
        ax = figure(found["head"], quantity=quantity)
        mesh: Any = next(part for part in ax.collections if isinstance(part, QuadMesh))
        np.testing.assert_allclose(mesh.get_array(), found["head"].effect(quantity)[0][::-1])
        points: Any = figure(found["all"], quantity=quantity).get_lines()
        assert found["all"].effect(quantity)[0].item() in [y for line in points for y in line.get_ydata()]
    _, ax = plt.subplots()
    assert figure(found["layer"], ax) is ax
    figures.save(figure(found["all"]), tmp_path / "k", formats=("png",))
