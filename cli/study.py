"""The main job: the debate's models measured, their table, and a verdict for every claim. Orchestration only."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from tqdm import tqdm

from .. import figures, organisms
from ..analyses.claims import Judged, judge, load_claims, verdicts
from ..analyses.reading import MEASURES, Measurement
from ..core import InputError, Result, atomic_write, check_name, new_folder
from .measured import ROW, Asked, Measured, measure
from .rows import row
from .single import FILE, keep
from .told import notes, told
from .workers import context, start_worker

# The rows of the default table; claims that need others measure only what they need of them.
DEFAULT = (
    "post-hoc",
    "small-base",
    "small-direct",
    "small-sft",
    "small-both",
    "small-rl",
    "large-direct",
    "large-both",
    "large-rl",
    "rl-able",
    "hinted",
    "emergent-code",
)
Key = tuple[str, int]
TOGETHER = 5  # models that a figure can show


def run_study(
    out: Path,
    *,
    pairs: int = 32,
    names: Sequence[str] | None = None,
    full: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure organisms, judge the claims, and write tables, results and figures to a new folder.

    names: the rows of the table; None for those of the debate; no claim is judged for others
    full: every organism, and every seed that was trained into the cache

    Models are measured side by side, one process a core. The folder appears when everything is done: a killed run
    leaves only a hidden folder beside it.
    """
    asked = _asked(names, full, pairs, seed)
    workers = min(len(asked), os.cpu_count() or 1)
    pool = ProcessPoolExecutor(workers, mp_context=context(), initializer=start_worker)
    with (
        new_folder(out) as folder,
        pool,
        tqdm(total=len(asked), disable=not progress, leave=False, unit="model") as bar,
    ):
        measured = _measure_all(pool, asked, bar)
        bar.set_description("figures")
        rows = {key: measured[key] for key, one in asked.items() if set(ROW) <= set(one.steps)}
        labels = {asked[key].label: found for key, found in rows.items()}
        options = {"pairs": pairs, "seed": seed, "organisms": [asked[key].label for key in asked], "full": full}
        judged = judge(_finder(measured)) if names is None else []
        drawn = _write(
            pool, folder, {asked[key].label: found for key, found in measured.items()}, labels, judged, options
        )
        table = pd.DataFrame([row(label, found) for label, found in labels.items()])
        text = told(table, labels, judged)
        for job in drawn:
            job.result()
        atomic_write(folder / "table.txt", lambda path: path.write_text(text))
        atomic_write(folder / "table.csv", lambda path: table.to_csv(path, index=False))
        said = json.dumps({"rows": table.to_dict("records"), "notes": notes(labels)}, indent=1) + "\n"
        atomic_write(folder / "table.json", lambda path: path.write_text(said))
    print(text)
    print(f"Tables, results and figures: {out}\nA page to look at single problems: loadbearing report {out}")
    return table


def _asked(names: Sequence[str] | None, full: bool, pairs: int, draw: int) -> dict[Key, Asked]:
    """What is measured of which organism: whole rows, and what the claims need of others."""
    known = [name for name in organisms.ORGANISMS if organisms.organism_path(name).is_dir()]
    chosen = [check_name("organism", name.strip(), known) for name in names] if names is not None else []
    if len(set(chosen)) < len(chosen):
        raise InputError(f"an organism is named twice: {', '.join(chosen)}")
    if names is not None:
        return {(name, 0): Asked(name, organisms.organism_path(name), pairs=pairs, draw=draw) for name in chosen}
    needed: dict[str, set[str]] = {}
    for claim in load_claims()[0]:
        for term in claim.terms:
            needed.setdefault(term.organism, set()).update(MEASURES[term.measure][0])
    rows = [name for name in (organisms.ORGANISMS if full else DEFAULT) if name in known]
    asked = {}
    for name in dict.fromkeys([*rows, *needed]):
        for seed in _seeds(name, full):
            steps = dict.fromkeys([*(ROW if name in rows else ()), *sorted(needed.get(name, ()))])
            folder = organisms.organism_path(name, seed)
            asked[name, seed] = Asked(name, folder, seed, tuple(step for step in steps if step != "card"), pairs, draw)
    return asked


def _seeds(name: str, full: bool) -> list[int]:
    """The seeds of which an organism is there: the shipped one, or all in the cache too."""
    return [seed for seed in range(20 if full else 1) if organisms.organism_path(name, seed).is_dir()]


def _measure_all(pool: Executor, asked: Mapping[Key, Asked], bar: Any) -> dict[Key, Measured]:
    """Measure every model in the worker processes, the longest lists first."""
    order = sorted(asked, key=lambda key: -len(asked[key].steps))
    jobs = {pool.submit(measure, asked[key]): key for key in order}
    bar.set_description("measuring")
    found: dict[Key, Measured] = {}
    try:
        for job in as_completed(jobs):
            found[jobs[job]] = job.result()
            bar.set_description(f"measured {asked[jobs[job]].label}")
            bar.update()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return {key: found[key] for key in asked}


def _finder(measured: Mapping[Key, Measured]) -> Any:
    """Readings of an organism's measure, one a seed, or the reason why there are none.

    Endpoints were revised with seed 0 at hand: it is left out wherever there are others.
    """

    def find(organism: str, name: str) -> list[Measurement] | str:
        seeds = {seed: one for (other, seed), one in measured.items() if other == organism}
        found = [one for seed, one in seeds.items() if seed or len(seeds) == 1]
        if not found:
            return f"{organism} is not here: train it (loadbearing organisms train {organism})"
        needs, read = MEASURES[name]
        readings, reasons = [], []
        for one in found:
            try:
                readings.append(read({**one.results, "card": one.card, "reasons": one.reasons}))
            except (InputError, KeyError) as error:
                why = [one.reasons.get(need, f"no {need}") for need in needs if need not in {*one.results, "card"}]
                reasons.append(f"{name} of {organism}: {why[0] if why else error}")
        return reasons[0] if reasons else readings  # of all trainings or of none: those that fail are not left out

    return find


# Every figure: the function that draws it, and the results that it shows.
FIGURES = {
    "channels": ("channels", "channels"),
    "known": ("channels", "known"),
    "ablation": ("ablation", "ablation"),
    "ledger": ("ledger", "ledger"),
    "behaviour": ("behaviour", "behaviour"),
    "errors": ("errors", "errors"),
    "monitor": ("monitor", "monitor"),
    "decodability": ("decodability", "decodability"),
    "beyond": ("beyond", "beyond"),
    "commitment": ("commitment", "commitment"),
    "patch-answer-only": ("patch", "patch-answer-only"),
    "patch-cot": ("patch", "patch-cot"),
}


def draw(function: str, results: Any, path: Path, **options: Any) -> None:
    """Draw and save one figure; options: of its function."""
    ax = getattr(figures, function)(results, **options)
    figures.save(ax, path, formats=("pdf", "png"))
    plt.close(ax.figure)


def _families(results: Mapping[str, Result]) -> dict[str, dict[str, Result]]:
    """The models of one figure, by the end of its name: all, or, where they are many, those of a size."""
    if len(results) <= TOGETHER:
        return {"": dict(results)} if results else {}
    names: dict[str, list[str]] = {}
    for name in results:
        names.setdefault(next((size for size in ("small", "large") if name.startswith(size)), "others"), []).append(
            name
        )
    return {
        f"-{size}{f'-{first // TOGETHER + 1}' if len(found) > TOGETHER else ''}": {
            name: results[name] for name in found[first : first + TOGETHER]
        }
        for size, found in names.items()
        for first in range(0, len(found), TOGETHER)
    }


def _write(
    pool: Executor,
    folder: Path,
    measured: Mapping[str, Measured],
    rows: Mapping[str, Measured],
    judged: Sequence[Judged],
    options: Mapping[str, Any],
) -> list[Future[None]]:
    """Write results, verdicts and the manifest; the figures under way."""
    for name, found in measured.items():
        for kind, result in found.results.items():
            result.save(folder / "results" / name / f"{kind}.safetensors")
        if found.problems:
            keep(folder / "results" / name / FILE, found.problems)
    jobs: list[Future[None]] = []
    for name, (function, kind) in FIGURES.items():
        have = {m: found.results[kind] for m, found in rows.items() if kind in found.results}
        for family, few in _families(have).items():
            jobs.append(pool.submit(draw, function, few, folder / "figures" / f"{name}{family}"))
    if judged:
        shown = verdicts(judged)
        atomic_write(folder / "claims.csv", lambda path: shown.to_csv(path, index=False))
        jobs.append(pool.submit(draw, "claims", shown, folder / "figures" / "claims"))
    manifest = {
        "options": dict(options),
        "models": {name: found.fingerprint for name, found in measured.items()},
        "versions": {name: version(name) for name in ("loadbearing", "torch", "transformers")},
    }
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    atomic_write(folder / "manifest.json", lambda path: path.write_text(text))
    return jobs
