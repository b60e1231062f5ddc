"""Checks that run on the user's own model before a number is shown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..core import GateError

PASS, WARN = 0.01, 0.05


@dataclass(frozen=True)
class Gate:
    """One check: the error that was measured, the limit, the verdict, and what to do if it fails."""

    name: str
    measured: float
    limit: float
    verdict: Literal["pass", "warn", "stop"]
    advice: str

    def asdict(self) -> dict[str, Any]:
        """The gate as plain values, for a manifest."""
        return asdict(self)


def judge(name: str, error: float, effect: float, advice: str) -> Gate:
    """Compare an error in nats with the effect that is measured: up to 1 % of it passes, up to 5 % warns, more stops.

    An error of up to 1e-5 nats always passes: where nothing moves, the effect is 0.

    >>> judge("own cache", 1e-6, 12.0, "").verdict, judge("own cache", 0.3, 12.0, "").verdict
    ('pass', 'warn')
    """
    limit = max(PASS * abs(effect), 1e-5)
    if not error >= 0:  # also NaN
        return Gate(name, error, limit, "stop", advice)
    verdict: Literal["pass", "warn", "stop"] = "pass" if error <= limit else "stop"
    if verdict == "stop" and error <= WARN * abs(effect):
        verdict = "warn"
    return Gate(name, error, limit, verdict, advice)


def enforce(gates: Sequence[Gate]) -> None:
    """Raise GateError if a gate stops the analysis."""
    failed = [gate for gate in gates if gate.verdict == "stop"]
    if failed:
        told = "; ".join(f"{g.name}: error {g.measured:.3g}, limit {g.limit:.3g}. {g.advice}" for g in failed)
        raise GateError(f"the model does not pass {len(failed)} of {len(gates)} gates, so no figure is shown: {told}")
