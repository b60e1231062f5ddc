"""The study of the user's own model: the table, figures and report of the demo, for one model and one task."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from tqdm import tqdm

from .. import hooks, tasks
from ..core import GateError, InputError, atomic_write, check_name
from .estimate import Estimate, estimate
from .measured import Measured, Unmeasured
from .own_draw import Options, draw
from .own_folder import Folder, identity_of
from .own_steps import STEPS, Subject, accuracies, is_answer, step
from .own_told import notes_of, told, used
from .page import write_report
from .rows import row
from .single import FILE, keep, single
from .study import FIGURES
from .study import draw as draw_figure


def run_own_study(
    out: str | Path,
    model: str | Path | hooks.Model,
    task: str | tasks.Task | None = None,
    *,
    loading: Mapping[str, Any] | None = None,
    resume: bool = False,
    agree: Callable[[str], bool] | None = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Measure a model on a task; results are written to the folder as they come, the table and figures at the end.

    model: what `hooks.load` takes, with `loading` as its arguments, or a Model; task: a spec or a Task, by default the
        organism's own
    resume: go on with the study in the folder, if it is of the same model, questions and options
    agree: asked with what it would take, False stops
    options: see `Options`

    Returns the row of the table (empty where it was stopped). Raises InputError for a folder with something else in it,
    or that another process is writing, and GateError where a gate of the doctor stops; what is missing for any other
    reason is told in the notes.
    """
    subject, steps = _subject(model, task, loading, options)
    with Folder.open(Path(out), identity_of(subject.model, subject.drawn, subject.options), resume) as folder:
        if not folder.finished:
            text = estimate(subject, steps).text()
            print(text)
            if agree is not None and not agree(text):
                return pd.DataFrame()
        table = _study(subject, folder, steps, progress)
    print((folder.path / "table.txt").read_text(), end="")
    print(f"Table, results and figures: {out}")
    return table


def estimate_own_study(
    model: str | Path | hooks.Model,
    task: str | tasks.Task | None = None,
    *,
    loading: Mapping[str, Any] | None = None,
    **options: Any,
) -> Estimate:
    """What `run_own_study` with the same arguments would take."""
    return estimate(*_subject(model, task, loading, options))


def _subject(
    model: str | Path | hooks.Model,
    task: str | tasks.Task | None,
    loading: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> tuple[Subject, list[str]]:
    """The model with what it is asked, and the steps to take."""
    asked = Options(**options)
    steps = _steps(asked)
    loaded = model if isinstance(model, hooks.Model) else hooks.load(str(model), **(loading or {}))
    chosen = tasks.load(task) if task is not None else loaded.task
    if chosen is None:
        raise InputError(f"{model!r} has no task of its own: pass --task, such as jsonl:PATH or word-problems")
    return Subject(loaded, draw(loaded, chosen, asked), asked), steps


def _study(subject: Subject, folder: Folder, steps: list[str], progress: bool) -> pd.DataFrame:
    """Take the steps, write the report, and return the row of the table."""
    with tqdm(total=len(steps) + 2, disable=not progress, leave=False, unit="step") as bar:
        _generate(subject, folder, bar)
        found = _measure(subject, folder, steps, bar)
        bar.set_description("figures")
        return _report(subject, folder, found)


def _steps(options: Options) -> list[str]:
    """The steps to take, in their order; the doctor is always asked first."""
    only = [check_name("step", name, STEPS) for name in options.only or STEPS]
    return [name for name in STEPS if name in only or name == "doctor"]


def _generate(subject: Subject, folder: Folder, bar: Any) -> None:
    """The runs that all steps stand on, made or read."""
    model, drawn = subject.model, subject.drawn
    bar.set_description("chains of thought")
    if model.supports("cot"):
        subject.runs = folder.runs(model, "cot", drawn.all, subject.written, bar.refresh)
    bar.update()
    bar.set_description("answers at once")
    if model.supports("answer-only"):
        subject.direct = folder.runs(model, "answer-only", drawn.problems, subject.answered, bar.refresh)
    bar.update()


def _measure(subject: Subject, folder: Folder, steps: list[str], bar: Any) -> Measured:
    """Take the steps that are not finished, and keep what each gave before the next begins."""
    model, spec = subject.model, subject.drawn.task.spec
    card = model.card or hooks.Card(model.name, "", spec, hooks.MODES, {}, {})
    found = Measured(card, model.fingerprint, accuracy=accuracies(subject))
    for name in steps:
        bar.set_description(name)
        if name not in folder.finished:
            try:
                folder.finish(name, step(name, subject, found))
            except (Unmeasured, InputError, GateError) as reason:
                folder.finish(name, {}, str(reason))
        told = folder.results(name)
        if isinstance(told, str):
            found.reasons[name] = told
        else:
            found.results |= told
        if "doctor" in found.results and name == "doctor":
            doctor: Any = found.results["doctor"]
            doctor.enforce()
        bar.update()
    return found


def _report(subject: Subject, folder: Folder, found: Measured) -> pd.DataFrame:
    """Write figures, table and counts."""
    label = Path(subject.model.name).name
    table = pd.DataFrame([row(label, found)])
    counts, notes = used(subject, found), notes_of(subject, found)
    probes: Any = found.results.get("decodability")
    if probes is not None and not is_answer(subject.drawn.problems, probes.variables[-1]):
        table["forward-pass bits"] = "-"  # the column is of the answer
        notes.append(f"forward-pass bits: no variable is the answer; those of {', '.join(probes.variables)} are saved")
    for name, (function, kind) in FIGURES.items():
        if kind == "behaviour" and not found.accuracy:
            notes.append("figure behaviour: no gold answer is known, and it shows how many are right")
        elif kind in found.results:
            shown, options = {label: found.results[kind]}, _probed(subject, found, kind)
            try:
                draw_figure(function, shown, folder.path / "figures" / name, **options)
            except InputError as reason:
                notes.append(f"figure {name}: {reason}")
    text = told(table, label, found, counts, notes)
    said = {"row": table.iloc[0].to_dict(), "used": counts, "notes": notes}
    atomic_write(folder.path / "table.csv", lambda path: table.to_csv(path, index=False))
    atomic_write(folder.path / "table.json", lambda path: path.write_text(json.dumps(said, indent=1) + "\n"))
    atomic_write(folder.path / "table.txt", lambda path: path.write_text(text))
    runs = [*(subject.runs or subject.direct or ())]
    kept = single(subject.model.tokenizer, runs, subject.drawn.pairs, found.results.get("channels"))
    keep(folder.path / "results" / FILE, kept)
    write_report(folder.path)
    return table


def _probed(subject: Subject, found: Measured, kind: str) -> dict[str, str]:
    """The variable that a figure is to name, where probes read another than the answer."""
    if kind not in ("decodability", "beyond"):
        return {}
    probes: Any = found.results[kind]
    last = probes.variables[-1]
    return {} if is_answer(subject.drawn.problems, last) else {"variable": last}


def ask(text: str) -> bool:
    """Ask whether to start."""
    return typer.confirm("Start?", default=True)
