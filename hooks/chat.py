"""What a chat template writes before and after a user's message."""

import json
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from ..core import InputError

# The template is applied once, around a mark: what stands before it belongs to the prompt, what follows opens the
# reasoning. Rendering the prompt itself would let a template strip it, and spans would be lost.
MARK = "\u2042problem\u2042"
_CLOCK = re.compile(r"""strftime_now\(\s*(["'])(.+?)\1\s*\)""")


def around_message(
    tokenizer: Any, system: str | None, options: Mapping[str, Any], day: str, close: str
) -> tuple[str, str]:
    """The text that a tokenizer's chat template writes before the user's message, and the text that it writes after it.

    system: a system message before the user's; options: keyword arguments of the template
    day: what a template that asks for the date is told (ISO): with a clock, tomorrow's prompts would be others
    close: the text that ends a chain of thought, which the template must not have written already

    Raises InputError where the template refuses or ignores what it is given, or closes the reasoning itself.
    """
    messages = [{"role": "system", "content": system}] if system is not None else []
    text = _rendered(tokenizer, [*messages, {"role": "user", "content": MARK}], options, day)
    if text.count(MARK) != 1:
        raise InputError(
            "the chat template does not show the user's message, or not once: give a format with chat=False"
        )
    if system is not None and system.strip() not in text:
        raise InputError("the chat template leaves out the system message: begin the question with it instead")
    before, _, after = text.partition(MARK)
    if after.rstrip().endswith(close.strip()):
        raise InputError(
            f"the chat template closes the reasoning itself (its last text is {close.strip()!r}): choose another "
            "argument of the template, as template={'enable_thinking': True}, or a format without thinking marks "
            "(format='chat')"
        )
    return before, after


def to_write(after: str, start: str) -> str:
    """What is left of the text that opens the reasoning where the template's last text has it, or its marks, already.

    >>> to_write("<|Assistant|><think>\\n", "<think>\\n\\n"), to_write("assistant\\n", "<think>\\n")
    ('\\n', '<think>\\n')
    """
    mark = start.strip()
    if not mark or not after.rstrip().endswith(mark):
        return start
    wanted, there = (text[text.rindex(mark) + len(mark) :] for text in (start, after))
    return wanted[len(there) :] if wanted.startswith(there) else ""


def _rendered(tokenizer: Any, messages: list[dict[str, str]], options: Mapping[str, Any], day: str) -> str:
    """The messages as one text, up to where the model is to write."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("this tokenizer has no chat template: give format='plain', or set its `chat_template`")
    source = tokenizer.get_chat_template()
    if unknown := [name for name in options if not re.search(rf"\b{re.escape(name)}\b", source)]:
        raise InputError(f"template: the chat template does not know {', '.join(map(repr, unknown))}")

    def told(clock: re.Match[str]) -> str:
        return json.dumps(date.fromisoformat(day).strftime(clock[2]))

    try:
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=_CLOCK.sub(told, source),
            tokenize=False,
            add_generation_prompt=True,
            **options,
        )
    except Exception as error:  # a template is a program of someone else's, and may fail in any way
        advice = "begin the question with the system message instead" if len(messages) > 1 else "change `template`"
        raise InputError(f"the chat template refuses what it is given ({error}): {advice}") from error
    return str(text)
