"""How long fits and figures take: one of each is timed, at its size in the study, and counted as often as it occurs."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from .. import figures
from ..analyses.beyond_places import TENTHS
from ..analyses.joint import Parts, joint_log_p
from ..analyses.readings import Place
from ..analyses.text import read_text
from ..core import Result
from ..figures.canvas import canvas
from ..hooks import Runs
from ..probes import RidgeProbe
from .measured import PROBED, READ
from .own_steps import FOLDS, Subject, labelled
from .study import draw

ALONE = 3  # places of a run that are no step: the ends of prompt, open and cue


def seconds_of(run: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def probing(subject: Subject, runs: Runs) -> float:
    """Seconds of the fits of `decodability`: all variables at one layer of one place, of noise, are timed.

    At each place of both runs every layer is fitted, then one again for each variable with permuted labels; and a part
    of the problems for each variable.
    """
    known, names = labelled(subject.problems(PROBED))
    n = len(known)
    labels = {name: np.array([problem.values[name] for problem in known]) for name in names}
    place = Place("", _noise(subject, n)[:, None, None], np.arange(n), np.zeros(n, dtype=int))
    each = seconds_of(lambda: place.sweep(labels, np.arange(n) % 5, probe=RidgeProbe()))
    places = 2 * ALONE + max(len(run.values) for run in runs)
    return each * (places * (subject.model.n_layers + len(names)) + len(names))


def reading(subject: Subject, runs: Runs) -> float:
    """Seconds of the fits of `beyond`: a reader of the text and a probe on top of it, at one place and layer."""
    known, names = labelled(subject.problems(READ))
    n = len(known)
    few = Runs(tuple(runs[i % len(runs)] for i in range(n)), runs.mode, runs.model)
    classes, index = np.unique([problem.values[names[-1]] for problem in known], return_inverse=True)
    ends, fold = [run.spans["cue"][0] for run in few], np.arange(n) % FOLDS
    found: dict[str, Any] = {}

    def read() -> None:
        found["text"] = read_text(few, ends, classes[index], classes, fold, readers=["linear"]).inner[:, None]

    text = seconds_of(read)
    states = _noise(subject, n)
    probe = seconds_of(lambda: joint_log_p(Parts.of(states, fold), index[None], found["text"]))
    places = ALONE + (max(len(run.values) for run in runs) or TENTHS)
    return places * (text + 2 * subject.model.n_layers * probe)  # of the state, and beyond the text


def drawing(result: Result | None) -> float:
    """Seconds of a figure: of the channels of a few pairs, or, where there are none, of empty axes."""
    with tempfile.TemporaryDirectory() as folder:

        def make() -> None:
            if result is not None:
                draw("channels", result, Path(folder) / "figure")
                return
            with canvas(None, figures.COLUMN, 2.2) as axes:
                figures.save(axes, Path(folder) / "figure", formats=("pdf", "png"))
            plt.close(axes.get_figure(root=True))

        make()  # the first figure of a process loads fonts
        return seconds_of(make)


def _noise(subject: Subject, n: int) -> Any:
    """As many states as are probed; what is in them does not change how long a ridge takes."""
    config: Any = subject.model.module.config
    return np.random.default_rng(0).normal(size=(n, config.get_text_config().hidden_size))
