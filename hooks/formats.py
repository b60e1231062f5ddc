"""The text around a problem: what opens and closes the reasoning, asks for the answer, and stands before all."""

import datetime
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ..core import InputError, check_name
from ..tasks import Problem
from .chat import around_message, to_write

Mode = Literal["answer-only", "cot"]
MODES: tuple[Mode, ...] = ("answer-only", "cot")


@dataclass(frozen=True)
class Format:
    """The template text around a prompt, a chain of thought and an answer.

    open: text that starts the reasoning, the same in recipient and donor; counts with the prompt
    close: text by which the model ends its own chain of thought; the cue starts with it
    cue: text that asks for the answer; at least one token
    direct_open, direct_cue: the same for an answer-only run; may be empty, and the cue's default is `cue`
    end: text that ends an answer, besides the tokenizer's end-of-sequence token
    chat: whether the prompt is a user message, rendered by the tokenizer's chat template
    system: a system message before it; template: keyword arguments of the chat template, as JSON has them
    date: the day (ISO) that a chat template is told, so that tomorrow's prompts are today's
    examples: text before the prompt, in a chat at the start of the user's message; counts with the prompt, and is no
        piece of it. direct_examples: the same for an answer-only run; default: `examples`
    """

    open: str = "\nLet's think step by step."
    close: str = "\nAnswer:"
    cue: str = "\nAnswer:"
    direct_open: str = ""
    direct_cue: str | None = None
    end: str = "\n"
    chat: bool = False
    system: str | None = None
    template: Mapping[str, Any] = field(default_factory=dict, hash=False)
    date: str = "2024-07-26"
    examples: str = ""
    direct_examples: str | None = None

    def __post_init__(self) -> None:
        if not self.cue.startswith(self.close) or not self.close:
            raise InputError(
                f"format: the cue {self.cue!r} must start with the text that closes the CoT, {self.close!r}"
            )
        if not self.chat and (self.system is not None or self.template):
            raise InputError("format: `system` and `template` belong to a chat template: set chat=True")
        try:
            object.__setattr__(self, "template", json.loads(json.dumps(dict(self.template))))
            datetime.date.fromisoformat(self.date)
        except (TypeError, ValueError) as error:
            raise InputError(f"format: expected a template of JSON values and an ISO date: {error}") from error

    def cue_of(self, mode: Mode) -> str:
        """The cue of a mode."""
        return self.cue if mode == "cot" or self.direct_cue is None else self.direct_cue

    def examples_of(self, mode: Mode) -> str:
        """The text of the examples before a prompt in a mode."""
        return self.examples if mode == "cot" or self.direct_examples is None else self.direct_examples

    def with_examples(self, problems: Iterable[Problem], modes: Iterable[Mode] = MODES) -> "Format":
        """The format with solved problems before every prompt, so that a base model knows what to do.

        In a cot run they show the gold chain of thought, in an answer-only run the answer at once. In a chat they stand
        at the start of the user's message, without the format's marks: these would end the message, and templates
        strip the reasoning of earlier turns. Raises InputError for a problem without a gold chain of thought; `modes`
        leaves out what is not needed.

        >>> from loadbearing.tasks import load
        >>> form = Format().with_examples(load("modular-sum").problems(1, split="train"))
        >>> form.examples
        "7 + 7 + 5 + 3 mod 10\\nLet's think step by step. 4 9 2\\nAnswer: 2\\n\\n"
        >>> form.direct_examples
        '7 + 7 + 5 + 3 mod 10\\nAnswer: 2\\n\\n'
        """
        shown = list(problems)
        made = {m: "".join(solved(self, problem, m) for problem in shown) for m in modes}
        return replace(
            self,
            examples=made.get("cot", self.examples),
            direct_examples=made.get("answer-only", self.direct_examples),
        )

    def asdict(self) -> dict[str, Any]:
        """The format as plain values, for a card or a manifest; what a chat or examples need, only where it is set."""
        plain = Format()
        always = ("open", "close", "cue", "direct_open", "direct_cue", "end", "chat")
        return {k: v for k, v in asdict(self).items() if k in always or v != getattr(plain, k)}


FORMATS: dict[str, Format] = {
    "plain": Format(),
    "chat": Format(open="Let's think step by step.\n", chat=True),
    "think": Format(
        open="<think>\n",
        close="</think>",
        cue="</think>\n\nAnswer:",
        direct_open="<think>\n\n",
        chat=True,
    ),
    "harmony": Format(
        open="<|channel|>analysis<|message|>",
        close="<|end|>",
        cue="<|end|><|start|>assistant<|channel|>final<|message|>Answer:",
        direct_cue="<|channel|>final<|message|>Answer:",
        chat=True,
    ),
}
"""The formats that `load` knows by name."""


def format_for(name: str, tokenizer: Any) -> Format:
    """A format by name; "auto": what a tokenizer's chat template and vocabulary are made for, plain without a template.

    >>> format_for("think", None).open
    '<think>\\n'
    """
    if check_name("format", name, ["auto", *FORMATS]) != "auto":
        return FORMATS[name]
    template = str(getattr(tokenizer, "chat_template", None) or "")
    if not template:
        return FORMATS["plain"]
    known = tokenizer.get_vocab()
    marks = {"<|channel|>": "harmony", "<think>": "think"}
    return FORMATS[next((found for mark, found in marks.items() if mark in template or mark in known), "chat")]


def solved(form: Format, problem: Problem, mode: Mode) -> str:
    """A problem and its gold answer as an example."""
    style = FORMATS["plain"] if form.chat else form
    if mode == "answer-only":
        return f"{problem.prompt}{style.direct_open}{style.cue_of(mode)} {problem.answer}\n\n"
    if not problem.steps:
        raise InputError(
            f"problem {problem.key!r} has no gold chain of thought to show: give it one, or make examples of "
            "answer-only runs alone (modes=['answer-only'])"
        )
    return f"{problem.prompt}{style.open}{problem.cot}{style.cue} {problem.answer}\n\n"


def texts_around(tokenizer: Any, form: Format, mode: Mode) -> tuple[str, str]:
    """The text before a problem, and the text after it, which opens the reasoning: the same for every problem."""
    before, after = "", ""
    start = form.open if mode == "cot" else form.direct_open
    if form.chat:
        before, after = around_message(tokenizer, form.system, form.template, form.date, form.close)
        start = to_write(after, start)
    return before + form.examples_of(mode), after + start
