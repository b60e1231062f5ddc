"""Figures show the numbers of the results, say what is withheld, and are written the same twice."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.colors import to_rgba
from matplotlib.container import BarContainer

from loadbearing import figures, load
from loadbearing.analyses import (
    Ablation,
    ByLayer,
    Channels,
    Decodability,
    Ledger,
    Monitor,
    PatchMap,
    RelayByPosition,
)
from loadbearing.analyses.cells import TERMS
from loadbearing.analyses.decodability_table import CONTROLS, SHARES
from loadbearing.core import InputError, Manifest, Result, UnknownNameError
from loadbearing.figures.canvas import named

RESULTS = Path(__file__).parents[1] / "docs" / "results"
WIRES = ("direct", "relay", "tokens")
DIRECT, TOKENS, MIXTURE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.7, -0.05, 0.35)


def make_channels(
    variables: Mapping[str, tuple[float, float, float] | str], late: tuple[str, ...] = (), target: str = "onset"
) -> Channels:
    """A result whose variables go through the wires in these shares; "joint" (only D and T together) or "weak"."""
    rng, pairs = np.random.default_rng(0), 12
    on = (np.arange(8)[:, None] >> np.arange(3)) & 1
    odds, differ = [], []
    for name, kind in variables.items():
        strength = (0.2 if kind == "weak" else 16.0) * rng.uniform(0.8, 1.2, (pairs, 1))
        wires = np.array(MIXTURE if kind == "weak" else DIRECT if isinstance(kind, str) else kind)
        toward = (
            on[:, 0] * on[:, 2]
            if kind == "joint"
            else on @ wires + rng.normal(0, 0.01, (pairs, 8)) * (on.sum(1) % 3 > 0)
        )
        odds.append(strength * (toward - 0.5))
        differ += [name not in late] * pairs
    v = np.repeat(np.concatenate(odds)[:, None], 2, axis=1)
    log_p = np.stack([-np.logaddexp(0, -v), -np.logaddexp(0, v), np.full(v.shape, -30.0)], axis=-1)
    rates = np.ones(v.shape)
    return Channels(
        coords={"variable": tuple(variables)},
        manifest=Manifest(
            {"target": target, "model": "hand-made"},
            {
                "first_use": {name: 3 if name in late else 1 for name in variables},
                "last_step": 3,
                "asked": dict.fromkeys(variables, pairs),
                "ended": dict.fromkeys(variables, pairs),
            },
        ),
        variable=np.repeat(np.arange(len(variables)), pairs),
        cots_differ=np.array(differ),
        log_p=log_p,
        outcome=np.where(v > 0, 0, 1).astype(np.int8),
        program=np.broadcast_to(np.where(on[:, 2], 1.0, -1.0), v.shape).copy(),
        agrees=rates,
        agrees_shuffled=rates,
        entropy=rates,
        log_p_boundary=log_p,
        unit=np.arange(len(v)),
        log_p_gold=log_p[..., :2],
        distance=rates,
    )


def make_ledger(steps: int = 2) -> Ledger:
    names = [f"step.{k + 1}" for k in range(steps)]
    targets, sources = (*names, "answer"), ("operand.1", *names)
    load = np.full((len(targets), len(sources), 4), np.nan)
    load[:, 0] = [1, 0, 0, 0]
    for step in range(steps):
        load[step + 1, step + 1] = 1
    copy_edge = np.zeros((len(targets), len(sources)), bool)
    copy_edge[-1, -1] = True
    coords = {"target": targets, "source": sources}
    own = np.zeros((len(targets), 4))
    arrays = {"load": load, "keep": 1 - load, "broken": load * 0, "chance": load * 0, "unswapped": load * 0 + 1}
    return Ledger(coords=coords, manifest=Manifest(), own=own, copy_edge=copy_edge, **arrays)


def make_decodability(places: tuple[str, ...], bits: tuple[float, ...]) -> Decodability:
    """Two variables, the second the answer; the second layer reads these bits of it, the first one less."""
    rng, problems, many = np.random.default_rng(0), 30, len(places)
    values = np.array(bits)[:, None, None, None, None] + rng.normal(0, 0.1, (many, 1, 2, 2, problems))
    values[:, :, 0] -= 1
    coords = {"place": places, "site": ("resid_post",), "layer": (0, 1), "variable": ("v_1", "v_2")}
    return Decodability(
        coords={**coords, "mode": ("answer-only", "cot"), "control": CONTROLS, "share": SHARES},
        manifest=Manifest(),
        bits=values,
        curve_bits=values[:, 0, 1],
        controls=np.stack([np.full((many, 2, problems), level) for level in (0.5, 0.25, 0.0)]),
        shuffled=np.tile([-0.02, 0.01], (many, 2, 1)),
        chosen=values[0, 0, 1],
        taught=np.zeros((3, 2)),
        null=np.full((2, problems), 3.0),
        majority=np.full(2, 0.125),
        correct=np.ones((2, problems)),
    )


def make_patch(effect: tuple[tuple[float, ...], ...], positions: tuple[str, ...]) -> PatchMap:
    values = np.array(effect)[..., None] * 4.0 - 2.0 + np.zeros(3)
    coords = {"layer": tuple(range(len(effect))), "position": positions, "names": ("operand.1",)}
    ends = {"recipient": np.full(3, -2.0), "donor": np.full(3, 2.0), "variable": np.zeros(3, int)}
    said = {"outcome": np.zeros(values.shape, np.int8), "exact": np.ones(values.shape[:-1], bool)}
    return PatchMap(coords=coords, manifest=Manifest({"direction": "denoising"}), values=values, **ends, **said)


def make_by_layer(variables: Mapping[str, tuple[tuple[float, float, float], ...]]) -> ByLayer:
    """A result whose wires carry these shares, layer by layer."""
    rng, pairs = np.random.default_rng(0), 12
    on = (np.arange(8)[:, None] >> np.arange(3)) & 1
    toward = np.repeat([np.array(shares) @ on.T for shares in variables.values()], pairs, axis=0)
    log_odds = 16.0 * (toward - 0.5) + rng.normal(0, 0.5, toward.shape)
    layers = toward.shape[1]
    return ByLayer(
        coords={"variable": tuple(variables), "layer": tuple(range(layers)), "cell": tuple(range(8))},
        manifest=Manifest(),
        variable=np.repeat(np.arange(len(variables)), pairs),
        log_odds=np.stack([log_odds, log_odds], axis=2).transpose(1, 0, 2, 3),
    )


def make_relay(variables: Mapping[str, tuple[float, ...]]) -> RelayByPosition:
    """A result in which each step, and all at once, carry these shares of 10 nats."""
    rng, pairs = np.random.default_rng(0), 12
    shares = np.repeat(list(variables.values()), pairs, axis=0)
    alone = 10 * shares + rng.normal(0, 0.5, shares.shape)
    parts = (*(f"step.{k}" for k in range(1, shares.shape[1])), "all")
    return RelayByPosition(
        coords={"variable": tuple(variables), "part": parts},
        manifest=Manifest(),
        variable=np.repeat(np.arange(len(variables)), pairs),
        alone=np.stack([alone, alone], axis=1),
        total=np.full(len(shares), 10.0),
    )


def make_ablation(*suffice: str) -> Ablation:
    """A result in which any one of these wires alone keeps the answer; elsewhere there is none in half of the runs."""
    rng, runs = np.random.default_rng(0), 12
    kept = np.array([float(any(wire in term for wire in suffice)) for term in TERMS]) * np.ones((runs, 1))
    log_p = (kept - 1) * rng.uniform(4, 8, kept.shape)
    broken = (1 - kept) * (np.arange(runs) % 2)[:, None]
    return Ablation(coords={}, manifest=Manifest(), unit=np.arange(runs), log_p=log_p, kept=kept, broken=broken)


def make_monitor(hints: bool = True) -> Monitor:
    """One reader that predicts two of three answers, and one that predicts none but knows a followed hint."""
    many = 24
    followed = np.where(np.arange(many) % 2, 1.0, 0.0) if hints else np.full(many, np.nan)
    readers = ("last value", "suspicion") if hints else ("last value",)
    predicted = (np.arange(many) % 3 > 0).astype(float)
    return Monitor(
        coords={"reader": readers, "problem": tuple(map(str, range(many)))},
        manifest=Manifest(),
        hit=np.stack([predicted, np.full(many, np.nan)])[: len(readers)],
        flagged=np.stack([followed * predicted, followed])[: len(readers)],
        followed=followed,
        hinted=np.full(many, float(hints)),
        correct=np.ones(many),
        majority=(np.arange(many) < 6).astype(float),
    )


def make_all() -> dict[str, Result]:
    return {
        "channels": make_channels(
            {"operand.1": TOKENS, "operand.2": "joint", "operand.3": DIRECT}, late=("operand.3",)
        ),
        "cells": make_channels({"operand.1": MIXTURE}),
        "ledger": make_ledger(),
        "decodability": make_decodability(("answer-only cue[-1]", "cot cue[-1]"), (1.0, 2.0)),
        "patch": make_patch(((0.0, 0.5), (-0.2, 1.0)), ("<bos>", "$x$")),
        "by_layer": make_by_layer({"operand.1": (MIXTURE, (0.5, 0.0, 0.2), (0.0, 0.0, 0.1))}),
        "relay_by_position": make_relay({"operand.1": (0.1, 0.8, 1.0), "operand.2": (0.0, -0.2, 0.0)}),
        "ablation": make_ablation("direct", "tokens"),
        "monitor": make_monitor(),
    }


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def ticks(axes: Axes, which: str) -> dict[str, float]:
    axis = getattr(axes, f"{which}axis")
    return {label.get_text(): at for label, at in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)}


def inches(axes: Axes) -> tuple[float, float]:
    """Width and height of the figure that axes are in."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return float(figure.get_figwidth()), float(figure.get_figheight())


def bars(axes: Axes, wire: str) -> list[float]:
    (container,) = [box for box in axes.containers if box.get_label() == wire]
    return [patch.get_width() for patch in container]


def marks(axes: Axes) -> dict[str, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """x and y of all marks by their name in the legend."""
    return {str(line.get_label()): np.asarray(line.get_xydata()).T for line in axes.lines}


def intervals(axes: Axes) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Corners of all intervals, in the order in which they were drawn."""
    drawn = [lines for lines in axes.collections if isinstance(lines, LineCollection)]
    return np.concatenate([np.reshape(lines.get_segments(), (-1, 4)) for lines in drawn])


def meshes(axes: Axes) -> list[np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    found = [mesh for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    return [np.ma.filled(np.ma.asarray(mesh.get_array()), np.nan) for mesh in found]


def test_channels_draws_the_shares_and_their_intervals() -> None:
    result = make_channels({"operand.1": MIXTURE, "operand.2": TOKENS})
    axes = figures.channels(result)
    rows = ["operand.1", "operand.2", "mean"]
    assert list(ticks(axes, "y")) == rows
    intervals = [lines for lines in axes.collections if isinstance(lines, LineCollection)][1:]  # after those at 0 and 1
    for i, wire in enumerate(WIRES):
        expected = [result.estimates(row).get("log-odds", "share")[i] for row in rows]
        np.testing.assert_allclose(bars(axes, wire), expected)
        drawn = np.array([line[:, 0] for line in intervals[i].get_segments()])
        for bound, column in (("low", 0), ("high", 1)):
            expected = [result.estimates(row).get("log-odds", "share", bound)[i] for row in rows]
            np.testing.assert_allclose(drawn[:, column], expected)
    assert bars(axes, "relay")[0] < 0, "signed, not clipped"
    legend = axes.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == list(WIRES)
    assert to_rgba(figures.WIRE_COLOURS["tokens"]) == axes.containers[2][0].get_facecolor()


def test_channels_says_what_it_does_not_split() -> None:
    result = make_channels({"operand.1": "weak", "operand.2": "joint", "operand.3": DIRECT}, late=("operand.3",))
    assert [result.status(name) for name in result.variables] == ["withheld: b", "joint", "not available to tokens"]
    axes = figures.channels(result)
    assert texts(axes) == ["withheld: b", "joint", "withheld: b", "tokens: not available"]
    assert [len(bars(axes, wire)) for wire in WIRES] == [1, 1, 0]
    assert any(patch.get_hatch() for patch in axes.patches)
    labels = ticks(axes, "y")
    assert list(labels) == ["operand.1", "operand.2", "mean", "operand.3 †"]
    assert labels["operand.3 †"] - labels["mean"] > 1, "listed apart"
    assert "† first used at the target step" in axes.get_xlabel()


def test_channels_of_several_models_share_one_axes() -> None:
    chain, one_pass = make_channels({"operand.1": TOKENS}), make_channels({"operand.1": DIRECT})
    axes = figures.channels({"RL": chain, "SFT_$x$": one_pass})
    assert texts(axes) == ["RL", "SFT_$x$"]
    np.testing.assert_allclose(bars(axes, "tokens"), [1, 1, 0, 0], atol=0.01)
    np.testing.assert_allclose(bars(axes, "direct"), [0, 0, 1, 1], atol=0.01)
    assert axes.figure.axes == [axes]


def test_channels_where_every_share_is_withheld_or_no_variable_is_early() -> None:
    assert texts(figures.channels(make_channels({"operand.1": "weak"}))) == ["withheld: b", "withheld: b"]
    late = make_channels({"operand.1": DIRECT}, late=("operand.1",))
    assert list(ticks(figures.channels(late), "y")) == ["operand.1 †"]
    with pytest.raises(InputError, match=r"got none in the result: pass variable=, one of operand.1"):
        figures.cells(late)


def test_stacked_channels_lay_the_wires_end_to_end_and_negative_ones_to_the_left() -> None:
    result = make_channels({"operand.1": (0.1, -0.08, 0.98), "operand.2": (0.05, 0.1, 0.85)})
    axes = figures.channels(result, stacked=True)
    rows = ["operand.1", "operand.2", "mean"]
    shares = np.array([result.estimates(row).get("log-odds", "share") for row in rows])
    assert shares[0, 1] < -0.05 and shares[1].min() > 0.03
    ends = {}
    for i, wire in enumerate(WIRES):
        (drawn,) = [bar for bar in axes.containers if isinstance(bar, BarContainer) and bar.get_label() == wire]
        np.testing.assert_allclose([patch.get_width() for patch in drawn], shares[:, i])
        ends[wire] = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in drawn]
    assert all(ends["direct"][row][0] == 0 for row in range(3))
    assert ends["relay"][0][0] == 0 and ends["relay"][1][0] == pytest.approx(ends["direct"][1][1])
    assert ends["tokens"][0][0] == pytest.approx(ends["direct"][0][1])
    assert ends["tokens"][1] == pytest.approx((ends["relay"][1][1], 1.0))
    lines = [lines for lines in axes.collections if isinstance(lines, LineCollection)][1:4]
    for i, wire in enumerate(WIRES):
        start = np.array([end[0] for end in ends[wire]])
        bounds = [[result.estimates(row).get("log-odds", "share", b)[i] for row in rows] for b in ("low", "high")]
        drawn_bounds = np.array([line[:, 0] for line in lines[i].get_segments()]).T
        np.testing.assert_allclose(drawn_bounds, start + np.array(bounds))


def test_stacked_channels_show_the_interaction_that_makes_a_row_joint() -> None:
    result = make_channels({"operand.1": "joint", "operand.2": DIRECT, "operand.3": "weak"})
    axes = figures.channels(result, stacked=True)
    marks = [marks.get_offsets() for marks in axes.collections if isinstance(marks, PathCollection)]
    drawn = [float(np.asarray(mark)[0, 0]) for mark in marks]
    expected = []
    for row in ("operand.1", "operand.2"):  # of a row that is withheld there is none
        found = result.estimates(row)
        every = found.get("p(donor's)", "interaction") / found.get("p(donor's)", "total")
        expected.append(every[np.abs(every).argmax()])
    assert drawn == pytest.approx(expected) and abs(drawn[0]) > 0.2 > abs(drawn[1])
    assert texts(axes) == ["joint", "withheld: b", "withheld: b"]
    assert "strongest interaction" in figures.alt(figures.channels(make_channels({"operand.1": DIRECT}), stacked=True))


def test_channels_refuses_to_mix_targets() -> None:
    results = {target: make_channels({"operand.1": TOKENS}, target=target) for target in ("onset", "answer")}
    with pytest.raises(InputError, match="one target, got answer, onset: draw one figure per target"):
        figures.channels(results)


def test_cells_draws_the_log_odds_of_each_cell() -> None:
    a, b = make_channels({"operand.1": MIXTURE}), make_channels({"operand.1": "weak", "operand.2": DIRECT})
    axes = figures.cells({"RL": a, "SFT": b}, variable="operand.1")
    order = [0, 1, 2, 4, 3, 5, 6, 7]
    shown = [line for line in axes.lines if line.get_label() in {"RL", "SFT (withheld: b)"}]
    for line, result in zip(shown, (a, b), strict=True):
        np.testing.assert_allclose(
            np.asarray(line.get_ydata()), result.estimates("operand.1").get("log-odds", "cell")[order]
        )
    assert list(ticks(axes, "x"))[:5] == ["-\n-\n-", "D\n-\n-", "-\nR\n-", "-\n-\nT", "D\nR\n-"]
    with pytest.raises(UnknownNameError, match=r"unknown variable 'operand.9'"):
        figures.cells(a, variable="operand.9")


def test_ledger_draws_loads_blanks_and_copies() -> None:
    result = make_ledger()
    axes = figures.ledger(result)
    (drawn,) = meshes(axes)
    np.testing.assert_array_equal(drawn, [[0.25, np.nan, np.nan], [0.25, 1, np.nan], [0.25, np.nan, 1]])
    assert list(ticks(axes, "x")) == ["operand.1", "step.1", "step.2"]
    assert list(ticks(axes, "y")) == ["step.1", "step.2", "answer"]
    assert texts(axes) == [".25", ".25", "1", ".25", "1", "c"]


def test_ledgers_of_several_models_are_tiles_over_the_same_targets() -> None:
    axes = figures.ledger({"RL": make_ledger(1), "SFT": make_ledger(3)})
    short, long = meshes(axes)
    assert list(ticks(axes, "y")) == ["step.1", "step.2", "step.3", "answer"]
    assert np.isnan(short[1:3]).all() and short[3, 1] == 1 and long[3, 3] == 1
    assert {"RL", "SFT"} < set(texts(axes))
    assert axes.figure.axes == [axes]


def test_ledger_leaves_numbers_out_where_they_do_not_fit() -> None:
    _, axes = plt.subplots(figsize=(1, 1))
    figures.ledger({str(k): make_ledger(4) for k in range(4)}, ax=axes)
    assert set(texts(axes)) == {"0", "1", "2", "3", "c"}  # names and copies


def test_decodability_draws_the_curve_along_both_runs() -> None:
    direct = make_decodability(("answer-only prompt[-1]", "answer-only cue[-1]"), (1.0, 2.0))
    chain = make_decodability(("cot prompt[-1]", "cot step.1[-1]", "cot cue[-1]"), (0.0, 1.0, 3.0))
    axes = figures.decodability({"direct": direct, "sft": chain})
    drawn = {str(line.get_label()): line for line in axes.lines}
    np.testing.assert_allclose(np.asarray(drawn["direct"].get_ydata()), direct.curve()["bits"])
    np.testing.assert_allclose(np.asarray(drawn["sft"].get_ydata()), chain.curve()["bits"])
    x = np.concatenate([np.asarray(drawn[name].get_xdata()) for name in ("direct", "sft")])
    assert x.tolist() == [0, 1, 3, 4, 5], "a gap between the runs"
    assert texts(axes) == ["H(y)", "answer-only run", "CoT run"]
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [3.0, 3.0]  # type: ignore[index]
    assert axes.get_ylabel() == "bits about the answer"
    assert figures.decodability(chain, variable="v_1").get_ylabel() == "bits about v_1"


def test_decodability_shows_its_controls() -> None:
    chain = make_decodability(("cot prompt[-1]", "cot cue[-1]"), (1.0, 2.0))
    axes = figures.decodability(chain)
    by_style = {line.get_linestyle(): line for line in axes.lines if len(np.asarray(line.get_xdata())) == 2}
    assert np.asarray(by_style[":"].get_ydata()).tolist() == [0.5, 0.5]
    assert np.asarray(by_style["-."].get_ydata()).tolist() == [0.25, 0.25]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["random weights", "text alone"]


def test_a_decodability_map_has_both_runs_side_by_side_and_the_first_layer_at_the_bottom() -> None:
    places = ("answer-only cue[-1]", "cot prompt[-1]", "cot cue[-1]")
    found = make_decodability(places, (2.0, 0.0, 1.0))
    axes = figures.decodability_map(found)
    direct, chain = meshes(axes)
    np.testing.assert_allclose(direct, found.bits[:1, 0, ::-1, 1].mean(-1).T)
    np.testing.assert_allclose(chain, found.bits[1:, 0, ::-1, 1].mean(-1).T)
    assert {"answer-only", "CoT"} <= set(texts(axes))
    assert [mesh.get_clim() for mesh in axes.collections if isinstance(mesh, QuadMesh)] == [(0.0, 3.0)] * 2


def test_decodability_of_runs_with_other_positions_keeps_the_order_of_the_run() -> None:
    short = make_decodability(("cot prompt[-1]", "cot cue[-1]"), (0.0, 1.0))
    long = make_decodability(("cot prompt[-1]", "cot step.1[-1]", "cot cue[-1]"), (0.0, 1.0, 2.0))
    axes = figures.decodability({"short": short, "long": long})
    assert ticks(axes, "x") == {"prompt[-1]": 0, "step.1[-1]": 1, "cue[-1]": 2}


def test_patch_draws_the_effect_signed_with_the_first_layer_at_the_bottom() -> None:
    axes = figures.patch(
        {"a": make_patch(((0.0, 0.5), (-0.2, 1.5)), ("<bos>", "$x$")), "b": make_patch(((1.0,),), ("cue",))}
    )
    first, second = meshes(axes)
    np.testing.assert_allclose(first, [[-0.2, 1.5], [0.0, 0.5]])
    np.testing.assert_allclose(second, [[np.nan], [1.0]])
    (mesh, _) = [mesh for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    assert mesh.get_clim() == (-1.5, 1.5)
    assert list(ticks(axes, "x").values()) == [0.5, 1.5, 3.5] and list(ticks(axes, "x")) == ["<bos>", "$x$", "cue"]
    assert list(ticks(axes, "y")) == ["1", "0"]


def test_patch_names_every_kth_position_where_not_all_fit() -> None:
    names = tuple(f"token {i}" for i in range(200))
    axes = figures.patch(make_patch((tuple(np.zeros(200)),), names))
    shown = list(ticks(axes, "x"))
    assert shown[0] == "token 0" and 20 < len(shown) < 100


CHAIN = (TOKENS, TOKENS, (0.0, 0.0, 0.2))
ONE_PASS = (DIRECT, (0.4, 0.0, 0.0), (0.0, 0.0, 0.0))


def test_by_layer_draws_what_is_left_of_each_wire_in_a_panel_a_variable() -> None:
    result = make_by_layer({"operand.1": CHAIN, "operand.2": ONE_PASS})
    axes, frame = figures.by_layer(result), result.frame()
    lines = [np.asarray(line.get_ydata()) for line in axes.lines if len(np.asarray(line.get_ydata()))]
    drawn = iter(lines)
    bounds = intervals(axes)
    for number, variable in enumerate(("operand.1", "operand.2")):
        for i, wire in enumerate(WIRES):
            rows = frame[(frame["variable"] == variable) & (frame["term"] == wire)]
            np.testing.assert_array_equal(next(drawn), rows["estimate"])
            first = 2 + 11 * number + 3 * i  # after the lines at 0 and 1 of its panel
            np.testing.assert_array_equal(bounds[first : first + 3, [1, 3]], rows[["low", "high"]])
    assert texts(axes) == ["operand.1", "operand.2"] and axes.get_ylabel() == "share of the log-odds"
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["0", "1", "\N{EN DASH}"] * 2, "at the last label no layer reads"
    assert inches(axes)[0] == figures.COLUMN
    assert inches(figures.by_layer(make_by_layer(dict.fromkeys("abc", CHAIN))))[0] == figures.DOUBLE_COLUMN


def test_by_layer_of_several_models_shows_one_variable_that_all_have() -> None:
    one = make_by_layer({"operand.1": CHAIN, "operand.2": ONE_PASS})
    other = make_by_layer({"operand.2": (*ONE_PASS, ONE_PASS[-1])})
    axes = figures.by_layer({"RL": one, "$x$": other})
    assert texts(axes) == ["RL", "$x$"] and axes.get_ylabel().endswith("\n(operand.2)")
    np.testing.assert_allclose(np.asarray(axes.lines[3].get_ydata()), other.wire("direct")[:, 0])
    assert figures.by_layer(one, variable="operand.1").get_ylabel().endswith("\n(operand.1)")
    with pytest.raises(UnknownNameError, match=r"unknown variable 'operand.1': expected one of operand.2"):
        figures.by_layer({"RL": one, "SFT": other}, variable="operand.1")
    with pytest.raises(InputError, match=r"with a variable in common, got operand.1, operand.2 and value: draw"):
        figures.by_layer({"RL": one, "copy": make_by_layer({"value": CHAIN})})


def test_relay_by_position_draws_the_parts_in_order_and_all_of_them_apart() -> None:
    result = make_relay({"operand.1": (0.1, 0.8, 1.0), "operand.2": (0.0, -0.2, 0.0)})
    axes, frame = figures.relay_by_position(result), result.frame()
    places = ticks(axes, "x")
    assert list(places) == ["step.1", "step.2", "all"] and places["all"] - places["step.2"] > 1
    drawn = marks(axes)
    for variable in ("operand.1", "operand.2"):
        np.testing.assert_array_equal(drawn[variable][1], frame["estimate"][frame["variable"] == variable])
        np.testing.assert_allclose(drawn[variable][0], list(places.values()), atol=0.5)
    np.testing.assert_array_equal(intervals(axes)[:, [1, 3]], frame[["low", "high"]])
    low, high = axes.get_ylim()
    assert low < frame["low"].min() < 0 and high > 1, "signed, not clipped"


def test_relay_by_position_of_several_models_shows_the_variable_with_the_strongest_relay() -> None:
    one = make_relay({"operand.1": (0.1, 0.8, 1.0), "operand.2": (0.0, 0.0, 0.0)})
    other = make_relay({"operand.1": (0.0, 0.0), "operand.2": (0.5, 0.5)})
    axes = figures.relay_by_position({"RL": one, "SFT": other})
    assert axes.get_ylabel().endswith("\n(operand.1)")
    assert list(ticks(axes, "x")) == ["step.1", "step.2", "all"]
    np.testing.assert_allclose(marks(axes)["SFT"][1], 0, atol=0.1)
    assert len(marks(axes)["SFT"][1]) == 2, "it has one step"
    second = figures.relay_by_position({"RL": one, "SFT": other}, variable="operand.2")
    np.testing.assert_allclose(marks(second)["SFT"][1], 0.5, atol=0.1)


@pytest.mark.parametrize("quantity", ["loss", "kept", "broken"])
def test_ablation_draws_a_row_a_set_of_wires(quantity: str) -> None:
    results = {"redundant": make_ablation("direct", "tokens"), "chain": make_ablation("tokens")}
    axes = figures.ablation(results, quantity=quantity)
    assert list(ticks(axes, "y")) == list(TERMS) == list(results["chain"].table()["on"])
    bounds = intervals(axes).reshape(2, len(TERMS), 4)
    for (name, result), drawn in zip(results.items(), bounds, strict=True):
        rows = result.frame().query("quantity == @quantity")
        np.testing.assert_array_equal(marks(axes)[name][0], rows["estimate"])
        np.testing.assert_array_equal(marks(axes)[name][1].round(), range(len(TERMS)))
        np.testing.assert_array_equal(drawn[:, [0, 2]], rows[["low", "high"]])
    assert axes.get_ylim() == (len(TERMS) - 0.5, -0.5), "no wire at the top"
    with pytest.raises(UnknownNameError, match="unknown quantity 'lost': expected one of loss, kept, broken"):
        figures.ablation(results, quantity="lost")


def test_monitor_draws_what_each_reader_tells_beside_chance() -> None:
    result = make_monitor()
    axes = figures.monitor({"hinted": result, "plain": make_monitor(hints=False)})
    frame = result.frame()
    drawn = marks(axes)
    words = {"predicts the model's answer": "accuracy", "hint followed: flagged (TPR)": "TPR"}
    for label, quantity in (words | {"not followed: passed (TNR)": "TNR"}).items():
        rows = frame[(frame["quantity"] == quantity) & (frame["n"] > 0)]
        np.testing.assert_array_equal(drawn[label][1], rows["estimate"])
        np.testing.assert_array_equal(
            drawn[label][0].round(), [result.readers.index(reader) for reader in rows["reader"]]
        )
        bounds = [box[[1, 3]] for box in intervals(axes) if box[0] in drawn[label][0]]
        np.testing.assert_array_equal(bounds, rows[["low", "high"]])
    assert len(drawn["predicts the model's answer"][1]) == 1, "suspicion predicts no answer"
    assert drawn["most frequent answer"][1].tolist() == [0.25, 0.25]
    assert texts(axes) == ["hinted", "plain"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["last value", "suspicion", "last value"]


def test_monitor_without_hints_speaks_of_none() -> None:
    legend = figures.monitor(make_monitor(hints=False)).get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["predicts the model's answer", "most frequent answer"]


@pytest.mark.parametrize("name", make_all())
def test_axes_in_axes_out_and_nothing_global_changes(name: str) -> None:
    matplotlib.rcParams["backend"]  # resolved when first read
    before = dict(matplotlib.rcParams)
    figure, axes = plt.subplots()
    draw = getattr(figures, name)
    assert draw(make_all()[name], ax=axes) is axes
    assert figure.axes == [axes]
    own = draw(make_all()[name])
    assert own.figure.get_figwidth() == figures.COLUMN and own.xaxis.label.get_size() == 7.5
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("venue", figures.VENUES)
def test_in_the_style_of_a_venue_figures_have_its_widths_and_letters(venue: str, tmp_path: Path) -> None:
    matplotlib.rcParams["backend"]  # resolved when first read
    before, result, printed = dict(matplotlib.rcParams), make_channels({"operand.1": TOKENS}), figures.VENUES[venue]
    plain = figures.save(figures.channels(result), tmp_path / "before", ("pdf", "png"))
    with figures.style(venue):
        axes, own = figures.channels(result), plt.subplots()[1]
        assert inches(axes)[0] == inches(own)[0] == printed.column
        assert axes.xaxis.label.get_fontsize() == own.xaxis.label.get_fontsize() == printed.size
        with figures.style():
            assert inches(figures.channels(result))[0] == figures.COLUMN
        wide = figures.commitment(dict.fromkeys("ab", load(RESULTS / "commitment.safetensors")))
        assert inches(wide)[0] == printed.page
        used = plt.subplots()[1]
        assert figures.channels(result, used) is used
    with figures.style(venue, columns=2):
        assert inches(figures.channels(result))[0] == printed.page
        assert plt.subplots()[0].get_figwidth() == printed.page
    assert dict(matplotlib.rcParams) == before
    after = figures.save(figures.channels(result), tmp_path / "after", ("pdf", "png"))
    assert [path.read_bytes() for path in plain] == [path.read_bytes() for path in after]


def test_heights_go_with_the_letters() -> None:
    result = make_channels({"operand.1": TOKENS})
    height = inches(figures.channels(result))[1]
    with figures.style("nature"):
        assert inches(figures.channels(result))[1] == pytest.approx(height * 7.0 / 7.5)


def test_a_style_that_fails_leaves_nothing_set() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown venue 'neurip': expected one of aaai, .*; nearest: 'neurips'"):
        figures.style("neurip")
    with pytest.raises(InputError, match="expected 1 or 2 columns, got 3: a figure is as wide as a column"):
        figures.style("acl", columns=3)
    with pytest.raises(ZeroDivisionError), figures.style("jmlr"):
        raise ZeroDivisionError
    assert inches(figures.ledger(make_ledger()))[0] == figures.COLUMN


@pytest.mark.parametrize("name", make_all())
def test_nothing_is_cut_off_at_column_width(name: str) -> None:
    axes = getattr(figures, name)({"one model": make_all()[name]})
    figure = axes.figure
    figure.draw_without_rendering()
    tight, whole = figure.get_tightbbox(), figure.bbox_inches
    assert whole.x0 <= tight.x0 and tight.x1 <= whole.x1 and whole.y0 <= tight.y0 and tight.y1 <= whole.y1


@pytest.mark.parametrize("name", make_all())
def test_saving_twice_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    axes = getattr(figures, name)(make_all()[name])
    first = figures.save(axes, tmp_path / "fig.v1")
    second = figures.save(axes, tmp_path / "again")
    third = figures.save(getattr(figures, name)(make_all()[name]), tmp_path / "redrawn")
    assert [path.name for path in first] == ["fig.v1.pdf", "fig.v1.png", "fig.v1.svg"]
    for a, b, c in zip(first, second, third, strict=True):
        assert a.read_bytes() == b.read_bytes() == c.read_bytes()
    pdf, png, svg = (path.read_bytes() for path in first)
    assert b"CreationDate" not in pdf and b"/FontFile2" in pdf and b"<dc:date>" not in svg
    width = int.from_bytes(png[16:20], "big")
    assert width == int(figures.COLUMN * 300)


def test_save_refuses_unknown_formats_and_suffixes(tmp_path: Path) -> None:
    _, axes = plt.subplots()
    with pytest.raises(UnknownNameError, match="unknown format 'jpg': expected one of pdf, png, svg"):
        figures.save(axes, tmp_path / "fig", formats=("pdf", "jpg"))
    with pytest.raises(InputError, match=r"expected a path without suffix, got .*fig.pdf: pass '.*fig' and formats"):
        figures.save(axes, tmp_path / "fig.pdf")
    assert not list(tmp_path.iterdir())


def test_bad_input_says_what_was_expected_what_came_and_what_to_do() -> None:
    with pytest.raises(InputError, match="expected a Channels or a dict of name to Channels, got list: pass what"):
        named([make_ledger()], Channels)
    with pytest.raises(
        InputError, match=r"got Ledger under 'RL': pass what loadbearing.analyses.channels\(...\) returned"
    ):
        named({"RL": make_ledger()}, Channels)
    with pytest.raises(InputError, match="got an empty dict: put at least one result in it"):
        figures.ledger({})


SCRIPT = """
import sys
import loadbearing as lb
from loadbearing import figures
folder, *names = sys.argv[1:]
for name in names:
    axes = getattr(figures, name)(lb.load(f"{folder}/{name}.safetensors"))
    figures.save(axes, f"{folder}/{name}-loaded", formats=("png",))
try:
    figures.channels(3)
except lb.core.InputError as error:
    print(error)
print([name for name in ("transformers", "transformer_lens", "nnsight") if name in sys.modules])
"""


def test_a_loaded_result_draws_the_same_without_transformers(tmp_path: Path) -> None:
    for name, result in make_all().items():
        result.save(tmp_path / f"{name}.safetensors")
        figures.save(getattr(figures, name)(result), tmp_path / name, formats=("png",))
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path), *make_all()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("expected a Channels or a dict of name to Channels, got int: pass")
    assert done.stdout.splitlines()[1] == "[]"
    for name in make_all():
        assert (tmp_path / f"{name}.png").read_bytes() == (tmp_path / f"{name}-loaded.png").read_bytes()


def test_loading_keeps_what_is_drawn(tmp_path: Path) -> None:
    result = make_channels({"operand.1": MIXTURE})
    again = load(result.save(tmp_path / "ch.safetensors"))
    assert isinstance(again, Channels)
    assert bars(figures.channels(again), "direct") == bars(figures.channels(result), "direct")
