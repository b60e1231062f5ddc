"""Results as the tables of a paper: LaTeX with booktabs."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype, is_numeric_dtype, is_scalar

from ..analyses.interval import interval_text, number_text
from ..analyses.ledger_table import Ledger
from ..core import InputError, Result, check_name, printable
from .canvas import named

VALUES = ("estimate", "bits", "effect", "attribution", "r2", "mean", "value")  # what `low` and `high` are of
NUMBERS = ("layer", "lead", "step")


def latex(
    results: Result | Mapping[str, Result] | pd.DataFrame,
    *,
    columns: Iterable[str] | None = None,
    caption: str | None = None,
    label: str | None = None,
) -> str:
    """The table of a result, or of several of one kind, as LaTeX: rules of booktabs, intervals as they are printed.

    results: one result, a dict of name to result (a first column "model" holds the names; "result", where the table has
        a model of its own), or a table: rows of a `frame()`, or what `run_study` returns. Of a result whose table is
        text, such as a map, it is the frame.
    columns: those to keep, in this order; caption, label: of the `table` environment, which stands around it with
        either of them

    A number and its bounds (`low` and `high`, or `X_low` and `X_high` beside `X`) are one column, of the number's name.
    Every character of a name that LaTeX would read as a command is escaped; caption and label are LaTeX of yours. The
    preamble needs `\\usepackage{booktabs}`, and `\\usepackage[T1]{fontenc}` for names such as `<bos>`. Raises
    InputError for results without a table and for unknown columns.

    >>> from loadbearing import analyses, hooks
    >>> model = hooks.load("organism:sft")
    >>> found = analyses.channels(model, model.task.pairs(4, seed=0), seed=0)
    >>> print(latex({"SFT": found}, columns=["model", "variable", "tokens"]).splitlines()[2])
    model & variable & tokens \\\\
    >>> rows = pd.DataFrame({"wire": ["direct"], "estimate": [0.5], "low": [0.25], "high": [0.75]})
    >>> print(latex(rows).splitlines()[4])
    direct & 0.50 [0.25, 0.75] \\\\
    """
    table = results if isinstance(results, pd.DataFrame) else _stacked(results)
    table = _folded(table.rename(columns=str))
    chosen = list(columns) if columns is not None else list(table.columns)
    for name in chosen:
        check_name("column", name, list(table.columns))
    sides = "".join("r" if is_numeric_dtype(table[name]) else "l" for name in chosen)
    shown = table[chosen].apply(_whole).astype(object).map(_text).rename(columns=_text)
    return str(shown.to_latex(index=False, escape=True, caption=caption, label=label, column_format=sides))


def _stacked(results: Result | Mapping[str, Result]) -> pd.DataFrame:
    """The tables of all results, one under the other, behind the name of each."""
    found = named(results, Result)
    if len(kinds := sorted({result.kind for result in found.values()})) > 1:
        raise InputError(f"expected results of one kind in a table, got {', '.join(kinds)}: write a table for each")
    tables = [_table(result) for result in found.values()]
    table = pd.concat(tables, ignore_index=True)
    if isinstance(results, Mapping):
        names = [name for name, own in zip(found, tables, strict=True) for _ in range(len(own))]
        table.insert(0, "result" if "model" in table else "model", names)
    return table


def _table(result: Result) -> pd.DataFrame:
    """What is printed of a result, with intervals; the frame, where that is text."""
    table = result.table()
    if isinstance(table, str):
        return result.frame()
    if isinstance(result, Ledger):
        edges = result.frame()
        for edge in edges[edges["quantity"] == result.quantities[0]].to_dict("records"):
            text = interval_text(edge["estimate"], edge["low"], edge["high"])
            table.loc[table["target"] == edge["target"], edge["source"]] = f"({text})" if edge["copy"] else text
    return table


def _folded(table: pd.DataFrame) -> pd.DataFrame:
    """Each number and its bounds as one column of text; a number without bounds alone."""
    triples = [[name, f"{name}_low", f"{name}_high"] for name in table.columns]
    for triple in [*triples, *([name, "low", "high"] for name in VALUES)]:
        if set(triple) <= set(table.columns) and all(is_numeric_dtype(table[name]) for name in triple):
            rows = table[triple].astype(float).to_numpy()
            texts = [_text(row[0]) if np.isnan(row).any() else interval_text(*row) for row in rows]
            table = table.assign(**{triple[0]: texts}).drop(columns=triple[1:])
    return table


def _whole(column: pd.Series) -> pd.Series:
    """A column of floats as integers, where they number something: layers of which some rows have none."""
    whole = column.name in NUMBERS and is_float_dtype(column)
    return column.map("{:.0f}".format, na_action="ignore") if whole else column


def _text(value: Any) -> str:
    """A cell as it is printed."""
    if is_scalar(value) and pd.isna(value):
        return "-"
    if isinstance(value, float):
        return number_text(value)
    return printable(str(value)).replace("\n", " ")
