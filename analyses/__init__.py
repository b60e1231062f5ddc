"""One question a module: a model and problems in, a frozen result out."""

from ..core import load_result as load
from .behaviour import behaviour
from .behaviour_table import Behaviour
from .channel_table import CONDITIONS, Channels
from .channels import channels
from .decodability import decodability
from .decodability_table import Decodability
from .ledger import ledger
from .ledger_table import Ledger
from .patch import patch
from .patch_table import PatchMap

__all__ = [
    "CONDITIONS",
    "Behaviour",
    "Channels",
    "Decodability",
    "Ledger",
    "PatchMap",
    "behaviour",
    "channels",
    "decodability",
    "ledger",
    "load",
    "patch",
]
