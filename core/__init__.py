"""What every room shares: errors, saved results, manifests, atomic files. Imports nothing of ours."""

from .errors import GateError, InputError, Interrupted, LoadbearingError, UnknownNameError, check_name
from .files import atomic_write, new_folder
from .result import Manifest, Result, circumstance, load_result
from .text import printable, table_text

__all__ = [
    "GateError",
    "InputError",
    "Interrupted",
    "LoadbearingError",
    "Manifest",
    "Result",
    "UnknownNameError",
    "atomic_write",
    "check_name",
    "circumstance",
    "load_result",
    "new_folder",
    "printable",
    "table_text",
]
