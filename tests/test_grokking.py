"""The grokking example: the model is the transformer that it says it is, and the split of its logits is exact."""

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
import typer
from torch import Tensor

PERIOD = 13


@pytest.fixture(scope="module")
def model(root: Path) -> Iterator[Any]:
    """`examples/grokking_model.py`, which is no part of the package."""
    sys.path.insert(0, str(root / "examples"))
    yield importlib.import_module("grokking_model")
    sys.path.remove(str(root / "examples"))
    del sys.modules["grokking_model"]


@pytest.fixture(scope="module")
def waves(model: Any) -> Iterator[Any]:
    """`examples/grokking_waves.py`."""
    yield importlib.import_module("grokking_waves")
    del sys.modules["grokking_waves"]


@pytest.fixture(scope="module")
def analysis(model: Any, waves: Any) -> Iterator[Any]:
    """`examples/grokking.py`."""
    yield importlib.import_module("grokking")
    del sys.modules["grokking"]


def plain_logits(net: Any, pairs: Tensor, heads: int) -> Tensor:
    """The same weights in a transformer written out in full: three positions, a causal mask, every query."""
    tokens = torch.cat([pairs, torch.full((len(pairs), 1), net.period)], dim=1)
    x = net.embed[tokens] + net.position
    q, k, v = ((x @ weight).unflatten(-1, (heads, -1)).transpose(1, 2) for weight in (net.query, net.key, net.value))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(torch.ones(3, 3, dtype=torch.bool).triu(1), -torch.inf)
    x = x + (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ net.out
    x = x + torch.relu(x @ net.mlp_in) @ net.mlp_out
    logits: Tensor = (x @ net.unembed)[:, -1]
    return logits


def test_the_gathered_forward_is_a_plain_transformer(model: Any) -> None:
    net = model.OneLayer(seed=3).double()
    pairs = model.all_pairs()[torch.randperm(model.PERIOD**2, generator=torch.Generator().manual_seed(0))[:500]]
    torch.testing.assert_close(net(pairs), plain_logits(net, pairs, model.HEADS), rtol=0, atol=1e-10)
    other = model.OneLayer(seed=4).double()
    assert (net(pairs) - other(pairs)).abs().max() > 0.1  # the comparison sees weights that differ


def test_a_third_of_all_pairs_is_trained_on_and_the_seed_draws_them(model: Any) -> None:
    rows = model.train_rows(0)
    assert int(rows.sum()) == int(0.3 * 113 * 113) == 3830
    assert torch.equal(rows, model.train_rows(0)) and not torch.equal(rows, model.train_rows(1))


def test_training_lowers_the_loss_and_goes_on_where_it_was_cut(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "KEEP", 3)
    monkeypatch.setattr(model, "EVALUATE", 3)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    unbroken = model.train(whole, seed=1, epochs=9, period=PERIOD)
    model.train(cut, seed=1, epochs=6, period=PERIOD)
    resumed = model.train(cut, seed=1, epochs=9, period=PERIOD)
    for name, weight in unbroken.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    mine, theirs = (model.read(folder / "state.safetensors")[0] for folder in (whole, cut))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    losses = mine["losses"]
    assert losses[:, 0].tolist() == [0, 3, 6, 9]
    assert (losses[1:, 1] < losses[:-1, 1]).all()
    assert sorted(file.name for file in cut.iterdir()) == [
        *(f"epoch-{epoch:05d}.safetensors" for epoch in (0, 3, 6, 9)),
        "state.safetensors",
    ]
    with pytest.raises(ValueError, match="holds a run with seed 1, not 2; give another folder or that seed"):
        model.train(cut, seed=2, epochs=9, period=PERIOD)


def test_training_stops_when_the_test_loss_is_low_and_no_longer_falls(model: Any) -> None:
    def rows(losses: list[float]) -> list[list[float]]:
        return [[float(i), 0.0, loss, 1.0, 1.0] for i, loss in enumerate(losses)]

    assert model.finished(rows([1e-4] * 20))
    assert model.finished(rows([1.05e-4] * 10 + [1e-4] * 10))
    assert not model.finished(rows([1e-4] * 19))
    assert not model.finished(rows([2e-3] * 20))
    assert not model.finished(rows([1.2e-4] * 10 + [1e-4] * 10))


def cosines(amplitudes: dict[int, float], period: int = PERIOD) -> Tensor:
    """Logits of a hand-made model, `[period * period, period]`: the sum of alpha cos(2 pi k (a + b - c) / period)."""
    a, b, c = torch.meshgrid(*[torch.arange(period, dtype=torch.float64)] * 3, indexing="ij")
    parts = [alpha * torch.cos(2 * math.pi * k * (a + b - c) / period) for k, alpha in amplitudes.items()]
    return torch.stack(parts).sum(0).flatten(0, 1)


def test_cosines_are_found_whole_and_in_proportion(waves: Any) -> None:
    made = waves.Waves.of(cosines({2: 10.0, 5: 20.0}))
    assert made.keys == [5, 2]
    # The variance of a wave is half of its squared amplitude: 50 and 200.
    torch.testing.assert_close(made.shares[[2, 5]], torch.tensor([0.2, 0.8], dtype=torch.float64))
    assert float(made.shares.sum()) == pytest.approx(1)
    assert made.cosines([2, 5]) == pytest.approx(1) and made.cosines([5]) == pytest.approx(0.8)
    torch.testing.assert_close(made.only([2, 5]), made.logits)
    torch.testing.assert_close(made.without([5]), cosines({2: 10.0}))


def test_waves_of_the_sum_that_answer_another_question_are_no_cosines(waves: Any) -> None:
    right = cosines({2: 10.0})
    doubled = right[:, torch.arange(PERIOD) * 2 % PERIOD]  # cos(w (a + b - 2c)): the sum is read, the answer is wrong
    made = waves.Waves.of(doubled)
    assert made.keys == [2] and float(made.shares[2]) == pytest.approx(1)
    assert made.cosines([2]) == pytest.approx(0, abs=1e-12)


def test_what_is_no_function_of_the_sum_is_in_no_frequency(waves: Any) -> None:
    difference = cosines({2: 10.0}).view(PERIOD, PERIOD, PERIOD)[:, -torch.arange(PERIOD) % PERIOD].flatten(0, 1)
    made = waves.Waves.of(difference)  # the right answers to a - b
    assert made.keys == [] and float(made.shares.max()) < 1e-12
    made = waves.Waves.of(difference + cosines({3: 10.0}))
    assert made.keys == [3] and float(made.shares[3]) == pytest.approx(0.5)
    torch.testing.assert_close(made.without([3]), difference)


def test_any_logits_are_the_sum_of_their_parts(waves: Any) -> None:
    logits = torch.randn(PERIOD**2, PERIOD, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = waves.Waves.of(logits)
    every = range(1, PERIOD // 2 + 1)
    centred = logits - logits.mean(1, keepdim=True)
    torch.testing.assert_close(made.without(every) + made.only(every) - made.only([]), centred)
    # Functions of the sum are 1 part in p of all functions of the pair.
    assert float(made.shares.sum()) == pytest.approx(1 / PERIOD, abs=0.03)


def test_neurons_are_told_by_their_frequency(waves: Any) -> None:
    a, b = torch.arange(PERIOD**2) // PERIOD, torch.arange(PERIOD**2) % PERIOD
    wave = {k: torch.cos(2 * math.pi * k * a / PERIOD) for k in (2, 3)}
    product = torch.cos(2 * math.pi * 3 * a / PERIOD) * torch.sin(2 * math.pi * 3 * b / PERIOD)
    mixed = 3 * wave[2] + wave[3]
    found, share = waves.neuron_waves(torch.stack([5 + wave[2], product, mixed, torch.ones(PERIOD**2)], 1), PERIOD)
    assert found[:3].tolist() == [2, 3, 2]
    torch.testing.assert_close(share, torch.tensor([1, 1, 0.9, 0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_rows_of_a_matrix_are_split_by_frequency(waves: Any) -> None:
    angle = 2 * math.pi * torch.arange(PERIOD, dtype=torch.float64) / PERIOD
    shares = waves.row_waves(torch.stack([3 * torch.cos(2 * angle), 4 * torch.sin(5 * angle) + 7], 1))
    expected = torch.zeros(PERIOD // 2, dtype=torch.float64)
    expected[[1, 4]] = torch.tensor([0.36, 0.64], dtype=torch.float64)
    torch.testing.assert_close(shares, expected)


def circle(k: int, values: Tensor, period: int = PERIOD) -> Tensor:
    """cos and sin of 2 pi k y / period, `[n, 2]`."""
    angle = 2 * math.pi * k * values.double() / period
    return torch.stack([angle.cos(), angle.sin()], 1)


def noise(n: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_pair_and_its_mirror_image_are_one_group(model: Any, analysis: Any) -> None:
    pairs = model.all_pairs(PERIOD)
    groups = analysis.unordered(pairs)
    assert torch.equal(groups, analysis.unordered(pairs.flip(1)))
    assert len(groups.unique()) == PERIOD * (PERIOD + 1) // 2


def test_a_frequency_is_read_where_it_is_and_nowhere_else(model: Any, analysis: Any) -> None:
    pairs = model.all_pairs(PERIOD)
    sums, groups = pairs.sum(1) % PERIOD, analysis.unordered(pairs)
    activations = torch.cat([circle(2, sums), circle(3, pairs[:, 0]) + circle(3, pairs[:, 1])], 1)
    read = torch.tensor(analysis.read_frequencies(activations, sums, groups, PERIOD))
    assert read[1] > 0.999
    # The waves of a and of b, added, are no wave of a + b.
    assert (read[torch.arange(len(read)) != 1] < 0.02).all()


def test_a_circle_gives_sums_that_were_never_seen_and_renamed_sums_do_not(model: Any, analysis: Any) -> None:
    sums = model.all_pairs(PERIOD).sum(1) % PERIOD
    activations = circle(2, sums) + 0.01 * noise(len(sums), 2)
    assert analysis.unseen_sums(activations, sums, [2], PERIOD) == 1
    renamed = torch.randperm(PERIOD, generator=torch.Generator().manual_seed(1))[sums]
    assert analysis.unseen_sums(activations, renamed, [2], PERIOD) < 0.5


def test_what_carries_the_logits_can_be_kept_and_removed(model: Any, analysis: Any) -> None:
    pairs = model.all_pairs(PERIOD)
    sums = pairs.sum(1) % PERIOD
    stream = torch.cat([circle(2, sums), circle(3, sums), 0.1 * noise(len(sums), 4)], 1)
    unembed = torch.zeros(8, PERIOD, dtype=torch.float64)
    unembed[:2] = 60 * circle(2, torch.arange(PERIOD)).T  # the logits are 60 cos(w_2 (a + b - c)); 3 is there, unused
    net = SimpleNamespace(period=PERIOD, unembed=unembed)
    well, lost = 0.1, math.log(PERIOD) - 0.1
    used, unused = (analysis.stream_ablations(net, stream, pairs, [k]) for k in (2, 3))
    assert float(model.loss_of(stream @ unembed, pairs)) < well
    assert (used["alone"] < well).all() and (used["removed"] > lost).all()
    assert (unused["alone"] > lost).all() and (unused["removed"] < well).all()
    random = analysis.random_ablations(net, stream, pairs, 2)
    assert len(random) == analysis.DRAWS and random["alone"].min() > well


def test_what_a_probe_reads_is_not_where_the_wave_moves_the_stream_if_noise_can_be_cancelled(
    model: Any, analysis: Any
) -> None:
    pairs = model.all_pairs(PERIOD)
    sums, shared = pairs.sum(1) % PERIOD, noise(len(pairs), 2)
    # The wave and the noise in two dimensions, and in two more a faint copy of the noise: reading is subtracting it.
    stream = torch.cat([circle(2, sums) + 0.2 * shared, 0.01 * shared], 1)
    unembed = torch.cat([20 * circle(2, torch.arange(PERIOD)).T, torch.zeros(2, PERIOD, dtype=torch.float64)])
    losses = analysis.stream_ablations(SimpleNamespace(period=PERIOD, unembed=unembed), stream, pairs, [2])
    whole = float(model.loss_of(stream @ unembed, pairs))
    assert losses["alone"]["probe"] > whole + 1 and abs(losses["removed"]["probe"] - whole) < 0.2
    for name in ("strong probe", "LEACE"):
        assert losses["alone"][name] < whole + 0.1 and losses["removed"][name] > whole + 1


def test_the_two_subspaces_of_a_probe_that_cancels_noise_stand_apart(model: Any, analysis: Any) -> None:
    pairs = model.all_pairs(PERIOD)
    sums, shared = pairs.sum(1) % PERIOD, noise(len(pairs), 2)
    stream = torch.cat([circle(2, sums) + 0.2 * shared, 0.01 * shared], 1)
    table = analysis.two_subspaces(SimpleNamespace(period=PERIOD), stream, pairs, [2])
    # All of the wave without the noise; of variance 0.5 against 0.04 with it.
    assert table[2]["probe"] > 0.99 and table[2]["strong probe"] == pytest.approx(0.5 / 0.54, abs=0.03)
    assert (table["angle"] > 60).all()


def test_logits_without_their_frequencies_lose_what_those_carried(model: Any, waves: Any, analysis: Any) -> None:
    pairs = model.all_pairs(PERIOD)
    made = waves.Waves.of(cosines({2: 10.0, 5: 10.0}) + 0.1 * noise(PERIOD**2, PERIOD))
    losses = analysis.logit_ablations(made, pairs)
    whole = float(model.loss_of(made.logits, pairs))
    assert losses["alone"] == pytest.approx(whole, rel=0.2)
    assert losses["removed"] == pytest.approx(math.log(PERIOD), abs=0.05)
    assert min(losses["2 removed"], losses["5 removed"]) > 10 * whole
    assert losses["worst other removed"] == pytest.approx(whole, rel=0.05)


def test_the_history_takes_the_loss_of_each_checkpoint_apart(
    model: Any, waves: Any, analysis: Any, tmp_path: Path
) -> None:
    model.train(tmp_path, seed=0, epochs=3, period=PERIOD)
    pairs, trained = model.all_pairs(PERIOD), model.train_rows(0, PERIOD)
    past = analysis.history(tmp_path, [2, 5], trained)
    assert past["epoch"].tolist() == [0, 3]
    net = model.OneLayer(seed=0, period=PERIOD).double()
    for row, weights in ((0, net.state_dict()), (1, model.read(tmp_path / "epoch-00003.safetensors")[0])):
        net.load_state_dict(weights)
        made = waves.Waves.of(net(pairs).detach())
        alone, without = made.parts[[0, 2, 5]].sum(0)[made.sums], made.logits - made.parts[[2, 5]].sum(0)[made.sums]
        unseen = float(model.loss_of(alone[~trained], pairs[~trained]))
        assert past["key alone, unseen"][row] == pytest.approx(unseen, abs=1e-6)
        known = float(model.loss_of(without[trained], pairs[trained]))
        assert past["key removed, trained"][row] == pytest.approx(known, abs=1e-6)


def test_the_figure_shows_what_it_was_given(analysis: Any) -> None:
    losses = torch.tensor([[0, 4.7, 4.7], [100, 1e-3, 9.0], [200, 1e-5, 1e-4]], dtype=torch.float64)
    past = pd.DataFrame({"epoch": [0, 200], "key alone, unseen": [4.7, 1e-5], "key removed, trained": [4.7, 6.0]})
    shares = torch.tensor([0.0, 0.1, 0.7, 0.0, 0.1, 0.0, 0.0])
    reads = pd.DataFrame({"mlp_post": [0.0, 0.9, 0, 0.8, 0, 0], "embed": 0.0}, index=range(1, 7))
    ablated = pd.DataFrame({"alone": [1e-5, 3.0], "removed": [6.0, 1e-4]}, index=["logits", "random"])
    first = analysis.draw(losses, past, shares, [2], reads, 2e-5, ablated)
    training, frequencies, ablations = first.figure.axes
    assert first is training and first.figure.get_size_inches()[0] == 3.25
    assert [list(line.get_ydata()) for line in training.lines[:2]] == [losses[:, 1].tolist(), losses[:, 2].tolist()]
    assert [bar.get_height() for bar in frequencies.patches] == pytest.approx(shares[1:].tolist())
    assert [text.get_text() for text in frequencies.texts] == ["2"]
    assert [label.get_text() for label in ablations.get_yticklabels()] == ["logits", "random"]
    lines = [list(line.get_xdata()) for line in ablations.lines]
    assert lines[0] == [2e-5, 2e-5] and lines[1] == pytest.approx([math.log(13)] * 2)
    assert lines[2:] == [[1e-5, 3.0], [6.0, 1e-4]]
    plt.close(first.figure)


def test_the_example_says_what_is_missing_and_runs_to_its_figure(
    model: Any, waves: Any, analysis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with pytest.raises(typer.BadParameter, match=r"no checkpoint: run python examples/grokking_model.py --out "):
        analysis.main(tmp_path)
    model.train(tmp_path, seed=0, epochs=2, period=PERIOD)
    monkeypatch.setattr(analysis, "DRAWS", 2)
    with pytest.raises(typer.BadParameter, match="no frequency carries the logits at epoch 2: train for longer"):
        analysis.main(tmp_path)
    monkeypatch.setattr(waves.Waves, "keys", [2, 5])
    analysis.main(tmp_path, tmp_path / "figure")
    told = capsys.readouterr().out
    assert "seed 0, epoch 2" in told and "accuracy on unseen sums" in told
    assert (tmp_path / "figure.png").stat().st_size > 10_000
