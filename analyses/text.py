"""What the text of a chain of thought alone says about a variable: counted where that is exact, else read."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..core import InputError, check_name
from ..hooks import Run, Runs
from ..probes import null_log_p
from ..tasks import Problem, Task, load
from ..tasks.registry import TASKS
from .text_readers import READERS, Words, fit_reader

GOLD = 0.99  # of the runs must write the gold chain of thought for the gold chains to speak for them
DRAWN = 5000  # problems of a task that has too many to list
COUNTED, NOTHING = "enumeration", "nothing"


@dataclass(frozen=True, eq=False)
class TextReading:
    """Natural-log probabilities of labels by the text alone, and how they were found.

    log_p: `[n, class]`, of every row by a reader that was not fitted to its fold
    inner: `[fold, n, class]`, for use while a fold is left out: of its own rows as in `log_p`, of the others by readers
        that were fitted neither to it nor to the row's own fold
    readers: the reader chosen within the training part of each fold: "enumeration", "nothing", "linear", "mlp" or
        "transformer"
    """

    log_p: NDArray[Any]
    inner: NDArray[Any]
    readers: tuple[str, ...]


def text_log_p(
    runs: Sequence[Run],
    ends: Sequence[int] | NDArray[Any],
    y: NDArray[Any],
    classes: NDArray[Any],
    fold: NDArray[Any],
    *,
    tokenizer: Any = None,
    seed: int = 0,
    progress: bool = False,
) -> NDArray[Any]:
    """Natural-log probabilities `[n, class]` of labels given only the chain of thought so far, out of fold.

    The text of a run is its tokens from the first of the chain of thought up to `ends` (exclusive; at most the end of
    the cue); the prompt is not read. An empty text says nothing: the labels' frequencies, as `null_log_p` has them.

    y, classes: labels `[n]` and all that they can be, in order; fold: of every row, 0 to 2 at least
    tokenizer: the model's; not needed for `Runs`, which know their model

    Where at least 99 % of the runs write the task's gold chain of thought, the labels are the values of a variable, and
    the task lists its problems (`all_problems()`), the answer is exact: the shares of the labels among *all* problems
    whose gold text begins so ("enumeration"). Else the reader with the lowest loss on inner folds of each training
    part is used: the frequencies, a linear model of the tokens (counted from the start and from the end), an MLP of the
    same, a small transformer, and the counts over drawn problems where the gold text is written. `read_text` says
    which.

    >>> from loadbearing.hooks import generate, load
    >>> model = load("organism:sft")
    >>> runs = generate(model, model.task.problems(40))
    >>> y = np.array([run.problem.answer for run in runs])
    >>> ends = [run.spans["step.3"][1] for run in runs]
    >>> log_p = text_log_p(runs, ends, y, np.unique(y), np.arange(40) % 5)
    >>> bool(np.exp(log_p).max(axis=1).min() > 0.95)  # the last step states the answer
    True
    """
    return read_text(runs, ends, y, classes, fold, tokenizer=tokenizer, seed=seed, progress=progress).log_p


def read_text(
    runs: Sequence[Run],
    ends: Sequence[int] | NDArray[Any],
    y: NDArray[Any],
    classes: NDArray[Any],
    fold: NDArray[Any],
    *,
    tokenizer: Any = None,
    readers: Sequence[str] = READERS,
    seed: int = 0,
    progress: bool = False,
) -> TextReading:
    """As `text_log_p`, with what a probe on top of the text needs while a fold is left out, and the reader's name."""
    for name in readers:
        check_name("reader", name, READERS)
    tokenizer = runs.model.tokenizer if isinstance(runs, Runs) else tokenizer
    y, classes, fold = np.asarray(y).astype(str), np.asarray(classes).astype(str), np.asarray(fold)
    index = _checked(runs, ends, y, classes, fold)
    texts = [run.ids[_start(run) : end] for run, end in zip(runs, ends, strict=True)]
    folds = int(fold.max()) + 1
    null = np.stack([null_log_p(y[fold != f], classes) for f in range(folds)])[:, None].repeat(len(y), axis=1)
    if len(set(texts)) == 1:
        return _assembled({NOTHING: null}, index, fold)
    gold = _gold_of(runs, y, tokenizer)
    counted = {} if gold is None else {COUNTED: _counts(gold, runs, texts, classes)[None].repeat(folds, axis=0)}
    if gold is not None and gold[0].complete:
        return _assembled(counted, index, fold)
    words = Words.of(texts)
    found = {NOTHING: null} | counted
    for name in tqdm(readers, desc="text readers", disable=not progress, leave=False):
        found[name] = _crossed(name, words, index, len(classes), fold, seed)
    return _assembled(found, index, fold)


def _checked(
    runs: Sequence[Run], ends: Sequence[int] | NDArray[Any], y: NDArray[Any], classes: NDArray[Any], fold: NDArray[Any]
) -> NDArray[Any]:
    """The number of every label in `classes`."""
    n = len(runs)
    if not n or not len(ends) == len(y) == len(fold) == n:
        raise InputError(f"{n} runs with {len(ends)} ends, {len(y)} labels and {len(fold)} folds: expected one each")
    if set(fold.tolist()) != set(range(int(fold.max()) + 1)) or fold.max() < 2:
        raise InputError(f"expected folds numbered from 0, 3 at least and none empty, got {sorted(set(fold.tolist()))}")
    if len(set(classes.tolist())) < max(2, len(classes)) or not np.isin(y, classes).all():
        raise InputError("classes: expected 2 different ones at least, and every label among them: np.unique(y)")
    for run, end in zip(runs, ends, strict=True):
        if end > run.spans["cue"][1]:
            raise InputError(f"text end {end} is behind the cue of {run.problem.key!r}: the answer is no text to read")
    return _numbered(y, classes)


def _numbered(y: NDArray[Any], classes: NDArray[Any]) -> NDArray[Any]:
    """The number of every label in `classes`, -1 for another one."""
    number = {label: k for k, label in enumerate(classes.tolist())}
    return np.array([number.get(label, -1) for label in y.tolist()])


def _start(run: Run) -> int:
    return run.spans.get("cot", run.spans["cue"])[0]


def _assembled(found: dict[str, NDArray[Any]], index: NDArray[Any], fold: NDArray[Any]) -> TextReading:
    """Of every fold the candidate `[fold, n, class]` with the lowest loss on its training rows."""
    own = {name: np.take_along_axis(table, index[None, :, None], axis=-1)[..., 0] for name, table in found.items()}
    chosen = [max(own, key=lambda name: own[name][f][fold != f].mean()) for f in range(int(fold.max()) + 1)]
    inner = np.stack([found[name][f] for f, name in enumerate(chosen)])
    return TextReading(inner[fold, np.arange(len(fold))], inner, tuple(chosen))


def _crossed(name: str, words: Words, index: NDArray[Any], classes: int, fold: NDArray[Any], seed: int) -> NDArray[Any]:
    """Log probabilities `[fold, n, class]` of every row by the fit without that fold and the row's own."""
    folds = int(fold.max()) + 1
    pairs = [(a, b) for a in range(folds) for b in range(a + 1)]
    train = np.stack([(fold != a) & (fold != b) for a, b in pairs])
    tables = fit_reader(name, words, index, classes, train, seed)
    found = np.empty((folds, len(fold), classes))
    for (a, b), table in zip(pairs, tables, strict=True):
        found[a, fold == b], found[b, fold == a] = table[fold == b], table[fold == a]
    return found


@dataclass(frozen=True, eq=False)
class Gold:
    """The gold chains of thought of a task as token ids, the values of the variables, and whether they are all."""

    texts: tuple[tuple[int, ...], ...]
    values: dict[str, NDArray[Any]]
    complete: bool


def _gold_of(runs: Sequence[Run], y: NDArray[Any], tokenizer: Any) -> tuple[Gold, NDArray[Any], float] | None:
    """Gold texts and their labels, where they speak for the runs, and the share of the runs that deviate."""
    problems = [run.problem for run in runs]
    if tokenizer is None or not all(problem.steps for problem in problems) or any("cot" not in r.spans for r in runs):
        return None
    written = _encode(tokenizer, problems)
    same = np.array([run.tokens("cot") == text for run, text in zip(runs, written, strict=True)])
    stated = {name: np.array([p.values.get(name) for p in problems]) == y for name in problems[0].values}
    names = [name for name, agrees in stated.items() if agrees.mean() >= GOLD]
    if same.mean() < GOLD or not names:
        return None
    task = problems[0].task
    gold = _listed(task.spec if type(task) in TASKS.values() else task, tokenizer)
    return None if gold is None else (gold, gold.values[names[-1]], float(1 - (same & stated[names[-1]]).mean()))


@lru_cache(maxsize=2)
def _listed(task: Task | str, tokenizer: Any) -> Gold | None:
    """All problems of a task, or many of them; None where it has too few. A task of ours is known by its spec."""
    problems, complete = _problems(load(task))
    if not problems or not all(problem.steps for problem in problems):
        return None
    names = [name for name in problems[0].values if all(name in problem.values for problem in problems)]
    values = {name: np.array([problem.values[name] for problem in problems]) for name in names}
    return Gold(tuple(_encode(tokenizer, problems)), values, complete)


def _problems(task: Task) -> tuple[list[Problem], bool]:
    lister = getattr(task, "all_problems", None)
    try:
        if lister is not None:
            return lister(), True
    except InputError:  # too many to list
        pass
    for split in ("train", "test"):
        try:
            return task.problems(DRAWN, seed=1, split=split), False
        except InputError:  # no such split, or fewer problems
            continue
    return [], False


def _encode(tokenizer: Any, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
    """The gold chains of thought as `replay_gold` gives them to a model; many problems share one."""
    texts = [problem.cot for problem in problems]
    distinct = list(dict.fromkeys(texts))
    ids = dict(zip(distinct, map(tuple, tokenizer(distinct, add_special_tokens=False)["input_ids"]), strict=True))
    return [ids[text] for text in texts]


def _counts(
    gold: tuple[Gold, NDArray[Any], float],
    runs: Sequence[Run],
    texts: Sequence[tuple[int, ...]],
    classes: NDArray[Any],
) -> NDArray[Any]:
    """Log probabilities `[n, class]`: shares of the labels among problems whose gold text begins as a run's does.

    One run's worth of uniform, and what share of the runs deviate, is mixed in. Over drawn problems, one sample's
    worth for each text.
    """
    known, values, deviating = gold
    cue = runs[0].tokens("cue")
    labels = _numbered(values, classes).tolist()
    stated = Counter((text + cue, label) for text, label in zip(known.texts, labels, strict=True) if label >= 0)
    uniform = np.full(len(classes), 1 / len(classes))
    found = np.empty((len(runs), len(classes)))
    for length in {len(text) for text in texts}:
        counts: dict[tuple[int, ...], NDArray[Any]] = {}
        for (text, label), times in stated.items():
            counts.setdefault(text[:length], np.zeros(len(classes)))[label] += times
        for i, text in enumerate(texts):
            if len(text) == length:
                count = counts.get(text, np.zeros(len(classes)))
                seen = count.sum()
                weight = deviating + 1 / (len(runs) + 1) if known.complete else 1 / (seen + 1)
                share = count / seen if seen else uniform
                found[i] = (1 - weight) * share + weight * uniform
    return np.log(found)
