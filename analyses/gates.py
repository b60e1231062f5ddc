"""Checks of splicing on the user's own runs, before a number is shown."""

from collections.abc import Sequence

import numpy as np

from ..hooks import Model
from ..hooks.gates import Gate, judge
from .cells import N_CELLS
from .eight import Scores, eight_cells, plain_log_p
from .targets import Aim

GATE_PAIRS = 4
ADVICE = (
    'Try load(..., dtype="float32", attention="eager"); a model whose state is not all in its key/value cache cannot '
    "be spliced."
)


def splice_gates(
    model: Model, aims: Sequence[tuple[Aim, Aim]], thirds: Sequence[tuple[int, ...] | None], scores: Scores
) -> list[Gate]:
    """Own caches give the plain run, the donor's give the donor's run, and a batch gives what one by one gives."""
    few = range(min(GATE_PAIRS, len(aims)))
    effect = float(np.abs(scores.log_p[:, -1, :2] - scores.log_p[:, 0, :2]).mean())
    errors: dict[str, list[float]] = {"own-cache splice": [], "full donor splice": []}
    for i in few:
        end = aims[i][0].end if aims[i][0].end == aims[i][1].end else None
        for name, owner, cell in (("own-cache splice", 0, 0), ("full donor splice", 1, N_CELLS - 1)):
            for c in (0, 1):
                plain = plain_log_p(model, aims[i][owner], aims[i][c].answer, end)
                errors[name].append(abs(plain - scores.log_p[i, cell, c]))
    alone = np.concatenate([eight_cells(model, [aims[i]], [thirds[i]]).log_p for i in few])
    errors["batched = one by one"] = np.abs(alone - scores.log_p[: len(few)])[..., :2].ravel().tolist()
    return [judge(name, float(np.max(told)), effect, ADVICE) for name, told in errors.items()]


def self_donor(model: Model, aims: Sequence[tuple[Aim, Aim]], thirds: Sequence[tuple[int, ...] | None]) -> float:
    """The largest change of any cell when a problem is its own donor: 0, or splicing moves something by itself."""
    few = range(min(GATE_PAIRS, len(aims)))
    log_p = eight_cells(model, [(aims[i][0], aims[i][0]) for i in few], [thirds[i] for i in few]).log_p[..., :2]
    return float(np.abs(log_p - log_p[:, :1]).max())
