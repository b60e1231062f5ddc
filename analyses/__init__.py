"""One question a module: a model and problems in, a frozen result out."""

from ..core import load_result as load
from .channel_table import Channels
from .channels import channels
from .ledger import ledger
from .ledger_table import Ledger

__all__ = ["Channels", "Ledger", "channels", "ledger", "load"]
