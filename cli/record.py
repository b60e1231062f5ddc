"""The command that fills a store: runs and activations on disk, in shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from . import choices
from .choices import among
from .options import (
    CotOption,
    JsonOption,
    ModelOption,
    ModeOption,
    QuietOption,
    SamplesOption,
    SeedOption,
    TaskOption,
    TemperatureOption,
    VaryOption,
    load_both,
    print_json,
)
from .sharing import (
    DeviceOption,
    DtypeOption,
    EngineOption,
    GpusOption,
    ShardOption,
    WorkersOption,
    load_options,
)


def record(
    model: ModelOption,
    out: Annotated[Path, typer.Option("--out", help="the store: a new folder, or one to go on with")],
    task: TaskOption = None,
    problems: Annotated[int, typer.Option("--problems", min=1, help="how many problems of the task")] = 256,
    pairs: Annotated[
        int | None, typer.Option("--pairs", min=1, help="instead: the problems of so many pairs a variable")
    ] = None,
    vary: VaryOption = None,
    site: Annotated[
        list[str] | None,
        typer.Option("--site", help="default: resid_post; may be repeated", autocompletion=among(choices.SITES)),
    ] = None,
    position: Annotated[list[str] | None, typer.Option("--position", help="default: cue[-1]; may be repeated")] = None,
    layer: Annotated[list[int] | None, typer.Option("--layer", help="default: all; may be repeated")] = None,
    mode: ModeOption = "cot",
    cot: CotOption = "model",
    samples: SamplesOption = 1,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = 0,
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, help="problems a shard")] = 256,
    shard: ShardOption = "1/1",
    engine: EngineOption = "local",
    workers: WorkersOption = 1,
    gpus: GpusOption = None,
    dtype: DtypeOption = None,
    device_map: DeviceOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let the model write its runs, and record activations of them: a store on disk, shard by shard."""
    from .. import hooks

    options: dict[str, Any] = {"sites": site or ["resid_post"], "positions": position or ["cue[-1]"], "layers": layer}
    options |= {"mode": mode, "cot": cot}
    if cot == "model":
        options |= {"samples": samples, "temperature": temperature, "seed": seed}
    source = hooks.ModelSource(model, load_options(dtype, device_map))
    job = hooks.StoreJob(out, source, _problems(model, task, problems, pairs, vary, seed), shard_size, options)
    how: dict[str, Any] = {"engine": engine, "workers": workers, "gpus": gpus, "progress": not quiet}
    hooks.run_shards(job, part=hooks.part_of(shard), **how)
    store = hooks.Store.open(out, partial=True)
    missing = store.missing()
    if as_json:
        print_json({"out": out, "shards": store.n_shards, "missing": list(missing), "rows": len(store)})
        return
    typer.echo(f"{out}: {store.n_shards - len(missing)} of {store.n_shards} shards, {len(store)} rows")
    if missing:
        typer.echo(f"missing shards, for the other parts: {', '.join(map(str, missing))}")


def _problems(
    model: str, task: str | None, problems: int, pairs: int | None, vary: str | None, seed: int
) -> Sequence[Any]:
    """The problems that are asked for; the model is loaded only if the task is its own."""
    from .. import tasks

    chosen = load_both(model, None)[1] if task is None else tasks.load(task)
    if pairs is None:
        found: Sequence[Any] = chosen.problems(problems, seed=seed)
        return found
    return chosen.pairs(pairs, seed=seed, vary=vary).problems
