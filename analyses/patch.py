"""Patching: where, in which layer, and in which part of it the answer can be changed."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..core import InputError, Manifest, check_name, circumstance
from ..hooks import MODES, Mode, Model, Runs
from ..hooks.gates import enforce, judge
from ..hooks.interior import Interior
from ..hooks.model import fingerprint_of
from ..hooks.sites import Site
from ..hooks.sweep import Cell, memory_of, open_interior
from ..hooks.trace import Trace
from ..tasks import Pairs
from .aligned import Aligned, align
from .gradient import Gradients
from .measured import swept
from .metrics import Meter, Metric, check_metric
from .patch_board import Board, Plan, Work, keep_partial, read_partial
from .patch_cells import SITES, UNIT_SITES, Writer, check_site
from .patch_guess import Guess, Way, guess
from .patch_plain import check_plain, swept_plainly
from .patch_table import PatchMap, UnitPatchMap

DIRECTIONS = ("denoising", "noising")
ADVICE = "This model cannot be resumed in the middle here."


def patch(
    model: Model,
    pairs: Pairs,
    site: str = "resid_pre",
    *,
    mode: Mode = "answer-only",
    target: str = "onset",
    cot: str | Runs | Mapping[str, Any] = "model",
    positions: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    window: int = 1,
    units: Sequence[int] | str = "each",
    direction: str = "denoising",
    metric: Metric = "log-odds",
    method: str = "exact",
    steps: int = 1,
    refine: int | None = None,
    sample: int = 32,
    memory: int | str = "1GB",
    resume: str | Path | PatchMap | None = None,
    progress: bool = False,
) -> PatchMap:
    """Put one activation of the donor's run into the recipient's, for every layer and place, and see what it answers.

    Exact, where no other method is asked for: only positions at or after the patch, in layers above it, are computed
    again, and nothing else can change. A model that cannot be taken up in the middle is run whole, cell by cell, and
    the summary says so. Pairs that do not align are left out and counted.

    site: `resid_pre`, `resid_mid`, `resid_post`, `attn_out`, `mlp_out`; heads: `z`, `q`, `k`, `v`, `pattern`; `neurons`
    mode: the run that is patched; target: where it is scored in a CoT run (see `channels`)
    positions: places by name (`operand.2`, `step.*[-1]`, `prompt`), each patched as a whole; None: each token
    window: how many layers from each on are patched together (not for q, k, v, pattern)
    units: of heads and neurons: "each" alone, "all" together, or the numbers of those to patch one at a time
    direction: "denoising" puts the donor's state into the recipient's run (what suffices for the donor's answer),
        "noising" the recipient's into the donor's (what is necessary for it)
    metric: "log-odds" of the donor's answer over the recipient's, each to its end, "logit-difference" of their first
        tokens, "log-probability" of the donor's answer, "kl" from the unpatched run, or a function of logits
        `[row, vocab]` and both answers' tokens that gives one figure a row
    method: "exact"; "gradient", the whole map approximated in a few passes (see `gradient.Gradients`); or "auto", the
        same with its largest cells run exactly
    steps: points on the path from base to source over which gradients are averaged; 1: the base's own
    refine: how many cells "auto" runs; None: a tenth of those that can change something, at least 16
    sample: how many cells, drawn at random in every layer, are run exactly beside a gradient's map, to say how far off
        it is: see the summary. Ranks can be right where sizes are not (slope far from 1), and where few cells matter a
        sample can miss them all: run those by "auto" before believing them
    memory: bytes that states under way may take, about; less means more, smaller batches
    resume: a file to which an interrupted sweep is saved, and from which the next call goes on; or the `partial` of the
        Interrupted error that is raised where memory runs out

    Source: activation patching as in Vig et al. 2020 (arXiv 2004.12265), Zhang & Nanda 2024 (2309.16042).

    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> found = patch(model, model.task.pairs(4), mode="cot", target="answer", cot="task")
    >>> found.coords["position"][2], found.effect()[0][0, 2].round(3).item()
    ('value', 1.0)
    """
    began = time.perf_counter()
    check_name("mode", mode, MODES)
    plan = _plan(model, site, layers, window, units, direction, metric)
    wanted = Way.of(method, steps, refine, sample, plan)
    interior, why = _opened(model, plan, method)
    check_site(model, interior, site, plan.layers)
    aligned = align(model, pairs, mode=mode, target=target, cot=cot, positions=positions, progress=progress)
    how: dict[str, Any] = {"site": site, "mode": mode, "target": target, "direction": direction, "window": window}
    how |= {"metric": check_metric(metric), "cot": cot if isinstance(cot, str) else "given"} | wanted.identity()
    identity = {**model.identity(), "task": pairs.task.spec, **how}
    facts = {
        "dropped": aligned.dropped,
        "pairs": aligned.digest,
        "weights": "" if model.backend.remote else fingerprint_of(model.module),  # they may have changed since loading
        "onset": aligned.onset.slot if aligned.onset else None,
        "way": f"in whole passes: {why}" if why else "resumed in the middle",
    }
    board = Board.of(plan, model, interior, aligned)
    made = partial(_result, plan, board, aligned, pairs.variables, identity, facts, began)
    kept = read_partial(resume, made(), plan, board)
    try:
        guessed = _run(model, interior, aligned, plan, board, wanted, memory_of(memory), progress)
    except BaseException as error:
        keep_partial(error, kept, board, made)
        raise
    effect = float(np.abs(board.natural[1] - board.natural[0]).mean())
    gate = judge("identity patch = plain run", board.error, effect, ADVICE)
    enforce([gate])
    more = {} if guessed is None else {"approximation": guessed.settle(board, plan, wanted, aligned.labels)}
    if kept is not None:
        kept.unlink(missing_ok=True)
    return made(gates=[gate.asdict()], **more)


def _result(
    plan: Plan,
    board: Board,
    aligned: Aligned,
    names: Sequence[str],
    identity: Mapping[str, Any],
    facts: Mapping[str, Any],
    began: float,
    **more: Any,
) -> PatchMap:
    """What is on the board now."""
    coords: dict[str, tuple[Any, ...]] = {"layer": plan.layers, "position": aligned.labels, "names": tuple(names)}
    if plan.each:
        coords["unit"] = board.units
    shape = board.shape(plan)
    told = {"gates": [], "forwards": board.forwards, **facts, **more}
    return (UnitPatchMap if plan.each else PatchMap)(
        coords=coords,
        manifest=Manifest(identity, circumstance(began, **told)),
        values=board.values.reshape(shape),
        outcome=board.outcome.reshape(shape),
        exact=board.chosen.reshape(shape[:-1]),
        recipient=board.natural[0],
        donor=board.natural[1],
        variable=np.array([list(names).index(variable) for _, _, variable in aligned.pairs]),
    )


def _opened(model: Model, plan: Plan, method: str) -> tuple[Interior | None, str]:
    """The model's inside; or why runs cannot be taken up in its middle, so that whole passes are run."""
    try:
        return open_interior(model), ""
    except InputError as error:
        if method != "exact":
            raise
        why = "its weights are not run here" if model.backend.remote else str(error)
        check_plain(plan, why)
        return None, why


def _plan(model: Model, site: str, layers: Any, window: int, units: Any, direction: str, metric: Metric) -> Plan:
    check_name("site", site, SITES)
    check_name("direction", direction, DIRECTIONS)
    check_metric(metric)
    chosen = tuple(range(model.n_layers)) if layers is None else tuple(layers)
    if not chosen or not set(chosen) <= set(range(model.n_layers)) or not all(isinstance(at, int) for at in chosen):
        raise InputError(f"layers={list(chosen)}: this model has layers 0 to {model.n_layers - 1}")
    if not isinstance(window, int) or window < 1 or (window > 1 and site in ("q", "k", "v", "pattern")):
        raise InputError(
            f"window={window} for site {site!r}: expected 1 or more layers, and 1 for q, k, v and pattern; patch z or "
            "attn_out in windows"
        )
    if isinstance(units, str):
        check_name("units", units, ("each", "all"))
    elif not len(units):
        raise InputError("units=[]: give the numbers of heads or neurons, 'each' or 'all'")
    each = site in UNIT_SITES and units != "all"
    return Plan(
        site, chosen, window, each, None if isinstance(units, str) else tuple(units), direction, metric, model.n_layers
    )


def _run(
    model: Model,
    interior: Interior | None,
    aligned: Aligned,
    plan: Plan,
    board: Board,
    wanted: Way,
    memory: int,
    progress: bool,
) -> Guess | None:
    """Guess the map where that is wanted, and run every cell that is chosen in every batch of pairs."""
    guessed = None
    if wanted.method != "exact" and interior is not None:
        gradients = Gradients(model, interior, plan, board, wanted.steps)
        guessed = guess(gradients, aligned, wanted, memory, progress)
    works = [Work.of(part, plan, board) for batch in aligned.batches for part in batch.parts(model, memory)]
    total = sum(work.rows for work in works)
    with tqdm(total=total, desc=f"patch {plan.site}", unit="run", disable=not progress, leave=False) as bar:
        for work in works:
            if work.rows or not np.isfinite(board.natural[:, list(work.batch.index)]).all():
                _measure(model, interior, work, board, memory, bar)
            bar.set_postfix(forwards=round(board.forwards))
    return guessed


def _measure(model: Model, interior: Interior | None, work: Work, board: Board, memory: int, bar: Any) -> None:
    """One batch of pairs: the cells, and one cell written with what it was."""
    plan = work.plan
    meter = Meter(plan.metric, work.batch, len(board.keys) + 1)

    def cells(base: Trace, source: Trace) -> list[Cell]:
        return [*work.cells(Writer(plan.site, base, source)), work.identity(base)]

    if interior is None:
        done = swept_plainly(model, work, meter)
    else:
        sites = [Site(plan.site, layer) for layer in plan.written]
        how: dict[str, Any] = {"direction": plan.direction, "source_sites": sites, "memory": memory}
        done = swept(model, interior, meter, cells, **how)
    try:
        for rows in done:
            bar.update(min(rows, bar.total - bar.n))  # the identity patch is not counted
    finally:
        board.take(work, meter)
    board.take_plain(work, meter)
