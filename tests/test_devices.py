"""Models over two devices that are made up on one CPU: tensors that meet across them raise, and values are compared."""

import copy
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.analyses import (
    ablation,
    across,
    attribution,
    channels,
    decodability,
    errors,
    knockout,
    ledger,
    patch,
    paths,
    subspace,
)
from loadbearing.core import InputError
from loadbearing.hooks import KnockOut, Patch, edited, generate, load, record, replay_gold
from loadbearing.hooks.backends.torch import TorchBackend
from loadbearing.hooks.cache import Caches, forward_over, forward_segment
from loadbearing.hooks.support import check_one_device
from loadbearing.organisms.specs import FORMAT

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


FIRST, SECOND = torch.device("lazy:0"), torch.device("lazy:1")


def _of_this_folder(name: str) -> Any:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


two = _of_this_folder("two_devices")


@pytest.fixture(scope="module")
def whole() -> Any:
    """A model on one device. Eager attention is the same code on every kind of device."""
    return load("organism:sft", attention="eager")


@pytest.fixture
def both(whole: Any) -> Iterator[tuple[Any, Any]]:
    """The model on one device, and over two."""
    with two.two_devices():
        yield whole, _halves(whole)


def _halves(model: Any) -> Any:
    module = two.spread(copy.deepcopy(model.module), model.sites.layers_path)
    return dataclasses.replace(model, backend=TorchBackend(module))


def _same(one: Any, other: Any, atol: float = 0.0) -> None:
    """Every number of two results is the same, to `atol`."""
    compared = 0
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            np.testing.assert_allclose(value, getattr(other, name), rtol=0, atol=atol, err_msg=name)
            compared += 1
    assert compared


class TestTheTwoDevices:
    """What the tests below rest on: tensors on different devices cannot meet unseen."""

    def test_tensors_of_two_devices_do_not_meet(self) -> None:
        with two.two_devices():
            here, there = torch.ones(3, device=FIRST), torch.ones(3, device=SECOND)
            for operation, given in (
                (torch.add, (here, there)),
                (torch.cat, ([here, there],)),
                (torch.stack, ([here, torch.ones(3)],)),
                (torch.Tensor.__getitem__, (here, torch.tensor([0], device=SECOND))),
                (torch.index_select, (here, 0, torch.tensor([0]))),
            ):
                with pytest.raises(RuntimeError, match="expected one device"):
                    operation(*given)
            assert (here + there.to(FIRST)).tolist() == [2, 2, 2]
            assert here[torch.tensor([0])].device == FIRST
            here[1:] = there[1:] + 1  # written across, as on a GPU
            assert here.tolist() == [1, 2, 2]

    def test_a_model_without_hooks_that_move_its_inputs_cannot_run(self, whole: Any) -> None:
        with two.two_devices():
            module = _halves(whole).module
            for part in module.modules():
                vars(part).pop("forward", None)
            with pytest.raises(RuntimeError, match="expected one device"):
                module(input_ids=torch.zeros(1, 3, dtype=torch.long, device=FIRST))


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_a_text_in_two_segments_is_the_whole_text(
    kind: str, random_module: Callable[..., Any], word_tokenizer: Any
) -> None:
    """Caches of each layer stay with the layer, and a splice of two batches gives the logits of one pass."""
    module = random_module(kind, word_tokenizer, layers=4, attn_implementation="eager")
    plain = load(module, tokenizer=word_tokenizer, format=FORMAT)
    with two.two_devices():
        model = _halves(plain)
        assert {weight.device for weight in model.module.parameters()} == {FIRST, SECOND}
        text = torch.tensor([[5, 6, 7, 8, 9, 10]], device=FIRST)
        caches = Caches()
        _, layers = forward_segment(model, text[:, :4].expand(2, -1))
        assert [keys.device for keys, _ in layers] == [FIRST, FIRST, SECOND, SECOND]
        caches.add(["a", "b"], layers, [(5, 6, 7, 8)] * 2)
        past, ids = caches.assemble([["b"], ["a"]], 2)
        spliced, _ = forward_over(model, text[:, 4:].expand(2, -1), past, ids)
        known = forward_segment(plain, text.cpu())[0][:, 4:]
        torch.testing.assert_close(spliced.cpu(), known.expand(2, -1, -1), rtol=0, atol=1e-5)


class TestOverTwoDevices:
    """Every operation gives over two devices what it gives on one."""

    def test_writing_and_reading(self, both: tuple[Any, Any]) -> None:
        problems = both[0].task.problems(6)
        wrote = [generate(model, problems) for model in both]
        assert [run.ids for run in wrote[0]] == [run.ids for run in wrote[1]]
        again = [replay_gold(model, problems) for model in both]
        assert [run.ids for run in again[0]] == [run.ids for run in again[1]]
        one, other = (record(model, wrote[0], SITES, ["prompt[-1]", "cue[-1]"]) for model in both)
        assert all(torch.equal(one.values[site], other.values[site]) for site in SITES)

    def test_edits_and_cuts(self, both: tuple[Any, Any]) -> None:
        problems = both[0].task.problems(6)
        value = torch.ones(64)
        edits: list[Patch | KnockOut] = [
            KnockOut("cue", "cot"),
            KnockOut("cue", "cot[0]", heads=[0], how="zero"),
            *(Patch(site, layer, 5, value) for site in ("resid_mid", "mlp_out") for layer in (0, 2)),
        ]
        with edited(both[0], edits) as one, edited(both[1], edits) as other:
            assert [run.ids for run in generate(one, problems)] == [run.ids for run in generate(other, problems)]
        cut = [generate(model.cut("cue", "cot"), problems) for model in both]
        assert [run.ids for run in cut[0]] == [run.ids for run in cut[1]]
        assert cut[0].accuracy < 0.5

    @pytest.mark.parametrize(
        "analysis",
        [
            lambda model: channels(model, model.task.pairs(1)),
            lambda model: ablation(model, model.task.problems(2)),
            lambda model: ledger(model, model.task.problems(2)),
            lambda model: errors(model, model.task.problems(3)),
            lambda model: decodability(model, model.task.problems(20), shuffles=2, folds=2, twin=False),
            lambda model: patch(model, model.task.pairs(2), "mlp_out"),
            lambda model: patch(model, model.task.pairs(1), "k", layers=[0, 2]),
            lambda model: patch(model, model.task.pairs(2), method="gradient", sample=1),
            lambda model: paths(model, model.task.pairs(1), mode="cot"),
            lambda model: across(model, model.task.problems(2)),
            lambda model: knockout(model, generate(model, model.task.problems(2)), "cue", "cot", controls=1),
            lambda model: attribution(model, model.task.pairs(2), mode="cot", unit="head"),
            lambda model: subspace(
                model,
                model.task.pairs(6),
                mode="cot",
                position="cot[0]",
                layers=[1],
                fit=40,
                draws=1,
                find="das",
                rank=1,
                steps=2,
            ),
        ],
        ids=[
            "channels",
            "ablation",
            "ledger",
            "errors",
            "decodability",
            "patch",
            "keys",
            "gradient",
            "paths",
            "across",
            "knockout",
            "attribution",
            "das",
        ],
    )
    def test_an_analysis(self, whole: Any, analysis: Callable[[Any], Any]) -> None:
        """To the rounding of sums: tensors that were copied lie otherwise in memory, and are added in another order."""
        alone = analysis(whole)
        with two.two_devices():
            _same(alone, analysis(_halves(whole)), atol=1e-4)


def test_accelerate_in_the_way_changes_no_number(whole: Any) -> None:
    """All of accelerate's own dispatch, with every block on the CPU."""
    from accelerate import dispatch_model

    module = copy.deepcopy(whole.module)
    dispatch_model(module, {"model": "cpu", "lm_head": "cpu"}, force_hooks=True)
    assert "forward" in vars(module.model.layers[1].mlp)
    model = dataclasses.replace(whole, backend=TorchBackend(module))
    problems = whole.task.problems(6)
    _same(channels(whole, whole.task.pairs(3)), channels(model, whole.task.pairs(3)))
    runs = [generate(each, problems) for each in (whole, model)]
    assert [run.ids for run in runs[0]] == [run.ids for run in runs[1]]
    one, other = (record(each, runs[0], SITES) for each in (whole, model))
    assert all(torch.equal(one.values[site], other.values[site]) for site in SITES)


class TestRefused:
    """What cannot be, by name."""

    def test_offloaded_weights(self, whole: Any, tmp_path: Path) -> None:
        from accelerate import dispatch_model

        module = copy.deepcopy(whole.module)
        places = {name: "cpu" for name, _ in module.model.named_children()}
        layers = {f"model.layers.{i}": "disk" if i == 2 else "cpu" for i in range(3)}
        places = {f"model.{name}": place for name, place in places.items() if name != "layers"}
        dispatch_model(module, {**places, **layers, "lm_head": "cpu"}, offload_dir=str(tmp_path))
        told = r"9 of its 30 weight tensors are offloaded \(device map: cpu, disk\): expected all .*GPUs"
        with pytest.raises(InputError, match=told):
            lb.hooks.load(module, tokenizer=whole.tokenizer, format=whole.format)

    def test_what_needs_one_device(self, both: tuple[Any, Any]) -> None:
        check_one_device(both[0].module, "this")
        told = r"this cannot be run with LlamaForCausalLM, which is spread over lazy:0, lazy:1: expected .*device_map"
        with pytest.raises(InputError, match=told):
            check_one_device(both[1].module, "this")
        with pytest.raises(InputError, match="backend='transformer_lens' cannot be run with LlamaForCausalLM"):
            load(both[1].module, backend="transformer_lens", tokenizer=both[0].tokenizer, format=both[0].format)
