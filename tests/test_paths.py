"""Paths: TransformerLens' edges, the definition with everything frozen in turn, and models whose paths are known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import patching
from transformer_lens.patching import get_act_patch_direct_path
from transformers import GraniteConfig, GraniteForCausalLM

import loadbearing as lb
from loadbearing.analyses.paths import Edges, _parts, paths
from loadbearing.analyses.paths_table import End, Paths
from loadbearing.core import InputError
from loadbearing.figures.paths import paths as draw
from loadbearing.hooks.interior import Interior
from loadbearing.hooks.sweep import Cell, Sweep
from loadbearing.hooks.trace import trace
from loadbearing.hooks.writes import Write
from loadbearing.organisms.specs import FORMAT

KINDS = (
    "llama",
    "llama3",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "mistral",
    "olmo2",
    "phi3",
    "gpt2",
    "gpt-neox",
    "gpt-neox-serial",
    "gpt-oss",
)
LENGTH, RUNS, LAYERS = 9, 2, 3
COPY: dict[str, Any] = {"mode": "cot", "target": "answer", "cot": "task"}
TASK = lb.tasks.load("modular-sum")


class Case:
    """A tiny model of an architecture, and two batches of runs inside out."""

    def __init__(self, model: Any, module: Any) -> None:
        self.model, self.module = model, module
        self.ids = torch.randint(5, 20, (2, RUNS, LENGTH), generator=torch.Generator().manual_seed(0))
        self.interior = Interior.of(model.module, model.sites)
        with torch.no_grad():
            self.base, self.source = (trace(model, self.interior, i, sites=_parts(model)) for i in self.ids)
        self.edges = Edges(self.interior, self.base, self.source, tuple((p, p) for p in range(LENGTH)), 1)
        self.runs = torch.arange(RUNS)

    def swept(self, *cells: tuple[Write, ...]) -> torch.Tensor:
        """Logits `[cell, run, vocab]` of the last position."""
        sweep = Sweep(self.model, self.interior, self.base)
        return sweep.logits([Cell(writes, self.runs) for writes in cells])[:, :, -1]

    @torch.no_grad()
    def passed(self, attention: Any, listen: Any) -> torch.Tensor:
        """Logits of the last position of one whole pass of the base's tokens."""
        with self.interior.using(attention=attention, listen=listen):
            logits: torch.Tensor = self.interior.module(input_ids=self.ids[0], use_cache=False).logits[:, -1]
        return logits.float()


def small(random_module: Callable[..., Any], tokenizer: Any, kind: str, **changes: Any) -> Any:
    """A module with logits of a few nats: 1e-5 is then what float32 can give."""
    made = random_module(kind, tokenizer, layers=LAYERS, attn_implementation="eager", **changes)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(0.5 if weight.ndim > 1 else 1.0)
    return made


@pytest.fixture(scope="module")
def case(random_module: Callable[..., Any], word_tokenizer: Any) -> Callable[..., Case]:
    known: dict[str, Case] = {}

    def get(kind: str, **changes: Any) -> Case:
        key = f"{kind}{changes}"
        if key not in known:
            made = small(random_module, word_tokenizer, kind, **changes)
            known[key] = Case(lb.hooks.load(made, tokenizer=word_tokenizer, format=FORMAT), made)
        return known[key]

    return get


def head(layer: int, number: int) -> End:
    return End("head", layer, number, 4 * layer + 1)


def receiver(kind: str, layer: int, number: int | None = None) -> End:
    return End(kind, layer, number, 4 * layer)


def odds(logits: torch.Tensor) -> torch.Tensor:
    return logits[..., 7] - logits[..., 8]


# TransformerLens refuses k and v of grouped heads, and norms after attention.
THEIRS = [
    ("llama", {}, "q"),
    ("qwen3", {}, "q"),
    *(("llama", {"num_key_value_heads": 2}, part) for part in "kv"),
    *((kind, {}, part) for kind in ("gpt2", "gpt-neox", "gpt-neox-serial") for part in "qkv"),
]


@pytest.mark.parametrize(("kind", "changes", "part"), THEIRS)
def test_edges_between_heads_are_those_of_transformer_lens(
    kind: str, changes: dict[str, Any], part: Any, case: Callable[..., Case]
) -> None:
    ours = case(kind, **changes)
    bridge: Any = lb.hooks.load(
        ours.module, tokenizer=ours.model.tokenizer, format=FORMAT, backend="transformer_lens"
    ).backend
    with torch.no_grad():
        base, source = (bridge.bridge.run_with_cache(ids)[1] for ids in ours.ids)
    moved = 0.0
    for layer, number in ((0, 0), (0, 1), (1, 1)):
        with torch.no_grad():
            theirs = get_act_patch_direct_path(
                bridge.bridge,
                ours.ids[0],
                source,
                base,
                lambda logits: odds(logits[:, -1]).mean(),
                src_layer=layer,
                src_head=number,
                component=part,
                verbose=False,
            )
        cells = [(at, h) for at in range(layer + 1, LAYERS) for h in range(2)]
        writes = [(ours.edges.write(head(layer, number), receiver(part, at, h)),) for at, h in cells]
        found = odds(ours.swept(*writes)).mean(1)
        wanted = torch.stack([theirs[cell] for cell in cells])
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
        moved = max(moved, float((wanted - odds(ours.base.logits[:, -1]).mean()).abs().max()))
    assert moved > 1e-3


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gpt-neox"])
def test_edges_to_the_logits_are_a_head_added_to_transformer_lens_last_state(
    kind: str, case: Callable[..., Case]
) -> None:
    ours = case(kind)
    backend: Any = lb.hooks.load(
        ours.module, tokenizer=ours.model.tokenizer, format=FORMAT, backend="transformer_lens"
    ).backend
    bridge = backend.bridge
    with torch.no_grad():
        base, source = (bridge.run_with_cache(ids)[1] for ids in ours.ids)
    for layer in range(LAYERS):
        for number in range(2):
            name = f"blocks.{layer}.attn.hook_z"
            delta = (source[name] - base[name])[:, :, number] @ bridge.blocks[layer].attn.W_O[number]
            last = f"blocks.{LAYERS - 1}.hook_resid_post"
            with torch.no_grad():
                theirs = bridge.run_with_hooks(ours.ids[0], fwd_hooks=[(last, lambda x, hook, delta=delta: x + delta)])
            write = ours.edges.write(head(layer, number), receiver("logits", LAYERS))
            found = odds(ours.swept((write,)))[0]
            torch.testing.assert_close(found, odds(theirs[:, -1]), atol=1e-5, rtol=0)
            assert (found - odds(ours.base.logits[:, -1])).abs().max() > 1e-3


def held(ours: Case, site: str, layer: int) -> Write:
    """A part of a layer, kept at what it was at every position."""
    return Write(site, layer, tuple(range(LENGTH)), lambda runs: ours.base.get(site, layer)[runs])


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_to_the_logits_is_the_head_exchanged_and_all_after_it_frozen(
    kind: str, case: Callable[..., Case]
) -> None:
    ours = case(kind)
    everywhere = tuple(range(LENGTH))
    paths_, frozen = [], []
    for layer in range(LAYERS):
        for number in range(2):

            def z(runs: Any, layer: int = layer, number: int = number) -> torch.Tensor:
                return ours.source.get("z", layer)[runs][:, :, [number]]

            later = [held(ours, "mlp_out", at) for at in range(layer, LAYERS)]
            later += [held(ours, "attn_out", at) for at in range(layer + 1, LAYERS)]
            frozen.append((Write("z", layer, everywhere, z, (number,)), *later))
            paths_.append((ours.edges.write(head(layer, number), receiver("logits", LAYERS)),))
    found, wanted = ours.swept(*paths_), ours.swept(*frozen)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (found - ours.base.logits[:, -1]).abs().amax(dim=(1, 2)).min() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_lies_between_the_path_is_the_whole_effect(kind: str, case: Callable[..., Case]) -> None:
    """The last MLP writes to the logits only; the heads beside it too where both read at once."""
    ours = case(kind)
    top, everywhere = LAYERS - 1, tuple(range(LENGTH))
    senders = [End("mlp", top, None, 4 * top + 3)]
    whole = [(Write("mlp_out", top, everywhere, lambda runs: ours.source.get("mlp_out", top)[runs]),)]
    if ours.model.sites.blocks[top].parallel:
        senders.append(head(top, 1))
        whole.append((Write("z", top, everywhere, lambda runs: ours.source.get("z", top)[runs][:, :, [1]], (1,)),))
    direct = ours.swept(*((ours.edges.write(sender, receiver("logits", LAYERS)),) for sender in senders))
    torch.testing.assert_close(direct, ours.swept(*whole), atol=1e-5, rtol=0)
    assert (direct - ours.base.logits[:, -1]).abs().max() > 1e-2
    assert ours.model.sites.blocks[top].parallel == (kind == "gpt-neox")


@pytest.mark.parametrize("part", ["q", "k", "v", "mlp"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_path_to_a_receiver_is_two_passes_one_that_freezes_and_one_that_does_not(
    kind: str, part: str, case: Callable[..., Case]
) -> None:
    """First the sender is exchanged and all between held, to see what the receiver gives; then only that is set."""
    ours = case(kind)
    group = ours.base.attention[0]["q"].shape[1] // ours.base.attention[0]["k"].shape[1]
    first, last = 0, LAYERS - 1
    given: dict[str, torch.Tensor] = {}

    def freeze_attention(layer: int, attend: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        z, pattern = attend(q, k, v, mask)
        if layer == first:
            z = z.clone()
            z[:, :, 1] = ours.source.get("z", first)[:, :, 1]
        if layer == last:
            given.update(q=q, k=k, v=v)
        return z, pattern

    def freeze(site: str, layer: int, value: Any) -> Any:
        if site == "mlp_out" and layer == last:
            given["mlp"] = value
        if (site == "attn_out" and layer > first) or (site == "mlp_out" and layer < last):
            return ours.base.get(site, layer)
        return None

    ours.passed(freeze_attention, freeze)

    def exchange(layer: int, attend: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        states = {"q": q, "k": k, "v": v}
        if layer == last and part in states:
            states[part] = states[part].clone()
            states[part][:, 0] = given[part][:, 0]
        return attend(*states.values(), mask)

    def set_mlp(site: str, layer: int, value: Any) -> Any:
        return given["mlp"] if (site, layer, part) == ("mlp_out", last, "mlp") else None

    wanted = ours.passed(exchange, set_mlp)
    number = None if part == "mlp" else 0
    found = ours.swept((ours.edges.write(head(first, 1), receiver(part, last, number)),))[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (found - ours.base.logits[:, -1]).abs().max() > 1e-4
    assert group == (1 if kind.startswith("gpt") and kind != "gpt-oss" else 2)


@pytest.mark.parametrize("kind", KINDS)
def test_what_all_senders_add_is_the_whole_difference(kind: str, case: Callable[..., Case]) -> None:
    ours = case(kind)
    senders = [End("embed", 0, None, -1)]
    senders += [End(part, layer, None, 0) for layer in range(LAYERS) for part in ("attn", "mlp")]
    at = tuple((p, p) for p in range(LENGTH))
    whole = sum(ours.edges.difference(sender, at, ours.runs) for sender in senders)
    torch.testing.assert_close(whole, ours.source.residual[-1] - ours.base.residual[-1], atol=1e-4, rtol=0)
    heads = sum(ours.edges.difference(head(1, number), at, ours.runs) for number in range(2))
    layer = ours.edges.difference(End("attn", 1, None, 5), at, ours.runs)
    adds_up = torch.allclose(torch.as_tensor(heads), layer, atol=1e-5)
    assert adds_up == (kind not in ("gemma2", "gemma3", "olmo2"))  # there a norm follows


def test_the_path_of_copy_direct(organism: Callable[[str], Any]) -> None:
    """L1H0 reads the value where the prompt states it, and writes the answer: nothing else does."""
    model = organism("copy-direct")
    pairs = model.task.pairs(8)
    to_logits = paths(model, pairs, "head", "logits", **COPY)
    effect = to_logits.frame().set_index("sender")["effect"]
    np.testing.assert_allclose(effect[["L0H0", "L0H1", "L1H0", "L1H1"]], [0, 0, 1, 0], atol=1e-3)
    to_values = paths(model, pairs, "embed", "v", **COPY).frame().set_index("receiver")["effect"]
    np.testing.assert_allclose(to_values[["L0H0.v", "L0H1.v", "L1H0.v", "L1H1.v"]], [0, 0, 1, 0], atol=1e-3)


def test_the_path_of_copy_relay(organism: Callable[[str], Any]) -> None:
    """Embedding to the values of L0H0, from it to those of L1H1, from it to the logits."""
    model = organism("copy-relay")
    pairs = model.task.pairs(8)
    for sender, to, known in (
        ("embed", "v", {("embed", "L0H0.v")}),
        ("head", "v", {("L0H0", "L1H1.v")}),
        ("head", "logits", {("L1H1", "logits")}),
        ("head", "q", set()),
    ):
        frame = paths(model, pairs, sender, to, **COPY).frame()
        expected = [float(edge in known) for edge in zip(frame["sender"], frame["receiver"], strict=True)]
        np.testing.assert_allclose(frame["effect"], expected, atol=1e-3)


def test_both_directions_places_and_names(organism: Callable[[str], Any]) -> None:
    model = organism("copy-relay")
    pairs = model.task.pairs(4)
    back = paths(model, pairs, "L0H0", ["L1H1.v", "L1H0.v"], direction="noising", **COPY)
    np.testing.assert_allclose(back.effect()[0], [[1, 0]], atol=1e-3)
    at_cot = paths(model, pairs, "L0H0", "L1H1.v", positions=["cot"], **COPY)
    elsewhere = paths(model, pairs, "L0H0", "L1H1.v", positions=["value", "cue"], **COPY)
    assert at_cot.effect()[0][0, 0] == pytest.approx(1, abs=1e-3)
    assert elsewhere.effect()[0][0, 0] == pytest.approx(0, abs=1e-3)


def test_a_result_keeps_what_it_is(organism: Callable[[str], Any], tmp_path: Any) -> None:
    model = organism("direct")
    found = paths(model, model.task.pairs(2), ["L0H1", "mlp.1"], "mlp")
    assert found.coords["sender"] == ("L0H1", "mlp.1")
    assert found.coords["receiver"] == ("mlp.0", "mlp.1", "mlp.2")
    np.testing.assert_array_equal(np.isfinite(found.values).all(-1), [[True, True, True], [False, False, True]])
    np.testing.assert_array_equal(found.exact, np.isfinite(found.values).all(-1))
    assert len(found.frame()) == 4
    again = lb.load(found.save(tmp_path / "paths.safetensors"))
    assert isinstance(again, Paths) and again.table() == found.table()
    text = found.table()
    assert (
        "direct paths ['L0H1', 'mlp.1'] -> mlp in the recipient's answer-only run, log-odds: 4 paths, 8 pairs" in text
    )


def test_the_order_of_cells_and_the_size_of_chunks_change_nothing(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    pairs = model.task.pairs(2)
    one = paths(model, pairs, "head", "v")
    other = paths(model, pairs, ["L1H3", "L0H2"], ["L2H3.v", "L1H2.v"], memory=20_000)
    at = [one.coords["sender"].index(name) for name in other.coords["sender"]]
    to = [one.coords["receiver"].index(name) for name in other.coords["receiver"]]
    np.testing.assert_allclose(other.values, one.values[np.ix_(at, to)], atol=1e-4)


def test_answers_of_two_tokens_are_forced_with_their_own_differences(
    random_module: Callable[..., Any], bpe_tokenizer: Any
) -> None:
    made = random_module("qwen3", bpe_tokenizer, max_position_embeddings=256, seed=2)
    model = lb.hooks.load(made, tokenizer=bpe_tokenizer)
    task = lb.tasks.Questions()
    task.add("a", "What is 12 + 30?", "42", partner="b")
    task.add("b", "What is 12 + 42?", "54", partner="a")
    runs = lb.hooks.replay(model, task.problems(2), {"a": "so 42", "b": "so 30"}, max_answer_tokens=2)
    found = paths(model, task.pairs(1), "L1H0", "logits", mode="cot", target="answer", cot=runs)
    by, pair = runs.by_problem(), task.pairs(1)[0]
    base, source = by[pair.recipient.key], by[pair.donor.key]
    odds_ = 0.0
    for sign, run in ((1, source), (-1, base)):
        answer = run.tokens("answer")
        assert len(answer) == 2
        ids = [each.ids[: each.spans["answer"][0]] + answer[:1] for each in (source, base)]
        attention = made.model.layers[1].self_attn
        kept: list[torch.Tensor] = []
        handle = attention.o_proj.register_forward_pre_hook(lambda _, args: kept.append(args[0]))  # noqa: B023
        with torch.no_grad():
            for each in ids:
                made(input_ids=torch.tensor([each]), use_cache=False)
        handle.remove()
        width = attention.head_dim
        delta = (kept[0] - kept[1])[..., :width] @ attention.o_proj.weight[:, :width].T
        handle = made.model.norm.register_forward_pre_hook(lambda _, args: (args[0] + delta,))  # noqa: B023
        with torch.no_grad():
            log_p = made(input_ids=torch.tensor([ids[1]]), use_cache=False).logits[0].log_softmax(-1)
        handle.remove()
        odds_ += sign * float(log_p[-2, answer[0]] + log_p[-1, answer[1]])
    assert found.values[0, 0, 0] == pytest.approx(odds_, abs=1e-4)
    assert abs(found.values - found.recipient).max() > 1e-3


def test_named_places_of_runs_of_unequal_length(organism: Callable[[str], Any]) -> None:
    """The donor's chain of thought says its last value twice: its cue is compared with the recipient's."""
    model = organism("sft")
    pairs = model.task.pairs(3, vary="operand.1")
    texts = {pair.recipient.key: pair.recipient.cot for pair in pairs}
    texts |= {pair.donor.key: f"{pair.donor.cot} {pair.donor.cot.split()[-1]}" for pair in pairs}
    runs = lb.hooks.replay(model, [p for pair in pairs for p in (pair.recipient, pair.donor)], texts)
    options: dict[str, Any] = {"mode": "cot", "target": "answer", "cot": runs, "positions": ["cue[-1]"]}
    found = paths(model, pairs, "mlp.2", "logits", **options)
    by, decoder = runs.by_problem(), model.module.model
    for number, pair in enumerate(pairs):
        both = [by[problem.key] for problem in (pair.recipient, pair.donor)]
        ids = [torch.tensor([run.ids[: run.spans["answer"][0]]]) for run in both]
        assert ids[0].shape[1] + 1 == ids[1].shape[1]
        kept: list[torch.Tensor] = []
        handle = decoder.layers[2].mlp.register_forward_hook(lambda _, __, out: kept.append(out[:, -1]))  # noqa: B023
        with torch.no_grad():
            for each in ids:
                model.module(input_ids=each, use_cache=False)
        handle.remove()

        def add(_: Any, args: Any, delta: torch.Tensor = kept[1] - kept[0]) -> Any:
            return (torch.cat([args[0][:, :-1], args[0][:, -1:] + delta[:, None]], dim=1),)

        handle = decoder.norm.register_forward_pre_hook(add)
        with torch.no_grad():
            log_p = model.module(input_ids=ids[0], use_cache=False).logits[0, -1].log_softmax(-1)
        handle.remove()
        answers = [run.tokens("answer")[0] for run in both]
        assert found.values[0, 0, number] == pytest.approx(float(log_p[answers[1]] - log_p[answers[0]]), abs=1e-4)


def test_a_model_whose_parts_do_not_add_up_is_refused(word_tokenizer: Any) -> None:
    """Granite multiplies what a layer adds: its modules put out something else."""
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    names: dict[str, Any] = {
        f"{name}_token_id": getattr(word_tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    for multiplier in (1.0, 0.5):
        config = GraniteConfig(
            vocab_size=len(word_tokenizer), num_key_value_heads=1, residual_multiplier=multiplier, **sizes, **names
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = GraniteForCausalLM(config).eval()
            for weight in made.parameters():
                torch.nn.init.normal_(weight, std=0.2)
        model = lb.hooks.load(made, tokenizer=word_tokenizer, format=FORMAT)
        options: dict[str, Any] = {"mode": "cot", "target": "step.2", "cot": "task"}
        if multiplier == 1:
            paths(model, TASK.pairs(2), **options)
            continue
        with pytest.raises(InputError, match=r"adds 0\.5 times what attention and MLP put out"):
            paths(model, TASK.pairs(2), **options)


@pytest.mark.parametrize(
    ("sender", "to", "text"),
    [
        (
            "L1H0",
            "L1H1.q",
            r"no path from 'L1H0' to 'L1H1.q' \(L1H0, L1H1.q\): a sender must write before its receiver",
        ),
        ("mlp.1", "mlp.1", r"no path from 'mlp.1' to 'mlp.1'"),
        ("L1H0", "mlp.0", r"no path from 'L1H0' to 'mlp.0'"),
        (["L0H0", "L2H0"], "q", r"no path from \['L0H0', 'L2H0'\] to 'q' \(L2H0\)"),
        ("head", "L0H0.q", r"no path from 'head' to 'L0H0.q' \(L0H0.q\)"),
        ("heads", "q", r"unknown sender 'heads': expected one of head, attn, mlp, embed, L0H0, attn.0, mlp.0; nearest"),
        ("L0H0.q", "logits", r"unknown sender 'L0H0.q'"),
        ("head", "L1H0", r"unknown receiver 'L1H0': expected one of logits, q, k, v, mlp, L1H0.q"),
        ("head", "attn.1", r"unknown receiver 'attn.1'"),
        ("L3H0", "logits", r"sender 'L3H0': this model has layers 0 to 2, and heads 0 to 3 in each"),
        ("L0H4", "logits", r"sender 'L0H4': this model has layers 0 to 2, and heads 0 to 3 in each"),
        ("head", "mlp.3", r"receiver 'mlp.3': this model has layers 0 to 2$"),
    ],
)
def test_paths_that_are_none(sender: Any, to: str, text: str, organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    with pytest.raises(InputError, match=text):
        paths(model, model.task.pairs(1), sender, to)


def test_the_mlp_reads_the_heads_of_its_layer_unless_both_read_at_once(case: Callable[..., Case]) -> None:
    options: dict[str, Any] = {"mode": "cot", "target": "step.2", "cot": "task"}
    assert paths(case("gpt-neox-serial").model, TASK.pairs(1), "L1H0", "mlp.1", **options).exact.all()
    with pytest.raises(InputError, match="unless both read at once"):
        paths(case("gpt-neox").model, TASK.pairs(1), "L1H0", "mlp.1", **options)


def test_heads_of_keys_are_counted_by_themselves(case: Callable[..., Case]) -> None:
    options: dict[str, Any] = {"mode": "cot", "target": "step.2", "cot": "task"}
    found = paths(case("llama").model, TASK.pairs(1), "embed", "k", **options)
    assert found.coords["receiver"] == ("L0H0.k", "L1H0.k", "L2H0.k")
    with pytest.raises(InputError, match=r"receiver 'L1H1.v': this model has layers 0 to 2, and heads 0 to 0 in each"):
        paths(case("llama").model, TASK.pairs(1), "embed", "L1H1.v", **options)


def test_the_model_is_what_it_was_also_after_an_error(organism: Callable[[str], Any]) -> None:
    model = organism("direct")

    def seen() -> list[Any]:
        parts = model.module.modules()
        return [(id(m), len(m._forward_hooks), len(m._forward_pre_hooks), m.__dict__.get("forward")) for m in parts]

    before = seen()
    paths(model, model.task.pairs(1), "head", "q")
    assert seen() == before

    def broken(logits: Any, answers: Any) -> Any:
        raise RuntimeError("the user's metric")

    with pytest.raises(RuntimeError, match="the user's metric"):
        paths(model, model.task.pairs(1), "head", "mlp", metric=broken)
    assert seen() == before


def test_the_figure_shows_the_effects(organism: Callable[[str], Any]) -> None:
    model = organism("direct")
    pairs = model.task.pairs(2)
    found = paths(model, pairs, "head", "mlp")
    ax = draw(found)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["mlp.0", "mlp.1", "mlp.2"]
    assert ax.get_ylabel() == "sender" and ax.get_yticklabels()[-1].get_text() == "L0H0"
    drawn = np.ma.filled(ax.collections[0].get_array(), np.nan)  # type: ignore[arg-type]
    np.testing.assert_array_equal(drawn[::-1], found.effect()[0])
    assert np.isnan(drawn).sum() == 4 + 8  # heads of a layer above

    to_logits = paths(model, pairs)
    ax = draw({"direct": to_logits})
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("head", "layer")
    drawn = np.ma.filled(ax.collections[0].get_array(), np.nan)  # type: ignore[arg-type]
    np.testing.assert_array_equal(drawn[::-1].ravel(), to_logits.effect()[0][:, 0])

    inputs = draw(paths(model, pairs, "embed", ["L0H1.q", "L0H1.v"]))
    assert [label.get_text() for label in inputs.get_xticklabels()] == ["L0H1.q", "L0H1.v"]
    assert inputs.get_xlabel() == "receiver"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "tqdm", lambda cells, **_: cells)
