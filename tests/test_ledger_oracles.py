"""The ledger of models whose program is known: chains, projections, skips, copies, words, letters, no program."""

import math
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.analyses.ledger import _resume, _swap
from loadbearing.analyses.ledger_table import STATES, mean_rate
from loadbearing.analyses.ledger_texts import Texts
from loadbearing.core import GateError, InputError, UnknownNameError
from loadbearing.hooks import Runs
from loadbearing.hooks.format import decode
from loadbearing.hooks.splice import decode_greedily
from loadbearing.tasks import ModularSum, Piece, Problem, Questions, Step

N = 24
OPERANDS = [f"operand.{k}" for k in range(1, 5)]
CHAIN = {
    "step.1": {"operand.1", "operand.2"},
    "step.2": {"step.1", "operand.3"},
    "step.3": {"step.2", "operand.4"},
    "answer": {"step.3"},
}
PROJECTION = {f"step.{k}": set(OPERANDS[: k + 1]) for k in (1, 2, 3)} | {"answer": set(OPERANDS)}
# Rule: its edges, its serial share, its token-mediated depth.
KNOWN: dict[str, tuple[dict[str, set[str]], float, int]] = {
    "chain": (CHAIN, 1.0, 2),
    "projection": (PROJECTION, 0.0, 0),
    "skip": (CHAIN | {"step.3": {"step.1", "operand.3", "operand.4"}}, 0.5, 1),
    "last_step": (PROJECTION | {"step.3": CHAIN["step.3"], "answer": CHAIN["answer"]}, 0.5, 1),
    "again": (CHAIN | {"answer": set(OPERANDS)}, 1.0, 2),
}

Scripted = Callable[..., Any]


def measured(model: Any, spec: str = "modular-sum", n: int = N, **options: Any) -> Any:
    return lb.analyses.ledger(model, lb.tasks.load(spec).problems(n), **options)


@pytest.mark.parametrize("rule", KNOWN)
def test_the_ledger_shows_exactly_the_edges_of_the_program(rule: str, scripted: Scripted) -> None:
    expected, serial, depth = KNOWN[rule]
    found = measured(scripted(rule))
    seen = 0
    for target, source in product(found.targets, found.sources):
        load, _, _, n = found.rate("load", target, source)
        if n:
            seen += 1
            assert load == float(source in expected[target]), (target, source)
            assert found.rate("keep", target, source)[0] == 1 - load
            assert found.rate("unswapped", target, source)[0] == 1.0
    assert seen == 2 + 4 + 6 + 7  # every edge that the program of the task has
    assert found.serial_share()[0] == serial
    assert found.depth() == depth


def test_the_onset_table_cannot_tell_a_chain_from_a_last_step_and_the_ledger_does(scripted: Scripted) -> None:
    pairs = lb.tasks.load("modular-sum").pairs(8)
    tables = {rule: lb.analyses.channels(scripted(rule), pairs) for rule in ("chain", "last_step")}
    for name in pairs.variables:
        chain, other = (table.shares(name) for table in tables.values())
        np.testing.assert_allclose(chain, [1, 0, 0] if name == "operand.4" else [0, 0, 1], atol=1e-6)
        np.testing.assert_allclose(other, chain, atol=1e-6)
    edge = ("step.2", "step.1")
    loads = {rule: measured(scripted(rule), targets=["step.2"]).rate("load", *edge) for rule in tables}
    assert loads["chain"][1] > 0.8 and loads["last_step"][2] < 0.2


def test_a_copied_answer_and_one_computed_again_are_told_apart_and_neither_is_depth(scripted: Scripted) -> None:
    copied, again = measured(scripted("chain")), measured(scripted("again"))
    for found in (copied, again):
        assert found.copy_edge[found.targets.index("answer"), found.sources.index("step.3")]
        assert found.copy_edge.sum() == 1
        assert ("answer", "step.3") not in found.step_edges
        assert found.depth() == 2
    assert (copied.rate("load", "answer", "step.3")[0], again.rate("keep", "answer", "step.3")[0]) == (1.0, 1.0)
    assert (copied.rate("load", "answer", "operand.1")[0], again.rate("load", "answer", "operand.1")[0]) == (0.0, 1.0)


def test_where_the_text_stops_one_step_short_the_answer_is_computed(scripted: Scripted) -> None:
    spec = "modular-sum:cot=short"
    found = measured(scripted("chain", spec), spec)
    assert found.targets == ("step.1", "step.2", "answer")
    assert not found.copy_edge.any()
    assert (found.serial_share()[0], found.depth()) == (1.0, 2)
    assert measured(scripted("projection", spec), spec).serial_share()[0] == 0.0


def test_a_constant_model_has_no_load_and_its_own_texts_cannot_be_swapped(scripted: Scripted) -> None:
    gold = measured(scripted("constant"), cot="task")
    frame = gold.frame()
    assert (frame.query("quantity == 'load'")["estimate"] == 0).all()
    assert (frame.query("quantity == 'keep'")["estimate"] == 1).all()
    assert gold.serial_share()[0] == 0.0 and gold.depth() == 0
    # Off-policy, the unswapped output is not what is written, nor what the program says.
    assert gold.rate("unswapped", "step.2", "step.1")[0] < 0.5
    rates = gold.unswapped_frame().query("target == 'step.1'").set_index("output")["estimate"]
    assert rates["as written"] < 0.5 < rates["another value"] and rates["no value"] == 0
    # All of its own steps are the same: blank, not 0.
    own = measured(scripted("constant"))
    assert math.isnan(own.serial_share()[0]) and own.depth() is None
    left_out = own.left_out().query("target == 'step.2' and source == 'step.1'")
    assert list(left_out["reason"]) == ["no other problem has another value of step.1"] and list(left_out["n"]) == [N]


def test_a_model_that_breaks_on_conflicting_texts_is_broken_and_no_projection(scripted: Scripted) -> None:
    found = measured(scripted("fragile"))
    for target, source in [("step.2", "step.1"), ("step.3", "step.2"), ("step.3", "operand.1")]:
        rates = {name: found.rate(name, target, source)[0] for name in found.quantities}
        assert rates == {"load": 0, "keep": 0, "broken": 1, "chance": 0, "unswapped": 1}
    assert found.rate("load", "step.1", "operand.1")[0] == 1  # no text before it that could conflict
    assert (found.unswapped_frame().query("output == 'no value'")["estimate"] == 0).all()


@pytest.mark.parametrize(
    ("source", "value", "target", "implied"),
    [
        ("step.1", "5", "step.2", "4"),  # s1 + x3
        ("step.1", "5", "step.3", "5"),  # s1 + x3 + x4
        ("step.2", "5", "step.3", "6"),  # s2 + x4
        ("step.2", "5", "answer", "6"),
        ("step.3", "5", "answer", "5"),  # all is in it
        ("operand.1", "5", "step.1", "7"),  # all from the prompt, whatever is written
        ("operand.1", "5", "step.3", "7"),
        ("operand.4", "5", "answer", "2"),
        ("operand.4", "5", "step.2", "7"),  # has no part in it
    ],
)
def test_resume_computes_from_the_source_and_what_it_does_not_hold(
    source: str, value: str, target: str, implied: str
) -> None:
    problem = lb.tasks.ModularSum().problem((6, 2, 9, 1))
    assert _resume(problem, source, value, target) == implied


def test_pairs_on_which_the_model_says_it_anyway_are_not_scored(scripted: Scripted) -> None:
    """So load is a difference already: on the pairs that are left, the same rate unswapped is 0."""
    model = scripted("chain")
    texts = Texts.decode(
        model, list(lb.hooks.generate(model, lb.tasks.load("modular-sum").problems(N))), ("step.2",), 8
    )
    for anyway in (False, True):
        for i, run in enumerate(texts.runs):
            donor = texts.donor(run, "step.1", np.random.default_rng(i))
            assert not isinstance(donor, str)
            implied = _resume(run.problem, "step.1", donor.values[1], "step.2")
            if anyway:
                texts.own["step.2"][i] = implied
            swap = _swap(texts, i, "step.1", "step.2", "program", np.random.default_rng(i))
            if anyway:
                assert swap == "the unswapped output is what the swap implies"
            else:
                assert not isinstance(swap, str) and swap.implied == implied != texts.own["step.2"][i]


def test_values_of_several_tokens_are_decoded_to_their_end(scripted: Scripted) -> None:
    """With a token a digit, a swap may imply 10 or 11 where one digit is written, and the other way round."""
    spec = "modular-sum:modulus=12"
    model = scripted("chain", spec, letters=True)
    task = lb.tasks.load(spec)
    runs = lb.hooks.generate(model, task.problems(48))
    assert {len(run.tokens("step.2")) for run in runs} == {1, 2}
    found = lb.analyses.ledger(model, task.problems(48), cot=runs)
    for target, source in product(found.targets, found.sources):
        load, _, _, n = found.rate("load", target, source)
        assert not n or load == float(source in CHAIN[target]), (target, source)
    assert found.rate("load", "step.2", "operand.3")[3] > 40
    assert (found.serial_share()[0], found.depth()) == (1.0, 2)
    # A value that is cut after its first digit is another value.
    texts = Texts.decode(model, list(runs), ("step.2",), 512)
    two = [run for run in runs if len(run.tokens("step.2")) == 2]
    cut = decode_greedily(model, [run.ids[: run.spans["step.2"][0]] for run in two], [1] * len(two))
    assert {decode(model.tokenizer, ids) for ids in cut} == {"1"}
    assert texts.lengths["step.2"] == 2


def test_swaps_between_steps_of_unequal_token_count_are_refused_and_counted(scripted: Scripted) -> None:
    spec = "modular-sum:modulus=12"
    model = scripted("chain", spec, letters=True)
    problems = [lb.tasks.ModularSum(spec).problem(numbers) for numbers in [(5, 5, 1, 1), (1, 1, 2, 3), (1, 2, 2, 4)]]
    found = lb.analyses.ledger(model, problems)
    left_out = found.left_out().query("target == 'step.2' and source == 'step.1'")
    assert list(left_out["reason"]) == ["step.1 has 2 tokens, and no other value of it has as many"]
    assert list(left_out["n"]) == [1]
    assert found.rate("load", "step.2", "step.1")[3] == 2


class Verbose(ModularSum):
    """Sums whose steps are written out: "6 + 2 = 8 ."."""

    def problem(self, operands: tuple[int, ...], signs: tuple[int, ...] | None = None) -> Problem:
        terse = super().problem(operands, signs)
        before = [terse.values["operand.1"], *(piece.text.strip() for piece in terse.steps)]
        steps = [
            part
            for k, piece in enumerate(terse.steps)
            for part in (Piece(f" {before[k]} + {operands[k + 1]} ="), piece, Piece(" ."))
        ]
        return Problem(terse.key, terse.pieces, terse.answer, tuple(steps), terse.values, self)

    def parse_steps(self, text: str) -> list[Step]:
        found = enumerate(re.finditer(r"= (\d+)", text), start=1)
        return [Step(item, match[1], match.start(1), match.end(1)) for item, match in found]

    def words(self) -> list[str]:
        return [*super().words(), "="]


def test_a_step_is_decoded_with_its_own_words(programmed: Any) -> None:
    """Held, "8 + 9 =" would carry the old value: the target is decoded from the first word after the step before."""
    from loadbearing.organisms.specs import FORMAT
    from loadbearing.organisms.tokenizer import build_tokenizer

    task = Verbose()
    tokenizer = build_tokenizer(task, FORMAT)
    module = programmed.Programmed(programmed.verbose, tokenizer).eval()
    model = lb.hooks.load(module, tokenizer=tokenizer, format=FORMAT)
    runs = lb.hooks.generate(model, task.problems(N))
    assert decode(tokenizer, runs[0].tokens("cot")) == runs[0].problem.cot.strip()
    found = lb.analyses.ledger(model, task.problems(N))
    assert found.rate("load", "step.2", "step.1")[0] == found.rate("load", "step.3", "step.2")[0] == 1.0
    assert (found.serial_share()[0], found.depth()) == (1.0, 2)
    # Its first token is the word after the full stop; from its value on, the words held give the old value.
    texts = Texts.decode(model, list(runs), ("step.2",), 512)
    run, start = runs[0], texts.starts["step.2"][0]
    assert decode(tokenizer, run.ids[start - 2 : start + 2]) == f"{run.values[1]} . {run.values[1]} +"
    at = run.spans["step.1"][0]
    other = tokenizer.convert_tokens_to_ids(str((int(run.values[1]) + 1) % 10))
    swapped = (*run.ids[:at], other, *run.ids[at + 1 :])
    held = decode_greedily(model, [swapped[: run.spans["step.2"][0]]], [1])
    assert decode(tokenizer, held[0]) == run.values[2]
    assert texts.say("step.2", [0], [swapped[:start]]) == [str((int(run.values[2]) + 1) % 10)]


class Own(Questions):
    """A user's task: it reads steps, and has no program."""

    def parse_steps(self, text: str) -> list[Step]:
        return ModularSum().parse_steps(text)


def questions(n: int, partners: bool = False) -> Own:
    task, problems = Own("own"), lb.tasks.load("modular-sum").problems(n)
    for i, problem in enumerate(problems):
        task.add(problem.key, problem.pieces, problem.answer, partner=problems[i ^ 1].key if partners else None)
    return task


def test_without_a_program_a_step_is_the_donors_the_recipients_or_another(scripted: Scripted) -> None:
    problems = questions(N).problems(N)
    chain = lb.analyses.ledger(scripted("chain"), problems)
    assert chain.sources == ("step.1", "step.2", "step.3")
    assert chain.quantities == ("donor's", "recipient's", "other", "chance", "unswapped")
    assert set(chain.frame()["quantity"]) == set(chain.quantities)
    assert chain.rate("other", "step.2", "step.1")[0] > 0.7  # computed from the donor's step and the own operand
    assert chain.rate("recipient's", "step.2", "step.1")[0] == 0.0
    assert chain.rate("donor's", "answer", "step.3")[0] == 1.0  # copied
    assert not chain.copy_edge.any()  # the task does not say what its steps state
    projection = lb.analyses.ledger(scripted("projection"), problems)
    assert (projection.frame().query('quantity == "recipient\'s"')["estimate"] == 1).all()
    assert np.isnan(chain.serial_share()).all() and chain.depth() is None
    assert (chain.notes()["serial share"], chain.notes()["token-mediated depth"]) == ("-", "-")
    axes = lb.figures.ledger({"chain": chain, "projection": projection})
    assert axes.child_axes[0].get_ylabel() == "donor's"
    with pytest.raises(InputError, match="scored by a program and by the donor's step cannot share a figure"):
        lb.figures.ledger({"own": chain, "sum": measured(scripted("chain"), n=4)})
    with pytest.raises(UnknownNameError, match=r"unknown quantity 'load': expected one of donor's, recipient's, other"):
        chain.rate("load", "step.2", "step.1")


def test_a_partner_is_the_donor_where_it_fits(scripted: Scripted) -> None:
    problems = questions(8, partners=True).problems(8)
    model = scripted("chain")
    texts = Texts.decode(model, list(lb.hooks.generate(model, problems)), ("answer",), 512)
    for run in texts.runs:
        donor = texts.donor(run, "step.1", np.random.default_rng(0))
        partner = next(other for other in texts.runs if other.problem.key == run.problem.partner)
        if partner.values[1] != run.values[1]:
            assert donor is partner
        else:
            assert not isinstance(donor, str) and donor.values[1] != run.values[1]


def test_several_runs_of_a_problem_are_one_unit_and_no_donors_of_each_other(scripted: Scripted) -> None:
    model = scripted("chain")
    problems = lb.tasks.load("modular-sum").problems(8)
    runs = lb.hooks.generate(model, problems, samples=3, temperature=0.5)
    found = lb.analyses.ledger(model, problems[:6], cot=runs)
    assert len(found.coords["problem"]) == 18 and len(set(found.coords["problem"])) == 6
    load, low, _, n = found.rate("load", "step.2", "step.1")
    assert (load, n) == (1.0, 6)
    assert low == measured(model, n=6).rate("load", "step.2", "step.1")[1]
    alone = Runs(runs.items[:3], "cot", model)
    texts = Texts.decode(model, list(alone), ("answer",), 512)
    assert texts.donor(alone[0], "step.1", np.random.default_rng(0)) == "no other problem has another value of step.1"
    with pytest.raises(InputError, match="the given runs lack 1 problems"):
        lb.analyses.ledger(model, [*problems, *lb.tasks.load("modular-sum:terms=3").problems(1)], cot=runs)


def test_parts_of_the_ledger_are_those_of_the_whole(scripted: Scripted, tmp_path: Path) -> None:
    model = scripted("skip")
    whole = measured(model, cot="task")
    part = measured(model, cot="task", targets=["answer", "step.2"], sources=["step.1"])
    assert (part.targets, part.sources) == (("step.2", "answer"), ("step.1",))
    for quantity, target in product(part.quantities, part.targets):
        assert part.rate(quantity, target, "step.1") == whole.rate(quantity, target, "step.1")
    loaded = lb.load(part.save(tmp_path / "part.safetensors"))
    assert part.step_edges == [("step.2", "step.1")]  # the answer follows step 3, which is not asked for
    assert loaded.notes() == part.notes() and part.notes()["serial share"].startswith("1.00 [0.86, 1.00], chance 0.")
    whole.save(tmp_path / "whole.safetensors")
    assert lb.load(tmp_path / "whole.safetensors").left_out().equals(whole.left_out())
    with pytest.raises(UnknownNameError, match=r"unknown target 'step.4': expected one of step.1, step.2, step.3, ans"):
        measured(model, targets=["step.4"])
    with pytest.raises(UnknownNameError, match=r"unknown source 'operand.5'"):
        measured(model, sources=["operand.5"])


@pytest.mark.parametrize(("changed", "stops"), [(range(0, 2), False), (range(0, 10), True)])
def test_texts_that_do_not_come_again_warn_and_most_of_them_stop(
    changed: range, stops: bool, scripted: Scripted, programmed: Any
) -> None:
    """A state that the cache does not hold: the model answers otherwise once it is not generating."""

    class Hidden(programmed.Programmed):
        def generate(self, *given: Any, **options: Any) -> Any:
            state["generates"] = True
            self.following.cache_clear()
            written = super().generate(*given, **options)
            state["generates"] = False
            self.following.cache_clear()
            return written

    def rule(seen: Any, item: int) -> str:
        other = not state["generates"] and seen.numbers[0] in changed
        return str((int(programmed.chain(seen, item)) + other) % 10)

    state = {"generates": False}
    tokenizer = scripted("chain").tokenizer
    module = Hidden(programmed.terse(rule), tokenizer).eval()
    model = lb.hooks.load(module, tokenizer=tokenizer, format=scripted("chain").format)
    if stops:
        with pytest.raises(GateError, match=r"generated = replayed.*error 1, limit 0.01. The same tokens do not give"):
            measured(model)
        return
    found = measured(model)
    (gate,) = found.manifest.circumstance["gates"]
    assert gate["verdict"] == "warn" and 0 < gate["measured"] < 0.5
    assert 1 - gate["measured"] == pytest.approx((found.own == STATES.index("as written")).mean())
    assert "another value" in found.notes()["unswapped outputs"]


def test_the_interval_of_a_mean_rate_is_that_of_a_bootstrap_and_never_empty() -> None:
    rng = np.random.default_rng(0)
    n = 400
    first, second = (rng.random((2, n)) < [[0.7], [0.4]]).astype(float)
    alike = first * (rng.random(n) < 0.9)
    for edges in ([first, second], [first, alike]):
        share, low, high = mean_rate(edges)
        means = np.mean(edges, axis=0)
        resampled = means[rng.integers(n, size=(4000, n))].mean(axis=1)
        assert share == pytest.approx(means.mean())
        np.testing.assert_allclose([low, high], np.quantile(resampled, [0.025, 0.975]), atol=0.01)
    certain = mean_rate([np.ones(24)] * 3)
    assert certain[0] == certain[2] == 1.0 and 0.8 < certain[1] < 0.9
    assert mean_rate([np.ones(24)])[1] == pytest.approx(certain[1])  # what three edges share is one sample of problems
    blank = np.full(24, np.nan)
    blank[:12] = 1.0
    assert mean_rate([np.ones(24), blank])[1] < certain[1]
