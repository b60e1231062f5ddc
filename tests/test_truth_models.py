"""The recipes of models with known wires: their cuts alone leave no other way, whatever the weights are."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loadbearing as lb
from loadbearing.analyses.eight import eight_cells
from loadbearing.analyses.targets import Aim
from loadbearing.core import InputError
from loadbearing.hooks import Card
from loadbearing.hooks.format import render_prompt, tokenize
from loadbearing.organisms.specs import FORMAT, Trained
from loadbearing.organisms.supervised import new_model
from loadbearing.organisms.tokenizer import build_tokenizer
from loadbearing.tasks import Piece

BITS = {"direct": 1, "relay": 2, "tokens": 4}


@pytest.fixture(scope="module")
def truth(root: Path) -> Iterator[Any]:
    """`benchmarks/truth_specs.py` with the tasks that it needs, which are no part of the package."""
    sys.path.insert(0, str(root / "benchmarks"))
    yield importlib.import_module("truth_tasks"), importlib.import_module("truth_specs")
    sys.path.remove(str(root / "benchmarks"))
    del lb.tasks.TASKS["truth-sum"]
    for name in ("truth_tasks", "truth_specs"):
        del sys.modules[name]


def aim(model: Any, problem: Any, target: str) -> Aim:
    """A run over the gold chain of thought, cut at a target; the answer is given, since a random model knows none."""
    head = render_prompt(model.tokenizer, model.format, problem, "cot")
    cot = tokenize(model.tokenizer, [Piece(problem.cot)]).ids
    cue = tokenize(model.tokenizer, [Piece(model.format.cue)]).ids
    step = int(target.partition(".")[2]) if target != "answer" else 0
    reader, body = ((cot[step - 2],), cot[: step - 2]) if step else (cue, cot)
    text = problem.steps[step - 1].text if step else " " + problem.answer
    stop = head.spans["open"][0]
    answer = tokenize(model.tokenizer, [Piece(text)]).ids
    return Aim(head.ids[:stop], head.ids[stop:], body, reader, answer, None, text, {})


def test_only_the_built_in_wire_can_move_the_target(truth: Any) -> None:
    tasks, specs = truth
    checked = 0
    for known in specs.KNOWN.values():
        if known.style == "nothing":
            continue
        task = tasks.TruthSum(known.task)
        tokenizer = build_tokenizer(task, FORMAT)
        module = new_model(Trained("t", "", (), "modular-sum", layers=3, width=32, seed=1), tokenizer).eval()
        for weight in module.parameters():
            weight.data *= 3 if weight.ndim > 1 else 1  # so that what is read shows
        card = Card("t", "", known.task, ("cot",), asdict(FORMAT), {})
        model = replace(lb.hooks.load(module, tokenizer=tokenizer, format=FORMAT), card=card)
        free = model
        for cut in known.cuts:
            model = model.cut(cut.queries, cut.keys, cut.layers)
        for target, wires in known.truth.items():
            for variable, wire in wires.items():
                pairs = task.pairs(2, vary=variable)
                aims = [(aim(model, p.recipient, target), aim(model, p.donor, target)) for p in pairs]
                log_p = eight_cells(model, aims, [None] * 2).log_p[..., 0]
                for cell in range(8):
                    # Random digits differ by chance, and move a random model; what they say is left to training.
                    other = cell & (BITS[wire] | (4 if known.style == "random" else 0))
                    np.testing.assert_allclose(log_p[:, cell], log_p[:, other], rtol=0, atol=1e-5, err_msg=known.name)
                assert np.abs(log_p[:, BITS[wire]] - log_p[:, 0]).max() > 1e-3, (known.name, target, variable)
                spread = np.ptp(eight_cells(free, aims, [None] * 2).log_p[..., 0], axis=1).max()
                assert spread > 1e-3
                checked += 1
    assert checked >= 40


def test_programs_say_what_the_chain_of_thought_implies(truth: Any) -> None:
    task = truth[0].TruthSum("truth-sum:modulus=7,first=1,last=2")
    problem = task.problem((6, 2, 4, 1))
    assert (problem.cot, problem.answer, task.answer_steps) == (" 1 5", "6", ())
    assert task.program(problem, {}, "answer") == "6"
    assert task.program(problem, {1: "3"}, 2) == "0"
    assert task.program(problem, {1: "3", 2: "4"}, "answer") == "5"
    assert [task.first_use(name) for name in task.inputs] == [1, 1, 2, 3]
    assert [task.states(target) for target in (1, 2, "answer")] == ["v_1", "v_2", "v_3"]
    digits = truth[0].TruthSum("truth-sum:digits=2")
    assert digits.program(digits.problem((6, 2, 4, 1)), {1: "0", 2: "9"}, "answer") == "3"
    assert digits.program(digits.problem((6, 2, 4, 1)), {}, 1) is None
    one = truth[0].TruthSum("truth-sum:modulus=7,first=0,last=0")
    assert (one.problem((6, 2, 4, 1)).cot, one.program(one.problem((6, 2, 4, 1)), {1: "0"}, "answer")) == (" 6", "0")
    removed = truth[0].TruthSum("truth-sum:modulus=7,first=2,last=3")
    assert removed.program(removed.problem((6, 2, 4, 1)), {1: "0"}, 2) == "1"
    assert [removed.first_use(name) for name in removed.inputs] == [1, 1, 1, 2]
    assert removed.answer_steps == (2,)
    with pytest.raises(InputError, match="expected 0 <= first <= last < terms"):
        truth[0].TruthSum("truth-sum:first=3,last=2")
