"""Record activations of runs by replay: one teacher-forced pass over the token ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ..core import InputError, check_name
from .decoding import pad
from .memory import MEMORY, batches, pass_bytes
from .model import Model
from .runs import Run, Runs
from .sites import Site, site_name
from .spans import Place, labels_at, resolve


@dataclass(frozen=True, eq=False)
class Activations:
    """Recorded activations: a row a (run, position), `[rows, layer, d_model]` for every site.

    rows: DataFrame of problem, run, position (label), token (index in the run), token_id, and the problem's values
    unmatched: how many runs a wildcard position matched nothing in, by position
    """

    values: dict[str, Float[Tensor, "rows layer d_model"]] = field(repr=False)
    layers: tuple[int, ...]
    rows: pd.DataFrame = field(repr=False)
    unmatched: dict[str, int]

    def select(
        self, site: str, layer: int | None = None, position: str | None = None
    ) -> tuple[Float[Tensor, "rows d_model"], pd.DataFrame]:
        """Features `[rows, d_model]` of one site, layer and position (a label, or a wildcard), and their rows."""
        name, spelled = site_name(site)
        check_name("recorded site", name, self.values)
        layer = spelled if layer is None else layer
        if layer not in self.layers:
            raise InputError(f"layer {layer} was not recorded: recorded are {list(self.layers)}")
        rows = self.rows
        if position is not None:
            chosen = labels_at(position, rows["position"].unique().tolist())
            rows = rows[rows["position"].isin(chosen)]
        values = self.values[name][torch.tensor(rows.index.to_list(), dtype=torch.long), self.layers.index(layer)]
        return values, rows.reset_index(drop=True)


def record(
    model: Model,
    runs: Runs,
    sites: Sequence[str] = ("resid_post",),
    positions: Sequence[str] = ("prompt[-1]",),
    *,
    layers: Sequence[int] | None = None,
    batch_size: int = 256,
    memory: float = MEMORY,
    progress: bool = False,
) -> Activations:
    """Record sites at positions of runs, in every layer unless `layers` says which.

    sites: `resid_pre`, `resid_mid`, `resid_post`, `attn_out`, `mlp_out`, or TransformerLens' spelling (a layer that it
    names counts for every site); positions: see `resolve`. Only what is asked for is kept, and the pass stops after the
    last layer that is needed.
    memory: gigabytes for a batch: a pass over it and what is read of it (about); so many runs share a batch as fit,
        `batch_size` at most. What is kept comes on top: as many numbers as rows x layers x sites x d_model

    >>> from loadbearing.hooks import generate, load
    >>> model = load("organism:copy-direct")
    >>> acts = record(model, generate(model, model.task.problems(4)), ["resid_post"], ["prompt[-1]", "cue[-1]"])
    >>> features, rows = acts.select("resid_post", layer=1, position="cue[-1]")
    >>> features.shape[0], rows["position"].unique().tolist()
    (4, ['cue[-1]'])
    """
    if not sites or not positions:
        raise InputError("record needs at least one site and one position")
    names = dict.fromkeys(site_name(site)[0] for site in sites)
    spelled = {site_name(site)[1] for site in sites} - {None}
    if layers is None:
        layers = sorted(layer for layer in spelled if layer is not None) or range(model.n_layers)
    elif spelled - set(layers) or not layers:
        raise InputError(
            f"layers={list(layers)}, but the sites name layers {sorted(map(str, spelled))}: give one of the two"
        )
    wanted = [model.sites.check(Site(name, layer)) for name in names for layer in layers]
    places, unmatched = _places(runs, positions)
    config: Any = model.module.config
    each = 2 * len(wanted) * config.hidden_size * next(model.module.parameters()).element_size()  # read, and stacked
    sizes = [pass_bytes(model.module, len(run.ids)) + len(at) * each for run, at in zip(runs, places, strict=True)]
    order = sorted((i for i in range(len(runs)) if places[i]), key=lambda i: len(runs[i].ids))
    first = [0, *accumulate(map(len, places))]  # the first row of every run
    values = {name: torch.empty(0, len(layers), config.hidden_size) for name in names}
    with tqdm(total=len(order), desc="record", unit="run", disable=not progress, leave=False) as bar:
        for chunk in batches(order, sizes, batch_size, memory):
            ids, mask = pad([runs[i].ids for i in chunk], model)
            at = torch.tensor([(b, p.position) for b, i in enumerate(chunk) for p in places[i]], device=model.device)
            rows = torch.cat([torch.arange(first[i], first[i + 1]) for i in chunk])
            read = model.backend.read(ids, mask, wanted, at)
            for name in names:
                stacked = torch.stack([read[Site(name, layer)] for layer in layers], dim=1).cpu()
                if not len(values[name]):
                    values[name] = stacked.new_empty(first[-1], *stacked.shape[1:])
                values[name][rows] = stacked
            bar.update(len(chunk))
    return Activations(values, tuple(layers), _frame(runs, places), unmatched)


def _places(runs: Sequence[Run], positions: Sequence[str]) -> tuple[list[list[Place]], dict[str, int]]:
    """The places of every run, a row each, and how often a wildcard matched nothing."""
    places: list[list[Place]] = []
    unmatched: dict[str, int] = {}
    for run in runs:
        found = [resolve(run.spans, position) for position in positions]
        for position in (position for position, here in zip(positions, found, strict=True) if not here):
            unmatched[position] = unmatched.get(position, 0) + 1
        places.append([place for here in found for place in here])
    return places, unmatched


def _frame(runs: Sequence[Run], places: Sequence[Sequence[Place]]) -> pd.DataFrame:
    """A row a place, with the values of its problem."""
    own = [(n, run, place) for n, (run, here) in enumerate(zip(runs, places, strict=True)) for place in here]
    columns = {
        "problem": [run.problem.key for _, run, _ in own],
        "run": [number for number, *_ in own],
        "position": [place.label for *_, place in own],
        "token": [place.position for *_, place in own],
        "token_id": [run.ids[place.position] for _, run, place in own],
    }
    frame = pd.DataFrame(columns)
    with_rows = [number for number, here in enumerate(places) if here]
    values = pd.DataFrame([dict(runs[number].problem.values) for number in with_rows], index=with_rows)
    values = values.drop(columns=[name for name in values if name in columns])
    return frame.join(values, on="run") if len(own) else frame
