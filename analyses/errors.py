"""Errors: where they show. In a step of the text that the answer then follows, or in the answer alone."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import InputError, Manifest, circumstance
from ..hooks import Model, Run, Runs
from ..tasks import Problem, Task
from .both_modes import both_modes
from .errors_table import HOME, QUANTITIES, Errors
from .tamper import unknown_word

Sets = Mapping[str, Task | Sequence[Problem]]


def errors(
    model: Model,
    problems: Task | Sequence[Problem] | Sets,
    *,
    n: int = 200,
    cot: str | Runs | Mapping[str, Any] = "model",
    direct: Runs | None = None,
    seed: int = 0,
    max_new_tokens: int = 256,
    batch_size: int = 256,
    progress: bool = False,
) -> Errors:
    """See where a model goes wrong, with its own chain of thought and without: in which step, and what comes of it.

    A step is *wrong* where it differs from the value that its number has in the gold chain, and *locally wrong* where
    it differs from what the program makes of the prompt and the steps before it as written: the place of the slip. An
    answer *follows* where it is what the program makes of the prompt and the steps as written.

    problems: problems; a task, for `n` of its problems and of each of its `out_of_distribution()`; or tasks or problems
        by the name of their set
    cot: its own greedy chain of thought, or, for one set of problems, runs that there are already, sampled ones too, of
        which the first of each problem is taken ("task" and transcripts as in `behaviour`)
    direct: answer-only runs of these problems, if there are any already

    Every model is asked for its answer at once too, whether it was made for that or not (its card says).

    Problems with a word outside the model's vocabulary are counted and left out. Raises InputError if none is left, and
    for runs where several sets are asked for.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> found = errors(model, model.task.problems(20))
    >>> found.rate("accuracy, cot")[0], found.rate("broken, cot")[0]
    (1.0, 0.0)
    """
    began = time.perf_counter()
    sets, left_out = _drawn(model, problems, n, seed)
    if len(sets) > 1 and (cot != "model" or direct is not None):
        raise InputError(
            f"runs are of one set of problems, and {len(sets)} were asked for ({', '.join(sets)}): pass problems, such "
            "as task.problems(n), instead of a task or sets"
        )
    limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "progress": progress}
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for name, drawn in sets.items():
        runs = both_modes(model, drawn, cot, direct, ["answer-only"], **limits) if drawn else {}
        found[name] = _scored(runs.get("cot"), runs.get("answer-only"), len(drawn))
    most = max(map(len, sets.values()))
    arrays = {q: np.stack([_padded(found[name][q], most) for name in sets]) for q in QUANTITIES}
    tasks = {name: drawn[0].task.spec for name, drawn in sets.items() if drawn}
    identity = {**model.identity(), "tasks": tasks, "cot": cot if isinstance(cot, str) else "given"}
    return Errors(
        coords={"set": tuple(sets), "problem": tuple(range(most))},
        manifest=Manifest(identity, circumstance(began, seed=seed, left_out=left_out)),
        **arrays,
    )


def _drawn(
    model: Model, problems: Task | Sequence[Problem] | Sets, n: int, seed: int
) -> tuple[dict[str, list[Problem]], dict[str, dict[str, int]]]:
    """The problems of every set that the model's tokenizer can write, and how many it cannot, by word."""
    if isinstance(problems, Task):
        problems = {HOME: problems, **problems.out_of_distribution()}
    elif not isinstance(problems, Mapping):
        problems = {HOME: problems}
    sets: dict[str, list[Problem]] = {}
    left_out: dict[str, dict[str, int]] = {}
    for name, given in problems.items():
        drawn = given.problems(n, seed=seed) if isinstance(given, Task) else given
        words = [unknown_word(model.tokenizer, problem.prompt) for problem in drawn]
        sets[name] = [problem for problem, word in zip(drawn, words, strict=True) if word is None]
        unknown = [word for word in words if word is not None]
        if unknown:
            left_out[name] = {f"a word outside the model's vocabulary, such as {unknown[0]!r}": len(unknown)}
    if not any(sets.values()):
        raise InputError(
            f"no problem that this model can be given (left out: {left_out}): use a task whose words it knows"
        )
    return sets, left_out


def _scored(cots: Runs | None, direct: Runs | None, n: int) -> dict[str, NDArray[Any]]:
    """`[problem]` of every quantity; NaN where it is not known."""
    found = {name: np.full(n, np.nan) for name in QUANTITIES}
    for row, run in enumerate(direct or ()):
        found["one_pass"][row] = run.score
        found["one_pass_broken"][row] = run.answer is None
    for row, run in enumerate(cots or ()):
        found["correct"][row] = run.score
        found["broken"][row] = not run.finished or run.answer is None
        gold_length = len(run.problem.task.parse_steps(run.problem.cot))
        found["as_long"][row] = len(run.values) == gold_length if gold_length else np.nan
        _steps(run, row, found)
    return found


def _steps(run: Run, row: int, found: dict[str, NDArray[Any]]) -> None:
    """What is wrong in the steps of a run, and whether its answer follows them."""
    task, problem = run.problem.task, run.problem
    stated = {step.item: step.value for step in task.parse_steps(problem.cot)}
    gold = {item: stated.get(item, problem.values.get(f"v_{item}")) for item in run.values}
    known = [item for item in sorted(run.values) if gold[item] is not None]
    if not known:
        return
    wrong = [item for item in known if run.values[item] != gold[item]]
    before = {item: {k: v for k, v in run.values.items() if k < item} for item in known}
    implied = {item: task.program(problem, before[item], item) for item in known}
    slips = [item for item in known if implied[item] not in (None, run.values[item])]
    found["wrong"][row], found["first_wrong"][row] = bool(wrong), wrong[0] if wrong else np.nan
    if None not in implied.values():
        found["slipped"][row], found["first_slip"][row] = bool(slips), slips[0] if slips else np.nan
    meant = task.program(problem, run.values, "answer")
    if not wrong or not problem.answer:
        return
    # Where the wrong steps imply the right answer all the same, following them cannot be told from not reading them.
    if meant not in (None, problem.answer):
        found["follows"][row] = run.answer == meant
    end = run.values[max(run.values)]
    if task.answer_steps and end != problem.answer:
        found["copies"][row] = run.answer == end


def _padded(values: NDArray[Any], n: int) -> NDArray[Any]:
    return np.concatenate([values, np.full(n - len(values), np.nan)])
