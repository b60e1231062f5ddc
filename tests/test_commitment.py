"""Commitment: a chain is settled where it is written, a chain that carries nothing has the curve of its length."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.analyses.commitment import commitment
from loadbearing.analyses.commitment_lines import kept_states
from loadbearing.analyses.commitment_table import CONDITIONS, LINES, QUANTITIES, Commitment
from loadbearing.analyses.tamper import content_free
from loadbearing.core import InputError, Manifest, UnknownNameError
from loadbearing.figures import COLUMN
from loadbearing.figures.commitment import commitment as draw
from loadbearing.hooks.decoding import continue_each

N = 100
NAN = math.nan


@pytest.fixture(scope="module")
def chain(organism: Callable[[str], Any]) -> Commitment:
    model = organism("sft")
    return commitment(model, model.task.problems(N))


@pytest.fixture(scope="module")
def random_digits(organism: Callable[[str], Any]) -> Commitment:
    model = organism("post-hoc")
    return commitment(model, model.task.problems(N), shuffles=0, twin=False)


def made(probe: list[list[float]], empty: list[list[float]], steps: list[int]) -> Commitment:
    """A result with these hits of the probe, a row a k, a column a problem; the other lines were not asked for."""
    hit = np.full((len(LINES), len(CONDITIONS), *np.shape(probe)), np.nan)
    hit[0] = probe, empty
    n = len(steps)
    ks = len(probe)
    return Commitment(
        coords={"line": LINES, "condition": CONDITIONS, "quantity": QUANTITIES, "k": tuple(range(ks))},
        manifest=Manifest(),
        hit=hit,
        bits=hit,
        shuffled=np.full((2, ks, 0), np.nan),
        twin=np.full((2, ks, n), np.nan),
        steps=np.array(steps, dtype=float),
        majority=np.eye(n)[0],
        null=np.ones(n),
        correct=np.ones(n),
    )


def test_the_text_gives_a_chain_away_where_the_answer_is_written_and_never_before(chain: Commitment) -> None:
    text = chain.hit[LINES.index("text"), 0]
    np.testing.assert_allclose(text[:3], 0.1)  # ten answers are equally likely: a tie counts as a tenth
    assert (text[3] == 1).all()
    np.testing.assert_allclose(chain.bits[LINES.index("text"), 0, :3], 0, atol=1e-9)
    assert chain.information("text", "truncated", 3)[0] > 0.98 * chain.null.mean()
    assert chain.first_passage("text")[:3] == (1, 1, 1)
    assert chain.first_passage("text").never == 0
    assert chain.first_passage("text", "content-free").never == 1
    # The curves differ in the last of three trapezoids only: by 1 at its end, where the other is at 1/10.
    assert chain.area("text")[0] == pytest.approx((1 - chain.rate("text", "content-free", 3)[0]) / 6)


def test_a_chain_says_its_answer_when_it_is_written_and_the_state_has_it_one_step_before(chain: Commitment) -> None:
    for k in (0, 1, 2):
        assert chain.rate("forced", "truncated", k)[0] < 0.2
    assert chain.rate("forced", "truncated", 3)[0] == 1
    assert chain.rate("probe", "truncated", 1)[0] < 0.25
    for k in (2, 3):  # at the end of step 2 the model is about to write step 3
        assert chain.rate("probe", "truncated", k)[0] == 1
        assert chain.information("probe", "truncated", k)[0] > 0.98 * chain.null.mean()
    for line in LINES:
        assert chain.rate(line, "content-free", 3)[0] < 0.25
        assert chain.area(line)[1] > 0.1
    assert (chain.first_passage("probe").median, chain.first_passage("forced").median) == (2 / 3, 1)
    assert chain.gap("probe", "text")[1] > 0.2
    assert chain.gap("text", "probe")[0] == -chain.gap("probe", "text")[0]


def test_controls_of_the_probe(chain: Commitment) -> None:
    frame = chain.frame().query("quantity == 'same'").set_index(["line", "condition", "k"])["estimate"]
    for k in range(4):
        assert frame["probe, shuffled labels", "truncated", k] < 0.2
    assert chain.shuffled.shape == (2, 4, 20)
    assert chain.shuffled[1].mean() < 0.01  # in bits: nothing
    # A random network keeps the last token in its state, and that is all the sum it does.
    assert frame["probe, random twin", "truncated", 2] < 0.25
    assert frame["probe, random twin", "truncated", 3] > 0.95
    assert chain.rate("probe", "truncated", 2)[1] > frame["probe, random twin", "truncated", 2]


def test_random_digits_have_the_curve_of_their_length(random_digits: Commitment) -> None:
    assert random_digits.rate("forced", "truncated", 3)[0] == random_digits.rate("forced", "content-free", 3)[0] == 1
    assert random_digits.rate("forced", "truncated", 1)[0] < 0.3  # the format is broken, not the thought
    assert abs(random_digits.area("forced")[0]) < 0.02
    for k in range(4):
        assert random_digits.rate("text", "truncated", k)[0] < 0.25
    for line in ("probe", "text"):
        low, high = random_digits.area(line)[1:3]
        assert low <= 0 <= high
        assert random_digits.first_passage(line).never > 0.75


def test_forced_answers_are_those_of_behaviour(chain: Commitment, organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    other = lb.analyses.behaviour(model, model.task.problems(N))
    np.testing.assert_array_equal(chain.hit[LINES.index("forced")], other.same[:2])


def test_bits_of_the_forced_answer_by_hand(organism: Callable[[str], Any]) -> None:
    model = organism("both")
    problems = model.task.problems(6)
    found = commitment(model, problems, lines=["forced"], folds=3, batch_size=4)
    for row, run in enumerate(lb.hooks.generate(model, problems)):
        first = run.spans["cot"][0]
        for k in range(4):
            ids = run.ids[: first + k] + run.tokens("cue") + run.tokens("answer") + (run.end,)
            with torch.no_grad():
                logits = model.module(torch.tensor([ids])).logits[0].log_softmax(-1)
            log_p = float(logits[-3, ids[-2]] + logits[-2, ids[-1]])
            expected = log_p / math.log(2) + found.null[row]
            assert found.bits[1, 0, k, row] == pytest.approx(expected, abs=1e-4)


def test_a_program_that_sums_what_is_left_is_right_at_every_step(scripted: Callable[..., Any]) -> None:
    """The answer is the last written number plus the operands after it, so over random digits it is known."""
    model = scripted("chain")
    problems = lb.tasks.load("modular-sum").problems(20)
    found = commitment(model, problems, lines=["forced"], seed=3)
    runs = list(lb.hooks.generate(model, problems))
    drawn = content_free(model, runs, None, np.random.default_rng(3))
    hits = np.ones((4, 20))
    for row, (run, ids) in enumerate(zip(runs, drawn, strict=True)):
        operands = [int(run.problem.values[f"operand.{i}"]) for i in range(1, 5)]
        written = [int(word) for word in model.tokenizer.decode(list(ids)).split()]
        for k in (1, 2, 3):
            hits[k, row] = (written[k - 1] + sum(operands[k + 1 :])) % 10 == sum(operands) % 10
    assert 0 < hits[1:].mean() < 0.3
    np.testing.assert_array_equal(found.hit[1], [np.ones((4, 20)), hits])
    lost = 1 - hits
    assert found.area("forced")[0] == pytest.approx(((lost[0] + lost[3]) / 2 + lost[1] + lost[2]).mean() / 3)
    assert found.first_passage("forced")[:4] == (0, 0, 0, 0)
    assert found.lines == ("forced",)
    assert math.isnan(found.first_passage("probe").mean) and found.first_passage("probe").n == 0


def test_a_program_that_reads_the_prompt_only_has_no_area(scripted: Callable[..., Any]) -> None:
    found = commitment(scripted("projection"), lb.tasks.load("modular-sum").problems(10), lines=["forced"])
    assert (found.hit[1] == 1).all()
    assert found.area("forced")[:3] == (0, 0, 0)
    with pytest.raises(InputError, match="the own answer is '5' in all 10 runs, so that there is nothing to settle"):
        commitment(scripted("constant"), lb.tasks.load("modular-sum").problems(10), lines=["forced"])


def test_areas_and_first_passages_by_hand() -> None:
    # Two problems of three steps: one settled from step 2 on (it was right at 0 by luck), one never.
    result = made([[1, 0], [0, 1], [1, 1], [1, 0]], [[1, 0], [0, 0], [0, 0], [0, 1]], [3, 3])
    # Differences 0 0 1 1 and 0 1 1 -1: trapezoids (0 + 1/2 + 1) / 3 and (1/2 + 1 + 0) / 3.
    assert result.area("probe")[0] == pytest.approx(0.5)
    assert result.passages("probe").tolist() == [2 / 3, math.inf]
    assert result.passages("probe", "content-free").tolist() == [math.inf, 1]
    passage = result.first_passage("probe")
    assert [passage.mean, passage.median] == pytest.approx([5 / 6, 5 / 6])
    assert (passage.never, passage.n) == (0.5, 2)
    assert result.rate("probe", "truncated", 2)[0] == 1
    assert result.chance()[0] == 0.5
    assert result.lines == ("probe",)
    assert list(result.table()["probe, content-free"])[3].startswith("0.50 [")
    assert "probe, first passage" in result.notes() and "forced, first passage" not in result.notes()


def test_chains_of_unequal_length_by_hand() -> None:
    # The first has two steps, the second one.
    result = made([[0, 0], [0, 1], [1, NAN]], [[0, 0], [0, 0], [0, NAN]], [2, 1])
    assert result.passages("probe").tolist() == [1, 1]
    # Trapezoids over k/n: 1/4 and 1/2.
    assert result.area("probe")[0] == pytest.approx(3 / 8)
    assert result.rate("probe", "truncated", 2)[3] == 1
    curve = result.curve("probe", "truncated")
    assert curve["x"].tolist() == pytest.approx([i / 10 for i in range(11)])
    assert curve["estimate"][5] == pytest.approx((0 + 0.5) / 2)
    # A k that could not be scored leaves its problem out, not the others.
    result = made([[0, 0], [NAN, 1], [1, NAN]], [[0, 0], [0, 0], [0, NAN]], [2, 1])
    assert result.area("probe")[3] == result.first_passage("probe").n == 1
    assert math.isnan(result.passages("probe")[0])


def test_one_pass_gives_the_states_of_every_truncated_text(organism: Callable[[str], Any]) -> None:
    from loadbearing.analyses.commitment import _asked

    model = organism("sft")
    runs = list(lb.hooks.generate(model, model.task.problems(6)))
    asked = _asked(runs, None, 3, 0)
    states = kept_states(model, runs, asked, None, {"batch_size": 4, "progress": False})
    assert states.shape == (model.n_layers, 4, 6, model.module.config.hidden_size)
    for row, run in enumerate(runs):
        for k in range(4):
            ids = torch.tensor([run.ids[: run.spans["cot"][0] + k]])
            with torch.no_grad():
                hidden = model.module(ids, output_hidden_states=True).hidden_states
            # The last of these is normed, and so is no residual stream.
            torch.testing.assert_close(states[0, k, row], hidden[1][0, -1], atol=1e-5, rtol=0)
            torch.testing.assert_close(states[1, k, row], hidden[2][0, -1], atol=1e-5, rtol=0)
    only = kept_states(model, runs, asked, [1], {"batch_size": 4, "progress": False})
    torch.testing.assert_close(only[0], states[1])


def test_equal_parts_of_a_text_without_steps(organism: Callable[[str], Any]) -> None:
    model = organism("filler")
    problems = model.task.problems(40)
    found = commitment(model, problems, parts=3, layers=[0, 2], shuffles=2, twin=False)
    assert found.hit.shape[2] == 4
    assert (found.hit[1] == 1).all()  # it needs no dots
    assert found.first_passage("forced")[:3] == (0, 0, 0)
    assert found.area("probe")[:3] == (0, 0, 0)  # drawn from dots, the content-free text is the text
    assert np.abs(found.bits[2]).max() < 0.1
    assert set(found.manifest.circumstance["layers"]) <= {0, 2}
    assert np.isnan(found.twin).all() and found.shuffled.shape[-1] == 2
    coarse = commitment(model, problems, parts=2, lines=["forced"])
    run = lb.hooks.generate(model, problems[:1])[0]
    from loadbearing.analyses.commitment import _equal_parts

    assert [end - run.spans["cot"][0] for end in _equal_parts(run, 2)] == [0, 2, 3]
    assert coarse.even and coarse.hit.shape[2] == 3


def test_chains_of_unequal_length_are_measured_on_those_that_have_the_step(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    problems = model.task.problems(60)
    # One chain in 20 has a fourth step: too few to fit anything there, so that its own curves have no end.
    texts = {p.key: p.cot + (f" {p.answer}" if i % 20 == 0 else "") for i, p in enumerate(problems)}
    found = commitment(model, problems, cot=texts, lines=["probe", "forced"], shuffles=1, twin=False)
    assert not found.even
    assert found.steps.tolist() == [4 if i % 20 == 0 else 3 for i in range(60)]
    assert [found.rate(line, "truncated", 4)[3] for line in LINES] == [0, 3, 0]  # the text was not asked for
    assert [found.first_passage(line).n for line in LINES] == [57, 60, 0]
    assert np.isnan(found.shuffled[:, 4]).all() and not np.isnan(found.shuffled[:, 3]).any()
    assert found.rate("probe", "truncated", 3)[0] > 0.9
    assert draw(found).get_xlabel() == "share of the chain kept"


def test_a_filler_text_in_place_of_random_tokens(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    problems = model.task.problems(8)
    found = commitment(model, problems, lines=["forced"], folds=3, filler=" .")
    for row, run in enumerate(lb.hooks.generate(model, problems)):
        (dot,) = model.tokenizer(" .", add_special_tokens=False)["input_ids"]
        ids = (*run.ids[: run.spans["cot"][0]], dot, dot, *run.tokens("cue"))
        limits: Any = {"max_new_tokens": 4, "batch_size": 1, "progress": False}
        written = continue_each(model, [ids], model.format.end, **limits)[0][0]
        answer = model.task.parse_answer(model.tokenizer.decode(list(written)))
        assert found.hit[1, 1, 2, row] == (answer == run.answer)
    assert found.manifest.identity["filler"] == " ."


def test_refusals(organism: Callable[[str], Any]) -> None:
    filler, model = organism("filler"), organism("sft")
    with pytest.raises(InputError) as error:
        commitment(filler, filler.task.problems(6))
    for part in (
        "commitment asks for the answer after each step, and task 'modular-sum' can use none of 6 runs",
        "6 with no step that the task can read (the first chain is '. . .')",
        "or parts=10 to keep equal parts of its tokens",
    ):
        assert part in str(error.value)
    with pytest.raises(InputError, match="4 problems with a usable chain and 5 folds: expected at least 3 folds"):
        commitment(model, model.task.problems(4))
    with pytest.raises(InputError, match="6 problems with a usable chain and 2 folds: expected at least 3 folds"):
        commitment(model, model.task.problems(6), folds=2)
    with pytest.raises(InputError, match="parts=0: expected a number of parts from 1 on, such as parts=10"):
        commitment(model, model.task.problems(6), parts=0)
    with pytest.raises(UnknownNameError, match="unknown line 'probes': expected one of probe, forced, text"):
        commitment(model, model.task.problems(6), lines=["probes"])
    with pytest.raises(InputError, match="k=4: expected a number of kept steps from 0 to 3"):
        made([[0]] * 4, [[0]] * 4, [3]).rate("probe", "truncated", 4)


def test_saved_and_loaded(chain: Commitment, tmp_path: Path) -> None:
    loaded = lb.load(chain.save(tmp_path / "commitment.safetensors"))
    assert loaded.frame().equals(chain.frame())
    assert loaded.notes() == chain.notes()
    assert loaded.manifest.circumstance["replayed"] == 1
    assert len(loaded.manifest.circumstance["layers"]) == 4
    frame = loaded.frame()
    assert set(frame["quantity"]) >= {"same", "bits", "area", "gap", "first passage", "never settled", "chance"}
    assert list(loaded.table().columns) == [
        "k",
        *(f"{line}{free}" for line in LINES for free in ("", ", content-free")),
    ]


def test_the_figure_shows_the_rates(chain: Commitment, random_digits: Commitment) -> None:
    axes = draw({"a chain": chain, "post hoc": random_digits})
    points = [(line, np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axes.lines]
    drawn = [line for line, x, _ in points if len(x) == 4]
    wanted = [
        [result.rate(line, condition, k)[0] for k in range(4)]
        for result in (chain, random_digits)
        for line in LINES
        for condition in CONDITIONS
    ]
    np.testing.assert_allclose(np.array([y for _, x, y in points if len(x) == 4]), np.array(wanted))
    for true, empty in zip(drawn[::2], drawn[1::2], strict=True):
        assert true.get_color() == empty.get_color()
        assert (true.get_linestyle(), empty.get_linestyle()) == ("-", "--")
        assert empty.get_markerfacecolor() == "white"
    looks = {(line.get_color(), line.get_marker()) for line in drawn}
    assert len(looks) == len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == 3
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2", "3"] * 2
    # First passages stand above the curves; of post-hoc's probe and text an arrow, for most are never settled.
    above = [(line.get_marker(), x[0]) for line, x, y in points if len(x) == 1 and y[0] > 1]
    assert [marker for marker, _ in above] == ["o", "s", "^", ">", "s", ">"]
    assert above[0][1] == pytest.approx(chain.first_passage("probe").mean)


def test_the_figure_fits_a_column_and_keeps_the_callers_axes(chain: Commitment) -> None:
    for results in (chain, {"one": chain}, {str(i): chain for i in range(4)}):
        axes = draw(results)
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.draw_without_rendering()
        tight, whole = figure.get_tightbbox(), figure.bbox_inches
        assert whole.x0 <= tight.x0 and tight.x1 <= whole.x1 and whole.y0 <= tight.y0 and tight.y1 <= whole.y1
    assert draw(chain).get_figure(root=True).get_figwidth() == COLUMN  # type: ignore[union-attr]
    _, own = plt.subplots()
    assert draw(chain, own) is own
