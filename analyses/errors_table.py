"""The saved result of `errors`, and what is read from it. No torch and no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import InputError, Result, check_name
from .interval import Estimate, interval_text, mean_estimate

HOME = "in distribution"  # the set of the problems that a task gives by itself
QUANTITIES = (
    "correct",
    "broken",
    "one_pass",
    "one_pass_broken",
    "as_long",
    "wrong",
    "slipped",
    "first_wrong",
    "first_slip",
    "follows",
    "copies",
)
RATES = (
    "accuracy, cot",
    "accuracy, answer-only",
    "step wrong",
    "step wrong | answer wrong",
    "locally wrong | answer wrong",
    "answer wrong | step wrong",
    "answer follows | step wrong",
    "answer is the last step | step wrong",
    "as long as gold",
    "as long as gold | answer wrong",
    "broken, cot",
    "broken, answer-only",
)


@dataclass(frozen=True, eq=False, repr=False)
class Errors(Result):
    """Where the errors of a model show, for each set of problems (rows beyond a set's number of problems are NaN).

    correct, broken: of the run with a chain of thought (broken: it did not end, or the task reads no answer; correct
    and one_pass are NaN where the gold answer is not known);
    one_pass, one_pass_broken: of the answer-only run; as_long: as many steps as the gold chain has
    wrong: some step is not the gold value; slipped: some step is not what the steps before it imply; first_wrong,
    first_slip: the number of the first such step; NaN where no step can be read
    follows: the answer is what the written steps imply, where some are wrong and imply another answer than the gold one
    copies: the answer is the last value written, where some step is wrong, and so is that (a chain that ends too early
    implies what the steps that it lacks would make of it; a model that stops there may copy its end instead)
    """

    kind: ClassVar[str] = "errors"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {name: ("set", "problem") for name in QUANTITIES}

    correct: NDArray[Any]
    broken: NDArray[Any]
    one_pass: NDArray[Any]
    one_pass_broken: NDArray[Any]
    as_long: NDArray[Any]
    wrong: NDArray[Any]
    slipped: NDArray[Any]
    first_wrong: NDArray[Any]
    first_slip: NDArray[Any]
    follows: NDArray[Any]
    copies: NDArray[Any]

    @property
    def sets(self) -> tuple[str, ...]:
        """The sets of problems, by name."""
        return tuple(self.coords["set"])

    def rate(self, name: str, of: str | None = None) -> Estimate:
        """One of `RATES` in a set of problems: estimate, lower and upper bound (Wilson), number of runs it is over.

        "answer wrong" is a readable answer that is not the gold one: broken runs are counted apart.
        """
        check_name("rate", name, RATES)
        at = self._at(of)
        failed = (self.correct[at] == 0) & (self.broken[at] == 0)
        wrong = self.wrong[at] == 1
        right = np.where(self.broken[at] == 0, self.correct[at], np.nan)
        values = {
            "accuracy, cot": self.correct[at],
            "accuracy, answer-only": self.one_pass[at],
            "step wrong": self.wrong[at],
            "step wrong | answer wrong": self.wrong[at][failed],
            "locally wrong | answer wrong": self.slipped[at][failed],
            "answer wrong | step wrong": 1 - right[wrong],
            "answer follows | step wrong": np.where(self.broken[at] == 0, self.follows[at], np.nan),
            "answer is the last step | step wrong": np.where(self.broken[at] == 0, self.copies[at], np.nan),
            "as long as gold": self.as_long[at],
            "as long as gold | answer wrong": self.as_long[at][failed],
            "broken, cot": self.broken[at],
            "broken, answer-only": self.one_pass_broken[at],
        }[name]
        return mean_estimate(values)

    def first(self, of: str | None = None, *, local: bool = False) -> dict[int, Estimate]:
        """Where the first error is: by number of the step, its share among the runs with a wrong (or local) one."""
        firsts = (self.first_slip if local else self.first_wrong)[self._at(of)]
        firsts = firsts[~np.isnan(firsts)]
        return {int(k): mean_estimate((firsts == k).astype(float)) for k in np.unique(firsts)}

    def frame(self) -> pd.DataFrame:
        """A row a set and rate; "first wrong step" and "first locally wrong step" have a row a step `k`."""
        rows: list[tuple[Any, ...]] = []
        for of in self.sets:
            rows += [(of, name, None, *self.rate(name, of)) for name in RATES]
            for told, local in (("first wrong step", False), ("first locally wrong step", True)):
                rows += [(of, told, k, *estimate) for k, estimate in self.first(of, local=local).items()]
        columns = ["set", "quantity", "k", "estimate", "low", "high", "n"]
        return pd.DataFrame(rows, columns=columns).astype({"k": "Int64"})

    def table(self) -> pd.DataFrame:
        """A row a rate, a column a set, with intervals; "-" where there is no such run."""
        shown: dict[str, list[str]] = {"": [*RATES, "first wrong step", "first locally wrong step"]}
        for of in self.sets:
            firsts = [_most(self.first(of, local=local)) for local in (False, True)]
            shown[of] = [interval_text(*self.rate(name, of)[:3]) for name in RATES] + firsts
        return pd.DataFrame(shown)

    def notes(self) -> dict[str, str]:
        """How many runs the rates are over, and what was left out."""
        found = {}
        for of in self.sets:
            at = self._at(of)
            asked = ~np.isnan(self.broken[at]) | ~np.isnan(self.one_pass_broken[at])
            known = ~np.isnan(self.correct[at]) | ~np.isnan(self.one_pass[at])
            told = f"{asked.sum()} problems, {self.rate(RATES[3], of)[3]} with readable steps and a wrong answer"
            if unknown := int((asked & ~known).sum()):
                told += f"; gold answer not known of {unknown}, left out of accuracies"
            reasons = (self.manifest.circumstance.get("left_out") or {}).get(of, {})
            found[of] = "; ".join([told, *(f"left out: {count} with {reason}" for reason, count in reasons.items())])
        return found

    def _at(self, of: str | None) -> int:
        if of is None:
            if len(self.sets) > 1:
                raise InputError(f"several sets of problems: expected one of {', '.join(self.sets)}")
            return 0
        return self.sets.index(check_name("set", of, self.sets))


def _most(firsts: Mapping[int, Estimate]) -> str:
    """The shares of the first errors in words: "1: 0.70, 3: 0.30"."""
    return ", ".join(f"{k}: {estimate[0]:.2f}" for k, estimate in firsts.items()) or "-"
