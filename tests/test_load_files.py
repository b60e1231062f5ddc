"""Models from files: what reaches the weights, and what is refused before anything runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from loadbearing.core import InputError, UnknownNameError
from loadbearing.hooks import FORMATS, Format, generate, load
from loadbearing.organisms.specs import FORMAT
from loadbearing.tasks import ModularSum


@pytest.fixture
def folder(tmp_path: Path, random_module: Callable[..., Any], word_tokenizer: Any) -> Path:
    """A tiny random Llama with its tokenizer, saved as transformers saves it."""
    random_module("llama", word_tokenizer).save_pretrained(tmp_path)
    word_tokenizer.save_pretrained(tmp_path)
    return tmp_path


def edit(path: Path, **changes: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({mark!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
class Own(LlamaForCausalLM):
    config_class = OwnConfig
"""


class TestOptions:
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    @pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float16", "float64", "auto", None])
    def test_dtype_and_attention_reach_the_model(self, folder: Path, dtype: Any, attention: str) -> None:
        model = load(folder, dtype=dtype, attention=attention)
        wanted = "float32" if dtype in ("auto", None) else str(dtype).removeprefix("torch.")
        assert (model.identity()["dtype"], model.identity()["attention"]) == (wanted, attention)
        assert not model.module.training

    @pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, None])
    def test_a_device_map_places_the_model(self, folder: Path, device_map: Any) -> None:
        model = load(folder, device_map=device_map, dtype="bfloat16", format=FORMAT)
        assert model.device.type == ("cuda" if device_map == "auto" and torch.cuda.is_available() else "cpu")
        if model.device.type == "cpu":
            assert len(generate(model, ModularSum().problems(2), max_new_tokens=3)) == 2

    def test_what_was_stored_in_half_precision_stays_so(
        self, tmp_path: Path, random_module: Callable[..., Any], word_tokenizer: Any
    ) -> None:
        random_module("llama", word_tokenizer).bfloat16().save_pretrained(tmp_path)
        word_tokenizer.save_pretrained(tmp_path)
        assert load(tmp_path).identity()["dtype"] == "bfloat16"
        assert load(tmp_path, dtype="float32").identity()["dtype"] == "float32"

    @pytest.mark.parametrize("format", [*FORMATS, Format(cue="\nAnswer: so")])
    def test_a_format_is_taken_by_name_or_as_it_is(self, folder: Path, format: Any) -> None:
        assert load(folder, format=format).format == (FORMATS[format] if isinstance(format, str) else format)

    @pytest.mark.parametrize(
        ("option", "given", "nearest"),
        [
            ("dtype", "bf16", "nearest: 'bfloat16'"),
            ("attention", "flash_attention_2", "expected one of eager, sdpa"),
            ("format", "harmonic", "expected one of auto, plain, chat, think, harmony; nearest: 'harmony'"),
        ],
    )
    def test_an_unknown_name_lists_the_choices(self, folder: Path, option: str, given: Any, nearest: str) -> None:
        with pytest.raises(UnknownNameError) as error:
            load(folder, **{option: given})
        assert str(error.value).startswith(f"unknown {option} {given!r}") and nearest in str(error.value)

    @pytest.mark.parametrize(
        ("device_map", "told"),
        [
            ("gpu7", "needs to be a device name"),
            ({"": "gpu"}, "device type"),
            ("cuda:99", "cannot be loaded as a causal language model"),
            ("meta", "leaves the weights out of memory: give a device"),
        ],
    )
    def test_a_device_that_is_not_there_is_refused(self, folder: Path, device_map: Any, told: str) -> None:
        with pytest.raises(InputError, match=told):
            load(folder, device_map=device_map)

    @pytest.mark.parametrize("option", ["dtype", "attention", "device_map", "revision", "remote_code"])
    def test_options_of_files_are_refused_for_an_object(
        self, option: str, random_module: Callable[..., Any], word_tokenizer: Any
    ) -> None:
        given: dict[str, Any] = {option: True if option == "remote_code" else "auto"}
        with pytest.raises(InputError) as error:
            load(random_module("llama", word_tokenizer), tokenizer=word_tokenizer, **given)
        assert str(error.value) == (
            f"{option} cannot be given for a LlamaForCausalLM, which is loaded already: expected a name or a folder; "
            "give them where the model is made"
        )

    def test_a_revision_is_of_a_hub_name(self, folder: Path) -> None:
        for where in (str(folder), "organism:sft"):
            with pytest.raises(InputError, match=r"revision='main' is of a hub name, and .* is a folder: leave it out"):
                load(where, revision="main")
        with pytest.raises(InputError, match="'nobody/nothing' cannot be loaded as a causal language model"):
            load("nobody/nothing", revision="main")  # there is no network: the name is looked for in the cache


class TestFiles:
    def test_a_pickle_is_never_read(self, folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.unlink()
        # A pickle that would leave a trace if it were opened.
        trace = folder / "opened"
        torch.save({"model.norm.weight": _Trace(str(trace))}, folder / "pytorch_model.bin")
        with pytest.raises(InputError) as error:
            load(folder)
        for part in (
            "its weights are in pytorch_model.bin",
            "only safetensors are read",
            "can run code",
            "convert them",
        ):
            assert part in str(error.value)
        assert not trace.exists()
        torch.load(folder / "pytorch_model.bin", weights_only=False)
        assert trace.exists()

    def test_a_folder_without_weights_says_so(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        with pytest.raises(InputError, match="its weights are in no safetensors file"):
            load(folder)

    def test_code_of_a_model_runs_only_when_asked(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers import dynamic_module_utils

        modules = folder / "modules"
        monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
        monkeypatch.setattr("sys.path", [str(modules), *__import__("sys").path])
        trace = folder / "ran"
        (folder / "own.py").write_text(CODE.format(mark=str(trace)))
        classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
        edit(folder / "config.json", model_type="own", architectures=["Own"], auto_map=classes)
        with pytest.raises(InputError) as error:
            load(folder)
        assert "Python files of its own" in str(error.value) and "remote_code=True" in str(error.value)
        assert not trace.exists()
        assert type(load(folder, remote_code=True).module).__name__ == "Own" and trace.exists()

    def test_weights_that_are_missing_are_not_made_up(self, folder: Path) -> None:
        edit(folder / "config.json", num_hidden_layers=4)
        with pytest.raises(InputError) as error:
            load(folder)
        assert "lacks 9 weights, the first of them 'model.layers.3." in str(error.value)
        assert "which would be random" in str(error.value)

    def test_weights_of_another_shape_are_refused(self, folder: Path) -> None:
        edit(folder / "config.json", hidden_size=64)
        with pytest.raises(InputError, match="cannot be loaded as a causal language model"):
            load(folder)

    def test_a_file_that_was_cut_off_is_refused(self, folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(InputError, match=r"cannot be loaded as a causal language model: .*header"):
            load(folder)

    def test_an_unknown_architecture_is_refused(self, folder: Path) -> None:
        edit(folder / "config.json", model_type="nosuch")
        with pytest.raises(InputError, match="does not recognize this architecture"):
            load(folder)


class _Trace:
    """An object whose unpickling makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)
