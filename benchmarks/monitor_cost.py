"""What the monitor of a training costs: the same GRPO run with and without it, side by side in one process.

`python benchmarks/monitor_cost.py` prints the ratio of times (median over repeats, whose order alternates; the clock's
and, for a busy machine, the processor's), when it measured, what one measurement takes, and what the callback itself
says that it cost. Needs the extra `organisms`.
"""

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch

import loadbearing as lb


def trainer_of(name: str, updates: int, completions: int, folder: str) -> tuple[Any, Any]:
    """A GRPO run of a shipped organism that goes on rewarding right answers, and its model."""
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    model = lb.hooks.load(f"organism:{name}")
    assert model.task is not None
    problems = model.task.problems(512, split="train")
    rows = [{"prompt": problem.prompt + model.format.open, "gold": problem.answer} for problem in problems]

    def reward(completions: list[str], gold: list[str], **_: Any) -> list[float]:
        said = [text.partition(model.format.cue)[2].split()[:1] for text in completions]
        return [float(one == [right]) for one, right in zip(said, gold, strict=True)]

    options = GRPOConfig(
        output_dir=folder,
        max_steps=updates,
        per_device_train_batch_size=completions,
        num_generations=8,
        max_completion_length=16,
        logging_steps=10,
        learning_rate=1e-5,
        beta=0.0,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    data = Dataset.from_list(rows)
    given: dict[str, Any] = {"model": model.module, "processing_class": model.tokenizer, "reward_funcs": reward}
    return GRPOTrainer(args=options, train_dataset=data, **given), model


def seconds(name: str, updates: int, completions: int, watched: bool) -> tuple[tuple[float, float], Any]:
    """The time of one training by the clock and by the processor, and its monitor's history (None without one)."""
    from transformers import PrinterCallback

    with tempfile.TemporaryDirectory() as folder:
        trainer, model = trainer_of(name, updates, completions, folder)
        trainer.remove_callback(PrinterCallback)
        callback = lb.organisms.ChannelCallback(model.task, format=model.format)
        if watched:
            trainer.add_callback(callback)
        began = time.perf_counter(), time.process_time()
        trainer.train()
        took = time.perf_counter() - began[0], time.process_time() - began[1]
        return took, callback.history() if watched else None


def main() -> None:
    """Print the cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--organism", default="sft")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--completions", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds(options.organism, 2, options.completions, True)  # what is loaded once is not counted
    ratios = []
    for repeat in range(options.repeats):
        order = (False, True) if repeat % 2 else (True, False)
        took = {watched: seconds(options.organism, options.updates, options.completions, watched) for watched in order}
        (without, _), (with_it, rows) = took[False], took[True]
        ratios.append([one / other for one, other in zip(with_it, without, strict=True)])
        own = rows["seconds"].sum()
        print(
            f"without {without[0]:.1f} s, with {with_it[0]:.1f} s: ratio {ratios[-1][0]:.3f} (processor "
            f"{ratios[-1][1]:.3f}); measured at {rows['step'].tolist()}, {rows['seconds'].median():.2f} s each; own "
            f"account {own:.2f} s, {own / (with_it[0] - own):.1%} of the training",
            flush=True,
        )
    clock, processor = (statistics.median(told) for told in zip(*ratios, strict=True))
    print(f"median ratio {clock:.3f} (processor {processor:.3f}), limit 1.05")


if __name__ == "__main__":
    main()
