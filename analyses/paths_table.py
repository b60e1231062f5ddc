"""The names of senders and receivers, and the saved results of `paths`. No torch and no model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from ..core import InputError, check_name
from .patch_table import PatchMap

SENDERS = ("head", "attn", "mlp", "embed", "L0H0", "attn.0", "mlp.0")
RECEIVERS = ("logits", "q", "k", "v", "mlp", "L1H0.q", "L1H0.k", "L1H0.v", "mlp.1")
_NAME = re.compile(r"L(?P<layer>\d+)H(?P<head>\d+)(?:\.(?P<input>[qkv]))?|(?P<part>attn|mlp)\.(?P<number>\d+)")


@dataclass(frozen=True)
class End:
    """A sender or a receiver. order: when it writes, or reads; head: of attention, or of keys and values."""

    kind: str
    layer: int
    head: int | None
    order: int

    @property
    def label(self) -> str:
        """Its name."""
        if self.head is not None:
            return f"L{self.layer}H{self.head}" + ("" if self.kind == "head" else f".{self.kind}")
        return self.kind if self.kind in ("logits", "embed") else f"{self.kind}.{self.layer}"

    def reaches(self, receiver: "End") -> bool:
        """Whether it writes before the receiver reads."""
        return self.order < receiver.order


NOTHING = End("nothing", 0, None, -1)


def path_keys(senders: Sequence[End], receivers: Sequence[End]) -> list[tuple[int, int]]:
    """Numbers of sender and receiver of every path; those to heads of one layer follow each other."""
    groups = dict.fromkeys((end.kind, end.layer) for end in receivers)
    return [
        (i, j)
        for group in groups
        for i, one in enumerate(senders)
        for j, other in enumerate(receivers)
        if (other.kind, other.layer) == group and one.reaches(other)
    ]


@dataclass(frozen=True)
class Parts:
    """What there is to name: heads a layer, those of keys and values, and which layers' MLPs read with attention."""

    heads: int
    kv_heads: int
    parallel: tuple[bool, ...]

    def ends(self, role: str, text: str) -> list[End]:
        """The senders or receivers that a name stands for."""
        layers = len(self.parallel)
        match = _NAME.fullmatch(text)
        single = match is not None and (match["part"] or bool(match["input"]) == (role == "receiver"))
        if match is None or not single or (match["part"] == "attn" and role == "receiver"):
            check_name(role, text, SENDERS if role == "sender" else RECEIVERS)
            if text in ("embed", "logits"):
                return [End(text, 0, None, -1 if text == "embed" else 4 * layers)]
            numbers: Sequence[int | None] = [None] if text in ("attn", "mlp") else range(self._count(text))
            return [self._end(role, text, layer, head) for layer in range(layers) for head in numbers]
        kind = match["part"] or match["input"] or "head"
        layer = int(match["layer"] or match["number"] or 0)
        number = None if match["part"] else int(match["head"])
        if layer >= layers or (number or 0) >= self._count(kind):
            raise InputError(
                f"{role} {text!r}: this model has layers 0 to {layers - 1}"
                + ("" if number is None else f", and heads 0 to {self._count(kind) - 1} in each")
            )
        return [self._end(role, kind, layer, number)]

    def joined(self, sender: str | Sequence[str], receiver: str | Sequence[str]) -> tuple[list[End], list[End]]:
        """Senders and receivers between which there are paths; whole kinds stand for those that have one."""
        sides = []
        for role, given in (("sender", sender), ("receiver", receiver)):
            texts = [given] if isinstance(given, str) else list(given)
            sides.append({end: end.label == text for text in texts for end in self.ends(role, text)})
        senders, receivers = sides
        kept = [one for one in senders if any(one.reaches(other) for other in receivers)]
        read = [other for other in receivers if any(one.reaches(other) for one in senders)]
        alone = [
            end.label
            for side, found in ((senders, kept), (receivers, read))
            for end in side
            if side[end] and end not in found
        ]
        if alone or not kept:
            raise InputError(
                f"no path from {sender!r} to {receiver!r} ({', '.join(alone) or 'no layer lies between'}): a sender "
                "must write before its receiver reads, so it lies in a lower layer; the MLP of a layer also reads its "
                "attention, unless both read at once"
            )
        return kept, read

    def _count(self, kind: str) -> int:
        return self.kv_heads if kind in ("k", "v") else self.heads

    def _end(self, role: str, kind: str, layer: int, head: int | None) -> End:
        """Within a layer attention reads, attention writes, the MLP reads (with attention, if parallel), it writes."""
        step = 3 if kind == "mlp" else 1
        if role == "receiver":
            step = 2 if kind == "mlp" and not self.parallel[layer] else 0
        return End(kind, layer, head, 4 * layer + step)


@dataclass(frozen=True, eq=False, repr=False)
class Paths(PatchMap):
    """What a metric is in every pair with one sender's message exchanged on its way to one receiver only.

    values: `[sender, receiver, pair]`, NaN where no path leads from one to the other (there `exact` is False)
    """

    kind: ClassVar[str] = "paths"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "values": ("sender", "receiver", "pair"),
        "outcome": ("sender", "receiver", "pair"),
        "exact": ("sender", "receiver"),
        "recipient": ("pair",),
        "donor": ("pair",),
        "variable": ("pair",),
    }

    def frame(self) -> pd.DataFrame:
        """A row a path: sender, receiver, effect with interval, shares of outcomes."""
        frame = super().frame()
        return frame[frame["exact"]]

    def summary(self) -> str:
        """One line: which paths, in how many pairs, at what cost."""
        how, facts = self.manifest.identity, self.manifest.circumstance
        base = "donor" if how["direction"] == "noising" else "recipient"
        return (
            f"direct paths {how['sender']} -> {how['receiver']} in the {base}'s {how['mode']} run, {how['metric']}: "
            f"{int(self.exact.sum())} paths, {self.values.shape[-1]} pairs, {facts['forwards']:.0f} forward passes"
        )
