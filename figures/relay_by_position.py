"""Which part of the chain of thought holds the relay."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes

from ..analyses.detail_table import RelayByPosition
from ..core import check_name
from .alt import describe, number, short, strongest
from .canvas import canvas, legend, looks, merged, named
from .style import COLUMN, DOUBLE_COLUMN, GREY
from .variables import variables_of

ALL = "all"
APART = 0.5  # places between the parts and all of them
SPREAD = 0.7  # of a place that all series together may fill
FEW = 40  # marks that fit in a column


def relay_by_position(
    results: RelayByPosition | Mapping[str, RelayByPosition], ax: Axes | None = None, *, variable: str | None = None
) -> Axes:
    """Draw the share of the log-odds that the states of each part of the CoT carry alone, with 95 % intervals.

    Apart, at the right, all parts at once, which is the whole relay alone: where the parts do not add up to it, they
    act together. Shares are of what all wires do, signed and not clipped.

    variable: one that was varied; by default one result has a mark for each, and several results have a mark each of
        the one whose whole relay is strongest. Raises InputError where no variable is in all of them

    >>> from loadbearing.analyses import relay_by_position as measure
    >>> from loadbearing.hooks import load
    >>> model = load("organism:copy-relay")
    >>> ax = relay_by_position(measure(model, model.task.pairs(8), target="answer", cot="task"))
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['step.1', 'all']
    """
    frames = {}
    for name, result in named(results, RelayByPosition).items():
        check_name("part", ALL, result.coords["part"])
        frames[name] = result.frame()
    series, of = _series(frames, variables_of(frames, variable))
    parts = merged(list(rows["part"][rows["part"] != ALL]) for rows in series.values())
    places = {part: float(i) for i, part in enumerate(parts)} | {ALL: len(parts) + APART}
    with canvas(ax, COLUMN if len(places) * len(series) <= FEW else DOUBLE_COLUMN, 2.3) as axes:
        axes.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        axes.axhline(1, color="#BBBBBB", linewidth=0.6, zorder=0)
        for i, ((name, rows), (colour, marker)) in enumerate(zip(series.items(), looks(len(series)), strict=True)):
            x = rows["part"].map(places) + SPREAD * ((i + 0.5) / len(series) - 0.5)
            axes.vlines(x, rows["low"], rows["high"], colors=colour, linewidths=0.8)
            axes.plot(x, rows["estimate"], color=colour, marker=marker, linestyle="none", label=name)
        _name_parts(axes, places)
        axes.set_xlabel("only these states of the CoT are swapped")
        axes.set_ylabel("share of the log-odds" + f"\n({of})" * bool(of))
        legend(axes, 3, borderaxespad=0.3)
        chart = "Points with 95 % intervals: the share of the log-odds that the states of each part of the CoT carry"
        found = {name: _told(rows) for name, rows in series.items()}
        describe(axes, f"{chart} alone{f' ({short(of)})' if of else ''}.", found)
        return axes


def _series(frames: Mapping[str, pd.DataFrame], variables: list[str]) -> tuple[dict[str, pd.DataFrame], str]:
    """The rows of each series by its name, and the one variable that all are of, "" where there are several."""
    if len(frames) == 1 and len(variables) > 1:
        ((name, frame),) = frames.items()
        return {", ".join(filter(None, (name, one))): frame[frame["variable"] == one] for one in variables}, ""
    every = pd.concat(list(frames.values()))
    whole = every[every["part"] == ALL].groupby("variable")["estimate"].agg(lambda shares: shares.abs().max())
    strongest_of = max(variables, key=lambda one: whole[one])
    return {name: frame[frame["variable"] == strongest_of] for name, frame in frames.items()}, strongest_of


def _name_parts(axes: Axes, places: Mapping[str, float]) -> None:
    """Names below, and bands that set the parts apart."""
    for part in [*list(places)[:-1:2], ALL]:
        axes.axvspan(places[part] - 0.5, places[part] + 0.5, color="#F2F2F2", linewidth=0, zorder=-1)
    axes.set_xticks(list(places.values()), list(places), rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, places[ALL] + 0.5)


def _told(rows: pd.DataFrame) -> str:
    """All parts at once, and the strongest one."""
    whole = rows["part"] == ALL
    each = rows[~whole]
    parts = zip(each["part"].map(short), each["estimate"], strict=True)
    return f"all at once {number(rows['estimate'][whole].item())}, {strongest(parts)}"
