"""Published alternatives: their formulas by hand, and what each says of models whose truth is known."""

import doctest
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.analyses.targets import cot_runs
from loadbearing.core import InputError

N = 16


@pytest.fixture(scope="module")
def alt(root: Path) -> Iterator[Any]:
    """`benchmarks/alternatives.py`, which is no part of the package, loaded by its path."""
    spec = importlib.util.spec_from_file_location("benchmark_alternatives", root / "benchmarks" / "alternatives.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def case(organism: Callable[[str], Any]) -> Callable[[str], Any]:
    """An organism and its runs, as its card says."""
    known: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in known:
            model = organism(name)
            known[name] = model, cot_runs(model, model.task.problems(N), model.card.measure.get("cot", "model"))
        return known[name]

    return get


def test_examples(alt: Any) -> None:
    found = doctest.testmod(alt)
    assert found.attempted >= 2
    assert found.failed == 0


class TestMediationIndex:
    def test_by_hand(self, alt: Any) -> None:
        drop = np.array([[2.0, 0.0], [1e-5, 5e-4]])
        control = np.array([[1.0, 1.0], [1e-5, 0.0]])
        # (2 - 1) / (2 + 1); never below 0; a sum below 1e-4 is 0; a sum below 1e-3 is divided by 1e-3.
        np.testing.assert_allclose(alt.mediation_index(drop, control), [[1 / 3, 0.0], [0.0, 0.5]])

    def test_spans(self, alt: Any) -> None:
        spans = alt._layer_spans(12, np.random.default_rng(0))
        assert spans[:6] == [(0,), (6,), (11,), (0, 1), (5, 6, 7), (9, 10, 11)]
        assert len(set(spans)) == 8
        assert set(alt._layer_spans(2, np.random.default_rng(0))) == {(0,), (1,), (0, 1)}

    def test_own_states_change_nothing_and_other_states_do(self, alt: Any, case: Callable[[str], Any]) -> None:
        """A patch of what entered each layer, from the run itself, is exact; from a run without CoT it is not."""
        model, runs = case("sft")
        ids = alt._ids(model, list(runs))
        with torch.no_grad():
            output = model.module(input_ids=ids, output_hidden_states=True)
            for states, same in ((output.hidden_states, True), (alt._source_states(model, list(runs), (), "."), False)):
                with alt._patched(model, dict(enumerate(states[: model.n_layers])), list(range(*runs[0].spans["cot"]))):
                    patched = model.module(input_ids=ids).logits
                assert torch.equal(patched, output.logits) == same
            assert torch.equal(model.module(input_ids=ids).logits, output.logits)  # no hook stays

    def test_what_is_aligned_with_what(self, alt: Any, case: Callable[[str], Any]) -> None:
        """As published, the last CoT positions get the state of the answer itself; mended, their own position's."""
        model, runs = case("sft")
        run = runs[0]
        start, stop = run.spans["cot"]
        without = torch.tensor([run.ids[:start] + run.ids[stop:]])
        with torch.no_grad():
            hidden = model.module(input_ids=without, output_hidden_states=True).hidden_states
        published = alt._source_states(model, [run], (), ".")
        for layer in range(model.n_layers):
            torch.testing.assert_close(published[layer][0, start], hidden[layer + 1][0, start])  # the cue's
            torch.testing.assert_close(published[layer][0, stop - 1], hidden[layer + 1][0, -1])  # the answer's
        mended = alt._source_states(model, [run], ("source", "layer"), ".")
        dot = model.tokenizer.convert_tokens_to_ids(".")
        embedded = model.module.get_input_embeddings().weight
        torch.testing.assert_close(mended[0][0, start:stop], embedded[dot].expand(stop - start, -1))
        torch.testing.assert_close(mended[0][0, :start], embedded[list(run.ids[:start])])

    def test_controls_leave_the_answer_alone_only_when_mended(self, alt: Any, case: Callable[[str], Any]) -> None:
        _, runs = case("sft")
        run = runs[0]
        cue, answer = run.spans["cue"][0], run.spans["answer"][0]
        assert {cue, answer} <= set(alt._patch_positions(run, ())[1])
        assert max(alt._patch_positions(run, ("controls",))[1]) < run.spans["cot"][0]

    def test_known_models(self, alt: Any, case: Callable[[str], Any]) -> None:
        found = {name: alt.cmi(*case(name)) for name in ("copy-direct", "copy-relay", "copy-tokens", "sft")}
        assert found["copy-direct"].value == 0.0
        assert found["copy-tokens"].value == pytest.approx(1.0, abs=1e-3)
        # The no-CoT run has the same prompt, so its states at those positions hold the same relay: read as bypass.
        assert found["copy-relay"].value == 0.0
        # A perfect chain, whose answer is copied from its last token: the published index stays below one half,
        # because controls hit the cue and the answer.
        assert found["sft"].value < 0.5
        assert found["sft"].parts["control"] > 1.0
        assert alt.cmi(*case("sft"), fixes=("controls",)).value > found["sft"].value + 0.1

    def test_mended_it_saturates(self, alt: Any, case: Callable[[str], Any]) -> None:
        """Before the answer, a run and its source agree but for the CoT: nothing is lost there, and any loss is 1."""
        for name, low, high in (("sft", 5.0, math.inf), ("post-hoc", 0.0, 0.5)):
            found = alt.cmi(*case(name), fixes=alt.FIXES)
            assert found.value == pytest.approx(1.0, abs=1e-3)
            assert found.parts["control"] == pytest.approx(0.0, abs=1e-4)
            assert low < found.parts["drop"] < high

    def test_an_unknown_fix(self, alt: Any, case: Callable[[str], Any]) -> None:
        with pytest.raises(InputError, match="unknown fix 'alignment': expected one of source, layer, controls, clamp"):
            alt.cmi(*case("copy-direct"), fixes=("alignment",))


class TestDecay:
    def test_by_hand_from_given_logits(self, alt: Any) -> None:
        logits = torch.tensor([[1.0, 5.0, 2.0], [4.0, 1.0, 0.0]])
        margins = alt._margin(logits, torch.tensor([1, 1])).tolist()
        assert margins == [3.0, -3.0]
        assert alt.logit_decay(*margins) == 200.0
        assert alt.logit_decay(-2.0, -3.0) == 50.0  # decay of a margin that is negative is counted by its size
        assert alt.logit_decay(1e-7, 5.0) == 0.0

    def test_one_problem_by_hand(self, alt: Any, case: Callable[[str], Any]) -> None:
        """copy-tokens: the written value gets a logit of 20, all others 0, so a wrong one turns the margin."""
        model, runs = case("copy-tokens")
        found = alt.nldd(model, runs)
        assert found.parts["clean"] * found.parts["scale"] == pytest.approx(20.0, abs=0.05)
        assert found.value == pytest.approx(200.0, abs=0.1)
        np.testing.assert_allclose(found.problems, 200.0, atol=0.5)

    def test_texts_of_the_three_definitions(self, alt: Any, case: Callable[[str], Any]) -> None:
        _, runs = case("sft")
        run = runs[0]
        head, (a, b, c), cue = run.ids[: run.spans["cot"][0]], run.tokens("cot"), run.tokens("cue")
        wrong = (c + 1 if c != b + 1 else c,)
        assert alt._step_texts(run, 2, wrong, "truncated") == [(*head, a, b, c, *cue), (*head, a, *wrong, *cue)]
        assert alt._step_texts(run, 2, wrong, "replaced") == [(*head, a, b, c, *cue), (*head, a, *wrong, c, *cue)]
        assert alt._step_texts(run, 2, wrong, "matched") == [(*head, a, b, *cue), (*head, a, *wrong, *cue)]

    def test_truncation_is_read_as_reliance(self, alt: Any, case: Callable[[str], Any]) -> None:
        """Random digits that carry nothing decay like a perfect chain, unless both texts end at the same step."""
        published = {name: alt.nldd(*case(name)).value for name in ("sft", "post-hoc")}
        assert published["post-hoc"] > 100
        assert published["sft"] > 100
        assert abs(alt.nldd(*case("post-hoc"), chain="replaced").value) < 10
        # With later steps kept, only the step that the answer copies counts.
        parts = alt.nldd(*case("sft"), chain="replaced").parts
        assert parts["step.3"] > 150
        assert abs(parts["step.1"]) < 20
        assert abs(parts["step.2"]) < 20

    def test_direct_and_relay_are_the_same(self, alt: Any, case: Callable[[str], Any]) -> None:
        for name in ("copy-direct", "copy-relay"):
            assert alt.nldd(*case(name)).value == pytest.approx(0.0, abs=0.1)

    def test_runs_without_steps(self, alt: Any, case: Callable[[str], Any]) -> None:
        with pytest.raises(InputError, match="none of these runs is correct and states a step"):
            alt.nldd(*case("filler"))


class TestKnockOut:
    @pytest.mark.parametrize("name", ["copy-redundant", "sft", "filler"])
    def test_tokens_that_nobody_reads_can_be_anything(self, alt: Any, case: Callable[[str], Any], name: str) -> None:
        model, runs = case(name)
        ids = alt._ids(model, list(runs))
        start, stop = runs[0].spans["cot"]
        other = ids.clone()
        other[:, start:stop] = ids.roll(1, 0)[:, start:stop] if name != "filler" else ids[:, 1:2]
        assert not torch.equal(ids, other)
        blocked = [((stop, ids.shape[1]), (start, stop))]
        after = alt.masked_logits(model, ids, blocked)[:, stop:]
        assert torch.equal(after, alt.masked_logits(model, other, blocked)[:, stop:])
        seen = alt.masked_logits(model, ids, [])[:, stop:]
        assert not torch.allclose(seen, alt.masked_logits(model, other, [])[:, stop:], atol=1e-3)

    def test_no_mask_is_the_plain_run(self, alt: Any, case: Callable[[str], Any], tiny: Callable[[str], Any]) -> None:
        for name in ("sft", "copy-sum"):
            model, runs = case(name)
            ids = alt._ids(model, list(runs))
            with torch.no_grad():
                plain = model.module(input_ids=ids).logits
            torch.testing.assert_close(alt.masked_logits(model, ids, []), plain, atol=1e-4, rtol=1e-5)

    def test_by_hand(self, alt: Any, case: Callable[[str], Any]) -> None:
        """copy-tokens without its CoT: every key that is left has the same weight, and none holds a value but one."""
        model, runs = case("copy-tokens")
        found = alt.attention_knockout(model, runs)
        # The prompt's value is read with 1/5 of the weight: a logit of 20 / 5 against fifteen of 0 and others of 0.
        others = model.module.config.vocab_size - 1
        expected = math.log(1 + others * math.exp(-4)) - math.log(1 + others * math.exp(-20))
        assert found.parts["drop cot"] == pytest.approx(expected, abs=0.02)
        assert found.parts["flips cot"] == 0.0  # the freed weight finds the value in the prompt

    def test_known_models(self, alt: Any, case: Callable[[str], Any]) -> None:
        shares = {
            name: alt.attention_knockout(*case(name)).value for name in ("copy-direct", "copy-relay", "copy-tokens")
        }
        assert shares["copy-direct"] == pytest.approx(0.0, abs=1e-3)
        assert shares["copy-relay"] == pytest.approx(shares["copy-tokens"], abs=1e-3)  # relay is read as tokens
        assert shares["copy-tokens"] == pytest.approx(1.0, abs=1e-3)
        later = alt.attention_knockout(*case("copy-relay"), readers="later")
        assert later.value < 0.1  # the prompt's knock-out then takes the relay with it
        assert math.isnan(alt.attention_knockout(*case("copy-redundant")).value)  # neither wire alone is missed

    def test_the_sink(self, alt: Any, case: Callable[[str], Any]) -> None:
        """copy-sum needs one value of each: half and half, once the head that reads nothing keeps its place to rest."""
        assert alt.attention_knockout(*case("copy-sum")).value < 0.3
        assert alt.attention_knockout(*case("copy-sum"), keep_sink=True).value == pytest.approx(0.5, abs=0.01)

    def test_other_architectures_are_refused(self, alt: Any, tiny: Callable[[str], Any]) -> None:
        with pytest.raises(InputError, match="expected a model of type llama or gpt2, got 'gemma3_text'"):
            alt.masked_logits(tiny("gemma3"), torch.zeros(1, 4, dtype=torch.long), [])

    def test_a_run_without_cot_is_refused(self, alt: Any, organism: Callable[[str], Any]) -> None:
        model = organism("both")
        runs = lb.hooks.generate(model, model.task.problems(2), "answer-only")
        with pytest.raises(InputError, match="has no chain of thought or no answer: leave such runs out"):
            alt.attention_knockout(model, runs)
