"""A person's habits on the command line: help that fits a screen, examples, JSON for scripts, completion, quiet."""

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from typer.core import TyperGroup
from typer.main import get_command

import loadbearing as lb
from loadbearing.cli import choices
from loadbearing.cli.app import app
from loadbearing.cli.options import plain

ROOT = get_command(app)


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command by its words; a group is none."""
    if isinstance(command, TyperGroup):
        for name, below in command.commands.items():
            yield from leaves(below, (*words, name))
    else:
        yield " ".join(words), command


COMMANDS = dict(leaves(ROOT))
# Their examples are parsed only.
NOT_RUN = {
    "organisms train-all": "trains for minutes",
    "organisms history": "needs checkpoints, which only such a training leaves",
}
TOGETHER = {"study", "report"}  # the second shows what the first writes: they have a test of their own
RUN = [words for words in COMMANDS if words not in {*NOT_RUN, *TOGETHER}]


Run = Callable[..., Any]


@pytest.fixture
def run(command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, on a screen of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return command


def example(words: str) -> list[str]:
    """The example of a command, without the program's name."""
    return shlex.split(str(COMMANDS[words].epilog).removeprefix("Example: loadbearing "))


def flags(words: str) -> set[str]:
    return {flag for param in COMMANDS[words].params for flag in param.opts}


def test_the_help_fits_a_screen(run: Run) -> None:
    lines = run("--help").out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80


@pytest.mark.parametrize("group", ["", "organisms"])
def test_the_help_of_a_command_is_one_line(run: Run, group: str) -> None:
    below: Any = ROOT if not group else ROOT.commands[group]  # type: ignore[attr-defined]
    rows = [line.strip("│ ") for line in run(*group.split(), "--help").out.splitlines()]
    for name, command in below.commands.items():
        assert command.short_help
        assert any(row.split() == [name, *command.short_help.split()] for row in rows), name


@pytest.mark.parametrize("words", COMMANDS)
def test_the_help_ends_with_an_example(words: str, run: Run) -> None:
    shown = run(*words.split(), "--help").out.rstrip().splitlines()[-1].strip()
    assert shown == COMMANDS[words].epilog
    assert shown.startswith(f"Example: loadbearing {words}")


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_says_what_it_does(words: str) -> None:
    assert [param.name for param in COMMANDS[words].params if not param.help] == []


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_prints_json_if_asked(words: str) -> None:
    assert "--json" in flags(words)


@pytest.mark.parametrize("words", RUN)
def test_every_example_runs(words: str, run: Run) -> None:
    done = run(*example(words))
    assert done.status == 0 and done.out, done.err


@pytest.mark.parametrize("words", NOT_RUN)
def test_examples_that_take_long_are_parsed(words: str) -> None:
    *names, last = words.split()
    group: Any = ROOT
    for name in names:
        group = group.commands[name]
    given = example(words)[len(words.split()) :]
    assert group.commands[last].make_context(last, given).params["as_json"] is False


@pytest.mark.parametrize("words", RUN)
def test_json_is_all_that_is_printed(words: str, run: Run) -> None:
    """Of an analysis it holds every row of the result's frame, as what is saved has it."""
    saves = ["--save", "found.safetensors"] if "--save" in flags(words) else []
    quiet = ["--quiet"] if "--quiet" in flags(words) else []
    done = run(*example(words), "--json", *quiet, *saves)
    assert done.status == 0 and done.err == "", done.err
    if saves:
        found = lb.load("found.safetensors")
        assert list(done.told) == ["kind", "identity", "circumstance", "table", "notes", "saved"]
        assert done.told["kind"] == found.kind and done.told["saved"] == "found.safetensors"
        assert done.told["identity"] == plain(found.manifest.identity)
        assert done.told["table"] == plain(found.frame()) != []
    else:
        assert isinstance(done.told, dict) and done.told


def test_without_quiet_there_is_a_bar_and_it_is_not_on_stdout(run: Run) -> None:
    done = run(*example("ledger"), "--json")
    assert "ledger:" in done.err and done.told["kind"] == "ledger"


class Terminal(StringIO):
    """A keyboard at which nobody sits."""

    def isatty(self) -> bool:
        return True


def test_a_study_as_json_is_what_it_writes_and_nothing_is_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    asked = run(*example("study"))
    assert asked.status == 1 and "Start?" in asked.out + asked.err
    done = run(*example("study"), "--resume", "--json")
    assert done.status == 0 and "Start?" not in done.out + done.err
    assert "what was used" in done.err  # the tables for people are no part of the document
    said = json.loads(Path("my-study/table.json").read_text())
    assert done.told == {"out": "my-study", "table": [said["row"]], "used": said["used"], "notes": said["notes"]}
    again = run(*example("study"), "--resume", "--json", "--quiet")
    assert (again.status, again.out, again.err) == (0, done.out, "")
    plainly = run(*example("study"), "--resume")
    assert plainly.status == 0 and Path("my-study/table.txt").read_text() in plainly.out
    page = run(*example("report"), "--json")
    assert page.status == 0 and Path(page.told["page"]).stat().st_size == page.told["bytes"]
    assert run(*example("report")).out.startswith(page.told["page"])


def test_an_estimate_as_json_has_numbers(run: Run) -> None:
    own = ["--model", "organism:sft", "--only", "errors", "--problems", "4", "--pairs", "2", "--out", "new"]
    told = run("study", *own, "--estimate", "--json").told
    assert list(told) == ["seconds", "memory", "disk"] and all(value > 0 for value in told.values())
    assert not Path("new").exists()


def test_an_error_stays_one_line_on_stderr(run: Run) -> None:
    done = run("channels", "--model", "organism:sftt", "--json")
    assert done.status == 2 and done.out == ""
    assert done.err.count("\n") == 1 and "nearest: 'sft'" in done.err


def test_what_was_measured_is_printed_where_it_cannot_be_saved(run: Run) -> None:
    name = f"{'x' * 240}.safetensors"  # may be a file's name, but leaves no room for that of a temporary one beside it
    done = run(*example("ledger"), "--quiet", "--json", "--save", name)
    assert done.status == 2 and done.err.startswith("loadbearing: the result could not be written to xxx")
    assert done.err.count("\n") == 1 and not any(Path().iterdir())
    assert done.told["kind"] == "ledger" and done.told["table"] and done.told["saved"] is None


def test_a_model_that_fails_ends_with_status_one(run: Run) -> None:
    shutil.copytree(lb.hooks.organism_folder("sft"), "broken")
    weights = load_file("broken/model.safetensors")
    weights["model.norm.weight"][:] = math.nan
    save_file(weights, "broken/model.safetensors", {"format": "pt"})
    done = run("doctor", "--model", "broken", "--quiet", "--json")
    assert done.status == 1 and done.err == ""
    assert "stop" in {gate["verdict"] for gate in done.told["table"]}
    assert None in [gate["measured"] for gate in done.told["table"]]


def test_a_share_of_a_job_array_is_a_document_too(run: Run) -> None:
    words = ["--model", "organism:sft", "--pairs", "2", "--quiet", "--parts", "kept"]
    first = run("channels", *words, "--shard", "1/2", "--json")
    assert first.status == 0 and first.told["table"] == [] and first.told["notes"]["missing"]
    second = run("channels", *words, "--shard", "2/2", "--json")
    assert second.status == 0 and second.told["kind"] == "channels"


def test_plain_values() -> None:
    table = pd.DataFrame({"k": pd.array([1, pd.NA], dtype="Int64"), "share": [0.5, math.inf]})
    told = {"table": table, "one": np.float64("nan"), "n": np.int64(3), "yes": np.bool_(True), "at": Path("a/b")}
    rows = [{"k": 1, "share": 0.5}, {"k": None, "share": None}]
    assert plain(told) == {"table": rows, "one": None, "n": 3, "yes": True, "at": "a/b"}
    assert type(plain(told)["n"]) is int and plain(told)["yes"] is True
    assert plain({"array": np.array([[1.0, np.nan]])}) == {"array": [[1.0, None]]}


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.dictionaries(st.text(max_size=3), LEAVES | st.lists(LEAVES, max_size=3), max_size=3))
def test_everything_plain_is_strict_json(told: dict[str, Any]) -> None:
    assert json.loads(json.dumps(plain(told), allow_nan=False)) == plain(told)


# What is typed, the last word under the cursor; words among those that complete it.
TYPED = {
    "loadbearing chan": ["channels"],
    "loadbearing channels --model organism:copy-t": ["organism:copy-tokens"],
    "loadbearing channels --model=organism:copy-t": ["organism:copy-tokens"],
    "loadbearing study --organisms sft,copy-d": ["sft,copy-direct"],
    "loadbearing study --only channels,led": ["channels,ledger"],
    "loadbearing study --format t": ["think"],
    "loadbearing study --cot g": ["given"],
    "loadbearing channels --cot ": ["model", "task"],
    "loadbearing channels --task modular": ["modular-sum", "modular-program"],
    "loadbearing channels --task js": ["jsonl:"],
    "loadbearing channels --target an": ["answer"],
    "loadbearing channels --keep c": ["correct"],
    "loadbearing channels --dtype bf": ["bfloat16"],
    "loadbearing ablation --baseline ze": ["zero"],
    "loadbearing behaviour --tamperings mistake,shuf": ["mistake,shuffled"],
    "loadbearing patch --metric k": ["kl"],
    "loadbearing channels --js": ["--json"],
    "loadbearing organisms show copy-t": ["copy-tokens"],
    "loadbearing channels --save ": [],  # shells complete files by themselves
    "loadbearing channels --model ./my": [],
}


@pytest.mark.parametrize("line", TYPED)
def test_values_complete(line: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = line.split(" ")
    monkeypatch.setenv("_LOADBEARING_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    assert run().out.split() == TYPED[line]


def loaded_by(*words: str, **environment: str) -> tuple[str, set[str]]:
    """What a command prints in a process of its own, and which heavy libraries it loads."""
    heavy = "{'torch', 'transformers', 'matplotlib', 'numpy'}"
    code = f"import atexit, sys; atexit.register(lambda: print(*{heavy} & {{*sys.modules}}, file=sys.stderr))"
    given = [sys.executable, "-c", f"{code}; from loadbearing.cli import main; main()", *words]
    done = subprocess.run(given, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    return done.stdout, set(done.stderr.split())


def test_completion_loads_no_model_library() -> None:
    line = "loadbearing study --model organism:sft --organisms copy-t"
    given = {"_LOADBEARING_COMPLETE": "complete_bash", "COMP_WORDS": line.replace(" ", "\n"), "COMP_CWORD": "5"}
    said, loaded = loaded_by(**given)
    assert said.split() == ["copy-tokens"] and loaded == set()


@pytest.mark.parametrize("words", ["", "channels", "study", "organisms", "organisms train"])
def test_help_loads_no_model_library(words: str) -> None:
    said, loaded = loaded_by(*words.split(), "--help")
    assert f"Usage: loadbearing {words}".rstrip() in said and loaded == set()


def test_a_command_that_runs_loads_them() -> None:
    assert {"torch", "transformers"} <= loaded_by("doctor", "--model", "organism:sftt")[1]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["--model", "organism", ":", "copy-t"], "copy-tokens"),
        (["--model", "=", "organism", ":", "copy-t"], "copy-tokens"),
        (["--keep", "=", "c"], "correct"),
        (["--model", "organism:copy-t"], "organism:copy-tokens"),  # a shell that does not break words at colons
    ],
)
def test_bash_puts_in_what_its_own_words_lack(typed: list[str], found: str) -> None:
    """Bash breaks words at colons and equals signs; its function is given them as it breaks them."""
    folder = Path(sys.executable).parent
    program = shutil.which("loadbearing", path=str(folder))
    assert program is not None
    words = ["loadbearing", "channels", *typed]
    source = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    script = subprocess.run(
        [program], env={**source, "_LOADBEARING_COMPLETE": "source_bash"}, capture_output=True, text=True, check=True
    ).stdout
    code = f"{script}\nCOMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
    code += '_loadbearing_completion loadbearing; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", code], env=source, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found and done.stderr == ""


LIBRARY = {
    "ATTENTION": "hooks.files.ATTENTION",
    "BASELINES": "analyses.ablation.BASELINES",
    "STUDY_COTS": "cli.own_draw.COTS",
    "DIRECTIONS": "analyses.patch.DIRECTIONS",
    "ACROSS": "analyses.across.DIRECTIONS",
    "DTYPES": "hooks.files.DTYPES",
    "EACH": "analyses.knockout.EACH",
    "ENGINES": "hooks.shards.ENGINES",
    "FINDS": "analyses.subspace.FINDS",
    "HOW": "hooks.edges.HOW",
    "KEEP": "analyses.prepare.KEEP",
    "METHODS": "analyses.patch_guess.METHODS",
    "METRICS": "analyses.metrics.METRICS",
    "MODES": "hooks.MODES",
    "PATCHED": "analyses.patch_cells.SITES",
    "SITES": "hooks.sites.RESIDUAL_SITES",
    "STEPS": "cli.own_steps.STEPS",
    "TAMPERINGS": "analyses.behaviour_table.TAMPERINGS",
    "TASKS": "tasks.TASKS",
    "TEXTS": "analyses.ablation.TEXTS",
    "UNITS": "analyses.attribution.UNITS",
}


@pytest.mark.parametrize("name", LIBRARY)
def test_choices_are_those_of_the_library(name: str) -> None:
    module, _, attribute = LIBRARY[name].rpartition(".")
    theirs = getattr(import_module(f"loadbearing.{module}"), attribute)
    assert sorted(getattr(choices, name)) == sorted(theirs)


def test_other_choices_are_known_to_the_library() -> None:
    from loadbearing.analyses import paths_table

    assert list(choices.FORMATS) == ["auto", *lb.hooks.FORMATS]
    assert list(choices.FILES) == [f"{kind}:" for kind in lb.tasks.FILES]
    assert choices.organisms("") == lb.hooks.organism_names()
    assert set(choices.SENDERS) <= set(paths_table.SENDERS) and set(choices.RECEIVERS) <= set(paths_table.RECEIVERS)
    listed = {name for name in vars(choices) if name.isupper()}
    assert listed == {*LIBRARY, "COTS", "FORMATS", "FILES", "SENDERS", "RECEIVERS", "TARGETS"}


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["chanels"], "'channels'"),
        (["organisms", "lst"], "'list'"),
        (["channels", "--modle", "x"], "--model"),
        (["channels", "--model", "organism:sft", "--quite"], "--quiet"),
    ],
)
def test_the_nearest_name_is_told(words: list[str], nearest: str, run: Run) -> None:
    done = run(*words)
    assert done.status == 2 and done.out == "" and nearest in done.err
