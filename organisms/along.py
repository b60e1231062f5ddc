"""An organism along its training, from the checkpoints that were kept."""

from pathlib import Path

import pandas as pd

from ..analyses.history import snapshot
from ..core import InputError
from ..hooks import load
from ..tasks import load as load_task
from .registry import spec_of
from .specs import Trained
from .train import CHECKPOINTS, organism_path


def checkpoints(name: str, seed: int = 0, cache: Path | None = None) -> dict[int, Path]:
    """The folders of an organism's checkpoints by update; 0 is the organism that it started from.

    Raises InputError where none were kept: shipped organisms bring none, those trained into the cache do where their
    recipe says so.
    """
    spec = spec_of(name)
    folder = organism_path(name, seed, cache, shipped=False) / CHECKPOINTS
    kept = sorted(folder.glob("update-*")) if folder.is_dir() else []
    if not kept:
        raise InputError(
            f"no checkpoints of {name} with seed {seed} in {folder.parent}: loadbearing organisms train-all --names "
            f"{name} --seeds {seed} keeps those that its recipe asks for"
        )
    start = {}
    if isinstance(spec, Trained) and spec.start is not None:
        start = {0: organism_path(spec.start, seed, cache)}
    return start | {int(path.name.removeprefix("update-")): path for path in kept}


def along(name: str, seed: int = 0, cache: Path | None = None, *, pairs: int = 16, problems: int = 64) -> pd.DataFrame:
    """Channel shares, serial share and accuracies of an organism at every checkpoint: what `figures.history` draws.

    pairs: counterfactual pairs for each variable; problems: for accuracies and the ledger
    """
    task = load_task(spec_of(name).task)
    rows = []
    for update, path in checkpoints(name, seed, cache).items():
        rows.append({"step": update, **snapshot(load(path), task.pairs(pairs), task.problems(problems))})
    return pd.DataFrame(rows)
