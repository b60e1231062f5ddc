"""Beyond the text: what the state knows along a chain of thought that the words so far do not say."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..core import InputError, Manifest, circumstance
from ..hooks import Model, Runs, record
from ..probes import group_folds, null_log_p
from ..probes.information import LN2
from ..tasks import Problem
from .beyond_places import lead_of, marked, usable
from .beyond_table import PROBES, Beyond
from .controls import random_twin
from .joint import Parts, joint_log_p
from .targets import cot_runs
from .text import TextReading, read_text
from .text_readers import READERS

SITE = "resid_post"


@dataclass(frozen=True, eq=False)
class Place:
    """A position along the run: the numbers of the runs that have it `[n]`, and the token where it is in each `[n]`."""

    name: str
    rows: NDArray[Any]
    at: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Asked:
    """A variable at a place: the labels by number `[n]`, and what is known of them without the state.

    given: log probabilities `[probe, fold, n, class]`: nothing but their frequencies, and what the text says
    reading: how the text was read
    """

    index: NDArray[Any]
    given: NDArray[Any]
    reading: TextReading

    def known(self, probe: int) -> NDArray[Any]:
        """Log probability of the own label without the state, in use while each fold is left out, `[fold, n]`."""
        return np.asarray(np.take_along_axis(self.given[probe], self.index[None, :, None], axis=-1)[..., 0])


def beyond(
    model: Model,
    problems: Sequence[Problem],
    *,
    variables: Sequence[str] | None = None,
    cot: str | Runs | Mapping[str, Any] = "model",
    folds: int = 5,
    shuffles: int = 20,
    twin: bool = True,
    readers: Sequence[str] = READERS,
    seed: int = 0,
    max_new_tokens: int = 256,
    progress: bool = False,
) -> Beyond:
    """What text, state, and state beyond text tell about each variable at every place of the CoT run, in bits.

    *Text*: the chain of thought so far, without the prompt (`analyses.text`: by enumeration where the gold chain is
    written, else by the best of three readers). *State*: a linear probe on `resid_post`, I_V(h -> y). *Beyond*:
    conditional V-information I_V(h -> y | text), the same probe on top of the text's log-probabilities, which enter as
    a fixed offset; the bits are 0 where the state only repeats the text. All out of fold; layer and penalty are chosen
    inside each training part. Source: Xu et al. (2002.10689), Hewitt et al. (2109.09234).

    Places: `prompt[-1]`, `open[-1]`, the end of every step that at least half of the runs have, `cue[-1]`; without
    steps that the task can read, the end of every tenth of the chain's tokens, `tenth.1[-1]` to `tenth.10[-1]`.
    Every place has its *lead*: how long until the value is written. Only bits at a lead of more than one step are
    hidden (`hidden_bits`): one step ahead the model is about to write it.

    variables: the task's intermediates without it; labels are the gold values
    cot: the model's own chain of thought ("model"), the gold one ("task"), runs, or transcripts by problem
    shuffles: how often the states are given to other problems; twin: whether to measure a copy with random weights too
    readers: of a text that cannot be counted; fewer are faster, and what they miss counts as beyond the text

    Raises InputError for a variable that the problems do not have or that has one value, and for fewer problems than
    folds.

    >>> from loadbearing.hooks import load
    >>> model = load("organism:sft")
    >>> found = beyond(model, model.task.problems(120), variables=["v_3"], shuffles=1, twin=False)
    >>> bool(found.mean("state")[0] > 3), bool(found.mean("beyond")[0] < 0.1)  # the chain has been written
    (True, True)
    """
    began = time.perf_counter()
    task = problems[0].task
    names = _names(problems, variables)
    runs, left_out = usable(cot_runs(model, problems, cot, progress, max_new_tokens))
    fold = group_folds(np.array([run.problem.key for run in runs]), folds, seed)
    runs, positions = marked(runs)
    places, parts = _record(model, runs, positions, fold, progress)
    asked = _ask(runs, names, places, fold, readers, seed, progress)
    shape = (len(names), len(places), len(runs))
    found = _probe(asked, places, parts, fold, shape, np.random.default_rng(seed), shuffles, progress)
    random = np.full((len(PROBES), *shape), np.nan)
    if twin:
        _, parts = _record(random_twin(model, seed), runs, positions, fold, progress)
        random = _probe(asked, places, parts, fold, shape, np.random.default_rng(seed), 0, progress)["bits"]
    text = np.full((1, *shape), np.nan)
    lead, steps = np.full(shape, np.nan), np.full(shape, np.nan)
    for (v, p), one in asked.items():
        rows = places[p].rows
        known = [one.known(c)[fold[rows], np.arange(len(rows))] for c in range(len(PROBES))]
        text[0, v, p, rows] = (known[1] - known[0]) / LN2
        leads = [lead_of(runs[row], names[v], int(at)) for row, at in zip(rows, places[p].at, strict=True)]
        lead[v, p, rows], steps[v, p, rows] = np.array(leads).T
    coords = {
        "curve": ("text", *PROBES),
        "probe": PROBES,
        "variable": names,
        "place": tuple(place.name for place in places),
        "problem": tuple(run.problem.key for run in runs),
    }
    identity = {**model.identity(), "task": task.spec, "site": SITE, "cot": cot if isinstance(cot, str) else "given"}
    chosen = {
        names[v]: {places[p].name: list(asked[v, p].reading.readers) for p in range(len(places))} for v, _ in asked
    }
    facts = {"seed": seed, "folds": folds, "left out": left_out, "readers": chosen}
    return Beyond(
        coords=coords,
        manifest=Manifest({**identity, "probe": "ridge on what the text leaves"}, circumstance(began, **facts)),
        bits=np.concatenate([text, found.pop("bits")]),
        null=_null(runs, names, fold),
        lead=lead,
        steps=steps,
        fold=fold,
        random=random,
        **found,
    )


def _names(problems: Sequence[Problem], variables: Sequence[str] | None) -> tuple[str, ...]:
    """The variables to probe, checked."""
    task = problems[0].task
    given = [name for name in problems[0].values if name not in task.inputs]
    names = tuple(variables if variables is not None else task.intermediates or given)
    unknown = [name for name in names if any(name not in problem.values for problem in problems)]
    if unknown or not names:
        raise InputError(f"variables {unknown or list(names)}: the problems have {', '.join(problems[0].values)}")
    for name in names:
        if len({problem.values[name] for problem in problems}) < 2:
            raise InputError(f"variable {name!r} has one value in all problems: there is nothing to tell, vary it")
    return names


def _record(
    model: Model, runs: Runs, positions: Sequence[str], fold: NDArray[Any], progress: bool
) -> tuple[list[Place], list[list[Parts]]]:
    """The places that at least half of the runs have, in order, and at each the factorised states of every layer."""
    acts = record(model, runs, [SITE], positions, progress=progress)
    rows = acts.rows

    def order(label: str) -> tuple[int, int]:
        name, _, item = label.removesuffix("[-1]").partition(".")
        return {"prompt": 0, "open": 1, "cue": 3}.get(name, 2), int(item or 0)

    places, parts = [], []
    for label in sorted(rows["position"].unique().tolist(), key=order):
        here = rows[rows["position"] == label]
        place = Place(label, here["run"].to_numpy(), here["token"].to_numpy())
        if 2 * len(here) < len(runs) or set(fold[place.rows].tolist()) != set(fold.tolist()):
            continue
        places.append(place)
        values = [acts.select(SITE, layer, label)[0].double().numpy() for layer in acts.layers]
        parts.append([Parts.of(X, fold[place.rows]) for X in values])
    return places, parts


def _ask(
    runs: Runs,
    names: Sequence[str],
    places: Sequence[Place],
    fold: NDArray[Any],
    readers: Sequence[str],
    seed: int,
    progress: bool,
) -> dict[tuple[int, int], Asked]:
    """Every variable at every place: what its labels are, and what is known without the state."""
    found, read = {}, {}
    cells = [(v, p) for v in range(len(names)) for p in range(len(places))]
    for v, p in tqdm(cells, desc="text", disable=not progress, leave=False):
        place = places[p]
        here = Runs(tuple(runs[row] for row in place.rows), runs.mode, runs.model)
        y, parts = np.array([run.problem.values[names[v]] for run in here]), fold[place.rows]
        classes, index = np.unique(y, return_inverse=True)
        # The prompt and the template are no text of the model's: before its first token it has said nothing.
        ends = [max(int(at) + 1, run.spans["cot"][0]) for run, at in zip(here, place.at, strict=True)]
        same = v, tuple(place.rows), tuple(ends)
        if same not in read:
            read[same] = read_text(here, ends, y, classes, parts, readers=readers, seed=seed)
        reading = read[same]
        null = np.stack([null_log_p(y[parts != f], classes) for f in range(int(fold.max()) + 1)])
        nothing = null[:, None].repeat(len(y), axis=1)
        found[v, p] = Asked(index, np.stack([nothing, reading.inner]), reading)
    return found


def _probe(
    asked: Mapping[tuple[int, int], Asked],
    places: Sequence[Place],
    parts: Sequence[Sequence[Parts]],
    fold: NDArray[Any],
    shape: tuple[int, ...],
    rng: np.random.Generator,
    shuffles: int,
    progress: bool,
) -> dict[str, NDArray[Any]]:
    """Fit both probes on every variable, place and layer; bits at the layer that each training part chose."""
    folds = int(fold.max()) + 1
    bits = np.full((len(PROBES), *shape), np.nan)
    layer = np.zeros((len(PROBES), *shape[:2], folds), dtype=int)
    inner = np.full((*shape[:2], folds), np.nan)
    shuffled = np.full((len(PROBES), *shape[:2], shuffles), np.nan)
    for (v, p), one in tqdm(asked.items(), desc="probes", disable=not progress, leave=False):
        rows, here = places[p].rows, fold[places[p].rows]
        orders = np.array([_within(here, rng) for _ in range(shuffles)]).reshape(shuffles, len(rows))
        for c in range(len(PROBES)):
            if c and (one.given[c] == one.given[0]).all():  # the text says nothing: both probes are the same
                bits[c, v, p], layer[c, v, p], shuffled[c, v, p] = bits[0, v, p], layer[0, v, p], shuffled[0, v, p]
                continue
            known, given, each = one.known(c), one.given[c], np.arange(len(rows))
            fits = [joint_log_p(layered, one.index[None], given[:, None]) for layered in parts[p]]
            losses = np.stack([loss[0] for _, loss in fits])  # [layer, fold]
            layer[c, v, p] = losses.argmin(axis=0)
            own = np.stack([log_p[0] for log_p, _ in fits])[layer[c, v, p][here], each]
            bits[c, v, p, rows] = (own - known[here, each]) / LN2
            without = np.array([-known[f][here != f].mean() for f in range(folds)])
            inner[v, p] = (without - losses.min(axis=0)) / LN2  # beyond the text: the last of the two probes
            if shuffles:
                usual = parts[p][int(np.bincount(layer[c, v, p]).argmax())]
                log_p, _ = joint_log_p(usual, one.index[orders], given[:, orders])
                shuffled[c, v, p] = (log_p - known[here, each][orders]).mean(axis=1) / LN2
    return {"bits": bits, "layer": layer, "inner": inner, "shuffled": shuffled}


def _within(fold: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """A permutation of the rows of each fold among themselves: what the text says of a row stays out of fold."""
    order = np.arange(len(fold))
    for f in np.unique(fold):
        order[fold == f] = rng.permutation(order[fold == f])
    return order


def _null(runs: Runs, names: Sequence[str], fold: NDArray[Any]) -> NDArray[Any]:
    """Bits that the best constant of each training part lacks, `[variable, problem]`."""
    null = np.empty((len(names), len(runs)))
    for v, name in enumerate(names):
        y = np.array([run.problem.values[name] for run in runs])
        for f in np.unique(fold):
            null[v, fold == f] = -null_log_p(y[fold != f], y[fold == f]) / LN2
    return null
