"""The three lines of `commitment`: what a probe reads, what the model says when asked, what the text gives away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..hooks import Model, Run, Runs, record
from ..hooks.backends.base import position_ids
from ..hooks.decoding import pad
from ..hooks.masks import takes_logits_to_keep
from ..hooks.memory import batches, segment_bytes
from ..probes import null_log_p, sweep
from ..probes.information import LN2
from .behaviour import forced_answers
from .commitment_table import QUANTITIES
from .tamper import Trial
from .text import text_log_p

SITE = "resid_post"
TIED = 1e-9  # log probabilities that differ by less are the same number, counted in another order


@dataclass(frozen=True)
class Asked:
    """What is asked of every run: its own answer `y`, by number, after each of the k's that its text has.

    ends: where the text that keeps k steps ends; fold: of every run; answers: all that occur, in order
    """

    ends: Sequence[Sequence[int]]
    y: NDArray[Any]
    fold: NDArray[Any]
    answers: NDArray[Any]

    @cached_property
    def null(self) -> NDArray[Any]:
        """Log probability (nats) of every own answer by the best constant of the other folds."""
        null = np.zeros(len(self.y))
        for f in np.unique(self.fold):
            null[self.fold == f] = null_log_p(self.y[self.fold != f], self.y[self.fold == f])
        return null

    @property
    def ks(self) -> range:
        """0 to the number of steps of the longest chain."""
        return range(max(map(len, self.ends)))

    def rows(self, k: int) -> NDArray[Any]:
        """The runs whose text has k steps; none where they do not fill the folds, or all have one answer."""
        rows = np.flatnonzero([len(own) > k for own in self.ends])
        full = len(np.unique(self.fold[rows])) > self.fold.max() and len(np.unique(self.y[rows])) > 1
        return rows if full else rows[:0]

    def blank(self, *shape: int) -> NDArray[Any]:
        """NaN for every k and run."""
        return np.full((*shape, len(self.ks), len(self.y)), np.nan)


def forced_curve(model: Model, runs: Sequence[Run], asked: Asked, limits: Mapping[str, Any]) -> NDArray[Any]:
    """Hit and bits, `[quantity, k, run]`, of the answer after the cue."""
    trials = [
        Trial("truncated", k, row, run.ids[run.spans["cot"][0] : end])
        for row, run in enumerate(runs)
        for k, end in enumerate(asked.ends[row])
    ]
    answers = forced_answers(model, runs, trials, [trial.cot for trial in trials], limits)
    before = [runs[t.row].ids[: runs[t.row].spans["cot"][0]] + t.cot + runs[t.row].tokens("cue") for t in trials]
    own = [
        runs[t.row].tokens("answer") + tuple(token for token in [runs[t.row].end] if token is not None) for t in trials
    ]
    found = asked.blank(len(QUANTITIES))
    log_p = _said(model, before, own, **limits)
    for trial, answer, nats in zip(trials, answers, log_p, strict=True):
        bits = (nats - asked.null[trial.row]) / LN2
        found[:, trial.k, trial.row] = answer == runs[trial.row].answer, bits
    return found


@torch.no_grad()
def _said(
    model: Model,
    before: Sequence[tuple[int, ...]],
    said: Sequence[tuple[int, ...]],
    batch_size: int,
    memory: float,
    progress: bool,
) -> NDArray[Any]:
    """Log probability (nats) of every text after what stands before it."""
    found = np.zeros(len(said))
    order = sorted(range(len(said)), key=lambda i: len(before[i]))
    last = max(map(len, said)) + 1
    sizes = [segment_bytes(model.module, len(one) + last, 0, last) for one in before]
    chunks = list(batches(order, sizes, batch_size, memory))
    for chunk in tqdm(chunks, desc="answers", disable=not progress, leave=False):
        ids, mask = pad([before[i] + said[i] for i in chunk], model, left=True)
        options = {"logits_to_keep": last} if takes_logits_to_keep(type(model.module)) else {}
        run: Any = model.module
        output = run(
            input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False, **options
        )
        log_p = output.logits[:, -last:-1].float().log_softmax(-1).gather(-1, ids[:, 1 - last :, None])[..., 0]
        found[chunk] = [float(log_p[row, -len(said[i]) :].double().sum()) for row, i in enumerate(chunk)]
    return found


def kept_states(
    model: Model, runs: Sequence[Run], asked: Asked, layers: Sequence[int] | None, limits: Mapping[str, Any]
) -> Tensor:
    """`[layer, k, run, d]`: the state at the last kept token; NaN for a k that the text does not have.

    One pass a run: a causal model's state there is what it is when the text ends there.
    """
    marked = [
        replace(run, ids=run.ids[: ends[-1]], spans={f"kept.{k}": (end - 1, end) for k, end in enumerate(ends)})
        for run, ends in zip(runs, asked.ends, strict=True)
    ]
    acts = record(model, Runs(tuple(marked), "cot", model), [SITE], ["kept.*"], layers=layers, **limits)
    values = acts.values[SITE].swapaxes(0, 1)
    states = values.new_full((len(values), len(asked.ks), len(runs), values.shape[-1]), torch.nan)
    k = acts.rows["position"].str.removeprefix("kept.").astype(int)
    states[:, torch.tensor(k.tolist()), torch.tensor(acts.rows["run"].tolist())] = values
    return states


def probe_curve(states: Tensor, asked: Asked, progress: bool) -> tuple[NDArray[Any], list[int | None]]:
    """Hit and bits, `[quantity, k, run]`, of a probe for every k; the layer that most folds chose, by its place."""
    found = asked.blank(len(QUANTITIES))
    picks: list[int | None] = []
    for k in tqdm(asked.ks, desc="probes", disable=not progress, leave=False):
        rows = asked.rows(k)
        if not len(rows):
            picks.append(None)
            continue
        read = sweep(states[:, k, rows].swapaxes(0, 1), {"own": asked.y[rows]}, folds=asked.fold[rows])
        best = read.inner[0].argmin(axis=1)  # [fold]
        at = best[asked.fold[rows]], np.arange(len(rows))
        found[:, k, rows] = read.hit[0][at], (-read.loss[0][at] - asked.null[rows]) / LN2
        picks.append(int(np.bincount(best).argmax()))
    return found, picks


def shuffled_probe(
    states: Tensor, picks: Sequence[int | None], asked: Asked, shuffles: int, rng: np.random.Generator, progress: bool
) -> NDArray[Any]:
    """Mean hit and bits, `[quantity, k, shuffle]`, of the probe for permuted answers, at the layer that was chosen."""
    means = np.full((len(QUANTITIES), len(asked.ks), shuffles), np.nan)
    for k, at in enumerate(tqdm(picks, desc="shuffled labels", disable=not progress, leave=False)):
        if at is None or not shuffles:
            continue
        rows = asked.rows(k)
        labels = {str(s): rng.permutation(asked.y[rows]) for s in range(shuffles)}
        read = sweep(states[at, k, rows][:, None], labels, folds=asked.fold[rows])
        bits = [read.bits(name)[0].mean() for name in labels]
        means[:, k] = read.hit[:, 0].mean(axis=1), bits
    return means


def text_curve(model: Model, runs: Sequence[Run], asked: Asked, seed: int, progress: bool) -> NDArray[Any]:
    """Hit and bits, `[quantity, k, run]`, of a reader of the kept tokens, for every k."""
    found = asked.blank(len(QUANTITIES))
    for k in tqdm(asked.ks, desc="text", disable=not progress, leave=False):
        rows = asked.rows(k)
        if not len(rows):
            continue
        y, fold = asked.y[rows], asked.fold[rows]
        here = Runs(tuple(runs[row] for row in rows), "cot", model)
        ends = [asked.ends[row][k] for row in rows]
        log_p = text_log_p(here, ends, asked.answers[y], asked.answers, fold, seed=seed)
        own = log_p[np.arange(len(y)), y]
        likeliest = log_p > log_p.max(axis=1, keepdims=True) - TIED
        found[:, k, rows] = likeliest[np.arange(len(y)), y] / likeliest.sum(axis=1), (own - asked.null[rows]) / LN2
    return found
