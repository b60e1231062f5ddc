"""Every organism by its name."""

from ..core import check_name
from .debate import DEBATE
from .known import HANDSET, TRAINED
from .specs import HandSet, Trained

_ALL: tuple[Trained | HandSet, ...] = (*TRAINED, *HANDSET, *DEBATE)
ORGANISMS = {spec.name: spec for spec in _ALL}


def spec_of(name: str) -> Trained | HandSet:
    """The spec of an organism by its name."""
    return ORGANISMS[check_name("organism", name, ORGANISMS)]
