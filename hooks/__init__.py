"""The model's inside: load, run, name places, record. transformers is imported only when a model is loaded or run."""

from .card import Card
from .edits import KnockOut, Patch, edited
from .format import FORMATS, MODES, Format, Mode
from .load import load, organism_folder, organism_names
from .model import Model
from .record import Activations, record
from .runs import Run, Runs, generate, replay, replay_gold
from .shards import ModelSource, StoreJob, part_of, run_shards
from .spans import resolve
from .store import Store

__all__ = [
    "FORMATS",
    "MODES",
    "Activations",
    "Card",
    "Format",
    "KnockOut",
    "Mode",
    "Model",
    "ModelSource",
    "Patch",
    "Run",
    "Runs",
    "Store",
    "StoreJob",
    "edited",
    "generate",
    "load",
    "organism_folder",
    "organism_names",
    "part_of",
    "record",
    "replay",
    "replay_gold",
    "resolve",
    "run_shards",
]
