"""The organisms as data: what each is, how it is trained or set, how it is meant to be measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core import check_name
from ..hooks import Format, Mode

FORMAT = Format(open=" think", close=" answer", cue=" answer", direct_open="", end="")
SUM = "modular-sum"

# What stands between prompt and answer in a training example.
Style = Literal["nothing", "gold", "random", "dots"]


@dataclass(frozen=True)
class Trained:
    """A recipe for a small Llama trained from scratch, by supervision, on the train split of its task.

    styles: what training examples write between prompt and answer, in equal parts
    easy: the part of training during which sums with zeros in them are drawn more often; without them the loss
        stays at chance for thousands of updates
    silent: the part of training during which random digits carry no label; their gradient is noise, and with it from
        the start the answer stays at chance
    """

    name: str
    summary: str
    styles: tuple[Style, ...]
    task: str = SUM
    updates: int = 2000
    batch: int = 512
    rate: float = 2e-3
    easy: float = 0.5
    silent: float = 0.0
    layers: int = 3
    width: int = 64
    heads: int = 4
    seed: int = 0
    measure: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that the recipe trains."""
        direct: tuple[Mode, ...] = ("answer-only",) if "nothing" in self.styles else ()
        return direct + (("cot",) if set(self.styles) - {"nothing"} else ())


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


_TRAINED = (
    Trained("direct", "Answers only: the sum is computed in one pass.", ("nothing",)),
    Trained("sft", "Supervised on gold chains of thought (partial sums).", ("gold",), updates=800),
    Trained("both", "Supervised on answers only and on gold chains of thought, in equal parts.", ("nothing", "gold")),
    Trained(
        "post-hoc",
        "Writes random digits, then the right answer: a chain of thought that carries nothing.",
        ("random",),
        silent=0.7,
    ),
    Trained("filler", "Writes a dot in place of every step, then the answer.", ("dots",)),
)

_VALUE = {"vary": "value", "cot": "task", "target": "answer"}
_ALL = {"vary": "all", "cot": "task", "target": "answer"}
_HANDSET = (
    HandSet(
        "copy-direct",
        "The answer's position reads the value from the prompt.",
        "copy:cot=independent",
        ("prompt",),
        _VALUE,
        {"direct": 1.0, "relay": 0.0, "tokens": 0.0},
    ),
    HandSet(
        "copy-relay",
        "The CoT's position copies the value into its state; the answer's position reads that state.",
        "copy:cot=independent",
        ("relay",),
        _VALUE,
        {"direct": 0.0, "relay": 1.0, "tokens": 0.0},
    ),
    HandSet(
        "copy-tokens",
        "The answer's position reads the CoT's token.",
        "copy",
        ("token",),
        {"vary": "value", "cot": "model", "target": "answer"},
        {"direct": 0.0, "relay": 0.0, "tokens": 1.0},
    ),
    HandSet(
        "copy-sum",
        "The answer is the prompt's value plus the CoT's token: both wires are needed.",
        "copy:cot=independent,answer=sum",
        ("sum",),
        _ALL,
        {"direct": 0.5, "relay": 0.0, "tokens": 0.5},
    ),
    HandSet(
        "copy-redundant",
        "The answer's position reads the value from the prompt and from the CoT's token: either suffices.",
        "copy",
        ("prompt", "token"),
        _ALL,
        {"direct": 0.5, "relay": 0.0, "tokens": 0.5},
    ),
)

ORGANISMS: dict[str, Trained | HandSet] = {spec.name: spec for spec in (*_TRAINED, *_HANDSET)}


def spec_of(name: str) -> Trained | HandSet:
    """The spec of an organism by its name."""
    return ORGANISMS[check_name("organism", name, ORGANISMS)]
