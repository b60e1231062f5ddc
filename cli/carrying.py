"""The commands that ask what carries the answer: channels, ablation, ledger, behaviour."""

from typing import Annotated, Any

import typer

from . import choices
from .choices import among, joined
from .options import (
    CotOption,
    JsonOption,
    KeepOption,
    MemoryOption,
    ModelOption,
    ProblemsOption,
    QuietOption,
    SamplesOption,
    SaveOption,
    SeedOption,
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


def channels(
    model: ModelOption,
    task: TaskOption = None,
    pairs: Annotated[int, typer.Option("--pairs", min=2, help="counterfactual pairs a variable")] = 64,
    vary: VaryOption = None,
    target: TargetOption = "onset",
    cot: CotOption = "model",
    samples: SamplesOption = 1,
    temperature: TemperatureOption = 0.0,
    keep: KeepOption = "all",
    memory: MemoryOption = 2.0,
    seed: SeedOption = 0,
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
    as_json: JsonOption = False,
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
    with unless_parts_are_missing(shard, as_json):
        result = analyses.channels(loaded, given, **how, **drawn)
    show(result, result.table(), save, result.notes(), as_json=as_json)


def ablation(
    model: ModelOption,
    task: TaskOption = None,
    problems: ProblemsOption = 64,
    baseline: Annotated[
        str,
        typer.Option("--baseline", help='"neutral", "mean" or "zero"', autocompletion=among(choices.BASELINES)),
    ] = "neutral",
    text: Annotated[
        str,
        typer.Option("--text", help='"filler", "shuffled" or "repeated"', autocompletion=among(choices.TEXTS)),
    ] = "filler",
    target: TargetOption = "onset",
    cot: CotOption = "model",
    samples: SamplesOption = 1,
    temperature: TemperatureOption = 0.0,
    keep: KeepOption = "all",
    memory: MemoryOption = 2.0,
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """What is lost when a wire is set to nothing: for problems without a counterfactual partner."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    given = chosen.problems(problems, seed=seed)
    how: dict[str, Any] = {"baseline": baseline, "text": text, "target": target, "cot": cot}
    drawn: dict[str, Any] = {"samples": samples, "temperature": temperature, "keep": keep, "memory": memory}
    result = analyses.ablation(loaded, given, seed=seed, progress=not quiet, **how, **drawn)
    show(result, result.table(), save, as_json=as_json)


def ledger(
    model: ModelOption,
    task: TaskOption = None,
    problems: ProblemsOption = 64,
    cot: CotOption = "model",
    memory: MemoryOption = 2.0,
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Who computed each step: swap one source, hold the rest, decode the target."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    how: dict[str, Any] = {"cot": cot, "seed": seed, "memory": memory, "progress": not quiet}
    result = analyses.ledger(loaded, chosen.problems(problems, seed=seed), **how)
    show(result, result.frame(), save, result.notes(), as_json=as_json)


def behaviour(
    model: ModelOption,
    task: TaskOption = None,
    problems: ProblemsOption = 64,
    cot: CotOption = "model",
    tamperings: Annotated[
        str | None,
        typer.Option(
            "--tamperings",
            help='names, joined with commas, such as "mistake,style:words"; default: all',
            autocompletion=joined(among(choices.TAMPERINGS)),
        ),
    ] = None,
    filler: Annotated[
        str | None, typer.Option("--filler", help='the text of "filler", repeated; default: dots')
    ] = None,
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """What becomes of the answer when the text is cut, emptied, made wrong, said otherwise, or put out of order."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    given = chosen.problems(problems, seed=seed)
    how: dict[str, Any] = {"cot": cot, "tamperings": names_of("--tamperings", tamperings), "filler": filler}
    result = analyses.behaviour(loaded, given, seed=seed, progress=not quiet, **how)
    show(result, result.table(), save, result.notes(), as_json=as_json)
