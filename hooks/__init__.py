"""The model's inside: load, run, name places, record. transformers is imported only when a model is loaded or run."""

from .card import Card
from .edits import KnockOut, Patch, edited
from .format import MODES, Format, Mode
from .load import load, organism_folder, organism_names
from .model import Model
from .record import Activations, record
from .runs import Run, Runs, generate, replay, replay_gold
from .spans import resolve

__all__ = [
    "MODES",
    "Activations",
    "Card",
    "Format",
    "KnockOut",
    "Mode",
    "Model",
    "Patch",
    "Run",
    "Runs",
    "edited",
    "generate",
    "load",
    "organism_folder",
    "organism_names",
    "record",
    "replay",
    "replay_gold",
    "resolve",
]
