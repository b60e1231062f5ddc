"""The grammar of positions: `NAME[.ITEM][SLICE]`, such as `prompt[-1]`, `step.3`, `step.*[-1]`, `operand.2`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..core import InputError, check_name
from .format import Spans

_POSITION = re.compile(r"(?P<name>[a-z_][a-z0-9_]*)(?:\.(?P<item>\d+|\*))?(?:\[(?P<slice>[^\[\]]*)\])?")


@dataclass(frozen=True)
class Place:
    """A token position of a run, under the label that its row gets (`step.*[-1]` gives `step.1[-1]`, `step.2[-1]`)."""

    label: str
    position: int


def labels_at(position: str, known: Iterable[str]) -> list[str]:
    """Those of the known labels that a position, with or without a wildcard, stands for.

    >>> labels_at("step.*[-1]", ["step.1[-1]", "step.2[-1]", "cue[-1]"])
    ['step.1[-1]', 'step.2[-1]']
    """
    labels = list(known)
    if ".*" not in position:
        return [check_name("recorded position", position, labels)]
    wanted = re.escape(position).replace(r"\*", r"\d+")
    return [label for label in labels if re.fullmatch(wanted, label)]


def resolve(spans: Spans, position: str) -> list[Place]:
    """The token positions that a position string names in a run, in order.

    Items count from 1, slices are Python's (`[-1]`, `[0]`, `[1:3]`). A wildcard may match nothing; a span that the run
    does not have, or an index outside of it, is an error.

    >>> [place.position for place in resolve({"prompt": (0, 5), "step.1": (7, 9)}, "step.*[-1]")]
    [8]
    >>> resolve({"prompt": (0, 5)}, "prompt[-1]")
    [Place(label='prompt[-1]', position=4)]
    """
    match = _POSITION.fullmatch(position)
    if match is None:
        raise InputError(
            f"position {position!r}: expected NAME[.ITEM][SLICE], for example 'prompt[-1]' or 'step.*[-1]'"
        )
    index = f"[{match['slice']}]" if match["slice"] is not None else ""
    if match["item"] == "*":
        items = sorted(int(n.partition(".")[2]) for n in spans if re.fullmatch(rf"{match['name']}\.\d+", n))
        if not items:
            families = [n.partition(".")[0] for n in spans]
            check_name("position", match["name"], dict.fromkeys([*families, "step", "operand"]))
        names = [f"{match['name']}.{item}" for item in items]
    else:
        names = [match["name"] + (f".{match['item']}" if match["item"] else "")]
        check_name("position", names[0], spans)
    return [Place(f"{name}{index}", at) for name in names for at in _slice(spans[name], match["slice"], position)]


def _slice(span: tuple[int, int], text: str | None, position: str) -> list[int]:
    places = list(range(*span))
    if text is None:
        return places
    parts = text.split(":")
    if len(parts) > 3 or not all(re.fullmatch(r"-?\d{0,9}", part.strip()) and part.strip() != "-" for part in parts):
        raise InputError(f"position {position!r}: [{text}] is no index and no slice")
    numbers = [int(part) if part.strip() else None for part in parts]
    if len(numbers) == 3 and numbers[2] == 0:
        raise InputError(f"position {position!r}: a slice cannot have a step of 0")
    if len(parts) > 1:
        return places[slice(*numbers)]
    if numbers[0] is None or not -len(places) <= numbers[0] < len(places):
        raise InputError(f"position {position!r}: the span has {len(places)} tokens")
    return [places[numbers[0]]]
