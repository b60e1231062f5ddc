"""Checks that run on the user's own model before a number is shown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..core import GateError

PASS, WARN = 0.01, 0.05
FLOOR = 1e-5  # nats
Verdict = Literal["pass", "warn", "stop", "refused"]
VERDICTS: tuple[Verdict, ...] = ("pass", "warn", "stop", "refused")


@dataclass(frozen=True)
class Gate:
    """One check: the error that was measured, the limit, the verdict, and what to do if it fails.

    verdict: "refused" where the model lacks what is measured, so that the analyses that need it refuse it by name
    guards: the analyses that rest on it
    """

    name: str
    measured: float
    limit: float
    verdict: Verdict
    advice: str
    guards: str = "every analysis"

    def asdict(self) -> dict[str, Any]:
        """The gate as plain values, for a manifest."""
        return asdict(self)


def judge(name: str, error: float, effect: float, advice: str, guards: str = Gate.guards) -> Gate:
    """Compare an error in nats with the effect that is measured: up to 1 % of it passes, up to 5 % warns, more stops.

    An error of up to 1e-5 nats always passes: where nothing moves, the effect is 0. An error that is no number stops.

    >>> judge("own cache", 1e-6, 12.0, "").verdict, judge("own cache", 0.3, 12.0, "").verdict
    ('pass', 'warn')
    """
    limit = max(PASS * abs(effect), FLOOR)
    return Gate(name, error, limit, _verdict(error, limit, WARN * abs(effect)), advice, guards)


def judge_limit(name: str, error: float, limit: float, advice: str, guards: str = Gate.guards) -> Gate:
    """Compare an error with a limit that needs no effect: above it warns, above five times the limit stops.

    >>> [judge_limit("roundings", error, 2.0, "").verdict for error in (2.0, 9.0, 11.0, float("nan"))]
    ['pass', 'warn', 'stop', 'stop']
    """
    return Gate(name, error, limit, _verdict(error, limit, limit * WARN / PASS), advice, guards)


def _verdict(error: float, passes: float, warns: float) -> Verdict:
    if 0 <= error <= passes:
        return "pass"
    return "warn" if 0 <= error <= warns else "stop"  # also NaN


def enforce(gates: Sequence[Gate]) -> None:
    """Raise GateError if a gate stops the analysis."""
    failed = [gate for gate in gates if gate.verdict == "stop"]
    if failed:
        told = "; ".join(f"{g.name}: error {g.measured:.3g}, limit {g.limit:.3g}. {g.advice}" for g in failed)
        raise GateError(f"the model does not pass {len(failed)} of {len(gates)} gates, so no figure is shown: {told}")
