"""The commands that ask what can be read, from states and from the text, and where errors show."""

from typing import Annotated, Any

import typer

from .options import (
    CotOption,
    JsonOption,
    ModelOption,
    ModeOption,
    ProblemsOption,
    QuietOption,
    SaveOption,
    SeedOption,
    TaskOption,
    load_both,
    show,
)

ManyOption = Annotated[int, typer.Option("--problems", min=10, help="how many problems of the task")]


def decodability(
    model: ModelOption,
    task: TaskOption = None,
    problems: ManyOption = 500,
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """What a linear probe reads, where, in bits."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    result = analyses.decodability(loaded, chosen.problems(problems, seed=seed), seed=seed, progress=not quiet)
    show(result, result.curve(), save, as_json=as_json)


def beyond(
    model: ModelOption,
    task: TaskOption = None,
    problems: ManyOption = 500,
    cot: CotOption = "model",
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """What the state knows that the text so far does not say, in bits, and how far ahead."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    given = chosen.problems(problems, seed=seed)
    result = analyses.beyond(loaded, given, cot=cot, seed=seed, progress=not quiet)
    show(result, result.table(), save, as_json=as_json)


def commitment(
    model: ModelOption,
    task: TaskOption = None,
    problems: ManyOption = 200,
    cot: CotOption = "model",
    filler: Annotated[
        str | None, typer.Option("--filler", help="content-free text, repeated; default: random tokens of the chains")
    ] = None,
    parts: Annotated[
        int | None, typer.Option("--parts", min=1, help="equal parts of the tokens; default: after every step")
    ] = None,
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """When the answer is settled: in the state, in what the model would say now, in the text alone."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    given = chosen.problems(problems, seed=seed)
    how: dict[str, Any] = {"cot": cot, "parts": parts, "filler": filler}
    result = analyses.commitment(loaded, given, seed=seed, progress=not quiet, **how)
    show(result, result.table(), save, result.notes(), as_json=as_json)


def circularity(
    model: ModelOption,
    task: TaskOption = None,
    problems: ManyOption = 500,
    mode: ModeOption = "answer-only",
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Whether a number is held on a line or on circles, on values that the probe never saw."""
    from .. import analyses, hooks
    from ..core import check_name

    loaded, chosen = load_both(model, task)
    run: Any = check_name("mode", mode, hooks.MODES)
    given = chosen.problems(problems, seed=seed)
    result = analyses.circularity(loaded, given, mode=run, seed=seed, progress=not quiet)
    show(result, result.frame(), save, as_json=as_json)


def errors(
    model: ModelOption,
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=2, help="of the task, and of each harder one")] = 200,
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Where errors show, in and out of distribution: in a step that the answer follows, or in the answer alone."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    result = analyses.errors(loaded, chosen, n=problems, seed=seed, progress=not quiet)
    show(result, result.table(), save, result.notes(), as_json=as_json)


def monitor(
    model: ModelOption,
    task: TaskOption = None,
    problems: ProblemsOption = 200,
    cot: CotOption = "model",
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Whether the text alone tells what the model will answer, and that a hint decided it (TPR x TNR)."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    given = chosen.problems(problems, seed=seed)
    result = analyses.monitor(loaded, given, cot=cot, seed=seed, progress=not quiet)
    show(result, result.table(), save, result.notes(), as_json=as_json)
