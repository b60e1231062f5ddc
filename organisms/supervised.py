"""Supervised training of a small Llama with transformers' Trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..core import InputError
from ..hooks import Card, Format
from ..tasks import Problem, Task, load
from .data import IGNORED, Examples, Stream, examples_of
from .specs import Part, Supervised, Trained

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

Curve = tuple[dict[str, Any], ...]


def new_model(spec: Trained, tokenizer: Any, seed: int | None = None) -> "LlamaForCausalLM":
    """A Llama of the recipe's size with weights drawn from a seed (None: the recipe's)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec.width,
        intermediate_size=4 * spec.width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed if seed is None else seed)
        return LlamaForCausalLM(config)


def train_supervised(
    model: Any,
    stage: Supervised,
    tokenizer: Any,
    form: Format,
    scratch: Path,
    *,
    seed: int = 0,
    stream: Any = None,
    callbacks: Sequence[Any] = (),
    progress: bool = True,
) -> Curve:
    """Train a model by one stage, in place; returns its held-out curve.

    The curve has a row every tenth of the stage: update, loss, and the teacher-forced accuracy of the answer on
    held-out problems of the last part's task. `stream` takes the place of the stage's own examples.
    """
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    last = stage.parts[-1].task
    held_out = [_held_out(part, tokenizer, form, seed) for part in stage.parts if part.task == last]
    curve: list[dict[str, Any]] = []

    class HeldOut(TrainerCallback):
        """Adds a row to the curve whenever the trainer logs."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs is not None and "loss" in logs:
                accuracy = sum(answer_accuracy(model, part) for part in held_out) / len(held_out)
                curve.append({"update": state.global_step, "loss": float(logs["loss"]), "accuracy": accuracy})

    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=stage.updates,
        per_device_train_batch_size=stage.batch,
        learning_rate=stage.rate,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        logging_steps=max(1, stage.updates // 10),
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=not progress,
        dataloader_pin_memory=False,
        seed=seed,
    )
    examples = stream if stream is not None else Stream(stage, tokenizer, form, seed)
    trainer = Trainer(model=model, args=arguments, train_dataset=examples, callbacks=[HeldOut(), *callbacks])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()
    return tuple(curve)


def _held_out(part: Part, tokenizer: Any, form: Format, seed: int) -> Examples:
    """Held-out examples of a part."""
    task = load(part.task)
    return examples_of(part, task, held_out_problems(task, 500, seed=1), tokenizer, form, seed)


def held_out_problems(task: Task, n: int, seed: int) -> list[Problem]:
    """`n` held-out problems of a task, or all of them where there are fewer."""
    try:
        return task.problems(n, seed=seed)
    except InputError:  # there are fewer
        every = task.all_problems("test")
        return task.problems(len(every), seed=seed)


@torch.no_grad()
def answer_accuracy(model: Any, examples: Examples) -> float:
    """The share of examples whose answer and end token are the most likely ones, everything before being given."""
    was_training = model.training
    model.eval()
    labels = torch.from_numpy(examples.labels)
    logits = model(input_ids=torch.from_numpy(examples.ids)).logits
    model.train(was_training)
    lengths = (labels != IGNORED).long().cumsum(1).argmax(1) + 1  # the last label is the end token's
    rows = torch.arange(len(labels))[:, None]
    places = lengths[:, None] - torch.tensor([2, 1])
    wanted = labels[rows, places]
    assert IGNORED not in wanted
    return float((logits[rows, places - 1].argmax(-1) == wanted).all(-1).float().mean())


def saving(tokenizer: Any, card: Card, folder: Path, every: int) -> Any:
    """A callback that writes the model as it is, with its card, to `folder/update-N` every `every` updates."""
    from transformers import TrainerCallback

    class Saving(TrainerCallback):
        """Writes the model as it is."""

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if every and state.global_step % every == 0:
                where = folder / f"update-{state.global_step:05d}"
                model.save_pretrained(where)
                tokenizer.save_pretrained(where)
                card.save(where)

    return Saving()
