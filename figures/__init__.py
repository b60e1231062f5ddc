"""Results to figures: results (and axes) in, axes out. Never runs a model.

One function a question, named like the analysis whose result it draws. Each takes one result or a dict of name to
result, draws into `ax` with the caller's own style, or makes a figure in the style of a paper's column, and returns the
one `Axes` it drew in; `decodability_map` and `circularity` take one result, `history` what a training wrote. `save`
writes files; `style` is the style for further axes, and that of a venue; `alt` says in words what axes show.
"""

from .ablation import ablation
from .across import across
from .alt import alt
from .attribution import attribution
from .behaviour import behaviour, errors
from .beyond import beyond
from .by_layer import by_layer
from .cells import cells
from .channels import channels
from .circularity import circularity
from .claims import claims
from .commitment import commitment
from .decodability import decodability, decodability_map
from .history import history
from .knockout import knockout
from .latex import latex
from .ledger import ledger
from .monitor import monitor
from .patch import patch, patch_depth, patch_heads
from .paths import paths
from .relay_by_position import relay_by_position
from .save import save
from .style import COLUMN, DOUBLE_COLUMN, MODEL_COLOURS, VENUES, WIRE_COLOURS, style
from .subspace import subspace

__all__ = [
    "COLUMN",
    "DOUBLE_COLUMN",
    "MODEL_COLOURS",
    "VENUES",
    "WIRE_COLOURS",
    "ablation",
    "across",
    "alt",
    "attribution",
    "behaviour",
    "beyond",
    "by_layer",
    "cells",
    "channels",
    "circularity",
    "claims",
    "commitment",
    "decodability",
    "decodability_map",
    "errors",
    "history",
    "knockout",
    "latex",
    "ledger",
    "monitor",
    "patch",
    "patch_depth",
    "patch_heads",
    "paths",
    "relay_by_position",
    "save",
    "style",
    "subspace",
]
