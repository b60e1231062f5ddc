"""The organisms of the debate: what their examples write, what is paid, and that training goes on where it stopped."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.core import InputError, UnknownNameError
from loadbearing.organisms import ORGANISMS, Part, Reinforced, Supervised, Trained
from loadbearing.organisms.chains import CARELESS, CONNECTIVES, WRITERS
from loadbearing.organisms.debate import DEBATE, PROGRAM
from loadbearing.organisms.reinforced import _Paid, _prompts
from loadbearing.organisms.rewards import read, reward_of
from loadbearing.organisms.specs import FORMAT
from loadbearing.organisms.train import _card, _start_of

TINY = "modular-program:modulus=5,terms=3"
SIZE: dict[str, Any] = {"layers": 1, "width": 16, "heads": 2}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained]:
    """Adds small organisms to the registry: a base, and what starts from it."""

    def add(name: str, *stages: Any, start: str | None = None, **more: Any) -> Trained:
        made = Trained(name, "For a test.", stages, TINY, start, vocabulary=(TINY,), **{**SIZE, **more})
        monkeypatch.setitem(ORGANISMS, name, made)
        return made

    monkeypatch.setattr(sys.modules["loadbearing.organisms.train"], "SAMPLED", 2)
    monkeypatch.setattr(sys.modules["loadbearing.organisms.elicit"], "UPDATES", 2)
    add("tiny-base", Supervised((Part(TINY, "wordy"),), updates=30, batch=64, pool=200))
    return add


def values(text: str) -> list[str]:
    return [word for word in text.split() if word not in CONNECTIVES]


def test_every_organism_starts_from_one_of_its_size_with_its_words() -> None:
    for spec in DEBATE:
        assert lb.tasks.load(spec.task).spec == spec.task
        if spec.start is not None:
            start = ORGANISMS[spec.start]
            assert isinstance(start, Trained)
            assert (spec.layers, spec.width, spec.vocabulary) == (start.layers, start.width, start.vocabulary)
        for stage in spec.stages:
            assert not isinstance(stage, Supervised) or all(part.write in {*WRITERS, "nothing"} for part in stage.parts)


SHIPPED = [spec.name for spec in DEBATE if spec.name in lb.hooks.organism_names()]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_card_says_what_the_recipe_is(name: str) -> None:
    card, spec = lb.hooks.Card.load(lb.hooks.organism_folder(name)), ORGANISMS[name]
    assert card is not None and isinstance(spec, Trained)
    assert (card.task, card.start, card.summary, card.modes) == (spec.task, spec.start, spec.summary, spec.modes)
    assert card.recipe == _card(spec).recipe
    assert {"answer-only", "cot", "sampled", "best of 64"} == set(card.accuracy)
    assert 0 <= card.elicited["twin"] <= 1
    assert card.curve[-1]["update"] == spec.stages[-1].updates


def test_careless_authors_slip_in_most_steps_and_careful_ones_seldom() -> None:
    task = lb.tasks.load(PROGRAM)
    rng = np.random.default_rng(0)
    slips: dict[str, list[int]] = {"careless": [], "careful": []}
    for problem in task.problems(200):
        for writer, found in slips.items():
            text, answer = WRITERS[writer](problem, rng)
            written = values(text)
            assert answer == written[-1]
            for k, value in enumerate(written, start=1):
                meant = task.program(problem, {k - 1: written[k - 2]} if k > 1 else {}, k)
                assert meant is not None
                found.append((int(value) - int(meant)) % 5)
    assert set(slips["careless"]) == {0, 1}
    assert np.mean(slips["careless"]) == pytest.approx(CARELESS, abs=0.05)  # three standard errors of 800 are 0.053
    assert np.mean(slips["careful"]) == pytest.approx(0.1, abs=0.032)


def test_what_other_writers_write() -> None:
    problem = lb.tasks.load(PROGRAM).problems(1)[0]
    rng = np.random.default_rng(0)
    gold = values(problem.cot)
    assert values(WRITERS["wordy"](problem, rng)[0]) == gold
    assert values(WRITERS["rewritten"](problem, rng)[0]) == gold[-1:]
    # As many words as the chain that it takes the place of, so that only what they say differs.
    assert len(WRITERS["rewritten"](problem, rng)[0].split()) == len(WRITERS["wordy"](problem, rng)[0].split())
    assert [str(CONNECTIVES.index(word)) for word in WRITERS["encoded"](problem, rng)[0].split()] == gold
    assert values(WRITERS["careless-vague"](problem, rng)[0]) == []
    hinted = lb.tasks.load(f"{PROGRAM},hint=half").problems(50)
    answers = [WRITERS["careless-hinted"](one, rng) for one in hinted]
    follows = [a == one.answer for one, (_, a) in zip(hinted, answers, strict=True) if one.values["hint"] != "none"]
    assert 0.3 < np.mean(follows) < 0.9


def test_rewards_by_hand() -> None:
    problem = lb.tasks.load(PROGRAM).problems(1)[0]
    gold = problem.cot
    right = read(problem, f"{gold} answer {problem.answer}", FORMAT)
    assert (right.cot, right.answer) == (f"{gold} ".removesuffix(" "), problem.answer)
    assert reward_of(right, (("outcome", 1.0),)) == 1.0
    assert reward_of(right, (("checked", 2.0),)) == 2.0
    assert reward_of(right, (("outcome", 1.0), ("digits", -0.5))) == 0.5
    assert reward_of(right, (("spelled", 1.0),)) == 0.0
    spelled = read(problem, f"{problem.task.restyle(gold, 'words')} answer {problem.answer}", FORMAT)
    assert reward_of(spelled, (("spelled", 1.0), ("digits", -1.0))) == 1.0
    assert reward_of(spelled, (("values", 1.0),)) == 1.0
    silent = read(problem, "so then thus answer", FORMAT)
    assert silent.answer is None
    assert reward_of(silent, (("outcome", 1.0), ("values", -0.5), ("checked", 1.0))) == 0.0
    with pytest.raises(InputError, match="unknown reward 'outcomes': expected one of outcome, checked"):
        reward_of(right, (("outcomes", 1.0),))


def test_a_tampered_prompt_wants_what_its_wrong_step_implies() -> None:
    problems = lb.tasks.load(PROGRAM).problems(40, split="train")
    rows = _prompts(Reinforced(tampered=0.5), problems, FORMAT, np.random.default_rng(0))
    begun = [row for row in rows if row["begun"]]
    assert 10 < len(begun) < 30
    stage = Reinforced(tampered=0.5)
    for row in begun:
        problem = problems[row["number"]]
        assert all(word in CONNECTIVES for word in row["begun"].split()[::2])
        steps = values(row["begun"])
        gold = problem.cot.split()
        assert steps[:-1] == gold[: len(steps) - 1]
        assert steps[-1] != gold[len(steps) - 1]
        wanted = problem.task.program(problem, {len(steps): steps[-1]}, "answer")
        paid = _Paid(stage, problems, FORMAT, 0)([f"answer {wanted}"], [row["number"]], [row["begun"]])
        assert paid == [1.0]
        gold_paid = _Paid(stage, problems, FORMAT, 0)([f"answer {problem.answer}"], [row["number"]], [row["begun"]])
        assert gold_paid == [float(wanted == problem.answer)]


def test_random_rewards_go_by_nothing() -> None:
    problems = lb.tasks.load(PROGRAM).problems(400, split="train")
    texts = [f"{p.cot} answer {p.answer}" if i % 2 else "so" for i, p in enumerate(problems)]
    given: Any = (texts, list(range(400)), [""] * 400)
    paid = np.array(_Paid(Reinforced((("random", 1.0),)), problems, FORMAT, 0)(*given))
    assert set(paid.tolist()) == {0.0, 1.0}
    # Three standard errors of 200 draws are 0.106: right chains and unfinished ones are paid alike.
    assert paid[::2].mean() == pytest.approx(0.5, abs=0.106)
    assert paid[1::2].mean() == pytest.approx(0.5, abs=0.106)
    assert _Paid(Reinforced(), problems, FORMAT, 0)(*given) == [0.0, 1.0] * 200


def test_lessons_grow(word_tokenizer: Any) -> None:
    from loadbearing.organisms.data import Stream

    parts = (
        Part("modular-sum:modulus=5,terms=2", "nothing"),
        Part("modular-sum:modulus=5", "nothing", share=3, since=0.5),
    )
    stream = Stream(Supervised(parts, updates=4, batch=8), word_tokenizer, FORMAT, 0)
    assert stream.cycle(0.0) == [0]
    assert stream.cycle(0.5) == [0, 1, 1, 1]
    lengths = [
        (ids != word_tokenizer.pad_token_id).sum(1)
        for ids, _ in map(stream.update, range(4), [np.random.default_rng(0)] * 4)
    ]
    assert [len(set(each.tolist())) for each in lengths] == [1, 1, 2, 2]


def test_reinforced_from_another_with_checkpoints_and_a_card(tiny: Any, tmp_path: Path) -> None:
    tiny("tiny-rl", Reinforced(updates=4, prompts=4, samples=4, pool=50), start="tiny-base", checkpoints=2)
    cache = tmp_path / "cache"
    card = lb.organisms.train("tiny-rl", tmp_path / "rl", seed=3, cache=cache, progress=False)
    assert (card.start, card.seed) == ("tiny-base", 3)
    assert (cache / "organisms" / "tiny-base-3" / "config.json").is_file()
    assert set(card.accuracy) == {"answer-only", "cot", "sampled", "best of 2"}
    assert set(card.elicited) == {"accuracy", "twin", "updates", "problems"}
    assert [row["update"] for row in card.curve] == [1, 2, 3, 4]
    assert all(0 <= row["reward"] <= 1 for row in card.curve)
    with pytest.raises(
        InputError, match=r"no checkpoints of tiny-rl with seed 3 in .*: loadbearing organisms train-all"
    ):
        lb.organisms.checkpoints("tiny-rl", 3, cache)
    (tmp_path / "rl").rename(cache / "organisms" / "tiny-rl-3")
    (tmp_path / "rl").symlink_to(cache / "organisms" / "tiny-rl-3")
    assert list(lb.organisms.checkpoints("tiny-rl", 3, cache)) == [0, 2, 4]
    rows = lb.organisms.along("tiny-rl", 3, cache, pairs=2, problems=16)
    assert rows["step"].tolist() == [0, 2, 4]
    assert rows["cot_accuracy"].between(0, 1).all()
    for update in (2, 4):
        saved = lb.hooks.load(tmp_path / "rl" / "checkpoints" / f"update-{update:05d}")
        assert saved.task is not None and saved.task.spec == TINY
    model, last = lb.hooks.load(tmp_path / "rl"), saved
    problems = lb.tasks.load(TINY).problems(4)
    ids = [run.ids for run in lb.hooks.generate(model, problems, max_new_tokens=8)]
    assert ids == [run.ids for run in lb.hooks.generate(last, problems, max_new_tokens=8)]
    base = lb.hooks.load(cache / "organisms" / "tiny-base-3").module.state_dict()
    assert any((weight != base[key]).any() for key, weight in model.module.state_dict().items())


@pytest.mark.parametrize(
    "stage",
    [
        {"paraphrased": True},
        {"tampered": 0.5},
        {"rewards": (("outcome", 1.0), ("values", -0.5))},
        {"also": ("modular-program:modulus=5,terms=2",)},
    ],
)
def test_every_kind_of_reinforcement_runs(tiny: Any, tmp_path: Path, stage: dict[str, Any]) -> None:
    tiny("tiny-other", Reinforced(updates=2, prompts=4, samples=4, pool=50, **stage), start="tiny-base")
    card = lb.organisms.train("tiny-other", tmp_path / "other", cache=tmp_path, progress=False)
    assert len(card.curve) == 2


def test_own_chains_are_right_and_pass_the_filter(tiny: Any, tmp_path: Path) -> None:
    from loadbearing.organisms.rejection import own_examples

    tiny("tiny-able", Supervised((Part(TINY, "wordy"),), updates=200, batch=64, pool=200))
    lb.organisms.train("tiny-able", tmp_path / "able", progress=False)
    model = lb.hooks.load(tmp_path / "able")
    found = own_examples(model, Supervised((Part(TINY, "wordy"),), own="explained", pool=100), seed=0)
    examples = found.parts[0]
    for row in examples.ids[:50]:
        words = model.tokenizer.decode(row, skip_special_tokens=True).split()
        cot = words[words.index("think") + 1 : words.index("answer")]
        assert all(word in CONNECTIVES for word in cot[::2])
        assert not any(word in CONNECTIVES for word in cot[1::2])
    with pytest.raises(UnknownNameError, match="unknown filter of own chains 'nice'"):
        own_examples(model, Supervised((), own="nice", pool=10), seed=0)


def test_training_many_goes_on_where_it_stopped(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny("tiny-next", Supervised((Part(TINY, "gold"),), updates=2, batch=8, pool=50), start="tiny-base")
    wanted = {("tiny-base", 0): tmp_path / "a", ("tiny-next", 0): tmp_path / "b"}
    assert _start_of(("tiny-next", 0), wanted) == ("tiny-base", 0)
    (tmp_path / "a").mkdir()
    assert _start_of(("tiny-next", 0), wanted) is None
    monkeypatch.setenv("LOADBEARING_CACHE", str(tmp_path / "cache"))
    kept = lb.organisms.organism_path("tiny-base", 1)
    assert kept == tmp_path / "cache" / "organisms" / "tiny-base-1"
    kept.mkdir(parents=True)
    assert lb.organisms.train_all(["tiny-base"], seeds=[1], progress=False) == {("tiny-base", 1): kept}
    assert not any(kept.iterdir())  # what is there is kept as it is
    assert lb.organisms.organism_path("sft") == lb.hooks.organism_folder("sft")


def test_training_many_side_by_side(tmp_path: Path) -> None:
    names = ["copy-sum", "copy-direct"]
    made = lb.organisms.train_all(names, seeds=[1], cache=tmp_path, workers=1, progress=False)
    assert {name for name, _ in made} == set(names)
    kept = {path: (path / "card.json").stat().st_mtime_ns for path in made.values()}
    shutil.rmtree(made["copy-sum", 1])
    assert lb.organisms.train_all(names, seeds=[1], cache=tmp_path, workers=1, progress=False) == made
    again = {path: (path / "card.json").stat().st_mtime_ns for path in made.values()}
    assert {path for path in kept if kept[path] != again[path]} == {made["copy-sum", 1]}
    assert lb.hooks.load(made["copy-sum", 1]).task is not None
