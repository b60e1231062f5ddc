"""What every test shares: one import order, no network, no module loaded twice, tokenizers and tiny random models.

Nothing of `loadbearing` may be imported at the top: jaxtyping's checks are put on while it is imported, which is after
this file is read.
"""

import beartype  # noqa: F401, I001 - before nnsight, which adds to `object` what beartype cannot read

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models: threads would wait for each other, and on a busy machine for a long time.
os.environ["OMP_NUM_THREADS"] = "1"

import json
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

ROOMS = ("analyses", "cli", "core", "figures", "hooks", "organisms", "probes", "tasks")
LOCAL = ("127.0.0.1", "::1", "localhost")


class Figures:
    """Closes what a test drew; as a plugin, also what docstrings drew, which lie outside this folder."""

    @pytest.fixture(autouse=True)
    def close_figures(self) -> Iterator[None]:
        """Close every figure after every test: matplotlib warns of more than twenty."""
        yield
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")


def pytest_configure(config: pytest.Config) -> None:
    """Let figures be closed everywhere."""
    config.pluginmanager.register(Figures())


@dataclass(frozen=True)
class Done:
    """What a command did: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def told(self) -> Any:
        """The JSON document that stdout is; numbers that JSON does not have are an error."""

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        return json.loads(self.out, parse_constant=refuse)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in this process, from an empty folder: an import of torch takes seconds."""
    from loadbearing.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["loadbearing", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def rooms() -> tuple[str, ...]:
    """The rooms of the house: the top-level folders that are imported as `loadbearing.*`."""
    return ROOMS


@pytest.fixture(scope="session", autouse=True)
def no_room_is_loaded_by_its_bare_name() -> Iterator[None]:
    """Fail the run if a module was loaded twice, as `hooks` and as `loadbearing.hooks`."""
    yield
    stray = sorted(name for name in sys.modules if name.partition(".")[0] in ROOMS)
    assert not stray, f"imported without the prefix 'loadbearing.': {stray}"


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Let no test reach beyond this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            raise RuntimeError(f"a test tried to reach {address}: tests use no network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def organism() -> Callable[[str], Any]:
    """Load a shipped organism by name, once a session."""
    from loadbearing.hooks import load

    known: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in known:
            known[name] = load(f"organism:{name}")
        return known[name]

    return get


@pytest.fixture(scope="session")
def word_tokenizer() -> Any:
    """The word-level tokenizer of the organisms, over the words of `modular-sum` mod 10; it puts `<bos>` first."""
    from loadbearing.organisms.specs import FORMAT
    from loadbearing.organisms.tokenizer import build_tokenizer
    from loadbearing.tasks import load

    return build_tokenizer(load("modular-sum"), FORMAT)


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = (
    "What is 12 + 30? Let's think step by step. 12 + 30 is 42. Answer: 42\n"
    "user assistant system\n 6 + 2 + 9 + 1 mod 10\nAnswer: 8\n 12 12 12 42 42 30 30 the sum is\n12\n12\n12\n"
)


@pytest.fixture(scope="session")
def bpe_tokenizer() -> Any:
    """A byte-level BPE trained on two lines, with a chat template and thinking marks in Qwen's manner; no BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.add_tokens(["<think>", "</think>"])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"num_key_value_heads": 1}),
    "llama3": (
        "Llama",
        {
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "mistral": ("Mistral", {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 6}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 1}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 1, "head_dim": 16}),
    "olmo2": ("Olmo2", {"num_key_value_heads": 1}),
    "phi3": ("Phi3", {"num_key_value_heads": 1}),
    "gemma2": ("Gemma2", {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 6}),
    "gemma3": ("Gemma3", {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 6}),
    "gpt2": ("GPT2", {"n_positions": 64}),
    "gpt-neox": ("GPTNeoX", {"use_parallel_residual": True}),
    "gpt-neox-serial": ("GPTNeoX", {"use_parallel_residual": False}),
    "gpt-oss": (
        "GptOss",
        {"num_key_value_heads": 1, "head_dim": 16, "num_local_experts": 4, "sliding_window": 6},
    ),
}


@pytest.fixture(scope="session")
def random_module() -> Callable[..., Any]:
    """A new tiny decoder of an architecture (see ARCHITECTURES) with large random weights, so that outputs vary."""
    import transformers

    def make(kind: str, tokenizer: Any, *, layers: int = 3, seed: int = 0, **changes: Any) -> Any:
        prefix, options = ARCHITECTURES[kind]
        config_class = "Gemma3TextConfig" if kind == "gemma3" else f"{prefix}Config"
        model_class = "GPT2LMHeadModel" if kind == "gpt2" else f"{prefix}ForCausalLM"
        config = getattr(transformers, config_class)(
            **{
                "vocab_size": len(tokenizer),
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": layers,
                "num_attention_heads": 2,
                "max_position_embeddings": 64,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
                "tie_word_embeddings": False,
                **options,
                **changes,
            }
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = getattr(transformers, model_class)(config)
            for name, weight in module.named_parameters():
                if weight.ndim > 1:
                    torch.nn.init.normal_(weight, std=0.25)
                elif "bias" in name or "norm" in name or "ln" in name:
                    weight.data += 0.2 * torch.randn_like(weight)
        return module.eval()

    return make


@pytest.fixture(scope="session")
def tiny(random_module: Callable[..., Any], word_tokenizer: Any) -> Callable[[str], Any]:
    """A Model of an architecture with the word-level tokenizer and the organisms' format, once a session."""
    from loadbearing.hooks import load
    from loadbearing.organisms.specs import FORMAT

    known: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in known:
            known[kind] = load(random_module(kind, word_tokenizer), tokenizer=word_tokenizer, format=FORMAT)
        return known[kind]

    return get


@pytest.fixture(scope="session")
def ragged() -> Any:
    """Six questions of unequal length in the words of `modular-sum`, each with a CoT of its own length."""
    from loadbearing.tasks import Piece, Questions

    task = Questions()
    for number, (first, rest, cot) in enumerate(
        [
            ("6", " + 2 mod 10", " 8"),
            ("1", " + 2 + 3 mod 10", " 3 6"),
            ("9", " mod 10", " 9 9 9 9"),
            ("4", " + 4 + 4 + 4 + 4 mod 10", " 8 2 6 0"),
            ("7", " - 5 mod 10", " 2 . 2"),
            ("0", " + 0 + 1 - 1 + 5 - 5 + 8 mod 10", " 0 1 0 5 0 8"),
        ]
    ):
        task.add(f"q{number}", [Piece(first, "operand.1"), Piece(rest)], cot.split()[-1], cot=cot)
    return task


@pytest.fixture(scope="session")
def programmed() -> Any:
    """The module `programmed.py`: models whose next token is a written program of the tokens that they see."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("programmed", Path(__file__).with_name("programmed.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def scripted(programmed: Any) -> Callable[..., Any]:
    """A Model of `modular-sum` that follows a rule of `programmed.RULES`, once a session."""
    from loadbearing.hooks import load
    from loadbearing.organisms.specs import FORMAT
    from loadbearing.organisms.tokenizer import build_tokenizer
    from loadbearing.tasks import load as load_task

    known: dict[tuple[Any, ...], Any] = {}

    def get(rule: str, spec: str = "modular-sum", letters: bool = False) -> Any:
        if (rule, spec, letters) not in known:
            task = load_task(spec)
            tokenizer = programmed.letters_tokenizer() if letters else build_tokenizer(task, FORMAT)
            program = programmed.terse(programmed.RULES[rule], short="cot=short" in spec)
            module = programmed.Programmed(program, tokenizer, f"{rule} of {spec}").eval()
            known[rule, spec, letters] = load(module, tokenizer=tokenizer, format=FORMAT)
        return known[rule, spec, letters]

    return get
