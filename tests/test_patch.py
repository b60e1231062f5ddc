"""Patching: exact against TransformerLens and against a plain hook, on the same model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import loadbearing as lb
from loadbearing.core import InputError
from loadbearing.hooks.cache import forward_segment
from loadbearing.hooks.resume import resume
from loadbearing.hooks.sites import Site


def first_token_odds(logits: torch.Tensor, donor: int, recipient: int) -> torch.Tensor:
    return logits[0, -1, donor] - logits[0, -1, recipient]


@pytest.mark.parametrize(("name", "mode"), [("sft", "cot"), ("direct", "answer-only")])
def test_the_map_is_that_of_transformer_lens(name: str, mode: str) -> None:
    from transformer_lens import patching

    # Eager, as the bridge is: sdpa sums in another order.
    model: Any = lb.hooks.load(f"organism:{name}", attention="eager")
    bridge = lb.hooks.load(model.module, tokenizer=model.tokenizer, format=model.format, backend="transformer_lens")
    pairs = model.task.pairs(1)
    chosen: Any = mode
    found = lb.analyses.patch(model, pairs, mode=chosen)
    runs = lb.hooks.generate(model, [p for pair in pairs for p in (pair.recipient, pair.donor)], chosen).by_problem()
    assert len(found.variable) == len(pairs)
    for number, pair in enumerate(pairs):
        ids = [torch.tensor([runs[p.key].ids[: found.values.shape[1]]]) for p in (pair.recipient, pair.donor)]
        after = [runs[p.key].ids[found.values.shape[1]] for p in (pair.recipient, pair.donor)]
        inner: Any = bridge.backend
        _, cache = inner.bridge.run_with_cache(ids[1])
        theirs = patching.get_act_patch_resid_pre(
            inner.bridge, ids[0], cache, lambda logits, after=after: first_token_odds(logits, after[1], after[0])
        )
        np.testing.assert_allclose(found.values[..., number], theirs.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gemma3", "gpt2", "gpt-neox", "mistral", "olmo2"])
def test_resuming_is_what_a_hook_in_a_whole_pass_gives(kind: str, tiny: Callable[[str], Any]) -> None:
    model = tiny(kind)
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randint(5, 20, (2, 1, 10), generator=generator)
    every = torch.tensor([(0, t) for t in range(10)])
    mask = torch.ones(1, 10, dtype=torch.bool)
    _, past = forward_segment(model, one)
    for layer in range(model.n_layers):
        site = Site("resid_pre", layer)
        own, foreign = (model.backend.read(ids, mask, [site], every)[site] for ids in (one, other))
        for position in (0, 4, 9):
            hidden = own[None, position:].clone()
            hidden[0, 0] = foreign[position]
            before = [(k[:, :, :position], v[:, :, :position]) for k, v in past] if position else []
            found = resume(model, layer, hidden, before)

            def replaced(_m: Any, args: Any, kwargs: Any, p: int = position, new: Any = foreign) -> Any:
                state = args[0].clone()
                state[0, p] = new[p]
                return (state, *args[1:]), kwargs

            handle = model.sites.blocks[layer].block.register_forward_pre_hook(replaced, with_kwargs=True)
            with torch.no_grad():
                plain = model.module(input_ids=one, use_cache=False).logits[:, -1]
            handle.remove()
            torch.testing.assert_close(found[:, -1], plain.float(), atol=1e-5, rtol=0)


def test_the_known_path_of_a_hand_set_model(organism: Callable[[str], Any]) -> None:
    """copy-relay: the value goes from its token to the CoT's state in layer 0, from there to the cue in layer 1."""
    model = organism("copy-relay")
    found = lb.analyses.patch(model, model.task.pairs(8), mode="cot", target="answer", cot="task")
    effect = found.effect()[0]
    names = found.coords["position"]
    assert effect[0, names.index("value")] == pytest.approx(1.0, abs=1e-3)
    assert effect[1, names.index("cot")] == pytest.approx(1.0, abs=1e-3)
    expected = np.zeros_like(effect)
    expected[0, names.index("value")] = expected[1, names.index("cot")] = 1.0
    np.testing.assert_allclose(effect, expected, atol=1e-3)


def test_every_position_of_the_last_layers_input_adds_up_to_nothing_before_the_pair_differs(
    organism: Callable[[str], Any],
) -> None:
    model = organism("direct")
    found = lb.analyses.patch(model, model.task.pairs(4, vary="operand.3"))
    first = found.coords["position"].index("operand.3")
    np.testing.assert_allclose(found.values[:, :first] - found.recipient, 0.0, atol=1e-4)
    assert abs(found.effect()[0][0, first]) > 0.5
    assert found.manifest.circumstance["gates"][0]["measured"] < 1e-5


def test_answers_of_two_tokens(random_module: Callable[..., Any], bpe_tokenizer: Any) -> None:
    module = random_module("qwen3", bpe_tokenizer, max_position_embeddings=256, seed=2)
    model = lb.hooks.load(module, tokenizer=bpe_tokenizer)
    task = lb.tasks.Questions()
    task.add("a", "What is 12 + 30?", "42", partner="b")
    task.add("b", "What is 12 + 42?", "54", partner="a")
    runs = lb.hooks.replay(model, task.problems(2), {"a": "so 42", "b": "so 30"}, max_answer_tokens=2)
    found = lb.analyses.patch(model, task.pairs(1), mode="cot", target="answer", cot=runs)
    by = runs.by_problem()
    recipient, donor = task.pairs(1)[0].recipient, task.pairs(1)[0].donor
    before = found.values.shape[1]
    prefix = by[recipient.key].ids[:before]
    odds = 0.0
    for sign, problem in ((1, donor), (-1, recipient)):
        answer = by[problem.key].tokens("answer")
        assert len(answer) == 2
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([[*prefix, answer[0]]])).logits[0].log_softmax(-1)
        odds += sign * float(logits[-2, answer[0]] + logits[-1, answer[1]])
    assert found.recipient[0] == pytest.approx(odds, abs=1e-4)
    # At the very first layer, patching every differing position would make the donor; one position moves it part way.
    assert np.abs(found.values - found.recipient).max() > 0.01


def test_the_models_object_is_what_it_was(organism: Callable[[str], Any]) -> None:
    model = organism("sft")

    def seen() -> list[tuple[int, int, int]]:
        # Compared, not expected to be empty: transformers leaves hooks of its own where hidden states were asked for.
        return [(id(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.module.modules()]

    before = seen()
    lb.analyses.patch(model, model.task.pairs(2, vary="operand.1"), mode="cot")
    assert seen() == before


def test_bad_input(organism: Callable[[str], Any]) -> None:
    model = organism("sft")
    pairs = model.task.pairs(2, vary="operand.1")
    with pytest.raises(InputError, match=r"target 'onse': expected 'onset', 'answer' or 'step.K'"):
        lb.analyses.patch(model, pairs, mode="cot", target="onse")
    with pytest.raises(InputError, match="no pairs to measure"):
        lb.analyses.patch(model, lb.tasks.Pairs((), model.task))
