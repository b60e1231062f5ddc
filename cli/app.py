"""The commands: each is a thin layer over one function of the library."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core import InputError
from . import makers, reading, record, report, where, workers
from .options import (
    CotOption,
    KeepOption,
    MemoryOption,
    ModelOption,
    OrganismsOption,
    QuietOption,
    SamplesOption,
    SaveOption,
    StudyCotOption,
    StudyPairsOption,
    TargetOption,
    TaskOption,
    TemperatureOption,
    VaryOption,
    load_both,
    names_of,
    show,
)
from .sharing import (
    DeviceOption,
    DtypeOption,
    EngineOption,
    GpusOption,
    PartsOption,
    RunsOption,
    ShardOption,
    WorkersOption,
    load_options,
    parts_of,
    unless_parts_are_missing,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
organisms = typer.Typer(no_args_is_help=True, help="The small models whose mechanism is known.")
app.add_typer(organisms, name="organisms")


@app.callback()
def loadbearing() -> None:
    """How much of the answer is computed in one forward pass, and how much do the tokens carry?"""
    from transformers.utils import logging

    logging.disable_progress_bar()


@app.command()
def study(
    out: Annotated[Path, typer.Option("--out", help="a new folder for tables, results and figures")],
    pairs: StudyPairsOption = None,
    models: OrganismsOption = None,
    full: Annotated[bool, typer.Option("--full", help="every organism, and every seed in the cache")] = False,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    quiet: QuietOption = False,
    model: Annotated[str | None, typer.Option("--model", help="a model of your own: it is measured instead")] = None,
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=1)] = 128,
    cot: StudyCotOption = "model",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="of a chain of thought")] = 256,
    samples: SamplesOption = 1,
    temperature: TemperatureOption = 0.0,
    dtype: DtypeOption = None,
    device_map: DeviceOption = None,
    attention: Annotated[str | None, typer.Option("--attention", help='"sdpa" or "eager"')] = None,
    form: Annotated[str, typer.Option("--format", help="texts around the reasoning, by name")] = "auto",
    remote_code: Annotated[bool, typer.Option("--remote-code", help="run the model's own Python files")] = False,
    memory: MemoryOption = 2.0,
    only: Annotated[str | None, typer.Option("--only", help="steps, joined with commas")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the study in --out")] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="print what it would take, and stop")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask before it starts")] = False,
) -> None:
    """Measure a model of your own (--model), or, without it, the systems of the debate: their table, and a verdict for
    every claim."""
    names, steps = names_of("--organisms", models), names_of("--only", only)
    if model is None:
        if task is not None or resume or estimate or steps:
            raise InputError("--task, --only, --resume and --estimate are of a model of your own: name it with --model")
        _study_debate(out, pairs=pairs or 32, names=names, full=full, seed=seed, progress=not quiet)
        return
    if names or full:
        raise InputError("--organisms and --full are of the study of the debate: leave them out, or --model")
    loading = {"dtype": dtype, "device_map": device_map, "attention": attention, "format": form}
    _study_own(
        out, model, task, asks=not (yes or quiet), loading={**loading, "remote_code": remote_code}, resume=resume,
        only_estimate=estimate, progress=not quiet, problems=problems, pairs=pairs or 64, cot=cot, seed=seed,
        max_new_tokens=max_new_tokens, samples=samples, temperature=temperature, memory=memory,
        only=tuple(steps) if steps else None,
    )  # fmt: skip


def _study_debate(out: Path, **options: Any) -> None:
    workers.context()  # first, so that its imports and ours run side by side
    from .study import run_study

    run_study(out, **options)


def _study_own(out: Path, model: str, task: str | None, *, asks: bool, **options: Any) -> None:
    from .own import ask, run_own_study

    run_own_study(out, model, task, agree=ask if asks and sys.stdin.isatty() else None, **options)


@app.command()
def channels(
    model: ModelOption,
    task: TaskOption = None,
    pairs: Annotated[int, typer.Option("--pairs", min=2)] = 64,
    vary: VaryOption = None,
    target: TargetOption = "onset",
    cot: CotOption = "model",
    samples: SamplesOption = 1,
    temperature: TemperatureOption = 0.0,
    keep: KeepOption = "all",
    memory: MemoryOption = 2.0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    runs: RunsOption = None,
    parts: PartsOption = None,
    shard: ShardOption = "1/1",
    engine: EngineOption = "local",
    workers: WorkersOption = 1,
    gpus: GpusOption = None,
    dtype: DtypeOption = None,
    device_map: DeviceOption = None,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """How much of the target's dependence on the prompt goes direct, by relay, and by tokens."""
    from .. import analyses, hooks

    options = load_options(dtype, device_map)
    shared = parts_of(parts, shard, engine, workers, gpus, model, options)
    loaded, chosen = load_both(model, task, **options)
    given = chosen.pairs(pairs, seed=seed, vary=vary)
    texts = cot if runs is None else hooks.Store.open(runs).runs(loaded)
    drawn: dict[str, Any] = {"samples": samples, "temperature": temperature, "keep": keep, "memory": memory}
    how: dict[str, Any] = {"target": target, "cot": texts, "seed": seed, "parts": shared, "progress": not quiet}
    with unless_parts_are_missing(shard):
        result = analyses.channels(loaded, given, **how, **drawn)
    show(result, result.table(), save, result.notes())


@app.command()
def ablation(
    model: ModelOption,
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=2)] = 64,
    baseline: Annotated[str, typer.Option("--baseline", help='"neutral", "mean" or "zero"')] = "neutral",
    text: Annotated[str, typer.Option("--text", help='"filler", "shuffled" or "repeated"')] = "filler",
    target: TargetOption = "onset",
    cot: CotOption = "model",
    samples: SamplesOption = 1,
    temperature: TemperatureOption = 0.0,
    keep: KeepOption = "all",
    memory: MemoryOption = 2.0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """What is lost when a wire is set to nothing: for problems without a counterfactual partner."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    given = chosen.problems(problems, seed=seed)
    how: dict[str, Any] = {"baseline": baseline, "text": text, "target": target, "cot": cot}
    drawn: dict[str, Any] = {"samples": samples, "temperature": temperature, "keep": keep, "memory": memory}
    result = analyses.ablation(loaded, given, seed=seed, progress=not quiet, **how, **drawn)
    show(result, result.table(), save)


@app.command()
def ledger(
    model: ModelOption,
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=2)] = 64,
    cot: CotOption = "model",
    memory: MemoryOption = 2.0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """Who computed each step: swap one source, hold the rest, decode the target."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    how: dict[str, Any] = {"cot": cot, "seed": seed, "memory": memory, "progress": not quiet}
    result = analyses.ledger(loaded, chosen.problems(problems, seed=seed), **how)
    show(result, result.frame(), save, result.notes())


@app.command()
def behaviour(
    model: ModelOption,
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=2)] = 64,
    cot: CotOption = "model",
    tamperings: Annotated[
        str | None,
        typer.Option("--tamperings", help='names, joined with commas, such as "mistake,style:words"; default: all'),
    ] = None,
    filler: Annotated[
        str | None, typer.Option("--filler", help='the text of "filler", repeated; default: dots')
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """What becomes of the answer when the text is cut, emptied, made wrong, said otherwise, or put out of order."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    given = chosen.problems(problems, seed=seed)
    how: dict[str, Any] = {"cot": cot, "tamperings": names_of("--tamperings", tamperings), "filler": filler}
    result = analyses.behaviour(loaded, given, seed=seed, progress=not quiet, **how)
    show(result, result.table(), save, result.notes())


@app.command()
def doctor(
    model: ModelOption,
    task: TaskOption = None,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """Every gate on a model: what was measured, the limit, the verdict, what to do. Status 1 where a gate stops."""
    from .. import analyses, hooks, tasks

    loaded = hooks.load(model)
    pairs = None if task is None else tasks.load(task).pairs(4, tokenizer=loaded.tokenizer)
    result = analyses.doctor(loaded, pairs, progress=not quiet)
    show(result, result.table(), save)
    if not result.healthy:
        raise typer.Exit(1)


makers.register(organisms)
reading.register(app)
record.register(app)
report.register(app)
where.register(app)
