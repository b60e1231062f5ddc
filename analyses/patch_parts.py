"""A patching map in pieces that are kept in a folder: one layer each."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core import InputError
from ..hooks import Model, Runs
from ..hooks.store_tables import problem_content
from ..tasks import Pairs
from .parts import PIECE, Parts
from .patch import patch
from .patch_table import PatchMap


@dataclass(frozen=True, eq=False)
class LayersWork:
    """The layers of an exact map, one by one."""

    pairs: Pairs
    site: str
    layers: tuple[int, ...]
    options: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.layers)

    def identity(self, number: int) -> dict[str, Any]:
        """The problems and the chains of thought by a hash, and every option."""
        told = {name: value for name, value in self.options.items() if name not in ("cot", "memory")}
        cot = self.options.get("cot", "model")
        texts: Any = [[run.problem.key, run.ids] for run in cot] if isinstance(cot, Runs) else cot
        problems = [[p.key, problem_content(p)] for pair in self.pairs for p in (pair.recipient, pair.donor)]
        digest = hashlib.sha256(json.dumps([problems, texts], sort_keys=True, default=dict).encode()).hexdigest()
        plain: dict[str, Any] = json.loads(json.dumps(told))
        return {"problems": digest, "site": self.site, "layer": self.layers[number], "options": plain}

    def compute(self, model: Model, number: int) -> PatchMap:
        """The map of one layer."""
        return patch(model, self.pairs, self.site, layers=[self.layers[number]], **self.options)


def patch_in_parts(
    model: Model,
    pairs: Pairs,
    site: str = "resid_pre",
    *,
    parts: Parts | str | Path,
    layers: Sequence[int] | None = None,
    progress: bool = False,
    **options: Any,
) -> PatchMap:
    """The map of `patch`, of which each layer is kept in a folder, computed by parts or by workers.

    options: the others of `patch` with its exact method. The values are those of `patch` up to rounding: cells of
    several layers no longer share a batch.

    Raises InputError for another method, a metric that is a function, `resume`, and runs with workers, which make or
    replay them for themselves; Interrupted while other `parts` are missing.

    >>> import tempfile
    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> how = {"mode": "cot", "target": "answer", "cot": "task", "parts": tempfile.mkdtemp()}
    >>> patch_in_parts(model, model.task.pairs(4), **how).effect()[0][0, 2].round(3).item()
    1.0
    """
    found = Parts.of(parts)
    _check(options, found)
    chosen = tuple(range(model.n_layers)) if layers is None else tuple(layers)
    if not chosen:
        raise InputError(f"layers=[]: this model has layers 0 to {model.n_layers - 1}")
    return joined(found.compute(model, LayersWork(pairs, site, chosen, options), progress=progress))


def _check(options: Mapping[str, Any], parts: Parts) -> None:
    if options.get("method", "exact") != "exact":
        raise InputError(f"method={options['method']!r} in parts: expected 'exact'; a gradient's map needs no parts")
    if callable(options.get("metric")) or options.get("resume") is not None:
        raise InputError(
            "parts: a named metric is expected, and no resume: the folder is what an interrupted call keeps"
        )
    if isinstance(options.get("cot"), Runs) and (parts.engine != "local" or parts.workers > 1):
        raise InputError("cot: runs cannot be sent to workers: pass transcripts by problem, 'model' or 'task'")


def joined(maps: Sequence[PatchMap]) -> PatchMap:
    """Maps of several layers as one."""
    first = maps[0]
    arrays = {
        name: np.concatenate([getattr(one, name) for one in maps]) if "layer" in axes else getattr(first, name)
        for name, axes in first.axes.items()
    }
    told = [one.manifest.circumstance for one in maps]
    total = {name: sum(each[name] for each in told) for name in ("seconds", "forwards")}
    gates = [gate for each in told for gate in each["gates"]]
    identity = {name: value for name, value in first.manifest.identity.items() if name != PIECE}
    manifest = replace(first.manifest, identity=identity, circumstance={**told[0], **total, "gates": gates})
    coords = {**first.coords, "layer": tuple(layer for one in maps for layer in one.coords["layer"])}
    made = type(first).from_parts(arrays, coords, manifest)
    assert isinstance(made, PatchMap)
    return made
