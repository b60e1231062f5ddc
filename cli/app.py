"""The commands: each is a thin layer over one function of the library."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import makers, reading, where, workers
from .options import (
    CotOption,
    KeepOption,
    MemoryOption,
    ModelOption,
    QuietOption,
    SamplesOption,
    SaveOption,
    TargetOption,
    TaskOption,
    TemperatureOption,
    VaryOption,
    load_both,
    show,
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
    pairs: Annotated[int, typer.Option("--pairs", min=2, help="counterfactual pairs a variable")] = 32,
    models: Annotated[
        str | None, typer.Option("--organisms", help="names, joined with commas; default: the debate's")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="every organism, and every seed in the cache")] = False,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Measure the systems of the debate: their table, a verdict for every claim, results and figures."""
    workers.context()  # first, so that its imports and ours run side by side
    from .study import run_study

    names = models.split(",") if models else None
    run_study(out, pairs=pairs, names=names, full=full, seed=seed, progress=not quiet)


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
    memory: MemoryOption = 0.5,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """How much of the target's dependence on the prompt goes direct, by relay, and by tokens."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    given = chosen.pairs(pairs, seed=seed, vary=vary)
    drawn: dict[str, Any] = {"samples": samples, "temperature": temperature, "keep": keep, "memory": memory}
    result = analyses.channels(loaded, given, target=target, cot=cot, seed=seed, progress=not quiet, **drawn)
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
    memory: MemoryOption = 0.5,
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
    seed: Annotated[int, typer.Option("--seed")] = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """Who computed each step: swap one source, hold the rest, decode the target."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    result = analyses.ledger(loaded, chosen.problems(problems, seed=seed), cot=cot, seed=seed, progress=not quiet)
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
    how: dict[str, Any] = {"cot": cot, "tamperings": tamperings.split(",") if tamperings else None, "filler": filler}
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
where.register(app)
