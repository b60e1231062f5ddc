"""About how long a study takes, and how much memory and disk: from a few problems that are timed beforehand."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import analyses
from ..core import GateError, InputError, Result
from ..hooks import MODES, Runs
from ..tasks import Pairs
from .estimate_fits import drawing, probing, reading
from .measured import ALTERED, COT, PATCHED, PROBED, READ, SWAPPED, Unmeasured
from .own_folder import CHUNK
from .own_steps import Subject, labelled
from .study import FIGURES

FEW, MORE = 2, 8  # problems or pairs that are timed; what the second costs beyond the first grows with their number
FIGURE = 100_000  # bytes of a figure as PDF and PNG, about
TOKEN = 16  # bytes of a token of a run on disk, with its part of spans and texts, about
# What stands for a step in the table of costs, how many at most, and of how many pairs it takes one.
COSTS = {
    "channels": ("channels, onset", None, 1),
    "copies": ("channels, answer", None, PATCHED),
    "ablation": ("ablation", None, 1),
    "errors": ("generate, answer-only", None, 1),
    "ledger": ("ledger", SWAPPED, 1),
    "behaviour": ("behaviour", ALTERED, 1),
    "decodability": ("beyond", PROBED, 1),  # as many runs are recorded, once
    "beyond": ("beyond", READ, 1),
    "commitment": ("commitment", ALTERED, 1),
    "patch": ("patch, cot", None, PATCHED),
}


@dataclass(frozen=True)
class Estimate:
    """Seconds, and bytes in memory and on disk."""

    seconds: float
    memory: float
    disk: float

    def text(self) -> str:
        """One line.

        >>> Estimate(4000.0, 17.4e9, 3.2e6).text()
        'about 1.1 hours, 17.4 GB of memory, 3 MB on disk'
        """
        unit, of = (
            (3600, "hours") if self.seconds >= 3600 else (60, "minutes") if self.seconds >= 60 else (1, "seconds")
        )
        spent = f"{self.seconds / unit:.1f}" if unit > 1 else f"{max(1, round(self.seconds))}"
        disk = max(1, round(self.disk / 1e6))
        return f"about {spent} {of}, {self.memory / 1e9:.1f} GB of memory, {disk} MB on disk"


@dataclass(frozen=True)
class Line:
    """Seconds of so many rows: `fixed` whatever their number, and `each`."""

    fixed: float
    each: float


def estimate(subject: Subject, steps: list[str]) -> Estimate:
    """What a study takes, about: within a factor of a few.

    Chains of thought of a few problems, and the channels of a few pairs, are timed twice, for 2 and for 8, so that what
    is done once is told from what every problem adds. The other steps are taken to run at the speed of the channels,
    with the passes of `analyses.cost`. One fit of each kind and one figure are timed too. A batch that fills the device
    better than these few do is faster. Memory is the weights and what `memory` allows for caches.
    """
    drawn, options, model = subject.drawn, subject.options, subject.model
    _chains(subject, 1)  # the first pass of a process loads libraries
    written, runs = _timed(lambda n: _chains(subject, n), min(MORE, len(drawn.problems)))
    try:
        forwards = analyses.cost(model, runs, twin=False).set_index("analysis")["forwards"]
    except InputError:  # nothing was written
        forwards = None
    n = len(drawn.all)
    seconds = -(-n // CHUNK) * written.fixed + n * written.each * options.samples
    if forwards is not None:
        seconds += _steps(subject, _taken(subject, steps, runs), forwards, written, runs)
    weights = sum(weight.nbytes for weight in model.module.parameters())
    tokens = sum(map(len, (run.ids for run in runs))) / len(runs) * (n * options.samples + len(drawn.problems))
    kept = 8 * 8 * 20 * 2 * len(drawn.pairs) * options.samples  # numbers of the channels; all others are fewer
    return Estimate(seconds, weights + options.memory * 1e9, tokens * TOKEN + kept + FIGURE * len(steps))


def _chains(subject: Subject, n: int) -> Runs:
    few = subject.drawn.problems[:n]
    return subject.written(few) if subject.model.supports("cot") else subject.answered(few)


def _timed(run: Callable[[int], Any], most: int) -> tuple[Line, Any]:
    """The line through the times of few and of more, and what the last gave."""
    few = max(1, min(FEW, most // 2))
    spent = []
    for n in (few, most):
        began = time.perf_counter()
        found = run(n)
        spent.append(time.perf_counter() - began)
    each = max(0.0, (spent[1] - spent[0]) / (most - few)) if most > few else spent[1] / most
    return Line(max(0.0, spent[1] - each * most), each), found


def _taken(subject: Subject, steps: list[str], runs: Runs) -> list[str]:
    """The steps, less those that are known not to apply."""
    model, drawn = subject.model, subject.drawn
    pairs, cot = bool(len(drawn.pairs)), model.supports("cot")
    try:
        probed = bool(labelled(subject.problems(PROBED)) and labelled(subject.problems(READ)))
    except Unmeasured:
        probed = False
    applies = {
        "channels": pairs,
        "copies": pairs,
        "ablation": not pairs,
        "errors": subject.options.cot == "model" and any(p.task.parse_steps(p.cot) for p in drawn.problems),
        "ledger": any(run.values for run in runs),
        "decodability": probed and model.supports("answer-only"),
        "beyond": probed,
        "patch": pairs,
    }
    return [name for name in steps if applies.get(name, True) and (cot or name not in COT | {"ablation"})]


def _steps(subject: Subject, steps: list[str], forwards: Any, written: Line, runs: Runs) -> float:
    """Seconds of all steps: passes at the speed of the channels (without them, of writing), fits, and figures."""
    drawn, samples = subject.drawn, subject.options.samples
    speed, measured = _speed(subject, forwards, written)
    seconds = speed.fixed  # the doctor
    for name in steps:
        if name in COSTS:
            row, most, part = COSTS[name]
            rows = len(drawn.pairs) // part if name in ("channels", "copies", "patch") else len(drawn.problems)
            seconds += speed.fixed + min(rows, most or rows) * samples * forwards[row] * speed.each
    seconds += probing(subject, runs) if "decodability" in steps else 0.0
    seconds += reading(subject, runs) if "beyond" in steps else 0.0
    drawn_once = {kind for _, kind in FIGURES.values()} & set(steps)
    maps = sum(map(subject.model.supports, MODES)) if "patch" in steps else 0
    return seconds + (len(drawn_once) + maps) * drawing(measured)


def _speed(subject: Subject, forwards: Any, written: Line) -> tuple[Line, Result | None]:
    """Seconds of a forward pass in the channels of a few pairs, and these channels; without them, in writing."""
    pairs, task = subject.drawn.pairs, subject.drawn.task
    few = Pairs(pairs.items[:MORE], task)
    inside = few.problems
    if inside and subject.model.supports("cot"):
        runs = subject.written(inside)

        def measure(n: int) -> Result:
            return analyses.channels(subject.model, Pairs(few.items[:n], task), cot=runs)

        try:
            line, found = _timed(measure, len(few))
            return Line(line.fixed, line.each / forwards["channels, onset"]), found
        except (InputError, GateError):
            pass  # too few of them end in an answer: the speed of writing stands
    return Line(written.fixed, written.each / forwards["generate, cot"]), None
