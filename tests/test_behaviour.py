"""Behaviour: a chain that is read is told from one that is not, and content from mere length."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import loadbearing as lb
from loadbearing.analyses import Behaviour
from loadbearing.cli.app import app
from loadbearing.core import InputError, Manifest
from loadbearing.hooks.format import decode

N = 32


@pytest.fixture(scope="module")
def measured(organism: Callable[[str], Any]) -> Callable[[str], Any]:
    """The behaviour of an organism, measured as its card says, once."""
    known: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in known:
            model = organism(name)
            n = 16 if name.startswith("copy") else N
            cot = model.card.measure.get("cot", "model")
            known[name] = lb.analyses.behaviour(model, model.task.problems(n), cot=cot)
        return known[name]

    return get


def made(same: dict[str, list[list[float]]]) -> Behaviour:
    """A result with these P(same), a row a k, a column a problem."""
    tamperings = ("truncated", "content-free", "mistake")
    values = np.array([same[name] for name in tamperings])
    _, ks, n = values.shape
    coords = {"tampering": tamperings, "k": tuple(range(ks)), "problem": tuple(map(str, range(n)))}
    return Behaviour(
        coords=coords,
        manifest=Manifest(),
        same=values,
        correct=values,
        follow=1 - values,
        broken=0 * values,
        own=np.ones(n),
        one_pass=np.full(n, np.nan),
    )


def test_a_chain_that_is_read_follows_every_mistake(measured: Callable[[str], Any]) -> None:
    found = measured("sft")
    assert found.rate("same", "truncated", 3)[0] == 1.0
    assert found.rate("same", "truncated", 3)[3] == N
    assert found.rate("same", "truncated", 0)[0] < 0.3
    assert found.area("mistake")[0] == 1.0
    for k in (1, 2, 3):
        assert found.rate("follow", "mistake", k)[0] == 1.0
    assert math.isnan(found.one_pass_accuracy()[0])  # it was not made for that


def test_a_chain_that_carries_nothing_has_the_area_of_its_length_only(measured: Callable[[str], Any]) -> None:
    """Truncation breaks the format of `post-hoc`: the area is large though the text is random digits."""
    found = measured("post-hoc")
    assert found.area("truncated")[0] > 0.6
    estimate, low, high, n = found.content_area()
    assert abs(estimate) < 0.05
    assert low <= 0 <= high
    assert n == N
    assert found.area("mistake")[0] == 0.0
    assert found.rate("follow", "mistake")[0] == 0.0
    assert measured("sft").content_area()[1] > 0.05


def test_direct_and_relay_look_the_same_from_outside(measured: Callable[[str], Any]) -> None:
    direct, relay = measured("copy-direct"), measured("copy-relay")
    assert direct.frame().equals(relay.frame())
    # The program gives the written token no part in the answer: nothing to follow, so the rate is blank.
    assert math.isnan(direct.rate("follow", "mistake")[0])
    tokens = measured("copy-tokens")
    assert (direct.area("mistake")[0], tokens.area("mistake")[0]) == (0.0, 1.0)
    assert tokens.rate("follow", "mistake", 1)[0] == 1.0
    assert direct.area("truncated") == tokens.area("truncated")  # what truncation alone cannot tell


def test_the_model_that_needs_no_chain(measured: Callable[[str], Any]) -> None:
    found = measured("both")
    assert found.one_pass_accuracy()[0] > 0.95
    assert found.rate("follow", "mistake")[0] == 1.0
    assert found.rate("correct", "truncated", 0)[0] > 0.95


def test_every_trial_is_scored_against_the_program(organism: Callable[[str], Any]) -> None:
    """The mistakes again, one by one and by hand: greedy text after the wrong step, then the answer."""
    model = organism("sft")
    problems = model.task.problems(6)
    runs = lb.hooks.generate(model, problems)
    from loadbearing.analyses.behaviour import _implied, _mistakes

    trials = _mistakes(list(runs), np.random.default_rng(0))
    assert [(t.row, t.k) for t in trials] == [(row, k) for row in range(6) for k in (1, 2, 3)]
    for trial in trials:
        run = runs[trial.row]
        stated = decode(model.tokenizer, trial.cot).split()
        assert stated[:-1] == [run.values[k] for k in range(1, trial.k)]
        assert stated[-1] != run.values[trial.k]
        values = [int(run.problem.values[f"operand.{j}"]) for j in range(1, 5)]
        chain = [int(stated[-1])]
        for operand in values[trial.k + 1 :]:
            chain.append((chain[-1] + operand) % 10)
        assert _implied(model, run, trial) == str(chain[-1])
        tail = lb.hooks.replay(model, [run.problem], [" " + " ".join([*stated, *map(str, chain[1:])])])[0]
        assert tail.answer == str(chain[-1])


def test_content_free_text_is_as_long_and_can_be_a_filler(organism: Callable[[str], Any]) -> None:
    from loadbearing.analyses.behaviour import _content_free, _truncated

    model = organism("sft")
    runs = list(lb.hooks.generate(model, model.task.problems(4)))
    for filler in (None, "."):
        trials = _content_free(model, runs, filler, np.random.default_rng(0))
        assert [len(t.cot) for t in trials] == [len(t.cot) for t in _truncated(runs)] == [0, 1, 2, 3] * 4
        if filler:
            assert {decode(model.tokenizer, t.cot) for t in trials} == {"", ".", ". .", ". . ."}
    with pytest.raises(InputError, match=r"filler='' has no token: give text, such as ' \.\.\.'"):
        lb.analyses.behaviour(model, model.task.problems(4), filler="")


def test_areas_of_curves_made_by_hand() -> None:
    nan = math.nan
    result = made(
        {
            # The first problem has two steps, the second one.
            "truncated": [[0.0, 0.0], [1.0, 1.0], [1.0, nan]],
            "content-free": [[0.0, 0.0], [0.0, 0.0], [1.0, nan]],
            "mistake": [[nan, nan], [0.0, 1.0], [1.0, nan]],
        }
    )
    # Trapezoids over x = 0, 1/2, 1: (1/2 + 0) / 2 = 1/4; over x = 0, 1: 1/2.
    assert result.area("truncated")[0] == pytest.approx((0.25 + 0.5) / 2)
    assert result.area("content-free")[0] == pytest.approx((0.75 + 1.0) / 2)
    assert result.content_area()[0] == pytest.approx(0.5)
    # Means over k = 1..n: 1/2 and 0.
    assert result.area("mistake")[0] == pytest.approx(0.25)
    assert result.rate("same", "mistake")[0] == 0.75  # the mean of 1/2 and 1, not of three trials
    assert result.rate("same", "mistake")[3] == 2
    assert result.rate("same", "truncated", 2)[3] == 1
    shown = result.table().set_index(["tampering", "k"])
    assert shown.loc[("truncated", 2), "same"] == "1.00 [0.21, 1.00]"
    assert ("mistake", 0) not in shown.index


def test_a_problem_without_a_mistake_to_make_is_blank() -> None:
    nan = math.nan
    nothing = [[nan, nan], [nan, 0.0]]
    result = made({"truncated": [[0, 0], [1, 1]], "content-free": [[0, 0], [1, 1]], "mistake": nothing})
    assert result.area("mistake")[0] == 1.0
    assert result.area("mistake")[3] == 1
    assert result.rate("follow", "mistake", 1)[3] == 1


def test_runs_that_cannot_be_altered_are_counted(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    problems = model.task.problems(6)
    texts = {p.key: p.cot if i else " . . ." for i, p in enumerate(problems)}
    found = lb.analyses.behaviour(model, problems, cot=texts)
    assert found.manifest.circumstance["dropped"] == {"no step that the task can read": 1}
    assert problems[0].key not in found.coords["problem"]
    assert found.notes()["left out"] == "1 with no step that the task can read"


def test_a_continuation_that_does_not_end_is_broken(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    problems = model.task.problems(6)
    runs = lb.hooks.generate(model, problems)
    found = lb.analyses.behaviour(model, problems, cot=runs, max_new_tokens=1)
    # After a wrong step 1 there are two steps and the cue to write, after a wrong step 3 only the cue.
    assert found.rate("broken", "mistake", 1)[0] == 1.0
    assert found.rate("broken", "mistake", 3)[0] == 0.0


def test_chains_without_steps_are_refused(organism: Callable[[str], Any]) -> None:
    model = organism("filler")
    with pytest.raises(InputError) as error:
        lb.analyses.behaviour(model, model.task.problems(4))
    for part in (
        "alters a chain of thought step by step, and task 'modular-sum' can use none of 4 runs",
        "4 with no step that the task can read (the first chain is '. . .')",
        "Use a task whose parse_steps reads this text",
    ):
        assert part in str(error.value)


def test_saved_and_loaded(measured: Callable[[str], Any], tmp_path: Path) -> None:
    found = measured("copy-tokens")
    loaded = lb.load(found.save(tmp_path / "behaviour.safetensors"))
    assert loaded.frame().equals(found.frame())
    assert loaded.notes() == found.notes()
    assert found.manifest.circumstance["replayed"] == 1.0


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    words = ["behaviour", "--model", "organism:copy-tokens", "--problems", "8", "--cot", "task", "--quiet"]
    done = CliRunner().invoke(app, [*words, "--save", str(path)])
    assert done.exit_code == 0, done.output
    assert "- answer follows the mistake: 1.00 [0.68, 1.00]" in done.output
    assert lb.load(path).area("mistake")[0] == 1.0
