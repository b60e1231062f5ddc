"""Claims and verdicts: what decides, and that chance seldom does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.analyses.claims import Claim, Condition, Term, combined, interval, judge, load_claims, verdicts
from loadbearing.analyses.interval import rate_interval
from loadbearing.analyses.reading import MEASURES, Product, Reading, share
from loadbearing.core import InputError, UnknownNameError

ACCURACY = "CoT accuracy"


def hits(rate: float, n: int = 200) -> Reading:
    return Reading.of(np.repeat([1.0, 0.0], [round(rate * n), n - round(rate * n)]))


def claim(name: str, threshold: float, side: Any = "above", **more: Any) -> Claim:
    return Claim(name, f"claim {name}", (Term(name, ACCURACY),), side, threshold, **more)


def finder(**rates: float) -> Any:
    return lambda organism, measure: [hits(rates[organism])] if organism in rates else f"{organism} was not measured"


def test_the_claims_of_the_debate_name_organisms_that_exist() -> None:
    claims, level = load_claims()
    assert level == 0.05
    assert len({one.id for one in claims}) == len(claims) == 13
    named = {term.organism for one in claims for term in one.terms}
    assert named <= set(lb.organisms.ORGANISMS)
    assert {term.measure for one in claims for term in one.terms} == set(MEASURES)


def test_an_interval_beyond_the_threshold_decides_and_one_across_it_does_not() -> None:
    claims = [claim("high", 0.8), claim("low", 0.8), claim("near", 0.8), claim("small", 0.5, "below")]
    found = {one.claim.id: one for one in judge(finder(high=0.97, low=0.3, near=0.82, small=0.2), claims, 0.05)}
    assert {name: one.verdict for name, one in found.items()} == {
        "high": "supported",
        "low": "contradicted",
        "near": "not settled",
        "small": "supported",
    }
    assert found["near"].low < 0.8 < found["near"].high
    table = verdicts(list(found.values()))
    assert table["verdict"].tolist() == ["supported", "contradicted", "not settled", "supported"]
    assert table["side"].tolist() == ["above"] * 3 + ["below"]
    assert table["threshold"].tolist() == [0.8] * 3 + [0.5]


def test_what_is_missing_or_unmet_is_not_settled_and_named() -> None:
    condition = Condition(Term("other", ACCURACY), "above", 0.8)
    claims = [claim("gone", 0.5), claim("high", 0.5, requires=(condition,)), claim("fine", 0.5)]
    gone, unmet, fine = judge(finder(high=0.9, other=0.6, fine=0.9), claims, 0.05)
    assert (gone.verdict, gone.reason) == ("not settled", "gone was not measured")
    assert (unmet.verdict, unmet.reason) == (
        "not settled",
        "CoT accuracy of other above 0.8 does not hold: 0.60",
    )
    assert unmet.secondary["CoT accuracy of other"][0] == pytest.approx(0.6)
    assert (fine.verdict, fine.reason) == ("supported", "")


def test_levels_are_holms() -> None:
    """Three claims: the clearest is judged at a third of the level, the next at a half; a failure stops the rest."""
    rates = {"a": 0.99, "b": 0.6, "c": 0.595}
    one, two, three = judge(finder(**rates), [claim(name, 0.5) for name in rates], 0.05)
    assert (one.level, two.level) == pytest.approx((0.05 / 3, 0.05 / 2))
    assert one.p < two.p < three.p
    failed = judge(finder(a=0.99, b=0.55, c=0.54), [claim(name, 0.5) for name in "abc"], 0.05)
    assert [each.verdict for each in failed] == ["supported", "not settled", "not settled"]
    assert failed[1].level == failed[2].level == pytest.approx(0.05 / 2)


def test_p_is_where_the_interval_touches_the_threshold() -> None:
    terms = [(1.0, [hits(0.62)])]
    found = judge(finder(x=0.62), [claim("x", 0.5)], 0.05)[0]
    assert combined(terms, found.p * 0.99)[1] < 0.5 < combined(terms, found.p * 1.01)[1]


def test_chance_seldom_decides() -> None:
    """Twelve claims whose truth lies on the threshold: any verdict at all in about 5 % of the experiments."""
    rng = np.random.default_rng(0)
    decided = 0
    for _ in range(200):
        drawn = {f"c{i}": [Reading.of((rng.random(150) < 0.5).astype(float))] for i in range(12)}

        def find(organism: str, measure: str, drawn: Any = drawn) -> Any:
            return drawn[organism]

        found = judge(find, [claim(name, 0.5) for name in drawn], 0.05)
        decided += any(one.verdict != "not settled" for one in found)
    assert decided <= 20  # 5 % of 200 are 10; 20 is more than three standard errors above


def test_differences_and_seeds_widen_an_interval_as_they_should() -> None:
    one, other = hits(0.9), hits(0.5)
    low, high = rate_interval(0.9, 200)
    assert interval([one], 0.05) == pytest.approx((0.9, low, high))
    estimate, below, above = combined([(1.0, [one]), (-1.0, [other])], 0.05)
    gaps = (0.9 - low, rate_interval(0.5, 200)[1] - 0.5)
    assert estimate == pytest.approx(0.4)
    assert estimate - below == pytest.approx(np.hypot(*gaps))
    same, spread = interval([hits(0.5)] * 3, 0.05), interval([hits(0.2), hits(0.5), hits(0.8)], 0.05)
    assert same[0] == spread[0] == pytest.approx(0.5)
    assert same[2] - same[1] < interval([hits(0.5)], 0.05)[2] - interval([hits(0.5)], 0.05)[1]
    assert spread[2] - spread[1] > 5 * (same[2] - same[1])
    assert above > estimate


def test_a_share_is_the_one_that_channels_reports(organism: Any) -> None:
    model = organism("sft")
    found = lb.analyses.channels(model, model.task.pairs(16))
    for i, wire in enumerate(("direct", "relay", "tokens")):
        reading = share(found, "mean", wire)
        assert reading.estimate == pytest.approx(found.shares()[i])
        estimate, low, high = reading.interval(0.05)
        assert low <= estimate <= high


def test_a_product_holds_where_both_of_its_rates_do() -> None:
    score = Product(hits(0.9), hits(0.5))
    assert score.estimate == pytest.approx(0.45)
    bounds = [rate_interval(rate, 200, 1 - 0.025) for rate in (0.9, 0.5)]
    assert score.interval(0.05)[1:] == pytest.approx([bounds[0][i] * bounds[1][i] for i in (0, 1)])


def test_bad_claims_are_refused(tmp_path: Any) -> None:
    path = tmp_path / "claims.toml"
    path.write_text('level = 0.05\n[[claim]]\nid = "x"\nside = "above"\nthreshold = 0.5\n')
    with pytest.raises(InputError, match="claim 'x' is not whole: 'claim'"):
        load_claims(path)
    path.write_text(
        'level = 0.05\n[[claim]]\nid = "x"\nclaim = "?"\nside = "above"\nthreshold = 0.5\n'
        'endpoint = [{ organism = "sft", measure = "CoT acuracy" }]\n'
    )
    with pytest.raises(UnknownNameError, match=r"unknown measure 'CoT acuracy': .*nearest: 'CoT accuracy'"):
        load_claims(path)
    with pytest.raises(InputError, match="nothing to measure"):
        Reading.of(np.full(3, np.nan))


def test_verdicts_are_drawn_with_what_was_claimed(tmp_path: Path) -> None:
    claims = [claim("small", 0.8), claim("large", 0.8), claim("missing", 0.5, side="below")]
    table = verdicts(judge(finder(small=0.95, large=0.3), claims, 0.05))
    table.to_csv(tmp_path / "claims.csv", index=False)
    ax = lb.figures.claims(tmp_path / "claims.csv")
    assert [text.get_text().split(")")[0] for text in ax.get_yticklabels()] == [f"({one.id}" for one in claims]
    arrows = [(arrow.xyann[0], arrow.xy[0]) for arrow in ax.texts]  # type: ignore[attr-defined]
    assert [end > start for start, end in arrows] == [True, True, False]
    assert [start for start, _ in arrows] == [0.8, 0.8, 0.5]
    intervals = [line.get_xdata() for line in ax.lines if line.get_linewidth() == 1.2]
    np.testing.assert_allclose(np.array(intervals), table[["low", "high"]].to_numpy())
    with pytest.raises(InputError, match="expected verdicts with the columns id, verdict, "):
        lb.figures.claims(table[["id"]])
