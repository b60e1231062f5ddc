"""Train a one-layer transformer on a + b mod 113 until it groks, as in Nanda et al. (2023), arXiv 2301.05217.

python examples/grokking_model.py --out grokking
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from loadbearing.core import atomic_write

PERIOD, HEADS, WIDTH, HEAD_WIDTH, NEURONS = 113, 4, 128, 32, 512
TRAIN_SHARE, WARM_UP = 0.3, 10
EVALUATE, KEEP = 100, 500  # epochs between two measurements of the losses, and between two checkpoints
COLUMNS = ("epoch", "train loss", "test loss", "train accuracy", "test accuracy")


class OneLayer(nn.Module):
    """A transformer of one layer without norms and biases that reads `a b =` and predicts at `=`.

    Only the last position is computed: its query is one vector, and keys and values depend on a token and its place
    alone, so they are made once per number and gathered per pair. This is exact.
    """

    def __init__(self, seed: int = 0, period: int = PERIOD) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int, fan: int = WIDTH) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) / math.sqrt(fan))

        self.period = period
        self.embed, self.position = drawn(period + 1, WIDTH), drawn(3, WIDTH)
        self.query, self.key, self.value = (drawn(WIDTH, HEADS * HEAD_WIDTH) for _ in range(3))
        self.out = drawn(HEADS * HEAD_WIDTH, WIDTH)
        self.mlp_in, self.mlp_out = drawn(WIDTH, NEURONS), drawn(NEURONS, WIDTH)
        self.unembed = drawn(WIDTH, period, fan=period + 1)

    def forward(self, pairs: Tensor) -> Tensor:
        """Logits `[n, period]` of the sums of pairs `[n, 2]`."""
        return self.sites(pairs)["logits"]

    def sites(self, pairs: Tensor) -> dict[str, Tensor]:
        """Every activation at `=` `[n, width]`, and `embed`, the sum of the two numbers' embeddings."""
        equals = self.embed[-1] + self.position[2]
        places = [self.embed[:-1] + self.position[0], self.embed[:-1] + self.position[1], equals[None]]
        scores, values = zip(*(self._read(equals, place) for place in places), strict=True)
        index = [pairs[:, 0], pairs[:, 1], torch.zeros_like(pairs[:, 0])]
        pattern = torch.stack([F.embedding(i, score) for i, score in zip(index, scores, strict=True)], -1).softmax(-1)
        mixed = sum(
            pattern[:, :, at, None] * F.embedding(i, value).unflatten(1, (HEADS, HEAD_WIDTH))
            for at, (i, value) in enumerate(zip(index, values, strict=True))
        )
        assert isinstance(mixed, Tensor)
        attn_out = mixed.flatten(1) @ self.out
        mlp_post = F.relu((equals + attn_out) @ self.mlp_in)
        resid_post = equals + attn_out + mlp_post @ self.mlp_out
        return {
            "embed": F.embedding(index[0], self.embed) + F.embedding(index[1], self.embed),
            "attn_out": attn_out,
            "mlp_post": mlp_post,
            "resid_post": resid_post,
            "logits": resid_post @ self.unembed,
        }

    def _read(self, reader: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """The attention scores `[token, head]` and the values `[token, head * head_width]` of one place."""
        query = (reader @ self.query).view(HEADS, HEAD_WIDTH)
        keys = (place @ self.key).unflatten(1, (HEADS, HEAD_WIDTH))
        return (keys * query).sum(-1) / math.sqrt(HEAD_WIDTH), place @ self.value


def all_pairs(period: int = PERIOD) -> Tensor:
    """Every pair of numbers, `[period * period, 2]`, the second running fastest."""
    return torch.cartesian_prod(torch.arange(period), torch.arange(period))


def train_rows(seed: int, period: int = PERIOD) -> Tensor:
    """Which of all pairs are trained on: a boolean mask, true for 30 % of them, drawn with the seed."""
    order = torch.randperm(period * period, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(period * period, dtype=torch.bool)
    mask[order[: int(TRAIN_SHARE * period * period)]] = True
    return mask


def loss_of(logits: Tensor, pairs: Tensor) -> Tensor:
    """The mean cross-entropy in nats, in float64: in float32 it rounds to 0 and training jumps ("slingshots")."""
    return F.cross_entropy(logits.double(), pairs.sum(1) % logits.shape[1])


def train(out: Path, seed: int = 0, epochs: int = 25_000, period: int = PERIOD, progress: bool = False) -> OneLayer:
    """Train with full batches, from the last state in `out` if there is one, until the test loss stops falling.

    Written to `out`: `state.safetensors` (weights, AdamW's moments, the losses by epoch), and every 500 epochs and at
    the end the weights as `epoch-NNNNN.safetensors`.
    """
    model = OneLayer(seed, period)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98))
    out.mkdir(parents=True, exist_ok=True)
    losses = _resume(out, model, optimiser, seed)
    pairs, trained = all_pairs(period), train_rows(seed, period)
    start = int(losses[-1][0]) if losses else 0
    if not losses:
        losses.append(_measure(model, pairs, trained, 0))
        _checkpoint(out, model, optimiser, losses, seed)
    bar = tqdm(range(start + 1, epochs + 1), initial=start, total=epochs, disable=not progress)
    for epoch in bar:
        if (epoch - 1) % KEEP == 0 and finished(losses):
            break
        optimiser.param_groups[0]["lr"] = 1e-3 * min(epoch / WARM_UP, 1.0)
        optimiser.zero_grad()
        loss_of(model(pairs[trained]), pairs[trained]).backward()
        optimiser.step()
        if epoch % EVALUATE == 0 or epoch == epochs:
            losses.append(_measure(model, pairs, trained, epoch))
            bar.set_postfix_str(f"loss {losses[-1][1]:.1e}, of unseen pairs {losses[-1][2]:.1e}")
            if epoch % KEEP == 0 or epoch == epochs:
                _checkpoint(out, model, optimiser, losses, seed)
    return model


def finished(losses: list[list[float]]) -> bool:
    """Whether the test loss is below 1e-3 and has stopped falling.

    That is: over the last ten measurements it is not more than a tenth below what it was over the ten before.
    """
    test = torch.tensor(losses, dtype=torch.float64)[-20:, 2].log()
    fell = float(test[:10].mean() - test[10:].mean())
    return len(test) == 20 and float(test[-1]) < math.log(1e-3) and fell <= -math.log(0.9)


@torch.no_grad()
def _measure(model: OneLayer, pairs: Tensor, trained: Tensor, epoch: int) -> list[float]:
    """A row of `COLUMNS`."""
    logits = model(pairs)
    right = (logits.argmax(1) == pairs.sum(1) % model.period).double()
    parts = (trained, ~trained)
    loss = [float(loss_of(logits[part], pairs[part])) for part in parts]
    return [float(epoch), *loss, *(float(right[part].mean()) for part in parts)]


def _checkpoint(
    out: Path, model: OneLayer, optimiser: torch.optim.Optimizer, losses: list[list[float]], seed: int
) -> None:
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    moments = {
        f"{name}.{kind}": value
        for name, weight in model.named_parameters()
        for kind, value in optimiser.state.get(weight, {}).items()
    }
    about = {"seed": str(seed), "epoch": str(int(losses[-1][0]))}
    write(out / f"epoch-{int(losses[-1][0]):05d}.safetensors", weights, about)
    table = {"losses": torch.tensor(losses, dtype=torch.float64)}
    write(out / "state.safetensors", {**weights, **moments, **table}, about)


def _resume(out: Path, model: OneLayer, optimiser: torch.optim.Optimizer, seed: int) -> list[list[float]]:
    """Load the last state into model and optimiser; its losses, empty if there is none."""
    if not (out / "state.safetensors").is_file():
        return []
    tensors, about = read(out / "state.safetensors")
    if int(about["seed"]) != seed:
        raise ValueError(f"{out} holds a run with seed {about['seed']}, not {seed}; give another folder or that seed")
    names = [name for name, _ in model.named_parameters()]
    model.load_state_dict({name: tensors[name] for name in names})
    kinds = ("step", "exp_avg", "exp_avg_sq")
    state = {
        i: {kind: tensors[f"{name}.{kind}"] for kind in kinds}
        for i, name in enumerate(names)
        if f"{name}.step" in tensors
    }
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    rows: list[list[float]] = tensors["losses"].tolist()
    return rows


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Save tensors: a reader sees the old file or the new one, never half of one."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    atomic_write(path, lambda temporary: save_file(whole, temporary, dict(about)))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and what is written about them."""
    with safe_open(path, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


def main(
    out: Annotated[Path, typer.Option(help="the folder for checkpoints; a run found there goes on")] = Path("grokking"),
    seed: Annotated[int, typer.Option(help="draws the weights and the pairs trained on")] = 0,
    epochs: Annotated[int, typer.Option(help="at most")] = 25_000,
    threads: Annotated[int, typer.Option(help="for torch")] = 1,
) -> None:
    """Train a one-layer transformer on a + b mod 113 until it groks (a quarter of an hour on one core)."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # tiny gradients late in training would be many times slower
    train(out, seed, epochs, progress=True)


if __name__ == "__main__":
    typer.run(main)
