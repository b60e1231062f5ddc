"""Patching: the exact (layer x position) map of the residual stream."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..core import InputError, Manifest, check_name, circumstance
from ..hooks import MODES, Mode, Model, Run, Runs, generate
from ..hooks.cache import Layers, forward_segment
from ..hooks.format import decode
from ..hooks.gates import enforce, judge
from ..hooks.resume import resume
from ..hooks.sites import Site
from ..hooks.support import check_spliceable
from ..tasks import Pairs
from .patch_table import PatchMap
from .targets import Onset, cot_runs, count_reasons, cut, resolve_target

SITE = "resid_pre"
ADVICE = "This model cannot be resumed in the middle here."
# A run up to its target, and the answer tokens that it gives.
Row = tuple[tuple[int, ...], tuple[int, ...], Run]


def patch(
    model: Model,
    pairs: Pairs,
    *,
    mode: Mode = "answer-only",
    target: str = "onset",
    cot: str | Runs | Mapping[str, Any] = "model",
    batch_size: int = 256,
    progress: bool = False,
) -> PatchMap:
    """Put the donor's `resid_pre` of one layer and position into the recipient's run, for every layer and position.

    Exact: only positions at or after the patch, in layers above it, are computed again, and nothing else can change.
    The metric is log p(donor's answer) - log p(recipient's answer). Pairs that do not align (other lengths than most)
    are left out and counted.

    mode: the run that is patched; target: where it is scored in a CoT run (see `channels`)

    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> found = patch(model, model.task.pairs(4), mode="cot", target="answer", cot="task")
    >>> found.coords["position"][2], found.effect()[0][0, 2].round(3).item()
    ('value', 1.0)
    """
    began = time.perf_counter()
    check_name("mode", mode, MODES)
    rows, onset, dropped = _rows(model, pairs, mode, target, cot, progress)
    before = len(rows[0][0][0])
    layers, positions = model.n_layers, range(before)
    values = np.zeros((layers, before, len(rows)))
    natural = np.zeros((2, len(rows)))
    errors = []
    starts = range(0, len(rows), batch_size)
    with tqdm(total=len(starts) * layers * before, desc="patch", disable=not progress, leave=False) as bar:
        for start in starts:
            chunk = slice(start, start + batch_size)
            recipients, donors = [row[0] for row in rows[chunk]], [row[1] for row in rows[chunk]]
            states, past, natural[0, chunk] = _natural(model, recipients, recipients, donors)
            other, _, natural[1, chunk] = _natural(model, donors, recipients, donors)
            for layer in range(layers):
                for position in positions:
                    at = (states, past, layer, position, recipients, donors)
                    values[layer, position, chunk] = _cell(model, *at, patched=other)
                    bar.update()
            identity = _cell(model, states, past, layers // 2, before // 2, recipients, donors, patched=states)
            errors.append(np.abs(identity - natural[0, chunk]).max())
    effect = float(np.abs(natural[1] - natural[0]).mean())
    gates = [judge("identity patch = plain run", float(max(errors)), effect, ADVICE)]
    enforce(gates)
    names = pairs.variables
    facts = {
        "dropped": dropped,
        "gates": [gate.asdict() for gate in gates],
        "onset": onset.slot if onset else None,
    }
    how = {"site": SITE, "mode": mode, "target": target, "cot": cot if isinstance(cot, str) else "given"}
    coords = {"layer": tuple(range(layers)), "position": _labels(model, rows[0][0][2], before), "names": names}
    return PatchMap(
        coords=coords,
        manifest=Manifest({**model.identity(), "task": pairs.task.spec, **how}, circumstance(began, **facts)),
        values=values,
        recipient=natural[0],
        donor=natural[1],
        variable=np.array([names.index(row[2]) for row in rows]),
    )


def _rows(
    model: Model, pairs: Pairs, mode: Mode, target: str, cot: Any, progress: bool
) -> tuple[list[tuple[Row, Row, str]], Onset | None, dict[str, int]]:
    """The pairs of runs that align, cut at the target, and why the others were left out."""
    check_spliceable(model)
    if not len(pairs):
        raise InputError("no pairs to measure")
    problems = list(dict.fromkeys(p for pair in pairs for p in (pair.recipient, pair.donor)))
    onset = None
    if mode == "cot":
        runs = cot_runs(model, problems, cot, progress)
        onset = resolve_target(target, runs)
    else:
        runs = generate(model, problems, mode, progress=progress)
    cuts = {key: _cut(run, onset, target, model) for key, run in runs.by_problem().items()}
    reasons: list[str] = []
    rows: list[tuple[Row, Row, str]] = []
    for pair in pairs:
        one, other = cuts[pair.recipient.key], cuts[pair.donor.key]
        if isinstance(one, str) or isinstance(other, str):
            reasons.append(one if isinstance(one, str) else str(other))
        elif one[1] == other[1]:
            reasons.append("recipient and donor give the same answer")
        elif len(one[0]) != len(other[0]):
            reasons.append("the two runs have unequal length")
        else:
            rows.append((one, other, pair.variable))
    lengths = Counter(len(row[0][0]) for row in rows)
    if not lengths:
        raise InputError(f"no pair is left to patch: {count_reasons(reasons)}")
    common = max(sorted(lengths), key=lengths.__getitem__)
    reasons += ["another length than most pairs"] * (len(rows) - lengths[common])
    return [row for row in rows if len(row[0][0]) == common], onset, count_reasons(reasons)


def _cut(run: Run, onset: Onset | None, target: str, model: Model) -> Row | str:
    if onset is None:
        if run.answer is None:
            return "no answer that the task can read"
        return run.ids[: run.spans["answer"][0]], run.tokens("answer"), run
    aim = cut(run, onset, target, model)
    return aim if isinstance(aim, str) else (aim.head + aim.cot, aim.answer, run)


def _forced(own: Sequence[Row], answers: Sequence[Row], model: Model) -> list[tuple[Tensor, list[int]]]:
    """Token ids of own prefix and forced answers, grouped by the answers' length, with the rows of each group."""
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(answers):
        groups.setdefault(len(row[1]), []).append(i)
    return [
        (torch.tensor([own[i][0] + answers[i][1][:-1] for i in rows], device=model.device), rows)
        for rows in groups.values()
    ]


def _log_p(logits: Tensor, answers: Sequence[tuple[int, ...]]) -> NDArray[Any]:
    """Log probability of each row's answer; logits of the positions that predict it."""
    wanted = torch.tensor(answers, device=logits.device)
    chosen = logits.log_softmax(-1).gather(-1, wanted[..., None])[..., 0].sum(-1)
    found: NDArray[Any] = chosen.double().cpu().numpy()
    return found


# Per candidate (recipient's, donor's answer) and length group: rows, states [batch, layer, pos, d_model], token ids; or
# the cache.
State = list[list[tuple[list[int], Tensor, Tensor]]]
Past = list[list[Layers]]


def _natural(
    model: Model, own: Sequence[Row], recipients: Sequence[Row], donors: Sequence[Row]
) -> tuple[State, Past, NDArray[Any]]:
    """States and caches of unpatched runs with either answer forced, and their log-odds."""
    states: State = []
    pasts: Past = []
    log_p = np.zeros((2, len(own)))
    for c, answers in enumerate((recipients, donors)):
        states.append([])
        pasts.append([])
        for ids, rows in _forced(own, answers, model):
            batch, length = ids.shape
            logits, layers = forward_segment(model, ids)
            size = len(answers[rows[0]][1])
            log_p[c, rows] = _log_p(logits[:, -size:], [answers[i][1] for i in rows])
            every = torch.cartesian_prod(torch.arange(batch), torch.arange(length)).to(model.device)
            sites = [Site(SITE, layer) for layer in range(model.n_layers)]
            read = model.backend.read(ids, torch.ones_like(ids, dtype=torch.bool), sites, every)
            stacked = torch.stack([read[site].view(batch, length, -1) for site in sites], dim=1)
            states[-1].append((rows, stacked, ids))
            pasts[-1].append(layers)
    return states, pasts, log_p[1] - log_p[0]


def _cell(
    model: Model,
    states: State,
    pasts: Past,
    layer: int,
    position: int,
    recipients: Sequence[Row],
    donors: Sequence[Row],
    *,
    patched: State,
) -> NDArray[Any]:
    """Log-odds with one cell of the recipients' states taken from `patched`."""
    log_p = np.zeros((2, len(recipients)))
    single = all(len(row[1]) == 1 for row in (*recipients, *donors))
    for c, answers in enumerate((recipients, donors)):
        if c and single:  # answers of one token force nothing: one run scores both
            break
        for (rows, own, ids), past, (_, other, _) in zip(states[c], pasts[c], patched[c], strict=True):
            hidden = own[:, layer, position:].clone()
            hidden[:, 0] = other[:, layer, position]
            size = len(answers[rows[0]][1])
            before = [(k[:, :, :position], v[:, :, :position]) for k, v in past] if position else []
            logits = resume(model, layer, hidden, before, keep=size, ids=ids)
            log_p[c, rows] = _log_p(logits, [answers[i][1] for i in rows])
            if single:
                log_p[1, rows] = _log_p(logits, [donors[i][1] for i in rows])
    return np.asarray(log_p[1] - log_p[0])


def _labels(model: Model, run: Run, before: int) -> tuple[str, ...]:
    """A label a position: the innermost span with its index, or the token where only a segment names it."""
    labels = []
    segments = ("prompt", "open", "cot", "cue", "answer")
    for position in range(before):
        inside = [
            (stop - start, name, position - start)
            for name, (start, stop) in run.spans.items()
            if start <= position < stop
        ]
        size, name, offset = min(inside, default=(0, "", 0))
        if name in segments and name == "prompt":
            labels.append(decode(model.tokenizer, run.ids[position : position + 1]).strip() or repr(" "))
        else:
            labels.append(name if size == 1 else f"{name}[{offset}]")
    return tuple(labels)
