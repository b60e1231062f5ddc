"""What a backend must do: say which torch module runs, and read and write activations in its own way."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...core import InputError, check_name
from ..masks import takes_logits_to_keep
from ..sites import RESIDUAL_SITES, Site, SiteMap, attention_of, n_heads

WRITABLE = (*RESIDUAL_SITES, "z")
# The places of a block in the order of a pass, and whether it is the input of a module that is meant, or its output.
PLACES = {"resid_pre": True, "z": True, "attn_out": False, "mlp_out": False, "resid_post": False}
ELSEWHERE = (
    "its weights are not run here (remote=): record, and patched runs one by one (`backend.write`), work there; for "
    "all else load its weights here, without remote="
)


@dataclass(frozen=True, eq=False)
class Edit:
    """One activation that is set in a pass.

    site: one of `WRITABLE`: those of `record`, and `z`, what every head gives to attention's last projection
    rows: (batch index, position) of every value, as in `Backend.read`
    values: `[row, d_model]`, such as `read` gives; for `z` `[row, head, d_head]`, such as `read_heads` gives
    heads: the heads of `z` that are set, in the order of `values`; None for all of them
    """

    site: Site
    rows: Int[Tensor, "row 2"]
    values: Float[Tensor, "row ..."]
    heads: tuple[int, ...] | None = None

    @property
    def index(self) -> tuple[Tensor, ...]:
        """Where the flat values go in states `[batch, pos, width]`."""
        batch, position = self.rows[:, 0], self.rows[:, 1]
        if self.heads is None:
            return batch, position
        size = self.values.shape[-1]
        units = torch.tensor(self.heads, device=self.rows.device)[:, None] * size
        units = (units + torch.arange(size, device=self.rows.device)).flatten()
        return batch[:, None], position[:, None], units

    @property
    def flat(self) -> Float[Tensor, "row width"]:
        """The values with all heads in one."""
        return self.values.flatten(1)


class Backend(ABC):
    """A way to reach a model's inside. Splicing and sweeps run on `module()`; `read` and `write` are the backend's own.

    remote: whether passes are run elsewhere (or "local": as if they were); then `module()` shows how the model is made
    and cannot be run
    """

    name: str
    remote: bool | str = False

    @abstractmethod
    def module(self) -> nn.Module:
        """The Hugging Face causal language model that runs, evaluated as it is, never changed."""

    @abstractmethod
    def read(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        sites: Sequence[Site],
        rows: Int[Tensor, "rows 2"],
    ) -> dict[Site, Float[Tensor, "rows d_model"]]:
        """The activations of one teacher-forced pass at `rows` (batch index, position), one tensor a site.

        ids: right-padded; mask: true where a token stands. What is read is given on the device of `rows`, that of
        `ids`.
        """

    @abstractmethod
    def read_heads(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        layers: Sequence[int],
        rows: Int[Tensor, "rows 2"],
    ) -> dict[Site, Float[Tensor, "rows head d_head"]]:
        """The `z` of layers at `rows`, as `read` does: what every head gives to attention's last projection."""

    @abstractmethod
    def write(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        edits: Sequence[Edit],
        rows: Int[Tensor, "rows 2"],
    ) -> Float[Tensor, "rows vocab"]:
        """The float32 logits at `rows` of one whole pass in which activations are set: the plain way of patching.

        ids, mask: as in `read`; edits: made together, each after those that come before it in the pass, so that
        `resid_mid` is the sum of what went into the block and of what attention then adds. No edits: the plain run.
        Nothing is left behind, also after an error.

        Raises InputError for a site that the model lacks, for rows outside of the batch, for values of another shape.
        """


def position_ids(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Positions that count tokens and skip padding: learned positions are silently wrong without them."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def inputs_of(
    module: nn.Module, ids: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"], rows: Int[Tensor, "rows 2"]
) -> tuple[dict[str, Any], int]:
    """What a whole pass is called with, logits from the first position in `rows` on; and that position."""
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": position_ids(mask), "use_cache": False}
    first = int(rows[:, 1].min()) if takes_logits_to_keep(type(module)) and len(rows) else 0
    return (inputs | {"logits_to_keep": ids.shape[1] - first} if first else inputs), first


def place_of(sites: SiteMap, layer: int, place: str) -> nn.Module:
    """The module that has a place of a layer."""
    block = sites.blocks[layer]
    found = {"resid_pre": block.block, "resid_post": block.block, "attn_out": block.attn_out, "mlp_out": block.mlp_out}
    module = found[place] if place in found else _last_projection(attention_of(block.block))
    assert module is not None  # checked with the site
    return module


def _last_projection(attention: nn.Module) -> nn.Module:
    names = ("o_proj", "c_proj", "dense", "out_proj", "wo")
    found = [part for name in names if isinstance(part := getattr(attention, name, None), nn.Module)]
    if len(found) != 1:
        raise InputError(f"{type(attention).__name__}: no z is known here, since its last projection is not")
    return found[0]


# What is done at a place with an edit: its values are "set"; the states are "kept" for it; it is set "less" those.
Action = tuple[str, int]


def plan(
    module: nn.Module, sites: SiteMap, ids: Int[Tensor, "batch pos"], edits: Sequence[Edit]
) -> dict[tuple[int, str], list[Action]]:
    """What is done at each place (layer, name), by the number of the edit, in the order of a pass."""
    actions: dict[tuple[int, str], list[Action]] = {}
    for number, edit in enumerate(edits):
        _check(module, sites, ids, edit)
        steps = [(edit.site.name, "set")]
        if edit.site.name == "resid_mid":
            steps = [("resid_pre", "keep"), ("attn_out", "less")]
        for place, action in steps:
            actions.setdefault((edit.site.layer, place), []).append((action, number))
    order = list(PLACES)
    return {
        (layer, place): sorted(actions[layer, place], key=lambda action: action[0] != "set")
        for layer, place in sorted(actions, key=lambda at: (at[0], order.index(at[1])))
    }


def _check(module: nn.Module, sites: SiteMap, ids: Tensor, edit: Edit) -> None:
    check_name("site to write", edit.site.name, WRITABLE)
    sites.check(edit.site)
    place_of(sites, edit.site.layer, "attn_out" if edit.site.name == "resid_mid" else edit.site.name)
    rows, values = edit.rows, edit.values
    config: Any = module.config
    wanted: tuple[int, ...] = (len(rows), config.hidden_size)
    given: tuple[int, ...] = tuple(values.shape)
    if edit.site.name == "z":
        count = n_heads(module)
        if edit.heads is not None and not set(edit.heads) <= set(range(count)):
            raise InputError(f"heads={list(edit.heads)}: this model has heads 0 to {count - 1}")
        wanted, given = (len(rows), count if edit.heads is None else len(edit.heads)), given[:-1]
    elif edit.heads is not None:
        raise InputError(f"heads={list(edit.heads)} of {edit.site.name}: only z has heads")
    if given != wanted:
        raise InputError(f"{edit.site.name}: expected values of shape {wanted}, got {given} (d_head left out)")
    size = torch.tensor(ids.shape, device=rows.device)
    if len(rows) and not bool(((rows >= 0) & (rows < size)).all()):
        raise InputError(f"{edit.site.name}: rows outside of the batch, which has {tuple(ids.shape)} tokens")


class Changes:
    """The edits of one pass as they are made, for backends that call back at a place."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = edits
        self._kept: dict[int, Tensor] = {}

    def make(self, hidden: Float[Tensor, "batch pos ..."], actions: Sequence[Action]) -> Tensor:
        """The states of a place after its actions; what is given is not changed."""
        states = hidden.clone().flatten(2)
        for action, number in actions:
            edit = self.edits[number]
            index = tuple(part.to(states.device) for part in edit.index)
            if action == "keep":
                self._kept[number] = states[index]
            else:
                less = self._kept[number] if action == "less" else 0
                states[index] = (edit.flat.to(states) - less).to(states.dtype)
        return states.view(hidden.shape)
