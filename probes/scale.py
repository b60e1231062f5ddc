"""The scale that makes scores into probabilities (a temperature)."""

import torch
from torch import Tensor

SCALES = (1e-2, 1e3)  # bounds of the scale


def best_scale(scores: Tensor, index: Tensor, weights: Tensor | None = None, steps: int = 12) -> tuple[Tensor, Tensor]:
    """The scale `[...]` of scores `[..., n, class]` with the lowest mean log-loss (nats) of the labels, and that loss.

    index: the label of each row `[n]` or `[..., n]`; weights: of each row `[..., n]`. The log-loss is convex in the
    scale: Newton steps, each at most a factor of 4. Source: Guo et al. 2017 (1706.04599), section 4.2.

    >>> scores = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
    >>> scale, loss = best_scale(scores, torch.tensor([0, 1, 0, 0]))
    >>> round(float(scale), 3)  # three of four are right: the odds are 3 to 1 where the scores differ by 2
    0.549
    """
    own = scores.gather(-1, index.expand(scores.shape[:-1])[..., None])
    gaps = (scores - own).movedim(-1, 0).contiguous()  # [class, ..., n]: how far above the true class, itself 0
    top = gaps.amax(0)
    share = torch.ones_like(top) if weights is None else weights.expand_as(top)
    share = share / share.sum(-1, keepdim=True)
    scale = torch.full_like(top[..., 0], 4.0)
    for _ in range(steps):
        _, first, second = _moments(gaps, top, scale)
        step = (first * share).sum(-1) / ((second - first**2) * share).sum(-1).clamp_min(1e-12)
        before = scale
        scale = torch.clamp(torch.minimum(torch.maximum(scale - step, scale / 4), scale * 4), *SCALES)
        if ((scale - before).abs() < 1e-2 * before).all():  # the loss is flat there: it is off by 1e-4 of itself
            break
    total, _, _ = _moments(gaps, top, scale)
    return scale, ((total.log() + scale[..., None] * top) * share).sum(-1)


def _moments(gaps: Tensor, top: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over classes of exp(scale * (gap - top)), and mean and mean square of the gaps under these weights.

    Class by class: arrays of one class stay in the processor's cache.
    """
    total, first, second = torch.zeros_like(top), torch.zeros_like(top), torch.zeros_like(top)
    for gap in gaps:
        weight = torch.sub(gap, top).mul_(scale[..., None]).exp_()  # at most 1, so that nothing overflows
        total += weight
        weight *= gap
        first += weight
        second.addcmul_(weight, gap)
    return total, first / total, second / total
