"""Direct logit attribution: what each component adds to the answer's logit."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ..core import InputError, Manifest, check_name, circumstance
from ..hooks import MODES, Mode, Model, Runs
from ..hooks.cut_view import shallow, view
from ..hooks.gates import enforce, judge
from ..hooks.interior import Done, Interior
from ..hooks.sites import Site, attention_of
from ..hooks.sweep import head_of, open_interior
from ..hooks.trace import Trace, call_block, trace
from ..tasks import Pairs
from .aligned import Batch, align
from .attribution_table import Attribution
from .patch_cells import unit_count

UNITS = ("component", "head", "neuron")
PROBE = 1024.0  # large against the epsilon of a norm, and a power of two: exact in every dtype
TRACES = 1 << 30  # bytes that traces may take at once, about
ADVICE = "What its blocks add is not its residual stream: no attribution of this model adds up."


def attribution(
    model: Model,
    pairs: Pairs,
    *,
    mode: Mode = "answer-only",
    target: str = "onset",
    cot: str | Runs | Mapping[str, Any] = "model",
    unit: str = "component",
    progress: bool = False,
) -> Attribution:
    """Split the logit of the donor's first answer token over the recipient's into what each component adds to it.

    Each component's part of the residual stream, where the answer is predicted, times the final norm's weights, its
    scale frozen at that of the whole, times the difference of the two tokens' unembeddings. Components and `bias` (of
    the final norm, the unembedding and, for heads and neurons, of their projections) add up to the difference of the
    logits as they leave the unembedding: before a soft cap or a scale, where a model has one. What a component does by
    way of later ones is not in it: see `paths` and `patch`.

    unit: "component" (embedding, each layer's attention and MLP), "head" (attention by heads), "neuron" (MLPs by
        neurons)
    mode, target, cot: as in `patch`; both runs of every pair are measured

    Raises InputError for answers with the same first token, and for heads or neurons whose sum goes through a norm
    before it is added (Gemma, OLMo 2): it has no parts.

    Source: Elhage et al. 2021; direct logit attribution as in Wang et al. 2022 (arXiv 2211.00593).

    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-direct")
    >>> found = attribution(model, model.task.pairs(4), mode="cot", target="answer", cot="task")
    >>> dict(zip(found.components, found.effect()[0].round(1).tolist(), strict=True))
    {'embed': 0.0, 'attn.0': 0.0, 'mlp.0': 0.0, 'attn.1': 40.0, 'mlp.1': 0.0, 'bias': 0.0}
    """
    began = time.perf_counter()
    check_name("mode", mode, MODES)
    check_name("unit", unit, UNITS)
    interior = open_interior(model)
    _check_parts(model, interior, unit)
    aligned = align(model, pairs, mode=mode, target=target, cot=cot, progress=progress)
    labels = _labels(model, interior, unit)
    values = np.zeros((2, len(labels), len(aligned.pairs)))
    logits = np.zeros((2, len(aligned.pairs)))
    readout = Readout(model)
    with tqdm(total=len(aligned.pairs), desc="attribution", unit="pair", disable=not progress, leave=False) as bar:
        for batch in (part for whole in aligned.batches for part in whole.parts(model, TRACES)):
            tokens = _first_tokens(batch)
            for side, ids in enumerate((batch.recipient, batch.donor)):
                with torch.no_grad():
                    base = trace(model, interior, ids, sites=_kept(model, unit))
                frozen = readout.frozen(base.residual[-1][:, -1], tokens)
                values[side][:, list(batch.index)] = _split(interior, base, frozen, unit).cpu().numpy()
                logits[side, list(batch.index)] = frozen.logits.cpu().numpy()
            bar.update(len(batch.index))
    error = max(float(np.abs(each.sum(axis=0) - own).max()) for each, own in zip(values, logits, strict=True))
    gate = judge("components add up to the logit", error, float(np.abs(logits[1] - logits[0]).mean()), ADVICE)
    enforce([gate])
    how = {"unit": unit, "mode": mode, "target": target, "cot": cot if isinstance(cot, str) else "given"}
    facts = {"dropped": aligned.dropped, "gates": [gate.asdict()], "changed": readout.changed}
    facts |= {"onset": aligned.onset.slot if aligned.onset else None}
    names = tuple(pairs.variables)
    return Attribution(
        coords={"component": labels, "run": ("recipient", "donor"), "names": names},
        manifest=Manifest({**model.identity(), "task": pairs.task.spec, **how}, circumstance(began, **facts)),
        recipient=values[0],
        donor=values[1],
        logits=logits,
        variable=np.array([names.index(variable) for _, _, variable in aligned.pairs]),
    )


def _check_parts(model: Model, interior: Interior, unit: str) -> None:
    """Raise InputError where parts do not add up to what a layer adds."""
    for layer, block in enumerate(model.sites.blocks):
        for name in ("attn_out", "mlp_out"):
            model.sites.check(Site(name, layer))
        down = interior.down[layer]
        where = f"{type(block.block).__name__} (layer {layer})"
        if unit == "neuron" and down is None:
            raise InputError(f"{where} has no neurons that are known here: use unit='head' or unit='component'")
        inside = attention_of(block.block) if unit == "head" else down
        adds = block.attn_out if unit == "head" else block.mlp_out
        if unit != "component" and adds is not None and all(part is not inside for part in adds.modules()):
            raise InputError(
                f"{where} puts the sum of its {unit}s through a norm before it is added, so that no {unit} has a part "
                "of its own: use unit='component', or paths(...) for the effect of single heads"
            )


def _first_tokens(batch: Batch) -> tuple[Tensor, Tensor]:
    """The recipient's and the donor's first answer token."""
    first, second = (answer[:, 0] for answer in batch.answers)
    if (first == second).any():
        raise InputError(
            "attribution is of the first tokens of the answers, and some pairs' are the same: give pairs whose answers "
            "begin differently, or use patch(...), which reads whole answers"
        )
    return first, second


def _labels(model: Model, interior: Interior, unit: str) -> tuple[str, ...]:
    names = ["embed"]
    heads, neurons = unit_count("z", model, interior), unit_count("neurons", model, interior) if unit == "neuron" else 0
    for layer in range(len(interior.blocks)):
        names += [f"L{layer}H{head}" for head in range(heads)] if unit == "head" else [f"attn.{layer}"]
        names += [f"L{layer}N{neuron}" for neuron in range(neurons)] if unit == "neuron" else [f"mlp.{layer}"]
    return (*names, "bias")


def _kept(model: Model, unit: str) -> list[Site]:
    names = ("attn_out", "mlp_out", *(("neurons",) if unit == "neuron" else ()))
    return [Site(name, layer) for layer in range(model.n_layers) for name in names]


@dataclass(frozen=True)
class Frozen:
    """From the residual stream to the difference of two logits, linear since the norm's scale is given: what a state
    adds is its product with `direction`. logits: the difference that the model has."""

    direction: Float[Tensor, "pair d_model"]
    bias: Float[Tensor, " pair"]
    logits: Float[Tensor, " pair"]

    def of(self, states: Float[Tensor, "pair pos d_model"]) -> Float[Tensor, " pair"]:
        """What states at the last position add."""
        return (states[:, -1].double().to(self.direction.device) * self.direction).sum(-1)


class Readout:
    """From the last layer's output to the unembedding: a norm whose weights and bias are measured, not looked up.

    changed: whether the model changes its logits after the unembedding (a soft cap, a scale)
    """

    def __init__(self, model: Model) -> None:
        self.changed = False
        self._name = type(model.module).__name__
        self._head = head_of(model)
        top: Any = self._head.top
        unembedding = top.get_output_embeddings()
        weight = getattr(unembedding, "weight", None)
        if weight is None or weight.ndim != 2:
            raise InputError(f"{self._name} has no output embedding of one row a token: its logits cannot be split")
        path = next(path for path, part in top.named_modules() if part is unembedding)
        own = shallow(unembedding)
        own.register_forward_hook(self._see)
        self._head.top = view(top, path, own)
        self._unembedding: Any = unembedding
        self._seen: tuple[Tensor, Tensor]
        self._measure(weight)

    def _see(self, _: Any, args: tuple[Any, ...], output: Tensor) -> None:
        self._seen = (args[0][:, 0], output[:, 0])

    @torch.no_grad()
    def _run(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What enters the unembedding, and what leaves it, in float64."""
        logits = self._head(states[:, None])[:, 0]
        normed, raw = (part.double().to(states.device) for part in self._seen)
        self.changed |= not torch.allclose(logits.double(), raw, rtol=1e-6)
        return normed, raw

    def _measure(self, weight: Tensor) -> None:
        """Bias and weights of the norm, and whether it takes the mean away: from states whose norm is known."""
        signs = torch.ones(weight.shape[1], dtype=weight.dtype, device=weight.device)
        signs[1::2] = -1
        one, minus, shifted = self._run(PROBE * torch.stack([signs, -signs, signs + 1]))[0]
        self._bias = (one + minus) / 2
        self._centred = torch.allclose(one, shifted, rtol=1e-3, atol=1e-3 * float(one.abs().max()))
        probe = self._centre(signs.double())
        self._weight = (one - minus) / 2 / (probe / probe.pow(2).mean().sqrt())

    def _centre(self, states: Tensor) -> Tensor:
        return states - states.mean(-1, keepdim=True) if self._centred else states

    def frozen(self, states: Float[Tensor, "pair d_model"], tokens: tuple[Tensor, Tensor]) -> Frozen:
        """The linear map at these states, for the second tokens over the first."""
        device = self._weight.device
        states, tokens = states.to(device), (tokens[0].to(device), tokens[1].to(device))
        normed, raw = self._run(states)
        unscaled = self._centre(states.double()) * self._weight
        given = normed - self._bias
        scale = (given * unscaled).sum(-1, keepdim=True) / unscaled.pow(2).sum(-1, keepdim=True)
        off = float((given - scale * unscaled).abs().max() / given.abs().max())
        if not off < 64 * torch.finfo(states.dtype).eps:
            raise InputError(
                f"{self._name}: between its last layer and its unembedding there is no RMSNorm or LayerNorm (off by "
                f"{off:.1e}), so its logits have no parts that are linear in the residual stream: use paths or patch"
            )
        added = getattr(self._unembedding, "bias", None)
        weight = self._unembedding.weight.detach()
        rows = (weight[tokens[1]].double() - weight[tokens[0]].double()).to(states.device)
        bias = (self._bias * rows).sum(-1)
        if added is not None:
            bias = bias + (added[tokens[1]] - added[tokens[0]]).detach().double()
        logits = raw.gather(1, tokens[1][:, None]) - raw.gather(1, tokens[0][:, None])
        return Frozen(self._centre(scale * self._weight * rows), bias, logits[:, 0])


def _split(interior: Interior, base: Trace, frozen: Frozen, unit: str) -> Float[Tensor, "component pair"]:
    """The part of every component, and the bias last."""
    found = [frozen.of(base.residual[0])[None]]
    bias = frozen.bias
    for layer in range(len(interior.blocks)):
        for site, parts in (("attn_out", "head"), ("mlp_out", "neuron")):
            whole = frozen.of(base.get(site, layer))
            each = whole[None]
            if unit == parts:
                each = _linear_parts(interior, base, layer, frozen.direction, site)
                bias = bias + whole - each.sum(0)
            found.append(each)
    return torch.cat([*found, bias[None]])


def _linear_parts(
    interior: Interior, base: Trace, layer: int, direction: Float[Tensor, "pair d_model"], site: str
) -> Float[Tensor, "part pair"]:
    """Heads or neurons: the projection after them is linear, so each one's part is its value times its gradient."""
    z, last = base.get("z", layer)[:, -1:], [base.ids.shape[1] - 1]
    inside = (z if site == "attn_out" else base.get("neurons", layer)[:, -1:]).detach().clone().requires_grad_()
    attended = inside if site == "attn_out" else z
    added: list[Tensor] = []

    def listen(name: str, _: int, value: Tensor) -> Tensor | None:
        if name == site:
            added.append(value)
            raise Done
        return inside if name == "neurons" else None

    with torch.enable_grad():
        hidden = base.residual[layer][:, -1:]
        call_block(interior, base, layer, hidden, last, lambda *_: (attended, None), listen)
        total = (added[0][:, 0].double().to(direction.device) * direction).sum()
        (gradient,) = torch.autograd.grad(total, inside)
    product = inside.detach()[:, 0].double() * gradient[:, 0].double()
    return (product.sum(-1) if site == "attn_out" else product).T.to(direction.device)
