"""Rows and runs as tables, and runs from their table: problems, token ids, spans and answers, nothing pickled."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow

from ..core import InputError
from ..tasks import Piece, Problem, Task
from .runs import Run

_COUNTS = ("run", "token", "token_id")
_RUNS = pyarrow.schema(
    {
        "problem": pyarrow.string(),
        "content": pyarrow.string(),
        "sample": pyarrow.int64(),
        "ids": pyarrow.list_(pyarrow.int32()),
        "spans": pyarrow.string(),
        "values": pyarrow.string(),
        "answer": pyarrow.string(),
        "end": pyarrow.int64(),
        "finished": pyarrow.bool_(),
    }
)


def rows_table(rows: pd.DataFrame) -> pyarrow.Table:
    """The rows of `Activations`; without what pandas would add, its own version among it."""
    columns = {
        name: pyarrow.array(rows[name], pyarrow.int64() if name in _COUNTS else pyarrow.string(), from_pandas=True)
        for name in rows.columns
    }
    return pyarrow.table(columns)


def runs_table(runs: Sequence[Run]) -> pyarrow.Table:
    """A row a run: all that a `Run` is made of, its problem included."""
    return pyarrow.Table.from_pylist([_row(run) for run in runs], schema=_RUNS)


def _row(run: Run) -> dict[str, Any]:
    return {
        "problem": run.problem.key,
        "content": json.dumps(problem_content(run.problem)),
        "sample": run.sample,
        "ids": run.ids,
        "spans": json.dumps(run.spans),
        "values": json.dumps({str(item): value for item, value in run.values.items()}),
        "answer": run.answer,
        "end": run.end,
        "finished": run.finished,
    }


def problem_content(problem: Problem) -> list[Any]:
    """All that a problem is made of besides its key and task, in plain lists and texts."""
    if not all(isinstance(value, str) for value in problem.values.values()):
        raise InputError(f"problem {problem.key!r}: values are texts in a store, got {dict(problem.values)}")
    pieces, steps = ([[piece.text, piece.name] for piece in part] for part in (problem.pieces, problem.steps))
    return [pieces, problem.answer, steps, dict(problem.values), problem.partner]


def read_runs(table: pd.DataFrame, mode: Any, task: Task) -> Iterator[Run]:
    """The runs of a table that `runs_table` made."""
    for row in table.to_dict("records"):
        pieces, answer, steps, values, partner = json.loads(row["content"])
        texts = [tuple(Piece(text, name) for text, name in part) for part in (pieces, steps)]
        yield Run(
            problem=Problem(row["problem"], texts[0], answer, texts[1], values, task, partner),
            mode=mode,
            ids=tuple(row["ids"].tolist()),
            spans={name: (first, stop) for name, (first, stop) in json.loads(row["spans"]).items()},
            values={int(item): value for item, value in json.loads(row["values"]).items()},
            answer=None if pd.isna(row["answer"]) else row["answer"],
            end=None if pd.isna(row["end"]) else int(row["end"]),
            finished=bool(row["finished"]),
            sample=int(row["sample"]),
        )
