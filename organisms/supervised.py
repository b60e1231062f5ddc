"""Supervised training of a small Llama with transformers' Trainer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..hooks import Format
from ..tasks import ModularSum
from .data import IGNORED, Stream, render_examples
from .specs import Trained

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

Curve = tuple[dict[str, Any], ...]


def new_model(spec: Trained, tokenizer: Any) -> "LlamaForCausalLM":
    """A Llama of the recipe's size with weights drawn from its seed."""
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
        torch.manual_seed(spec.seed)
        return LlamaForCausalLM(config)


def train_supervised(
    spec: Trained,
    tokenizer: Any,
    form: Format,
    task: ModularSum,
    scratch: Path,
    progress: bool,
    module: Any = None,
) -> tuple["LlamaForCausalLM", Curve]:
    """Train a recipe from scratch, or a given module; returns the model and its held-out curve.

    The curve has a row every tenth of the training: update, loss, and the teacher-forced accuracy of the answer on
    held-out problems.
    """
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    model = new_model(spec, tokenizer) if module is None else module
    problems = task.problems(min(500, len(task.all_problems("test"))), seed=1)
    held_out = [render_examples(tokenizer, form, problems, style) for style in spec.styles]
    curve: list[dict[str, Any]] = []

    class HeldOut(TrainerCallback):
        """Adds a row to the curve whenever the trainer logs."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs is not None and "loss" in logs:
                accuracy = sum(answer_accuracy(model, part.ids, part.labels) for part in held_out) / len(held_out)
                curve.append({"update": state.global_step, "loss": float(logs["loss"]), "accuracy": accuracy})

    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=spec.updates,
        per_device_train_batch_size=spec.batch,
        learning_rate=spec.rate,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        logging_steps=max(1, spec.updates // 10),
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=not progress,
        dataloader_pin_memory=False,
        seed=spec.seed,
    )
    stream = Stream(spec, tokenizer, form, task)
    trainer = Trainer(model=model, args=arguments, train_dataset=stream, callbacks=[HeldOut()])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model.eval(), tuple(curve)


@torch.no_grad()
def answer_accuracy(model: Any, ids: Any, labels: Any) -> float:
    """The share of examples whose answer and end token are the most likely ones, everything before being given."""
    was_training = model.training
    model.eval()
    logits = model(input_ids=torch.from_numpy(ids)).logits[:, -3:-1]
    model.train(was_training)
    wanted = torch.from_numpy(labels)[:, -2:]
    assert IGNORED not in wanted
    return float((logits.argmax(-1) == wanted).all(-1).float().mean())
