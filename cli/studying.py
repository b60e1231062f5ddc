"""The commands that measure a whole model: study and doctor."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from . import choices, workers
from .choices import among, joined
from .options import (
    JsonOption,
    MemoryOption,
    ModelOption,
    OrganismsOption,
    QuietOption,
    SamplesOption,
    SaveOption,
    SeedOption,
    StudyCotOption,
    StudyPairsOption,
    TaskOption,
    TemperatureOption,
    apart,
    names_of,
    print_json,
    show,
)
from .sharing import DeviceOption, DtypeOption


def study(
    out: Annotated[Path, typer.Option("--out", help="a new folder for tables, results and figures")],
    pairs: StudyPairsOption = None,
    models: OrganismsOption = None,
    full: Annotated[bool, typer.Option("--full", help="every organism, and every seed in the cache")] = False,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    model: Annotated[
        str | None,
        typer.Option("--model", help="a model of your own: it is measured instead", autocompletion=choices.models),
    ] = None,
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=1, help="how many problems of the task")] = 128,
    cot: StudyCotOption = "model",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="of a chain of thought")] = 256,
    samples: SamplesOption = 1,
    temperature: TemperatureOption = 0.0,
    dtype: DtypeOption = None,
    device_map: DeviceOption = None,
    attention: Annotated[
        str | None,
        typer.Option("--attention", help='"sdpa" or "eager"', autocompletion=among(choices.ATTENTION)),
    ] = None,
    form: Annotated[
        str,
        typer.Option("--format", help="texts around the reasoning, by name", autocompletion=among(choices.FORMATS)),
    ] = "auto",
    remote_code: Annotated[bool, typer.Option("--remote-code", help="run the model's own Python files")] = False,
    memory: MemoryOption = 2.0,
    only: Annotated[
        str | None,
        typer.Option("--only", help="steps, joined with commas", autocompletion=joined(among(choices.STEPS))),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the study in --out")] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="print what it would take, and stop")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask before it starts")] = False,
) -> None:
    """Measure a model of your own (--model), or, without it, the systems of the debate: their table, and a verdict for
    every claim."""
    from ..core import InputError

    names, steps = names_of("--organisms", models), names_of("--only", only)
    if model is None:
        if task is not None or resume or estimate or steps:
            raise InputError("--task, --only, --resume and --estimate are of a model of your own: name it with --model")
        with apart(as_json, quiet):
            _study_debate(out, pairs=pairs or 32, names=names, full=full, seed=seed, progress=not quiet)
    else:
        if names or full:
            raise InputError("--organisms and --full are of the study of the debate: leave them out, or --model")
        loading = {"dtype": dtype, "device_map": device_map, "attention": attention, "format": form}
        options: dict[str, Any] = {"loading": {**loading, "remote_code": remote_code}, "problems": problems}
        options |= {"pairs": pairs or 64, "cot": cot, "max_new_tokens": max_new_tokens, "samples": samples}
        options |= {"temperature": temperature, "seed": seed, "memory": memory, "only": tuple(steps) if steps else None}
        if estimate:
            _estimate(model, task, as_json, **options)
            return
        asks = not (yes or quiet or as_json)
        with apart(as_json, quiet):
            _study_own(out, model, task, asks=asks, resume=resume, progress=not quiet, **options)
    if as_json:
        print_json(_told(out))


def _study_debate(out: Path, **options: Any) -> None:
    workers.context()  # first, so that its imports and ours run side by side
    from .study import run_study

    run_study(out, **options)


def _study_own(out: Path, model: str, task: str | None, *, asks: bool, **options: Any) -> None:
    from .own import ask, run_own_study

    run_own_study(out, model, task, agree=ask if asks and sys.stdin.isatty() else None, **options)


def _estimate(model: str, task: str | None, as_json: bool, **options: Any) -> None:
    from .own import estimate_own_study

    found = estimate_own_study(model, task, **options)
    if as_json:
        print_json(asdict(found))
    else:
        typer.echo(found.text())


def _told(out: Path) -> dict[str, Any]:
    """What a study wrote: the cells of its table as they are printed, the verdicts with their figures."""
    import pandas as pd

    said = json.loads((out / "table.json").read_text())
    rows = said.pop("rows", None) or [said.pop("row")]
    claims = out / "claims.csv"
    judged = {"claims": pd.read_csv(claims)} if claims.is_file() else {}
    return {"out": out, "table": rows, **judged, **said}


def doctor(
    model: ModelOption,
    task: TaskOption = None,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Every gate on a model: what was measured, the limit, the verdict, what to do. Status 1 where a gate stops."""
    from .. import analyses, hooks, tasks

    loaded = hooks.load(model)
    pairs = None if task is None else tasks.load(task).pairs(4, tokenizer=loaded.tokenizer)
    result = analyses.doctor(loaded, pairs, progress=not quiet)
    show(result, result.table(), save, as_json=as_json)
    if not result.healthy:
        raise typer.Exit(1)
