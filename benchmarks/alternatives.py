"""Published measures of how much an answer depends on its chain of thought, from their formulas.

They stand beside the channel table in the benchmark of models whose truth is known. Each has the definition that was
published (what the authors' code does, where code is the only definition) and, where a defect of it is known, a
corrected one, so that the two can be compared. "Answer" is the run's own greedy answer.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loadbearing.analyses.tamper import wrong_step
from loadbearing.core import InputError, check_name
from loadbearing.hooks import Model, Run, Runs
from loadbearing.hooks.format import tokenize
from loadbearing.tasks import Piece

# --- CMI: a switch for each defect of the published code
FIXES = ("source", "layer", "controls", "clamp")
SPANS, CONTROLS = 8, 8
DENOMINATOR_FLOOR, DROP_FLOOR = 1e-3, 1e-4
# --- NLDD: what the corrupted and the clean text are
Chain = Literal["truncated", "replaced", "matched"]
CHAINS: tuple[Chain, ...] = ("truncated", "replaced", "matched")
LOW_MARGIN = 1e-6
# --- knock-out: the architectures whose 4-D masks are read as given
MASKABLE = ("llama", "gpt2")


@dataclass(frozen=True)
class Alternative:
    """One measure of one model: the figure, the same per problem (NaN: not scored), and what it is made of."""

    name: str
    value: float
    problems: NDArray[Any]
    parts: Mapping[str, float] = field(default_factory=dict)


def cmi(
    model: Model, runs: Runs, *, fixes: Sequence[str] = (), filler: str = ".", controls: int = CONTROLS, seed: int = 0
) -> Alternative:
    """CoT Mediation Index: what is lost when the CoT's states are those of a run without CoT, against other positions.

    "When Chains of Thought Don't Matter" (2602.03994), after the authors' code (`run_cmi_analysis` in
    Anish-1101-lab/cot-manipulation-monitor, dc974f8): for spans of 1 to 3 layers, the input of each layer of the span
    is overwritten at the CoT's positions with the hidden states of the no-CoT run; drop = max(0, log p(answer | run) -
    log p(answer | patched)); the control drop is the mean of 8 draws of as many other positions; the index is
    `mediation_index`; mean over spans, then over problems.

    Positions, as published: the no-CoT run is this run without its CoT, the answer included; position p takes its
    state at p, or its last one (the answer's) where it is shorter. `fixes` mends known defects, one by one:
    "source": the no-CoT run has `filler` in the CoT's place, so that p is p, and nothing behind the CoT is patched in
    "layer": layer l gets what *entered* layer l there, not what left it
    "controls": no position that reads or predicts an answer token is drawn
    "clamp": drops keep their sign, and the figure is mean(drop - control) / mean(drop + control), a ratio of means;
        per problem it is drop - control in nats
    """
    for fix in fixes:
        check_name("fix", fix, FIXES)
    signed = "clamp" in fixes
    drops, others = _patching_drops(model, runs, fixes, filler, controls, seed)
    name = "CMI" + (f" ({', '.join(fixes)} mended)" if fixes else " (as published)")
    parts = {"drop": float(drops.mean()), "control": float(others.mean()), "spans": float(drops.shape[1])}
    if signed:
        total = float((drops + others).mean())
        value = float((drops - others).mean()) / total if total >= DROP_FLOOR else 0.0
        return Alternative(name, value, (drops - others).mean(1), parts)
    scores = mediation_index(drops, others).mean(1)
    return Alternative(name, float(scores.mean()), scores, parts)


def mediation_index(drop: NDArray[Any], control: NDArray[Any]) -> NDArray[Any]:
    """CMI = max(0, drop - control) / max(drop + control, 1e-3), and 0 where the sum is below 1e-4.

    >>> mediation_index(np.array([3.0, 1.0, 4e-4, 4e-5]), np.array([1.0, 3.0, 0.0, 0.0])).tolist()
    [0.5, 0.0, 0.4, 0.0]
    """
    total = drop + control
    return np.where(total < DROP_FLOOR, 0.0, np.maximum(drop - control, 0.0) / np.maximum(total, DENOMINATOR_FLOOR))


@torch.no_grad()
def _patching_drops(
    model: Model, runs: Runs, fixes: Sequence[str], filler: str, controls: int, seed: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """What log p(answer) loses with the CoT's positions patched, and with others: `[problem, span]` each."""
    rng = np.random.default_rng(seed)
    spans = _layer_spans(model.n_layers, rng)
    drops, others = np.zeros((2, len(runs), len(spans)))
    for rows in _alike(runs):
        group = [runs[i] for i in rows]
        states = _source_states(model, group, fixes, filler)
        ids = _ids(model, group)
        cot, rest = _patch_positions(group[0], fixes)
        before = _answer_log_prob(model.module(input_ids=ids).logits, group)
        for s, span in enumerate(spans):
            for draw in range(controls + 1):
                places = cot if draw == 0 else rng.permutation(rest)[: len(cot)].tolist()
                with _patched(model, {layer: states[layer] for layer in span}, places):
                    lost = before - _answer_log_prob(model.module(input_ids=ids).logits, group)
                lost = lost if "clamp" in fixes else np.maximum(lost, 0.0)
                if draw == 0:
                    drops[rows, s] = lost
                else:
                    others[rows, s] += lost / controls
    return drops, others


def _layer_spans(n_layers: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """The six fixed spans of the published code, each once, then random ones of 1 to 3 layers, up to eight or all."""
    mid, last = n_layers // 2, n_layers - 1
    fixed = [(0,), (mid,), (last,), tuple(range(min(2, n_layers)))]
    fixed += [tuple(range(max(0, mid - 1), min(n_layers, mid + 2))), tuple(range(max(0, last - 2), n_layers))]
    every = [tuple(range(a, a + size)) for size in (1, 2, 3) for a in range(n_layers - size + 1)]
    drawn = [every[i] for i in rng.permutation(len(every))]
    return list(dict.fromkeys([*fixed, *drawn]))[:SPANS]


@torch.no_grad()
def _source_states(model: Model, group: Sequence[Run], fixes: Sequence[str], filler: str) -> list[Tensor]:
    """For every layer, the states `[batch, pos, d_model]` that its input is overwritten with, at every position."""
    start, stop = group[0].spans["cot"]
    ids = _ids(model, group)
    if "source" in fixes:
        tokens = tokenize(model.tokenizer, [Piece(filler)]).ids * (stop - start)
        ids = ids.clone()
        ids[:, start:stop] = torch.tensor(tokens[: stop - start], device=ids.device)
    else:
        ids = torch.cat([ids[:, :start], ids[:, stop:]], dim=1)
    hidden = model.module(input_ids=ids, output_hidden_states=True).hidden_states
    # The last of `hidden_states` has gone through the final norm, in the published code too.
    shift = 0 if "layer" in fixes else 1
    width = len(group[0].ids)
    aligned = [min(position, ids.shape[1] - 1) for position in range(width)]
    return [hidden[layer + shift][:, aligned] for layer in range(model.n_layers)]


def _patch_positions(run: Run, fixes: Sequence[str]) -> tuple[list[int], list[int]]:
    """The CoT's positions, and those that controls are drawn from."""
    cot = list(range(*run.spans["cot"]))
    end = run.spans["answer"][0] - 1 if "controls" in fixes else len(run.ids)
    return cot, [position for position in range(end) if position not in cot]


@contextmanager
def _patched(model: Model, states: Mapping[int, Tensor], positions: Sequence[int]) -> Iterator[None]:
    """Overwrite the input of layers at some positions inside the block."""

    def hook(layer: int) -> Callable[..., Any]:
        def overwrite(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden = given[0].clone()
            hidden[:, list(positions)] = states[layer][:, list(positions)]
            return (hidden, *given[1:])

        return overwrite

    handles = [model.sites.blocks[layer].block.register_forward_pre_hook(hook(layer)) for layer in states]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def nldd(model: Model, runs: Runs, *, chain: Chain = "truncated", seed: int = 0) -> Alternative:
    """Normalised Logit-Difference Decay: what a corrupted step takes from the margin of the right answer, in percent.

    2602.11201: LD = (logit of the correct answer - largest other logit) / S, with S the mean over clean texts of the
    standard deviation of the logits; NLDD_k = 100 (LD_clean - LD_corrupt) / |LD_clean|, 0 where |LD_clean| <= 1e-6;
    only problems that the clean run gets right. S cancels but for that limit. Mean over steps and problems; the logits
    are those of the answer's first token. Step k gets the value of another problem's step k.

    chain: "truncated" (the paper): the text ends with the corrupted step; LD_clean is that of the whole text
        "replaced" (the authors' notebook, Max17190/NLDD-CoT fc2d506, `build_replacement_steps`): later steps are kept
        "matched" (corrected): both texts end with step k, so that the missing rest is not read as reliance on step k
    """
    check_name("chain", chain, CHAINS)
    rng = np.random.default_rng(seed)
    rows, items, texts = [], [], []
    for i, run in enumerate(runs):
        for item in sorted(run.values) if run.correct and run.finished else []:
            wrong = wrong_step(run, list(runs), item, rng)
            if wrong is not None:
                rows.append(i)
                items.append(item)
                texts += _step_texts(run, item, wrong, chain)
    if not rows:
        raise InputError("nldd corrupts steps of correct runs: none of these runs is correct and states a step")
    logits = _last_logits(model, texts)
    whole = _last_logits(model, [run.ids[: run.spans["cue"][1]] for run in runs if run.correct])
    scale = float(whole.std(-1).mean())
    answers = torch.tensor([runs[i].tokens("answer")[0] for i in rows])
    clean, corrupt = _margin(logits[0::2], answers) / scale, _margin(logits[1::2], answers) / scale
    decay = np.array([logit_decay(*pair) for pair in zip(clean.tolist(), corrupt.tolist(), strict=True)])
    own, step = np.array(rows), np.array(items)
    problems = np.array([decay[own == i].mean() if (own == i).any() else np.nan for i in range(len(runs))])
    parts = {"clean": float(clean.mean()), "corrupt": float(corrupt.mean()), "scale": scale}
    parts |= {f"step.{item}": float(decay[step == item].mean()) for item in sorted(set(items))}
    return Alternative(f"NLDD ({chain})", float(decay.mean()), problems, parts)


def logit_decay(clean: float, corrupt: float) -> float:
    """NLDD of one step from its two margins.

    >>> logit_decay(4.0, 1.0), logit_decay(4.0, -4.0), logit_decay(0.0, 1.0)
    (75.0, 200.0, 0.0)
    """
    return 0.0 if abs(clean) <= LOW_MARGIN else 100 * (clean - corrupt) / abs(clean)


def _step_texts(run: Run, item: int, wrong: tuple[int, ...], chain: str) -> list[tuple[int, ...]]:
    """The ids before the answer of the clean and of the corrupted text."""
    start, stop = run.spans[f"step.{item}"]
    cot_end, cue = run.spans["cot"][1], run.tokens("cue")
    clean = run.ids[:stop] if chain == "matched" else run.ids[:cot_end]
    rest = run.ids[stop:cot_end] if chain == "replaced" else ()
    return [clean + cue, run.ids[:start] + wrong + rest + cue]


@torch.no_grad()
def _last_logits(model: Model, texts: Sequence[tuple[int, ...]]) -> Tensor:
    """The logits after each text, `[text, vocab]`; texts of equal length run as one batch."""
    found: dict[int, Tensor] = {}
    groups: dict[int, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        groups[len(text)].append(i)
    for members in groups.values():
        ids = torch.tensor([texts[i] for i in members], device=model.device)
        found.update(zip(members, model.module(input_ids=ids).logits[:, -1].float().cpu(), strict=True))
    return torch.stack([found[i] for i in range(len(texts))])


def _margin(logits: Tensor, answers: Tensor) -> Tensor:
    """The answer's logit minus the largest other one."""
    index = answers[:, None]
    return logits.gather(1, index)[:, 0] - logits.scatter(1, index, -torch.inf).max(1).values


def attention_knockout(
    model: Model,
    runs: Runs,
    *,
    readers: Literal["answer", "later"] = "answer",
    keep_sink: bool = False,
) -> Alternative:
    """Share of the CoT in what is lost when the answer's positions may not attend to CoT or to prompt, at any layer.

    drop(span) = log p(own answer) - the same with the scores of the span's keys set to minus infinity before the
    softmax (as in Thought Anchors, 2506.19143, and 2607.03502; the freed weight goes to the keys that remain); value =
    drop(CoT) / (drop(CoT) + drop(prompt and open)), a ratio of means. Flips are runs whose greedy answer changes.

    readers: "answer": the cue and the answer; "later": every position after the span, so that nothing of it is left
        but what the prompt's knock-out takes from the CoT as well (Thought Anchors masks the column for all queries)
    keep_sink: position 0, where heads rest that read nothing, stays readable (corrected)

    Raises InputError for models other than Llama and GPT-2, whose masks may not be read as they are given here.
    """
    check_name("readers", readers, ["answer", "later"])
    drops, flips = np.zeros((2, 2, len(runs)))
    for rows in _alike(runs):
        group = [runs[i] for i in rows]
        run, ids = group[0], _ids(model, group)
        before = masked_logits(model, ids, [])
        start, stop = run.spans["cot"]
        for s, keys in enumerate([(start, stop), (int(keep_sink), start)]):
            first = run.spans["cue"][0] if readers == "answer" else keys[1]
            after = masked_logits(model, ids, [((first, len(run.ids)), keys)])
            drops[s, rows] = _answer_log_prob(before, group) - _answer_log_prob(after, group)
            flips[s, rows] = _flipped(after, group)
    means = dict(zip(("drop cot", "drop prompt"), map(float, drops.mean(1)), strict=True))
    means |= dict(zip(("flips cot", "flips prompt"), map(float, flips.mean(1)), strict=True))
    share = float(drops[0].mean() / drops.mean(1).sum()) if drops.mean(1).sum() >= DROP_FLOOR else float("nan")
    return Alternative(f"attention knock-out ({readers}{', sink kept' * keep_sink})", share, drops[0], means)


@torch.no_grad()
def masked_logits(model: Model, ids: Tensor, blocked: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> Tensor:
    """Logits when the queries of a range may not attend to the keys of a range, at every layer, before the softmax.

    blocked: (queries, keys), each a half-open range of positions; a query always sees itself
    """
    kind = str(getattr(getattr(model.module, "config", None), "model_type", ""))
    if kind not in MASKABLE:
        raise InputError(
            f"attention knock-out: expected a model of type {' or '.join(MASKABLE)}, got {kind!r}: sliding windows and "
            "sinks need masks of their own"
        )
    width = ids.shape[1]
    seen = torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
    for (first, last), (start, stop) in blocked:
        seen[first:last, start:stop] = False
    seen |= torch.eye(width, dtype=torch.bool, device=ids.device)
    dtype = next(model.module.parameters()).dtype
    mask = torch.zeros(width, width, dtype=dtype, device=ids.device).masked_fill(~seen, torch.finfo(dtype).min)
    logits: Tensor = model.module(
        input_ids=ids, attention_mask=mask.expand(len(ids), 1, -1, -1), use_cache=False
    ).logits
    return logits.float()


def _alike(runs: Runs) -> Iterator[list[int]]:
    """The rows of runs that have their spans at the same positions, group by group. They are the ones to measure."""
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, run in enumerate(runs):
        if "cot" not in run.spans or "answer" not in run.spans:
            raise InputError(f"run {run.problem.key!r} has no chain of thought or no answer: leave such runs out")
        groups[len(run.ids), run.spans["cot"], run.spans["cue"]].append(i)
    yield from groups.values()


def _ids(model: Model, group: Sequence[Run]) -> Tensor:
    return torch.tensor([run.ids for run in group], device=model.device)


def _answer_log_prob(logits: Tensor, group: Sequence[Run]) -> NDArray[Any]:
    """log p of each run's own answer, all of its tokens, from the logits of the whole run."""
    start, stop = group[0].spans["answer"]
    answers = _answers(group)[..., None].to(logits.device)
    chosen = logits[:, start - 1 : stop - 1].float().log_softmax(-1).gather(-1, answers)
    return np.asarray(chosen[..., 0].sum(-1).detach().cpu().double().numpy())


def _flipped(logits: Tensor, group: Sequence[Run]) -> NDArray[Any]:
    """Whether the most likely token differs from the own one anywhere in the answer."""
    start, stop = group[0].spans["answer"]
    most = logits[:, start - 1 : stop - 1].argmax(-1).cpu()
    return np.asarray((most != _answers(group)).any(-1).numpy())


def _answers(group: Sequence[Run]) -> Tensor:
    return torch.tensor([run.tokens("answer") for run in group])
