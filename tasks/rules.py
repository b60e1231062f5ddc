"""How steps are found in a chain of thought, and an answer in a text: rules by name, or functions of the user's own."""

import itertools
import re
from collections.abc import Callable, Iterator

from ..core import InputError, check_name
from .problem import Step

StepRule = Callable[[str], list[Step]]
AnswerRule = Callable[[str], str | None]

STEP_RULES = ("none", "line", "sentence", "marker:TEXT", "regex:PATTERN")
ANSWER_RULES = ("text", "number", "last-number", "choice", "boxed", "regex:PATTERN")

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# No number inside a word ("x2"), and no minus between two terms ("10-3").
NUMBER = re.compile(rf"(?<![\w.])(?:(?<![)\]])[-\u2212+])?(?:{_DIGITS})")
# A number at the start of a line, such as "1. ", is no sentence of its own.
_SENTENCE = re.compile(r"(?:[0-9]+[.)][^\S\n]+)?\S[^\n]*?(?:[.!?…]+[\"')\]*]*(?=\s|$)|(?=\n|$))")
_LINE = re.compile(r"[^\n]+")
_CHOICE = re.compile(r"(?<!\w)(?:[(\[*]+([A-Z])[)\]*]|([A-Z])(?=[.):,]|[^\S\n]*(?:\n|$)))")


def step_rule(rule: str | StepRule) -> StepRule:
    r"""The function that finds the steps of a text by a rule; a function is checked whenever it is called.

    - `"none"`: a text has no steps
    - `"line"`, `"sentence"`: each is a step; empty lines are not. A line break ends a sentence too.
    - `"marker:TEXT"`: a step begins wherever TEXT stands, and goes up to the next; what precedes the first is no step
    - `"regex:PATTERN"`: each match is a step (flag MULTILINE); its value is the group `value`, else the first group,
      else the match

    The characters of a step are those of its value, without space at the ends; the value is that text with inner space
    collapsed. Raises InputError for an unknown rule, a pattern that is none, and a function that returns no steps.

    >>> [step.value for step in step_rule("sentence")("12 + 7 is 19. So 19!  Or 3.5 more?")]
    ['12 + 7 is 19.', 'So 19!', 'Or 3.5 more?']
    >>> step_rule(r"regex:= (\d+)")("12 + 7 = 19, 19 - 4 = 15")
    [Step(item=1, value='19', start=9, end=11), Step(item=2, value='15', start=22, end=24)]
    """
    if not isinstance(rule, str):
        return _checked(rule)
    kind, argument = _split(rule, "rule for steps", STEP_RULES)
    if kind == "regex":
        pattern = _compiled(argument, rule)
        return lambda text: _steps(text, (match.span(_group(pattern, match)) for match in pattern.finditer(text)))
    if kind == "marker":
        return lambda text: _steps(text, _from_markers(text, argument))
    if kind == "none":
        return lambda text: []
    pieces = {"line": _LINE, "sentence": _SENTENCE}[kind]
    return lambda text: _steps(text, (match.span() for match in pieces.finditer(text)))


def answer_rule(rule: str | AnswerRule) -> AnswerRule:
    r"""The function that reads the answer that a text states, or None where it states none.

    - `"text"`: the whole text, space collapsed
    - `"number"`, `"last-number"`: the first or the last number, in one way of writing: "1,234.50" is "1234.5"
    - `"choice"`: the first capital letter in brackets or bold, or before one of `. ) : ,` or the end of a
      line
    - `"boxed"`: what stands in the last `\boxed{...}`
    - `"regex:PATTERN"`: the first match (flag MULTILINE): its group `value`, else the first group, else all of it

    Raises InputError for an unknown rule, a pattern that is none, and a function that returns no text.

    >>> answer_rule("number")("So he has $1,234.50 left of 9."), answer_rule("last-number")("10-3 = 007")
    ('1234.5', '7')
    >>> answer_rule("choice")("I take (B)."), answer_rule("boxed")(r"Thus \boxed{\frac{1}{2}}.")
    ('B', '\\frac{1}{2}')
    """
    if not isinstance(rule, str):
        return _told(rule)
    kind, argument = _split(rule, "rule for answers", ANSWER_RULES)
    if kind == "regex":
        pattern = _compiled(argument, rule)
        return lambda text: _first_match(pattern, text)
    readers: dict[str, AnswerRule] = {
        "text": lambda text: _collapsed(text) or None,
        "number": lambda text: next(map(canonical_number, NUMBER.findall(text)), None),
        "last-number": lambda text: next(map(canonical_number, reversed(NUMBER.findall(text))), None),
        "choice": lambda text: next((match[1] or match[2] for match in _CHOICE.finditer(text)), None),
        "boxed": _boxed,
    }
    return readers[kind]


def canonical_number(text: str) -> str:
    """A number as it is compared: no separators of thousands, no zeros that say nothing, no plus.

    >>> [canonical_number(text) for text in ("1,234.50", "007", "-3", "+.5", "-0.0")]
    ['1234.5', '7', '-3', '0.5', '0']
    """
    whole, _, fraction = text.lstrip("+-\u2212").replace(",", "").partition(".")
    fraction = fraction.rstrip("0")
    size = (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")
    return f"-{size}" if text[0] in "-\u2212" and size != "0" else size


def _split(rule: str, kind: str, known: tuple[str, ...]) -> tuple[str, str]:
    """The name of a rule, and what stands behind its colon."""
    name, colon, argument = rule.partition(":")
    takes = [other.partition(":")[0] for other in known if ":" in other]
    if name in takes and not argument:
        raise InputError(f"{kind} {rule!r}: nothing stands behind {name!r}; write {name}:TEXT")
    if (colon and name not in takes) or name not in {other.partition(":")[0] for other in known}:
        check_name(kind, rule, known)
    return name, argument


def _compiled(pattern: str, rule: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"rule {rule!r}: {pattern!r} is no regular expression of Python: {error}") from error


def _group(pattern: re.Pattern[str], match: re.Match[str]) -> str | int:
    """The group that holds the value of a match."""
    if "value" in pattern.groupindex:
        return "value"
    return 1 if pattern.groups else 0


def _first_match(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return _collapsed(match[_group(pattern, match)] or "") or None if match else None


def _from_markers(text: str, marker: str) -> Iterator[tuple[int, int]]:
    starts = [match.start() for match in re.finditer(re.escape(marker), text)]
    return itertools.pairwise([*starts, len(text)])


def _steps(text: str, spans: Iterator[tuple[int, int]]) -> list[Step]:
    """Steps numbered from 1, without the space at their ends; what holds nothing else is none."""
    found: list[Step] = []
    for start, end in spans:
        stretch = text[max(start, 0) : max(end, 0)]  # a group that took no part in a match is at -1
        if value := _collapsed(stretch):
            start += len(stretch) - len(stretch.lstrip())
            found.append(Step(len(found) + 1, value, start, start + len(stretch.strip())))
    return found


def _collapsed(text: str) -> str:
    return " ".join(text.split())


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{") + len("\\boxed{")
    depth = 1
    for brace in re.finditer(r"(?<!\\)[{}]", text[start:]) if start >= len("\\boxed{") else ():
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return _collapsed(text[start : start + brace.start()]) or None
    return None


def _checked(rule: StepRule) -> StepRule:
    """A function of the user's own, whose steps must lie in the text, in order, and hold something."""

    def steps(text: str) -> list[Step]:
        found = list(rule(text))
        end = item = 0
        for step in found:
            if not isinstance(step, Step) or not (item < step.item and end <= step.start < step.end <= len(text)):
                raise InputError(
                    f"the function for steps returned {step!r}: expected Step(item, value, start, end) in the order of "
                    f"the text, numbered upwards from 1, each with at least one of its {len(text)} characters"
                )
            end, item = step.end, step.item
        return found

    return steps


def _told(rule: AnswerRule) -> AnswerRule:
    def answer(text: str) -> str | None:
        found = rule(text)
        if found is not None and not isinstance(found, str):
            raise InputError(f"the function for answers returned {found!r}: expected a text, or None for no answer")
        return found or None

    return answer
