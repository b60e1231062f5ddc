"""The saved result of `channels`, and every table that is read from its cells. No torch and no model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import InputError, Result, check_name
from .cells import MIXED, TERMS, WIRES, shares, total
from .estimates import OUTCOMES, Estimates, estimate, per_unit
from .interval import accuracy_text, bootstrap_interval, detectable, interval_text, number_text

SUMMARY = "mean"
PAIRS_ENDED, TOTAL_NATS, TOTAL_P, SHARE_RANGE, MIXED_READ, JOINT, TIE = 0.9, 1.0, 0.2, 0.1, 0.8, 0.2, 0.05
FEWEST = 8
CONDITIONS = {
    "a": "in fewer than 90 % of the pairs both natural runs finish in two different answers that the task can read",
    "b": "the total effect is too small (lower bound below 1 nat, or below 0.2 in probability)",
    "c": "a share lies outside [-0.1, 1.1]",
    "d": "in a mixed cell fewer than 80 % of answers are the donor's, the recipient's or the implied one",
    "n": "fewer than 8 pairs: an interval over so few units says nothing",
    "e": "the largest wire is not the same on log-odds and on probability",
}


@dataclass(frozen=True, eq=False, repr=False)
class Channels(Result):
    """The eight cells of every pair, in both directions (0: recipient to donor, 1: the other way round).

    log_p: natural-log probability of the donor's, the recipient's and a third answer; outcome: index into `OUTCOMES` of
    the greedy answer; program: +1 where the reference program implies the donor's answer, -1 the recipient's, 0
    another, NaN none; agrees: whether the greedy answer is the implied one (also with values permuted over pairs);
    log_p_boundary: the cells again with the opening text counted with the CoT, NaN if that was not measured
    log_p_gold: of the donor's and the recipient's gold answer, NaN where no run wrote it
    distance: of the reader's state from natural runs, in units of their own distance from one another
    unit: the pair of problems that a row is of: several rows where CoTs were sampled
    """

    kind: ClassVar[str] = "channels"
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "variable": ("pair",),
        "unit": ("pair",),
        "cots_differ": ("pair",),
        "log_p": ("pair", "direction", "cell", "candidate"),
        "outcome": ("pair", "direction", "cell"),
        "program": ("pair", "direction", "cell"),
        "agrees": ("pair", "direction", "cell"),
        "agrees_shuffled": ("pair", "direction", "cell"),
        "entropy": ("pair", "direction", "cell"),
        "log_p_boundary": ("pair", "direction", "cell", "candidate"),
        "log_p_gold": ("pair", "direction", "cell", "gold"),
        "distance": ("pair", "direction", "cell"),
    }

    variable: NDArray[Any]
    unit: NDArray[Any]
    cots_differ: NDArray[Any]
    log_p: NDArray[Any]
    outcome: NDArray[Any]
    program: NDArray[Any]
    agrees: NDArray[Any]
    agrees_shuffled: NDArray[Any]
    entropy: NDArray[Any]
    log_p_boundary: NDArray[Any]
    log_p_gold: NDArray[Any]
    distance: NDArray[Any]

    @property
    def variables(self) -> tuple[str, ...]:
        """The varied variables."""
        return tuple(self.coords["variable"])

    @property
    def early(self) -> tuple[str, ...]:
        """The variables that the program uses before the step at which the target is computed: what `mean` is over.

        The others are listed apart: their direct share is not latent, since no text before the target could carry them.
        """
        last, used = (self.manifest.circumstance.get(name) for name in ("last_step", "first_use"))
        if not isinstance(used, Mapping) or not set(self.variables) <= set(used):
            told = f"expected the first use of {', '.join(self.variables)} in the manifest, got {used!r}"
            raise InputError(f"{told}: the file was changed; measure it again")
        return tuple(v for v in self.variables if last is None or used[v] is None or used[v] < last)

    def select(self, variable: str) -> NDArray[Any]:
        """Which pairs vary a variable ("mean": any variable used before the last step)."""
        check_name("variable", variable, [*self.variables, SUMMARY])
        names = self.early if variable == SUMMARY else (variable,)
        return np.isin(self.variable, [self.variables.index(name) for name in names])

    @cached_property
    def _cache(self) -> dict[tuple[str, bool], Estimates]:
        return {}

    def estimates(self, variable: str, differing: bool = False) -> Estimates:
        """All quantities for a variable; `differing` keeps only pairs whose CoTs differ before the target."""
        if (variable, differing) not in self._cache:
            rows = self.select(variable) & (self.cots_differ if differing else True)
            self._cache[variable, differing] = self._estimate(rows)
        return self._cache[variable, differing]

    def _estimate(self, rows: NDArray[Any]) -> Estimates:
        log_p = self.log_p[rows]
        parts = [log_p[..., 0] - log_p[..., 1], *np.moveaxis(np.exp(log_p), -1, 0)]
        parts += [(self.outcome[rows] == code).astype(float) for code in range(len(OUTCOMES))]
        parts += [self.log_p_boundary[rows][..., 0] - self.log_p_boundary[rows][..., 1], self.program[rows]]
        return estimate([per_unit(part, self.unit[rows]) for part in parts])

    def status(self, variable: str = SUMMARY) -> str:
        """ "ok", "joint", "withheld: b, d", or "not available to tokens" where no pair's CoTs differ."""
        if variable == SUMMARY and not self.early:
            return "no variable is used before the last step"
        failed = set(self._failed(variable))
        if variable == SUMMARY:
            failed |= {letter for name in self.early for letter in self._failed(name)}
        if failed:
            return "withheld: " + ", ".join(sorted(failed))
        found = self.estimates(variable)
        bar = JOINT * found.get("p(donor's)", "total")
        low, high = found.get("p(donor's)", "interaction", "low"), found.get("p(donor's)", "interaction", "high")
        if (low > bar).any() or (high < -bar).any():
            return "joint"
        if variable == SUMMARY and any(self.status(name) == "joint" for name in self.early):
            return "joint"
        return "ok" if self.cots_differ[self.select(variable)].any() else "not available to tokens"

    def _failed(self, variable: str) -> Iterator[str]:
        """The letters of the conditions that are not met."""
        facts, found = self.manifest.circumstance, self.estimates(variable)
        names = self.early if variable == SUMMARY else (variable,)
        natural = self.outcome[self.select(variable)]
        kept = (natural[..., 0] == OUTCOMES.index("recipient's")) & (natural[..., -1] == OUTCOMES.index("donor's"))
        ended = sum(facts["ended"][name] for name in names) / max(1, sum(facts["asked"][name] for name in names))
        used = len(natural) / max(1, sum(facts["asked"][name] for name in names))
        if not found.n or min(ended, used, kept.mean()) < PAIRS_ENDED:
            yield "a"
        if found.n < FEWEST:
            yield "n"
        if not found.n:
            return
        strong = found.get("log-odds", "total", "low") >= TOTAL_NATS
        if not (strong & (found.get("p(donor's)", "total", "low") >= TOTAL_P)).all():
            yield "b"
        split = found.get("log-odds", "share")
        if not ((split >= -SHARE_RANGE) & (split <= 1 + SHARE_RANGE)).all():
            yield "c"
        if not (found.get("read", "cell", "high")[list(MIXED)] >= MIXED_READ).all():
            yield "d"
        other = found.get("p(donor's)", "share")
        # Wires that tie within 0.05 count as equally large.
        if other[np.argmax(split)] < other.max() - TIE or split[np.argmax(other)] < split.max() - TIE:
            yield "e"

    def shares(self, variable: str = SUMMARY) -> NDArray[Any]:
        """Shares of direct, relay and tokens on log-odds; NaN where they are withheld."""
        found = self.estimates(variable).get("log-odds", "share")
        return np.full(3, np.nan) if self.status(variable).startswith(("withheld", "no variable")) else found

    def frame(self) -> pd.DataFrame:
        """Every quantity: variable ("mean": the summary), target, outcome, quantity, term, estimate, low, high, n,
        status.

        A withheld share is NaN; the cells stay.
        """
        rows: list[dict[str, Any]] = []
        target = self.manifest.identity["target"]
        names = [*self.variables, SUMMARY] if self.early else list(self.variables)
        for variable in names:
            found, status = self.estimates(variable), self.status(variable)
            fixed = {"variable": variable, "target": target, "status": status, "n": found.n}
            for (outcome, quantity, term), *numbers in zip(
                found.labels, found.estimate, found.low, found.high, strict=True
            ):
                hidden = quantity == "share" and outcome in {"log-odds", "p(donor's)"} and status.startswith("withheld")
                shown = [np.nan] * 3 if hidden else [float(number) for number in numbers]
                values = dict(zip(("estimate", "low", "high"), shown, strict=True))
                rows.append({**fixed, "outcome": outcome, "quantity": quantity, "term": term, **values})
            rows += [{**fixed, **row} for row in self._plain_rows(variable, status)]
        order = ["variable", "target", "outcome", "quantity", "term", "estimate", "low", "high", "n", "status"]
        return pd.DataFrame(rows)[order]

    def _plain_rows(self, variable: str, status: str) -> Iterator[dict[str, Any]]:
        """Rates without an interval: agreement with the program, P(CoTs differ), the share where they do."""
        rows = self.select(variable)
        for name, array in (("agrees", self.agrees), ("agrees, permuted", self.agrees_shuffled)):
            kept = array[rows]
            known = ~np.isnan(kept)
            rates = np.where(known, kept, 0).sum((0, 1)) / np.where(known.sum((0, 1)), known.sum((0, 1)), np.nan)
            for term, rate in zip(TERMS, rates, strict=True):
                yield {"outcome": name, "quantity": "cell", "term": term, "estimate": float(rate)}
        for term, entropy in zip(TERMS, _cell_means(self.entropy[rows]), strict=True):
            yield {"outcome": "entropy", "quantity": "cell", "term": term, "estimate": float(entropy)}
        for term, far in zip(TERMS, _cell_means(self.distance[rows]), strict=True):
            yield {"outcome": "distance from natural runs", "quantity": "cell", "term": term, "estimate": float(far)}
        for wire, least in zip(WIRES, self.detectable(variable), strict=True):
            yield {"outcome": "log-odds", "quantity": "detectable share", "term": wire, "estimate": float(least)}
        yield from self._gold_rows(variable, status)
        third = self.third(variable)
        yield {"outcome": "null: third answer, p", "quantity": "total", "term": "any", "estimate": third}
        differ = self.differing(variable)
        yield {"outcome": "CoTs differ", "quantity": "rate", "term": "tokens", "estimate": differ}
        if differ > 0 and not status.startswith("withheld"):
            within = self.estimates(variable, differing=True)
            numbers = {b: float(within.get("log-odds", "share", b)[2]) for b in ("estimate", "low", "high")}
            yield {"outcome": "log-odds, CoTs differ", "quantity": "share", "term": "tokens", **numbers, "n": within.n}

    def _gold_rows(self, variable: str, status: str) -> Iterator[dict[str, Any]]:
        """The split again with the gold answers in place of the own ones, over the pairs in which both are known."""
        known = self.select(variable) & ~np.isnan(self.log_p_gold).any((1, 2, 3))
        if not known.any():
            return
        values = per_unit(self.log_p_gold[known, ..., 0] - self.log_p_gold[known, ..., 1], self.unit[known]).mean(1)
        low, high = bootstrap_interval(values, lambda v: np.concatenate([total(v)[..., None], shares(v)], axis=-1))
        told = np.concatenate([total(values.mean(0))[None], shares(values.mean(0))])
        for i, (quantity, term) in enumerate([("total", TERMS[-1]), *(("share", wire) for wire in WIRES)]):
            hidden = quantity == "share" and status.startswith("withheld")
            numbers = [np.nan] * 3 if hidden else [float(told[i]), float(low[i]), float(high[i])]
            yield {
                "outcome": "log-odds, gold answers",
                "quantity": quantity,
                "term": term,
                "n": len(values),
                **dict(zip(("estimate", "low", "high"), numbers, strict=True)),
            }

    def detectable(self, variable: str = SUMMARY) -> NDArray[Any]:
        """The smallest shares of direct, relay and tokens that so many pairs would show (see `interval.detectable`)."""
        found = self.estimates(variable)
        low, high = (found.get("log-odds", "share", bound) for bound in ("low", "high"))
        return np.asarray(detectable(high - low, found.n))

    def table(self) -> pd.DataFrame:
        """A row a variable: shares with intervals, the shares that the program predicts for a chain, status, pairs."""
        rows = []
        for variable in [*self.variables, *([SUMMARY] if self.early else [])]:
            found, status = self.estimates(variable), self.status(variable)
            hidden = status.startswith("withheld")
            row: dict[str, Any] = {"variable": variable}
            for i, wire in enumerate(WIRES):
                value, low, high = (found.get("log-odds", "share", b)[i] for b in ("estimate", "low", "high"))
                row[wire] = "-" if hidden else interval_text(value, low, high)
            chain = found.get("program: chain", "share")
            # Where the written steps do not lead from one answer to the other, the program predicts no split.
            told = found.get("program: chain", "total")[0] >= 1
            row["a chain gives"] = " / ".join(map(number_text, chain)) if told else "-"
            row["one pass gives"] = "1.00 / 0.00 / 0.00"
            row["total (nats)"] = number_text(float(found.get("log-odds", "total")[0]))
            differ = number_text(self.differing(variable))
            rows.append({**row, "CoTs differ": differ, "n": found.n, "status": status})
        return pd.DataFrame(rows)

    def differing(self, variable: str) -> float:
        """The share of pairs whose CoTs differ before the target; NaN where there is no pair."""
        differ = self.cots_differ[self.select(variable)]
        return float(differ.mean()) if len(differ) else np.nan

    def third(self, variable: str) -> float:
        """The null of a third problem's answer scored as the donor's: the largest mean change of its probability by any
        cell. Changes are taken without their sign, since both directions together would cancel them."""
        p = np.exp(self.log_p[self.select(variable), ..., 2])
        return float(_cell_means(np.abs(p - p[..., :1])).max())

    def notes(self) -> dict[str, str]:
        """What stands beside every table: how the runs behaved, the nulls, the other boundary, the gates."""
        facts = self.manifest.circumstance
        names = [*self.variables, *([SUMMARY] if self.early else [])]
        third = np.nanmax(list(map(self.third, self.variables)))
        shown = {
            "accuracy": accuracy_text(facts["accuracy"], facts.get("gold_unknown", 0)),
            **{
                "one-pass accuracy" + f", opened by {text!r}" * bool(text): accuracy_text(accuracy)
                for text, accuracy in facts["one_pass"].items()
            },
            "generated = replayed": f"{facts['replayed']:.3f}",
            "scored slot": str(facts["onset"]["slot"]),
            "its value = the final answer": f"{facts['onset']['agreement']:.3f}",
            "null: own donor": f"{facts['self_donor']:.1g} nats",
            "null: a third problem's answer as the donor's": f"{third:.1g} in probability",
        }
        if facts["distractor"] is not None:
            shown["null: a variable that the answer does not depend on"] = f"{facts['distractor']:.1g} nats"
        shown["smallest share that the pairs would show"] = f"{np.max(self.detectable(names[-1])):.2f}"
        far = _cell_means(self.distance[self.select(names[-1])])[list(MIXED)]
        if not np.isnan(far).all():
            shown["reader in mixed cells, distance from natural runs (theirs: 1)"] = f"at most {np.nanmax(far):.1f}"
        through = self.estimates(names[-1])
        moved = through.get("log-odds", "share")[0] - through.get("open with the CoT", "share")[0]
        if not np.isnan(moved):
            shown["direct share that passes through `open`"] = f"{moved + 0.0:.3f}"
        shown["caches of a pair"] = f"{1000 * facts['cache_gigabytes_a_pair']:.3g} MB"
        passed = sum(gate["verdict"] == "pass" for gate in facts["gates"])
        shown["gates passed"] = f"{passed} of {len(facts['gates'])}"
        if facts["dropped"]:
            shown["pairs dropped"] = str(facts["dropped"])
        return shown


def _cell_means(values: NDArray[Any]) -> NDArray[Any]:
    """Means over pairs and directions; NaN where there is no pair."""
    return np.asarray(values.mean(axis=(0, 1))) if len(values) else np.full(values.shape[-1], np.nan)
