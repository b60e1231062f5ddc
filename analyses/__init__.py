"""One question a module: a model and problems in, a frozen result out."""

from ..core import load_result as load
from .ablation import ablation
from .ablation_table import Ablation
from .across import across
from .across_table import Across
from .attribution import attribution
from .attribution_table import Attribution
from .behaviour import behaviour
from .behaviour_table import Behaviour
from .beyond import beyond
from .beyond_table import Beyond
from .channel_table import CONDITIONS, Channels
from .channels import channels
from .circularity import circularity
from .circularity_table import Circularity
from .commitment import commitment
from .commitment_table import Commitment
from .cost import cost
from .cost_rows import Lengths
from .decodability import decodability
from .decodability_table import Decodability
from .detail import by_layer, relay_by_position
from .detail_table import ByLayer, RelayByPosition
from .doctor import Doctor, doctor
from .errors import errors
from .errors_table import Errors
from .knockout import knockout
from .knockout_table import KnockOutEffect
from .ledger import ledger
from .ledger_table import Ledger
from .monitor import monitor
from .monitor_table import Monitor
from .parts import Parts
from .patch import patch
from .patch_parts import patch_in_parts
from .patch_table import PatchMap, UnitPatchMap
from .paths import paths
from .paths_table import Paths
from .seeds import over_seeds
from .subspace import subspace
from .subspace_table import Subspace

__all__ = [
    "CONDITIONS",
    "Ablation",
    "Across",
    "Attribution",
    "Behaviour",
    "Beyond",
    "ByLayer",
    "Channels",
    "Circularity",
    "Commitment",
    "Decodability",
    "Doctor",
    "Errors",
    "KnockOutEffect",
    "Ledger",
    "Lengths",
    "Monitor",
    "Parts",
    "PatchMap",
    "Paths",
    "RelayByPosition",
    "Subspace",
    "UnitPatchMap",
    "ablation",
    "across",
    "attribution",
    "behaviour",
    "beyond",
    "by_layer",
    "channels",
    "circularity",
    "commitment",
    "cost",
    "decodability",
    "doctor",
    "errors",
    "knockout",
    "ledger",
    "load",
    "monitor",
    "over_seeds",
    "patch",
    "patch_in_parts",
    "paths",
    "relay_by_position",
    "subspace",
]
