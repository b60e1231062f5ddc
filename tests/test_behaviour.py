"""Behaviour: a chain that is read is told from one that is not, and content from mere length."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from typer.testing import CliRunner

import loadbearing as lb
from loadbearing.analyses import Behaviour
from loadbearing.analyses.tamper import Trial, arranged, mistakes, tampered
from loadbearing.cli.app import app
from loadbearing.core import InputError, Manifest
from loadbearing.hooks.format import decode
from loadbearing.tasks import Step
from loadbearing.tasks.modular_sum import ModularSum

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


def made(same: dict[str, list[list[float]]], elicited: dict[str, float] | None = None) -> Behaviour:
    """A result with these P(same), a row a k, a column a problem."""
    tamperings = tuple(same)
    values = np.array(list(same.values()))
    _, ks, n = values.shape
    coords = {"tampering": tamperings, "k": tuple(range(ks)), "problem": tuple(map(str, range(n)))}
    return Behaviour(
        coords=coords,
        manifest=Manifest({}, {"elicited": elicited or {}}),
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
    assert found.one_pass_accuracy()[0] < 0.3  # it was not made for that, and is asked all the same


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
    from loadbearing.analyses.behaviour import _implied

    trials = [t for t in mistakes(model, list(runs), np.random.default_rng(0)) if isinstance(t, Trial)]
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


def test_content_free_text_and_filler_are_as_long(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    runs = list(lb.hooks.generate(model, model.task.problems(4)))
    made_of = {}
    for name in ("truncated", "content-free", "filler"):
        trials, left_out = tampered(model, runs, [name], None, None, 0)
        assert not left_out
        assert [len(t.cot) for t in trials] == [0, 1, 2, 3] * 4
        made_of[name] = {decode(model.tokenizer, t.cot) for t in trials}
    assert made_of["filler"] == {"", ".", ". .", ". . ."}  # its tokenizer knows no "..."
    assert {decode(model.tokenizer, t.cot) for t in tampered(model, runs, ["filler"], " mod", None, 0)[0]} == {
        "",
        "mod",
        "mod mod",
        "mod mod mod",
    }
    assert not {text for text in made_of["content-free"] if "." in text}
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


def test_chains_without_steps_are_altered_as_a_whole(organism: Callable[[str], Any]) -> None:
    """Dots carry nothing: whatever takes their place, the answer stays; only too few of them move it."""
    model = organism("filler")
    found = lb.analyses.behaviour(model, model.task.problems(8), paraphrase=lambda text: text.replace(".", "mod"))
    assert found.tamperings == ("truncated", "content-free", "filler", "paraphrase")
    assert found.coords["k"] == (0, 1)
    assert found.rate("same", "truncated", 1)[0] == 1.0
    assert found.rate("same", "filler", 1)[0] == 1.0
    assert found.rate("same", "paraphrase", 1)[3] == 8
    told = lb.analyses.behaviour(organism("sft"), model.task.problems(8), paraphrase=lambda text: " ." * 3)
    assert told.rate("correct", "paraphrase", "whole")[0] < 0.6


def test_a_paraphrase_in_unknown_words_is_left_out(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    found = lb.analyses.behaviour(model, model.task.problems(4), paraphrase=lambda text: f"{text} indeed")
    told = found.manifest.circumstance["left_out"]["paraphrase"]
    assert told == {"a word outside the model's vocabulary, such as 'indeed'": 4}


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
    words = ["behaviour", "--model", "organism:sft", "--problems", "4", "--quiet", "--filler", " mod"]
    done = CliRunner().invoke(app, [*words, "--tamperings", "filler,repeated", "--save", str(path)])
    assert done.exit_code == 0, done.output
    assert lb.load(path).tamperings == ("filler", "repeated")
    assert lb.load(path).manifest.identity["filler"] == " mod"


class Polyglot(ModularSum):
    """The same task, its vocabulary with the words of every style."""

    def words(self) -> list[str]:
        return self.all_words()


def digits_only(seen: Any, item: int) -> str:
    """A chain that says 0 where it is asked for the answer and reads no digit."""
    return "0" if not seen.steps and item == seen.last else str(seen.resume(len(seen.steps), item))


@pytest.fixture(scope="module")
def speaking(programmed: Any) -> Callable[..., Any]:
    """A Model that writes digits by a rule; `reads`: whether it reads number words too, or overhears them."""
    from loadbearing.hooks import load
    from loadbearing.organisms.specs import FORMAT
    from loadbearing.organisms.tokenizer import build_tokenizer

    task = Polyglot()
    tokenizer = build_tokenizer(task, FORMAT)
    words = {task.say(str(value), style) for value in range(10) for style in ("words", "german")}

    def get(rule: Any, reads: bool = True) -> Any:
        write = programmed.terse(programmed.RULES.get(rule, rule))

        def program(text: str) -> str:
            heard = "".join(f"{word} " for word in text.split() if word not in words)
            return str(write(task.restyle(text, "digits") if reads else heard))

        module = programmed.Programmed(program, tokenizer, f"{rule} {reads}").eval()
        return load(module, tokenizer=tokenizer, format=FORMAT)

    return get


STYLED = ("style:words", "style:german", "mistake:words", "mistake:german")
ALL = ("truncated", "content-free", "filler", "mistake", "shuffled", "repeated", *STYLED)


def test_a_model_that_reads_only_its_text_follows_every_tampering(speaking: Callable[..., Any]) -> None:
    """Whatever is done to the steps, the answer is what the program makes of them; said otherwise, they say as much."""
    found = lb.analyses.behaviour(speaking("chain"), Polyglot().problems(12))
    assert found.tamperings == ALL
    for name in ("content-free", "mistake", "shuffled", "repeated", "mistake:words", "mistake:german"):
        assert found.rate("follow", name)[0] == 1.0
        assert found.rate("follow", name)[3] > 0
    assert found.area("mistake")[0] == 1.0
    for name in ("style:words", "style:german"):
        for k in (1, 2, 3, "whole", None):
            assert found.rate("same", name, k) == (1.0, *found.accuracy()[1:])
    assert (found.coords["k"], found.rate("same", "shuffled", 2)[3]) == ((0, 1, 2, 3), 0)  # altered as a whole
    assert "style:digits" not in found.tamperings  # it writes so itself


def test_a_model_that_ignores_its_text_follows_nothing(speaking: Callable[..., Any]) -> None:
    found = lb.analyses.behaviour(speaking("projection"), Polyglot().problems(12))
    for name in ALL:
        assert found.area(name)[0] == 0.0
        assert not found.rate("follow", name)[0] > 0
    assert found.rate("follow", "mistake")[0] == found.rate("follow", "repeated")[0] == 0.0
    assert found.rate("follow", "mistake")[3] == 12


def test_the_loss_beside_a_style_matched_model(speaking: Callable[..., Any]) -> None:
    """One model reads digits only and says 0 without any; its twin reads words too, and loses nothing."""
    problems = Polyglot().problems(40)
    options: dict[str, Any] = {"tamperings": ["style:words", "mistake"]}
    deaf = lb.analyses.behaviour(speaking(digits_only, reads=False), problems, **options)
    twin = lb.analyses.behaviour(speaking(digits_only), problems, **options)
    lucky = np.mean([problem.answer == "0" for problem in problems])
    estimate, low, high, n = deaf.loss(twin, "style:words", "whole")
    assert estimate == pytest.approx(1 - lucky) and n == 40
    assert 0 < low <= estimate <= high <= 1
    assert twin.loss(deaf, "style:words", "whole")[:3] == pytest.approx((-estimate, -high, -low))
    assert deaf.loss(deaf, "style:words") == (0.0, 0.0, 0.0, 40)
    # Both lose as much by a mistake: the paired difference is exact, that of two samples of problems is not.
    assert deaf.loss(twin, "mistake", 3) == (0.0, 0.0, 0.0, 40)
    others = lb.analyses.behaviour(speaking(digits_only), Polyglot().problems(100)[60:], **options)
    apart = deaf.loss(others, "style:words", "whole")
    assert apart[0] == pytest.approx(1 - lucky)
    assert apart[1:3] == pytest.approx((low, high), abs=0.06)  # the twin's loss is 0 whatever is drawn
    assert lb.analyses.behaviour(speaking("projection"), problems).loss(twin, "mistake")[0] == -1.0


def test_the_whole_is_the_last_step_of_each_chain() -> None:
    """Also where nothing can be followed there: no earlier step speaks for the whole."""
    found = made({"content-free": [[0.0, 0.0], [1.0, 0.0], [1.0, math.nan]]})
    blank = np.array([[[1.0, 1.0], [1.0, 0.0], [math.nan, math.nan]]])
    found = replace(found, follow=blank)
    assert found.rate("same", "content-free", "whole")[::3] == (0.5, 2)
    assert found.rate("follow", "content-free", "whole")[::3] == (0.0, 1)
    assert found.rate("follow", "content-free")[0] == pytest.approx((1 + 0.5) / 2)


def test_words_that_a_model_does_not_know_are_counted(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    found = lb.analyses.behaviour(model, model.task.problems(4))
    assert found.tamperings == ALL[:-4]
    (reason,) = found.manifest.circumstance["left_out"]["style:words"]
    assert re.fullmatch("a word outside the model's vocabulary, such as '[a-z]+'", reason)
    assert found.notes()["left out of style:words"] == f"12 with {reason}"
    with pytest.raises(InputError, match=r"no tampering can be made .* choose others \(tamperings=\)"):
        lb.analyses.behaviour(model, model.task.problems(4), tamperings=["style:words"])
    with pytest.raises(InputError, match="unknown tampering 'style:latin': expected one of truncated, content-free"):
        lb.analyses.behaviour(model, model.task.problems(4), tamperings=["style:latin"])
    with pytest.raises(InputError, match=r"tamperings='mistake': expected a list of names"):
        lb.analyses.behaviour(model, model.task.problems(4), tamperings="mistake")


def test_what_is_drawn_does_not_depend_on_the_other_tamperings(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    runs = list(lb.hooks.generate(model, model.task.problems(8)))
    every = tampered(model, runs, ALL[:-2], None, None, 3)[0]
    for name in ALL[:-2]:
        assert tampered(model, runs, [name], None, None, 3)[0] == [t for t in every if t.tampering == name]


class Sentences(ModularSum):
    """Steps are read from equations."""

    def parse_steps(self, text: str) -> list[Step]:
        found = enumerate(re.finditer(r"= (\d+)", text), start=1)
        return [Step(item, match[1], match.start(1), match.end(1)) for item, match in found]

    def words(self) -> list[str]:
        return [*super().words(), "="]


def test_steps_move_with_their_words_and_leave_their_separators(programmed: Any) -> None:
    from loadbearing.organisms.specs import FORMAT
    from loadbearing.organisms.tokenizer import build_tokenizer

    task = Sentences()
    tokenizer = build_tokenizer(task, FORMAT)
    module = programmed.Programmed(programmed.verbose, tokenizer).eval()
    model = lb.hooks.load(module, tokenizer=tokenizer, format=FORMAT)
    texts = ["6 + 2 = 8 . 8 + 9 = 7 . 7 + 1 = 8 .", "1 + 0 = 1 .", "1 + 0 = 1 . 1 + 0 = 1"]
    runs = list(lb.hooks.replay(model, task.problems(3), texts))
    said = [decode(tokenizer, arranged(model, runs[0], order)) for order in ([1, 2, 0], [0, 0, 0])]
    assert said == ["8 + 9 = 7 . 7 + 1 = 8 . 6 + 2 = 8 .", "6 + 2 = 8 . 6 + 2 = 8 . 6 + 2 = 8 ."]
    for name in ("shuffled", "repeated"):
        trials, left_out = tampered(model, runs, [name], None, None, 0)
        assert [(t.row, t.k) for t in trials] == [(0, 3)]
        assert trials[0].cot != runs[0].tokens("cot")
        assert left_out == {name: {"no two steps that differ": 2}}


def test_every_rate_stands_beside_one_pass_and_content_free() -> None:
    same = {"content-free": [[0.0, 0.0], [1.0, 0.0]], "repeated": [[math.nan] * 2, [1.0, 1.0]]}
    found = made(same, {"accuracy": 0.75, "twin": 0.2, "updates": 300})
    row = found.table().query("tampering == 'repeated'")[["k", "same, content-free", "one pass, elicited"]]
    assert row.to_numpy().tolist() == [[1, "0.50 [0.09, 0.91]", "0.75"]]
    told = "0.75 after 300 updates of an answer-only fine-tune (from random weights: 0.20)"
    assert found.notes()["one-pass accuracy, elicited"] == told
    quantities = found.frame().set_index("quantity")["estimate"]
    assert quantities["elicited one-pass accuracy"] == 0.75
    assert quantities["the same from random weights"] == 0.2
    assert made(same).notes()["one-pass accuracy, elicited"] == "- (the model's card has none)"
    with pytest.raises(InputError, match="k=5: expected a number of steps from 0 to 1, 'whole', or None for the mean"):
        found.rate("same", "repeated", 5)


def test_elicited_accuracy_comes_from_the_card(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    model = replace(model, card=replace(model.card, elicited={"accuracy": 0.5, "twin": 0.1, "updates": 200.0}))
    found = lb.analyses.behaviour(model, model.task.problems(4), tamperings=["mistake"])
    assert found.elicited == {"accuracy": 0.5, "twin": 0.1, "updates": 200.0}


def heights(axes: Axes, colour: str) -> list[float]:
    marks = [line for line in axes.lines if line.get_color() == colour and line.get_linestyle() == "None"]
    return [height for line in marks for height in np.asarray(line.get_ydata(), float).tolist()]


def levels(axes: Axes, dashed: bool = False) -> list[float]:
    lines = [line for line in axes.lines if line.get_linestyle() == ("--" if dashed else "-")]
    drawn = [np.asarray(line.get_ydata(), float) for line in lines]
    return [float(y[0]) for y in drawn if len(y) == 2 and y[0] == y[1]]


def test_the_figure_shows_rates_and_one_pass_lines(measured: Callable[[str], Any]) -> None:
    sft, both = measured("sft"), measured("both")
    axes = lb.figures.behaviour({"sft": sft, "both": both})
    names = ["untouched", "cut short", "random tokens", "dots", "a mistake", "shuffled", "repeated"]
    assert [label.get_text() for label in axes.get_xticklabels()] == names
    kinds = [(name, None if name in ("truncated", "mistake") else "whole") for name in sft.tamperings]
    for result, colour in ((sft, "#000000"), (both, "#D55E00")):
        expected = [result.accuracy()[0], *(result.rate("correct", name, k)[0] for name, k in kinds)]
        assert heights(axes, colour) == expected
    assert levels(axes) == [sft.one_pass_accuracy()[0], both.one_pass_accuracy()[0]]
    same = {"truncated": [[0.0, 0.0], [1.0, 1.0]], "mistake": [[math.nan] * 2, [0.0, 1.0]]}
    alone = lb.figures.behaviour(made(same, {"accuracy": 0.75}))
    assert levels(alone, dashed=True) == [0.75]
    assert lb.figures.behaviour(sft, quantity="follow").get_ylabel() == "P(answer follows the text)"
    with pytest.raises(InputError, match="unknown quantity 'area'"):
        lb.figures.behaviour(sft, quantity="area")
