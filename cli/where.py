"""The commands that ask where: patching, knock-outs, subspaces, states put across runs, paths."""

from typing import Annotated, Any

import typer

from . import choices
from .choices import among
from .options import (
    CotOption,
    JsonOption,
    ModelOption,
    ModeOption,
    ProblemsOption,
    QuietOption,
    SaveOption,
    SeedOption,
    TargetOption,
    TaskOption,
    VaryOption,
    load_both,
    show,
)
from .sharing import (
    EngineOption,
    GpusOption,
    PartsOption,
    ShardOption,
    WorkersOption,
    parts_of,
    unless_parts_are_missing,
)

PairsOption = Annotated[int, typer.Option("--pairs", min=2, help="counterfactual pairs a variable")]
DirectionOption = Annotated[
    str,
    typer.Option(
        "--direction",
        help='"denoising" (what suffices) or "noising" (what is necessary)',
        autocompletion=among(choices.DIRECTIONS),
    ),
]
PositionsOption = Annotated[
    list[str] | None,
    typer.Option("--position", help="a place by name (step.2[-1]); may be repeated"),
]


def patch(
    model: ModelOption,
    task: TaskOption = None,
    site: Annotated[
        str,
        typer.Option(
            "--site", help="resid_pre, attn_out, mlp_out, z, q, k, v, ...", autocompletion=among(choices.PATCHED)
        ),
    ] = "resid_pre",
    pairs: PairsOption = 64,
    vary: VaryOption = None,
    mode: ModeOption = "answer-only",
    target: TargetOption = "onset",
    cot: CotOption = "model",
    position: PositionsOption = None,
    direction: DirectionOption = "denoising",
    metric: Annotated[
        str, typer.Option("--metric", help="of the effect on the answer", autocompletion=among(choices.METRICS))
    ] = "log-odds",
    method: Annotated[
        str,
        typer.Option("--method", help='"exact", "gradient" or "auto"', autocompletion=among(choices.METHODS)),
    ] = "exact",
    memory: Annotated[str, typer.Option("--memory", help="for states under way")] = "1GB",
    resume: Annotated[str | None, typer.Option("--resume", help="keep an interrupted sweep in this file")] = None,
    parts: PartsOption = None,
    shard: ShardOption = "1/1",
    engine: EngineOption = "local",
    workers: WorkersOption = 1,
    gpus: GpusOption = None,
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Where: the (layer x position) map of a site, or of each head, exact."""
    import pandas as pd

    from .. import analyses

    loaded, given, run = _pairs(model, task, pairs, seed, vary, mode, target, cot)
    how: dict[str, Any] = {"direction": direction, "metric": metric, "method": method, "memory": memory}
    how |= {"positions": position, "resume": resume, "progress": not quiet, **run}
    shared = parts_of(parts, shard, engine, workers, gpus, model)
    if shared is None:
        result = analyses.patch(loaded, given, site, **how)
    else:
        with unless_parts_are_missing(shard, as_json):
            result = analyses.patch_in_parts(loaded, given, site, parts=shared, **how)
    if "unit" in result.coords:
        table = result.frame().drop(columns="exact")
    else:
        # Not a pivot: several tokens may have the same text.
        table = pd.DataFrame(result.effect()[0], columns=list(result.coords["position"]))
        table.insert(0, "layer", result.coords["layer"])
    show(result, table, save, {"patched": result.summary()}, as_json=as_json)


def knockout(
    model: ModelOption,
    task: TaskOption = None,
    queries: Annotated[str, typer.Option("--queries", help='positions that may not read, or "later"')] = "cue",
    keys: Annotated[str, typer.Option("--keys", help="positions that they may not read")] = "cot",
    how: Annotated[
        str, typer.Option("--how", help='"renormalise" or "zero"', autocompletion=among(choices.HOW))
    ] = "renormalise",
    each: Annotated[
        str, typer.Option("--each", help='"all", "layer" or "head"', autocompletion=among(choices.EACH))
    ] = "all",
    problems: ProblemsOption = 64,
    mode: ModeOption = "cot",
    cot: CotOption = "model",
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """What the answer loses when some positions cannot read others, position and length kept."""
    from .. import analyses, hooks
    from ..analyses.targets import cot_runs
    from ..core import check_name

    check_name("mode", mode, hooks.MODES)
    loaded, chosen = load_both(model, task)
    given = chosen.problems(problems, seed=seed)
    runs = cot_runs(loaded, given, cot) if mode == "cot" else hooks.generate(loaded, given, "answer-only")
    result = analyses.knockout(loaded, runs, queries, keys, how=how, each=each, seed=seed, progress=not quiet)
    show(result, result.frame(), save, as_json=as_json)


def subspace(
    model: ModelOption,
    task: TaskOption = None,
    variable: Annotated[str | None, typer.Option("--variable", help="such as v_2; default: the answer")] = None,
    find: Annotated[
        str, typer.Option("--find", help='"leace", "means" or "das"', autocompletion=among(choices.FINDS))
    ] = "leace",
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="of means and das")] = None,
    position: Annotated[str, typer.Option("--position", help="one place")] = "cue[-1]",
    pairs: PairsOption = 32,
    vary: VaryOption = None,
    mode: ModeOption = "answer-only",
    target: TargetOption = "onset",
    cot: CotOption = "model",
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Whether the answer moves when what a probe reads is swapped or erased, beside random subspaces and models."""
    from .. import analyses

    loaded, given, run = _pairs(model, task, pairs, seed, vary, mode, target, cot)
    how: dict[str, Any] = {"find": find, "rank": rank, "position": position, "seed": seed}
    result = analyses.subspace(loaded, given, variable, progress=not quiet, **how, **run)
    show(result, result.frame(), save, as_json=as_json)


def across(
    model: ModelOption,
    task: TaskOption = None,
    direction: Annotated[
        str, typer.Option("--direction", help='or "into-cot"', autocompletion=among(choices.ACROSS))
    ] = "into-answer-only",
    position: PositionsOption = None,
    problems: ProblemsOption = 100,
    cot: CotOption = "model",
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Whether the state of a run that reasoned gives the answer in one that did not, and back."""
    from .. import analyses

    loaded, chosen = load_both(model, task)
    how: dict[str, Any] = {"direction": direction, "cot": cot, "seed": seed, "positions": position or ["cue[-1]"]}
    result = analyses.across(loaded, chosen.problems(problems, seed=seed), progress=not quiet, **how)
    show(result, result.frame(), save, as_json=as_json)


def paths(
    model: ModelOption,
    task: TaskOption = None,
    sender: Annotated[
        str,
        typer.Option(
            "--from", help="head, mlp, attn, embed, or one: L0H3, mlp.1", autocompletion=among(choices.SENDERS)
        ),
    ] = "head",
    receiver: Annotated[
        str,
        typer.Option(
            "--to", help="logits, q, k, v, mlp, or one: L2H1.q, mlp.2", autocompletion=among(choices.RECEIVERS)
        ),
    ] = "logits",
    pairs: PairsOption = 32,
    vary: VaryOption = None,
    mode: ModeOption = "answer-only",
    target: TargetOption = "onset",
    cot: CotOption = "model",
    direction: DirectionOption = "denoising",
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Which part speaks to which directly: path patching, everything between frozen."""
    from .. import analyses

    loaded, given, run = _pairs(model, task, pairs, seed, vary, mode, target, cot)
    result = analyses.paths(loaded, given, sender, receiver, direction=direction, progress=not quiet, **run)
    show(result, result.frame(), save, as_json=as_json)


def attribution(
    model: ModelOption,
    task: TaskOption = None,
    unit: Annotated[
        str,
        typer.Option("--unit", help='"component", "head" or "neuron"', autocompletion=among(choices.UNITS)),
    ] = "component",
    pairs: PairsOption = 32,
    vary: VaryOption = None,
    mode: ModeOption = "answer-only",
    target: TargetOption = "onset",
    cot: CotOption = "model",
    seed: SeedOption = 0,
    save: SaveOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """What each part adds to the logits directly (direct logit attribution)."""
    from .. import analyses

    loaded, given, run = _pairs(model, task, pairs, seed, vary, mode, target, cot)
    result = analyses.attribution(loaded, given, unit=unit, progress=not quiet, **run)
    show(result, result.frame(), save, as_json=as_json)


def _pairs(
    model: str, task: str | None, pairs: int, seed: int, vary: str | None, mode: str, target: str, cot: str
) -> tuple[Any, Any, dict[str, Any]]:
    """The model, its pairs, and which run of them is meant."""
    from .. import hooks
    from ..core import check_name

    check_name("mode", mode, hooks.MODES)
    loaded, chosen = load_both(model, task)
    return loaded, chosen.pairs(pairs, seed=seed, vary=vary), {"mode": mode, "target": target, "cot": cot}
