"""The algebra of the eight cells, against definitions written out and cases worked out by hand."""

from itertools import permutations

import numpy as np
import pytest

from loadbearing.analyses.cells import MIXED, TERMS, moebius, necessity, shapley, shares, sufficiency, total
from loadbearing.analyses.interval import bootstrap_interval, detectable

RNG = np.random.default_rng(0)
DIRECT, RELAY, TOKENS = 1, 2, 4


def test_shapley_is_the_mean_over_orders() -> None:
    v = RNG.normal(size=8)
    expected = np.zeros(3)
    for order in permutations(range(3)):
        on = 0
        for wire in order:
            expected[wire] += (v[on | 1 << wire] - v[on]) / 6
            on |= 1 << wire
    np.testing.assert_allclose(shapley(v), expected)


def test_shapley_adds_up_to_the_total() -> None:
    v = RNG.normal(size=(50, 8))
    np.testing.assert_allclose(shapley(v).sum(-1), total(v))
    np.testing.assert_allclose(shares(v).sum(-1), 1.0)


def test_moebius_is_inverted_by_summing_over_subsets() -> None:
    v = RNG.normal(size=8)
    m = moebius(v)
    back = [sum(m[part] for part in range(8) if part & cell == part) for cell in range(8)]
    np.testing.assert_allclose(back, v)


@pytest.mark.parametrize(("wire", "at"), [(DIRECT, 0), (RELAY, 1), (TOKENS, 2)])
def test_one_wire_alone_has_the_whole_share(wire: int, at: int) -> None:
    v = np.array([3.0 if cell & wire else -1.0 for cell in range(8)])
    expected = np.eye(3)[at]
    for measure in (shares, sufficiency, necessity):
        np.testing.assert_allclose(measure(v), expected, atol=1e-12)
    assert moebius(v)[list({1, 2, 3, 4, 5, 6, 7} - {wire})].tolist() == [0.0] * 6


def test_both_wires_needed_is_pure_interaction() -> None:
    v = np.array([1.0 if cell & DIRECT and cell & TOKENS else 0.0 for cell in range(8)])
    np.testing.assert_allclose(shares(v), [0.5, 0.0, 0.5])
    np.testing.assert_allclose(sufficiency(v), 0.0)
    np.testing.assert_allclose(necessity(v), [1.0, 0.0, 1.0])
    np.testing.assert_allclose(moebius(v), np.eye(8)[DIRECT | TOKENS])


def test_with_both_directions_the_share_follows_from_sufficiency() -> None:
    # With pairs run both ways v(S) = -v(complement), so share_i = sufficiency_i + (1 - sum of sufficiencies) / 3.
    v = RNG.normal(size=8)
    v = v - v[::-1]
    found = sufficiency(v)
    np.testing.assert_allclose(shares(v), found + (1 - found.sum()) / 3)


def test_names_of_cells() -> None:
    assert TERMS[0] == "none"
    assert TERMS[DIRECT | TOKENS] == "direct+tokens"
    assert set(MIXED) == set(range(8)) - {0, 7}


def test_what_is_called_detectable_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    n, spread = 64, 0.3
    values = rng.normal(0, spread, (n, 1))
    low, high = bootstrap_interval((values - values.mean()) * spread / values.std(), lambda means: means)
    effect = float(detectable(high - low, n)[0])
    found = [bootstrap_interval(rng.normal(effect, spread, (n, 1)), lambda means: means)[0][0] > 0 for _ in range(150)]
    assert 0.7 < np.mean(found) < 0.9  # 0.8, within three standard errors of 150 draws
