"""What an organism is, as data: its size, where it starts, the stages of its training, how it is to be measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..hooks import Format, Mode

FORMAT = Format(open=" think", close=" answer", cue=" answer", direct_open="", end="")


@dataclass(frozen=True)
class Part:
    """Training examples of one kind.

    task: the problems; write: what stands between prompt and answer, a name in `chains.WRITERS`, "nothing", or
        "random": digits drawn anew at each update
    style: the surface style in which the values of the chain are said; None: the task's own
    share: how many of the examples, relative to the other parts; since: the part of the training before which the
        others take its place
    """

    task: str
    write: str = "gold"
    style: str | None = None
    share: int = 1
    since: float = 0.0


@dataclass(frozen=True)
class Supervised:
    """A stage of supervised training on the train split of the parts' tasks.

    easy: the part of the stage during which problems with zeros in them are drawn more often; without them the loss of
        a sum stays at chance for thousands of updates
    silent: the part of the stage during which random digits carry no label; their gradient is noise, and with it from
        the start the answer stays at chance
    pool: how many problems of each task the examples are drawn from, at most
    own: the gold chains are replaced by the model's own samples that pass this filter (see `rejection.FILTERS`)
    """

    parts: tuple[Part, ...]
    updates: int = 2000
    batch: int = 512
    rate: float = 2e-3
    easy: float = 0.0
    silent: float = 0.0
    pool: int = 40_000
    own: str | None = None


@dataclass(frozen=True)
class Reinforced:
    """A stage of reinforcement learning (GRPO) on the train split of the organism's task, with whole chains sampled.

    rewards: what is paid, as (name in `rewards.REWARDS`, weight); "random": for one chain in two, whatever it says
    prompts, samples: problems of an update, completions of each; pool: how many problems they are drawn from, at most
    also: further tasks whose problems are drawn as often as the organism's own
    tampered: the part of the prompts that go on with a chain whose last step was made wrong; the right answer is then
        what the program makes of that text
    paraphrased: whether the connecting words of a chain are drawn anew before the answer is written
    """

    rewards: tuple[tuple[str, float], ...] = (("outcome", 1.0),)
    updates: int = 300
    prompts: int = 32
    samples: int = 8
    pool: int = 40_000
    also: tuple[str, ...] = ()
    rate: float = 1e-3
    tampered: float = 0.0
    paraphrased: bool = False


Stage = Supervised | Reinforced


@dataclass(frozen=True)
class Trained:
    """A recipe for a small Llama: trained in stages, from scratch or from another organism.

    start: the organism whose weights are the first ones; size and vocabulary are then its own
    tried: what else was tried before this recipe, and what came of it
    vocabulary: the tasks whose words the tokenizer knows in every style; empty: the words of `task` alone
    checkpoints: how many states along the last stage are kept beside the final one
    """

    name: str
    summary: str
    stages: tuple[Stage, ...]
    task: str
    start: str | None = None
    modes: tuple[Mode, ...] = ("cot",)
    layers: int = 3
    width: int = 64
    heads: int = 4
    vocabulary: tuple[str, ...] = ()
    seed: int = 0
    measure: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: int = 0
    tried: tuple[str, ...] = ()


@dataclass(frozen=True)
class HandSet:
    """A GPT-2 whose weights are written down, so that its table is known: what the answer's position reads.

    reads: where the answer comes from: the prompt's value, its copy in the CoT position's state, the CoT's token
    """

    name: str
    summary: str
    task: str
    reads: tuple[Literal["prompt", "relay", "token", "sum"], ...]
    measure: Mapping[str, Any]
    known: Mapping[str, float]
    modes: tuple[Mode, ...] = ("cot",)
