"""Channels: known tables, the rules that withhold a share, nulls, and what the program predicts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.analyses import CONDITIONS
from loadbearing.analyses.cells import N_CELLS, TERMS
from loadbearing.analyses.eight import eight_cells
from loadbearing.analyses.estimates import OUTCOMES, per_unit
from loadbearing.analyses.targets import cut, find_onset
from loadbearing.core import GateError, InputError, Manifest

HANDSET = ("copy-direct", "copy-relay", "copy-tokens", "copy-sum", "copy-redundant")


def measure(model: Any, n: int = 32, **options: Any) -> Any:
    """The table of a hand-set model as its card says it is measured."""
    arguments = {**model.card.measure, **options}
    pairs = model.task.pairs(n, vary=arguments.pop("vary"))
    return lb.analyses.channels(model, pairs, **arguments)


@pytest.fixture(scope="module")
def sft_table(organism: Callable[[str], Any]) -> Any:
    model = organism("sft")
    return lb.analyses.channels(model, model.task.pairs(16))


@pytest.mark.parametrize("name", HANDSET)
def test_hand_set_models_have_the_table_of_their_card(name: str, organism: Callable[[str], Any]) -> None:
    model = organism(name)
    found = measure(model)
    known = [model.card.known[wire] for wire in ("direct", "relay", "tokens")]
    np.testing.assert_allclose(found.shares(), known, atol=1e-3)
    assert found.status() == {"copy-sum": "joint", "copy-tokens": "ok", "copy-redundant": "ok"}.get(
        name, "not available to tokens"
    )
    assert found.manifest.circumstance["accuracy"] == 1.0
    assert found.manifest.circumstance["replayed"] == 1.0


def test_the_sum_is_additive_on_log_odds_and_pure_interaction_on_probability(organism: Callable[[str], Any]) -> None:
    found = measure(organism("copy-sum")).estimates("all")
    np.testing.assert_allclose(found.get("log-odds", "interaction") / found.get("log-odds", "total"), 0.0, atol=1e-3)
    terms = [label[2] for label in found.labels if label[:2] == ("p(donor's)", "interaction")]
    both = np.array([term == "direct+tokens" for term in terms], dtype=float)
    np.testing.assert_allclose(found.get("p(donor's)", "interaction"), both, atol=1e-3)


def test_redundant_wires_read_as_halves(organism: Callable[[str], Any]) -> None:
    found = measure(organism("copy-redundant")).estimates("all")
    v, p = found.get("log-odds", "cell"), found.get("p(donor's)", "cell")
    a = v[-1]
    assert a > 20
    for cell in range(N_CELLS):
        on = bool(cell & 1) + bool(cell & 4)  # relay does nothing
        assert v[cell] == pytest.approx((-a, 0.0, a)[on], abs=1e-3)
        assert p[cell] == pytest.approx((0.0, 0.5, 1.0)[on], abs=1e-3)


def test_the_trained_chain_reads_tokens_early_and_direct_last(sft_table: Any) -> None:
    assert sft_table.early == ("operand.1", "operand.2", "operand.3")
    np.testing.assert_allclose(sft_table.shares(), [0, 0, 1], atol=0.02)
    np.testing.assert_allclose(sft_table.shares("operand.4"), [1, 0, 0], atol=0.02)
    assert sft_table.status("operand.4") == "not available to tokens"
    assert sft_table.manifest.circumstance["onset"]["slot"] == 3


def test_what_the_program_predicts_for_a_chain_stands_beside(sft_table: Any) -> None:
    for variable in sft_table.variables:
        expected = [1, 0, 0] if variable == "operand.4" else [0, 0, 1]
        np.testing.assert_allclose(sft_table.estimates(variable).get("program: chain", "share"), expected, atol=1e-9)
    agreement = sft_table.frame().query("variable == 'mean' and outcome == 'agrees'")["estimate"]
    permuted = sft_table.frame().query("variable == 'mean' and outcome == 'agrees, permuted'")["estimate"]
    assert (agreement == 1.0).all()
    assert permuted.max() < 0.4


def test_pairs_in_which_everything_differs_imply_a_third_answer_in_mixed_cells(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    found = lb.analyses.channels(model, model.task.pairs(16, vary="all"), boundary=False).estimates("all")
    implied = found.get("greedy: implied", "cell")
    mixed = [bool(cell & 1) != bool(cell & 4) for cell in range(N_CELLS)]
    assert implied[mixed].min() > 0.8  # the prompt's last operand with the other run's partial sum
    assert implied[[0, 7]].tolist() == [0.0, 0.0]  # there the implied answer is the run's own


def test_copy_share_of_a_cot_that_states_the_answer_is_one(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    found = lb.analyses.channels(model, model.task.pairs(8), target="answer")
    np.testing.assert_allclose(found.shares(), [0, 0, 1], atol=0.02)
    assert found.early == found.variables  # the last operand is in the written answer too


def test_targets_within_the_chain(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    found = lb.analyses.channels(model, model.task.pairs(8), target="step.2")
    # Step 2 adds operand 3 to step 1; operand 4 is not in it, so those pairs say nothing.
    np.testing.assert_allclose(found.shares("operand.1"), [0, 0, 1], atol=0.02)
    np.testing.assert_allclose(found.shares("operand.3"), [1, 0, 0], atol=0.02)
    assert found.manifest.circumstance["dropped"]["operand.4"] == {
        "recipient and donor state the same value at the target": 8
    }
    assert found.status("operand.4").startswith("withheld: a")
    assert found.table().set_index("variable").loc["operand.4", "tokens"] == "-"
    assert found.frame().query("variable == 'operand.4'")["n"].max() == 0
    assert found.notes()["pairs dropped"]
    with pytest.raises(InputError, match="no CoT before the onset"):
        lb.analyses.channels(model, model.task.pairs(4), target="step.1")


def test_natural_cells_are_the_plain_runs_and_batches_change_nothing(sft_table: Any) -> None:
    gates = {gate["name"]: gate for gate in sft_table.manifest.circumstance["gates"]}
    assert {gate["verdict"] for gate in gates.values()} == {"pass"}
    for name in ("own-cache splice = plain run", "full donor splice = donor run", "batched = one by one"):
        assert gates[name]["measured"] < 1e-4
    assert sft_table.manifest.circumstance["self_donor"] == 0.0


def test_both_directions_are_the_same_runs(sft_table: Any) -> None:
    np.testing.assert_array_equal(sft_table.log_p[:, 0, :, 0], sft_table.log_p[:, 1, ::-1, 1])
    np.testing.assert_array_equal(sft_table.log_p[:, 0, :, 1], sft_table.log_p[:, 1, ::-1, 0])


@torch.no_grad()
def test_cells_are_what_a_plain_pass_over_each_text_says(organism: Callable[[str], Any]) -> None:
    """Where D = R, a cell is an ordinary run of that prompt over that CoT: no splice is needed to compute it."""
    model = organism("sft")
    pairs = model.task.pairs(4, vary="operand.2")
    runs = lb.hooks.generate(model, [p for pair in pairs for p in (pair.recipient, pair.donor)])
    onset = find_onset(runs)
    aims: list[Any] = [
        tuple(cut(runs.by_problem()[p.key], onset, "onset", model) for p in (q.recipient, q.donor)) for q in pairs
    ]
    scores = eight_cells(model, aims, [None] * 4)
    for i, aim in enumerate(aims):
        for prompt, text in ((0, 0), (0, 1), (1, 0), (1, 1)):
            ids = torch.tensor([aim[prompt].head + aim[text].cot])
            logits = model.module(input_ids=ids).logits[0, -1].log_softmax(-1)
            cell = prompt * 3 + text * 4
            # The scored text ends with the token after the answer; only the first token is compared here.
            first = [float(logits[aim[c].answer[0]]) for c in (0, 1)]
            assert scores.log_p[i, cell, 0] <= first[0] + 1e-5
            assert np.argmax(first) == np.argmax(scores.log_p[i, cell, :2])
            assert scores.log_p[i, cell, 0] - scores.log_p[i, cell, 1] == pytest.approx(first[0] - first[1], abs=0.05)


def test_the_third_answer_is_never_the_one_given(sft_table: Any) -> None:
    assert sft_table.third("mean") < 1e-3
    shown = sft_table.frame().query("variable == 'mean' and outcome == 'null: third answer, p'")["estimate"]
    assert shown.tolist() == [sft_table.third("mean")]
    given = table(TOKENS_ONLY)
    moved = given.log_p.copy()
    moved[:, 0, 4:, 2] = np.log(0.5)  # a model that says the third answer wherever the tokens are the donor's
    assert replace(given, log_p=moved).third("x") == pytest.approx(0.25, abs=1e-3)
    assert sft_table.estimates("mean").get("p(donor's)", "total")[0] > 0.9


def test_the_opening_text_can_count_with_the_cot(sft_table: Any, organism: Callable[[str], Any]) -> None:
    moved = sft_table.estimates("mean").get("open with the CoT", "share")
    np.testing.assert_allclose(moved.sum(), 1.0)
    unmeasured = measure(organism("copy-direct")).estimates("value").get("open with the CoT", "share")
    assert np.isnan(unmeasured).all()


# The rules that withhold a share. A table of cells is made by hand; each rule is tested firing and not firing.


def table(
    v: Any,
    p: Any = None,
    *,
    n: int = 20,
    ended: float = 1.0,
    outcome: Any = None,
    spread: float = 0.0,
    asked: int | None = None,
) -> Any:
    """Channels of one variable with log-odds `v` and probabilities `p` per cell, the same in every pair."""
    v = np.asarray(v, dtype=float)
    p = 1 / (1 + np.exp(-v)) if p is None else np.asarray(p, dtype=float)
    noise = np.linspace(-spread, spread, n)[:, None, None]
    log_p = np.zeros((n, 2, N_CELLS, 3))
    log_p[..., 0] = np.log(p) + 0 * noise
    log_p[..., 1] = log_p[..., 0] - v - noise
    log_p[..., 2] = np.log(1e-6)
    if outcome is None:
        outcome = [1, 2, 2, 2, 2, 2, 2, 0]  # natural runs as they are, mixed cells as implied
    facts = {
        "asked": {"x": asked or n},
        "ended": {"x": round(ended * (asked or n))},
        "first_use": {"x": 1},
        "last_step": 2,
    }
    shape = (n, 2, N_CELLS)
    return lb.analyses.Channels(
        coords={"variable": ("x",), "cell": tuple(range(N_CELLS)), "outcome": OUTCOMES},
        manifest=Manifest({"target": "onset"}, facts),
        variable=np.zeros(n, dtype=int),
        cots_differ=np.ones(n, dtype=bool),
        log_p=log_p,
        outcome=np.broadcast_to(np.array(outcome, dtype=np.int8), shape).copy(),
        program=np.full(shape, np.nan),
        agrees=np.full(shape, np.nan),
        agrees_shuffled=np.full(shape, np.nan),
        entropy=np.zeros(shape),
        log_p_boundary=np.full((n, 2, N_CELLS, 3), np.nan),
        unit=np.arange(n),
        log_p_gold=np.full((n, 2, N_CELLS, 2), np.nan),
        distance=np.full(shape, np.nan),
    )


TOKENS_ONLY = [5.0 if cell & 4 else -5.0 for cell in range(N_CELLS)]


def test_a_clean_table_is_not_withheld() -> None:
    found = table(TOKENS_ONLY)
    assert found.status() == "ok"
    np.testing.assert_allclose(found.shares(), [0, 0, 1])


@pytest.mark.parametrize(
    ("letter", "arguments"),
    [
        ("a", {"v": TOKENS_ONLY, "ended": 0.85}),
        ("a", {"v": TOKENS_ONLY, "outcome": [3, 2, 2, 2, 2, 2, 2, 0]}),
        ("a", {"v": TOKENS_ONLY, "asked": 24}),  # pairs lost to CoTs that were cut off, or to a target that they miss
        ("n", {"v": TOKENS_ONLY, "n": 7}),
        # On log-odds direct leads by a little; on probability tokens alone decide every answer.
        ("e", {"v": [-5.0, 0.2, -5.0, 0.2, -0.2, 5.0, -0.2, 5.0], "p": [0.001] * 4 + [0.999] * 4}),
        ("b", {"v": [0.4 if cell & 4 else -0.4 for cell in range(N_CELLS)]}),
        ("b", {"v": TOKENS_ONLY, "p": [1e-3 * (1 + cell) for cell in range(N_CELLS)]}),
        ("c", {"v": [-5.0, -25.0, -5.0, -5.0, 25.0, 5.0, 5.0, 5.0]}),
        ("d", {"v": TOKENS_ONLY, "outcome": [1, 2, 3, 2, 2, 2, 2, 0]}),
        (
            "e",
            {
                "v": [
                    {0: -5.0, 4: 3.0, 6: 3.0, 1: -3.0, 3: -3.0}.get(c, 5.0 if c == 7 or c == 5 else -5.0)
                    for c in range(8)
                ],
                "p": [
                    {0: 0.01, 4: 0.02, 6: 0.02, 1: 0.9, 3: 0.9}.get(c, 0.99 if c == 7 or c == 5 else 0.01)
                    for c in range(8)
                ],
            },
        ),
    ],
)
def test_each_rule_withholds_the_share_and_names_itself(letter: str, arguments: dict[str, Any]) -> None:
    found = table(**arguments)
    status = found.status()
    assert status.startswith("withheld") and letter in status.removeprefix("withheld: ").split(", ")
    assert np.isnan(found.shares()).all()
    frame = found.frame().query("variable == 'x'")
    assert frame.query("outcome == 'log-odds' and quantity == 'share'")["estimate"].isna().all()
    assert frame.query("outcome == 'log-odds' and quantity == 'cell'")["estimate"].notna().all()
    assert letter in CONDITIONS


@pytest.mark.parametrize(
    "arguments",
    [
        {"v": TOKENS_ONLY, "ended": 0.9},
        {"v": TOKENS_ONLY, "asked": 22},
        {"v": TOKENS_ONLY, "n": 8},
        {"v": [0.6 if cell & 4 else -0.6 for cell in range(N_CELLS)]},
        {"v": [-5.0, -5.9, -5.0, -5.9, 5.9, 5.0, 5.9, 5.0]},
        {"v": TOKENS_ONLY, "outcome": [1, 2, 0, 1, 2, 2, 2, 0]},
    ],
)
def test_just_inside_a_rule_nothing_is_withheld(arguments: dict[str, Any]) -> None:
    assert not table(**arguments).status().startswith("withheld")


def test_an_interaction_beyond_a_fifth_is_joint_and_a_smaller_one_is_not() -> None:
    both = [4.0 if cell & 1 and cell & 4 else -4.0 for cell in range(N_CELLS)]
    found = table(both)
    assert found.status() == "joint"
    assert found.frame().query("outcome == 'log-odds' and quantity == 'share'")["estimate"].notna().all()
    assert table(TOKENS_ONLY).status() == "ok"


def test_a_table_whose_cots_never_differ_says_that_tokens_had_no_chance() -> None:
    direct = [5.0 if cell & 1 else -5.0 for cell in range(N_CELLS)]
    found = replace(table(direct), cots_differ=np.zeros(20, dtype=bool))
    assert found.status() == "not available to tokens"
    rate = found.frame().query("outcome == 'CoTs differ'")["estimate"]
    assert (rate == 0).all()


def test_intervals_cover_the_spread_of_pairs() -> None:
    found = table(TOKENS_ONLY, spread=4.0).estimates("x")
    low, high = found.get("log-odds", "cell", "low"), found.get("log-odds", "cell", "high")
    assert (low < TOKENS_ONLY).all() and (high > TOKENS_ONLY).all()
    # The standard error of the mean of 20 values spread evenly over 8 nats is 8 / sqrt(12 * 20) = 0.52.
    np.testing.assert_allclose(high - low, 2 * 1.96 * 0.52, rtol=0.2)


def test_means_over_samples_come_first() -> None:
    values = np.array([[1.0], [3.0], [10.0]])
    np.testing.assert_allclose(per_unit(values, np.array([4, 4, 9])), [[2.0], [10.0]])
    few, many = table(TOKENS_ONLY, n=20, spread=4.0), table(TOKENS_ONLY, n=20, spread=4.0)
    many = replace(
        many,
        **{n: np.repeat(a, 5, axis=0) for n, a in many.arrays().items() if n != "unit"},
        unit=np.repeat(few.unit, 5),
    )
    for bound in ("estimate", "low", "high"):  # copies of a sample are no new evidence
        np.testing.assert_allclose(
            few.estimates("x").get("log-odds", "cell", bound), many.estimates("x").get("log-odds", "cell", bound)
        )


def test_effects_of_pearl_on_probability() -> None:
    p = np.array([0.1, 0.3, 0.15, 0.35, 0.5, 0.8, 0.6, 0.9])  # direct is bit 0, relay bit 1, tokens bit 2
    found = table(np.log(p) - np.log(1 - p), p).estimates("x")
    assert found.get("p(donor's)", "NDE")[0] == pytest.approx(0.3 - 0.1)
    assert found.get("p(donor's)", "NIE")[0] == pytest.approx(0.6 - 0.1)


def test_more_pairs_detect_smaller_shares() -> None:
    even = [table(TOKENS_ONLY, n=n) for n in (8, 64)]
    few, many = (found.detectable()[0] for found in even)
    assert few == pytest.approx(1 - 0.05 ** (1 / 8))  # identical pairs: a wire used in so many of them may be missed
    assert many == pytest.approx(1 - 0.05 ** (1 / 64))
    spread = table([5.0 if c & 4 else -5.0 for c in range(N_CELLS)], n=64)
    noisy = spread.log_p.copy()
    noisy[:, :, 1, 0] += np.random.default_rng(0).normal(0, 30, (64, 1))  # direct alone varies between pairs
    assert replace(spread, log_p=noisy).detectable()[0] > 2 * many
    shown = even[0].frame().query("quantity == 'detectable share' and term == 'direct' and variable == 'x'")["estimate"]
    assert shown.tolist() == [pytest.approx(few)]


def test_a_saved_table_is_the_same_table(sft_table: Any, tmp_path: Path) -> None:
    path = sft_table.save(tmp_path / "sft.safetensors")
    loaded = lb.load(path)
    assert loaded.frame().equals(sft_table.frame())
    assert loaded.manifest == sft_table.manifest
    assert set(sft_table.frame()["term"]) >= set(TERMS)


# Bad input, and a gate that fails.


def test_pairs_with_the_same_answer_are_refused(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    one, other = model.task.problem((1, 2, 3, 4)), model.task.problem((4, 3, 2, 1))
    pairs = lb.tasks.Pairs((lb.tasks.Pair(one, other, "all"),), model.task)
    with pytest.raises(
        InputError, match="has the same answer '0': log-odds would be 0 by identity; pair problems whose"
    ):
        lb.analyses.channels(model, pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "onse"}, "target 'onse': expected 'onset', 'answer' or 'step.K'"),
        ({"target": "step.0"}, "expected 'onset', 'answer' or 'step.K'"),
        ({"cot": "gold"}, "cot='gold': expected 'model', 'task', runs, or transcripts"),
        ({"target": "step.9"}, "no pair is left for target 'step.9': .*no step 9 in the chain of thought"),
    ],
)
def test_bad_arguments_say_what_was_expected(
    options: dict[str, Any], message: str, organism: Callable[[str], Any]
) -> None:
    model = organism("sft")
    with pytest.raises(InputError, match=message):
        lb.analyses.channels(model, model.task.pairs(2, vary="operand.1"), **options)


def test_no_pairs_is_an_error(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    with pytest.raises(InputError, match="no pairs to measure"):
        lb.analyses.channels(model, lb.tasks.Pairs((), model.task))


def test_a_model_with_state_outside_its_cache_is_stopped(
    random_module: Callable[..., Any], word_tokenizer: Any
) -> None:
    from loadbearing.organisms.specs import FORMAT

    module = random_module("llama", word_tokenizer)
    seen: list[torch.Tensor] = []

    def leak(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        """Every pass adds something that it keeps from the one before: a state that no cache holds."""
        seen.append(output.detach().mean((0, 1)))
        return output + 3.0 * seen[max(0, len(seen) - 2)]

    handle = module.model.layers[1].register_forward_hook(leak)
    model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
    task = lb.tasks.load("modular-sum")
    pairs = task.pairs(2, vary="operand.1")
    cots = {p.key: p.cot for pair in pairs for p in (pair.recipient, pair.donor)}
    runs = lb.hooks.replay(
        model, [p for pair in pairs for p in (pair.recipient, pair.donor)], cots, max_answer_tokens=1
    )
    with pytest.raises(GateError, match=r"does not pass . of 8 gates, so no figure is shown: own-cache .*float32"):
        lb.analyses.channels(model, pairs, cot=runs, target="step.2")
    handle.remove()
    assert lb.analyses.channels(model, pairs, cot=runs, target="step.2").manifest.circumstance["self_donor"] == 0.0
