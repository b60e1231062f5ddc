"""How much of a language model's answer is computed in one forward pass, and how much do the tokens carry?

The rooms load when they are first used, so that `from loadbearing.probes import RidgeProbe` loads no language model.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import analyses, cli, core, figures, hooks, organisms, probes, tasks
    from .analyses import load

    __version__: str

__all__ = [
    "__version__",
    "analyses",
    "cli",
    "core",
    "figures",
    "hooks",
    "load",
    "organisms",
    "probes",
    "tasks",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return metadata.version("loadbearing")
    if name == "load":
        return import_module(".analyses", __name__).load
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'loadbearing' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
