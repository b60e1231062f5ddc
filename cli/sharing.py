"""Options of the commands whose work can be shared: between the jobs of an array, processes, or a Ray cluster."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from . import choices
from .choices import among
from .options import print_json

ShardOption = Annotated[
    str, typer.Option("--shard", help="K/N: do the K-th of N parts only, K from 1; such as 3/8 in a job array")
]
EngineOption = Annotated[
    str,
    typer.Option("--engine", help='"local", or "ray": on a Ray cluster', autocompletion=among(choices.ENGINES)),
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="processes, or actors of Ray")]
GpusOption = Annotated[
    float | None, typer.Option("--gpus", min=0.0, help="of each actor of Ray; default: 1 if the cluster has any")
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help='of the weights, such as "bfloat16"; default: as stored',
        autocompletion=among(choices.DTYPES),
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device-map", help='such as "cuda:0" or "auto"; default: as transformers does, on the CPU'),
]
RunsOption = Annotated[
    Path | None, typer.Option("--runs", help="take the CoTs from this store, which `record --pairs` filled")
]
PartsOption = Annotated[
    Path | None, typer.Option("--parts", help="keep what is computed in this folder, to share it or to go on later")
]


def load_options(dtype: str | None, device_map: str | None) -> dict[str, Any]:
    """Those options of `hooks.load` that were given."""
    given = {"dtype": dtype, "device_map": device_map}
    return {name: value for name, value in given.items() if value is not None}


def parts_of(
    folder: Path | None,
    shard: str,
    engine: str,
    workers: int,
    gpus: float | None,
    model: str,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """The `Parts` that are asked for; None where the work is not shared."""
    from ..analyses import Parts
    from ..core import InputError
    from ..hooks import ModelSource, part_of

    part = part_of(shard)
    if folder is None:
        if part != (1, 1) or engine != "local" or workers > 1:
            raise InputError("--shard, --engine and --workers share what is kept in a folder: pass --parts FOLDER")
        return None
    return Parts(folder, part, engine, workers, gpus, ModelSource(model, dict(options)))


@contextmanager
def unless_parts_are_missing(shard: str, as_json: bool) -> Iterator[None]:
    """End with status 0 and say so where the other jobs of an array are not done yet: this one is."""
    from ..core import Interrupted

    try:
        yield
    except Interrupted as told:
        if shard == "1/1" or not isinstance(told.partial, Path):  # shards failed
            raise
        if as_json:
            print_json({"table": [], "notes": {"missing": str(told)}, "saved": None})
        else:
            typer.echo(told)
        raise typer.Exit from told
