"""The monitor of a training: its rows stand in the trainer's logs, and the training is the one without it."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import TrainerCallback

import loadbearing as lb
from loadbearing import figures
from loadbearing.core import InputError
from loadbearing.figures.history import _frames
from loadbearing.figures.style import WIRE_COLOURS
from loadbearing.organisms import ChannelCallback, monitor
from loadbearing.organisms.monitor import PREFIX, undisturbed, unwrapped

# TRL calls transformers' old names for activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

FEW: dict[str, Any] = {"pairs": 8, "problems": 16, "budget": None}
KINDS = ("transformers", "sft", "grpo")


def fresh(name: str) -> Any:
    """An organism of one's own, to be trained."""
    return lb.hooks.load(f"organism:{name}")


def gold_texts(model: Any, n: int) -> list[dict[str, str]]:
    form = model.format
    return [
        {"prompt": p.prompt + form.open, "completion": f"{p.cot}{form.cue} {p.answer} <eos>", "gold": p.answer}
        for p in model.task.problems(n, split="train")
    ]


def reward(completions: list[str], gold: list[str], **_: Any) -> list[float]:
    """Whether the answer after the cue is right."""
    said = [text.partition(" answer")[2].split()[:1] for text in completions]
    return [float(one == [right]) for one, right in zip(said, gold, strict=True)]


def trainer_of(
    kind: str, model: Any, folder: Path, steps: int, rate: float = 1e-3, rows: list[dict[str, str]] | None = None
) -> Any:
    """A trainer of transformers or TRL at a tiny size, that logs every five updates."""
    from datasets import Dataset

    common: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "logging_steps": 5,
        "learning_rate": rate,
        "per_device_train_batch_size": 16,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    rows = rows or gold_texts(model, 64)
    given: dict[str, Any] = {"model": model.module, "processing_class": model.tokenizer}
    if kind == "grpo":
        from trl.trainer.grpo_config import GRPOConfig
        from trl.trainer.grpo_trainer import GRPOTrainer

        # At a high temperature not all completions of a prompt earn the same, so that there is a gradient.
        options = GRPOConfig(num_generations=8, max_completion_length=8, beta=0.0, temperature=3.0, **common)
        given["reward_funcs"] = reward
        return GRPOTrainer(args=options, train_dataset=Dataset.from_list(rows), **given)
    if kind == "sft":
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        data = Dataset.from_list([{key: row[key] for key in ("prompt", "completion")} for row in rows])
        return SFTTrainer(args=SFTConfig(**common), train_dataset=data, **given)
    from transformers import Trainer, TrainingArguments

    texts = [model.tokenizer(row["prompt"] + row["completion"])["input_ids"] for row in rows]
    data = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in texts])
    plain = TrainingArguments(activation_checkpointing=True, **common)
    return Trainer(args=plain, train_dataset=data, **given)


def logged_rows(trainer: Any) -> list[dict[str, Any]]:
    return [row for row in trainer.state.log_history if PREFIX + "usable" in row]


class Heard(TrainerCallback):
    """Stands for W&B: a reporter that a trainer has from the start, and so before every callback that is added."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append({"step": state.global_step, **(logs or {})})


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_stand_in_the_logs_of_every_trainer(kind: str, tmp_path: Path) -> None:
    model, heard = fresh("sft"), Heard()
    trainer = trainer_of(kind, model, tmp_path, steps=10, rate=1e-4)
    trainer.add_callback(heard)
    callback = ChannelCallback(model.task, format=model.format, every=5, history=tmp_path / "rows.jsonl", **FEW)
    assert callback.attach(trainer) is callback
    trainer.train()
    rows = logged_rows(trainer)
    assert [row["step"] for row in rows] == [0, 5, 10]
    for row in rows:  # the organism wrote a chain that carries all; a little more of the same changes nothing
        assert row[PREFIX + "tokens"] == pytest.approx(1, abs=0.05)
        assert row[PREFIX + "direct"] + row[PREFIX + "relay"] + row[PREFIX + "tokens"] == pytest.approx(1)
        assert row[PREFIX + "serial_share"] > 0.9 > row[PREFIX + "serial_chance"]
        assert row[PREFIX + "cot_accuracy"] > 0.9 > row[PREFIX + "one_pass_accuracy"]
        assert row[PREFIX + "seconds"] > 0 == row[PREFIX + "withheld"] == row[PREFIX + "skipped"]
        assert all(isinstance(value, int | float) and np.isfinite(value) for value in row.values())
    # A reporter hears each row with the log of the same update, and the trainer's own figures stay where they were.
    told = {log["step"]: log for log in heard.logs if "loss" in log}
    assert {step: log[PREFIX + "step"] for step, log in told.items()} == {5: 5, 10: 10}
    if kind == "grpo":
        assert all("reward" in log for log in told.values())
    assert not any(PREFIX + "usable" in row for row in trainer.state.log_history if "loss" in row)
    json.dumps(trainer.state.log_history, allow_nan=False)  # what a checkpoint saves
    read = pd.read_json(tmp_path / "rows.jsonl", lines=True)
    pd.testing.assert_frame_equal(read, callback.history(), check_dtype=False)
    axes = figures.history(tmp_path / "rows.jsonl")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "5", "10"]


def test_a_chain_that_carries_nothing_is_told_apart_in_a_grpo_run(tmp_path: Path) -> None:
    model = fresh("post-hoc")
    trainer = trainer_of("grpo", model, tmp_path, steps=5, rate=1e-4)
    trainer.add_callback(ChannelCallback(model.task, format=model.format, every=5, **FEW))
    trainer.train()
    assert [row["step"] for row in logged_rows(trainer)] == [0, 5]
    for row in logged_rows(trainer):
        assert row[PREFIX + "direct"] == pytest.approx(1, abs=0.05)
        assert row[PREFIX + "tokens"] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_bit_for_bit_those_of_the_training_without_it(kind: str, tmp_path: Path) -> None:
    start = fresh("sft").module.state_dict()
    found = []
    for watched in (False, True):
        model = fresh("sft")
        for block in model.sites.blocks:
            block.block.self_attn.attention_dropout = 0.1  # draws from the random state at each update
        trainer = trainer_of(kind, model, tmp_path, steps=20)
        if watched:
            few: dict[str, Any] = {"pairs": 2, "problems": 4, "budget": None}
            trainer.add_callback(ChannelCallback(model.task, format=model.format, every=8, **few))
        trainer.train()
        found.append((model.module.state_dict(), [r["loss"] for r in trainer.state.log_history if "loss" in r]))
        assert [row["step"] for row in logged_rows(trainer)] == ([0, 8, 16, 20] if watched else [])
    (without, losses), (with_it, same_losses) = found
    assert losses == same_losses
    assert all(torch.equal(with_it[key], weight) for key, weight in without.items())
    assert any(not torch.equal(start[key], weight) for key, weight in without.items())  # there was a training


def test_a_model_in_the_middle_of_its_training_is_left_as_it_was() -> None:
    model = fresh("sft")
    module = model.module
    module.train()
    module.model.layers[1].eval()  # a part that its user has frozen
    module.activation_checkpointing_enable()
    module.config.use_cache = False
    module.lm_head.weight.grad = torch.ones_like(module.lm_head.weight)
    modes = [part.training for part in module.modules()]
    saving = [getattr(part, "gradient_checkpointing", None) for part in module.modules()]
    assert True in saving
    weights = {key: weight.clone() for key, weight in module.state_dict().items()}
    torchs, numpys = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    # As it is, what it generates is rubbish: a layer in training mode drops its cache under activation checkpointing.
    assert lb.hooks.generate(model, model.task.problems(16)).accuracy < 0.5
    row = ChannelCallback(model.task, tokenizer=model.tokenizer, format=model.format, **FEW).measure(module)
    assert (row["status"], row["cot_accuracy"]) == ("ok", 1.0)
    assert [part.training for part in module.modules()] == modes
    assert [getattr(part, "gradient_checkpointing", None) for part in module.modules()] == saving
    assert all(torch.equal(weight, weights[key]) for key, weight in module.state_dict().items())
    assert torch.equal(module.lm_head.weight.grad, torch.ones_like(module.lm_head.weight))
    assert all(p.grad is None for name, p in module.named_parameters() if name != "lm_head.weight")
    assert torch.equal(torch.get_rng_state(), torchs)
    assert (np.random.get_state(legacy=False)["state"]["key"] == numpys).all()


def test_random_states_come_back_even_where_they_were_drawn_from_and_an_error_came() -> None:
    module = torch.nn.Linear(2, 2)

    def draw() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.rand())

    def seeded() -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)

    seeded()
    first = draw()
    seeded()
    with pytest.raises(KeyError), undisturbed(module):
        assert not module.training
        assert not torch.is_grad_enabled()
        draw()
        raise KeyError
    assert module.training
    assert torch.is_grad_enabled()
    assert draw() == first


def test_a_chain_that_training_destroys_is_seen_and_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The positive twin: answers only, without a chain, make `sft` forget to write one."""
    warned: list[str] = []
    monkeypatch.setattr(monitor.logger, "warning", warned.append)
    model = fresh("sft")
    rows = [{**row, "completion": f"{model.format.cue} {row['gold']} <eos>"} for row in gold_texts(model, 256)]
    trainer = trainer_of("sft", model, tmp_path, steps=40, rows=rows)
    trainer.add_callback(ChannelCallback(model.task, format=model.format, every=20, **FEW))
    trainer.train()
    before, middle, after = logged_rows(trainer)
    assert (before[PREFIX + "cot_accuracy"], before[PREFIX + "usable"]) == (1.0, 1.0)
    assert max(middle[PREFIX + "cot_accuracy"], after[PREFIX + "cot_accuracy"]) < 0.5
    for row in (middle, after):
        assert (row[PREFIX + "usable"], row[PREFIX + "withheld"]) == (0.0, 1.0)
        assert not {PREFIX + wire for wire in WIRE_COLOURS} & set(row)
    assert trainer.state.global_step == 40
    assert len(warned) == 2  # once for shares, once for the serial share, though two rows lack them
    assert all(text.startswith("step 20: no ") and "training goes on" in text for text in warned)


def test_a_withheld_share_is_no_number_in_the_log(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    callback = ChannelCallback(model.task, tokenizer=model.tokenizer, format=model.format, pairs=2, problems=4)
    row = callback.measure(model.module)
    assert row["status"] == "withheld: n"  # six pairs of early variables
    told = monitor.logged(row)
    assert told[PREFIX + "withheld"] == told[PREFIX + "usable"] == 1
    assert told[PREFIX + "total_nats"] > 1
    assert not {PREFIX + wire for wire in WIRE_COLOURS} & set(told)
    assert all(isinstance(value, float) for value in told.values())


def test_an_error_that_is_not_ours_is_not_hidden(
    organism: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = organism("sft")

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("loadbearing.analyses.history.channels", broken)
    callback = ChannelCallback(model.task, tokenizer=model.tokenizer, format=model.format, **FEW)
    with pytest.raises(RuntimeError, match="out of memory"):
        callback.measure(model.module)


class Clocked(ChannelCallback):
    """A measurement takes two seconds of a clock that nobody else moves."""

    now = 0.0

    def measure(self, module: torch.nn.Module) -> dict[str, float | int | str]:
        self.now += 2
        return {"tokens": 1.0}


def state_at(step: int, updates: int, main: bool = True) -> Any:
    return SimpleNamespace(global_step=step, max_steps=updates, epoch=0.0, log_history=[], is_world_process_zero=main)


def clocked(monkeypatch: pytest.MonkeyPatch, updates: int, resumed: int = 0, **options: Any) -> Clocked:
    """The callback after a training of one second an update."""
    callback, module = Clocked("modular-sum", **options), torch.nn.Linear(1, 1)
    monkeypatch.setattr("time.perf_counter", lambda: callback.now)
    arguments, state = SimpleNamespace(report_to=[]), state_at(resumed, updates)
    callback.on_train_begin(arguments, state, None, model=module)
    for step in range(resumed + 1, updates + 1):
        callback.now += 1
        state.global_step = step
        callback.on_step_end(arguments, state, None, model=module)
    return callback


def test_the_schedule_keeps_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    # n measurements of 2 s need 50 n s of training at 4 %.
    found = clocked(monkeypatch, 160).history()
    assert found["step"].tolist() == [0, 100, 150]
    assert found["time_fraction"].tolist()[1:] == [4 / 100, 6 / 150]
    found = clocked(monkeypatch, 160, every=50).history()
    assert (found["step"].tolist(), found["skipped"].tolist()) == ([0, 100, 150], [0, 1, 0])
    found = clocked(monkeypatch, 160, every=50, budget=None).history()
    assert found["step"].tolist() == [0, 50, 100, 150, 160]
    assert clocked(monkeypatch, 30, every=10, budget=0.01).history()["step"].tolist() == [0]


def test_a_resumed_training_goes_on_with_its_history(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options: dict[str, Any] = {"every": 10, "budget": None, "history": tmp_path / "rows.jsonl"}
    clocked(monkeypatch, 40, **options)
    with pytest.raises(InputError, match="exists, and this training starts anew: choose another history, or delete"):
        clocked(monkeypatch, 40, **options)
    found = clocked(monkeypatch, 40, resumed=25, **options)  # the rows of updates 30 and 40 are measured again
    assert found.history()["step"].tolist() == [0, 10, 20, 25, 30, 40]
    known = found.history()["time_fraction"].notna()
    assert known.tolist() == [False, True, True, False, True, True]  # before an update there is no time to compare with
    assert pd.read_json(tmp_path / "rows.jsonl", lines=True)["step"].tolist() == [0, 10, 20, 25, 30, 40]


def test_only_the_main_process_measures() -> None:
    callback, module = Clocked("modular-sum", every=1, budget=None), torch.nn.Linear(1, 1)
    arguments, state, logs = SimpleNamespace(report_to=[]), state_at(1, 1, main=False), {"loss": 1.0}
    callback.on_train_begin(arguments, state, None, model=module)
    callback.on_step_end(arguments, state, None, model=module)
    callback.on_log(arguments, state, None, logs=logs)
    assert (callback.rows, state.log_history, logs) == ([], [], {"loss": 1.0})


class Adapted(torch.nn.Module):
    """Has what peft's models have."""

    def __init__(self, module: torch.nn.Module, learns_prompts: bool) -> None:
        super().__init__()
        self.base_model = module
        self.active_peft_config = SimpleNamespace(is_prompt_learning=learns_prompts)

    def get_base_model(self) -> torch.nn.Module:
        return self.base_model


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch.compile's own
def test_models_are_unwrapped_and_those_that_cannot_be_measured_are_refused(organism: Callable[[str], Any]) -> None:
    module = organism("sft").module
    compiled: Any = torch.compile(module)
    for wrapped in (module, torch.nn.DataParallel(module), compiled, Adapted(module, learns_prompts=False)):
        assert unwrapped(wrapped) is module
    with pytest.raises(InputError, match="learns prompt tokens that no run of ours has: expected an adapter of weig"):
        unwrapped(Adapted(module, learns_prompts=True))
    part: Any = torch.nn.Linear(1, 1)
    part.weight.ds_id = 0  # what DeepSpeed puts on a weight that it has sharded
    with pytest.raises(InputError, match=r"sharded over processes .*: one process cannot measure the model. Train"):
        unwrapped(part)
    with pytest.raises(InputError, match="sharded over processes"):
        unwrapped(module, SimpleNamespace(fsdp=True))


def test_a_model_that_cannot_be_spliced_stops_the_training_before_it_begins(
    word_tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    model = fresh("sft")
    size: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    module = MambaForCausalLM(MambaConfig(vocab_size=len(word_tokenizer), **size))
    recurrent = SimpleNamespace(module=module, tokenizer=word_tokenizer, task=model.task, format=model.format)
    trainer = trainer_of("grpo", recurrent, tmp_path, steps=5)
    trainer.add_callback(ChannelCallback(model.task, format=model.format))
    with pytest.raises(InputError, match="keep a running state"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_bad_arguments_say_what_to_do(organism: Callable[[str], Any]) -> None:
    with pytest.raises(InputError, match="every=0: expected 'auto' or a number of updates, 1 or more"):
        ChannelCallback("modular-sum", every=0)
    with pytest.raises(InputError, match=r"budget=0.0: expected a share of the training time above 0, or None"):
        ChannelCallback("modular-sum", budget=0.0)
    with pytest.raises(InputError, match="ChannelCallback has no tokenizer: pass tokenizer="):
        ChannelCallback("modular-sum").measure(organism("sft").module)


def test_it_says_where_a_reporter_would_not_hear_it(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(monitor.logger, "warning", warned.append)
    arguments, module = SimpleNamespace(report_to=["wandb"]), torch.nn.Linear(1, 1)
    Clocked("modular-sum").on_train_begin(arguments, state_at(0, 1), None, model=module)
    assert warned == ["wandb will not show loadbearing/*: use callback.attach(trainer) in place of add_callback"]
    attached = Clocked("modular-sum").attach(SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[Heard()])))
    attached.on_train_begin(arguments, state_at(0, 1), None, model=module)
    assert len(warned) == 1


def test_the_room_loads_no_trainer_until_it_is_asked_for() -> None:
    code = (
        "import sys, loadbearing.organisms as room; assert 'transformers' not in sys.modules; "
        "room.ChannelCallback; assert 'transformers' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'ChanelCallback'; it has CONNECTIVES, ORGANISMS, Chan"):
        _ = lb.organisms.ChanelCallback


def drawn(steps: list[int]) -> pd.DataFrame:
    """A history whose first row has no shares."""
    tokens = np.linspace(0.5, 1, len(steps))
    frame = pd.DataFrame({"step": steps, "tokens": tokens, "direct": 1 - tokens, "relay": 0.0})
    frame = frame.assign(tokens_low=tokens - 0.1, tokens_high=tokens + 0.1, cot_accuracy=0.7, one_pass_accuracy=0.1)
    frame.loc[0, ["tokens", "direct", "relay", "tokens_low", "tokens_high"]] = np.nan
    return frame


def test_the_figure_draws_the_numbers_and_marks_what_is_withheld() -> None:
    frame = drawn([0, 10, 20, 40])
    axes = figures.history(frame)
    lines: dict[Any, Any] = {line.get_color(): line for line in axes.get_lines() if len(line.get_xydata()) == 4}  # type: ignore[arg-type]
    for wire, colour in WIRE_COLOURS.items():
        np.testing.assert_allclose(lines[colour].get_xdata(), [0, 0.25, 0.5, 1])
        np.testing.assert_allclose(lines[colour].get_ydata(), frame[wire])
    crosses: list[Any] = [line for line in axes.get_lines() if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses if len(line.get_xdata())] == [[0.0]]
    legend = axes.get_legend()
    assert legend is not None
    told = ["direct", "relay", "tokens", "serial share", "CoT accuracy", "one-pass accuracy", "no shares"]
    assert [text.get_text() for text in legend.get_texts()] == told
    _, given = plt.subplots()
    assert figures.history({"long": frame, "short": drawn([0, 5])}, ax=given) is given
    assert [text.get_text() for text in given.texts] == ["long", "short"]
    assert [text.get_text() for text in given.get_xticklabels()] == ["0", "20", "40", "0", "2.5", "5"]


def test_the_figure_says_what_it_wants() -> None:
    with pytest.raises(InputError, match=r"got list: pass what ChannelCallback.history\(\) returned"):
        _frames([1])
    with pytest.raises(InputError, match="under 'run', got a frame of 0 rows"):
        figures.history({"run": pd.DataFrame({"step": []})})
    with pytest.raises(InputError, match="got an empty dict: put at least one in it"):
        figures.history({})
