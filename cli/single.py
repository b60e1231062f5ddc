"""What single problems are shown by: the tokens of their runs as text, with their spans, and the pair of every row."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..core import atomic_write
from ..hooks import Run
from ..hooks.format import decode, token_ends
from ..tasks import Pairs

FILE = "problems.json"
TOKENS = 1_000_000  # of all runs of a model together: a page is to stay a few megabytes


def single(tokenizer: Any, runs: Sequence[Run], pairs: Pairs | None = None, channels: Any = None) -> dict[str, Any]:
    """The first run of every problem, in plain texts, and the two problems of every row of `channels`.

    Runs are taken in their order as long as `TOKENS` lasts; "problems" says of how many there were runs. Results say
    the rest by the problem's key, and are not copied.
    """
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.problem.key, run)
    kept, left = [], TOKENS
    for run in first.values():
        left -= len(run.ids)
        if left < 0:
            break
        kept.append(run)
    rows = [] if pairs is None or channels is None else [pairs[int(unit)] for unit in channels.unit]
    return {
        "mode": runs[0].mode if runs else "",
        "problems": len(first),
        "samples": max((run.sample for run in runs), default=0) + 1,
        "runs": [_plain(tokenizer, run) for run in kept],
        "pairs": [[pair.recipient.key, pair.donor.key] for pair in rows],
    }


def _plain(tokenizer: Any, run: Run) -> dict[str, Any]:
    # The pieces of the text add up to it; tokens decoded one by one do not, where they share a character.
    text, ends = decode(tokenizer, run.ids), token_ends(tokenizer, run.ids)
    return {
        "problem": run.problem.key,
        "prompt": run.problem.prompt,
        "gold": run.problem.answer,
        "answer": run.answer,
        "finished": run.finished,
        "tokens": [text[start:end] for start, end in pairwise(ends)],
        "spans": {name: list(span) for name, span in run.spans.items()},
    }


def keep(path: Path, told: Mapping[str, Any]) -> None:
    """Write what `single` gave."""
    atomic_write(path, lambda temporary: temporary.write_text(json.dumps(told) + "\n"))
