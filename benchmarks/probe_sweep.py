"""Probe sweeps against loops of scikit-learn's cross-validated estimators: time and held-out scores, and cost against
d.

4 layers x 16 positions x 3 targets, n 2000, d 128, 10 classes, 5 folds, 8 penalties. Everything runs in one process,
side by side; the loops are measured on some of the cells (`--cells`) and scaled to all, for the logistic one would take
an hour.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegressionCV, RidgeClassifierCV

from loadbearing.probes import LogisticProbe, RidgeProbe, sweep
from loadbearing.probes.ridge import PENALTIES

Loop = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], float]
LAYERS, POSITIONS, TARGETS, N, D, CLASSES, FOLDS = 4, 16, 3, 2000, 128, 10, 5


def activations(
    d: int = D, cells: tuple[int, ...] = (LAYERS, POSITIONS)
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Activations `[n, *cells, d]` with unequal variances, in which targets can be read better and better."""
    rng = np.random.default_rng(0)
    labels = {f"target {t}": rng.integers(0, CLASSES, N) for t in range(TARGETS)}
    spread = np.geomspace(3, 0.3, d)
    X = rng.normal(size=(N, *cells, d)) * spread
    for i, cell in enumerate(np.ndindex(*cells)):
        strength = (0.05 + 0.2 * i / np.prod(cells)) * np.sqrt(128 / d)
        for y in labels.values():
            X[:, *cell] += strength * (rng.normal(size=(CLASSES, d)) * spread)[y]
    return X.astype(np.float32), labels


def timed(call: Callable[[], Any], repeats: int) -> tuple[list[float], Any]:
    """Seconds of each call, and what the last one gave."""
    seconds, result = [], None
    for _ in range(repeats):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
    return seconds, result


def penalties_of(X: NDArray[Any]) -> NDArray[Any]:
    """The penalties of the probes as scikit-learn's alphas: multiples of n times the mean variance of a feature."""
    return np.asarray(np.array(PENALTIES) * ((X - X.mean(0)) ** 2).sum() / X.shape[1])


def loop_ridge(X: NDArray[Any], y: NDArray[Any], fold: NDArray[Any], inner: bool = False) -> float:
    """Held-out accuracy of RidgeClassifierCV; inner folds are the other outer folds, else its own leave-one-out."""
    hits = []
    for f in range(FOLDS):
        train, test = fold != f, fold == f
        probe = RidgeClassifierCV(alphas=penalties_of(X[train]), cv=inner_folds(fold[train]) if inner else None)
        hits.append(probe.fit(X[train], y[train]).predict(X[test]) == y[test])
    return float(np.concatenate(hits).mean())


loop_ridge_inner = partial(loop_ridge, inner=True)


def loop_logistic(X: NDArray[Any], y: NDArray[Any], fold: NDArray[Any]) -> float:
    """Held-out log-loss (nats) of LogisticRegressionCV over the same folds and penalties."""
    losses = []
    for f in range(FOLDS):
        train, test = fold != f, fold == f
        probe = LogisticRegressionCV(
            Cs=1 / penalties_of(X[train]),
            cv=inner_folds(fold[train]),
            scoring="neg_log_loss",
            max_iter=1000,
            use_legacy_attributes=False,
            l1_ratios=(0.0,),
        ).fit(X[train], y[train])
        losses.append(
            -probe.predict_log_proba(X[test])[np.arange(test.sum()), np.searchsorted(probe.classes_, y[test])]
        )
    return float(np.concatenate(losses).mean())


def inner_folds(fold: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Splits of training rows by their outer fold."""
    return [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in np.unique(fold)]


def compare(name: str, probe: Any, loops: dict[str, Loop], cells: int, repeats: int) -> None:
    """Time a sweep, and loops on some of its cells; print ratios and differences of the scores."""
    X, labels = activations()
    count = LAYERS * POSITIONS
    seconds, found = timed(partial(sweep, X, labels, probe=probe), repeats)
    whole = float(np.median(seconds))
    spread = f"{whole:.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
    print(f"{name} sweep of {count} cells x {TARGETS} targets: {spread}")
    places = [np.unravel_index(i, (LAYERS, POSITIONS)) for i in np.linspace(0, count - 1, cells).astype(int)]
    for loop_name, loop in loops.items():
        took, apart = [], []
        for place in places:
            for t, (target, y) in enumerate(labels.items()):
                (one,), theirs = timed(partial(loop, X[:, *place], y, found.fold), 1)
                took.append(one)
                ours = found.accuracy(target)[place] if name == "ridge" else found.loss[(t, *place)].mean()
                apart.append((ours - theirs) * 100 if name == "ridge" else (ours / theirs - 1) * 100)
        total = float(np.mean(took)) * count * TARGETS
        unit = "points of accuracy" if name == "ridge" else "% of the log-loss"
        print(
            f"  {loop_name}: {total:.0f} s for all (from {len(places)} cells), {total / whole:.1f} times as long; "
            f"ours less theirs {np.mean(apart):+.2f} ({min(apart):+.2f} to {max(apart):+.2f}) {unit}"
        )


def grow() -> None:
    """Print the time of one cell with more and more features."""
    for d in (128, 512, 2048, 4096):
        X, labels = activations(d, (1,))
        (ridge,), found = timed(partial(sweep, X, labels), 1)
        (logistic,), _ = timed(partial(sweep, X, labels, probe=LogisticProbe()), 1)
        (loop,), _ = timed(partial(loop_ridge, X[:, 0], labels["target 0"], found.fold), 1)
        print(f"d {d}: ridge {ridge:.2f} s, logistic {logistic:.2f} s, RidgeClassifierCV {TARGETS * loop:.2f} s a cell")


def main(
    cells: Annotated[int, typer.Option(help="cells on which the ridge loops are timed")] = 8,
    logistic_cells: Annotated[int, typer.Option(help="cells on which the logistic loop is timed")] = 2,
    repeats: int = 3,
    growth: Annotated[bool, typer.Option(help="also time one cell with d from 128 to 4096")] = True,
) -> None:
    """Print times, ratios, and how far the scores are apart."""
    inner: dict[str, Loop] = {
        "RidgeClassifierCV (leave-one-out)": loop_ridge,
        "RidgeClassifierCV (the same inner folds)": loop_ridge_inner,
    }
    compare("ridge", RidgeProbe(), inner, cells, repeats)
    compare(
        "logistic", LogisticProbe(), {"LogisticRegressionCV (the same inner folds)": loop_logistic}, logistic_cells, 1
    )
    if growth:
        grow()


if __name__ == "__main__":
    typer.run(main)
