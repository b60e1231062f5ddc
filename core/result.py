"""A result: arrays, the names of their axes, and a manifest, in one safetensors file."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import version
from os.path import isfile  # False for what no path can be, where pathlib raises
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .errors import InputError, check_name
from .files import atomic_write
from .text import printable, table_text

SCHEMA = 1
SHOWN = 20  # rows of a table that are printed
HEADER = {"kind": str, "schema": int, "coords": dict, "identity": dict, "circumstance": dict}


@dataclass(frozen=True)
class Manifest:
    """How a result was made.

    `identity` must agree before results are mixed (model fingerprint, dtype, attention, format, options);
    `circumstance` is recorded and never compared (seed, versions, wall time, counts of what was left out).
    """

    identity: Mapping[str, Any] = field(default_factory=dict)
    circumstance: Mapping[str, Any] = field(default_factory=dict)


def circumstance(began: float, **facts: Any) -> dict[str, Any]:
    """What is recorded of every result and never compared: facts, seconds since `began`, versions."""
    versions = {name: version(name) for name in ("loadbearing", "torch", "transformers", "scikit-learn")}
    return {**facts, "seconds": round(time.perf_counter() - began, 3), "versions": versions}


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The base of every result: subclasses add array fields and name their axes in `axes`.

    `coords` holds the labels along an axis, by the axis' name. Arrays are made read-only. Subclasses are dataclasses
    with `repr=False`, so that they show themselves by kind and shape.
    """

    kind: ClassVar[str] = ""
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    kinds: ClassVar[dict[str, type["Result"]]] = {}

    coords: Mapping[str, tuple[Any, ...]]
    manifest: Manifest

    def __init_subclass__(cls) -> None:
        Result.kinds[cls.kind] = cls

    def __post_init__(self) -> None:
        sizes = {axis: len(labels) for axis, labels in self.coords.items()}
        for name, given in self.arrays().items():
            array = np.array(given)  # a copy: the caller's array stays the caller's
            array.flags.writeable = False
            object.__setattr__(self, name, array)
            expected = self.axes[name]
            if len(expected) != array.ndim:
                raise InputError(f"{self.kind}: array {name!r} has {array.ndim} axes, expected {', '.join(expected)}")
            for axis, size in zip(expected, array.shape, strict=True):
                if sizes.setdefault(axis, size) != size:
                    raise InputError(
                        f"{self.kind}: array {name!r} has {size} entries along {axis!r}, others have {sizes[axis]}"
                    )

    def arrays(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """The array fields by name, in the order of `axes`."""
        return {name: getattr(self, name) for name in self.axes}

    def frame(self) -> pd.DataFrame:
        """The result as a tidy table."""
        raise InputError(f"a {self.kind} has no table of its own")

    def table(self) -> pd.DataFrame | str:
        """What is printed of the result: the frame, unless a kind has a shorter table."""
        return self.frame()

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all; `loadbearing.load` reads it back.

        Arrays and one metadata key of sorted JSON: the same result gives the same bytes, and nothing is pickled.
        """
        header = {
            "kind": self.kind,
            "schema": SCHEMA,
            "axes": {name: list(axes) for name, axes in self.axes.items()},
            "coords": {name: list(labels) for name, labels in self.coords.items()},
            "identity": self.manifest.identity,
            "circumstance": self.manifest.circumstance,
        }
        metadata = {"loadbearing": json.dumps(header, sort_keys=True)}
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays().items()}
        return atomic_write(path, lambda temporary: save_file(arrays, temporary, metadata))

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{name} [{', '.join(f'{axis} {size}' for axis, size in zip(self.axes[name], array.shape, strict=True))}]"
            for name, array in self.arrays().items()
        )
        return f"<{type(self).__name__} {self.manifest.identity.get('model', '')}: {shapes}>"

    def __str__(self) -> str:
        """What it is, and its table; of a long one the first rows."""
        table = self.table()
        shown = printable(table) if isinstance(table, str) else table_text(table.head(SHOWN)) + _more(table)
        return f"{printable(self._head())}\n{shown}"

    def _head(self) -> str:
        return f"{type(self).__name__} of {self.manifest.identity.get('model', 'several models')}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython shows in a terminal."""
        printer.text(repr(self) if cycle else str(self))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        shown = self.table()
        if isinstance(shown, pd.DataFrame):
            rows = shown.head(SHOWN).map(lambda cell: printable(cell) if isinstance(cell, str) else cell)
            rows = rows.rename(columns=lambda name: printable(str(name)))
            more = _more(shown)
            table = rows.to_html(index=False, border=0, na_rep="-") + (f"<p>{more}</p>" if more else "")
        else:
            table = f"<pre>{escape(printable(shown))}</pre>"
        return f"<p>{escape(printable(self._head()))}</p>\n{table}"

    @classmethod
    def from_parts(cls, arrays: Mapping[str, Any], coords: Mapping[str, Any], manifest: Manifest) -> "Result":
        """Rebuild a result from what `save` wrote."""
        return cls(coords={k: tuple(v) for k, v in coords.items()}, manifest=manifest, **arrays)


def _more(table: pd.DataFrame) -> str:
    """Where the rows are that are not shown."""
    return f"\n... {len(table) - SHOWN} more rows: table()" if len(table) > SHOWN else ""


def load_result(path: str | Path) -> Any:
    """Read a result that `Result.save` wrote: a `Channels`, a `Ledger`, whatever its kind is.

    Raises InputError if the file is missing, is no result of ours, or was written by a newer schema.
    """
    path = Path(path)
    if not isfile(path):
        raise InputError(f"no result at {path}: expected a .safetensors file that Result.save wrote")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["loadbearing"])
            missing = set(HEADER) - set(header)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (KeyError, TypeError, ValueError, RecursionError, OSError, SafetensorError) as error:
        raise InputError(f"{path} is no result of loadbearing: {error}") from error
    if not isinstance(header, dict) or missing:
        raise InputError(f"{path} is no result of loadbearing: its header lacks {sorted(missing)}")
    if wrong := [name for name, of in HEADER.items() if type(header[name]) is not of]:
        raise InputError(f"{path} is no result of loadbearing: {wrong[0]!r} of its header is of the wrong type")
    if header["schema"] > SCHEMA:
        raise InputError(f"{path} has schema {header['schema']}; this version reads up to {SCHEMA}: update loadbearing")
    kind = Result.kinds[check_name("kind of result", header["kind"], sorted(Result.kinds))]
    if missing := set(kind.axes) - set(arrays):
        raise InputError(f"{path}: arrays {sorted(missing)} are missing")
    if wrong := [name for name, labels in header["coords"].items() if not isinstance(labels, list)]:
        raise InputError(f"{path} is no result of loadbearing: its labels of {wrong[0]!r} are no list")
    try:
        return kind.from_parts(arrays, header["coords"], Manifest(header["identity"], header["circumstance"]))
    except (KeyError, TypeError) as error:  # fields and axes that are not this kind's
        raise InputError(f"{path} is no {header['kind']} that this version reads: {error}") from error
