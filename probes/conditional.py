"""What the state knows beyond the text."""

import math
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor

from .base import as_features
from .estimate import Estimate, as_float, estimate
from .held_out import Labelled
from .information import LN2, columns_of, fold_numbers
from .logistic import LogisticProbe
from .ridge import PENALTIES

FLOOR = 1e-9  # probabilities by the text that are lower are raised to it: an offset must be finite


def conditional_v_information(
    X: Any,
    y: Any,
    given: Any,
    *,
    classes: Any = None,
    groups: Any = None,
    folds: Any = 5,
    seed: int = 0,
    probe: LogisticProbe | None = None,
) -> Estimate:
    """Conditional V-information I_V(h -> y | text) in bits: what a state tells beyond what the text tells.

    X: features `[n, d]`; y: labels `[n]`; given: natural-log probabilities `[n, class]` of the labels by the text
        alone, of rows that the text's reader was not fitted to (`held_out(...).log_proba`) or enumerated
    classes: the label of each column of `given`, without it the distinct labels in order; groups and folds as in
    `held_out`
    probe: a `LogisticProbe` that is fitted on top of `given`; penalties up to infinity, no intercept, without it

    E[log q(y | text, h) - log q(y | text)] / ln 2, where q(. | text, h) = softmax(log q(. | text) + W h), W penalised,
    h centred on the training rows, and no intercept: with an infinite penalty q is the text's own and the bits are
    exactly 0, so what the state adds is never below what choosing the penalty on inner folds costs. All that h says and
    `given` lacks counts, a better reading of the same text too: give the best reader. A label that the training folds
    lack keeps the text's probability. Source: Hewitt et al. 2021 (arXiv 2109.09234), definition 3. Raises ValueError
    where `given` is no distribution or says that a row's label cannot be.

    >>> rng = torch.Generator().manual_seed(0)
    >>> y = torch.arange(400) % 2
    >>> text = torch.full((400, 2), 0.5).log()  # knows nothing
    >>> state = 2.0 * y[:, None] - 1 + 0.5 * torch.randn(400, 1, generator=rng)
    >>> conditional_v_information(state, y, text).mean > 0.7
    True
    >>> conditional_v_information(torch.ones(400, 1), y, text).mean  # a state that is always the same
    0.0
    """
    probe = LogisticProbe(penalties=(*PENALTIES, math.inf), fit_intercept=False) if probe is None else probe
    rows = Labelled.of(X, y, groups)
    features = as_features(clone(probe), X, reset=True)
    index = columns_of(y, rows.classes if classes is None else classes).to(features.device)
    log_q = _distribution(given, len(rows.classes if classes is None else classes), index).to(features)
    fold = fold_numbers(folds, groups, rows.n, seed).to(features.device)
    joint = log_q.clone()
    for f in range(int(fold.max()) + 1):
        out = fold == f
        known = torch.unique(index[~out])
        vary = features[~out].amax(0) > features[~out].amin(0)
        if len(known) < 2 or not vary.any():
            continue  # nothing to learn: the text's own
        centred, offset = features[:, vary] - features[~out][:, vary].mean(0), log_q[:, known]
        members = None if rows.member is None else rows.member[~out]
        fitted = clone(probe).fit(centred[~out], index[~out], groups=members, offset=offset[~out])
        log_p = fitted.predict_log_proba(centred[out], offset=offset[out])
        joint[out.nonzero(), known] = log_p + offset[out].logsumexp(1, keepdim=True)
    gain = (joint - log_q).gather(1, index[:, None])[:, 0]
    return estimate(gain / LN2, X, groups)


def _distribution(given: Any, classes: int, index: Tensor) -> Tensor:
    """Checked log probabilities `[n, class]` without infinities."""
    log_q = as_float(given)
    if tuple(log_q.shape) != (len(index), classes):
        raise ValueError(
            f"given: expected log-probabilities [n, class] of shape {(len(index), classes)}, got {tuple(log_q.shape)}; "
            "name the label of each column by classes="
        )
    if not ((log_q.logsumexp(1)).abs() < 1e-3).all():
        raise ValueError("given: expected natural-log probabilities, but the probabilities of a row do not sum to 1")
    own = log_q.gather(1, index.to(log_q.device)[:, None])[:, 0]
    if torch.isinf(own).any():
        row = int(torch.isinf(own).nonzero()[0, 0])
        raise ValueError(f"given: the text gives probability 0 to the label of row {row}, so it was not read rightly")
    return torch.log_softmax(log_q.clamp_min(math.log(FLOOR)), dim=1)
