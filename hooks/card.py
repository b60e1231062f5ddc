"""The card of an organism: what it is, how it was made, and how it is meant to be measured."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..core import InputError, atomic_write
from ..tasks import FILES
from .formats import MODES, Format

CARD = "card.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,99}")  # a file name everywhere, and no path


@dataclass(frozen=True)
class Card:
    """The card of a model, stored as `card.json` beside its weights.

    modes: the modes that it was made for; format: the texts around prompt, CoT and answer
    measure: arguments of `channels` for which the model's table is known or meant (`vary`, `cot`, `target`)
    known: the shares (direct, relay, tokens) that hand-set weights give, where they are known exactly
    cut: wires that were cut in training and stay cut, in order (see `Model.cut`)
    recipe, curve, accuracy: how it was trained, its held-out accuracy along the way, and at the end
    start: the organism whose weights the training began with
    elicited: one-pass accuracy after a small answer-only fine-tune ("accuracy"), after the same one from random weights
        ("twin"), and its length ("updates")
    """

    name: str
    summary: str
    task: str
    modes: tuple[str, ...]
    format: Mapping[str, Any]
    recipe: Mapping[str, Any]
    seed: int = 0
    measure: Mapping[str, Any] = field(default_factory=dict)
    known: Mapping[str, float] = field(default_factory=dict)
    cut: tuple[Mapping[str, Any], ...] = ()
    curve: tuple[Mapping[str, Any], ...] = ()
    accuracy: Mapping[str, float] = field(default_factory=dict)
    start: str | None = None
    elicited: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> Path:
        """Write `card.json` into a folder."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"
        return atomic_write(folder / CARD, lambda path: path.write_text(text))

    @classmethod
    def load(cls, folder: Path) -> "Card | None":
        """The card in a folder, or None where there is none."""
        path = folder / CARD
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(), object_pairs_hook=_object)
            if not isinstance(content, dict):
                raise TypeError(f"expected an object, got {type(content).__name__}")
            unknown = set(content) - {f.name for f in fields(cls)}
            if unknown:
                raise InputError(f"{path}: unknown keys {sorted(unknown)}")
            _check(content)
            lists = {key: tuple(content[key]) for key in ("modes", "curve", "cut") if key in content}
            return cls(**{**content, **lists})
        except InputError:
            raise
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path} is not a card: {error}") from error


TEXTS, OBJECTS = (
    ("name", "summary", "task"),
    ("format", "recipe", "measure", "known", "accuracy", "elicited", "versions"),
)
NUMBERS = ("known", "accuracy", "elicited")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _check(content: Mapping[str, Any]) -> None:
    """Raise ValueError for what a card cannot hold: it came with files that may be anyone's."""
    for keys, of in ((TEXTS, str), (OBJECTS, dict), (("modes", "curve", "cut"), list), (("seed",), int)):
        for key in keys:
            if key in content and not isinstance(content[key], of):
                raise TypeError(f"{key!r} is {ascii(content[key])[:80]}, expected {of.__name__}")
    for key in ("name", "start"):
        if content.get(key) is not None and not NAME.fullmatch(str(content[key])):
            raise ValueError(
                f"{key!r} is {ascii(content[key])[:80]}, expected a name of letters, digits, '.', '-', '_'"
            )
    # A model that brings a path would have files read that its user never named.
    if str(content.get("task")).partition(":")[0] in FILES:
        raise ValueError(f"'task' is {ascii(content['task'])[:80]}, expected a task of its own, not a file")
    if not set(map(str, content.get("modes", ()))) <= set(MODES):
        raise ValueError(f"'modes' are {ascii(content['modes'])[:80]}, expected {', '.join(MODES)}")
    if unknown := set(content.get("format", {})) - {f.name for f in fields(Format)}:
        raise ValueError(f"'format' has unknown keys {ascii(sorted(unknown))[:80]}")
    for key, value in content.get("format", {}).items():
        if not isinstance(value, {"chat": bool, "template": dict}.get(key, str | None)):
            raise TypeError(f"{key!r} of 'format' is {ascii(value)[:80]}")
    for key in ("curve", "cut"):
        if not all(isinstance(item, dict) for item in content.get(key, ())):
            raise TypeError(f"{key!r} holds something else than objects")
    for wire in content.get("cut", ()):
        layers = wire.get("layers") or []
        if (
            set(wire) - {"queries", "keys", "layers"}
            or not isinstance(layers, list)
            or not {*map(type, layers)} <= {int}
        ):
            raise TypeError(f"'cut' holds {ascii(wire)[:80]}, expected queries, keys and layers")
        if not all(isinstance(wire.get(key), str) for key in ("queries", "keys")):
            raise TypeError(f"'cut' holds {ascii(wire)[:80]}, expected names of queries and keys")
    for key in NUMBERS:
        if not all(isinstance(value, int | float) for value in content.get(key, {}).values()):
            raise TypeError(f"{key!r} holds something else than numbers")
