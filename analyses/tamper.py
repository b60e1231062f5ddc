"""The texts that `behaviour` gives a model in place of its chain of thought: a function for every kind of tampering."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..core import InputError, check_name
from ..hooks import Model, Run
from ..hooks.format import decode, tokenize
from ..tasks import Piece, Task
from .behaviour_table import MISTAKE, PARAPHRASE, STYLE, TAMPERINGS
from .ledger_texts import SEPARATORS
from .targets import count_reasons

FILLERS = (" ...", " .")  # the first that the model's tokenizer knows
TRIES = 100  # of orders of the steps, of which most change the text


@dataclass(frozen=True)
class Trial:
    """A chain of thought that was altered: `cot` stands after the prompt of run `row`.

    k: steps kept or restyled, or number of the wrong one (counted from 1 in the order of the text)
    rewritten: whether the model goes on writing after `cot`, before it is asked for the answer
    """

    tampering: str
    k: int
    row: int
    cot: tuple[int, ...]
    rewritten: bool = False


Made = Trial | str
"""A trial, or the reason why it cannot be made."""
Reword = Callable[[str], str]
"""A chain of thought in, the same said otherwise out."""


def names_of(task: Task, chosen: Sequence[str] | None) -> list[str]:
    """The tamperings to make: the chosen ones, or all that the task allows."""
    known = [*TAMPERINGS, *(f"{kind}{style}" for kind in (STYLE, MISTAKE) for style in task.styles), PARAPHRASE]
    if chosen is None:
        return known
    if isinstance(chosen, str) or not chosen:
        raise InputError(f"tamperings={chosen!r}: expected a list of names, such as ['truncated', 'mistake']")
    return [name for name in known if name in {check_name("tampering", each, known) for each in chosen}]


def tampered(
    model: Model, runs: Sequence[Run], names: Sequence[str], filler: str | None, paraphrase: Reword | None, seed: int
) -> tuple[list[Trial], dict[str, dict[str, int]]]:
    """The trials of every tampering, and how many of each could not be made, by reason.

    Every tampering draws from a generator of its own, so that what is drawn does not depend on the others; content-free
    texts are those that `commitment` draws from the same seed.
    """
    trials: list[Trial] = []
    left_out: dict[str, dict[str, int]] = {}
    for name in names:
        own = seed if name == "content-free" else [seed, len(name), *name.encode()]
        if name == PARAPHRASE and paraphrase is None:
            continue
        made = _maker(model, name, filler, paraphrase)(runs, np.random.default_rng(own))
        trials += [each for each in made if isinstance(each, Trial)]
        if reasons := [each for each in made if isinstance(each, str)]:
            left_out[name] = count_reasons(reasons)
    return trials, left_out


def _maker(
    model: Model, name: str, filler: str | None, paraphrase: Reword | None
) -> Callable[[Sequence[Run], np.random.Generator], list[Made]]:
    if name.startswith(STYLE):
        return partial(restyled, model, name.removeprefix(STYLE))
    if name.startswith(MISTAKE):
        return partial(mistakes, model, style=name.removeprefix(MISTAKE))
    if name == PARAPHRASE:
        return lambda runs, _: reworded(model, runs, paraphrase)
    makers: dict[str, Callable[[Sequence[Run], np.random.Generator], list[Made]]] = {
        "truncated": lambda runs, _: truncated(runs),
        "content-free": lambda runs, rng: as_long(runs, "content-free", content_free(model, runs, None, rng)),
        "filler": lambda runs, rng: filled(model, runs, filler),
        "mistake": partial(mistakes, model),
        "shuffled": partial(shuffled, model),
        "repeated": lambda runs, _: repeated(model, runs),
    }
    return makers[name]


def step_ends(run: Run) -> list[int]:
    """Where the text that keeps k steps ends, for k = 0 (the prompt) to n (the whole chain of thought).

    A chain in which the task reads no step counts as one step.
    """
    start, stop = run.spans["cot"]
    return [start, *(run.spans[f"step.{item}"][1] for item in sorted(run.values)[:-1]), stop]


def truncated(runs: Sequence[Run]) -> list[Made]:
    """Every chain of thought after each of its steps."""
    return [
        Trial("truncated", k, row, run.ids[run.spans["cot"][0] : end])
        for row, run in enumerate(runs)
        for k, end in enumerate(step_ends(run))
    ]


def as_long(runs: Sequence[Run], name: str, texts: Sequence[tuple[int, ...]]) -> list[Made]:
    """As many tokens of a text for each run as the truncated chain of thought has."""
    cut = [trial for trial in truncated(runs) if isinstance(trial, Trial)]
    return [replace(trial, tampering=name, cot=texts[trial.row][: len(trial.cot)]) for trial in cut]


def content_free(
    model: Model, runs: Sequence[Run], filler: str | None, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """As many tokens as every chain of thought has, drawn from all of them, or a filler over and over."""
    lengths = [len(run.tokens("cot")) for run in runs]
    if filler is None:
        pool = np.array([token for run in runs for token in run.tokens("cot")])
        return [tuple(rng.choice(pool, length).tolist()) for length in lengths]
    ids = tokenize(model.tokenizer, [Piece(filler)]).ids
    if not ids:
        raise InputError(f"filler={filler!r} has no token: give text, such as ' ...'")
    return [(ids * length)[:length] for length in lengths]


def filled(model: Model, runs: Sequence[Run], filler: str | None) -> list[Made]:
    """A filler over and over: the given one, or dots where the model's tokenizer knows any."""
    known = [dots for dots in FILLERS if unknown_word(model.tokenizer, dots) is None]
    if filler is None and not known:
        return [f"no dots in the model's vocabulary, such as {FILLERS[-1]!r}: give filler="] * len(runs)
    drawn = content_free(model, runs, filler if filler is not None else known[0], np.random.default_rng(0))
    return as_long(runs, "filler", drawn)


def mistakes(model: Model, runs: Sequence[Run], rng: np.random.Generator, style: str | None = None) -> list[Made]:
    """Every chain of thought up to each of its steps, with another problem's value there (said in a style)."""
    made: list[Made] = []
    for row, run in enumerate(runs):
        first = run.spans["cot"][0]
        for k, item in enumerate(sorted(run.values), start=1):
            wrong = wrong_step(run, runs, item, rng)
            if wrong is None:
                made.append("no other problem's value for the step")
                continue
            if style is not None:
                said = run.problem.task.restyle(decode(model.tokenizer, wrong), style)
                if said == decode(model.tokenizer, wrong):  # the model writes in this style
                    continue
                if word := unknown_word(model.tokenizer, said):
                    made.append(f"a word outside the model's vocabulary, such as {word!r}")
                    continue
                wrong = tokenize(model.tokenizer, [Piece(said)]).ids
            name = "mistake" if style is None else f"{MISTAKE}{style}"
            cot = run.ids[first : run.spans[f"step.{item}"][0]] + wrong
            made.append(Trial(name, k, row, cot, rewritten=True))
    return made


def reworded(model: Model, runs: Sequence[Run], paraphrase: Reword | None) -> list[Made]:
    """Every chain of thought as a paraphraser says it."""
    assert paraphrase is not None
    made: list[Made] = []
    for row, run in enumerate(runs):
        said = paraphrase(decode(model.tokenizer, run.tokens("cot")))
        if word := unknown_word(model.tokenizer, said):
            made.append(f"a word outside the model's vocabulary, such as {word!r}")
        else:
            ids = tokenize(model.tokenizer, [Piece(said)]).ids if said.strip() else ()
            made.append(Trial(PARAPHRASE, max(1, len(run.values)), row, ids))
    return made


def wrong_step(run: Run, runs: Sequence[Run], item: int, rng: np.random.Generator) -> tuple[int, ...] | None:
    """The tokens of the same step of another problem, drawn from those with another value; None if there is none."""
    for i in rng.permutation(len(runs)):
        other: Run = runs[i]
        if other.values.get(item) not in (None, run.values[item]):
            return other.tokens(f"step.{item}")
    return None


def restyled(model: Model, style: str, runs: Sequence[Run], _: np.random.Generator) -> list[Made]:
    """Every chain of thought with its first k steps said in another style; before the last, the model goes on."""
    made: list[Made] = []
    missing = None
    for row, run in enumerate(runs):
        ends = step_ends(run)
        for k, end in enumerate(ends[1:], start=1):
            text = decode(model.tokenizer, run.ids[ends[0] : end])
            said = run.problem.task.restyle(text, style)
            if said == text:  # the model writes in this style
                continue
            if word := unknown_word(model.tokenizer, said):
                missing = missing or word
                made.append(f"a word outside the model's vocabulary, such as {missing!r}")
            else:
                ids = tokenize(model.tokenizer, [Piece(said)]).ids
                made.append(Trial(f"{STYLE}{style}", k, row, ids, rewritten=end < ends[-1]))
    return made


def shuffled(model: Model, runs: Sequence[Run], rng: np.random.Generator) -> list[Made]:
    """Every chain of thought with its steps in another order, what stands between them left in place."""
    made: list[Made] = []
    for row, run in enumerate(runs):
        orders = (rng.permutation(len(run.values)).tolist() for _ in range(TRIES if len(run.values) > 1 else 0))
        texts = (arranged(model, run, order) for order in orders)
        cot = next((text for text in texts if text != run.tokens("cot")), None)
        made.append("no two steps that differ" if cot is None else Trial("shuffled", len(run.values), row, cot))
    return made


def repeated(model: Model, runs: Sequence[Run]) -> list[Made]:
    """Every chain of thought with its first step in every step's place."""
    made: list[Made] = []
    for row, run in enumerate(runs):
        n = len(run.values)
        cot = arranged(model, run, [0] * n) if n > 1 else run.tokens("cot")
        made.append("no two steps that differ" if cot == run.tokens("cot") else Trial("repeated", n, row, cot))
    return made


def arranged(model: Model, run: Run, order: Sequence[int]) -> tuple[int, ...]:
    """The chain of thought with step `order[i]` (from 0) in the place of the i-th.

    A step goes from the first word after the one before it to the end of its value; separators stay where they are.
    """
    start, stop = run.spans["cot"]
    places: list[tuple[int, int]] = []
    for item in sorted(run.values):
        first, end = (places[-1][1] if places else start), run.spans[f"step.{item}"][1]
        while first < end - 1 and not decode(model.tokenizer, run.ids[first : first + 1]).strip(SEPARATORS):
            first += 1
        places.append((first, end))
    cot: tuple[int, ...] = run.ids[start : places[0][0]]
    after = [first for first, _ in places[1:]] + [stop]
    for (_, end), source, following in zip(places, order, after, strict=True):
        cot += run.ids[slice(*places[source])] + run.ids[end:following]
    return cot


def unknown_word(tokenizer: Any, text: str) -> str | None:
    """The first word of a text that is outside the tokenizer's vocabulary; None where it knows all."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if token == tokenizer.unk_token_id and end > start:
            return str(text[start:end])
    return None
