"""The commands that ask what can be read, from states and from the text, and where errors show."""

from typing import Annotated, Any

import typer

from .options import CotOption, ModelOption, QuietOption, SaveOption, TaskOption, load_both, show


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (decodability, beyond, commitment, circularity, errors, monitor):
        app.command()(command)


def decodability(
    model: ModelOption,
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=10)] = 500,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """What a linear probe reads, where, in bits."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    result = analyses.decodability(loaded, chosen.problems(problems, seed=seed), seed=seed, progress=not quiet)
    show(result, result.curve(), save)


def beyond(
    model: ModelOption,
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=10)] = 500,
    cot: CotOption = "model",
    seed: Annotated[int, typer.Option("--seed")] = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """What the state knows that the text so far does not say, in bits, and how far ahead."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    given = chosen.problems(problems, seed=seed)
    result = analyses.beyond(loaded, given, cot=cot, seed=seed, progress=not quiet)
    show(result, result.table(), save)


def commitment(
    model: ModelOption,
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=10)] = 200,
    cot: CotOption = "model",
    filler: Annotated[
        str | None, typer.Option("--filler", help="content-free text, repeated; default: random tokens of the chains")
    ] = None,
    parts: Annotated[
        int | None, typer.Option("--parts", min=1, help="equal parts of the tokens; default: after every step")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """When the answer is settled: in the state, in what the model would say now, in the text alone."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    given = chosen.problems(problems, seed=seed)
    how: dict[str, Any] = {"cot": cot, "parts": parts, "filler": filler}
    result = analyses.commitment(loaded, given, seed=seed, progress=not quiet, **how)
    show(result, result.table(), save, result.notes())


def circularity(
    model: ModelOption,
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=10)] = 500,
    mode: Annotated[str, typer.Option("--mode", help='"answer-only" or "cot"')] = "answer-only",
    seed: Annotated[int, typer.Option("--seed")] = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """Whether a number is held on a line or on circles, on values that the probe never saw."""
    from .. import analyses, hooks
    from ..core import check_name

    loaded, chosen = load_both(model, task)
    run: Any = check_name("mode", mode, hooks.MODES)
    given = chosen.problems(problems, seed=seed)
    result = analyses.circularity(loaded, given, mode=run, seed=seed, progress=not quiet)
    show(result, result.frame(), save)


def errors(
    model: ModelOption,
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=2, help="of the task, and of each harder one")] = 200,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """Where errors show, in and out of distribution: in a step that the answer follows, or in the answer alone."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    result = analyses.errors(loaded, chosen, n=problems, seed=seed, progress=not quiet)
    show(result, result.table(), save, result.notes())


def monitor(
    model: ModelOption,
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=2)] = 200,
    cot: CotOption = "model",
    seed: Annotated[int, typer.Option("--seed")] = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """Whether the text alone tells what the model will answer, and that a hint decided it (TPR x TNR)."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    given = chosen.problems(problems, seed=seed)
    result = analyses.monitor(loaded, given, cot=cot, seed=seed, progress=not quiet)
    show(result, result.table(), save, result.notes())
