"""What a result shows of itself: in a terminal, in a notebook, in a paper."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from loadbearing import analyses, figures, hooks, load
from loadbearing.analyses.interval import interval_text
from loadbearing.core import InputError, Manifest
from loadbearing.core.result import SHOWN

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SAVED = sorted(RESULTS.glob("*.safetensors"))
NASTY = "<b>$x^2_1$ & 50% #1 {~} \\cmd\x1b[31m\u202e"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    model = hooks.load("organism:sft")
    assert model.task is not None
    problems, pairs = model.task.problems(4), model.task.pairs(2)
    runs = hooks.generate(model, problems)
    return {
        "channels": analyses.channels(model, pairs),
        "ledger": analyses.ledger(model, problems),
        "behaviour": analyses.behaviour(model, problems),
        "patch": analyses.patch(model, pairs, mode="cot"),
        "knockout": analyses.knockout(model, runs, queries="cue[-1]", keys="prompt"),
        "doctor": analyses.doctor(model),
    }


KINDS = ("channels", "ledger", "behaviour", "patch", "knockout", "doctor")


class _Cells(HTMLParser):
    """The texts of the cells of a page, and the tags that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_terminal_shows_what_it_is_and_its_table(kind: str, made: dict[str, Any]) -> None:
    shown, table = str(made[kind]), made[kind].table()
    assert shown.startswith(f"{type(made[kind]).__name__} of sft\n")
    if isinstance(table, str):
        assert shown.endswith(table)
    else:
        lines = shown.splitlines()[1:]
        assert lines[0].split() == " ".join(table.columns).split()
        assert len(lines) == 1 + min(len(table), SHOWN) + (len(table) > SHOWN)


def test_of_a_long_table_the_first_rows_are_shown_and_the_others_named(made: dict[str, Any]) -> None:
    class Long(type(made["behaviour"])):  # type: ignore[misc]
        kind = "long"

        def table(self) -> pd.DataFrame:
            return pd.DataFrame({"row": range(SHOWN + 7)})

    long = Long(**made["behaviour"].arrays(), coords=made["behaviour"].coords, manifest=made["behaviour"].manifest)
    assert str(long).endswith(f"{SHOWN - 1}\n... 7 more rows: table()")
    assert "... 7 more rows" in long._repr_html_()


@pytest.mark.parametrize("kind", KINDS)
def test_a_notebook_shows_the_same_cells(kind: str, made: dict[str, Any]) -> None:
    page, table = _Cells(), made[kind].table()
    page.feed(made[kind]._repr_html_())
    words = [table] if isinstance(table, str) else [*map(str, table.columns), str(table.iloc[0, 0])]
    assert all(word in page.texts for word in words)


def test_a_hostile_name_is_text_in_a_terminal_in_a_notebook_and_in_a_paper(made: dict[str, Any]) -> None:
    found = made["behaviour"]
    named = replace(found, manifest=Manifest({**found.manifest.identity, "model": NASTY}))
    page = _Cells()
    page.feed(named._repr_html_())
    assert "b" not in page.tags and "\x1b" not in named._repr_html_() + str(named)
    frame = pd.DataFrame({NASTY: [NASTY], "share": [0.5]})
    written = figures.latex(frame)
    body = written.split("\\midrule")[1].split("\\bottomrule")[0]
    assert "\x1b" not in written and "\u202e" not in written
    # Nothing that LaTeX would act on is left: each such character stands behind a backslash.
    assert not re.search(r"(?<!\\)[$%#_^]", body) and body.count("&") - body.count("\\&") == 1


def _cells(written: str) -> list[list[str]]:
    """The cells of a table, its head first."""
    lines = [line.removesuffix(" \\\\") for line in written.splitlines() if line.endswith("\\\\")]
    return [line.split(" & ") for line in lines]


class TestLatex:
    def test_rows_and_columns_are_those_of_the_table(self, made: dict[str, Any]) -> None:
        table = made["channels"].table()
        written = figures.latex(made["channels"])
        rows = [line for line in written.splitlines() if line.endswith("\\\\")]
        assert len(rows) == 1 + len(table)
        assert {row.count(" & ") for row in rows} == {len(table.columns) - 1}
        assert [rule for rule in ("\\toprule", "\\midrule", "\\bottomrule") if rule not in written] == []
        assert table["tokens"][0] in rows[1]

    def test_models_of_a_dict_stand_under_one_another_with_their_names(self, made: dict[str, Any]) -> None:
        written = figures.latex({"A_1": made["channels"], "B": made["channels"]}, columns=["model", "tokens"])
        rows = [line for line in written.splitlines() if line.endswith("\\\\")]
        assert rows[0] == "model & tokens \\\\"
        assert [row.split(" & ")[0] for row in rows[1:]] == ["A\\_1"] * 5 + ["B"] * 5

    def test_caption_and_label_make_it_float(self, made: dict[str, Any]) -> None:
        written = figures.latex(made["ledger"], caption="Who reads whom.", label="tab:ledger")
        assert written.startswith("\\begin{table}") and "\\caption{Who reads whom.}" in written
        assert "\\label{tab:ledger}" in written and "\\begin{table}" not in figures.latex(made["ledger"])

    def test_what_cannot_be_a_table_is_told(self, made: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="expected a Result or a dict of name to Result, got an empty dict"):
            figures.latex({})
        with pytest.raises(InputError, match="expected results of one kind in a table, got channels, ledger"):
            figures.latex({"a": made["channels"], "b": made["ledger"]})
        with pytest.raises(InputError, match=r"unknown column 'token'.*nearest: 'tokens'"):
            figures.latex(made["channels"], columns=["token"])

    def test_a_missing_number_is_a_dash(self) -> None:
        assert "\n- & 0.50 \\\\\n" in figures.latex(pd.DataFrame({"a": [float("nan")], "b": [0.5]}))
        missing = pd.DataFrame({"a": pd.array([None, 2], dtype="Int64"), "b": [None, "x"]})
        assert _cells(figures.latex(missing))[1:] == [["-", "-"], ["2", "x"]]

    @pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
    def test_every_kind_of_result_has_a_table_with_its_intervals(self, path: Path) -> None:
        result = load(path)
        table = result.table()
        source = result.frame() if isinstance(table, str) else table
        written = figures.latex(result)
        head, *rows = _cells(written)
        assert "\\toprule" in written and len(rows) == len(source) and {len(row) for row in rows} == {len(head)}
        assert not {"low", "high"} & set(head)
        if {"low", "high"} <= set(source.columns):
            folded = source.columns[list(source.columns).index("low") - 1]
            known = source["low"].notna()
            assert known.any() and folded in head
            cells = pd.Series([row[head.index(folded)] for row in rows])
            numbers = source.loc[known, [folded, "low", "high"]].to_numpy()
            assert list(cells[known]) == [interval_text(*row) for row in numbers]
            assert not cells[~known].str.contains("[", regex=False).any()

    def test_the_ledger_has_the_interval_of_every_load(self) -> None:
        result = load(RESULTS / "ledger.safetensors")
        assert isinstance(result, analyses.Ledger)
        head, *rows = _cells(figures.latex(result))
        for row in rows:
            for source, cell in zip(head[1:], row[1:], strict=True):
                load_of = result.rate("load", row[0], source)
                assert cell.strip("()") == interval_text(*load_of[:3])
        assert rows[-1][-1].startswith("(") and "[" in rows[-1][-1]  # the copy of the last step

    def test_rows_of_a_frame_can_be_chosen_first(self) -> None:
        frame = load(RESULTS / "decodability.safetensors").frame()
        chosen = frame.query("quantity == 'bits' and variable == 'v_1'")
        head, *rows = _cells(figures.latex(chosen, columns=["position", "layer", "estimate"]))
        assert head == ["position", "layer", "estimate"] and 0 < len(rows) == len(chosen) < len(frame)
        assert [row[1] for row in rows] == [str(int(layer)) for layer in chosen["layer"]]

    def test_each_number_takes_its_own_bounds(self) -> None:
        whole = {"mean": [1.0, 2.0], "mean_low": [0.5, float("nan")], "mean_high": [1.5, float("nan")]}
        other = {"effect": [-0.001, float("nan")], "low": [-0.5, 0.0], "high": [0.5, 0.0], "seen_high": [3.0, -0.0]}
        assert _cells(figures.latex(pd.DataFrame(whole | other))) == [
            ["mean", "effect", "seen\\_high"],
            ["1.00 [0.50, 1.50]", "0.00 [-0.50, 0.50]", "3.00"],
            ["2.00", "-", "0.00"],
        ]

    def test_a_table_with_models_of_its_own_keeps_them(self) -> None:
        result = load(RESULTS / "subspace.safetensors")
        alone, named = _cells(figures.latex(result)), _cells(figures.latex({"mine": result}))
        assert alone[0][0] == "model" and {row[0] for row in alone[1:]} == set(result.frame()["model"])
        assert named == [["result", *alone[0]], *(["mine", *row] for row in alone[1:])]


def _in_a_terminal(columns: int, path: Path) -> list[str]:
    """The lines that a terminal of so many columns is sent when a saved result is printed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    code = f"import loadbearing as lb; print(lb.load({str(path)!r}))"
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, env=environment) as process:
        os.close(theirs)
        sent = b""
        with suppress(OSError):  # what Linux tells at the end
            while piece := os.read(ours, 4096):
                sent += piece
    os.close(ours)
    assert process.returncode == 0
    return sent.decode().splitlines()


@pytest.mark.parametrize("name", ["channels", "subspace"])
def test_in_a_narrow_terminal_columns_go_on_below(name: str) -> None:
    path = RESULTS / f"{name}.safetensors"
    whole = str(load(path)).splitlines()
    wide, narrow = _in_a_terminal(300, path), _in_a_terminal(80, path)
    assert [line.rstrip() for line in wide] == [line.rstrip() for line in whole]
    assert max(map(len, whole)) > 150
    rows = [line for line in narrow if not line.startswith(("v_3 (", "Subspace"))]
    assert max(map(len, rows)) <= 80 and len(rows) > len(whole)
    cells = Counter(" ".join(wide).split())
    assert not cells - Counter(" ".join(narrow).split())  # nothing is lost


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_no_result_prints_its_raw_frame(path: Path) -> None:
    shown = str(load(path))
    assert not re.search(r"\d\.\d{3,}|\d[eE][+-]\d|\bNaN\b|-0\.00\b(?!\])", shown), shown
