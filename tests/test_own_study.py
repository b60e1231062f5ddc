"""The study of a user's own model: what it says, what it counts, that it goes on where it was killed."""

import copy
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.cli.estimate import Estimate, estimate
from loadbearing.cli.own import run_own_study
from loadbearing.cli.own_draw import Options, as_many, draw
from loadbearing.cli.own_folder import Folder
from loadbearing.cli.own_steps import STEPS, Subject, is_answer, labelled
from loadbearing.core import GateError, InputError

Said = pytest.CaptureFixture[str]
QUICK: dict[str, Any] = {"problems": 24, "pairs": 16, "max_new_tokens": 16, "progress": False}


@pytest.fixture
def sums(tmp_path: Path) -> str:
    """Sums as a user would write them down: no partner, no steps, one answer not known."""
    problems = lb.tasks.load("modular-sum").problems(24)
    lines: list[dict[str, Any]] = [{"id": p.key, "prompt": p.prompt, "answer": p.answer} for p in problems]
    del lines[3]["answer"]
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return f"jsonl:{path}"


def sft() -> Path:
    return lb.hooks.organism_folder("sft")


def counts(out: Path) -> dict[str, dict[str, int]]:
    return dict(json.loads((out / "table.json").read_text())["used"])


def test_questions_without_partners(tmp_path: Path, sums: str, capsys: Said) -> None:
    out = tmp_path / "out"
    row = run_own_study(out, sft(), sums, **QUICK).iloc[0]
    assert row["tokens"] == "1.00 [1.00, 1.00]"
    assert row["CoT accuracy"].startswith("1.00")
    found = counts(out)
    assert found["questions of the task"] == {"questions": 24, "without a gold answer": 1}
    assert found["problems"] == {"asked": 24, "gold answer unknown": 1}
    assert found["chains of thought"]["runs"] == found["chains of thought"]["finished with an answer"]
    assert found["pairs"]["usable"] == found["pairs"]["with a made partner"] == 16
    said = capsys.readouterr().out
    assert said.startswith("about ")
    assert (out / "table.txt").read_text() in said
    assert "- ledger: " in said and "- decodability: not made for answer-only" in said
    drawn = {path.stem for path in (out / "figures").glob("*.png")}
    assert drawn == {"behaviour", "channels", "commitment", "patch-cot"}
    assert isinstance(lb.load(out / "results" / "channels.safetensors"), lb.analyses.Channels)


@dataclass(frozen=True)
class Whole:
    """A study of an organism on its own task, and what was estimated and spent."""

    out: Path
    row: Any
    told: Estimate
    spent: float
    memory: float


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    out = tmp_path_factory.mktemp("study") / "out"
    model = lb.hooks.load("organism:both")
    options: dict[str, Any] = {"problems": 48, "pairs": 8, "max_new_tokens": 16}
    asked = Options(**options)
    assert model.task is not None
    told = estimate(Subject(model, draw(model, model.task, asked), asked), list(STEPS))
    began = time.perf_counter()
    row = run_own_study(out, model, progress=False, resume=True, **options).iloc[0]
    weights = sum(weight.nbytes for weight in model.module.parameters())
    return Whole(out, row, told, time.perf_counter() - began, weights + asked.memory * 1e9)


def test_a_task_that_knows_all_gives_the_whole_row(whole: Whole) -> None:
    row = whole.row
    # It is given no harder problems, is never wrong, and the card tells nothing of the other two.
    harder = {"longer: one pass", "longer: CoT", "step wrong | answer wrong", "answer is the text's"}
    assert {name for name, shown in row.items() if shown == "-"} == {
        "elicited",
        "lost in words",
        "lost in german",
        *harder,
    }
    assert (row["depth"], row["tokens"][:4], row["copy share"]) == ("2", "1.00", "1.00")
    assert row["one-pass accuracy"].startswith("1.00")
    assert not (whole.out / "results" / "ablation.safetensors").exists()


def test_the_estimate_is_about_right(whole: Whole) -> None:
    """A factor of 3: the machine is shared, and what is timed beforehand takes a fraction of a second."""
    assert whole.spent / 3 < whole.told.seconds < whole.spent * 3
    size = sum(path.stat().st_size for path in whole.out.rglob("*") if path.is_file())
    assert size / 4 < whole.told.disk < size * 4
    assert whole.told.memory == whole.memory


def test_without_partners_wires_are_set_to_nothing(tmp_path: Path, sums: str, capsys: Said) -> None:
    out = tmp_path / "out"
    row = run_own_study(out, sft(), f"{sums}?partners=given", **QUICK, only=("channels", "ablation")).iloc[0]
    assert row["tokens"] == "-"
    said = capsys.readouterr().out
    assert "no counterfactual partners: wires set to nothing (ablation, neutral baseline):" in said
    assert "24 left out: no counterfactual partner" in said
    found = lb.load(out / "results" / "ablation.safetensors")
    assert found.suffice() == ["tokens"]
    assert (out / "figures" / "ablation.png").is_file()
    assert json.loads((out / "study.json").read_text())["finished"]["ablation"] == ["ablation"]


def test_errors_and_probes_stand_on_the_runs_that_there_are(whole: Whole) -> None:
    """Given the greedy runs, both give what they give when they let the model write."""
    model = lb.hooks.load("organism:both")
    assert model.task is not None
    problems = model.task.problems(48)
    errors = lb.load(whole.out / "results" / "errors.safetensors")
    probes = lb.load(whole.out / "results" / "decodability.safetensors")
    assert errors.manifest.identity["cot"] == probes.manifest.identity["cot"] == "given"
    options: dict[str, Any] = {"shuffles": 3, "text": False, "twin": False, "variables": probes.variables}
    own = {
        errors: lb.analyses.errors(model, problems, max_new_tokens=16),
        probes: lb.analyses.decodability(model, problems, **options),
    }
    for found, expected in own.items():
        for name, array in expected.arrays().items():
            np.testing.assert_array_equal(found.arrays()[name], array, err_msg=name)


def test_sampled_chains_have_errors_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_own_study(out, "organism:both", **QUICK, temperature=1.0, samples=2, only=("errors",))
    found = lb.load(out / "results" / "errors.safetensors")
    assert found.rate("accuracy, cot")[3] == 24  # the first sample of each problem
    assert counts(out)["chains of thought"]["runs"] == 2 * counts(out)["chains of thought"]["of problems"]


def test_no_accuracy_where_no_gold_answer_is_known(tmp_path: Path, sums: str, capsys: Said) -> None:
    path = Path(sums.removeprefix("jsonl:"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps({**line, "answer": None}) for line in lines))
    out = tmp_path / "out"
    row = run_own_study(out, sft(), sums, **QUICK, only=("channels", "behaviour")).iloc[0]
    assert row["CoT accuracy"] == "-" and row["tokens"].startswith("1.00")
    assert counts(out)["problems"] == {"asked": 24, "gold answer unknown": 24}
    said = capsys.readouterr().out
    assert "figure behaviour: no gold answer is known" in said and "nan" not in said
    assert lb.load(out / "results" / "channels.safetensors").notes()["accuracy"].startswith("- (gold answer of ")


def test_given_chains_of_thought_are_taken_as_they_are(tmp_path: Path, capsys: Said) -> None:
    problems = lb.tasks.load("modular-sum").problems(12)
    lines: list[dict[str, Any]] = [
        {"id": p.key, "prompt": p.prompt, "answer": p.answer, "transcript": p.cot} for p in problems
    ]
    lines[0]["transcript"] = lines[0]["transcript"][:-1] + "0"
    del lines[1]["transcript"]
    path = tmp_path / "given.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    row = run_own_study(out, sft(), f"jsonl:{path}", **QUICK, cot="given", only=("behaviour", "ablation")).iloc[0]
    assert row["CoT accuracy"].startswith(f"{10 / 11:.2f}")
    assert counts(out)["problems"] == {"asked": 11, "left out: no transcript": 1}
    assert counts(out)["chains of thought"]["runs"] == 11
    assert counts(out)["pairs"]["left out: no transcript"] == 12  # a made partner has none
    assert "chains of thought are not the model's own (given)" in capsys.readouterr().out


@pytest.fixture
def chat_model(random_module: Callable[..., Any], bpe_tokenizer: Any) -> Any:
    return lb.hooks.load(
        random_module("qwen3", bpe_tokenizer, max_position_embeddings=512), tokenizer=bpe_tokenizer, format="chat"
    )


def test_a_model_that_says_nothing_of_use(tmp_path: Path, chat_model: Any, capsys: Said) -> None:
    out = tmp_path / "out"
    row = run_own_study(out, chat_model, "word-problems", **{**QUICK, "problems": 8, "pairs": 4}).iloc[0]
    assert row["CoT accuracy"].startswith("0.00") and row["tokens"] == "-"
    found = counts(out)
    runs = found["chains of thought"]
    assert runs["runs"] == runs["of problems"] > 8
    assert runs["chain of thought cut off"] + runs.get("finished with an answer", 0) <= runs["runs"]
    said = capsys.readouterr().out
    for step in ("channels", "ledger", "behaviour", "commitment"):
        assert f"- {step}: " in said


def test_a_gate_that_stops_ends_the_study(tmp_path: Path, tiny: Callable[[str], Any], sums: str) -> None:
    """A running mean of what came before, kept within a forward pass and lost between two segments."""
    healthy = tiny("qwen3")
    module = copy.deepcopy(healthy.module)

    def mix(_: Any, __: Any, hidden: Any) -> Any:
        return hidden + hidden.cumsum(1) / torch.arange(1, hidden.shape[1] + 1)[:, None]

    module.model.embed_tokens.register_forward_hook(mix)
    model = lb.hooks.load(module, tokenizer=healthy.tokenizer, format=healthy.format)
    with pytest.raises(GateError, match=r"own-cache splice = plain run: error"):
        run_own_study(tmp_path / "out", model, sums, **QUICK)
    assert not lb.load(tmp_path / "out" / "results" / "doctor.safetensors").healthy
    assert not (tmp_path / "out" / "table.txt").exists()


def test_a_killed_study_goes_on_and_ends_the_same(tmp_path: Path, sums: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = [sys.executable, "-m", "loadbearing.cli", "study", "--model", str(sft()), "--task", sums, "--quiet"]
    words += ["--problems", "24", "--pairs", "16", "--max-new-tokens", "16", "--out", str(killed)]
    words += ["--only", "channels,behaviour,patch"]
    quick = {**QUICK, "only": ("channels", "behaviour", "patch")}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list(killed.glob("results/*.safetensors")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = json.loads((killed / "study.json").read_text())["finished"]
    assert len(finished) < 4 and not (killed / "table.txt").exists()
    made = [path for name in ("runs", "results") for path in (killed / name).iterdir() if not path.name.startswith(".")]
    before = {path: path.stat().st_mtime_ns for path in made if path.parent.name == "runs" or path.stem in finished}
    assert any(path.parent.name == "runs" for path in before)
    with pytest.raises(InputError, match="exists and is not an empty folder: nothing was overwritten"):
        run_own_study(killed, sft(), sums, **quick)
    with pytest.raises(InputError, match=r"holds another study: options.pairs is 16 there and 12 here"):
        run_own_study(killed, sft(), sums, **{**quick, "pairs": 12}, resume=True)
    resumed = run_own_study(killed, sft(), sums, **quick, resume=True)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert resumed.equals(run_own_study(whole, sft(), sums, **quick, resume=True))  # of nothing: begins
    for name in ("table.txt", "table.json", "table.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    changed = Path(sums.removeprefix("jsonl:"))
    changed.write_text(changed.read_text().replace('"answer": "', '"answer": "1', 1))
    with pytest.raises(InputError, match="holds another study: questions is "):
        run_own_study(killed, sft(), sums, **quick, resume=True)


def test_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with (
        pytest.raises(InputError, match=r"holds no study to resume \(study.json is missing\)"),
        Folder.open(tmp_path, {}, resume=True),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


HOLD = """
import sys
from pathlib import Path
from loadbearing.cli.own_folder import Folder

with Folder.open(Path(sys.argv[1]), {"study": 1}, resume=False) as folder:
    folder.finish("doctor", {}, "told")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_study_folder_has_one_writer(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", HOLD, str(out)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        held = rf"the study in .*out is being written by process {process.pid} on .*; if that process is gone, delete"
        for resume in (True, False):
            with pytest.raises(InputError, match=held), Folder.open(out, {"study": 1}, resume):
                pass
        assert (out / "study.lock").exists()
        process.kill()
        process.wait()
    assert (out / "study.lock").exists()  # nobody could remove it
    with Folder.open(out, {"study": 1}, resume=True) as folder:
        assert folder.finished == {"doctor": "told"}
        with pytest.raises(InputError, match="is being written by process"), Folder.open(out, {"study": 1}, True):
            pass
    assert sorted(path.name for path in out.iterdir()) == ["study.json"]


def test_a_lock_of_another_machine_is_removed_by_hand(tmp_path: Path) -> None:
    for name in ("study.lock", ".study-abc.json"):
        (tmp_path / name).touch()
    (tmp_path / "study.lock").write_text("999999999\nelsewhere\n")
    held = r"process 999999999 on elsewhere; if that process is gone, delete .*study\.lock"
    with pytest.raises(InputError, match=held), Folder.open(tmp_path, {}, resume=False):
        pass
    (tmp_path / "study.lock").unlink()
    with Folder.open(tmp_path, {}, resume=False) as folder:
        assert folder.finished == {}


def test_a_study_that_is_declined_takes_no_step(tmp_path: Path, sums: str) -> None:
    asked: list[str] = []

    def decline(text: str) -> bool:
        asked.append(text)
        return False

    row = run_own_study(tmp_path / "out", sft(), sums, **QUICK, agree=decline)
    assert row.empty and asked[0].startswith("about ")
    assert not (tmp_path / "out" / "results").exists()


def test_as_many_as_there_are() -> None:
    def give(n: int) -> int:
        if n > 13:
            raise InputError("no more")
        return n

    assert [as_many(give, n) for n in (1, 13, 14, 64, 1000)] == [1, 13, 13, 13, 13]

    def nothing(n: int) -> int:
        raise InputError(f"{n} is too many")

    with pytest.raises(InputError, match="1 is too many"):
        as_many(nothing, 64)


def test_probes_need_values_that_repeat() -> None:
    problems = lb.tasks.load("modular-sum").problems(60)
    known, names = labelled(problems)
    assert (len(known), names) == (60, ["v_1", "v_2", "v_3"])
    half = [replace(problem, answer="") if i % 2 else problem for i, problem in enumerate(problems)]
    assert is_answer(half, "v_3") and not is_answer(half, "v_2")
    assert not is_answer([problem for problem in half if not problem.answer], "v_3")
    with pytest.raises(Exception, match="probes must see each value 4 times or more"):
        labelled(problems[:20])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cot": "given"}, "has no transcripts: give them in the field 'transcript'"),
        ({"cot": "task"}, "no gold chain of thought"),
        ({"cot": "mine"}, "unknown cot 'mine': expected one of model, task, given"),
        ({"only": ("ledgers",)}, "unknown step 'ledgers'"),
        ({"problems": 0}, "problems=0: expected 1 or more"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    options: dict[str, Any], message: str, tmp_path: Path, sums: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_own_study(tmp_path / "out", sft(), sums, **{**QUICK, **options})
    assert not (tmp_path / "out").exists()


def test_from_the_command_line(tmp_path: Path, sums: str, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    from loadbearing.cli import main

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["loadbearing", "study", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    out = str(tmp_path / "out")
    own = ["--model", str(sft()), "--task", sums, "--out", out, "--problems", "8", "--pairs", "8", "--quiet"]
    assert run(*own, "--only", "channels", "--max-new-tokens", "16", "--attention", "eager") == 0
    assert f"Table, results and figures: {out}" in capsys.readouterr().out
    assert json.loads(Path(out, "study.json").read_text())["identity"]["model"]["attention"] == "eager"
    assert run(*own, "--organisms", "sft") == 2
    assert "--organisms and --full are of the study of the debate" in capsys.readouterr().err
    assert run("--out", out, "--task", sums) == 2
    assert "are of a model of your own: name it with --model" in capsys.readouterr().err
