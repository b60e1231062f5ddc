"""The card of an organism: what it is, how it was made, and how it is meant to be measured."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..core import InputError, atomic_write

CARD = "card.json"


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
            content = json.loads(path.read_text())
            unknown = set(content) - {f.name for f in fields(cls)}
            if unknown:
                raise InputError(f"{path}: unknown keys {sorted(unknown)}")
            lists = {key: tuple(content[key]) for key in ("modes", "curve", "cut") if key in content}
            return cls(**{**content, **lists})
        except (json.JSONDecodeError, TypeError) as error:
            raise InputError(f"{path} is not a card: {error}") from error
