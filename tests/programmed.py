"""Models whose next token is a written program of the tokens that they see: oracles with a known answer.

Their key/value cache is one layer of one head that holds token ids (keys) and positions (values), and nothing else:
splicing it changes exactly what the program reads. Use them through the fixture `programmed` (tests are no package).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutputWithPast

SURE = 20.0  # the logit of the token that the program writes; all others are at 0


class Programmed(PreTrainedModel, GenerationMixin):
    """A causal language model in the calling convention of transformers that writes what `program` says.

    program: from the text so far to the text that follows; its first token is written. Where words are tokens, every
    word of the text is followed by a space, so that a number that may go on is told from one that is complete.
    """

    config_class = PreTrainedConfig

    def __init__(self, program: Callable[[str], str], tokenizer: Any, name: str = "program") -> None:
        options: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 1, "program": name}
        options["vocab_size"] = len(tokenizer)
        options |= {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        super().__init__(PreTrainedConfig(**options))
        self.nothing = nn.Parameter(torch.zeros(1))  # says the device and the dtype

        def following(ids: tuple[int, ...]) -> int:
            words = tokenizer.convert_ids_to_tokens(list(ids))
            text = "".join(words) if tokenizer.init_kwargs.get("letters") else "".join(f"{word} " for word in words)
            (first, *_) = tokenizer(program(text), add_special_tokens=False)["input_ids"]
            return int(first)

        self.following = lru_cache(maxsize=None)(following)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        batch, width = input_ids.shape
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        places = torch.arange(past, past + width)
        positions = (places if position_ids is None else position_ids).expand(batch, width)
        keys, values = (part[:, None, :, None].float() for part in (input_ids, positions))
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, 0)
        seen = (torch.arange(past + width) <= places[:, None]).expand(batch, width, -1)
        if attention_mask is not None:
            # Given by place (1: a token stands there), or by query and key (0: seen, else a large negative number).
            seen = seen & (attention_mask[:, None] > 0 if attention_mask.ndim == 2 else attention_mask[:, 0] >= 0)
        first = width - logits_to_keep if logits_to_keep else 0
        logits = torch.zeros(batch, width - first, self.config.vocab_size)
        for row in range(batch):
            for query in range(first, width):
                visible = seen[row, query]
                order = values[row, 0, visible, 0].argsort(stable=True)
                ids = keys[row, 0, visible, 0][order].long().tolist()
                logits[row, query - first, self.following(tuple(ids))] = SURE
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)


@dataclass(frozen=True)
class Seen:
    """What a program sees of a sum: the prompt's numbers, and the partial sums that stand before."""

    numbers: tuple[int, ...]
    modulus: int
    steps: tuple[int, ...]

    @property
    def last(self) -> int:
        """The number of the partial sum that is the answer."""
        return len(self.numbers) - 1

    def resume(self, after: int, item: int) -> str:
        """Partial sum `item` from the written one `after` (0: from the prompt only) and the operands that follow."""
        value = self.steps[after - 1] if after else self.numbers[0]
        return str((value + sum(self.numbers[after + 1 : item + 1])) % self.modulus)

    @property
    def consistent(self) -> bool:
        """Whether the text says what the prompt implies."""
        return all(str(step) == self.resume(0, k) for k, step in enumerate(self.steps, start=1))


Rule = Callable[[Seen, int], str]
"""The value of partial sum `item`; as the answer, it is asked for again after all steps are written."""


def chain(seen: Seen, item: int) -> str:
    """Each step from the one before and the next operand; the answer copies the last step."""
    return seen.resume(len(seen.steps), item)


def projection(seen: Seen, item: int) -> str:
    """Each step, and the answer, from the prompt only."""
    return seen.resume(0, item)


def skip(seen: Seen, item: int) -> str:
    """Step 3 from step 1: the step between them is not read."""
    return seen.resume(1, item) if item == 3 and len(seen.steps) == 2 else chain(seen, item)


def last_step(seen: Seen, item: int) -> str:
    """Early steps from the prompt only; the last one from the step before it."""
    return chain(seen, item) if item == seen.last else projection(seen, item)


def again(seen: Seen, item: int) -> str:
    """A chain whose answer is computed again from the prompt."""
    return projection(seen, item) if len(seen.steps) == seen.last else chain(seen, item)


def constant(seen: Seen, item: int) -> str:
    """Always the same."""
    return "5"


def fragile(seen: Seen, item: int) -> str:
    """A chain that says no number where the text is not what the prompt implies."""
    return chain(seen, item) if seen.consistent else "mod"


RULES: dict[str, Rule] = {
    rule.__name__: rule for rule in (chain, projection, skip, last_step, again, constant, fragile)
}


def terse(rule: Rule, short: int = 0) -> Callable[[str], str]:
    """The program that writes the partial sums only (" 8 7 8"), the last `short` of them left out."""

    def program(text: str) -> str:
        if (found := _prompt(text)) is None:
            return "<eos>"
        numbers, modulus, body = found
        cot, cued, said = body.partition("answer")
        closed = re.match(r"(\s*\d+(?=\s))*", cot)
        assert closed is not None
        seen = Seen(numbers, modulus, tuple(map(int, closed[0].split())))
        if cued:
            return _rest(said, f" {rule(seen, seen.last)}") or "<eos>"
        item = len(seen.steps) + 1
        if item > seen.last - short:
            return _rest(cot[closed.end() :], " answer") or "<eos>"
        return _rest(cot[closed.end() :], f" {rule(seen, item)}") or " "

    return program


def verbose(text: str) -> str:
    """A chain that writes "6 + 2 = 8 ." and reads the sum from its own words; the words copy the step before."""
    if (found := _prompt(text)) is None:
        return "<eos>"
    numbers, modulus, body = found
    cot, cued, said = body.partition("answer")
    steps = re.findall(r"\d+ \+ \d+ = (\d+) \.", cot)
    if cued:
        return "<eos>" if said.split() else steps[-1]
    words = cot.rpartition(".")[2].split()
    item = len(steps) + 1
    if item == len(numbers):
        return "answer"
    before = steps[-1] if steps else numbers[0]
    total = (int(words[0]) + int(words[2])) % modulus if len(words) >= 4 else 0
    return str([before, "+", numbers[item], "=", total, "."][len(words)])


def _prompt(text: str) -> tuple[tuple[int, ...], int, str] | None:
    """Numbers and modulus of the prompt, and the text after it; None for a text that asks for nothing."""
    match = re.search(r"(\d+(?: \+ \d+)+) mod (\d+) think(.*)", text, flags=re.DOTALL)
    if match is None:
        return None
    return tuple(map(int, match[1].split(" + "))), int(match[2]), match[3]


def _rest(written: str, wanted: str) -> str:
    """What is left to write; nothing where it is written, or something else is."""
    return wanted[len(written) :] if wanted.startswith(written) else ""


def letters_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a token a character, so that 10 has two; it puts `<bos>` first."""
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    vocabulary = {token: i for i, token in enumerate([*special, *" +=.0123456789abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    names = {f"{token[1:-1]}_token": token for token in special}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, letters=True, **names
    )
