"""Recorded activations against transformers' own hidden states, hooks set by hand, and the sum of the parts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from loadbearing.core import InputError, UnknownNameError
from loadbearing.hooks import generate, load, record, replay_gold
from loadbearing.hooks.sites import RESIDUAL_SITES

SEQUENTIAL = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "olmo2",
    "phi3",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt-neox-serial",
    "gpt-oss",
]
ARCHITECTURES = [*SEQUENTIAL, "gpt-neox"]
# The decoder, its final norm, and in a block the modules whose output is added, by hand.
MODULES = {
    "gpt2": ("transformer.h", "transformer.ln_f", "attn", "mlp"),
    "gpt-neox": ("gpt_neox.layers", "gpt_neox.final_layer_norm", "attention", "mlp"),
    "gpt-neox-serial": ("gpt_neox.layers", "gpt_neox.final_layer_norm", "attention", "mlp"),
    "olmo2": ("model.layers", "model.norm", "post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma2": ("model.layers", "model.norm", "post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3": ("model.layers", "model.norm", "post_attention_layernorm", "post_feedforward_layernorm"),
}
PLAIN = ("model.layers", "model.norm", "self_attn", "mlp")


def sites_of(kind: str) -> list[str]:
    return [site for site in RESIDUAL_SITES if site != "resid_mid" or kind != "gpt-neox"]


@torch.no_grad()
def by_hand(model: Any, kind: str, ids: tuple[int, ...]) -> tuple[list[torch.Tensor], dict[tuple[str, int], Any]]:
    """Hidden states as transformers gives them, and what the parts of every block put out, for one run alone."""
    layers, _, attention, mlp = MODULES.get(kind, PLAIN)
    found: dict[tuple[str, int], Any] = {}
    handles = []
    for number, block in enumerate(model.module.get_submodule(layers)):
        for name, path in (("attn_out", attention), ("mlp_out", mlp)):

            def keep(_: Any, __: Any, output: Any, key: tuple[str, int] = (name, number)) -> None:
                found[key] = (output[0] if isinstance(output, tuple) else output)[0]

            handles.append(block.get_submodule(path).register_forward_hook(keep))
    try:
        output = model.module(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [hidden[0] for hidden in output.hidden_states], found


def hooks_on(module: Any) -> int:
    """The number of hooks that hang on a model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)


@pytest.fixture(scope="module")
def recorded(tiny: Callable[[str], Any], ragged: Any) -> Callable[[str], Any]:
    """A model, runs of unequal length, and all sites recorded at all of their positions; once an architecture."""
    known: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in known:
            model = tiny(kind)
            runs = replay_gold(model, ragged.problems(6), max_answer_tokens=2)
            assert len({len(run.ids) for run in runs}) > 3
            acts = record(model, runs, sites_of(kind), ["prompt", "open", "cot", "cue"], batch_size=4)
            known[kind] = model, runs, acts
        return known[kind]

    return get


@pytest.mark.parametrize("kind", ARCHITECTURES)
class TestOracle:
    def test_recorded_is_what_one_run_alone_gives(self, recorded: Callable[[str], Any], kind: str) -> None:
        model, runs, acts = recorded(kind)
        norm = model.module.get_submodule(MODULES.get(kind, PLAIN)[1])
        for number, run in enumerate(runs):
            hidden, parts = by_hand(model, kind, run.ids)
            rows = acts.rows[acts.rows["run"] == number]
            # Rows come position by position, so tokens follow on in order up to the answer.
            assert rows["token"].tolist() == list(range(run.spans["cue"][1]))
            at = torch.tensor(rows.index.to_list())
            size = len(rows)
            for layer in range(model.n_layers):
                expected = {
                    "resid_pre": hidden[layer][:size],
                    "attn_out": parts["attn_out", layer][:size],
                    "mlp_out": parts["mlp_out", layer][:size],
                }
                for site, value in expected.items():
                    assert torch.allclose(acts.values[site][at, layer], value, atol=1e-4, rtol=1e-4), (site, layer)
                after = acts.values["resid_post"][at, layer]
                if layer + 1 < model.n_layers:
                    assert torch.allclose(after, hidden[layer + 1][:size], atol=1e-4, rtol=1e-4)
                else:
                    with torch.no_grad():
                        assert torch.allclose(norm(after), hidden[-1][:size], atol=1e-4, rtol=1e-4)

    def test_the_parts_add_up(self, recorded: Callable[[str], Any], kind: str) -> None:
        _, _, acts = recorded(kind)
        parts = {site: value.double() for site, value in acts.values.items()}
        total = parts["resid_pre"] + parts["attn_out"] + parts["mlp_out"]
        scale = parts["resid_post"].abs().max().clamp(min=1.0)
        assert (total - parts["resid_post"]).abs().max() <= 1e-5 * scale
        for part in ("attn_out", "mlp_out"):  # and none of them is nothing
            assert parts[part].abs().mean() > 1e-3

    def test_the_middle_lies_between_attention_and_mlp(self, recorded: Callable[[str], Any], kind: str) -> None:
        model, runs, acts = recorded(kind)
        if kind == "gpt-neox":
            with pytest.raises(InputError) as error:
                record(model, runs, ["resid_mid"], ["prompt[-1]"])
            told = "this model has no resid_mid: attention and MLP are added to the residual stream at once"
            assert str(error.value) == told
            return
        middle = acts.values["resid_mid"]
        assert torch.equal(middle, acts.values["resid_pre"] + acts.values["attn_out"])
        alone = record(model, runs, ["resid_mid"], ["prompt", "open", "cot", "cue"], batch_size=4)
        assert torch.equal(alone.values["resid_mid"], middle)
        assert list(alone.values) == ["resid_mid"]  # what it is made of is not kept

    def test_batches_change_nothing(self, recorded: Callable[[str], Any], kind: str) -> None:
        model, runs, acts = recorded(kind)
        alone = record(model, runs, sites_of(kind), ["prompt", "open", "cot", "cue"], batch_size=1)
        assert alone.rows.equals(acts.rows)
        for site, value in acts.values.items():
            assert torch.allclose(alone.values[site], value, atol=1e-4, rtol=1e-4)


class TestRows:
    def test_rows_say_what_they_are(self, tiny: Any, ragged: Any) -> None:
        model = tiny("llama")
        runs = replay_gold(model, ragged.problems(6))
        acts = record(model, runs, ["resid_post"], ["operand.1", "cot[-2:]", "cue[-1]"])
        assert list(acts.rows.columns[:5]) == ["problem", "run", "position", "token", "token_id"]
        for row in acts.rows.to_dict("records"):
            run = runs[row["run"]]
            assert row["problem"] == run.problem.key
            assert row["token_id"] == run.ids[row["token"]]
            assert row["v_1"] == run.problem.values["v_1"]
            first, last = run.spans[row["position"].partition("[")[0]]
            assert first <= row["token"] < last
        sizes = [1 + min(2, run.spans["cot"][1] - run.spans["cot"][0]) + 1 for run in runs]
        assert acts.rows.groupby("run").size().tolist() == sizes
        assert acts.values["resid_post"].shape == (sum(sizes), 3, 32)
        assert acts.layers == (0, 1, 2) and acts.unmatched == {}

    def test_a_variable_does_not_hide_a_column(self, organism: Any) -> None:
        model = organism("copy-direct")
        runs = replay_gold(model, model.task.problems(4))
        acts = record(model, runs, ["resid_post"], ["cue[-1]"])
        assert acts.rows["token"].tolist() == [5, 5, 5, 5]

    def test_a_wildcard_gives_a_row_an_item_under_its_own_label(self, organism: Any, tiny: Any) -> None:
        from loadbearing.tasks import ModularSum

        model = tiny("llama")
        runs = replay_gold(model, ModularSum().problems(3))
        acts = record(model, runs, ["resid_post"], ["step.*[-1]"])
        assert acts.rows["position"].tolist() == ["step.1[-1]", "step.2[-1]", "step.3[-1]"] * 3
        features, rows = acts.select("resid_post", layer=2, position="step.2[-1]")
        assert features.shape == (3, 32) and rows["position"].unique().tolist() == ["step.2[-1]"]
        assert rows.index.tolist() == [0, 1, 2]
        assert torch.equal(features, acts.values["resid_post"][1::3, 2])
        every, _ = acts.select("resid_post", layer=2, position="step.*[-1]")
        assert torch.equal(every, acts.values["resid_post"][:, 2])
        unnamed, _ = acts.select("blocks.2.hook_resid_post")
        assert torch.equal(unnamed, every)

    def test_a_wildcard_that_matches_nothing_gives_no_row_and_a_count(self, tiny: Any, ragged: Any) -> None:
        runs = replay_gold(tiny("llama"), ragged.problems(4))
        acts = record(tiny("llama"), runs, ["resid_post"], ["step.*[-1]", "cue[-1]"])
        assert acts.unmatched == {"step.*[-1]": 4}
        assert acts.rows["position"].tolist() == ["cue[-1]"] * 4
        nothing = record(tiny("llama"), runs, ["resid_post"], ["step.*[-1]"])
        assert len(nothing.rows) == 0 and len(nothing.values["resid_post"]) == 0
        assert nothing.unmatched == {"step.*[-1]": 4}

    @pytest.mark.parametrize("positions", [["step.*[-1]"], ["step.*[-1]", "cue[-1]"]])
    def test_no_rows_can_be_selected_too(self, tiny: Any, ragged: Any, positions: list[str]) -> None:
        runs = replay_gold(tiny("llama"), ragged.problems(4))
        acts = record(tiny("llama"), runs, ["resid_post"], positions)
        features, rows = acts.select("resid_post", layer=0, position="step.*[-1]")
        assert len(features) == len(rows) == 0

    def test_a_wildcard_selects_what_was_recorded_under_it_only(self, tiny: Any) -> None:
        from loadbearing.tasks import ModularSum

        runs = replay_gold(tiny("llama"), ModularSum().problems(2))
        acts = record(tiny("llama"), runs, ["resid_post"], ["step.*", "step.*[-1]"])
        _, rows = acts.select("resid_post", layer=0, position="step.*")
        assert rows["position"].unique().tolist() == ["step.1", "step.2", "step.3"]


class TestOnlyWhatIsAskedFor:
    def test_layers_and_sites(self, recorded: Callable[[str], Any]) -> None:
        model, runs, everything = recorded("llama")
        acts = record(model, runs, ["resid_pre", "mlp_out"], ["cue[-1]"], layers=[2, 0])
        assert acts.layers == (2, 0) and sorted(acts.values) == ["mlp_out", "resid_pre"]
        rows = everything.rows["position"] == "cue"
        for site in acts.values:
            assert acts.values[site].shape == (6, 2, 32)
            expected = everything.values[site][torch.tensor(rows.to_numpy())][:, [2, 0]]
            assert torch.allclose(acts.values[site], expected, atol=1e-5)

    def test_the_bytes_kept_are_the_bytes_asked_for(self, recorded: Callable[[str], Any]) -> None:
        model, runs, _ = recorded("llama")
        value = record(model, runs, ["resid_post"], ["cue[-1]"], layers=[1]).values["resid_post"]
        assert value.untyped_storage().nbytes() == 6 * 1 * 32 * 4

    def test_the_spelling_of_transformer_lens(self, recorded: Callable[[str], Any]) -> None:
        model, runs, _ = recorded("llama")
        spelled = record(model, runs, ["blocks.1.hook_attn_out"], ["cue[-1]"])
        named = record(model, runs, ["attn_out"], ["cue[-1]"], layers=[1])
        assert spelled.layers == (1,)
        assert torch.equal(spelled.values["attn_out"], named.values["attn_out"])

    @pytest.mark.parametrize("last", [0, 1, 2])
    def test_blocks_after_the_last_that_is_needed_do_not_run(self, recorded: Any, last: int) -> None:
        model, runs, _ = recorded("llama")
        calls = [0, 0, 0]
        handles = []
        for number, block in enumerate(model.module.model.layers):

            def count(*_: Any, number: int = number) -> None:
                calls[number] += 1

            handles.append(block.register_forward_pre_hook(count))
        record(model, runs, ["resid_post"], ["cue[-1]"], layers=[last], batch_size=2)
        for handle in handles:
            handle.remove()
        assert calls == [3 if number <= last else 0 for number in range(3)]


class TestNothingIsChanged:
    def test_no_hook_no_weight_no_option(self, random_module: Any, word_tokenizer: Any, ragged: Any) -> None:
        from loadbearing.organisms.specs import FORMAT

        module: Any = random_module("gemma2", word_tokenizer)
        weights = {name: weight.clone() for name, weight in module.state_dict().items()}
        config, own = module.config.to_dict(), sorted(vars(module))
        model = load(module, tokenizer=word_tokenizer, format=FORMAT)
        same: Any = model.module
        assert same is module
        before = hooks_on(module)
        record(model, generate(model, ragged.problems(3), max_new_tokens=3), list(RESIDUAL_SITES), ["prompt", "cue"])
        assert hooks_on(module) == before
        assert module.config.to_dict() == config and sorted(vars(module)) == own
        assert all(torch.equal(weight, weights[name]) for name, weight in module.state_dict().items())
        assert all(weight.requires_grad and weight.grad is None for weight in module.parameters())

    @pytest.mark.parametrize("layer", [0, 2])
    def test_no_hook_is_left_by_an_error_inside(self, recorded: Any, layer: int) -> None:
        model, runs, _ = recorded("llama")
        before = hooks_on(model.module)

        def fail(*_: Any) -> None:
            raise RuntimeError("out of memory")

        handle = model.module.model.layers[layer].mlp.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            record(model, runs, list(RESIDUAL_SITES), ["cue[-1]"])
        handle.remove()
        assert hooks_on(model.module) == before
        assert len(record(model, runs, list(RESIDUAL_SITES), ["cue[-1]"]).rows) == 6  # and it works again


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            ({"sites": ["resid_pots"]}, ("unknown site 'resid_pots'", "resid_pre, resid_mid", "nearest: 'resid_post'")),
            ({"sites": ["blocks.1.hook_z"]}, ("unknown site 'z'", "expected one of resid_pre")),
            ({"positions": ["promt[-1]"]}, ("unknown position 'promt'", "cue", "nearest: 'prompt'")),
            ({"positions": ["step.1"]}, ("unknown position 'step.1'", "prompt")),
            ({"positions": ["cue[3]"]}, ("position 'cue[3]'", "the span has 1 tokens")),
            ({"positions": ["cue["]}, ("position 'cue['", "expected NAME[.ITEM][SLICE]")),
            ({"layers": [3]}, ("layer 3", "this model has layers 0 to 2")),
            ({"layers": [-1]}, ("layer -1", "this model has layers 0 to 2")),
            ({"sites": ["blocks.7.hook_resid_post"]}, ("layer 7", "this model has layers 0 to 2")),
            ({"sites": []}, ("record needs at least one site and one position",)),
            ({"positions": []}, ("record needs at least one site and one position",)),
        ],
    )
    def test_what_the_model_or_the_runs_do_not_have(
        self, recorded: Any, arguments: dict[str, Any], parts: tuple[str, ...]
    ) -> None:
        model, runs, _ = recorded("llama")
        with pytest.raises(InputError) as error:
            record(model, runs, **arguments)
        for part in parts:
            assert part in str(error.value)

    def test_what_was_not_recorded(self, recorded: Any) -> None:
        model, runs, _ = recorded("llama")
        acts = record(model, runs, ["resid_post"], ["cue[-1]", "open[0]"], layers=[0, 2])
        assert acts.select("resid_post", layer=2, position="open[0]")[0].shape == (6, 32)
        with pytest.raises(InputError, match=r"layer 1 was not recorded: recorded are \[0, 2\]"):
            acts.select("resid_post", layer=1)
        with pytest.raises(InputError, match="layer None was not recorded"):
            acts.select("resid_post")
        with pytest.raises(UnknownNameError, match="unknown recorded site 'mlp_out': expected one of resid_post"):
            acts.select("mlp_out", layer=0)
        with pytest.raises(UnknownNameError) as error:
            acts.select("resid_post", layer=0, position="cue[1]")
        for part in ("unknown recorded position 'cue[1]'", "cue[-1], open[0]", "nearest: 'cue[-1]'"):
            assert part in str(error.value)

    def test_a_layer_that_is_spelled_and_another_that_is_asked_for(self, recorded: Any) -> None:
        model, runs, _ = recorded("llama")
        with pytest.raises(InputError, match="layer"):
            record(model, runs, ["blocks.1.hook_resid_post"], ["cue[-1]"], layers=[0])
