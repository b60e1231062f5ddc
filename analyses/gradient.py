"""What patched cells change, approximated by gradients: a whole map in a few passes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..core import InputError
from ..hooks import Model
from ..hooks.interior import Interior
from ..hooks.masks import takes_logits_to_keep
from ..hooks.sites import Site, mlp_width, n_heads
from ..hooks.trace import Trace, trace
from .aligned import Aligned, Batch
from .metrics import Forcing, Metric, check_metric, forcings, reads, term
from .patch_board import Board, Plan
from .patch_cells import check_places, pattern_z


@dataclass(frozen=True)
class Gradients:
    """The map by gradients.

    A cell changes the metric by about (what is written - what was there) . gradient, summed over what is written
    (attribution patching: Nanda 2023; Syed et al. 2023, arXiv 2310.10348; where it fails: Kramar et al. 2024,
    2403.00745). The gradient is the base run's; with steps > 1 its mean over the midpoints of as many equal parts of
    the straight path from base to source in the layer-0 `resid_pre`, the embeddings (Hanna et al. 2024, 2403.17806).
    Queries and keys are taken as they meet, rotated; of a pattern the gradient is that of the z which it makes and is
    linear in. Terms of a window are added, which leaves out what its layers do to each other.
    """

    model: Model
    interior: Interior
    plan: Plan
    board: Board
    steps: int = 1

    def changes(self, aligned: Aligned, memory: int, progress: bool = False) -> NDArray[np.float64]:
        """Of every cell and pair, `[cell, pair]`, in units of the metric."""
        if self.steps > 1 and any(batch.recipient.shape[1] != batch.donor.shape[1] for batch in aligned.batches):
            raise InputError(f"steps={self.steps}: no straight path leads between runs of unequal length; use steps=1")
        found = np.zeros(self.board.values.shape)
        with tqdm(total=len(aligned.pairs), desc="gradients", unit="pair", disable=not progress, leave=False) as bar:
            for batch in aligned.batches:
                for rows in self._chunks(batch, memory):
                    index = [batch.index[row] for row in rows.tolist()]
                    with torch.inference_mode(False):  # its tensors cannot be kept for a way back
                        found[:, index] = self._cells(batch, rows)
                    bar.update(len(index))
        return found

    def _chunks(self, batch: Batch, memory: int) -> Iterator[Tensor]:
        """Pairs whose passes fit into the memory together, at least one."""
        module: Any = self.interior.module
        length = max(batch.recipient.shape[1], batch.donor.shape[1]) + max(a.shape[1] for a in batch.answers)
        each = 24 * module.config.hidden_size + 6 * mlp_width(module) + 4 * n_heads(module) * length
        numbers = self.model.n_layers * length * each
        step = max(1, int(memory // (4 * numbers)))
        yield from torch.arange(len(batch.index), device=self.model.device).split(step)

    def _cells(self, batch: Batch, rows: Int[Tensor, " row"]) -> NDArray[np.float64]:
        """Some pairs of a batch, `[cell, pair]`."""
        layers = self.plan.written
        kept = [Site(self.plan.site, layer) for layer in layers]
        answers = (batch.answers[0][rows], batch.answers[1][rows])
        total: dict[int, Tensor] = {}
        for own, other in forcings(batch, self.plan.direction):
            if not reads(self.plan.metric, own):
                continue
            with torch.no_grad():
                base, source = (
                    trace(self.model, self.interior, given.ids[rows], keep=own.keep, sites=kept)
                    for given in (own, other)
                )
            slopes = self._slopes(layers, base, source, own, answers)
            self.board.forwards += (2 + 2 * self.steps) * len(rows)  # the way back costs about what the way there does
            for layer in layers:
                found = self._terms(batch, layer, base, source, slopes[layer]).to(self.model.device)
                total[layer] = total[layer] + found if layer in total else found
        parts = [torch.stack([total[at] for at in self.plan.reach(first)]).sum(0) for first in self.plan.layers]
        cells = torch.cat([part.movedim(0, -1).reshape(-1, len(rows)) for part in parts])
        return np.asarray(cells.cpu().double().numpy())

    def _slopes(
        self, layers: Sequence[int], base: Trace, source: Trace, forcing: Forcing, answers: tuple[Tensor, Tensor]
    ) -> dict[int, Tensor]:
        """The metric's gradient in the site of every layer, the mean over the points of the path."""
        points = [0.0] if self.steps == 1 else [(step + 0.5) / self.steps for step in range(self.steps)]
        mean: dict[int, Tensor] = {}
        for point in points:
            start = base.residual[0]
            if point:
                start = start + point * (source.residual[0] - start)
            found = self._back(layers, base.ids, start, forcing, answers)
            mean = {layer: mean.get(layer, 0) + found[layer] / len(points) for layer in layers}
        return mean

    def _back(
        self, layers: Sequence[int], ids: Tensor, start: Tensor, forcing: Forcing, answers: tuple[Tensor, Tensor]
    ) -> dict[int, Tensor]:
        """One pass from embeddings `start` and back; pairs do not meet, so the sum's gradient is each pair's own."""
        # What is added to resid_mid is added to attn_out, and z is linear in the pattern.
        told = {"resid_mid": "attn_out", "pattern": "z"}.get(self.plan.site, self.plan.site)
        kept: dict[int, Tensor] = {}

        def attention(layer: int, attend: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Any:
            z, pattern = attend(q, k, v, mask)
            inside = {"q": q, "k": k, "v": v, "z": z}
            if told in inside and layer in layers:
                kept[layer] = inside[told]
            return z, pattern

        def listen(name: str, layer: int, value: Tensor) -> Tensor | None:
            first = start.detach().clone().requires_grad_() if (name, layer) == ("resid_pre", 0) else None
            if name == told and layer in layers:
                kept[layer] = value if first is None else first
            return first

        options: dict[str, Any] = {}
        if takes_logits_to_keep(type(self.model.module)):
            options["logits_to_keep"] = forcing.keep
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        with torch.enable_grad():
            with self.interior.using(attention=attention, listen=listen):
                output = self.interior.module(input_ids=ids, position_ids=positions, use_cache=False, **options)
            figures = _figures(self.plan.metric, forcing, answers, output.logits[:, -forcing.keep :].float())
            found = torch.autograd.grad(figures.sum(), [kept[layer] for layer in layers])
        if not all(part.isfinite().all() for part in found):
            raise InputError(
                f"metric {check_metric(self.plan.metric)!r} has no finite gradient at these runs: use method='exact'"
            )
        turned = told in ("q", "k", "v")
        return {layer: part.transpose(1, 2) if turned else part for layer, part in zip(layers, found, strict=True)}

    def _terms(self, batch: Batch, layer: int, base: Trace, source: Trace, slope: Tensor) -> Tensor:
        """(what is written - what was there) . gradient in a layer, `[pair, place]` or `[pair, place, unit]`."""
        own, other = batch.spots(self.plan.direction)
        for places in zip(own, other, strict=True):
            check_places(self.plan.site, *places)
        here, there = ([p for place in places for p in place] for places in (own, other))
        if self.plan.site == "pattern":
            made = pattern_z(source.get("pattern", layer)[:, here], base.attention[layer]["v"])
            change = made - base.get("z", layer)[:, here]
        else:
            change = source.get(self.plan.site, layer)[:, there] - base.get(self.plan.site, layer)[:, here]
        product = change.float() * slope[:, here].float()
        if self.plan.each:
            product = (product.sum(-1) if product.ndim == 4 else product)[:, :, list(self.board.units)]
        else:
            product = product.flatten(2).sum(-1)
        place = torch.tensor([number for number, at in enumerate(own) for _ in at], device=product.device)
        return product.new_zeros(len(product), len(own), *product.shape[2:]).index_add_(1, place, product)


def _figures(metric: Metric, forcing: Forcing, answers: tuple[Tensor, Tensor], logits: Tensor) -> Tensor:
    cause: Exception | None = None
    try:
        figures = term(metric, forcing, answers, logits)
    except RuntimeError as error:
        if "requires grad" not in str(error):
            raise
        figures, cause = logits.new_zeros(len(logits)), error
    if not figures.requires_grad:
        raise InputError(
            f"metric {check_metric(metric)!r} is not differentiable: expected figures made of the logits by torch, "
            "without detach, numpy or argmax; or use method='exact'"
        ) from cause
    return figures
