"""A study as one HTML page that needs nothing else: tables, figures, and a view of single problems."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from ..core import printable
from .style import MODEL_COLOURS, WIRE_COLOURS

FILES = Path(__file__).parent / "report_files"
LINE, CELL = 120, 2000  # characters of a name, and of a cell of a table, that are shown
# What a figure is of, by the name of its file; its numbers are in the tables and results.
MEANINGS = {
    "channels": "Shares of the three wires (direct, relay, tokens), for each variable, with 95 % intervals",
    "known": "Shares of the three wires of models whose wires are known, for each variable",
    "ablation": "What the model's own answer loses with only some of the three wires on, the others set to nothing",
    "ledger": "Heat map: how often each target becomes what a swapped source implies, target by source",
    "behaviour": "What becomes of the answer when the chain of thought is cut, emptied, or made wrong",
    "errors": "How often answers and steps are right or wrong",
    "monitor": "What readers of the text alone tell: the model's answer, and whether a hint decided it",
    "decodability": "Bits that a linear probe reads of each variable, along the run",
    "beyond": "Bits that the text so far, and the state beyond it, tell of a value, along the chain of thought",
    "commitment": "How often the final answer can be told already, from no step kept to all",
    "patch-answer-only": "Heat map: what patching a state does when the answer is given at once, layer by position",
    "patch-cot": "Heat map: what patching a state does in the run with a chain of thought, layer by position",
    "claims": "The measured endpoint of every claim with its interval, beside the threshold that was claimed",
}


@dataclass(frozen=True)
class Figure:
    """A figure of a study: the name of its file, and the file, a PNG."""

    name: str
    png: bytes

    @property
    def data(self) -> str:
        """The image as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    @property
    def width(self) -> int:
        """How wide it is shown, in the page's pixels: a paper's column is 440."""
        return round(0.45 * int.from_bytes(self.png[16:20], "big"))  # that of the file: its header begins with the size

    @property
    def alt(self) -> str:
        """What it shows, in words: its own, else its caption."""
        try:
            return str(Image.open(BytesIO(self.png)).info["Description"])
        except (KeyError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # no words, or no sound PNG
            return self.caption

    @property
    def caption(self) -> str:
        """What it is a figure of."""
        kind = max((kind for kind in MEANINGS if self.name.startswith(kind)), key=len, default="")
        family = self.name[len(kind) :].strip("-")
        return MEANINGS.get(kind, "Figure") + (f" ({family})" if family else "")


@dataclass(frozen=True)
class Study:
    """What a report shows.

    facts: what was measured and how; claims: rows of `analyses.claims.verdicts`; blocks: the table of models in parts,
    by their titles; wires: by model the table of its channels; used, notes, printed: what the study says
    models: what `model_data` gives
    """

    name: str
    facts: Mapping[str, str]
    claims: Sequence[Mapping[str, Any]]
    blocks: Mapping[str, pd.DataFrame]
    legend: str
    wires: Mapping[str, pd.DataFrame]
    used: Mapping[str, Mapping[str, int]]
    notes: Sequence[str]
    printed: str
    figures: Sequence[Figure]
    models: Sequence[Mapping[str, Any]]


def page(study: Study) -> str:
    """The page of a study. The same study gives the same text.

    Names, prompts and answers are data: they are escaped, and a policy in the page forbids every script and style but
    its own two, every address, and every connection.

    >>> empty = Study("mine", {}, [], {}, "", {}, {}, [], "", [], [])
    >>> text = page(empty)
    >>> "<h1>mine</h1>" in text, "http://" in text or "https://" in text
    (True, False)
    """
    style, script = _style(), (FILES / "script.js").read_text()
    policy = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    environment = Environment(
        loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = _shown
    return environment.get_template("page.html").render(
        study=study,
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        style=style,
        script=script,
        data=[(model["name"], _embedded(model)) for model in study.models],
        verdicts=["supported", "contradicted", "not settled"],
    )


def _style() -> str:
    """The style sheet, with the colours of the figures."""
    named = {**WIRE_COLOURS, "follows": MODEL_COLOURS[1], "implied": MODEL_COLOURS[2]}
    colours = "".join(f"--{name}: {colour}; " for name, colour in named.items())
    return f":root {{ {colours}}}\n" + (FILES / "style.css").read_text()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(model: Mapping[str, Any]) -> str:
    """Data inside a script element, which nothing in it can end: `<` occurs in texts only, where it may be escaped."""
    return json.dumps(model, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _shown(value: Any, most: int = CELL) -> str:
    """A value as it is shown: every character seen; a number in three digits; nothing where it is not known."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.3g}"
    return printable(str(value), most)
