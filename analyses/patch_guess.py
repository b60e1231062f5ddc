"""How much of a patching map is run and how much is guessed from gradients, and how far guesses are off."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from ..core import InputError, check_name
from .aligned import Aligned
from .gradient import Gradients
from .patch_board import Board, Key, Plan, can_change

METHODS = ("exact", "gradient", "auto")
SEED = 0
SHARE, LEAST = 0.1, 16  # cells that "auto" runs exactly, where no number is given
DIGITS = 6  # effects are ranked to a millionth of the whole: below that they are the roundings of float32


@dataclass(frozen=True)
class Way:
    """How a map is made: `exact`, by `gradient` at points on the path, or `auto`, its largest cells exact again.

    steps: points; refine: how many of the largest cells are exact; sample: how many cells drawn at random are
    """

    method: str
    steps: int
    refine: int | None
    sample: int

    @classmethod
    def of(cls, method: str, steps: int, refine: int | None, sample: int, plan: Plan) -> "Way":
        """Check the arguments of `patch`."""
        check_name("method", method, METHODS)
        for name, value, least in (("steps", steps, 1), ("refine", refine, 0), ("sample", sample, 0)):
            if value is not None and value < least:
                raise InputError(f"{name}={value}: expected a whole number of at least {least}")
        if method == "exact" and steps > 1:
            raise InputError(f"steps={steps} is of gradients: give method='gradient' or 'auto' with it")
        if method != "auto" and refine is not None:
            raise InputError(f"refine={refine} is of method 'auto': got method={method!r}")
        if method != "exact" and plan.metric == "kl":
            raise InputError(
                f"method={method!r} with metric 'kl': its gradient at the unpatched run is 0 whatever is patched; use "
                "metric='log-odds' or method='exact'"
            )
        if method != "exact" and plan.window > 1 and plan.site.startswith("resid_"):
            raise InputError(
                f"window={plan.window} of {plan.site} with method={method!r}: a layer's state contains those below it, "
                "so gradients of several layers would count the same change again; use method='exact', or patch "
                "attn_out or mlp_out"
            )
        return cls(method, steps, refine, sample)

    def identity(self) -> dict[str, Any]:
        """What a result's figures depend on."""
        return {"method": self.method} if self.method == "exact" else dict(vars(self))


@dataclass(frozen=True)
class Guess:
    """What gradients say that cells change, `[cell, pair]`, and the numbers of the cells that are run all the same.

    sampled: drawn at random, layers alike; refined: the largest
    """

    change: NDArray[Any]
    sampled: NDArray[Any]
    refined: NDArray[Any]

    def settle(self, board: Board, plan: Plan, way: Way, labels: Sequence[str]) -> dict[str, Any]:
        """Fill in the cells that were not run, and say how far guesses are from the others.

        Ranks and slope are of the random cells, which stand for all; the largest miss is of every cell that was run.
        """
        base, source = board.natural if plan.direction == "denoising" else board.natural[::-1]
        whole = float((source - base).mean())
        found, guess = ((made.mean(axis=1) / (whole or np.nan)) for made in (board.values - base, self.change))
        board.values[~board.chosen] = (base + self.change)[~board.chosen]
        facts: dict[str, Any] = {"steps": way.steps, "sampled": len(self.sampled), "refined": len(self.refined)}
        facts |= agreement(found[self.sampled], guess[self.sampled])
        run = np.union1d(self.sampled, self.refined).astype(int)
        facts["miss"] = agreement(found[run], guess[run])["miss"]
        if facts["miss"] is not None:
            layer, at, unit = board.keys[run[np.abs(guess - found)[run].argmax()]]
            facts["cell"] = {"layer": layer, "position": labels[at]} | ({} if unit is None else {"unit": unit})
        return facts


def agreement(found: NDArray[Any], guess: NDArray[Any]) -> dict[str, float | None]:
    """How guessed effects follow measured ones, both `[cell]`, in units of the whole effect; None where undefined.

    spearman: their rank correlation; slope: of guesses on measurements, through 0 (below 1: they are too small); miss:
    the largest difference

    >>> agreement(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.2, 0.4]))
    {'spearman': 1.0, 'slope': 0.4, 'miss': 0.6}
    """
    if not np.isfinite(found).all():  # the two runs differ in nothing
        found, guess = np.zeros(0), np.zeros(0)
    one, other = (np.round(values, DIGITS).tolist() for values in (found, guess))
    varied = len(set(one)) > 1 and len(set(other)) > 1
    return {
        "spearman": round(float(spearmanr(one, other).statistic), DIGITS) if varied else None,
        "slope": round(float(found @ guess / (found @ found)), DIGITS) if len(found) and found.any() else None,
        "miss": round(float(np.abs(guess - found).max()), DIGITS) if len(found) else None,
    }


def guess(gradients: Gradients, aligned: Aligned, way: Way, memory: int, progress: bool = False) -> Guess:
    """The map by gradients, and the choice of cells that are run; all others are marked on the board as not chosen.

    Cells that can change nothing are exact without a run.
    """
    board, plan = gradients.board, gradients.plan
    change = gradients.changes(aligned, memory, progress)
    live = np.zeros(len(board.keys), dtype=bool)
    for batch in aligned.batches:
        live |= can_change(batch, plan, board).any(1)
    cells = np.flatnonzero(live)
    sampled = draw(board.keys, cells, way.sample)
    count = max(LEAST, round(SHARE * len(cells))) if way.refine is None else way.refine
    largest = cells[np.argsort(-np.abs(change[cells].mean(1)), kind="stable")]
    refined = largest[: count if way.method == "auto" else 0]
    board.chosen[:] = ~live
    board.chosen[[*sampled, *refined]] = True
    return Guess(change, sampled, refined)


def draw(keys: Sequence[Key], among: NDArray[Any], count: int) -> NDArray[Any]:
    """Numbers of cells drawn at random, equally many of each layer as far as there are any."""
    order = np.random.default_rng(SEED).permutation(among)
    seen: Counter[int] = Counter()
    turn = []
    for number in order:
        layer = keys[number][0]
        turn.append(seen[layer])
        seen[layer] += 1
    return order[np.argsort(turn, kind="stable")[:count]].astype(int)
