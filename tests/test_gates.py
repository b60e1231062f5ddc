"""Gates: each of them passes on a healthy model, warns near its limit, and stops a model that it was made for."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import loadbearing as lb
from loadbearing.analyses.doctor import own_questions
from loadbearing.analyses.eight import eight_cells
from loadbearing.analyses.gates import ADDS_UP, SPLICE_GATES, plain_gates, run_gates, splice_gates
from loadbearing.analyses.targets import Aim, cut, resolve_target
from loadbearing.core import GateError, InputError
from loadbearing.hooks import checks
from loadbearing.hooks.gates import FLOOR, Gate, enforce, judge, judge_limit
from loadbearing.hooks.support import check_loadable
from loadbearing.organisms.specs import FORMAT

OWN, DONOR, BATCHED = SPLICE_GATES
LEFT, RIGHT = "left padding changes nothing", "right padding changes nothing"
FINITE, BOS, REPLAYED = "finite caches and logits", "one BOS", "generated = replayed (rate of runs that differ)"
IDENTITY = "identity patch = 0"
ALL = {OWN, DONOR, BATCHED, LEFT, RIGHT, FINITE, BOS, REPLAYED, IDENTITY, ADDS_UP}


@pytest.fixture(scope="module")
def pairs() -> Any:
    """Pairs of sums whose prompts differ in length from pair to pair."""
    task = lb.tasks.Questions()
    for number, (text, one, other) in enumerate(
        [("{} + 2 mod 10", "6", "7"), ("{} + 2 + 3 mod 10", "1", "4"), ("{} mod 10", "9", "5")]
    ):
        for side, word in enumerate((one, other)):
            task.add(f"{number}.{side}", text.format(word), word, partner=f"{number}.{1 - side}")
    return task.pairs(3)


@pytest.fixture
def examine(random_module: Callable[..., Any], word_tokenizer: Any, pairs: Any) -> Callable[..., Any]:
    """The doctor's gates by name, of a fresh tiny model after `change` was done to its module."""

    def run(
        change: Callable[[Any], Any] | None = None, kind: str = "llama", chosen: Any = pairs, max_new_tokens: int = 8
    ) -> dict[str, Gate]:
        module = random_module(kind, word_tokenizer)
        module = (change(module) if change is not None else None) or module
        model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
        found = lb.analyses.doctor(model, chosen, max_new_tokens=max_new_tokens)
        return {gate.name: gate for gate in found.gates}

    return run


def verdicts(gates: dict[str, Gate], *names: str) -> set[str]:
    """The verdicts of these gates."""
    return {gates[name].verdict for name in names}


def forward(change: Callable[..., Any]) -> Callable[[Any], Any]:
    """Put a function around a module's forward: it gets the forward and its named arguments."""

    def apply(module: Any) -> None:
        plain = module.forward
        module.forward = lambda **given: change(plain, given)

    return apply


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2", "gpt-neox", "gpt-oss"])
def test_a_healthy_model_passes_every_gate(kind: str, examine: Callable[..., Any]) -> None:
    gates = examine(kind=kind)
    assert set(gates) == ALL
    assert {name for name, gate in gates.items() if gate.verdict != "pass"} <= {REPLAYED}
    # In float32 errors are rounding. The effect is that of a random model, some nats.
    assert max(gates[name].measured for name in (OWN, DONOR, BATCHED, LEFT, RIGHT, IDENTITY)) < 1e-4
    assert gates[OWN].limit > 10 * FLOOR
    assert 0 < gates[ADDS_UP].measured < 1


class TestSplice:
    def test_a_state_that_the_cache_does_not_hold(self, examine: Callable[..., Any]) -> None:
        """A running mean of what came before, kept within a forward pass and lost between two segments."""

        def remembers(module: Any) -> None:
            def mix(_: nn.Module, __: Any, hidden: torch.Tensor) -> torch.Tensor:
                counts = torch.arange(1, hidden.shape[1] + 1)[:, None]
                return hidden + hidden.cumsum(1) / counts

            module.model.embed_tokens.register_forward_hook(mix)

        gates = examine(remembers)
        assert verdicts(gates, OWN, DONOR) == {"stop"}
        assert "a model whose state is not all in its key/value cache cannot be spliced" in gates[OWN].advice
        with pytest.raises(
            GateError, match=r"own-cache splice = plain run: error .*, limit .* so no|so no figure .*own-"
        ):
            enforce(list(gates.values()))

    def test_rows_that_change_one_another(self, examine: Callable[..., Any]) -> None:
        def normalises(module: Any) -> None:
            def over_the_batch(_: nn.Module, __: Any, hidden: torch.Tensor) -> torch.Tensor:
                return hidden - 0.5 * hidden.mean(0, keepdim=True)

            module.model.embed_tokens.register_forward_hook(over_the_batch)

        # Prompts of equal length, which share a batch; others do not, since padding changes this model.
        gates = examine(normalises, chosen=lb.tasks.load("modular-sum").pairs(2))
        assert verdicts(gates, BATCHED, LEFT, RIGHT) == {"stop"}
        assert "cannot be measured in batches" in gates[BATCHED].advice

    def test_rounding_beyond_a_small_effect_in_bfloat16(
        self, random_module: Callable[..., Any], word_tokenizer: Any
    ) -> None:
        """All numbers look almost alike, and the chains of thought are the same: what a pair varies hardly matters."""

        def gates(dtype: torch.dtype) -> list[Gate]:
            module = random_module("qwen2", word_tokenizer).to(dtype)
            rows = word_tokenizer.convert_tokens_to_ids([str(digit) for digit in range(10)])
            with torch.no_grad():
                words = module.model.embed_tokens.weight
                words[rows] = words[rows[0]] + 0.004 * words[rows]
            model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)

            def aim(prompt: str, cot: str, answer: str) -> Aim:
                head, body, reader, said = (tuple(word_tokenizer(t)["input_ids"]) for t in (prompt, cot, "=", answer))
                return Aim(head, (), body[1:], reader[1:], said[1:], None, answer, {})

            texts = [("mod 10", "8 . 8 + 2 . 8 mod 10 . 9 3"), ("+ 2 + 3 mod 10", "1 2 3 4 5 6")]
            aims = [(aim(f"6 {rest}", cot, "6"), aim(f"7 {rest}", cot, "7")) for rest, cot in texts]
            return splice_gates(model, aims, [None] * 2, eight_cells(model, aims, [None] * 2))

        assert {gate.verdict for gate in gates(torch.float32)} == {"pass"}
        rounded = gates(torch.bfloat16)
        assert "stop" in {gate.verdict for gate in rounded} and 'dtype="float32"' in rounded[0].advice


class TestPlain:
    def test_positions_that_are_ignored(self, examine: Callable[..., Any]) -> None:
        """Learned positions counted from the start of the row: right padding does no harm, left padding does."""

        def counts(plain: Any, given: dict[str, Any]) -> Any:
            if given.get("past_key_values") is None and given.get("input_ids") is not None:
                given["position_ids"] = torch.arange(given["input_ids"].shape[1])[None]
            return plain(**given)

        gates = examine(forward(counts), kind="gpt2")
        assert verdicts(gates, LEFT) == {"stop"} and verdicts(gates, RIGHT, OWN, DONOR) == {"pass"}
        assert "must honour attention_mask and position_ids" in gates[LEFT].advice

    def test_a_mask_that_is_ignored(self, examine: Callable[..., Any]) -> None:
        def blind(plain: Any, given: dict[str, Any]) -> Any:
            mask = given.get("attention_mask")
            if isinstance(mask, torch.Tensor) and mask.ndim == 2:
                given["attention_mask"] = torch.ones_like(mask)
            return plain(**given)

        assert verdicts(examine(forward(blind)), LEFT) == {"stop"}

    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    def test_numbers_that_are_none(self, examine: Callable[..., Any], number: float) -> None:
        def breaks(module: Any) -> None:
            with torch.no_grad():
                module.model.layers[1].self_attn.v_proj.bias = nn.Parameter(torch.full((16,), number))

        gates = examine(breaks)
        assert verdicts(gates, FINITE, OWN, DONOR) == {"stop"}
        assert gates[FINITE].measured > 0 and "NaN or infinity in the cache" in gates[FINITE].advice

    def test_a_token_that_is_ruled_out_is_no_broken_number(self, tiny: Callable[[str], Any]) -> None:
        module = deepcopy(tiny("llama").module)
        plain = module.forward

        def rules_out(**given: Any) -> Any:
            output = plain(**given)
            output.logits[..., 0] = -torch.inf
            return output

        module.forward = rules_out
        model = lb.hooks.load(module, tokenizer=tiny("llama").tokenizer, format=FORMAT)
        assert checks.not_finite(model, [(1, 5, 6)]) == 0

    def test_two_starts_stop_and_none_warns(self, random_module: Callable[..., Any], word_tokenizer: Any) -> None:
        model = lb.hooks.load(random_module("llama", word_tokenizer), tokenizer=word_tokenizer, format=FORMAT)
        bos = word_tokenizer.bos_token_id
        assert checks.bos_count(model, [(bos, 5, 6), (bos, 7, bos)]) == 1
        assert checks.bos_count(model, [(bos, 5, 6), (bos, bos, 7)]) == 2
        assert checks.bos_count(model, [(bos, 5, 6), (5, 6, 7)]) == 0
        task = lb.tasks.Questions()
        for key, partner, word in (("a", "b", "6"), ("b", "a", "7")):  # the prompt writes what the tokenizer adds
            task.add(key, f"<bos> {word} + 2 mod 10", word, partner=partner)
        gates = {gate.name: gate for gate in lb.analyses.doctor(model, task.pairs(1)).gates}
        assert gates[BOS].verdict == "stop" and gates[BOS].measured == 2
        assert "take a tokenizer that does not add it" in gates[BOS].advice
        runs = lb.hooks.replay(model, task.problems(2), [" 8", " 9"], max_answer_tokens=1)
        bare = [replace(run, ids=run.ids[2:]) for run in runs]
        found = plain_gates(model, bare, [(bos, 5, 6), (bos, 5)], [(5,)], 1.0, ())
        assert {gate.name: gate.verdict for gate in found}[BOS] == "warn"

    def test_a_tokenizer_without_a_start(self, random_module: Callable[..., Any], bpe_tokenizer: Any) -> None:
        module = random_module("qwen3", bpe_tokenizer, max_position_embeddings=256)
        model = lb.hooks.load(module, tokenizer=bpe_tokenizer)
        assert checks.bos_count(model, [(5, 6), (7, 8)]) == 1

    def test_replay_is_shown_and_never_stops(self, examine: Callable[..., Any]) -> None:
        """A model that writes over its cache what it would not in one pass."""

        def moody(plain: Any, given: dict[str, Any]) -> Any:
            output = plain(**given)
            if given.get("input_ids") is not None and given["input_ids"].shape[1] == 1:
                output.logits = -output.logits
            return output

        gates = examine(forward(moody))
        assert gates[REPLAYED].verdict == "warn" and gates[REPLAYED].measured > 0.5
        enforce([gates[REPLAYED]])


class TestSites:
    def test_a_block_whose_output_is_scaled(self, examine: Callable[..., Any], word_tokenizer: Any) -> None:
        def scales(module: Any) -> None:
            for block in module.model.layers:  # after the hooks that read what the MLP puts out
                plain = block.forward
                block.forward = lambda hidden, *rest, plain=plain, **more: 0.5 * plain(hidden, *rest, **more)

        gates = examine(scales)
        assert verdicts(gates, ADDS_UP) == {"stop"} and gates[ADDS_UP].measured > 1000
        assert "a scaled residual?" in gates[ADDS_UP].advice
        assert gates[ADDS_UP].guards == "record attn_out, mlp_out, resid_mid"
        assert verdicts(gates, OWN, DONOR, IDENTITY) == {"pass"}  # which do not read the parts

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_granite_scales_what_it_adds(self, word_tokenizer: Any, dtype: torch.dtype) -> None:
        """In roundings the limit is the same in every precision: a plain residual passes, a scaled one is refused."""
        import transformers

        for multiplier, adds_up in ((1.0, True), (0.2, False)):
            config = transformers.GraniteConfig(
                vocab_size=len(word_tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                residual_multiplier=multiplier,
            )
            module = transformers.GraniteForCausalLM(config).eval().to(dtype)
            model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
            if adds_up:
                assert checks.additive_error(model, [(1, 5, 6, 7), (1, 8)]) <= 1
                continue
            with pytest.raises(InputError, match=r"adds 0\.2 times what attention and MLP put out"):
                checks.additive_error(model, [(1, 5, 6, 7), (1, 8)])

    def test_a_backend_that_reads_another_position(self, tiny: Callable[[str], Any], pairs: Any) -> None:
        model = tiny("llama")
        backend = deepcopy(model.backend)
        plain = backend.read

        def shifted(ids: Any, mask: Any, sites: Sequence[Any], rows: Any) -> Any:
            return {site: value.roll(1, 0) for site, value in plain(ids, mask, sites, rows).items()}

        backend.read = shifted
        gates = {g.name: g for g in lb.analyses.doctor(replace(model, backend=backend), pairs).gates}
        assert gates[IDENTITY].verdict == "stop"
        assert "cannot be taken up in between" in gates[IDENTITY].advice

    def test_a_forward_that_fails_stops_the_gate_and_not_the_doctor(
        self, tiny: Callable[[str], Any], pairs: Any
    ) -> None:
        model = tiny("llama")
        backend = deepcopy(model.backend)

        def fails(*_: Any) -> Any:
            raise IndexError("index 3 is out of range")

        backend.read = fails
        gates = {g.name: g for g in lb.analyses.doctor(replace(model, backend=backend), pairs).gates}
        assert verdicts(gates, IDENTITY, ADDS_UP) == {"stop"} and np.isnan(gates[IDENTITY].measured)
        assert gates[IDENTITY].advice.startswith("It fails (IndexError: index 3 is out of range).")


class TestVerdicts:
    @pytest.mark.parametrize(
        ("error", "verdict"), [(0.0, "pass"), (0.1, "pass"), (0.11, "warn"), (0.5, "warn"), (0.51, "stop")]
    )
    def test_one_and_five_percent_of_the_effect(self, error: float, verdict: str) -> None:
        assert judge("a", error, -10.0, "do").verdict == verdict
        assert judge_limit("a", error, 0.1, "do").verdict == verdict

    def test_without_an_effect_only_rounding_passes(self) -> None:
        assert [judge("a", error, 0.0, "").verdict for error in (1e-5, 2e-5, float("nan"))] == ["pass", "stop", "stop"]

    def test_warnings_and_refusals_do_not_stop(self) -> None:
        enforce([judge("a", 0.2, 10.0, ""), Gate("b", float("nan"), float("nan"), "refused", "")])
        with pytest.raises(GateError, match=r"does not pass 1 of 2 gates, .*: b: error 1, limit 0\.1\. do this"):
            enforce([judge("a", 0.2, 10.0, ""), judge("b", 1.0, 10.0, "do this")])

    def test_warns_near_the_limit_on_a_model(self, examine: Callable[..., Any]) -> None:
        """A head that answers a little differently when nothing is cached: by a few per cent of the effect."""
        effect = examine()[OWN].limit * 100

        def leans(plain: Any, given: dict[str, Any]) -> Any:
            output = plain(**given)
            if given.get("use_cache") is False:
                output.logits = output.logits + 0.005 * effect * torch.arange(output.logits.shape[-1])
            return output

        gates = examine(forward(leans))
        assert "warn" in verdicts(gates, OWN, DONOR) and "stop" not in verdicts(gates, OWN, DONOR)


class TestRunGates:
    def test_channels_measures_them_all_and_stops(self, random_module: Callable[..., Any], word_tokenizer: Any) -> None:
        module = random_module("llama", word_tokenizer)
        model = lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
        task = lb.tasks.load("modular-sum")
        pair = task.pairs(1)[0]
        runs = lb.hooks.replay_gold(model, [pair.recipient, pair.donor], max_answer_tokens=1)
        onset = resolve_target("step.2", runs)
        aims: Any = [tuple(cut(run, onset, "step.2", model) for run in runs)]
        scores = eight_cells(model, aims, [None])
        gates = {gate.name: gate for gate in run_gates(model, runs, aims, [None], scores)}
        assert set(gates) == {OWN, DONOR, BATCHED, LEFT, RIGHT, FINITE, BOS, REPLAYED}
        assert {gate.verdict for gate in gates.values()} == {"pass"}
        wrong = replace(scores, log_p=scores.log_p + np.arange(8)[None, :, None] * np.arange(3))
        stopped = run_gates(model, runs, aims, [None], wrong)
        assert {gate.name for gate in stopped if gate.verdict == "stop"} == {DONOR, BATCHED}


class TestDoctor:
    def test_its_own_questions_for_a_model_without_a_task(
        self, random_module: Callable[..., Any], bpe_tokenizer: Any, tmp_path: Path
    ) -> None:
        module = random_module("qwen3", bpe_tokenizer, max_position_embeddings=256)
        model = lb.hooks.load(module, tokenizer=bpe_tokenizer)
        found = lb.analyses.doctor(model)
        assert found.healthy and set(found.coords["gate"]) == ALL
        path = found.save(tmp_path / "doctor.safetensors")
        again = lb.load(path)
        assert isinstance(again, lb.analyses.Doctor) and again.gates == found.gates
        assert again.table().equals(found.table())
        assert list(found.table().columns) == ["gate", "measured", "limit", "verdict", "advice"]
        assert set(found.table().loc[found.frame()["verdict"] == "pass", "advice"]) == {""}
        assert found.manifest.identity["task"] == "doctor"
        found.enforce()

    def test_own_questions_differ_in_length_and_answer(self) -> None:
        pairs = own_questions()
        assert len({len(pair.recipient.prompt.split()) for pair in pairs[:4]}) == 4
        for pair in pairs:
            assert pair.recipient.answer != pair.donor.answer
            assert len(pair.recipient.prompt.split()) == len(pair.donor.prompt.split())

    def test_a_model_that_cannot_be_spliced_is_told_what_it_can_do(self, word_tokenizer: Any, pairs: Any) -> None:
        import transformers

        config = transformers.MambaConfig(
            vocab_size=len(word_tokenizer), hidden_size=32, num_hidden_layers=2, state_size=8
        )
        module = transformers.MambaForCausalLM(config).eval()
        found = lb.analyses.doctor(lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT), pairs)
        gates = {gate.name: gate for gate in found.gates}
        assert verdicts(gates, OWN, DONOR, BATCHED, ADDS_UP) == {"refused"}
        assert verdicts(gates, RIGHT, FINITE, BOS, IDENTITY) == {"pass"}  # which is patched in whole passes
        assert "MambaForCausalLM cannot be spliced" in gates[OWN].advice and "MambaBlock" in gates[ADDS_UP].advice
        assert found.table().set_index("gate").loc[OWN, "measured"] == "-"

    def test_words_that_the_tokenizer_does_not_know(self, tiny: Callable[[str], Any]) -> None:
        with pytest.raises(InputError, match="is outside the tokenizer's vocabulary"):
            lb.analyses.doctor(tiny("llama"))

    def test_no_pair_that_can_be_exchanged(self, tiny: Callable[[str], Any]) -> None:
        task = lb.tasks.Questions()
        task.add("a", "6 + 2 mod 10", "8", partner="b")
        task.add("b", "6 + 2 + 1 mod 10", "9", partner="a")
        with pytest.raises(InputError, match=r"no pair to measure: expected two prompts of equal token count .*--task"):
            lb.analyses.doctor(tiny("llama"), task.pairs(1))

    def test_the_command_prints_the_table_and_tells_by_its_status(
        self, random_module: Callable[..., Any], bpe_tokenizer: Any, tmp_path: Path
    ) -> None:
        def command(*words: str) -> subprocess.CompletedProcess[str]:
            line = [sys.executable, "-m", "loadbearing.cli", "doctor", "--quiet", *words]
            return subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)

        done = command("--model", "organism:copy-tokens", "--save", "doctor.safetensors")
        assert done.returncode == 0, done.stderr
        assert all(name in done.stdout for name in ALL) and "stop" not in done.stdout
        assert lb.load(tmp_path / "doctor.safetensors").healthy
        module = random_module("qwen3", bpe_tokenizer, max_position_embeddings=256)
        module.model.layers[0].mlp.down_proj.weight.data[:] = float("nan")
        module.save_pretrained(tmp_path / "broken")
        bpe_tokenizer.save_pretrained(tmp_path / "broken")
        done = command("--model", "broken")
        assert done.returncode == 1, done.stderr
        assert "stop" in done.stdout and "NaN or infinity" in done.stdout


class TestLoadable:
    def test_a_part_in_training_mode(self, random_module: Callable[..., Any], word_tokenizer: Any) -> None:
        module = random_module("llama", word_tokenizer)
        check_loadable(module)
        module.model.layers[1].mlp.train()
        with pytest.raises(InputError, match=r"a part of the model \(model.layers.1.mlp\) is in training mode"):
            lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)

    @pytest.mark.parametrize("method", ["bitsandbytes", "gptq"])
    def test_a_quantised_model(self, method: str, random_module: Callable[..., Any], word_tokenizer: Any) -> None:
        from transformers import BitsAndBytesConfig, GPTQConfig

        module = random_module("llama", word_tokenizer)
        given: Any = BitsAndBytesConfig(load_in_8bit=True) if method == "bitsandbytes" else GPTQConfig(bits=4)
        for config in (given, given.to_dict()):
            module.config.quantization_config = config
            with pytest.raises(
                InputError, match=rf"LlamaForCausalLM is quantised \({method}\): expected float weights"
            ):
                lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)

    def test_weights_that_are_not_in_memory(self, random_module: Callable[..., Any], word_tokenizer: Any) -> None:
        module = random_module("llama", word_tokenizer)
        module.hf_device_map = {"model.layers.0": "cpu", "model.layers.1": "disk"}
        module.model.layers[1].to("meta")
        told = r"LlamaForCausalLM: 9 of its 30 weight tensors are offloaded \(device map: cpu, disk\): expected all"
        with pytest.raises(InputError, match=told):
            lb.hooks.load(module, tokenizer=word_tokenizer, format=FORMAT)
