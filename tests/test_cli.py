"""The command line: what it prints, one-line errors with status 2, and nothing half-written when it is killed."""

import functools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import loadbearing as lb
from loadbearing.cli.measured import Measured
from loadbearing.cli.options import show
from loadbearing.cli.study import _families, _finder, run_study

FEW = ["--quiet", "--pairs", "8"]


def printed(*words: str) -> list[str]:
    """The words that a command prints."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition, and fail if it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_study_writes_tables_results_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Callable[..., Any]
) -> None:
    names = ["sft", "direct", "copy-sum"]
    first = run_study(tmp_path / "one", pairs=8, names=names, progress=False)
    shown = capsys.readouterr().out
    assert f"Tables, results and figures: {tmp_path / 'one'}\n" in shown
    assert shown.rstrip().endswith(f"loadbearing report {tmp_path / 'one'}")
    assert "- not made for cot: direct" in shown
    rows = first.set_index("model")
    assert rows.loc["sft", "tokens"] == "1.00 [1.00, 1.00]"
    assert rows.loc["sft", "depth"] == "2"
    assert rows.loc["sft", "copy share"] == "1.00"
    assert str(rows.loc["sft", "one-pass accuracy"]).startswith("0.")  # asked at once, which it never learnt
    assert rows.loc["direct", "tokens"] == "-"
    assert str(rows.loc["direct", "one-pass accuracy"]).startswith(("0.99", "1.00"))
    assert rows.loc["sft", "follows mistakes"] == "1.00 [0.93, 1.00]"
    assert str(rows.loc["sft", "answer is the text's"]).startswith("1.00")
    assert "Claims:" not in shown  # of chosen models, none is judged
    assert rows.loc["copy-sum", "tokens"] == "joint"
    written = {str(path.relative_to(tmp_path / "one")) for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert {"table.txt", "table.csv", "manifest.json", "results/sft/channels.safetensors"} <= written
    drawn = ("channels", "known", "ledger", "behaviour", "errors", "decodability")
    for kind in (*drawn, "patch-cot", "patch-answer-only"):
        assert {f"figures/{kind}.{suffix}" for suffix in ("pdf", "png")} <= written
    assert isinstance(lb.load(tmp_path / "one" / "results" / "sft" / "ledger.safetensors"), lb.analyses.Ledger)

    done = command("study", "--organisms", ",".join(names), "--pairs", "8", "--out", "two", "--json", "--quiet")
    assert done.status == 0 and done.err == ""
    second = json.loads(done.out)
    assert second["table"] == first.to_dict("records") and second["out"] == "two"
    assert "not made for cot: direct" in second["notes"] and "claims" not in second
    for name in ("table.txt", "table.csv", "manifest.json", "figures/channels.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_training_with_which_endpoints_were_revised_judges_nothing_where_there_are_others() -> None:
    card = lb.hooks.Card.load(lb.hooks.organism_folder("sft"))
    assert card is not None
    measured = {
        ("small-rl", seed): Measured(replace(card, elicited={"accuracy": 0.2 + seed / 10, "problems": 100.0}), "")
        for seed in range(3)
    }
    found = _finder(measured)("small-rl", "elicited accuracy")
    assert [reading.estimate for reading in found] == pytest.approx([0.3, 0.4])
    alone = _finder({("small-rl", 0): measured["small-rl", 0]})("small-rl", "elicited accuracy")
    assert [reading.estimate for reading in alone] == pytest.approx([0.2])
    assert "small-sft is not here: train it" in _finder(measured)("small-sft", "elicited accuracy")


def test_a_figure_of_a_study_shows_few_models() -> None:
    few: dict[str, Any] = {name: None for name in ("direct", "small-rl", "large-rl")}
    assert _families(few) == {"": few}
    assert _families({}) == {}
    many: dict[str, Any] = {name: None for name in (*few, *(f"small-{number}" for number in range(5)), "hinted")}
    found = _families(many)
    assert {end: list(shown) for end, shown in found.items()} == {
        "-others": ["direct", "hinted"],
        "-small-1": ["small-rl", "small-0", "small-1", "small-2", "small-3"],
        "-small-2": ["small-4"],
        "-large": ["large-rl"],
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study", "--out", "full"], "full exists and is not an empty folder: nothing was overwritten"),
        (["study", "--out", "new", "--organisms", "stf"], "unknown organism 'stf': expected one of"),
        (["channels", "--model", "organism:sftt"], "nearest: 'sft'"),
        (["channels", "--model", "full"], "full is no model folder"),
        (
            ["channels", "--model", "organism:sft", "--task", "modular-sun"],
            "unknown task 'modular-sun': expected one of",
        ),
        (["channels", "--model", "organism:sft", "--task", "modular-sum:term=3"], "nearest: 'terms'"),
        (
            ["channels", "--model", "organism:sft", "--task", "modular-sum:modulus=12"],
            "is outside the tokenizer's vocabulary",
        ),
        (["channels", "--model", "organism:sft", "--vary", "operand.5"], "nearest: 'operand.4'"),
        (["patch", "--model", "organism:sft", "--mode", "ct"], "unknown mode 'ct': expected one of answer-only, cot"),
        (["organisms", "train", "nobody"], "unknown organism 'nobody'"),
        (["organisms", "show", "nobody"], "unknown organism 'nobody'"),
    ],
)
def test_bad_input_is_one_line_and_status_two(
    words: list[str], message: str, tmp_path: Path, command: Callable[..., Any]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    done = command(*words)
    assert done.status == 2
    assert message in done.err
    told = [line for line in done.err.splitlines() if line.strip()]
    assert len(told) == 1 and told[0].startswith("loadbearing: ")
    assert done.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert (tmp_path / "full" / "file").read_text() == "mine"


def test_a_process_ends_with_status_two(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "loadbearing.cli", "organisms", "show", "nobody"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("loadbearing: unknown organism 'nobody'")
    assert done.stdout == ""


def test_a_killed_study_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-m", "loadbearing.cli", "study", "--out", str(out), *FEW]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = functools.partial(printed, "pgrep", "-P")
    until(lambda: any(map(children, children(str(process.pid)))))  # workers are children of a server
    workers = [worker for child in children(str(process.pid)) for worker in (child, *children(child))]
    assert any(path.name.startswith(".out-") for path in tmp_path.iterdir())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    # The workers end too: a process that is gone, or a zombie that nobody has reaped yet, has no memory.
    until(lambda: all(printed("ps", "-o", "stat=", "-p", worker) in ([], ["Z"], ["Zs"]) for worker in workers))
    run_study(out, pairs=4, names=["copy-tokens"], progress=False)
    assert (out / "table.txt").is_file()


def test_one_analysis_prints_its_table_and_saves(tmp_path: Path, command: Callable[..., Any]) -> None:
    saved = tmp_path / "a.safetensors"
    words = ["--model", "organism:copy-tokens", "--target", "answer", "--pairs", "8", "--quiet", "--save", str(saved)]
    done = command("channels", *words)
    assert done.status == 0, done.err
    assert "1.00 [1.00, 1.00]" in done.out
    assert str(saved) in done.out
    assert lb.load(saved).shares().round(3).tolist() == [0.0, 0.0, 1.0]
    listed = command("organisms", "list")
    assert listed.status == 0
    assert all(name in listed.out for name in lb.organisms.ORGANISMS)
    shown = command("organisms", "show", "copy-sum")
    assert '"known"' in shown.out


def test_ablation_and_sampled_channels_from_the_command_line(tmp_path: Path, command: Callable[..., Any]) -> None:
    words = ["--model", "organism:copy-redundant", "--target", "answer", "--cot", "task", "--quiet"]
    done = command("ablation", *words, "--problems", "8", "--baseline", "zero", "--save", "a.safetensors")
    assert done.status == 0, done.err
    assert lb.load(tmp_path / "a.safetensors").suffice() == ["direct", "tokens"]
    words = ["--model", "organism:sft", "--vary", "operand.1", "--pairs", "8", "--quiet", "--memory", "0.5"]
    drawn = ["--samples", "2", "--temperature", "1.0", "--keep", "correct", "--save", "c.safetensors"]
    done = command("channels", *words, *drawn)
    assert done.status == 0, done.err
    assert lb.load(tmp_path / "c.safetensors").manifest.identity["samples"] == 2
    bad = command("ablation", "--model", "organism:sft", "--baseline", "nil")
    assert bad.status == 2
    assert "unknown baseline 'nil'" in bad.err


MODEL = ["--model", "organism:copy-direct"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study", "--out", "new", "--organisms", ""], "--organisms '': expected names joined with commas"),
        (["study", "--out", "new", "--organisms", "sft,,direct"], "--organisms 'sft,,direct': expected names"),
        (["study", "--out", "new", *MODEL, "--only", ""], "--only '': expected names joined with commas"),
        (["study", "--out", "new", "--only", "channels"], "are of a model of your own: name it with --model"),
        (["study", "--out", "new", *MODEL, "--organisms", "sft"], "are of the study of the debate: leave them out"),
        (["study", "--out", "file", "--organisms", "sft"], "file exists and is not an empty folder"),
        (["study", "--out", "file", *MODEL, "--quiet"], "file exists and is not an empty folder"),
        (["record", *MODEL, "--out", "file", "--quiet"], "no store can be made at"),
        (["record", *MODEL, "--out", "new", "--site", "", "--quiet"], "unknown site '': expected one of"),
        (["channels", "--model", ""], "'' cannot be loaded as a causal language model"),
        (["channels", *MODEL, "--task", ""], "unknown task '': expected one of"),
        (["channels", *MODEL, "--vary", ""], "unknown variable '': expected one of"),
        (["channels", *MODEL, "--target", "", "--quiet"], "target '': expected 'onset', 'answer' or 'step.K'"),
        (["channels", *MODEL, "--cot", "", "--quiet"], "cot"),
        (["channels", *MODEL, "--save", "folder"], "--save folder: folder is a folder; expected the path of a file"),
        (["ledger", *MODEL, "--save", "file/x.safetensors"], "is no folder; expected the path of a file that can be"),
        (["behaviour", *MODEL, "--tamperings", ""], "--tamperings '': expected names joined with commas"),
        (["patch", *MODEL, "--site", ""], "unknown site '': expected one of"),
        (["patch", *MODEL, "--position", "", "--quiet"], "position '': expected NAME[.ITEM][SLICE]"),
        (["patch", *MODEL, "--mode", ""], "unknown mode '': expected one of"),
        (["knockout", *MODEL, "--mode", ""], "unknown mode '': expected one of"),
        (["organisms", "train", ""], "unknown organism ''"),
        (["organisms", "train-all", "--names", ""], "--names '': expected names joined with commas"),
        (["organisms", "train-all", "--seeds", ""], "--seeds '': expected numbers such as"),
        (["organisms", "show", ""], "unknown organism ''"),
    ],
)
def test_empty_and_odd_values_are_one_line_and_nothing_is_written(
    words: list[str], message: str, tmp_path: Path, command: Callable[..., Any]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    done = command(*words)
    assert done.status == 2 and message in done.err
    told = [line for line in done.err.splitlines() if line.strip()]
    assert len(told) == 1 and told[0].startswith("loadbearing: ")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file"}
    assert (tmp_path / "file").read_text() == "mine" and not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize("words", [["channels", *MODEL, "--pairs", "0"], ["study", "--out", "new", "--pairs", "x"]])
def test_a_number_that_is_none_is_told(words: list[str], tmp_path: Path, command: Callable[..., Any]) -> None:
    done = command(*words)
    assert done.status == 2 and "--pairs" in done.err and "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_result_is_saved_into_a_folder_that_is_made(tmp_path: Path, command: Callable[..., Any]) -> None:
    done = command("ledger", *MODEL, "--cot", "task", "--problems", "4", "--quiet", "--save", "no/such/x.safetensors")
    assert done.status == 0, done.err
    assert isinstance(lb.load(tmp_path / "no" / "such" / "x.safetensors"), lb.analyses.Ledger)


def test_notes_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(None, pd.DataFrame({"name": ["a"]}), None, {"\x1b[31mnote": "\u202evalue"})
    assert "- \\x1b[31mnote: \\u202evalue" in capsys.readouterr().out
