"""Checks of splicing, and of what it rests on, on the user's own runs, before a number is shown."""

from collections.abc import Sequence

import numpy as np

from ..core import InputError
from ..hooks import Model, Run, Runs
from ..hooks.checks import additive_error, bos_count, identity_error, not_finite, padding_error, replay_rate
from ..hooks.gates import Gate, judge, judge_limit
from ..hooks.memory import MEMORY, padded_bytes
from ..hooks.support import FAILURES
from .cells import N_CELLS
from .eight import Scores, eight_cells, plain_log_p
from .targets import Aim

GATE_PAIRS = 4
ROUNDINGS = 2.0
FLOAT = 'Try load(..., dtype="float32", attention="eager")'
ADVICE = f"{FLOAT}; a model whose state is not all in its key/value cache cannot be spliced."
BATCHED = (
    f"{FLOAT}; a model whose rows change one another (norms over the batch, experts of limited capacity) cannot be "
    "measured in batches."
)
PADDED = (
    f"{FLOAT}; batches are padded wherever a model writes or is recorded, so its forward must honour attention_mask "
    "and position_ids."
)
IDENTITY = (
    f"{FLOAT}; what is read of it must be what its blocks run on, and a decoder that does more than run its blocks on "
    "the residual stream cannot be taken up in between."
)
ADDITIVE = (
    "attn_out and mlp_out are not what this model adds to its residual stream (a scaled residual?): record resid_pre "
    "and resid_post instead. Channels, ledger and patch do not use them."
)
BOS = (
    "A prompt starts with one: where the prompt or its template writes it, take a tokenizer that does not add it "
    "(add_bos_token=False), and the other way round."
)
NUMBERS = (
    f"NaN or infinity in the cache or the logits. {FLOAT}: float16 overflows in models that were trained in bfloat16."
)
REPLAY = f"Greedy text is not what one pass over it predicts, by near ties or by a cache of its own kind. {FLOAT}."
SPLICING = "channels, ledger"
SPLICE_GATES = ("own-cache splice = plain run", "full donor splice = donor run", "batched = one by one")
ADDS_UP = "resid_pre + attn_out + mlp_out = resid_post (roundings)"
NAN = float("nan")
PARTS = "record attn_out, mlp_out, resid_mid"


def splice_gates(
    model: Model,
    aims: Sequence[tuple[Aim, Aim]],
    thirds: Sequence[tuple[int, ...] | None],
    scores: Scores,
    memory: float = MEMORY,
) -> list[Gate]:
    """Own caches give the plain run, the donor's give the donor's run, and a batch gives what one by one gives.

    The error is that of v(S), the log-odds of the two answers, at its largest over the first pairs; the effect is the
    mean of |v(DRT) - v({})| over all pairs.
    """
    few = range(min(GATE_PAIRS, len(aims)))
    effect = effect_of(scores)
    odds = scores.log_p[..., 1] - scores.log_p[..., 0]
    own, donor, batched = SPLICE_GATES
    errors: dict[str, list[float]] = {own: [], donor: []}
    for i in few:
        end = aims[i][0].end if aims[i][0].end == aims[i][1].end else None
        for name, side, cell in ((own, 0, 0), (donor, 1, N_CELLS - 1)):
            plain = [plain_log_p(model, aims[i][side], aims[i][c].answer, end) for c in (0, 1)]
            errors[name].append(abs(plain[1] - plain[0] - odds[i, cell]))
    gates = [judge(name, float(np.max(told)), effect, ADVICE, SPLICING) for name, told in errors.items()]
    alone = np.concatenate([eight_cells(model, [aims[i]], [thirds[i]], memory=memory).log_p for i in few])
    changed = float(np.abs(alone[..., 1] - alone[..., 0] - odds[: len(few)]).max())
    return [*gates, judge(batched, changed, effect, BATCHED, SPLICING)]


def run_gates(
    model: Model,
    runs: Runs,
    aims: Sequence[tuple[Aim, Aim]],
    thirds: Sequence[tuple[int, ...] | None],
    scores: Scores,
    memory: float = MEMORY,
) -> list[Gate]:
    """Every gate that a spliced table rests on: those of splicing, of padding, of numbers, of the prompt's start.

    runs: those that the pairs were cut from; the first few of other pairs than the first are looked at.
    """
    few = aims[:GATE_PAIRS]
    texts = [aim.head + aim.cot for pair in few for aim in pair][:GATE_PAIRS]
    answers = [aim.answer for pair in few for aim in pair]
    return [
        *splice_gates(model, aims, thirds, scores, memory),
        *plain_gates(model, list(runs)[:GATE_PAIRS], texts, answers, effect_of(scores), memory=memory),
    ]


def plain_gates(
    model: Model,
    runs: Sequence[Run],
    texts: Sequence[tuple[int, ...]],
    answers: Sequence[tuple[int, ...]],
    effect: float,
    written: Sequence[str] = ("answer",),
    memory: float = MEMORY,
) -> list[Gate]:
    """The gates that need no splicing: padding on either side, finite numbers, one BOS, generated = replayed.

    texts: what stands before an answer; answers: their first tokens are scored; effect: in nats
    written: the spans of the runs that the model wrote greedily; memory: gigabytes for the padded batch, of two texts
        at least
    """
    tokens = sorted({answer[0] for answer in answers})
    starts = bos_count(model, [run.ids for run in runs])
    bad = not_finite(model, texts)
    differ = 1 - replay_rate(model, runs, written)
    fitting = int(memory * 1e9 / padded_bytes(model.module, list(map(len, texts))))
    padded = texts[: max(2, fitting)]
    return [
        judge("left padding changes nothing", padding_error(model, padded, tokens, left=True), effect, PADDED),
        judge("right padding changes nothing", padding_error(model, padded, tokens, left=False), effect, PADDED),
        Gate("finite caches and logits", float(bad), 0.0, "stop" if bad else "pass", NUMBERS),
        # A prompt without its start is one that the model can be asked; one with two is a mistake.
        Gate("one BOS", float(starts), 1.0, "stop" if starts > 1 else "pass" if starts else "warn", BOS),
        # A rate: it is shown, and never stops. Where nothing was written there is nothing that differs.
        Gate(
            "generated = replayed (rate of runs that differ)", differ, 0.01, "warn" if differ > 0.01 else "pass", REPLAY
        ),
    ]


def site_gates(
    model: Model, texts: Sequence[tuple[int, ...]], answers: Sequence[tuple[int, ...]], effect: float
) -> list[Gate]:
    """The gates of sites: patching a run with its own states does nothing, and the parts of a block add up.

    A model that has no such sites is not stopped: the gate is "refused", and so are the analyses that it guards.
    """
    tokens = sorted({answer[0] for answer in answers})

    def identity() -> Gate:
        error = float(np.max([identity_error(model, text, tokens) for text in texts[:2]]))
        return judge("identity patch = 0", error, effect, IDENTITY, "patch")

    def additive() -> Gate:
        return judge_limit(ADDS_UP, additive_error(model, texts), ROUNDINGS, ADDITIVE, PARTS)

    gates = []
    for name, guards, measure in (("identity patch = 0", "patch", identity), (ADDS_UP, PARTS, additive)):
        try:
            gates.append(measure())
        except InputError as error:
            gates.append(Gate(name, NAN, NAN, "refused", str(error), guards))
        except FAILURES as error:
            gates.append(
                Gate(name, NAN, NAN, "stop", f"It fails ({type(error).__name__}: {error}). {ADDITIVE}", guards)
            )
    return gates


def effect_of(scores: Scores) -> float:
    """The mean of |v(DRT) - v({})| over pairs, in nats."""
    odds = scores.log_p[..., 1] - scores.log_p[..., 0]
    return float(np.abs(odds[:, -1] - odds[:, 0]).mean())


def self_donor(
    model: Model,
    aims: Sequence[tuple[Aim, Aim]],
    thirds: Sequence[tuple[int, ...] | None],
    memory: float = MEMORY,
) -> float:
    """The largest change of any cell when a problem is its own donor: 0, or splicing moves something by itself."""
    few = range(min(GATE_PAIRS, len(aims)))
    own = [(aims[i][0], aims[i][0]) for i in few]
    log_p = eight_cells(model, own, [thirds[i] for i in few], memory=memory).log_p[..., :2]
    return float(np.abs(log_p - log_p[:, :1]).max())
