"""What `cost` reckons with: the lengths of a run, and a formula of them for every analysis."""

from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np
from torch import nn

from ..core import InputError
from ..hooks import Runs
from ..hooks.memory import pass_bytes
from ..hooks.sites import d_head, n_heads, site_map
from ..hooks.sweep import kv_share
from .behaviour_table import CUT, STYLE
from .cells import N_CELLS
from .eight import FORCED

Number = int | float
NUMBER = 8  # bytes of a number in a result
# Numbers that `channels` and `ablation` keep of a pair: log-probabilities of candidates, and one a cell.
OF_CHANNELS, OF_ABLATION = 2 * N_CELLS * (3 + 2 + 3 + 5), 3 * N_CELLS


@dataclass(frozen=True)
class Lengths:
    """A typical run, in tokens: `[prompt][open][cot][cue][answer]`.

    steps: how many steps the task reads in the chain of thought; step: tokens of a step's value
    inputs: variables of the prompt; first: the first token in which the prompts of a pair differ
    """

    prompt: Number
    cot: Number
    cue: Number = 1
    answer: Number = 1
    open: Number = 1
    steps: Number = 1
    step: Number = 1
    inputs: Number = 2
    first: Number = 0

    def __post_init__(self) -> None:
        if not all(value >= 0 and np.isfinite(value) for value in astuple(self)) or self.prompt < 1:
            raise InputError(f"{self}: expected a prompt of at least one token, and no number below 0")

    @classmethod
    def of(cls, runs: Runs) -> "Lengths":
        """The mean lengths of CoT runs; `first` is that of the prompt's first variable.

        >>> from loadbearing.hooks import generate, load
        >>> model = load("organism:sft")
        >>> Lengths.of(generate(model, model.task.problems(8)))
        Lengths(prompt=10, cot=3, cue=1, answer=1, open=1, steps=3, step=1, inputs=4, first=1)
        """
        usable = [run for run in runs if "cot" in run.spans]
        if not usable:
            raise InputError("no run has a chain of thought: give CoT runs, or Lengths(prompt=..., cot=...)")
        inputs = [[run.spans[name][0] for name in run.problem.task.inputs if name in run.spans] for run in usable]
        found = {
            name: [len(run.tokens(name)) if name in run.spans else 0 for run in usable]
            for name in ("prompt", "cot", "cue", "answer", "open")
        }
        found["steps"] = [len(run.values) for run in usable]
        found["step"] = [len(run.tokens(f"step.{k}")) for run in usable for k in run.values] or [1]
        found["inputs"] = [len(own) for own in inputs]
        found["first"] = [min(own, default=0) for own in inputs]
        means = {name: float(np.mean(values)) for name, values in found.items()}
        return cls(**{name: int(mean) if mean.is_integer() else mean for name, mean in means.items()})


@dataclass(frozen=True)
class Setting:
    """Lengths (see `Lengths`), what the model's shape says, and the options of `cost`.

    both: whether the model has an answer-only mode; head: prompt and open; whole: a run with its answer
    position: bytes of keys and values of a token
    """

    of: Lengths
    module: nn.Module
    scored: float
    tamperings: tuple[str, ...]
    twin: bool
    controls: int
    both: bool
    head: Number
    direct: Number
    whole: Number
    layers: int
    width: int
    state: int
    position: int

    def traced(self, length: Number) -> Number:
        """Bytes of a trace: residual stream, another site, queries, keys, values and z of every layer."""
        heads = (n_heads(self.module) + n_heads(self.module, "k")) * d_head(self.module)
        return length * self.layers * 2 * (self.width + heads) * self.state


# Tokens through all layers, bytes on the way for a row of a batch, bytes that are kept: of a problem or a pair.
Cost = tuple[Number, Number, Number]


def _answer_only(s: Setting) -> Cost:
    """Prompt and cue in one pass, then every token of the answer but the last, which is the stop, over the cache."""
    return s.direct, s.position * s.direct, 0


def _cot(s: Setting) -> Cost:
    """Prompt and chain of thought, token by token; then, from the start, prompt, chain and cue, and the answer."""
    return s.head + s.of.cot + s.whole, s.position * s.whole, 0


def _record(s: Setting) -> Cost:
    """One pass over the run; `resid_post` of every layer at one position is kept."""
    return s.whole, pass_bytes(s.module, int(s.whole)), s.layers * s.width * s.state


def _said(length: Number) -> Number:
    """Greedy decoding over a cache that grows: every token but the last is run once."""
    return max(0, length - 1)


def _cells(s: Setting, forced: int) -> Number:
    """Two prompts, four chains, eight readers: each runs the cue, the answers side by side, and the greedy one."""
    reader = s.of.cue + forced * s.of.answer + _said(s.of.answer)
    return 2 * s.head + 4 * s.of.cot + N_CELLS * reader


def _spliced_bytes(s: Setting) -> Number:
    """As in `eight.memory_of`: two heads, four chains, eight readers are kept; a reader has a copy of its past."""
    return s.position * (3 * s.head + 5 * s.of.cot + N_CELLS * (s.of.cue + FORCED * s.of.answer))


def _channels(s: Setting) -> Cost:
    """The eight cells, and answer-only runs of both problems. The last states are held until the end."""
    kept = OF_CHANNELS * NUMBER + N_CELLS * s.width * 4
    return _cells(s, FORCED) + 2 * s.both * s.direct, _spliced_bytes(s), kept


def _channels_onset(s: Setting) -> Cost:
    """A bound: the eight cells twice (the opening text counted with prompt and CoT), over at most the whole chain."""
    once, row, kept = _channels(s)
    return once + _cells(s, FORCED), row, kept


def _ablation(s: Setting) -> Cost:
    """The eight cells of a run and its baseline; the own answer is forced twice."""
    return _cells(s, 2), _spliced_bytes(s), OF_ABLATION * NUMBER


def _ledger(s: Setting) -> Cost:
    """For every target the text before it, once as it is and once a source, and the target's words by greedy decoding.

    A bound unless `scored` is the share of swaps that the program's rule scores.
    """
    spacing = s.of.cot / max(1, s.of.steps)
    steps = range(round(s.of.steps))
    before = [(s.head + k * spacing, s.of.inputs + k, spacing) for k in steps]
    before += [(s.head + s.of.cot + s.of.cue, s.of.inputs + len(steps), max(s.of.answer, s.of.step if steps else 0))]
    tokens = sum((start + _said(length)) * (1 + s.scored * sources) for start, sources, length in before)
    kept = NUMBER * 5 * len(before) * (s.of.inputs + len(steps))
    return tokens, 2 * s.position * (s.whole - s.of.answer), kept  # kept for its target, and copied into a batch


def _behaviour(s: Setting) -> Cost:
    """Every altered text is run with the cue and the answer; after a mistake the chain is first written to its end."""
    k = max(1, s.of.steps)
    tokens: Number = s.direct
    for name in s.tamperings:
        if name in CUT:
            tokens += (k + 1) * (s.whole - s.of.cot / 2)
        elif name.startswith(("mistake", STYLE)):
            written = k if name.startswith("mistake") else k - 1
            tokens += k * s.whole + written * (s.head + s.of.cot)
        else:
            tokens += s.whole
    return tokens, s.position * s.whole, NUMBER * 4 * (k + 1) * len(s.tamperings)


def _commitment(s: Setting) -> Cost:
    """After every step and as much random text: the answer written, and the own one scored; two passes for states."""
    asked = (s.of.steps + 1) * (2 * (s.whole - s.of.cot / 2) + 1)
    states = (2 + s.twin) * (s.head + s.of.cot)
    kept = (2 + s.twin) * s.layers * (s.of.steps + 1) * s.width * s.state
    return 2 * asked + states, s.position * s.whole, kept


def _decodability(s: Setting) -> Cost:
    """Writes and records both runs, and records them in the random twin; every place is kept in double precision."""
    direct = s.both * s.direct
    written = direct + _cot(s)[0]
    kept = (1 + s.twin) * (2 * s.both + 3 + s.of.steps) * s.layers * s.width * NUMBER
    return written + (1 + s.twin) * (s.whole + direct), s.position * s.whole, kept


def _beyond(s: Setting) -> Cost:
    """Records the CoT run, and in the random twin; every place is kept in double precision."""
    kept = (3 + s.of.steps) * s.layers * s.width * NUMBER
    return (1 + s.twin) * s.whole, pass_bytes(s.module, int(s.whole)), kept


def _sweep(s: Setting, length: Number) -> Cost:
    """Every cell runs the positions from the patch on, above it; the last layer only what is read, and keys and values.

    Both runs are traced; answers of more than one token are forced one after the other. A bound where pairs differ
    later than at `Lengths.first`.
    """
    reads = max(1, s.of.answer)
    text, cells = length + reads - 1, max(0, length - s.of.first)
    on = cells * text - (cells * (s.of.first + length - 1)) / 2  # positions from the patch on, of all cells of a layer
    share = kv_share(site_map(s.module).blocks[0].block)
    blocks = on * s.layers * (s.layers - 1) / 2 + cells * (reads + share)
    blocks += (s.layers - 1) * (cells * reads + share * max(0, on - cells * reads))
    tokens = (2 * text + blocks / s.layers) * (1 if s.of.answer <= 1 else 2)
    return tokens, 2 * s.traced(text), s.layers * length * (NUMBER + 1)


def _patch_direct(s: Setting) -> Cost:
    """A map over every layer and token of the answer-only run."""
    return _sweep(s, s.direct - s.of.answer)


def _patch_cot(s: Setting) -> Cost:
    """A map over every layer and token of the CoT run."""
    return _sweep(s, s.whole - s.of.answer)


def _knockout(s: Setting) -> Cost:
    """A knock-out in each layer, of the cue's reads: one pass, then from the cue on and from that layer on, with
    controls."""
    read = s.of.cue + s.of.answer - 1
    again = (1 + s.controls) * read * (s.layers + 1) / 2
    length = s.whole - 1
    return length + again, s.traced(length), NUMBER * 3 * (1 + s.controls) * s.layers


def _attribution(s: Setting) -> Cost:
    """One traced pass over each run of the pair, up to the answer."""
    length = s.whole - s.of.answer
    return 2 * length, s.traced(length), NUMBER * 2 * (2 * s.layers + 2)


ROWS: dict[str, tuple[str, Callable[[Setting], Cost]]] = {
    "generate, answer-only": ("problem", _answer_only),
    "generate, cot": ("problem", _cot),
    "record, one position": ("problem", _record),
    "channels, answer": ("pair", _channels),
    "channels, onset": ("pair", _channels_onset),
    "ablation": ("problem", _ablation),
    "ledger": ("problem", _ledger),
    "behaviour": ("problem", _behaviour),
    "commitment": ("problem", _commitment),
    "decodability": ("problem", _decodability),
    "beyond": ("problem", _beyond),
    "patch, answer-only": ("pair", _patch_direct),
    "patch, cot": ("pair", _patch_cot),
    "knockout of the cue, by layer": ("problem", _knockout),
    "attribution, cot": ("pair", _attribution),
}
