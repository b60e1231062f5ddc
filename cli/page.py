"""The report of a study: what is in its folder, on one HTML page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..core import InputError, atomic_write, load_result
from .rows import BLOCKS, blocks
from .single import FILE
from .told import LEGEND

PAGE = "report.html"
OWN, DEBATE = "study.json", "manifest.json"
# What single problems are shown by.
KINDS = ("channels", "known", "ledger", "decodability", "beyond", "commitment")
TABLES = ("channels", "known")
CLAIM = ("id", "verdict", "endpoint", "estimate", "low", "high", "side", "threshold", "reason", "claim")


def write_report(run: Path, out: Path | None = None, name: str | None = None) -> Path:
    """Write the page of a study and return its path; `name`: the study's, by default the folder's.

    Raises InputError for a folder that is no study's, or whose study is not finished.
    """
    from ..figures.report import page

    text = page(read_study(run, name or run.resolve().name))
    # Half a surrogate, as a broken transcript may hold, is no UTF-8: it is shown as its escape.
    data = text.encode("utf-8", "backslashreplace")
    return atomic_write(out or run / PAGE, lambda path: path.write_bytes(data))


def read_study(run: Path, name: str) -> Any:
    """The contents of the page, from the files of a study."""
    from ..figures.report import Figure, Study

    facts, table = _facts(run), _table(run / "table.csv")
    labels = list(table["model"])
    own = (run / OWN).is_file()
    folders = {labels[0]: run / "results"} if own else {label: run / "results" / label for label in labels}
    found = {label: _results(folder) for label, folder in folders.items()}
    said = _json(run / "table.json") if own else {}
    return Study(
        name=name,
        facts=facts,
        claims=_claims(run / "claims.csv"),
        blocks=blocks(table),
        legend=" ".join(LEGEND),
        wires={label: kinds[kind].table() for label, kinds in found.items() for kind in TABLES if kind in kinds},
        used=said.get("used", {}),
        notes=said.get("notes", []),
        printed=_text(run / "table.txt"),
        figures=[Figure(path.stem, path.read_bytes()) for path in sorted((run / "figures").glob("*.png"))],
        models=[_model(label, folder, found[label], _reasons(run)) for label, folder in folders.items()],
    )


def _facts(run: Path) -> dict[str, str]:
    """What was measured and how, from the file that every study writes."""
    told: dict[str, Any] = {}
    try:
        if (run / OWN).is_file():
            identity = _json(run / OWN)["identity"]
            told = {**identity["model"], **{name: identity[name] for name in ("task", "loadbearing")}}
            told |= identity["options"]
        elif (run / DEBATE).is_file() and (run / "table.csv").is_file():
            manifest = _json(run / DEBATE)
            told = {**manifest["options"], **manifest["versions"]}
    except (KeyError, TypeError):
        told = {}
    if not told:
        raise InputError(
            f"{run} is no folder of a study: expected {OWN}, or {DEBATE} and table.csv, as `loadbearing study --out` "
            "writes them"
        )
    if not (run / "table.csv").is_file():
        raise InputError(f"the study in {run} is not finished (table.csv is missing): go on with its command, --resume")
    return {name: _plain(value) for name, value in told.items() if value not in (None, "", [])}


def _table(path: Path) -> pd.DataFrame:
    """The table of models, every cell a text."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return table[["model", *(column for columns in BLOCKS.values() for column in columns)]]
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"{path} is no table of a study: {error}") from error


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each!r}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _claims(path: Path) -> list[dict[str, Any]]:
    """The verdicts, of a study that judged claims."""
    if not path.is_file():
        return []
    try:
        rows = pd.read_csv(path)[list(CLAIM)]
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} holds no verdicts of a study: {error}") from error
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _results(folder: Path) -> dict[str, Any]:
    paths = {kind: folder / f"{kind}.safetensors" for kind in KINDS}
    return {kind: load_result(path) for kind, path in paths.items() if path.is_file()}


def _model(label: str, folder: Path, results: Mapping[str, Any], reasons: Mapping[str, str]) -> dict[str, Any]:
    from ..figures.report_data import model_data

    nothing = {"mode": "", "problems": 0, "samples": 1, "runs": [], "pairs": []}  # of a study before there were reports
    told = _json(folder / FILE) if (folder / FILE).is_file() else nothing
    try:
        return model_data(label, told, results, reasons)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"{folder / FILE} is not what a study writes: {error!r}; make the study again") from error


def _reasons(run: Path) -> dict[str, str]:
    """Why a step gave nothing, where the study says so step by step."""
    finished = _json(run / OWN)["finished"] if (run / OWN).is_file() else {}
    return {step: told for step, told in finished.items() if isinstance(told, str)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}; expected a file of a study") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}; expected a file of a study") from error
