"""Swapping and erasing subspaces, learnt rotations, and states put across runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.analyses.across_table import CONTROLS, OWN
from loadbearing.analyses.subspace_table import ERASED, MATCHED, RANDOM, RANDOM_ERASED, SHUFFLED, SWAPPED, WHOLE
from loadbearing.core import InputError
from loadbearing.probes import LogisticProbe, MLPProbe


def estimate(found: Any, intervention: str, quantity: str, layer: int, model: str = "trained") -> float:
    rows = found.frame().query("intervention == @intervention and quantity == @quantity and layer == @layer")
    return float(rows[rows["model"] == model]["estimate"].iloc[0])


def test_a_basis_of_everything_is_the_whole_state_and_the_map_of_patch(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    pairs = model.task.pairs(6)
    everything = np.eye(model.module.config.hidden_size)
    found = lb.analyses.subspace(model, pairs, find=everything, twin=False, fit=100, draws=1)
    names = np.array(found.coords["intervention"])
    whole, swapped = (found.values[0][:, names == name][:, 0] for name in (WHOLE, SWAPPED))
    np.testing.assert_allclose(swapped, whole, atol=1e-4)
    patched = lb.analyses.patch(model, pairs, "resid_post", positions=["cue[-1]"])
    np.testing.assert_allclose(whole, patched.values[:, 0], atol=1e-4)
    np.testing.assert_allclose(found.recipient[0], patched.recipient, atol=1e-5)
    pre = lb.analyses.subspace(model, pairs, site="resid_pre", layers=[1, 2], twin=False, fit=100, draws=1)
    post = lb.analyses.subspace(model, pairs, site="resid_post", layers=[0, 1], twin=False, fit=100, draws=1)
    np.testing.assert_allclose(pre.values, post.values, atol=1e-4)


def test_the_answer_is_decodable_and_used_where_direct_holds_it(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    found = lb.analyses.subspace(model, model.task.pairs(16), layers=[2], draws=4)
    assert estimate(found, "read", "bits", 2) > 3.0
    assert estimate(found, WHOLE, "moved", 2) == 1.0
    assert estimate(found, SWAPPED, "moved", 2) > 0.95  # nine of 64 dimensions do what all of them do
    for control in (RANDOM, SHUFFLED):
        assert estimate(found, control, "moved", 2) < 0.1
    assert estimate(found, MATCHED, "moved", 2) < 0.3
    assert estimate(found, ERASED, "kept", 2) < 0.7 < 0.95 < estimate(found, RANDOM_ERASED, "kept", 2)
    assert abs(estimate(found, "read", "bits", 2, "random-init")) < 0.3
    # Its whole state at the end is what it says; what goes with the answer, which it does not know, is none of it.
    assert estimate(found, WHOLE, "moved", 2, "random-init") == 1.0
    assert estimate(found, SWAPPED, "moved", 2, "random-init") < 0.3
    counted = found.frame().query("quantity == 'moved'").groupby("model")["n"].first()
    assert counted["random-init"] < counted["trained"] == found.plain.shape[1]  # it says the same in the other pairs
    assert all(f"{name}, {count} pairs\n" in found.table() for name, count in counted.items())


def test_the_partial_sum_is_read_in_every_layer_and_used_in_the_first_only(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    pairs = model.task.pairs(32, vary="operand.1")
    options: Any = {"mode": "cot", "twin": False, "draws": 4, "position": "step.2[-1]"}
    summed = lb.analyses.subspace(model, pairs, "v_2", **options)
    answer = lb.analyses.subspace(model, pairs, "v_3", **options)
    for layer in range(3):
        assert estimate(summed, "read", "bits", layer) > 3.2
        assert estimate(summed, WHOLE, "moved", layer) == 1.0
        assert estimate(summed, SWAPPED, "moved", layer) == (1.0 if layer == 0 else 0.0)
        assert estimate(answer, SWAPPED, "moved", layer) == pytest.approx(0.0 if layer == 0 else 1.0, abs=0.05)
        assert estimate(summed, SHUFFLED, "moved", layer) < 0.15
    assert estimate(summed, ERASED, "kept", 0) < 0.2 < 0.9 < estimate(summed, ERASED, "kept", 1)


def test_class_means_are_fooled_and_permuted_labels_show_it(organism: Callable[[str], Any]) -> None:
    """Few directions hold most of the variance here: means of any ten classes span them, and their swap is the swap of
    everything. What LEACE exchanges goes with the variable only."""
    model = organism("sft")
    pairs = model.task.pairs(32, vary="operand.1")
    options: Any = {"mode": "cot", "twin": False, "draws": 4, "position": "step.2[-1]", "layers": [2]}
    means = lb.analyses.subspace(model, pairs, "operand.2", find="means", **options)
    exact = lb.analyses.subspace(model, pairs, "operand.2", **options)
    assert estimate(means, SWAPPED, "moved", 2) > 0.8  # though the pairs do not even differ in operand 2
    assert estimate(means, SHUFFLED, "moved", 2) > 0.8
    assert estimate(exact, SWAPPED, "moved", 2) < 0.05


def test_a_learnt_rotation_finds_what_a_random_one_misses_on_pairs_that_it_has_not_seen(
    organism: Callable[[str], Any],
) -> None:
    model = organism("direct")
    pairs = model.task.pairs(48, vary="operand.1")
    found = lb.analyses.subspace(model, pairs, find="das", rank=9, layers=[2], steps=60, draws=2)
    assert found.rank[0, 0] == 9
    assert estimate(found, SWAPPED, "moved", 2) > 0.7
    assert estimate(found, RANDOM, "moved", 2) < 0.05
    # The same search, for its own most likely tokens, gets far in a model that knows nothing: a rotation that moves the
    # answer is no evidence that the answer was there as a variable.
    assert estimate(found, SWAPPED, "moved", 2, "random-init") > 0.4
    short = lb.analyses.subspace(model, pairs, find="das", rank=9, layers=[2], steps=1, draws=2, twin=False)
    assert estimate(short, SWAPPED, "moved", 2) < estimate(found, SWAPPED, "moved", 2)


def test_a_learnt_rotation_is_orthonormal_and_leaves_no_gradient(organism: Callable[[str], Any]) -> None:
    from loadbearing.analyses.aligned import align
    from loadbearing.analyses.das import learn_subspace
    from loadbearing.hooks.interior import Interior

    model = organism("both")
    aligned = align(
        model, model.task.pairs(8, vary="operand.2"), mode="answer-only", target="onset", cot="model",
        positions=["cue[-1]"],
    )  # fmt: skip
    batches = [(batch, torch.arange(len(batch.index))) for batch in aligned.batches]
    interior = Interior.of(model.module, model.sites)
    basis = learn_subspace(model, interior, batches, 2, 0, 3, steps=5)
    torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
    assert all(weight.grad is None for weight in model.module.parameters())
    again = learn_subspace(model, interior, batches, 2, 0, 3, steps=5)
    assert torch.equal(basis, again)
    assert not torch.allclose(basis, learn_subspace(model, interior, batches, 2, 0, 3, steps=5, seed=1))


def test_probes_give_their_own_subspace(organism: Callable[[str], Any], tmp_path: Path) -> None:
    model = organism("direct")
    options: Any = {"layers": [2], "twin": False, "draws": 1, "fit": 300}
    pairs = model.task.pairs(4)
    found = lb.analyses.subspace(model, pairs, find=LogisticProbe(), **options)
    assert found.manifest.identity["find"] == "LogisticProbe()"
    assert found.rank[0, 0] == 9
    again: Any = lb.load(found.save(tmp_path / "subspace.safetensors"))
    assert again.table() == found.table()
    assert "bits) at cue[-1] (resid_post, answer-only run), subspace LogisticProbe()" in found.table()
    few = lb.analyses.subspace(model, pairs, find="means", rank=2, **options)
    assert few.rank[0, 0] == 2
    with pytest.raises(InputError, match="MLPProbe has no subspace_: give a linear probe, or find='leace'"):
        lb.analyses.subspace(model, pairs, find=MLPProbe(), **options)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"variable": "v_9"}, "unknown variable 'v_9'.*nearest"),
        ({"site": "attn_out"}, "unknown site 'attn_out': expected one of resid_pre, resid_post"),
        ({"layers": [9]}, r"layers=\[9\]: this model has layers 0 to 2"),
        ({"position": "operand.*"}, "names 4 places: name one"),
        ({"find": "mean"}, "unknown find 'mean'.*nearest: 'means'"),
        ({"find": np.eye(3)}, r"a probe, or a basis \[64, rank\], got shape \(3, 3\)"),
        ({"rank": 2}, "rank=2: find='leace' has the rank of the variable"),
        ({"draws": 0}, "draws=0: expected 1 or more"),
        ({"find": "das", "rank": 65}, "rank=65: expected 1 or more, and a rank of at most 64"),
        ({"find": "das", "variable": "v_2"}, "variable='v_2': find='das' finds what moves the answer"),
        ({"find": 3 * np.eye(64)[:, :2]}, "find: expected a basis with orthonormal columns"),
    ],
)
def test_bad_input_of_subspace(arguments: dict[str, Any], told: str, organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    with pytest.raises(InputError, match=told):
        lb.analyses.subspace(model, model.task.pairs(2, vary="operand.4"), **{"fit": 50, **arguments})


def test_pairs_to_fit_to_must_be_others(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    pairs = model.task.pairs(2, vary="operand.1")
    with pytest.raises(InputError, match="all 2 problems to fit to are in a pair: give others as `fit`"):
        lb.analyses.subspace(model, pairs, fit=[pairs[0].recipient, pairs[0].donor])
    with pytest.raises(InputError, match="pairs that share problems cannot be held out from one another"):
        lb.analyses.subspace(model, lb.tasks.Pairs((pairs[0],), pairs.task), find="das", layers=[0], fit=50)


# Across runs.


def rate(found: Any, condition: str, layer: int, quantity: str = "own answer") -> float:
    rows = found.frame().query("condition == @condition and layer == @layer and quantity == @quantity")
    return float(rows["estimate"].iloc[0])


def test_the_state_after_reasoning_alone_gives_the_answer(organism: Callable[[str], Any]) -> None:
    """sft cannot answer at once; its state at the cue, after the CoT, brings the answer without the CoT."""
    model = organism("sft")
    found = lb.analyses.across(model, model.task.problems(60))
    assert found.base_right.mean() < 0.2 < found.source_right.mean() == 1.0
    assert rate(found, OWN, 0) < 0.3 < 0.95 < rate(found, OWN, 2)
    assert rate(found, "other problem", 2) < 0.1  # it is that problem's answer that comes
    assert rate(found, "other problem", 2, "state's answer") > 0.9
    assert rate(found, "same answer", 2) > 0.9
    assert rate(found, "noise, same length", 2) < 0.3
    assert rate(found, "shuffled position", 2) < 0.7
    back = lb.analyses.across(model, model.task.problems(60), direction="into-cot")
    assert back.base_right.all()
    assert rate(back, OWN, 2) < 0.2
    assert rate(back, "noise, same length", 2) > 0.9


def test_the_last_layers_state_at_the_end_is_the_answer(organism: Callable[[str], Any], tmp_path: Path) -> None:
    model = organism("both")
    found = lb.analyses.across(model, model.task.problems(10), controls=["other problem"])
    top = found.log_p[0, -1, 0]
    np.testing.assert_allclose(top, found.source, atol=1e-4)
    nothing = lb.analyses.across(model, model.task.problems(10), positions=["prompt[-1]", "operand.1"], controls=[])
    expected = np.broadcast_to(nothing.base, nothing.log_p.shape)
    np.testing.assert_allclose(nothing.log_p, expected, atol=1e-4)  # the prompt comes before the runs part
    again: Any = lb.load(found.save(tmp_path / "across.safetensors"))
    assert again.table() == found.table()
    assert set(CONTROLS) > {"other problem"}


def test_names_may_differ_between_the_runs(organism: Callable[[str], Any]) -> None:
    model = organism("both")
    found = lb.analyses.across(model, model.task.problems(6), positions={"cue[-1]": "step.3[-1]"}, controls=[])
    assert found.coords["position"] == ("cue[-1]",)
    with pytest.raises(InputError, match=r"position 'cue\[-1\]' has 1 tokens, 'cot' of the other run has 3"):
        lb.analyses.across(model, model.task.problems(6), positions={"cue[-1]": "cot"})
    with pytest.raises(InputError, match=r"the answer-only run of .*: unknown position 'step.1'"):
        lb.analyses.across(model, model.task.problems(6), positions=["step.1"])
    with pytest.raises(InputError, match="unknown control 'noise'"):
        lb.analyses.across(model, model.task.problems(6), controls=["noise"])
    with pytest.raises(InputError, match="unknown direction 'back'"):
        lb.analyses.across(model, model.task.problems(6), direction="back")
    with pytest.raises(InputError, match="no problems to measure"):
        lb.analyses.across(model, [])


@pytest.mark.parametrize("entry", ["subspace", "das", "across"])
def test_an_interrupted_call_leaves_the_model_as_it_was(
    entry: str, organism: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from loadbearing.hooks import packed

    model = organism("direct" if entry != "across" else "sft")

    def call() -> Any:
        if entry == "across":
            return lb.analyses.across(model, model.task.problems(4))
        return lb.analyses.subspace(
            model, model.task.pairs(4), find="means" if entry == "subspace" else "das", twin=False, fit=60, steps=2
        )

    def state() -> list[tuple[int, int, int]]:
        return [(id(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.module.modules()]

    call()
    before = state()
    monkeypatch.setattr(packed.Packed, "_call", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        call()
    assert state() == before
    assert torch.is_grad_enabled()
