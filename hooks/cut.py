"""A wire cut for good: query positions that can never attend to key positions, in every pass of a model.

Which part of a run a position is in is read from the token ids: `prompt`, then the text that opens the reasoning, the
chain of thought, the cue, the answer. A view of the module, whose weights are the model's own, edits the attention mask
before the softmax; so windows, layers and attention implementations stay what they are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..core import InputError, check_name
from ..tasks import Piece, Problem, Questions, Task
from .backends.base import Backend
from .backends.torch import TorchBackend
from .cut_view import NEVER, Place, Rule, Scanner, cut_module
from .format import MODES, Format, Mode, Spans, render_prompt, tokenize, tokenize_each
from .formats import texts_around
from .sites import site_map
from .spans import resolve

if TYPE_CHECKING:
    from .model import Model

REGIONS = ("prompt", "open", "cot", "cue", "answer")
EXAMPLES = 8  # problems in which a name must stand at the same place


@dataclass(frozen=True)
class Cut:
    """Positions `queries` never attend to positions `keys`, in these layers (None: in all).

    queries, keys: names joined with "+": whole parts of a run (`prompt`, `open`, `cot`, `cue`, `answer`), or places
    that are the same in every problem of the model's task (`operand.2`, `step.1`, `cot[0]`)
    """

    queries: str
    keys: str
    layers: tuple[int, ...] | None = None

    def asdict(self) -> dict[str, Any]:
        """The cut as plain values, for a card or a manifest."""
        found = asdict(self)
        return {**found, "layers": None if self.layers is None else list(self.layers)}


def joined(names: str | Iterable[str]) -> str:
    """Names as one text: a list, or names joined with "+", without doubles."""
    parts = names.split("+") if isinstance(names, str) else list(names)
    return "+".join(dict.fromkeys(part.strip() for part in parts))


def apply_cuts(model: "Model", cuts: Sequence[Cut]) -> "Model":
    """The model under these cuts and no others. Weights are shared; the object that was loaded is not changed."""
    whole = model.backend.whole if isinstance(model.backend, CutBackend) else model.backend
    card = None if model.card is None else replace(model.card, cut=tuple(cut.asdict() for cut in cuts))
    if not cuts:
        return replace(model, backend=whole, card=card, cuts=())
    sites = site_map(whole.module())
    places = Places(model)
    rules = []
    for cut in cuts:
        queries, keys = places.find(cut.queries), places.find(cut.keys)
        check_order(cut.queries, queries, cut.keys, keys)
        rules.append(Rule(queries, keys, frozenset(check_layers(cut.layers, len(sites.blocks)))))
    scanner = scanner_of(model)
    module = cut_module(whole.module(), sites, scanner, rules)
    return replace(model, backend=CutBackend(module, whole, scanner), card=card, cuts=tuple(cuts))


def check_order(query_names: str, queries: Sequence[Place], key_names: str, keys: Sequence[Place]) -> None:
    """Raise InputError where every query stands before all keys."""
    if max(place.region for place in queries) < min(place.region for place in keys):
        raise InputError(f"nothing to cut: {query_names!r} comes before {key_names!r}, and no position reads ahead")


def check_layers(layers: Iterable[int] | None, n_layers: int) -> tuple[int, ...]:
    """The layers that are meant, in order; None stands for all."""
    chosen = tuple(range(n_layers)) if layers is None else tuple(layers)
    if not chosen or not set(chosen) <= set(range(n_layers)):
        raise InputError(f"layers={list(chosen)}: this model has layers 0 to {n_layers - 1}")
    return tuple(sorted(set(chosen)))


def scanner_of(model: "Model") -> Scanner:
    """What finds the parts of a run in the tokens of this model."""
    opens, cues = _markers(model.tokenizer, model.format, model.task)
    return Scanner(opens, cues, _heads(model.tokenizer, model.format))


class CutBackend(TorchBackend):
    """Plain hooks on the view of a model with cut wires; `whole` is the backend of the model without them."""

    def __init__(self, module: nn.Module, whole: Backend, scanner: "Scanner") -> None:
        super().__init__(module)
        self.whole = whole
        self.scanner = scanner


def check_regions(model: "Model", runs: Iterable[Any]) -> None:
    """Raise InputError where the parts that the cut sees in a run's tokens are not the run's own spans.

    This happens where a prompt holds the text that opens the reasoning, or a chain of thought the cue.
    """
    assert isinstance(model.backend, CutBackend)
    for run in runs:
        starts = model.backend.scanner.starts(torch.tensor([run.ids]))[0].tolist()
        for name, start in zip(REGIONS, starts, strict=True):
            if name in run.spans and run.spans[name][0] != start:
                raise InputError(
                    f"problem {run.problem.key!r}: {name!r} starts at token {run.spans[name][0]}, but the cut finds it "
                    f"at {start if start < NEVER else 'none'}: a prompt must not hold the opening text or the cue, nor "
                    "a chain of thought the cue; choose a format whose texts occur once"
                )


class Places:
    """What names mean, found in problems of the model's task."""

    def __init__(self, model: "Model") -> None:
        self.model = model
        self._spans: list[Spans] | None = None

    def find(self, names: str) -> tuple[Place, ...]:
        """The places of names joined with "+"."""
        return tuple(self._place(name) for name in names.split("+"))

    def _place(self, name: str) -> Place:
        if name in REGIONS:
            return Place(REGIONS.index(name), None)
        if self.model.task is None:
            check_name("part of a run (a model without a task knows no others)", name, REGIONS)
        found = {self._in(spans, name) for spans in self._examples()}
        if len(found) > 1:
            raise InputError(
                f"{name!r} does not stand at the same place in every problem of task {self.model.task.spec!r}: "  # type: ignore[union-attr]
                f"a cut can name {', '.join(REGIONS)}, or places that are fixed"
            )
        return found.pop()

    def _in(self, spans: Spans, name: str) -> Place:
        positions = [place.position for place in resolve(spans, name)]
        if not positions:
            raise InputError(f"{name!r} names no position: give a span that has tokens")
        region = max(index for index, part in enumerate(REGIONS) if part in spans and spans[part][0] <= min(positions))
        first = spans[REGIONS[region]][0]
        lengths = {len(head) for head in _heads(self.model.tokenizer, self.model.format)}
        if region == 0 and len(lengths) > 1 and self.model.supports("answer-only"):
            raise InputError(
                f"{name!r} stands elsewhere in an answer-only run, whose examples have other tokens: cut 'prompt', or "
                "give the format examples of equal token count"
            )
        return Place(region, tuple(position - first for position in positions))

    def _examples(self) -> list[Spans]:
        """Token spans of problems with their gold chain of thought and the cue."""
        if self._spans is None:
            task, tokenizer = self.model.task, self.model.tokenizer
            assert task is not None
            self._spans = []
            for problem in task.problems(EXAMPLES):
                spans: Spans = {}
                at = 0
                head = render_prompt(tokenizer, self.model.format, problem, "cot")
                cot = tokenize(tokenizer, problem.steps) if problem.steps else None
                cue = tokenize(tokenizer, [Piece(self.model.format.cue, "cue")])
                for part, whole in ((head, None), (cot, "cot"), (cue, None)):
                    if part is not None:
                        spans |= {key: (start + at, stop + at) for key, (start, stop) in part.spans.items()}
                        spans |= {whole: (at, at + len(part.ids))} if whole else {}
                        at += len(part.ids)
                self._spans.append(spans)
        return self._spans


def _markers(tokenizer: Any, form: Format, task: Task | None) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The token ids of the texts that open the reasoning, and of the cues, in either mode."""
    sample = task.problems(1)[0] if task else Problem("sample", (Piece("0"),), "0", (), {}, Questions())
    modes: tuple[Mode, ...] = ("cot", "answer-only")
    opens = []
    for mode in modes:
        head = render_prompt(tokenizer, form, sample, mode)
        if "open" in head.spans:
            opens.append(head.ids[slice(*head.spans["open"])])
        elif mode == "cot":
            raise InputError(
                "a wire can be cut only where a text opens the reasoning: the format's `open` is empty, and the tokens "
                "do not tell where the prompt ends; give a format with an `open`"
            )
    cues = [tokenize(tokenizer, [Piece(form.cue_of(mode))]).ids for mode in modes]
    return opens, [cue for cue in cues if cue]


def _heads(tokenizer: Any, form: Format) -> list[tuple[int, ...]]:
    """The token ids of what stands before a problem, in either mode, where that holds examples."""
    if not any(form.examples_of(mode) for mode in MODES):
        return []
    texts = [[Piece(texts_around(tokenizer, form, mode)[0])] for mode in MODES]
    special = not form.chat
    found = tokenize_each(tokenizer, texts, special=special, outer=[{}] * len(texts))
    whole = tokenize_each(tokenizer, [[*text, Piece("0")] for text in texts], special=special, outer=[{}] * len(texts))
    if any(longer.ids[: len(head.ids)] != head.ids for head, longer in zip(found, whole, strict=True)):
        raise InputError("a token joins the examples and the problem: end them with a line break")
    return [head.ids for head in found]
