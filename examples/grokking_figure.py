"""The figure of docs/grokking.md: training, frequencies and ablations, one above the other in a column's width."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from torch import Tensor

import loadbearing as lb
from loadbearing.figures.style import COLUMN, GREY

KEY, OTHER = "#D55E00", "#0072B2"  # Okabe and Ito's vermilion and blue


def draw(
    losses: Tensor,
    past: pd.DataFrame,
    shares: Tensor,
    keys: Sequence[int],
    reads: pd.DataFrame,
    whole: float,
    ablated: pd.DataFrame,
) -> Axes:
    """Draw three panels and return the first.

    losses: rows of epoch, train loss and test loss
    past: by checkpoint `epoch`, `key alone, unseen` and `key removed, trained` (nats)
    shares: of the frequencies 0, 1, .. in the logits' variance; keys: the key ones
    reads: out-of-fold R^2, a row per frequency, with columns `mlp_post` and `embed`
    whole: the loss of the model; ablated: a row per way, with columns `alone` and `removed` (nats)
    """
    with lb.figures.style():
        figure, panels = plt.subplots(3, 1, figsize=(COLUMN, 5.4), height_ratios=(1, 1, 0.9))
        figure.subplots_adjust(left=0.24, right=0.97, top=0.94, bottom=0.075, hspace=0.68)
        _training(panels[0], losses, past)
        _frequencies(panels[1], shares, keys, reads)
        _ablations(panels[2], whole, ablated, math.log(2 * len(shares) - 1))
        figure.draw_without_rendering()
    first: Axes = panels[0]
    return first


def _training(axes: Axes, losses: Tensor, past: pd.DataFrame) -> None:
    epoch, trained, unseen = losses.T.tolist()[:3]
    axes.plot(epoch, trained, color=GREY, label="trained pairs")
    axes.plot(epoch, unseen, color="black", label="unseen pairs")
    axes.plot(past["epoch"], past["key removed, trained"], color=OTHER, label="trained, key frequencies removed")
    axes.plot(past["epoch"], past["key alone, unseen"], color=KEY, label="unseen, key frequencies alone")
    axes.set(yscale="log", xlabel="epoch", ylabel="loss (nats)")
    _legend(axes)


def _frequencies(axes: Axes, shares: Tensor, keys: Sequence[int], reads: pd.DataFrame) -> None:
    axes.plot(reads.index, reads["mlp_post"], "o", color="black", markersize=2, label="$R^2$, neurons")
    axes.plot(reads.index, reads["embed"], ".", color=OTHER, markersize=2, label="$R^2$, embeddings")
    axes.bar(range(1, len(shares)), shares[1:].tolist(), color=KEY, label="share of the logits")
    for k in keys:
        axes.annotate(str(k), (k, 1.04), ha="center", fontsize=6, color=KEY)
    axes.set(xlabel="frequency of a + b", ylabel="share", ylim=(-0.15, 1.15), xlim=(0, len(shares)))
    _legend(axes, 3)


def _ablations(axes: Axes, whole: float, ablated: pd.DataFrame, chance: float) -> None:
    rows = range(len(ablated))
    axes.axvline(whole, color="black", linewidth=0.6, label="whole model")
    axes.axvline(chance, color=GREY, linestyle="--", linewidth=0.6, label="chance")
    axes.plot(ablated["alone"], rows, "o", color=KEY, label="alone")
    axes.plot(ablated["removed"], rows, "s", color=OTHER, label="removed")
    axes.set_yticks(rows, [str(name) for name in ablated.index])
    axes.set(xscale="log", xlabel="loss over all pairs (nats)", ylim=(len(ablated) - 0.5, -0.5))
    _legend(axes, 4)


def _legend(axes: Axes, columns: int = 2) -> None:
    axes.legend(
        frameon=False, fontsize=6, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=columns, borderaxespad=0.2
    )
