"""Small models whose mechanism or training is known: their specs, and the commands that make them."""

from typing import TYPE_CHECKING

from ..hooks import organism_names
from .along import along, checkpoints
from .chains import CONNECTIVES, reworded
from .elicit import elicit
from .registry import ORGANISMS, spec_of
from .specs import HandSet, Part, Reinforced, Supervised, Trained
from .train import cache_folder, organism_path, train, train_all

if TYPE_CHECKING:
    from .monitor import ChannelCallback

__all__ = [
    "CONNECTIVES",
    "ORGANISMS",
    "ChannelCallback",
    "HandSet",
    "Part",
    "Reinforced",
    "Supervised",
    "Trained",
    "along",
    "cache_folder",
    "checkpoints",
    "elicit",
    "organism_names",
    "organism_path",
    "reworded",
    "spec_of",
    "train",
    "train_all",
]


def __getattr__(name: str) -> object:
    """`ChannelCallback` is loaded when it is used: it needs transformers' trainer, which nothing else here does."""
    if name == "ChannelCallback":
        from .monitor import ChannelCallback

        return ChannelCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
