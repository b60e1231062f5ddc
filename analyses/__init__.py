"""One question a module: a model and problems in, a frozen result out."""

from ..core import load_result as load
from .ablation import ablation
from .ablation_table import Ablation
from .behaviour import behaviour
from .behaviour_table import Behaviour
from .channel_table import CONDITIONS, Channels
from .channels import channels
from .circularity import circularity
from .circularity_table import Circularity
from .decodability import decodability
from .decodability_table import Decodability
from .detail import by_layer, relay_by_position
from .detail_table import ByLayer, RelayByPosition
from .doctor import Doctor, doctor
from .ledger import ledger
from .ledger_table import Ledger
from .patch import patch
from .patch_table import PatchMap
from .seeds import over_seeds

__all__ = [
    "CONDITIONS",
    "Ablation",
    "Behaviour",
    "ByLayer",
    "Channels",
    "Circularity",
    "Decodability",
    "Doctor",
    "Ledger",
    "PatchMap",
    "RelayByPosition",
    "ablation",
    "behaviour",
    "by_layer",
    "channels",
    "circularity",
    "decodability",
    "doctor",
    "ledger",
    "load",
    "over_seeds",
    "patch",
    "relay_by_position",
]
