"""A monitor for training: channel shares, serial share and accuracies in the trainer's own logs."""

import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import TrainerCallback
from transformers.utils import logging

from ..analyses.history import WHY, Row, snapshot
from ..core import InputError, atomic_write
from ..hooks import Format, load
from ..hooks.support import check_spliceable
from ..tasks import Pairs, Problem, Task
from ..tasks import load as load_task

PREFIX = "loadbearing/"
Every = int | Literal["auto"]
logger = logging.get_logger(__name__)


class ChannelCallback(TrainerCallback):
    """Watch whether a chain of thought stays load-bearing while it is trained, in any trainer of transformers or TRL.

    Before the first update and then every so often it measures the model as it is, on held-out problems, greedily, and
    adds a row to the trainer's logs: `loadbearing/direct`, `/relay`, `/tokens` (left out where `analyses.channels`
    withholds them, or says that only wires together explain the answer; `/withheld` is then 1), `/total_nats`,
    `/cots_differ`, `/serial_share`, `/serial_chance`, `/one_pass_accuracy`, `/cot_accuracy`, `/usable` (0 where what
    the model writes cannot be measured: training goes on, and the reason is warned of once), `/seconds`,
    `/time_fraction`, `/skipped`. `trainer.add_callback` puts them into `trainer.state.log_history`; a reporter (W&B,
    TensorBoard) hears a log before callbacks that are added later, so use `attach(trainer)` to be heard by it too.

    task: a task or its spec, e.g. "modular-sum"; prompts must be rendered as in training (`format`, as for `load`)
    tokenizer: by default the trainer's processing class
    every: "auto", as often as the budget allows, or a number of updates
    budget: what may be spent, as a share of the time of training without it (4 %, some way below 5): a measurement
        that is due is skipped (and counted) as long as it would exceed that. The one before the first update is always
        made, so a training shorter than one measurement / budget costs more. None: no limit
    pairs: how many for each input variable, or pairs; problems: how many, or a list
    target: of `channels`; max_new_tokens: by default the trainer's `max_completion_length`, or else 256
    batch_size: how many runs share a batch: less memory, more time
    history: a file, one JSON object a line, rewritten at each measurement; `figures.history` draws it

    Training is not disturbed: weights, gradients, random states, training mode and activation checkpointing are what
    they would be without it. Raises InputError at the start of the training where the model cannot be measured at all
    (weights sharded by FSDP or DeepSpeed ZeRO-3 or quantised, recurrent layers, prompts that adapters learn), and for a
    history that exists already; with several processes the main one measures.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> callback = ChannelCallback("modular-sum", tokenizer=model.tokenizer, format=model.format, pairs=8, problems=16)
    >>> row = callback.measure(model.module)
    >>> round(row["tokens"], 2), row["cot_accuracy"]
    (1.0, 1.0)
    """

    def __init__(
        self,
        task: Task | str,
        *,
        tokenizer: Any = None,
        format: Format | str = "auto",
        every: Every = "auto",
        budget: float | None = 0.04,
        pairs: int | Pairs = 16,
        problems: int | Sequence[Problem] = 64,
        target: str = "onset",
        max_new_tokens: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        history: str | Path | None = None,
    ) -> None:
        if every != "auto" and (not isinstance(every, int) or every < 1):
            raise InputError(f"every={every!r}: expected 'auto' or a number of updates, 1 or more")
        if budget is not None and budget <= 0:
            raise InputError(f"budget={budget!r}: expected a share of the training time above 0, or None for no limit")
        self.task = load_task(task)
        self.tokenizer, self.format = tokenizer, format
        self.every, self.budget = every, budget
        self.pairs, self.problems = pairs, problems
        self.options: dict[str, Any] = {"target": target, "batch_size": batch_size, "seed": seed}
        self.max_new_tokens = max_new_tokens
        self.path = None if history is None else Path(history)
        self.rows: list[Row] = []
        self._pending: dict[str, float] = {}
        self._warned: set[str] = set()
        self._attached = False
        self._began = self._spent = self._last = 0.0
        self._skipped = 0

    def attach(self, trainer: Any) -> "ChannelCallback":
        """Put this callback before all others of a trainer, so that its rows reach every reporter; returns itself."""
        handler = trainer.callback_handler
        handler.callbacks = [self, *(one for one in handler.callbacks if one is not self)]
        self._attached = True
        return self

    def history(self) -> pd.DataFrame:
        """A row a measurement: step, what `analyses.history.snapshot` gives, seconds, time_fraction, skipped."""
        return pd.DataFrame(self.rows)

    def measure(self, module: nn.Module) -> Row:
        """One measurement of a model, which is left as it was."""
        if self.tokenizer is None:
            raise InputError(
                f"{type(self).__name__} has no tokenizer: pass tokenizer=, or the trainer a processing class"
            )
        if isinstance(self.pairs, int):
            self.pairs = self.task.pairs(self.pairs, seed=self.options["seed"], tokenizer=self.tokenizer)
        if isinstance(self.problems, int):
            self.problems = self.task.problems(self.problems, seed=self.options["seed"])
        with undisturbed(module):
            model = load(module, tokenizer=self.tokenizer, format=self.format)
            check_spliceable(model)
            longest = self.max_new_tokens or 256
            return snapshot(model, self.pairs, self.problems, max_new_tokens=longest, **self.options)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **given: Any) -> None:
        """Measure the model before the first update."""
        module = unwrapped(model, args)
        if not state.is_world_process_zero:
            return
        if self.tokenizer is None:
            self.tokenizer = given.get("processing_class")
        if self.max_new_tokens is None:
            self.max_new_tokens = getattr(args, "max_completion_length", None)
        if args.report_to and not self._attached:
            told = ", ".join(args.report_to)
            logger.warning(f"{told} will not show {PREFIX}*: use callback.attach(trainer) in place of add_callback")
        self.rows = self._earlier(state.global_step)
        self._began, self._spent, self._skipped = time.perf_counter(), 0.0, 0
        self._add(state, module)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure where that is due and within the budget."""
        due = self.every == "auto" or state.global_step % self.every == 0 or state.global_step >= state.max_steps
        if not due or not state.is_world_process_zero:
            return
        if self.budget is None or self._spent + self._last <= self.budget * self._trained():
            self._add(state, unwrapped(model, args))
        elif self.every != "auto":
            self._skipped += 1

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Hand the latest row to the reporters."""
        if logs is not None and state.is_world_process_zero:
            logs.update(self._pending)
            self._pending = {}

    def _trained(self) -> float:
        """Seconds since the training began, without ours."""
        return time.perf_counter() - self._began - self._spent

    def _add(self, state: Any, module: nn.Module) -> None:
        """Measure, and add the row to the history, its file, and the trainer's logs."""
        trained, began, first = self._trained(), time.perf_counter(), not self._spent
        row = {"step": state.global_step, **self.measure(module)}
        self._last = time.perf_counter() - began
        self._spent += self._last
        # Before the first update nothing was trained yet, and there is no fraction.
        fraction = {} if first else {"time_fraction": self._spent / trained}
        row |= {"seconds": self._last, **fraction, "skipped": self._skipped}
        self._skipped = 0
        self.rows.append(row)
        if self.path is not None:
            lines = "".join(json.dumps(one) + "\n" for one in self.rows)
            atomic_write(self.path, lambda file: file.write_text(lines))
        self._pending = logged(row)
        state.log_history.append({**self._pending, "epoch": state.epoch, "step": state.global_step})
        self._warn(row)

    def _warn(self, row: Row) -> None:
        """Say once for shares and once for the serial share why they cannot be measured."""
        for key in row.keys() - self._warned:
            if key.startswith(WHY):
                self._warned.add(key)
                what = key.removeprefix(WHY).replace("_", " ")
                logger.warning(f"step {row['step']}: no {what} in the log, and training goes on: {row[key]}")

    def _earlier(self, step: int) -> list[Row]:
        """The rows of the history file up to the step from which a training is resumed."""
        if self.path is None or not self.path.exists():
            return []
        if step == 0:
            raise InputError(f"{self.path} exists, and this training starts anew: choose another history, or delete it")
        rows: list[Row] = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [row for row in rows if float(row["step"]) <= step]


def logged(row: Row) -> dict[str, float]:
    """What a trainer logs of a row: its numbers, the ends of intervals left out."""
    numbers = {key: float(value) for key, value in row.items() if not isinstance(value, str)}
    numbers["withheld"] = float("tokens" not in row)
    return {PREFIX + key: value for key, value in numbers.items() if not key.endswith(("_low", "_high"))}


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluate a model in the middle of its training: afterwards its modes and all random states are as before."""
    parts: list[Any] = list(module.modules())
    modes = [part.training for part in parts]
    # Under activation checkpointing a layer in training mode drops its cache, so that generated text is rubbish.
    saving = [part for part in parts if getattr(part, "gradient_checkpointing", False)]
    device = next(module.parameters()).device
    ours, numpys = random.getstate(), np.random.get_state()
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            module.eval()
            for part in saving:
                part.gradient_checkpointing = False
            yield
        finally:
            for part in saving:
                part.gradient_checkpointing = True
            for part, training in zip(parts, modes, strict=True):
                part.training = training
            random.setstate(ours)
            np.random.set_state(numpys)


def unwrapped(model: nn.Module, args: Any = None) -> nn.Module:
    """The Hugging Face model inside what accelerate, torch.compile or an adapter wrapped around it."""
    from accelerate.utils import extract_model_from_parallel

    sharded = any(hasattr(weight, "ds_id") or hasattr(weight, "device_mesh") for weight in model.parameters())
    if sharded or getattr(args, "fsdp", None):
        raise InputError(
            "the weights are sharded over processes (FSDP, DeepSpeed ZeRO-3 or tensor parallel): one process cannot "
            "measure the model. Train with whole weights in each (DDP), or measure saved checkpoints"
        )
    # The wrapper for mixed precision stays: taking it off would change the model that is trained.
    module: Any = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=False)
    if not hasattr(module, "get_base_model"):
        whole: nn.Module = module
        return whole
    if getattr(module.active_peft_config, "is_prompt_learning", False):
        raise InputError(
            f"{type(module.active_peft_config).__name__} learns prompt tokens that no run of ours has: expected an "
            "adapter of weights, such as LoRA"
        )
    base: nn.Module = module.get_base_model()
    return base
