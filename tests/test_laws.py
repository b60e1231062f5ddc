"""The example of laws: its task, its training, what it counts in attention, what it says, what it draws."""

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import loadbearing as lb
from loadbearing.core import InputError, UnknownNameError
from loadbearing.organisms.specs import FORMAT
from loadbearing.organisms.tokenizer import build_tokenizer
from loadbearing.tasks.registry import TASKS


@pytest.fixture(scope="module")
def models(root: Path) -> Iterator[Any]:
    """`examples/laws_models.py`, which is no part of the package; its task is forgotten afterwards."""
    sys.path.insert(0, str(root / "examples"))
    yield importlib.import_module("laws_models")
    sys.path.remove(str(root / "examples"))
    for name in ("laws", "laws_figure", "laws_models"):
        sys.modules.pop(name, None)
    del TASKS["match3"]


@pytest.fixture(scope="module")
def laws(models: Any) -> Any:
    """`examples/laws.py`."""
    return importlib.import_module("laws")


# --- the task of our own


def test_match3_says_whether_three_add_up_and_writes_every_sum_of_two(models: Any) -> None:
    task: Any = lb.tasks.load("match3:terms=4,modulus=10")
    yes, no = task.problem((1, 2, 7, 9)), task.problem((1, 1, 1, 1))  # 1 + 2 + 7 = 10
    assert (yes.prompt, yes.cot, yes.answer) == ("1 2 7 9", " 3 8 0 9 1 6", "1")
    assert (no.cot, no.answer) == (" 2 2 2 2 2 2", "0")
    assert task.parse_answer(" 1") == "1" and task.parse_answer(" ") is None
    with pytest.raises(InputError, match="makes no pairs"):
        task.pairs(2)


def test_match3_draws_as_many_of_each_answer_and_keeps_the_splits_apart(models: Any) -> None:
    task = lb.tasks.load("match3:terms=5,modulus=7")
    train, test = task.problems(200, seed=3, split="train"), task.problems(100, seed=3)
    assert [sum(p.answer == "1" for p in part) for part in (train, test)] == [100, 50]
    assert len({p.key for p in (*train, *test)}) == 300
    for problem in test:  # an independent count
        numbers = [int(word) for word in problem.prompt.split()]
        found = any((a + b + c) % 7 == 0 for a, b, c in itertools.combinations(numbers, 3))
        assert problem.answer == str(int(found))


# --- cells


TINY: dict[str, Any] = {"task": "modular-sum:modulus=5", "layers": 2, "updates": 2, "width": 8, "heads": 2}


def test_a_longer_lesson_joins_later_and_weighs_more(models: Any) -> None:
    cell = models.Cell("serial", lengths="2 3 5", arm="both", **TINY)
    parts = models.lessons(cell)
    assert [(part.task[-1], part.write, part.share) for part in parts] == [
        (length, write, share) for length, share in (("2", 1), ("3", 2), ("5", 3)) for write in ("nothing", "gold")
    ]
    assert [part.since for part in parts[::2]] == [0, 1 / 6, 2 / 6]
    assert list(cell.problems) == [5] and list(replace(cell, asked="3 4").problems) == [3, 4]
    held_out, few = (replace(cell, asked=str(n)).problems[n] for n in (4, 2))
    assert {p.key for p in held_out} == {p.key for p in lb.tasks.load(cell.spec(4)).all_problems("test")}
    assert len(held_out) >= models.LEAST and len(few) == 25  # of so few, all: some were trained on
    assert models.Cell("serial", "permutations", "4", "CoT", 1, 2).spec(4) == "permutations:length=4"


def test_a_trained_cell_gives_its_table_and_the_same_one_again(
    models: Any, laws: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "ASKED", 6)
    cell = models.Cell("iteration", lengths="3 4", arm="CoT", **TINY)
    one, other = models.train(cell), models.train(cell)
    assert one.drop(columns="seconds").equals(other.drop(columns="seconds"))
    assert list(one.columns) == models.COLUMNS and set(one["n"]) == {6} and one["value"].between(0, 1).all()
    maps = one[one["measure"].str.match("layer 2, step 1 to")]
    assert len(maps) == 11 and 0.5 < maps["value"].sum() < 1  # from <bos> to "think"; the rest is on the first step
    assert "untrained layer 1, operand" in laws.shown(one) and ", step " not in laws.shown(one)


# --- what is counted


def test_answers_come_from_every_way_of_asking(
    models: Any, organism: Callable[[str], Any], scripted: Callable[..., Any]
) -> None:
    problems = lb.tasks.load("modular-sum").problems(8)
    gold = [problem.answer for problem in problems]
    assert models.answers(organism("both"), problems, "answer") == gold
    assert models.answers(organism("both"), problems, "CoT") == gold
    assert models.answers(scripted("chain"), problems, "dots") == gold  # from the prompt, since dots say no number
    assert models.answers(scripted("constant"), problems, "CoT") == ["5"] * 8


def test_same_counts_equal_answers_right_or_wrong(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "ASKED", 4)
    cell = models.Cell("same", lengths="4", arm="both", **TINY)
    gold = [problem.answer for problem in cell.problems[4]]
    wrong = [str((int(answer) + 1) % 5) for answer in gold]
    said = {"answer": [gold[0], wrong[1], wrong[2], None], "CoT": [gold[0], wrong[1], gold[2], gold[3]]}
    monkeypatch.setattr(models, "answers", lambda model, problems, way: said[way])
    assert models.accuracies(None, cell) == [(4, "answer", 0.25, 4), (4, "CoT", 0.75, 4), (4, "same", 0.5, 4)]


SPANS = {"open": (9, 10)} | {f"operand.{k}": (2 * k - 1, 2 * k) for k in range(1, 5)}
SPANS |= {f"step.{k}": (9 + k, 10 + k) for k in range(1, 4)}


def iterating(runs: int = 3, aside: float = 0.0) -> Any:
    """A pattern whose steps attend to the operand that comes next, but for what goes to the mark."""
    pattern = np.zeros((runs, 14, 14))
    for k in (1, 2):
        pattern[:, 9 + k, 2 * (k + 2) - 1] = 1 - aside
        pattern[:, 9 + k, 9] = aside
    return pattern


def test_masses_of_patterns_made_by_hand(models: Any) -> None:
    perfect = models.masses(iterating(), SPANS, 4)
    assert (perfect["operand"], perfect["operand > .5"], perfect["open"]) == (1, 1, 0)
    assert perfect["step 1 to 5"] == 1 and perfect["step 2 to 7"] == 1 and perfect["step 2 to 5"] == 0
    half = models.masses(np.concatenate([iterating(), iterating(aside=0.75)]), SPANS, 4)
    assert (half["operand"], half["operand > .5"], half["open"]) == (0.625, 0.5, 0.375)
    uniform = models.masses(np.full((2, 14, 14), 1 / 14), SPANS, 4)
    assert uniform["operand"] == pytest.approx(1 / 14) and uniform["operand > .5"] == 0
    late = models.masses(np.roll(iterating(), 2, axis=2), SPANS, 4)  # the operand after the next
    assert late["operand"] == 0


def test_attention_is_read_where_transformers_says_it_is(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "ASKED", 5)
    cell = models.Cell("iteration", lengths="5", arm="CoT", **TINY)
    tokenizer = build_tokenizer(lb.tasks.load(cell.spec(5)), FORMAT)
    module = models.new_model(cell, tokenizer).eval()
    with torch.no_grad():  # larger weights, so that attention is not even
        for weight in module.parameters():
            weight.mul_(10)
    model = lb.hooks.load(module, tokenizer=tokenizer, format=FORMAT)
    found = {row[1]: row[2] for row in models.heads_of(model, cell, "")}
    runs = lb.hooks.replay_gold(model, cell.problems[5])
    with torch.no_grad():
        own = module(torch.tensor([run.ids for run in runs]), output_attentions=True).attentions
    for layer, pattern in enumerate(own, start=1):
        wanted = [pattern.mean(1)[:, runs[0].spans[f"step.{k}"][0], 2 * (k + 2) - 1] for k in (1, 2, 3)]
        assert found[f"layer {layer}, operand"] == pytest.approx(float(torch.stack(wanted).mean()), abs=1e-5)
    assert abs(found["layer 1, operand"] - found["layer 2, operand"]) > 1e-3


# --- what is said


def table_of(models: Any, laws: Any, law: str, value: Callable[[Any, int, str], float], n: int = 500) -> pd.DataFrame:
    """The table of a law's cells, as if measured: `value(cell, length, measure)` of each rate."""
    rows = []
    for cell in laws.CELLS[law]:
        measures = list(models.ARMS[cell.arm][1]) + ["same"] * (law == "same")
        lengths = [int(length) for length in cell.asked.split()] or cell.trained[-1:]
        found = [(length, measure, value(cell, length, measure), n) for length in lengths for measure in measures]
        for length, (start, layer) in itertools.product(lengths, itertools.product(("", "untrained "), (1, 2))):
            if law == "iteration" and layer <= cell.layers:
                name = f"{start}layer {layer}, "
                found.append((length, f"{name}operand", value(cell, length, f"{name}operand"), n))
                steps = itertools.product(range(1, length - 1), range(2 * length + 3))
                found += [(length, f"{name}step {k} to {at}", 0.9 * (at == 2 * k + 3), n) for k, at in steps]
        rows += [(*astuple(cell), 1000 * cell.layers * cell.width, *row, 1) for row in found]
    return pd.DataFrame(rows, columns=models.COLUMNS)


def as_expected(cell: Any, length: int, measure: str) -> float:
    """Every law as the literature has it."""
    if measure == "CoT":
        return float(cell.law != "iteration" or cell.layers == 2)
    if cell.law == "serial":
        return 0.3 * cell.layers if "permutations" in cell.task else 0.98
    if cell.law == "filler":
        return 0.95 if "match3" in cell.task and measure == "dots" else 0.6
    if cell.law == "parity":
        return 0.9 if length < 12 else 0.5
    if cell.law == "iteration":
        return 0.9 if measure == "layer 2, operand" else 0.1
    return 0.2 + 0.05 * (6 - length) + 0.002 * float(cell.width * cell.layers)


def all_alike(cell: Any, length: int, measure: str) -> float:
    """Nothing differs from anything, whatever is asked."""
    return 0.55


@pytest.mark.parametrize("law", ["serial", "filler", "parity", "iteration", "same"])
def test_a_law_holds_where_it_does_and_not_where_nothing_differs(models: Any, laws: Any, law: str) -> None:
    claims = list(laws.LAWS[law](table_of(models, laws, law, as_expected)))
    assert claims and all(held for _, held in claims)
    assert laws.verdict(claims).endswith("the law held") and "  yes " in laws.verdict(claims)
    claims = list(laws.LAWS[law](table_of(models, laws, law, all_alike)))
    assert not all(held for _, held in claims) and "  NO  " in laws.verdict(claims)


def test_the_whole_verdict_in_a_word(laws: Any) -> None:
    assert laws.verdict([("one", True), ("other", False)]) == "  yes one\n  NO  other\nthe law held in part"
    assert laws.verdict([("one", False)]).endswith("the law did not hold")


def test_a_gain_is_claimed_only_beyond_both_intervals(laws: Any) -> None:
    assert laws.gain((0.8, 1.0), (0.1, 0.3)) == pytest.approx((0.5, 0.9))


# --- the command


def test_only_missing_cells_are_trained(
    models: Any, laws: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(models, "ASKED", 4)
    monkeypatch.setattr(laws, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    one, other = (models.Cell("parity", lengths="3 4", arm=arm, **TINY) for arm in ("answer", "CoT"))
    first = laws.grown(tmp_path / "t.csv", [one], 1)
    both = laws.grown(tmp_path / "t.csv", [one, other], 2)
    assert set(first["arm"]) == {"answer"} and list(both["arm"]) == ["answer", "CoT"]
    monkeypatch.setattr(laws, "ProcessPoolExecutor", None)  # whoever trains now fails
    assert laws.grown(tmp_path / "t.csv", [one, other], 1).equals(laws.grown(tmp_path / "t.csv", [one, other], 1))
    assert list(laws.grown(tmp_path / "t.csv", [other], 1)["arm"]) == ["CoT"]  # others in the file are left out
    with pytest.raises(TypeError):
        laws.grown(tmp_path / "t.csv", [replace(one, seed=7)], 1)


def test_each_figure_is_drawn_from_its_table_without_training(
    models: Any, laws: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    for law in laws.LAWS:
        table_of(models, laws, law, as_expected).to_csv(tmp_path / f"{law}.csv", index=False)
    monkeypatch.setattr(laws, "ProcessPoolExecutor", None)
    laws.main("all", out=tmp_path)
    assert capsys.readouterr().out.count("the law held") == 5
    for law in laws.LAWS:
        assert (tmp_path / f"{law}.png").stat().st_size > 10_000 and (tmp_path / f"{law}.pdf").is_file()
    with pytest.raises(UnknownNameError, match="law 'gravity'"):
        laws.main("gravity", out=tmp_path)


def test_figures_show_the_rates_of_the_table(models: Any, laws: Any) -> None:
    first = laws.DRAWN["serial"](table_of(models, laws, "serial", as_expected))
    assert first.figure.get_size_inches()[0] == 3.25 and len(first.figure.axes) == 2
    drawn = [list(container[0].get_ydata()) for container in first.figure.axes[1].containers]
    depths = sorted({cell.layers for cell in laws.CELLS["serial"]})
    assert drawn == [[1] * len(depths), pytest.approx([0.3 * depth for depth in depths])]
    maps = laws.DRAWN["iteration"](table_of(models, laws, "iteration", as_expected))
    shown = maps.images[0].get_array()
    assert shown.shape == (6, 19) and shown[0, 5] == pytest.approx(0.9) and shown.sum() == pytest.approx(0.9 * 6)
