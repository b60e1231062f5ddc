"""Which frequencies carry the logits of a model that grokked a + b mod 113? Figures and numbers of docs/grokking.md.

python examples/grokking_model.py --out grokking
python examples/grokking.py grokking
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from grokking_figure import draw
from grokking_model import OneLayer, all_pairs, loss_of, read, train_rows
from grokking_waves import Waves, neuron_waves, row_waves
from sklearn.base import clone
from torch import Tensor

import loadbearing as lb
from loadbearing.probes import (
    CircularProbe,
    LeaceEraser,
    fold_numbers,
    principal_angles,
    project,
    random_subspace,
    shuffled,
)

SITES = ("embed", "attn_out", "mlp_post", "resid_post")
FOLDS, DRAWS = 5, 100
PENALTY = 1e-5  # there are 25 pairs for each neuron, and one penalty for all frequencies would suit the unreadable ones
LARGE = 100.0  # a penalty so large that a probe's directions are its covariances


# --- what probes read


def unordered(pairs: Tensor) -> Tensor:
    """One number for each pair and its mirror image, `[n]`: the two have one sum and nearly one activation."""
    return pairs.amin(1) * len(pairs) + pairs.amax(1)


def read_frequencies(activations: Tensor, values: Tensor, groups: Tensor, period: int) -> list[float]:
    """How well a linear probe reads each frequency of the values: held-out R^2, from 1 to period // 2."""
    probe = CircularProbe(period, frequencies=range(1, period // 2 + 1), penalties=(PENALTY,))
    found: list[float] = probe.fit(activations, values, groups=groups).r2_.tolist()
    return found


def unseen_sums(activations: Tensor, values: Tensor, frequencies: Sequence[int], period: int) -> float:
    """The accuracy of a circular probe on values that it was never fitted to: one fifth of all values at a time."""
    folds = fold_numbers(FOLDS, values, len(values))
    right = torch.zeros(len(values), dtype=torch.float64)
    for fold in range(FOLDS):
        inside = folds != fold
        probe = CircularProbe(period, frequencies, (PENALTY,)).fit(activations[inside], values[inside])
        right[~inside] = (probe.predict(activations[~inside]) == values[~inside]).double()
    return float(right.mean())


# --- what happens without


def logit_ablations(waves: Waves, pairs: Tensor) -> dict[str, float]:
    """The loss over all pairs with the key frequencies of the logits alone, without them, and without any one."""
    keys = waves.keys
    others = [k for k in range(1, waves.period // 2 + 1) if k not in keys]
    losses = {"alone": loss_of(waves.only(keys), pairs), "removed": loss_of(waves.without(keys), pairs)}
    losses |= {f"{k} removed": loss_of(waves.without([k]), pairs) for k in keys}
    losses["worst other removed"] = torch.stack([loss_of(waves.without([k]), pairs) for k in others]).max()
    return {name: float(loss) for name, loss in losses.items()}


def stream_ablations(net: OneLayer, stream: Tensor, pairs: Tensor, keys: Sequence[int]) -> pd.DataFrame:
    """The loss over all pairs with what probes of the key frequencies found in the final stream alone, or removed.

    Each fold of pairs is changed by what was fitted to the others; what is taken away is set to its mean. The
    directions of `probe` are those that it reads, which cancel noise; of `strong probe`, with a large penalty, those
    along which the stream moves with the waves (its covariance with them); `LEACE` is oblique and needs no penalty.
    """
    folds, sums = fold_numbers(FOLDS, unordered(pairs), len(pairs)), pairs.sum(1) % net.period
    angles = sums[:, None] * torch.tensor(keys) * (2 * math.pi / net.period)
    waves = torch.cat([angles.cos(), angles.sin()], 1)
    probes = {
        "probe": CircularProbe(net.period, keys),
        "strong probe": CircularProbe(net.period, keys, penalties=(LARGE,)),
    }
    found = {name: torch.empty_like(stream) for name in (*probes, "LEACE")}
    for fold in range(FOLDS):
        inside, out = folds != fold, folds == fold
        mean = stream[inside].mean(0)
        for name, probe in probes.items():
            basis = probe.fit(stream[inside], sums[inside]).subspace_
            found[name][out] = project(stream[out] - mean, basis)
        eraser = LeaceEraser(concept="values").fit(stream[inside], waves[inside])
        found["LEACE"][out] = stream[out] - eraser.transform(stream[out])
    return pd.DataFrame({name: alone_and_removed(net, stream, part, pairs) for name, part in found.items()}).T


def two_subspaces(net: OneLayer, stream: Tensor, pairs: Tensor, keys: Sequence[int]) -> pd.DataFrame:
    """What `probe` and `strong probe` have within their subspaces, refitted there: R^2 by key frequency, and the angle.

    The angle is the smallest one between the two subspaces, in degrees.
    """
    sums, groups, weak = pairs.sum(1) % net.period, unordered(pairs), CircularProbe(net.period, keys, (PENALTY,))
    probes = {"probe": weak, "strong probe": CircularProbe(net.period, keys, penalties=(LARGE,))}
    bases = {name: clone(probe).fit(stream, sums).subspace_ for name, probe in probes.items()}
    rows = {name: weak.fit(stream @ basis, sums, groups=groups).r2_.tolist() for name, basis in bases.items()}
    table = pd.DataFrame(rows, index=list(keys)).T
    table["angle"] = math.degrees(float(principal_angles(*bases.values()).min()))
    return table


def random_ablations(net: OneLayer, stream: Tensor, pairs: Tensor, rank: int) -> pd.DataFrame:
    """The same with random subspaces of the final stream, a row for each draw."""
    generator, centred = torch.Generator().manual_seed(0), stream - stream.mean(0)
    rows = []
    for _ in range(DRAWS):
        basis = random_subspace(stream.shape[1], rank, generator)
        rows.append(alone_and_removed(net, stream, project(centred, basis), pairs))
    return pd.DataFrame(rows)


def alone_and_removed(net: OneLayer, stream: Tensor, part: Tensor, pairs: Tensor) -> dict[str, float]:
    """The share of the final stream's variance in a part of it, and the loss with that part alone and without it."""
    mean = stream.mean(0)
    share = float(part.square().sum() / (stream - mean).square().sum())
    streams = {"alone": mean + part, "removed": stream - part}
    return {"variance": share} | {name: float(loss_of(x @ net.unembed, pairs)) for name, x in streams.items()}


def history(folder: Path, keys: Sequence[int], trained: Tensor) -> pd.DataFrame:
    """By checkpoint: the loss and accuracy on unseen pairs, and losses with the frequencies alone and without them."""
    rows = []
    for path in sorted(folder.glob("epoch-*.safetensors")):
        net, about = load(path)
        pairs = all_pairs(net.period)
        waves = Waves.of(net(pairs))
        alone, without = waves.only(keys), waves.without(keys)
        rows.append(
            {
                "epoch": int(about["epoch"]),
                "unseen": float(loss_of(waves.logits[~trained], pairs[~trained])),
                "right": float((waves.logits.argmax(1) == waves.sums)[~trained].double().mean()),
                "key alone, unseen": float(loss_of(alone[~trained], pairs[~trained])),
                "key removed, trained": float(loss_of(without[trained], pairs[trained])),
                "cosines": waves.cosines(keys),
            }
        )
    return pd.DataFrame(rows)


# --- the command


@torch.no_grad()
def load(path: Path) -> tuple[OneLayer, dict[str, str]]:
    """The model of a checkpoint, in float64, and what is written about it."""
    weights, about = read(path)
    net = OneLayer(int(about["seed"]), len(weights["embed"]) - 1)
    net.load_state_dict(weights)
    return net.double().requires_grad_(False), about


def reads_of(net: OneLayer, keys: Sequence[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """R^2 by frequency at each site (trained, random weights, shuffled sums), and the accuracy on unseen sums."""
    pairs = all_pairs(net.period)
    sums, groups = pairs.sum(1) % net.period, unordered(pairs)
    renamed = torch.randperm(net.period, generator=torch.Generator().manual_seed(0))[sums]
    trained = net.sites(pairs)
    untrained = OneLayer(seed=1000, period=net.period).double().requires_grad_(False).sites(pairs)
    found: dict[str, list[float]] = {}
    unseen = {}
    for site in SITES:
        found[site] = read_frequencies(trained[site], sums, groups, net.period)
        found[f"{site}, random weights"] = read_frequencies(untrained[site], sums, groups, net.period)
        found[f"{site}, shuffled"] = read_frequencies(trained[site], shuffled(sums, groups), groups, net.period)
        unseen[site] = {
            "trained": unseen_sums(trained[site], sums, keys, net.period),
            "random weights": unseen_sums(untrained[site], sums, keys, net.period),
            "sums renamed": unseen_sums(trained[site], renamed, keys, net.period),
        }
    return pd.DataFrame(found, index=range(1, net.period // 2 + 1)), pd.DataFrame(unseen)


def print_training(losses: Tensor) -> None:
    """When the trained pairs were known by heart, when the unseen ones were right, and the end."""
    epoch, known, _, _, right = losses.T
    print(f"training loss below 1e-6 at epoch {epoch[known < 1e-6][:1].tolist()}")
    print(f"99 % of unseen pairs right at epoch {epoch[right > 0.99][:1].tolist()}, end at {int(epoch[-1])}")


def print_logits(net: OneLayer, waves: Waves, neurons: Tensor) -> None:
    """The key frequencies and what they explain."""
    keys = waves.keys
    rows = [k - 1 for k in keys]
    best, share = neuron_waves(neurons, net.period)
    table = pd.DataFrame({"logits": waves.shares[keys].tolist()}, index=list(keys))
    table["embedding"] = row_waves(net.embed[:-1])[rows].tolist()
    table["neurons to logits"] = row_waves((net.mlp_out @ net.unembed).T)[rows].tolist()
    table["neurons"] = [int(((best == k) & (share > 0.85)).sum()) for k in keys]
    print(f"key frequencies and their shares:\n{table.round(4)}\ntogether:\n{table.sum().round(4).to_string()}")
    print(f"no function of a + b: {1 - float(waves.shares.sum()):.4f} of the logits' variance")
    others = waves.shares.index_fill(0, torch.tensor([0, *keys]), 0)
    print(f"largest share of another frequency: {float(others.max()):.5f}")
    print(f"explained by cos(w (a + b - c)): {waves.cosines(keys):.4f}")
    print(f"neurons of one frequency (> 85 %): {int((share > 0.85).sum())} of {len(share)}")


def print_losses(whole: float, logits: Mapping[str, float], ablated: pd.DataFrame, random: pd.DataFrame) -> None:
    """The loss of the whole model, with the key frequencies alone, and without them."""
    print(f"loss over all pairs (nats): {whole:.2e}\nlogits with frequencies removed:")
    print(*(f"  {name}: {loss:.2e}" for name, loss in logits.items() if name != "alone"), sep="\n")
    print(f"key frequencies alone and removed:\n{ablated.map('{:.2e}'.format)}")
    print(f"random subspaces: lowest alone {random['alone'].min():.2e}, highest removed {random['removed'].max():.2e}")


def print_reads(reads: pd.DataFrame, unseen: pd.DataFrame, keys: Sequence[int], period: int) -> None:
    """R^2 at the key frequencies and at most elsewhere, that of overtones in the neurons, and unseen sums."""
    others = reads.drop(index=list(keys))
    table = pd.concat([reads.loc[list(keys)], others.max().to_frame("best other").T])
    print(f"out-of-fold R^2 by frequency of a + b:\n{table.T.round(3)}")
    overtones = {f"{m} k": [reads["mlp_post"][min(m * k % period, -m * k % period)] for k in keys] for m in range(1, 5)}
    print(f"frequencies with R^2 > 0.1 in the neurons: {int((reads['mlp_post'] > 0.1).sum())} of {len(reads)}")
    print(f"of multiples of a key frequency k, in the neurons:\n{pd.DataFrame(overtones, index=list(keys)).round(3)}")
    print(f"accuracy on unseen sums:\n{unseen.T.round(3)}")


def main(
    folder: Annotated[Path, typer.Argument(help="what grokking_model.py wrote")] = Path("grokking"),
    figure: Annotated[Path, typer.Option(help="where the figure goes, without suffix")] = Path("grokking"),
) -> None:
    """Print what carries the logits of the last checkpoint in a folder, and draw it."""
    checkpoints = sorted(folder.glob("epoch-*.safetensors"))
    if not checkpoints:
        raise typer.BadParameter(f"{folder} has no checkpoint: run python examples/grokking_model.py --out {folder}")
    torch.set_num_threads(1)
    net, about = load(checkpoints[-1])
    pairs, trained = all_pairs(net.period), train_rows(int(about["seed"]), net.period)
    sites = net.sites(pairs)
    waves = Waves.of(sites["logits"])
    keys = waves.keys
    losses = read(folder / "state.safetensors")[0]["losses"]
    print(f"seed {about['seed']}, epoch {about['epoch']}")
    print_training(losses)
    if not keys:
        raise typer.BadParameter(f"no frequency carries the logits at epoch {about['epoch']}: train for longer")
    print_logits(net, waves, sites["mlp_post"])
    whole, logits = float(loss_of(waves.logits, pairs)), logit_ablations(waves, pairs)
    stream = stream_ablations(net, sites["resid_post"], pairs, keys)
    random = random_ablations(net, sites["resid_post"], pairs, 2 * len(keys))
    by_logits = pd.DataFrame(logits, index=["logits"])[["alone", "removed"]]
    ablated = pd.concat([by_logits, stream, random.mean().to_frame("random").T])
    print_losses(whole, logits, ablated, random)
    print(f"R^2 within the subspaces:\n{two_subspaces(net, sites['resid_post'], pairs, keys).round(3)}")
    reads, unseen = reads_of(net, keys)
    print_reads(reads, unseen, keys, net.period)
    past = history(folder, keys, trained)
    print(f"checkpoints:\n{past.to_string(index=False, float_format='{:.3g}'.format)}")
    lb.figures.save(draw(losses, past, waves.shares, keys, reads, whole, ablated), figure, formats=("png",))


if __name__ == "__main__":
    typer.run(main)
