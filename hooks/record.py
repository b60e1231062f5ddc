"""Record activations of runs by replay: one teacher-forced pass over the token ids."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ..core import InputError, check_name
from .decoding import pad
from .model import Model
from .runs import Run, Runs
from .sites import Site, site_name
from .spans import resolve


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
            labels = rows["position"].unique().tolist()
            if ".*" in position:
                wanted = re.escape(position).replace(r"\*", r"\d+")
                chosen = [label for label in labels if re.fullmatch(wanted, label)]
            else:
                chosen = [check_name("recorded position", position, labels)]
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
    progress: bool = False,
) -> Activations:
    """Record sites at positions of runs, in every layer unless `layers` says which.

    sites: `resid_pre`, `resid_mid`, `resid_post`, `attn_out`, `mlp_out`, or TransformerLens' spelling (a layer that it
    names counts for every site); positions: see `resolve`. Only what is asked for is kept, and the pass stops after the
    last layer that is needed.

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
    places, unmatched = _rows(runs, positions)
    order = sorted(range(len(runs)), key=lambda i: len(runs[i].ids))
    kept: dict[str, dict[int, Tensor]] = {name: {} for name in names}
    for start in tqdm(range(0, len(order), batch_size), desc="record", disable=not progress, leave=False):
        chunk = order[start : start + batch_size]
        index = [(b, at, row) for b, i in enumerate(chunk) for at, row in places[i]]
        if not index:
            continue
        ids, mask = pad([runs[i].ids for i in chunk], model)
        at = torch.tensor([(b, position) for b, position, _ in index], device=model.device)
        read = model.backend.read(ids, mask, wanted, at)
        for name in names:
            stacked = torch.stack([read[Site(name, layer)] for layer in layers], dim=1).cpu()
            kept[name].update(zip((row for _, _, row in index), stacked, strict=True))
    columns = ["problem", "run", "position", "token", "token_id"]
    frame = pd.DataFrame(list(_frame_rows(runs, positions)))
    frame = frame if len(frame) else pd.DataFrame(columns=columns)
    config: Any = model.module.config
    empty = torch.empty(0, len(layers), config.hidden_size)
    values = {
        name: torch.stack([kept[name][row] for row in range(len(frame))]) if len(frame) else empty for name in names
    }
    return Activations(values, tuple(layers), frame, unmatched)


def _rows(runs: Sequence[Run], positions: Sequence[str]) -> tuple[list[list[tuple[int, int]]], dict[str, int]]:
    """For every run its (position, row number), and how often a wildcard matched nothing."""
    places: list[list[tuple[int, int]]] = []
    unmatched: dict[str, int] = {}
    row = 0
    for run in runs:
        here = []
        for position in positions:
            found = resolve(run.spans, position)
            if not found:
                unmatched[position] = unmatched.get(position, 0) + 1
            for place in found:
                here.append((place.position, row))
                row += 1
        places.append(here)
    return places, unmatched


def _frame_rows(runs: Sequence[Run], positions: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, run in enumerate(runs):
        for position in positions:
            for place in resolve(run.spans, position):
                row = {
                    "problem": run.problem.key,
                    "run": number,
                    "position": place.label,
                    "token": place.position,
                    "token_id": run.ids[place.position],
                }
                yield row | {name: value for name, value in run.problem.values.items() if name not in row}
