"""Results as the tables of a paper: LaTeX with booktabs."""

from collections.abc import Iterable, Mapping

import pandas as pd

from ..core import InputError, Result, check_name, printable
from .canvas import named


def latex(
    results: Result | Mapping[str, Result] | pd.DataFrame,
    *,
    columns: Iterable[str] | None = None,
    caption: str | None = None,
    label: str | None = None,
) -> str:
    """The table of a result, or of several of one kind, as LaTeX: rules of booktabs, intervals as they are printed.

    results: one result, a dict of name to result (a first column "model" holds the names), or a table such as
        `run_study` returns
    columns: those to keep, in this order; caption, label: of the `table` environment, which stands around it with
        either of them

    Every character of a name that LaTeX would read as a command is escaped; caption and label are LaTeX of yours. The
    preamble needs `\\usepackage{booktabs}`. Raises InputError for results without a table and for unknown columns.

    >>> from loadbearing import analyses, hooks
    >>> model = hooks.load("organism:sft")
    >>> found = analyses.channels(model, model.task.pairs(4, seed=0), seed=0)
    >>> print(latex({"SFT": found}, columns=["model", "variable", "tokens"]).splitlines()[2])
    model & variable & tokens \\\\
    """
    table = results if isinstance(results, pd.DataFrame) else _stacked(results)
    chosen = list(columns) if columns is not None else [str(name) for name in table.columns]
    for name in chosen:
        check_name("column", name, [str(known) for known in table.columns])
    shown = table[chosen].map(_text).rename(columns=_text)
    sides = "".join("r" if pd.api.types.is_numeric_dtype(table[name]) else "l" for name in chosen)
    return str(shown.to_latex(index=False, escape=True, caption=caption, label=label, column_format=sides))


def _stacked(results: Result | Mapping[str, Result]) -> pd.DataFrame:
    """The tables of all results, one under the other, behind the name of each."""
    found = named(results, Result)
    if len(kinds := sorted({result.kind for result in found.values()})) > 1:
        raise InputError(f"expected results of one kind in a table, got {', '.join(kinds)}: write a table for each")
    tables = []
    for name, result in found.items():
        own = result.table()
        if isinstance(own, str):
            raise InputError(f"the table of a {result.kind} is text: give its frame(), or rows of it")
        tables.append(own.assign(model=name))
    table = pd.concat(tables, ignore_index=True)
    names = [name for name in table.columns if name != "model"]
    return table[["model", *names]] if isinstance(results, Mapping) else table[names]


def _text(value: object) -> str:
    """A cell as it is printed."""
    if isinstance(value, float):
        return "-" if value != value else f"{value:.2f}"
    return printable(str(value)).replace("\n", " ")
