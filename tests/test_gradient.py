"""Patching by gradients: exact where a model is linear, against TransformerLens, and honest about how far it is off."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import loadbearing as lb
from loadbearing.analyses.patch_guess import agreement, draw
from loadbearing.core import InputError


def questions(*rows: tuple[str, str, str]) -> Any:
    """Pairs of questions: a digit, what follows it, a chain of thought that ends with the answer."""
    task = lb.tasks.Questions()
    for number, (first, rest, cot) in enumerate(rows):
        text = [lb.tasks.Piece(first, "operand.1"), lb.tasks.Piece(rest)]
        task.add(f"q{number}", text, cot.split()[-1], cot=cot, partner=f"q{number ^ 1}")
    return task.pairs(len(rows) // 2)


@pytest.fixture(scope="module")
def text() -> Any:
    """Two pairs that differ in a digit, with chains of thought of equal length."""
    rows = [("4", " 6 3"), ("7", " 9 1"), ("1", " 3 5"), ("8", " 0 2")]
    return questions(*[(first, " + 2 mod 10", cot) for first, cot in rows])


def replayed(model: Any, pairs: Any) -> Any:
    problems = [p for pair in pairs for p in (pair.recipient, pair.donor)]
    return lb.hooks.replay(model, problems, {p.key: p.cot for p in problems}, max_answer_tokens=1)


def mapped(model: Any, pairs: Any, site: str, **how: Any) -> Any:
    """A map of all pairs at the answer, whatever a random model says there."""
    runs = replayed(model, pairs)
    return lb.analyses.patch(model, pairs, site, mode="cot", target="answer", cot=runs, **how)


def effects(found: Any) -> Any:
    return (found.values - found.base).mean(-1)


def eager(module: Any, tokenizer: Any) -> Any:
    from loadbearing.organisms.specs import FORMAT

    module.set_attn_implementation("eager")
    return lb.hooks.load(module, tokenizer=tokenizer, format=FORMAT)


def without_final_norm(random_module: Any, tokenizer: Any, kind: str) -> Any:
    module = random_module(kind, tokenizer, seed=3)
    inner, name = (module.gpt_neox, "final_layer_norm") if kind == "gpt-neox" else (module.model, "norm")
    setattr(inner, name, torch.nn.Identity().eval())
    return eager(module, tokenizer)


@pytest.mark.parametrize(
    ("kind", "site"),
    [("llama", "resid_post"), ("llama", "mlp_out"), ("llama", "neurons")]
    + [("gpt-neox", site) for site in ("attn_out", "z", "v", "pattern", "resid_post")],
)
def test_where_logits_are_linear_in_the_site_it_is_exact(
    kind: str, site: str, random_module: Any, word_tokenizer: Any, text: Any
) -> None:
    """The last layer without a norm after it: nothing but the unembedding follows (beside the MLP, in parallel)."""
    model = without_final_norm(random_module, word_tokenizer, kind)
    for direction in ("denoising", "noising"):
        how: dict[str, Any] = {"layers": [2], "metric": "logit-difference", "direction": direction}
        exact = mapped(model, text, site, **how)
        guess = mapped(model, text, site, **how, method="gradient", sample=0)
        assert np.abs(exact.values - exact.base).max() > 0.1
        np.testing.assert_allclose(guess.values, exact.values, atol=2e-5)
        assert not guess.exact.all()


def close(module: Any, pairs: Any, tokenizer: Any, size: float) -> Any:
    """A model for which the words of two runs are `size` apart where they differ, and which tells them apart still."""
    words = tokenizer.convert_tokens_to_ids(list("4673910"))
    weight = module.model.embed_tokens.weight.data
    weight[words] = weight[5] + size * weight[words] / weight[words].std()
    model = eager(module, tokenizer)
    runs = replayed(model, pairs).by_problem()
    ids = [list(runs[p.key].ids[: runs[p.key].spans["answer"][0]]) for p in (pairs[0].recipient, pairs[0].donor)]
    with torch.no_grad():
        one, other = module.model(input_ids=torch.tensor(ids)).last_hidden_state[:, -1].double()
    mean, apart = one + other, one - other
    apart = apart - (apart @ mean) / (mean @ mean) * mean
    head = module.lm_head.weight.data.zero_()
    head[7], head[9] = apart / apart.norm(), -apart / apart.norm()
    return model


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern"])
def test_the_error_is_of_second_order(site: str, random_module: Any, word_tokenizer: Any) -> None:
    """With words half as far apart, what the gradient misses is a quarter, and what it finds a half."""
    pairs = questions(("4", " + 2 mod 10", " 6 3"), ("7", " + 2 mod 10", " 9 1"))
    wrong, right = [], []
    for size in (0.005, 0.0025):
        model = close(random_module("qwen3", word_tokenizer, seed=1), pairs, word_tokenizer, size)
        how: dict[str, Any] = {"layers": [0, 1], "metric": difference, "units": "all"}
        exact, guess = mapped(model, pairs, site, **how), mapped(model, pairs, site, **how, method="gradient", sample=0)
        wrong.append(np.abs(guess.values - exact.values).max())
        right.append(np.abs(exact.values - exact.base).max())
    assert wrong[0] > 1e-5
    assert wrong[0] / wrong[1] == pytest.approx(4.0, rel=0.1)
    assert right[0] / right[1] == pytest.approx(2.0, rel=0.1)


def difference(logits: torch.Tensor, _: Any) -> torch.Tensor:
    return logits[:, 7] - logits[:, 9]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "gpt-neox"])
def test_node_scores_are_those_of_transformer_lens(
    kind: str, random_module: Any, word_tokenizer: Any, text: Any
) -> None:
    from transformer_lens.tools.analysis import Node, attribution_patch

    from loadbearing.hooks.backends.transformer_lens import TransformerLensBackend

    kinds: dict[str, Any] = {"z": "attn_head_out", "mlp_out": "mlp_out"}
    model = eager(random_module(kind, word_tokenizer), word_tokenizer)
    guesses = {site: mapped(model, text, site, metric=difference, method="gradient", sample=0) for site in kinds}
    by = replayed(model, text).by_problem()
    bridge = TransformerLensBackend.around(random_module(kind, word_tokenizer), word_tokenizer).bridge
    size = guesses["z"].values.shape[1]
    assert np.abs(effects(guesses["z"])).max() > 0.01
    told = [p for p in text if "answer" in by[p.recipient.key].spans and "answer" in by[p.donor.key].spans]
    told = [p for p in told if by[p.recipient.key].tokens("answer") != by[p.donor.key].tokens("answer")]
    assert len(told) == guesses["z"].values.shape[-1]
    for number, pair in enumerate(told):
        base, source = (torch.tensor([by[p.key].ids[:size]]) for p in (pair.recipient, pair.donor))
        scores = attribution_patch(bridge, source, base, lambda logits: logits[0, -1, 7] - logits[0, -1, 9]).node_scores
        for site, guess in guesses.items():
            change = (guess.values - guess.base)[..., number]
            for layer, position, *unit in np.ndindex(change.shape):
                node = Node(kinds[site], position, layer, *unit)
                assert change[(layer, position, *unit)] == pytest.approx(scores[node], abs=1e-4), node


@pytest.mark.parametrize("name", ["sft", "direct"])
def test_integrated_gradients_of_the_embeddings_are_the_whole_change(name: str, organism: Any) -> None:
    """Completeness (Sundararajan et al. 2017): they add up to what the source's run says, and the span is their sum."""
    model = organism(name)
    mode: Any = "cot" if name == "sft" else "answer-only"
    pairs = model.task.pairs(4)
    how: dict[str, Any] = {"mode": mode, "layers": [0], "method": "gradient", "sample": 0}
    many = lb.analyses.patch(model, pairs, "resid_pre", steps=64, **how)
    one = lb.analyses.patch(model, pairs, "resid_pre", steps=1, **how)
    whole = many.source - many.base
    off = np.abs((many.values - many.base).sum((0, 1)) - whole) / np.abs(whole)
    assert off.mean() < 1e-2
    assert np.abs((one.values - one.base).sum((0, 1)) - whole).mean() / np.abs(whole).mean() > 0.1
    spans = ["prompt", "cot"] if mode == "cot" else ["prompt"]
    if mode == "answer-only":
        named = lb.analyses.patch(model, pairs, "resid_pre", steps=64, positions=spans, **how)
        assert (np.abs((named.values - named.base).sum((0, 1)) - whole) / np.abs(whole)).mean() < 1e-2


@pytest.mark.parametrize(("method", "site"), [("gradient", "resid_pre"), ("auto", "z"), ("auto", "mlp_out")])
def test_the_cells_that_are_run_are_exact_and_the_check_is_as_by_hand(method: str, site: str, organism: Any) -> None:
    model = organism("both")
    pairs = model.task.pairs(6)
    exact = lb.analyses.patch(model, pairs, site, mode="cot")
    options: dict[str, Any] = {"method": method, "sample": 8}
    if method == "auto":
        options["refine"] = 5
    found = lb.analyses.patch(model, pairs, site, mode="cot", **options)
    np.testing.assert_allclose(found.values[found.exact], exact.values[found.exact], atol=1e-5)
    np.testing.assert_array_equal(found.outcome[found.exact], exact.outcome[found.exact])
    assert np.isnan(found.moved()[~found.exact]).all() and np.isfinite(found.moved()[found.exact]).all()
    facts = found.manifest.circumstance["approximation"]

    plain = lb.analyses.patch(model, pairs, site, mode="cot", method="gradient", sample=0)
    idle = plain.exact  # nothing can change there, so that nothing is run
    np.testing.assert_allclose(exact.values[idle] - np.broadcast_to(exact.base, exact.values.shape)[idle], 0, atol=1e-5)
    whole = (exact.source - exact.base).mean()
    measured, guessed = effects(exact) / whole, effects(plain) / whole
    live = np.flatnonzero(~idle.ravel())
    if method == "auto":
        largest = live[np.argsort(-np.abs(guessed.ravel()[live]), kind="stable")[:5]]
        assert found.exact.ravel()[largest].all()
    keys: Any = [tuple(at) if len(at) == 3 else (*at, None) for at in np.ndindex(*measured.shape)]
    sampled = draw(keys, live, 8)
    assert found.exact.ravel()[sampled].all() and (~found.exact).sum() > 0
    one, other = measured.ravel()[sampled], guessed.ravel()[sampled]
    assert facts["sampled"] == 8
    assert facts["spearman"] == pytest.approx(spearmanr(one, other).statistic, abs=0.05)
    assert facts["slope"] == pytest.approx((one @ other) / (one @ one), abs=1e-3)
    run = [*sampled, *largest] if method == "auto" else sampled
    assert facts["miss"] == pytest.approx(np.abs(measured - guessed).ravel()[run].max(), abs=1e-4)
    at: Any = facts["cell"]["layer"], found.coords["position"].index(facts["cell"]["position"])
    at += (facts["cell"]["unit"],) if "unit" in facts["cell"] else ()
    assert abs(measured[at] - guessed[at]) == pytest.approx(facts["miss"], abs=1e-4)
    assert f"rank correlation {facts['spearman']:.2f}" in found.summary()
    assert f"largest miss seen {facts['miss']:.2f} of the whole effect" in found.table()


def test_refining_everything_is_the_exact_map(organism: Any) -> None:
    model = organism("direct")
    pairs = model.task.pairs(3)
    exact = lb.analyses.patch(model, pairs, "attn_out")
    found = lb.analyses.patch(model, pairs, "attn_out", method="auto", refine=10_000, sample=4)
    assert found.exact.all()
    np.testing.assert_allclose(found.values, exact.values, atol=1e-6)
    np.testing.assert_array_equal(found.outcome, exact.outcome)
    assert found.manifest.circumstance["approximation"]["sampled"] == 4


def test_a_sample_takes_every_layer_alike() -> None:
    keys = [(layer, at, None) for layer in range(4) for at in range(50)]
    found = draw(keys, np.arange(20, 200), 12)
    assert sorted(keys[number][0] for number in found) == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert len(set(found.tolist())) == 12 and min(found) >= 20
    assert len(draw(keys, np.arange(5), 12)) == 5 and len(draw(keys, np.arange(0), 12)) == 0


def test_roundings_are_not_ranked() -> None:
    """Two maps of one large cell and zeros agree, whatever the last digits of the zeros are."""
    found = np.array([1.0, 1e-9, -1e-9, 0.0])
    assert agreement(found, np.array([0.5, -1e-9, 1e-9, 1e-10]))["spearman"] == 1.0
    assert (agreement(found, np.array([0.5, 0.1, -0.1, 0.0]))["spearman"] or 0) < 1.0
    assert agreement(np.zeros(4), np.zeros(4)) == {"spearman": None, "slope": None, "miss": 0.0}


def test_windows_add_their_layers(organism: Any) -> None:
    model = organism("sft")
    how: dict[str, Any] = {"mode": "cot", "method": "gradient", "sample": 0}
    pairs = model.task.pairs(3)
    one, two = (lb.analyses.patch(model, pairs, "attn_out", window=window, **how) for window in (1, 2))
    change, wide = one.values - one.base, two.values - two.base
    np.testing.assert_allclose(wide[:-1], change[:-1] + change[1:], atol=1e-4)
    np.testing.assert_allclose(wide[-1], change[-1], atol=1e-4)


def test_memory_changes_no_figure(organism: Any) -> None:
    model = organism("sft")
    pairs = model.task.pairs(5)
    how: dict[str, Any] = {"mode": "cot", "method": "gradient", "sample": 4}
    much = lb.analyses.patch(model, pairs, "v", **how)
    little = lb.analyses.patch(model, pairs, "v", memory=1, **how)
    np.testing.assert_allclose(little.values, much.values, atol=1e-4)


def test_rows_read_again_after_memory_ran_out_count_once(organism: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from loadbearing.hooks.sweep import Sweep

    model = organism("sft")
    pairs = model.task.pairs(4)
    whole = lb.analyses.patch(model, pairs, mode="cot")
    chunk = Sweep._chunk
    out: list[int] = []

    def scarce(self: Any, entries: Any, read: Any) -> None:
        chunk(self, entries, read)
        rows = sum(len(entry.runs) for entry in entries)
        if rows > 1 and not out:
            out.append(rows)
            raise MemoryError

    monkeypatch.setattr(Sweep, "_chunk", scarce)
    found = lb.analyses.patch(model, pairs, mode="cot")
    assert out  # what was read is read again
    np.testing.assert_allclose(found.values, whole.values, atol=1e-5)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_nothing_is_left_after_an_exception_within(kind: type[BaseException], grad: bool, organism: Any) -> None:
    model = organism("sft")

    def breaks(logits: torch.Tensor, _: Any) -> torch.Tensor:
        if logits.requires_grad:
            raise kind
        return logits[:, 7]

    def seen() -> list[tuple[int, int, int]]:
        return [(id(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.module.modules()]

    pairs = model.task.pairs(2)
    before = seen()
    flags = [weight.requires_grad for weight in model.module.parameters()]
    with torch.set_grad_enabled(grad):
        with pytest.raises(kind):
            lb.analyses.patch(model, pairs, mode="cot", method="gradient", metric=breaks)
        assert torch.is_grad_enabled() == grad
        lb.analyses.patch(model, pairs, "z", mode="cot", method="auto", sample=2)
        assert torch.is_grad_enabled() == grad
    assert seen() == before
    assert [weight.requires_grad for weight in model.module.parameters()] == flags
    assert all(weight.grad is None for weight in model.module.parameters())


def test_within_inference_mode(organism: Any) -> None:
    model = organism("sft")
    how: dict[str, Any] = {"mode": "cot", "method": "gradient", "sample": 2, "steps": 2}
    plain = lb.analyses.patch(model, model.task.pairs(2), **how)
    with torch.inference_mode():
        found = lb.analyses.patch(model, model.task.pairs(2), **how)
    np.testing.assert_allclose(found.values, plain.values, atol=1e-5)


def test_an_interrupted_refinement_goes_on(organism: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from loadbearing.hooks.sweep import Sweep

    model = organism("sft")
    pairs = model.task.pairs(3, vary="operand.1")
    how: dict[str, Any] = {"mode": "cot", "method": "auto", "refine": 6, "sample": 6, "memory": 40_000}
    whole = lb.analyses.patch(model, pairs, "mlp_out", **how)
    path = tmp_path / "kept.safetensors"
    chunk, count = Sweep._chunk, [0]

    def stops(self: Any, *given: Any) -> None:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        chunk(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Sweep, "_chunk", stops)
        with pytest.raises(KeyboardInterrupt):
            lb.analyses.patch(model, pairs, "mlp_out", resume=path, **how)
    partial = lb.core.load_result(path)
    done = np.isfinite(partial.values).any(-1)  # pairs are traced one by one where memory is that small
    assert done.any() and not done[~partial.exact].any()
    with pytest.raises(InputError, match=r"is of another sweep \(method"):
        lb.analyses.patch(model, pairs, "mlp_out", mode="cot", resume=path)
    found = lb.analyses.patch(model, pairs, "mlp_out", resume=path, **how)
    np.testing.assert_allclose(found.values, whole.values, atol=1e-5)
    np.testing.assert_array_equal(found.exact, whole.exact)
    np.testing.assert_array_equal(found.outcome, whole.outcome)
    assert not path.exists()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"method": "gradients"}, "method 'gradients'"),
        ({"steps": 4}, "steps=4 is of gradients: give method='gradient' or 'auto' with it"),
        ({"method": "gradient", "steps": 0}, "steps=0: expected a whole number of at least 1"),
        ({"method": "gradient", "sample": -1}, "sample=-1: expected a whole number of at least 0"),
        ({"method": "gradient", "refine": 3}, "refine=3 is of method 'auto': got method='gradient'"),
        ({"method": "auto", "metric": "kl"}, "'kl': its gradient at the unpatched run is 0 .* use metric='log-odds'"),
        ({"method": "gradient", "window": 2}, "window=2 of resid_pre .* count the same change again"),
        ({"method": "gradient", "metric": lambda logits, _: logits.detach()[:, 0]}, "is not differentiable: expected"),
        ({"method": "gradient", "metric": lambda logits, _: logits[:, 0].numpy()}, "is not differentiable: expected"),
        ({"method": "gradient", "metric": lambda logits, _: (logits[:, 0] * 0).sqrt()}, "has no finite gradient"),
        ({"method": "gradient", "metric": lambda logits, _: logits.sum()}, "expected one figure a row"),
    ],
)
def test_bad_input(how: dict[str, Any], told: str, organism: Any) -> None:
    model = organism("sft")
    with pytest.raises(InputError, match=told):
        lb.analyses.patch(model, model.task.pairs(2), mode="cot", **how)


@pytest.mark.parametrize("metric", ["log-odds", "log-probability"])
def test_answers_of_two_tokens_are_complete_too(metric: str, random_module: Any, bpe_tokenizer: Any) -> None:
    """Each answer is scored in a run of its own; both runs' integrated gradients add up to the whole change."""
    module = random_module("qwen3", bpe_tokenizer, max_position_embeddings=256, seed=2)
    model = lb.hooks.load(module, tokenizer=bpe_tokenizer)
    task = lb.tasks.Questions()
    task.add("a", "What is 12 + 30?", "42", partner="b")
    task.add("b", "What is 12 + 42?", "54", partner="a")
    runs = lb.hooks.replay(model, task.problems(2), {"a": "so 42", "b": "so 30"}, max_answer_tokens=2)
    assert all(len(run.tokens("answer")) == 2 for run in runs.by_problem().values())
    how: dict[str, Any] = {"mode": "cot", "target": "answer", "cot": runs, "layers": [0], "metric": metric}
    found = lb.analyses.patch(model, task.pairs(1), **how, method="gradient", sample=3)
    guessed = lb.analyses.patch(model, task.pairs(1), **how, method="gradient", steps=64, sample=0)
    whole = (found.source - found.base)[0]
    assert abs(whole) > 0.1
    assert (guessed.values - guessed.base).sum() == pytest.approx(whole, abs=0.03 * abs(whole))
    assert found.exact.sum() - guessed.exact.sum() == 3
    assert "not checked on any cell" in guessed.summary()


def test_a_path_needs_runs_of_one_length(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama")
    pairs = questions(("4", " mod 10", " 6"), ("7", " + 2 mod 10", " 9"))
    how: dict[str, Any] = {"positions": ["operand.1"], "method": "gradient", "metric": difference}
    with pytest.raises(InputError, match="steps=2: no straight path leads between runs of unequal length"):
        mapped(model, pairs, "resid_pre", steps=2, **how)
    found = mapped(model, pairs, "resid_pre", sample=0, **how)
    assert np.isfinite(found.values).all() and np.abs(effects(found)).max() > 0
