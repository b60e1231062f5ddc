"""Small models whose mechanism is known: their specs, and the command that makes them."""

from ..hooks import organism_names
from .specs import ORGANISMS, HandSet, Trained, spec_of
from .train import train

__all__ = ["ORGANISMS", "HandSet", "Trained", "organism_names", "spec_of", "train"]
