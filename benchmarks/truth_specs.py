"""Models whose wires are known because all others are cut, in training and for good: their recipes as data.

Two facts make a wire the only one. A prompt position that is blind to the operands carries none but its own. A last
token of the chain of thought that sees only itself carries its own value and nothing hidden.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from loadbearing.hooks.cut import Cut, joined

Wire = Literal["direct", "relay", "tokens"]


@dataclass(frozen=True)
class Known:
    """A model that is trained under cuts, and the one wire by which each variable must then reach each target.

    truth: wire by target and variable; target "one-pass" is the answer-only run, which has no chain of thought
    style: what training writes as chain of thought: the task's own, random digits, or nothing
    start: the model whose weights it starts from
    """

    name: str
    summary: str
    task: str
    cuts: tuple[Cut, ...]
    truth: Mapping[str, Mapping[str, Wire]]
    style: Literal["gold", "random", "nothing"] = "gold"
    layers: int = 1
    updates: int = 600
    start: str | None = None
    seed: int = 0

    @property
    def cot(self) -> str:
        """How it is measured (see `channels`): random digits are the task's, so that they differ between problems."""
        return "task" if self.style == "random" else "model"


def operands(first: int, last: int) -> list[str]:
    """Names of operands, both ends included."""
    return [f"operand.{k}" for k in range(first, last + 1)]


def blocks(queries: str | list[str], keys: list[str]) -> Cut:
    """A cut in all layers."""
    return Cut(joined(queries), joined(keys))


def routes(**names: list[str]) -> dict[str, Wire]:
    """The wire of every variable."""
    wires: tuple[Wire, ...] = ("direct", "relay", "tokens")
    return {name: wire for wire in wires for name in names.get(wire, [])}


def random_digits() -> list[Known]:
    """Sums of three numbers after two random digits: no token says anything."""
    task, every = "truth-sum:modulus=10,terms=3,digits=2", operands(1, 3)
    return [
        Known(
            "direct",
            "The cue cannot read the chain of thought: all is computed from the prompt.",
            task,
            (blocks("cue", ["cot"]),),
            {"answer": routes(direct=every)},
            "random",
            updates=1500,
        ),
        Known(
            "relay",
            "The cue cannot read prompt and open: all passes through the states at random digits.",
            task,
            (blocks("cue", ["prompt", "open"]),),
            {"answer": routes(relay=every)},
            "random",
            updates=1500,
            layers=2,
        ),
        Known(
            "relay-direct",
            "Operands 1 and 2 only through the states at random digits, operand 3 only from the prompt.",
            task,
            (
                blocks("prompt", every),
                blocks("cot", ["operand.3", "open"]),
                blocks("cue", ["operand.1", "operand.2", "open"]),
            ),
            {"answer": routes(relay=operands(1, 2), direct=["operand.3"])},
            "random",
            updates=1500,
            layers=2,
        ),
    ]


def mixture(m: int, relayed: int = 0) -> Known:
    """Of four operands the first `m` by the written partial sum, the next `relayed` by relay, the rest direct.

    The last token of the chain of thought sees itself and the relayed operands; the cue sees it and the direct ones.
    """
    steps = max(1, m - 1)
    last, before = f"cot[{steps - 1}]", [f"cot[{k}]" for k in range(steps - 1)]
    written, relay, direct = operands(1, m), operands(m + 1, m + relayed), operands(m + relayed + 1, 4)
    task = f"truth-sum:modulus=7,first={min(1, m - 1)},last={m - 1}"
    parts = {"tokens": m, "relay": relayed, "direct": 4 - m - relayed}
    return Known(
        "-".join(f"{wire}{count}" for wire, count in parts.items() if count),
        f"{m} operands by the written sum, {relayed} by its state, {len(direct)} from the prompt.",
        task,
        (
            blocks("prompt", operands(1, 4)),
            blocks(last, [*written, *direct, "open", *before]),
            blocks("cue", [*written, *relay, "open", *before]),
        ),
        {"answer": routes(tokens=written, relay=relay, direct=direct)},
        layers=2 if relayed else 1,
    )


def chain(removed: int) -> Known:
    """A chain of partial sums of four numbers, its first steps removed: each step is made of the one before.

    Step 1 is computed at `open` in one pass; later ones from the token before, which sees itself and the next operand.
    """
    steps = 3 - removed
    cuts = [blocks("prompt", operands(1, 4))]
    if steps > 1:
        cuts.append(blocks("open", operands(removed + 3, 4)))
    for step in range(1, steps + 1):
        hidden = [name for name in operands(1, 4) if step == steps or name != f"operand.{removed + 2 + step}"]
        cuts.append(blocks(f"step.{step}", [*hidden, "open", *(f"step.{k}" for k in range(1, step))]))
    cuts.append(blocks("cue", [*operands(1, 4), "open", *(f"step.{k}" for k in range(1, steps))]))
    truth = {
        f"step.{step}": routes(tokens=operands(1, removed + step), direct=[f"operand.{removed + step + 1}"])
        for step in range(2, steps + 1)
    }
    return Known(
        f"internalised-{removed}",
        f"A chain of partial sums without its first {removed} steps.",
        f"truth-sum:modulus=7,first={removed + 1},last=3",
        tuple(cuts),
        {**truth, "answer": routes(tokens=operands(1, 4))},
        updates=2000 if removed == 2 else 600,  # a sum of four in one pass takes longer
        start=f"internalised-{removed - 1}" if removed else None,
    )


KNOWN: dict[str, Known] = {
    known.name: known
    for known in (
        *random_digits(),
        *(mixture(m) for m in (1, 2, 3, 4)),
        mixture(2, relayed=2),
        mixture(2, relayed=1),
        *(chain(removed) for removed in (0, 1, 2)),
        Known(
            "internalised-3",
            "All steps removed: the sum is computed in one pass.",
            "truth-sum:modulus=7",
            (),
            {"one-pass": routes(direct=operands(1, 4))},
            "nothing",
            start="internalised-2",
        ),
    )
}
