"""The model's inside: load, run, name places, record. transformers is imported only when a model is loaded or run."""

from .card import Card
from .format import MODES, Format, Mode
from .load import load, organism_names
from .model import Model
from .runs import Run, Runs, generate, replay, replay_gold

__all__ = [
    "MODES",
    "Card",
    "Format",
    "Mode",
    "Model",
    "Run",
    "Runs",
    "generate",
    "load",
    "organism_names",
    "replay",
    "replay_gold",
]
