"""Organisms: what is shipped is what the specs say, and one command makes it again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.core import InputError, UnknownNameError
from loadbearing.organisms import ORGANISMS, HandSet, Part, Supervised, Trained
from loadbearing.organisms.data import IGNORED, Stream
from loadbearing.organisms.known import TRAINED as KNOWN
from loadbearing.organisms.specs import FORMAT
from loadbearing.tasks.problem import in_test_split

TRAINED = [spec.name for spec in KNOWN]
HANDSET = [name for name, spec in ORGANISMS.items() if isinstance(spec, HandSet)]


@pytest.mark.parametrize("name", [*TRAINED, *HANDSET])
def test_every_organism_is_shipped_with_its_card(name: str, organism: Callable[[str], Any]) -> None:
    card, spec = organism(name).card, ORGANISMS[name]
    assert (card.name, card.task, card.summary, card.modes) == (spec.name, spec.task, spec.summary, spec.modes)
    assert set(card.accuracy) == set(card.modes)
    assert min(card.accuracy.values()) >= 0.99
    if isinstance(spec, Trained):
        stage = spec.stages[-1]
        assert isinstance(stage, Supervised)
        parts = [part.write for part in stage.parts]
        written = card.recipe["stages"][-1]
        assert (written["updates"], [p["write"] for p in written["parts"]]) == (stage.updates, parts)
        assert card.curve[-1]["update"] == stage.updates
        assert sum(p.numel() for p in organism(name).module.parameters()) < 2e6


def test_all_weights_together_are_small() -> None:
    folder = lb.hooks.organism_folder("sft").parent
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 25e6


@pytest.mark.parametrize("name", TRAINED)
def test_held_out_accuracy_is_what_the_card_says(name: str, organism: Callable[[str], Any]) -> None:
    model = organism(name)
    for mode in model.card.modes:
        runs = lb.hooks.generate(model, model.task.problems(300, seed=7), mode, max_new_tokens=16)
        assert all(in_test_split(run.problem.key) for run in runs)
        # 300 of about 1,000 held-out problems: three standard errors of a rate of 0.99 are 0.017.
        assert runs.accuracy >= model.card.accuracy[mode] - 0.017


def test_training_examples_are_train_problems_rendered_like_measured_runs(word_tokenizer: Any) -> None:
    parts = tuple(Part("modular-sum:modulus=5", write) for write in ("nothing", "gold", "random", "dots"))
    spec = Supervised(parts, updates=2, batch=8)
    stream = Stream(spec, word_tokenizer, FORMAT, 0)
    assert not any(in_test_split(problem.key) for problem in stream.problems)
    rows = list(stream)
    assert len(rows) == 16
    texts = [word_tokenizer.decode(row["input_ids"], skip_special_tokens=False) for row in rows[:4]]
    assert " answer " in texts[0] and "think" not in texts[0]
    assert "think . . . answer" in texts[3]
    for row in rows:
        learnt = row["labels"] != IGNORED
        assert torch.equal(row["labels"][learnt], row["input_ids"][learnt])
        assert row["labels"][learnt][-1] == word_tokenizer.eos_token_id
    # In an answer-only example only the answer and its end are learnt; with a CoT the cue that follows it is too.
    assert [int((row["labels"] != IGNORED).sum()) for row in rows[:4]] == [2, 6, 6, 6]
    again = list(Stream(spec, word_tokenizer, FORMAT, 0))
    assert all(torch.equal(one["input_ids"], other["input_ids"]) for one, other in zip(rows, again, strict=True))


def test_easy_sums_come_first(word_tokenizer: Any) -> None:
    spec = Supervised((Part("modular-sum:modulus=5", "nothing"),), updates=2, batch=8, easy=0.5)
    stream = Stream(spec, word_tokenizer, FORMAT, 0)
    pool = stream.pools[0]
    mean_zeros = [
        float((weights * pool.easiness).sum())
        for progress in (0.0, 0.25, 0.5, 1.0)
        if (weights := stream.weights(pool, progress)) is not None
    ]
    assert mean_zeros[0] > 1.5 * mean_zeros[2]
    assert mean_zeros[2] == mean_zeros[3] == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("name", HANDSET)
def test_hand_set_weights_are_made_again_bit_for_bit(name: str, organism: Callable[[str], Any], tmp_path: Path) -> None:
    card = lb.organisms.train(name, tmp_path / name, progress=False)
    assert card.accuracy == {"cot": 1.0}
    again = lb.hooks.load(tmp_path / name)
    for key, weight in organism(name).module.state_dict().items():
        assert torch.equal(again.module.state_dict()[key], weight)


def test_training_refuses_to_overwrite_and_to_guess(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("mine")
    with pytest.raises(InputError, match="is not an empty folder: nothing was overwritten; choose another folder"):
        lb.organisms.train("copy-sum", tmp_path / "kept", progress=False)
    assert (tmp_path / "kept" / "file").read_text() == "mine"
    with pytest.raises(UnknownNameError, match=r"unknown organism 'copy-summ': .*nearest: 'copy-sum'"):
        lb.organisms.train("copy-summ", tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_a_short_training_writes_a_whole_organism(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    size: dict[str, Any] = {"layers": 1, "width": 16, "heads": 2}
    parts = tuple(Part("modular-sum:modulus=5", write) for write in ("nothing", "gold"))
    stage = Supervised(parts, updates=20, batch=32, easy=0.5)
    spec = Trained("brief", "A few updates.", (stage,), "modular-sum:modulus=5", None, ("answer-only", "cot"), **size)
    monkeypatch.setitem(ORGANISMS, "brief", spec)
    card = lb.organisms.train("brief", tmp_path / "brief", progress=False)
    assert len(card.curve) == 10
    assert card.curve[-1]["loss"] < card.curve[0]["loss"]
    assert set(card.accuracy) == {"answer-only", "cot"}
    assert not (tmp_path / "brief" / "scratch").exists()
    model = lb.hooks.load(tmp_path / "brief")
    assert model.card == card
    assert not model.module.training


@pytest.mark.slow
def test_one_command_makes_sft_again(organism: Callable[[str], Any], tmp_path: Path) -> None:
    card = lb.organisms.train("sft", tmp_path / "sft", progress=False)
    assert abs(card.accuracy["cot"] - organism("sft").card.accuracy["cot"]) <= 0.005
    again: Any = lb.hooks.load(tmp_path / "sft")
    found = lb.analyses.channels(again, again.task.pairs(32))
    np.testing.assert_allclose(found.shares(), [0, 0, 1], atol=0.05)
