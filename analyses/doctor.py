"""Doctor: every gate on a model, as a table of what was measured, the limit, the verdict and what to do."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ..core import InputError, Manifest, Result, circumstance
from ..hooks import Mode, Model, Run, generate
from ..hooks.format import render_prompt, tokenize
from ..hooks.gates import VERDICTS, Gate, enforce
from ..hooks.support import check_spliceable
from ..tasks import Pair, Pairs, Piece, Questions
from .eight import eight_cells, plain_log_p
from .gates import GATE_PAIRS, SPLICE_GATES, SPLICING, effect_of, plain_gates, site_gates, splice_gates
from .targets import Aim

# Prompts that differ in one word, and so in the answer; the sentences around it differ in length. Which words have
# equal token counts depends on the tokenizer.
_OWN = (
    ("What is {} + 30?", (("12", "42"), ("41", "71"), ("7", "37"), ("8", "38"))),
    ("A box holds {} red and 20 blue balls. How many?", (("10", "30"), ("50", "70"), ("3", "23"), ("6", "26"))),
    ("Which animal says {}?", (("miaow", "cat"), ("woof", "dog"), ("moo", "cow"), ("oink", "pig"))),
    (
        "The capital of {} is a city in Europe. Which one is it?",
        (("France", "Paris"), ("Spain", "Madrid"), ("Italy", "Rome"), ("Greece", "Athens")),
    ),
)


@dataclass(frozen=True, eq=False, repr=False)
class Doctor(Result):
    """Every gate on one model.

    measured, limit: in nats unless the gate's name says otherwise, NaN where the model lacks what is measured
    verdict: index into `VERDICTS` (pass, warn, stop, refused)
    """

    kind: ClassVar[str] = "doctor"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(("measured", "limit", "verdict"), ("gate",))

    measured: Float[np.ndarray, " gate"]
    limit: Float[np.ndarray, " gate"]
    verdict: Int[np.ndarray, " gate"]

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates, in the order of the table."""
        advice, guards = (self.manifest.circumstance[name] for name in ("advice", "guards"))
        rows = zip(self.coords["gate"], self.measured, self.limit, self.verdict, strict=True)
        return tuple(Gate(g, float(m), float(x), VERDICTS[v], advice[g], guards[g]) for g, m, x, v in rows)

    @property
    def healthy(self) -> bool:
        """Whether no gate stops."""
        return all(gate.verdict != "stop" for gate in self.gates)

    def frame(self) -> pd.DataFrame:
        """A row a gate: gate, measured, limit, verdict, advice, guards (the analyses that rest on it)."""
        return pd.DataFrame([gate.asdict() for gate in self.gates]).rename(columns={"name": "gate"})

    def table(self) -> pd.DataFrame:
        """The same as text, the advice only where a gate does not pass."""
        found = self.frame()
        for name in ("measured", "limit"):
            found[name] = [f"{value:.2g}" if value == value else "-" for value in found[name]]
        found["advice"] = found["advice"].where(found["verdict"] != "pass", "")
        return found[["gate", "measured", "limit", "verdict", "advice"]]

    def enforce(self) -> None:
        """Raise GateError if a gate stops."""
        enforce(self.gates)


def doctor(
    model: Model, pairs: Pairs | None = None, *, max_new_tokens: int = 24, batch_size: int = 64, progress: bool = False
) -> Doctor:
    """Run every gate on a few runs of the model, and say what was measured, the limit, and what to do.

    pairs: counterfactual pairs, of which the first four whose prompts have equal token counts are used; default: the
        model's own task, or questions in plain English
    max_new_tokens: how much the model writes; what it wrote is cut to unequal lengths, so that batches are ragged

    Nothing need be right or finished: the effect that errors are compared with is the mean of |v(DRT) - v({})| over
    these pairs, v being the log-odds of their two gold answers after what the model wrote. Raises InputError where the
    tokenizer does not know the words, or no pair has prompts of equal token count.

    >>> from loadbearing.hooks import load
    >>> found = doctor(load("organism:copy-tokens"))
    >>> sorted(set(found.table()["verdict"])), found.healthy
    (['pass'], True)
    """
    began = time.perf_counter()
    if pairs is None:
        pairs = model.task.pairs(GATE_PAIRS) if model.task is not None else own_questions()
    mode: Mode = "cot" if model.supports("cot") else "answer-only"
    few = _exchangeable(model, pairs, mode)
    limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    runs = generate(model, few.problems, mode, max_answer_tokens=8, progress=progress, **limits)
    by = runs.by_problem()
    aims = [
        (_aim(model, by[pair.recipient.key], 2 * i), _aim(model, by[pair.donor.key], 2 * i + 1))
        for i, pair in enumerate(few)
    ]
    texts = [aim.head + aim.cot for pair in aims for aim in pair][:GATE_PAIRS]
    answers = [aim.answer for pair in aims for aim in pair]
    spliced, effect = _splice(model, aims)
    gates = [
        *spliced,
        *plain_gates(model, list(runs)[:GATE_PAIRS], texts, answers, effect, ("cot", "answer")),
        *site_gates(model, texts, answers, effect),
    ]
    facts = {
        "advice": {gate.name: gate.advice for gate in gates},
        "guards": {gate.name: gate.guards for gate in gates},
        "effect": effect,
        "problems": [problem.key for problem in few.problems],
        "device": str(model.device),
    }
    return Doctor(
        coords={"gate": tuple(gate.name for gate in gates)},
        manifest=Manifest({**model.identity(), "task": pairs.task.spec}, circumstance(began, **facts)),
        measured=np.array([gate.measured for gate in gates], dtype=float),
        limit=np.array([gate.limit for gate in gates], dtype=float),
        verdict=np.array([VERDICTS.index(gate.verdict) for gate in gates]),
    )


def own_questions() -> Pairs:
    """Pairs of short questions in plain English, one word apart, for a model that brings no task: one of each first."""
    task = Questions("doctor")
    for number, (text, words) in enumerate(_OWN):
        for word, answer in words:
            task.add(f"{number}.{word}", text.format(word), answer)
    by = {problem.key: problem for problem in task.problems(sum(len(words) for _, words in _OWN))}
    items = [
        Pair(by[f"{number}.{words[one][0]}"], by[f"{number}.{words[other][0]}"], "question")
        for one, other in combinations(range(4), 2)
        for number, (_, words) in enumerate(_OWN)
    ]
    return Pairs(tuple(items), task)


def _exchangeable(model: Model, pairs: Pairs, mode: Mode) -> Pairs:
    """The first pairs whose prompts have equal token counts and whose gold answers differ."""
    found: list[Pair] = []
    for pair in pairs:
        sides = (pair.recipient, pair.donor)
        one, other = (len(render_prompt(model.tokenizer, model.format, problem, mode).ids) for problem in sides)
        if one == other and pair.recipient.answer != pair.donor.answer:
            found.append(pair)
        if len(found) == GATE_PAIRS:
            break
    if not found:
        raise InputError(
            "no pair to measure: expected two prompts of equal token count and with different answers; pass pairs of a "
            "task that fits the tokenizer (--task)"
        )
    return Pairs(tuple(found), pairs.task)


def _aim(model: Model, run: Run, short: int) -> Aim:
    """A run cut before its answer, `short` tokens of what the model wrote left out; the gold answer is scored."""
    head = run.tokens("prompt"), run.tokens("open") if "open" in run.spans else ()
    cot = run.tokens("cot") if "cot" in run.spans else ()
    answer = tokenize(model.tokenizer, [Piece(" " + run.problem.answer)]).ids
    kept = cot[: max(1, len(cot) - short)]
    return Aim(*head, kept, run.tokens("cue"), answer, None, run.problem.answer, {})


def _splice(model: Model, aims: Sequence[tuple[Aim, Aim]]) -> tuple[list[Gate], float]:
    """The gates of splicing and the effect; a model that is refused by name has plain runs of either side only."""
    try:
        check_spliceable(model)
    except InputError as error:
        log_p = [[[plain_log_p(model, run, side.answer, None) for side in pair] for run in pair] for pair in aims]
        effect = np.abs(np.diff(np.diff(log_p), axis=1)).mean()  # answers, then runs
        nan = float("nan")
        refused = [Gate(name, nan, nan, "refused", str(error), SPLICING) for name in SPLICE_GATES]
        return refused, float(effect)
    thirds = [None] * len(aims)
    scores = eight_cells(model, aims, thirds)
    return splice_gates(model, aims, thirds, scores), effect_of(scores)
