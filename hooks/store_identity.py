"""What a store is of: every choice that changes its bytes, as plain JSON that two writers can compare."""

import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core import InputError, check_name
from ..tasks import Problem
from .format import MODES, Mode
from .model import Model
from .runs import Runs, generate, replay
from .sites import RESIDUAL_SITES, Site, site_name
from .store_tables import problem_content
from .transcripts import Transcript

SCHEMA = 1
DTYPES = ("bfloat16", "float16", "float32", "float64")
Transcripts = Mapping[str, Transcript | Sequence[Transcript]]
_KEYS: Mapping[str, type] = {
    "schema": int,
    "model": dict,
    "task": str,
    "problems": dict,
    "sites": list,
    "layers": list,
    "positions": list,
    "mode": str,
    "generation": dict,
    "shard_size": int,
    "shards": int,
}


@dataclass(frozen=True, eq=False)
class Source:
    """What a store is filled from."""

    model: Model
    problems: Sequence[Problem]
    cot: str | Transcripts

    def runs(self, problems: Sequence[Problem], identity: Mapping[str, Any]) -> Runs:
        """The runs of some of the problems."""
        options = identity["generation"]
        if self.cot == "model":
            return generate(self.model, problems, identity["mode"], **options)
        texts = {p.key: p.cot if isinstance(self.cot, str) else self.cot[p.key] for p in problems}
        return replay(self.model, problems, texts, **options)


def identity_of(
    source: Source,
    sites: Sequence[str],
    positions: Sequence[str],
    layers: Sequence[int] | None,
    mode: Mode,
    dtype: torch.dtype | str | None,
    shard_size: int,
    generation: Mapping[str, Any],
) -> dict[str, Any]:
    """The identity of a store, checked; every problem is looked at once."""
    if not source.problems or not sites or not positions:
        raise InputError("a store needs at least one problem, one site and one position")
    if shard_size < 1:
        raise InputError(f"shard_size={shard_size}: expected a positive number of problems")
    names, numbers = _places(source.model, sites, layers)
    kept = None if dtype is None else check_name("dtype", str(dtype).removeprefix("torch."), DTYPES)
    found = {
        "schema": SCHEMA,
        "model": source.model.identity(),
        "task": source.problems[0].task.spec,
        "problems": {"count": len(source.problems), "sha256": _problems_hash(source)},
        "sites": names,
        "layers": numbers,
        "positions": list(positions),
        "mode": check_name("mode", mode, MODES),
        "cot": _cot(source, mode),
        "generation": _options(source, generation),
        "dtype": kept,
        "shard_size": shard_size,
        "shards": -(-len(source.problems) // shard_size),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))  # as it will be read: tuples are lists
    return plain


def _places(model: Model, sites: Sequence[str], layers: Sequence[int] | None) -> tuple[list[str], list[int]]:
    """Names of sites and numbers of layers, as `record` takes them."""
    spelled = [site_name(site) for site in sites]
    named = sorted({layer for _, layer in spelled if layer is not None})
    if layers is not None and (not layers or not set(named) <= set(layers)):
        raise InputError(f"layers={list(layers)}, but the sites name layers {named}: give one of the two")
    chosen = list(layers) if layers is not None else named or list(range(model.n_layers))
    names = list(dict.fromkeys(name for name, _ in spelled))
    for name in names:
        for layer in chosen:
            model.sites.check(Site(name, layer))
    return names, chosen


def _cot(source: Source, mode: Mode) -> str:
    """Whose chain of thought it is; given ones are told apart by a hash."""
    if isinstance(source.cot, str) and check_name("cot", source.cot, ["model", "task"]) == "model":
        return "model"
    if mode != "cot":
        raise InputError(f"mode={mode!r} has no chain of thought: leave cot='model'")
    if isinstance(source.cot, str):
        without = next((p.key for p in source.problems if not p.steps), None)
        if without is not None:
            raise InputError(f"cot='task', but problem {without!r} has no gold chain of thought")
        return "task"
    digest = hashlib.sha256()
    for problem in source.problems:
        if problem.key not in source.cot:
            raise InputError(f"no transcript for problem {problem.key!r}")
        digest.update(json.dumps(source.cot[problem.key], default=int).encode() + b"\n")
    return f"given: {digest.hexdigest()}"


def _problems_hash(source: Source) -> str:
    """A hash of every problem in order; they must be of one task."""
    digest = hashlib.sha256()
    task = source.problems[0].task
    for problem in source.problems:
        if problem.task is not task and problem.task.spec != task.spec:
            raise InputError(f"problems of {task.spec!r} and of {problem.task.spec!r}: make a store for each task")
        digest.update(json.dumps([problem.key, problem_content(problem)]).encode() + b"\n")
    return digest.hexdigest()


def _options(source: Source, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of `generate` or `replay`, those with their default too: naming a default changes nothing."""
    function = generate if isinstance(source.cot, str) and source.cot == "model" else replay
    parameters = inspect.signature(function).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "progress"}
    for name in given:
        check_name(f"option of {function.__name__}", name, known)
    return {**known, **given}


def difference(mine: Any, theirs: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first key in which two identities differ, with both values."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in sorted({*mine, *theirs}):
            inner = difference(mine.get(name), theirs.get(name), f"{key}.{name}" if key else name)
            if inner is not None:
                return inner
        return None
    return None if mine == theirs else (key, mine, theirs)


def read_identity(path: Path) -> dict[str, Any]:
    """The identity in `store.json`; InputError where it is missing, none of ours, or of a newer schema."""
    if not path.is_file():
        raise InputError(f"no store at {path.parent}: expected a folder with store.json that Store.create made")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}): delete it and call Store.create as before; the shards beside it are kept"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is no store's: expected an object, got {type(content).__name__}")
    schema = content.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(f"{path} has schema {schema}; this version reads up to {SCHEMA}: update loadbearing")
    for key, kind in _KEYS.items():
        if type(content.get(key)) is not kind:
            raise InputError(f"{path} is no store's: expected {key!r} to be {kind.__name__}, got {content.get(key)!r}")
    if not all(isinstance(text, str) for text in [*content["sites"], *content["positions"]]):
        raise InputError(f"{path} is no store's: sites and positions must be texts")
    for site in content["sites"]:
        check_name(f"site in {path}", site, RESIDUAL_SITES)
    check_name(f"mode in {path}", content["mode"], MODES)
    if content["shards"] < 1 or content["shard_size"] < 1 or not all(type(at) is int for at in content["layers"]):
        raise InputError(f"{path} is no store's: shards, shard_size and layers must be whole numbers")
    return content


@dataclass(frozen=True)
class Estimate:
    """How much a filled store holds.

    rows: of the whole store; bytes: of its activations on disk, tables (some 10 bytes a row) not counted
    basis: "positions" where they alone fix the number of rows, so that it is exact, else the "shards" that are there,
        or a "sample" of problems that were run
    """

    rows: int
    bytes: int
    basis: str


def rows_fixed(positions: Sequence[str]) -> bool:
    """Whether every position is one token of every run."""
    return all(re.fullmatch(r"[a-z_][a-z0-9_]*(\.\d+)?\[-?\d+\]", position) for position in positions)
