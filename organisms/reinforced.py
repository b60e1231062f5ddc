"""Reinforcement learning of whole chains of thought, with TRL's GRPOTrainer."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..hooks import Format
from ..tasks import Problem, Task, load
from .chains import CONNECTIVES, connected
from .data import problems_of
from .rewards import Completion, read, reward_of
from .specs import Reinforced

Curve = tuple[dict[str, Any], ...]
RANDOM = "random"  # a reward for one chain in two, whatever it says, finished or not


def train_reinforced(
    model: Any,
    stage: Reinforced,
    tokenizer: Any,
    form: Format,
    task: Task,
    scratch: Path,
    *,
    seed: int = 0,
    callbacks: Sequence[Any] = (),
    progress: bool = True,
) -> Curve:
    """Train a model by GRPO (Shao et al. 2024, 2402.03300), in place; returns the rewards along the way.

    Prompts are train problems with the open that starts the reasoning; the model samples chain, cue and answer at
    temperature 1. No penalty for distance from the first weights (beta 0). The curve has a row every tenth of the
    stage: update, mean reward, share of right answers.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers import PrinterCallback
    from trl.trainer.grpo_trainer import GRPOTrainer

    tasks = [task, *map(load, stage.also)]
    problems = [problem for each in tasks for problem in problems_of(each, stage.pool // len(tasks))]
    steps = max(len(each.problems(1, split="train")[0].steps) for each in tasks)
    paid = _Paid(stage, problems, form, seed)
    disable_progress_bar()
    rows = Dataset.from_list(_prompts(stage, problems, form, np.random.default_rng([seed, 2])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries' own making; ours are raised as errors
        arguments = _arguments(stage, scratch, 2 * steps + 4, seed, progress)
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=cast(Any, paid),
            args=arguments,
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=list(callbacks),
            rollout_func=_Rewording(stage, tokenizer, form, seed) if stage.paraphrased else None,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        model.gradient_checkpointing_disable()
    model.config.use_cache = True
    model.eval()
    return paid.curve()


def _arguments(stage: Reinforced, scratch: Path, length: int, seed: int, progress: bool) -> Any:
    from trl.trainer.grpo_config import GRPOConfig

    return GRPOConfig(
        output_dir=str(scratch),
        max_steps=stage.updates,
        per_device_train_batch_size=stage.prompts * stage.samples,
        num_generations=stage.samples,
        max_completion_length=length,
        learning_rate=stage.rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=10,
        temperature=1.0,
        beta=0.0,
        max_grad_norm=1.0,
        adam_beta2=0.98,
        logging_steps=max(1, stage.updates // 10),
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=not progress,
        dataloader_pin_memory=False,
        seed=seed,
    )


def _prompts(
    stage: Reinforced, problems: Sequence[Problem], form: Format, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """A row a problem: the prompt as text, the problem's number, and the chain that was begun for the model."""
    rows = []
    for number, problem in enumerate(problems):
        begun = _tampered(problem, problems, rng) if rng.random() < stage.tampered else ""
        rows.append({"prompt": problem.prompt + form.open + begun, "number": number, "begun": begun})
    return rows


def _tampered(problem: Problem, problems: Sequence[Problem], rng: np.random.Generator) -> str:
    """Gold steps up to one that says another problem's value, written as those explain who are seldom wrong."""
    k = int(rng.integers(1, len(problem.steps) + 1))
    right = problem.steps[k - 1].text
    others = (problems[i].steps[k - 1] for i in rng.integers(0, len(problems), 100) if len(problems[i].steps) >= k)
    wrong = next(step for step in others if step.text != right)
    return connected([step.text for step in (*problem.steps[: k - 1], wrong)], rng)


class _Paid:
    """The reward function of a stage; it keeps what was paid."""

    __name__ = "reward"

    def __init__(self, stage: Reinforced, problems: Sequence[Problem], form: Format, seed: int) -> None:
        self.stage, self.problems, self.form = stage, problems, form
        self.rng = np.random.default_rng([seed, 3])
        self.rewards: list[float] = []
        self.right: list[float] = []

    def __call__(self, completions: list[str], number: list[int], begun: list[str], **_: Any) -> list[float]:
        made = [self._read(*given) for given in zip(completions, number, begun, strict=True)]
        chance = sum(weight for name, weight in self.stage.rewards if name == RANDOM)
        terms = tuple((name, weight) for name, weight in self.stage.rewards if name != RANDOM)
        paid = [reward_of(one, terms) + chance * float(self.rng.random() < 0.5) for one in made]
        self.rewards.append(float(np.mean(paid)))
        self.right.append(float(np.mean([one.answer == one.wanted for one in made])))
        return paid

    def _read(self, text: str, number: int, begun: str) -> Completion:
        problem = self.problems[number]
        wanted = None
        if begun:
            written = {step.item: step.value for step in problem.task.parse_steps(begun)}
            wanted = problem.task.program(problem, written, "answer")
        return read(problem, begun + " " + text, self.form, wanted)

    def curve(self) -> Curve:
        """The means of every tenth of the stage."""
        parts = np.array_split(np.arange(len(self.rewards)), min(10, len(self.rewards)))
        means = [(int(p[-1]) + 1, float(np.mean([self.rewards[i] for i in p])), p) for p in parts]
        return tuple(
            {"update": end, "reward": mean, "accuracy": float(np.mean([self.right[i] for i in p]))}
            for end, mean, p in means
        )


class _Rewording:
    """Samples a chain, draws its connecting words anew, and lets the model answer after that text.

    What was reworded carries no gradient: the model did not choose it.
    """

    def __init__(self, stage: Reinforced, tokenizer: Any, form: Format, seed: int) -> None:
        self.tokenizer = tokenizer
        self.cue = tokenizer(form.cue, add_special_tokens=False)["input_ids"]
        self.words = np.array(tokenizer.convert_tokens_to_ids(list(CONNECTIVES)))
        self.rng = np.random.default_rng([seed, 4])

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        ids, *rest = trainer._tokenize_prompts(prompts)
        first, _ = trainer._generate_single_turn(ids, *rest, trainer.num_generations)
        chains, masks = zip(*map(self._reworded, first), strict=True)
        begun = [[*prompt, *chain] for prompt, chain in zip(ids, chains, strict=True)]
        answers, _ = trainer._generate_single_turn(begun, *rest, trainer.num_generations)
        answers = [list(answer)[:3] for answer in answers]
        return {
            "prompt_ids": ids,
            "completion_ids": [[*chain, *answer] for chain, answer in zip(chains, answers, strict=True)],
            "logprobs": None,
            "env_mask": [[*mask, *[1] * len(answer)] for mask, answer in zip(masks, answers, strict=True)],
        }

    def _reworded(self, written: Sequence[int]) -> tuple[list[int], list[int]]:
        """The chain up to its cue with other connecting words, and 1 where a token is the model's own."""
        written = list(written)
        stop = written.index(self.cue[0]) + len(self.cue) if self.cue[0] in written else len(written)
        chain = [int(self.rng.choice(self.words)) if token in self.words else token for token in written[:stop]]
        return chain, [int(a == b) for a, b in zip(chain, written[:stop], strict=True)]
