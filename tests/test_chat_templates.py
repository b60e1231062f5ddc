"""Chat templates and reasoning marks of model families: one BOS, no text tokenized twice, marks as single token ids."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from loadbearing.core import InputError
from loadbearing.hooks import FORMATS, MODES, Format, generate, load, replay
from loadbearing.hooks.checks import bos_count
from loadbearing.hooks.decoding import until_stop
from loadbearing.hooks.format import decode, render_prompt, tokenize
from loadbearing.tasks import ModularSum, Piece, Questions

# The templates as they are published, without their parts for tools and images.
LLAMA3 = r"""{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
QWEN25 = r"""{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
QWEN3 = r"""{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\n' + content.split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}" + ALTERNATE + "{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
GEMMA3 = r"""{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
OLMO2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' + message['content'] + eos_token + '\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
GPT_OSS = r"""{%- macro build_system_message() -%}
    {%- if model_identity is not defined %}
        {%- set model_identity = "You are ChatGPT, a large language model trained by OpenAI." %}
    {%- endif %}
    {{- model_identity + "\n" }}
    {{- "Knowledge cutoff: 2024-06\n" }}
    {{- "Current date: " + strftime_now("%Y-%m-%d") + "\n\n" }}
    {%- if reasoning_effort is not defined %}
        {%- set reasoning_effort = "medium" %}
    {%- endif %}
    {{- "Reasoning: " + reasoning_effort + "\n\n" }}
    {{- "# Valid channels: analysis, commentary, final. Channel must be included for every message." }}
{%- endmacro -%}
{{- "<|start|>system<|message|>" }}
{{- build_system_message() }}
{{- "<|end|>" }}
{%- if messages[0].role == "developer" or messages[0].role == "system" %}
    {{- "<|start|>developer<|message|># Instructions\n\n" + messages[0].content + "\n\n<|end|>" }}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- for message in loop_messages -%}
    {%- if message.role == 'assistant' -%}
        {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" }}
    {%- elif message.role == 'user' -%}
        {{- "<|start|>user<|message|>" + message.content + "<|end|>" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|start|>assistant
{%- endif -%}
"""
R1 = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}{{'<\uff5cUser\uff5c>' + message['content']}}"
    "{%- endif %}{%- if message['role'] == 'assistant' %}{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<\uff5cAssistant\uff5c>' + content + '<\uff5cend▁of▁sentence\uff5c>'}}{%- endif %}{%- endfor -%}"
    "{% if add_generation_prompt %}{{'<\uff5cAssistant\uff5c><think>\\n'}}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
STEPS, THINK, EMPTY = "Let's think step by step.\n", "<think>\n", "<think>\n\n"
R1_MARKS = ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>")


@dataclass(frozen=True)
class Family:
    """A family of models: its architecture, template and marks, and what should stand around a problem.

    adds: whether the tokenizer puts a BOS before every text; metaspace: a SentencePiece vocabulary, which begins every
    text with a space
    """

    kind: str
    template: str
    marks: tuple[str, ...]
    bos: str | None
    eos: str
    before: str
    cot: str
    direct: str
    format: str = "chat"
    adds: bool = False
    metaspace: bool = False


HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TURNS = ("<start_of_turn>", "<end_of_turn>")
IM = ("<|im_start|>", "<|im_end|>")
HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>")
IM_AFTER = "<|im_end|>\n<|im_start|>assistant\n"
MODEL_AFTER = "<end_of_turn>\n<start_of_turn>model\n"
LLAMA_AFTER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
R1_BOS, R1_EOS = "<\uff5cbegin▁of▁sentence\uff5c>", "<\uff5cend▁of▁sentence\uff5c>"
LLAMA_BEFORE = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
)
QWEN_BEFORE = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n"
)
OSS_BEFORE = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
    "Current date: 2024-07-26\n\nReasoning: medium\n\n# Valid channels: analysis, commentary, final. Channel must be "
    "included for every message.<|end|><|start|>user<|message|>"
)
R1_QWEN = Family(
    "qwen2",
    R1,
    R1_MARKS,
    R1_BOS,
    R1_EOS,
    R1_BOS + "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>" + THINK,
    "<\uff5cAssistant\uff5c>" + EMPTY,
    "think",
    adds=True,
)
FAMILIES = {
    "llama-3": Family(
        "llama3",
        LLAMA3,
        HEADERS,
        "<|begin_of_text|>",
        "<|eot_id|>",
        LLAMA_BEFORE,
        LLAMA_AFTER + STEPS,
        LLAMA_AFTER,
        adds=True,
    ),
    "qwen2.5": Family("qwen2", QWEN25, IM, None, "<|im_end|>", QWEN_BEFORE, IM_AFTER + STEPS, IM_AFTER),
    "qwen3": Family(
        "qwen3",
        QWEN3,
        (*IM, "<think>", "</think>"),
        None,
        "<|im_end|>",
        "<|im_start|>user\n",
        IM_AFTER + THINK,
        IM_AFTER + EMPTY,
        "think",
    ),
    "gemma-2": Family(
        "gemma2",
        GEMMA2,
        TURNS,
        "<bos>",
        "<eos>",
        "<bos><start_of_turn>user\n",
        MODEL_AFTER + STEPS,
        MODEL_AFTER,
        adds=True,
    ),
    "gemma-3": Family(
        "gemma3",
        GEMMA3,
        TURNS,
        "<bos>",
        "<eos>",
        "<bos><start_of_turn>user\n",
        MODEL_AFTER + STEPS,
        MODEL_AFTER,
        adds=True,
    ),
    "mistral": Family(
        "mistral",
        MISTRAL,
        ("[INST]", "[/INST]"),
        "<s>",
        "</s>",
        "<s>[INST] ",
        " [/INST]" + STEPS,
        " [/INST]",
        adds=True,
        metaspace=True,
    ),
    "phi-3": Family(
        "phi3",
        PHI3,
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<s>",
        "<|endoftext|>",
        "<|user|>\n",
        "<|end|>\n<|assistant|>\n" + STEPS,
        "<|end|>\n<|assistant|>\n",
        metaspace=True,
    ),
    "olmo-2": Family(
        "olmo2",
        OLMO2,
        (),
        "<|endoftext|>",
        "<|endoftext|>",
        "<|endoftext|><|user|>\n",
        "\n<|assistant|>\n" + STEPS,
        "\n<|assistant|>\n",
    ),
    "gpt-oss": Family(
        "gpt-oss",
        GPT_OSS,
        HARMONY,
        "<|startoftext|>",
        "<|return|>",
        OSS_BEFORE,
        "<|end|><|start|>assistant<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant",
        "harmony",
    ),
    "r1-qwen": R1_QWEN,
    "r1-llama": replace(R1_QWEN, kind="llama3"),
    "zephyr": Family(
        "mistral",
        ZEPHYR,
        (),
        "<s>",
        "</s>",
        "<|user|>\n",
        "</s>\n<|assistant|>\n" + STEPS,
        "</s>\n<|assistant|>\n",
        adds=True,
        metaspace=True,
    ),
}
WITHOUT_SDPA = ("gemma2", "gpt-oss")  # as transformers has them
TEXT = (
    "What is 12 + 30? Let's think step by step. 12 + 30 is 42. Answer: 42\nuser assistant system model\n"
    " 6 + 2 + 9 + 1 mod 10\nAnswer: 8\n 12 12 12 42 42 30 30 the sum is\n12\n12\n12\n analysis final Reasoning:\n"
)
# How Qwen's tokenizers part a text, and nearly so those of Llama 3 and gpt-oss: a line break may join what it follows.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
every_family = pytest.mark.parametrize("name", FAMILIES)
QUESTIONS = Questions()
QUESTIONS.add(
    "q",
    [Piece("What is "), Piece("12", "operand.1"), Piece(" + "), Piece("30", "operand.2"), Piece("?")],
    "42",
    cot=" 12 + 30 is 42.",
)
QUESTION = QUESTIONS.problems(1)[0]


def tokenizer_of(family: Family) -> Any:
    """A BPE trained on a few lines, byte-level or in SentencePiece's manner, with a family's marks as single ids."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys([*([family.bos] if family.bos else []), family.eos, *family.marks, "<pad>"]))
    options: dict[str, Any] = {"show_progress": False, "max_token_length": 8}
    if family.metaspace:
        special += ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        back = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(back)
        # Line breaks are bytes in such a vocabulary, and so in no text that it is trained on.
        texts = TEXT.split("\n") * 4
        trainer = trainers.BpeTrainer(vocab_size=len(special) + 100, special_tokens=special, **options)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.NFC()
        parts = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
        bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([parts, bytewise])
        tokenizer.decoder = decoders.ByteLevel()
        texts = [TEXT] * 4
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=alphabet, **options)
    tokenizer.train_from_iterator(texts, trainer)
    if family.adds and family.bos:
        pair = [(family.bos, tokenizer.token_to_id(family.bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=pair)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token="<pad>",
        unk_token="<unk>" if family.metaspace else None,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = family.template
    return wrapped


@pytest.fixture(scope="module")
def model_of(random_module: Callable[..., Any]) -> Callable[[str], Any]:
    """A tiny random model of a family, with its tokenizer and the format that `load` finds."""
    known: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in known:
            tokenizer = tokenizer_of(FAMILIES[name])
            module = random_module(FAMILIES[name].kind, tokenizer, layers=2, max_position_embeddings=1024)
            known[name] = load(module, tokenizer=tokenizer)
        return known[name]

    return get


@every_family
def test_auto_finds_the_format_of_the_family(name: str, model_of: Callable[[str], Any]) -> None:
    assert model_of(name).format == FORMATS[FAMILIES[name].format]


@every_family
@pytest.mark.parametrize("mode", MODES)
def test_the_ids_are_those_of_the_whole_text_tokenized_once(
    name: str, mode: Any, model_of: Callable[[str], Any]
) -> None:
    model, family = model_of(name), FAMILIES[name]
    after = family.cot if mode == "cot" else family.direct
    text = family.before + QUESTION.prompt + after
    segment = render_prompt(model.tokenizer, model.format, QUESTION, mode)
    assert list(segment.ids) == model.tokenizer(text, add_special_tokens=False)["input_ids"]
    shown = {part: decode(model.tokenizer, segment.ids[slice(*span)]) for part, span in segment.spans.items()}
    assert shown["operand.1"].strip() == "12" and shown["operand.2"].strip() == "30"
    assert shown["prompt"] == family.before + QUESTION.prompt
    assert shown["open"].lstrip(" ") == after.lstrip(" ")  # a decoder of this kind drops a space at the start
    assert segment.spans["prompt"][1] == segment.spans["open"][0] and segment.spans["open"][1] == len(segment.ids)


@every_family
def test_the_text_is_the_one_that_transformers_renders(name: str, model_of: Callable[[str], Any]) -> None:
    family, tokenizer = FAMILIES[name], model_of(name).tokenizer
    messages = [{"role": "user", "content": QUESTION.prompt}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, found, after = whole.partition(QUESTION.prompt)
    assert found and family.cot.startswith(after) and family.direct.startswith(after)
    dated = "strftime_now" in family.template
    assert (before == family.before) is not dated  # today is no day of our prompts


@every_family
@pytest.mark.parametrize("mode", MODES)
def test_one_bos_or_none_as_the_template_has_it(name: str, mode: Any, model_of: Callable[[str], Any]) -> None:
    model, family = model_of(name), FAMILIES[name]
    ids = render_prompt(model.tokenizer, model.format, QUESTION, mode).ids
    if family.bos is not None and family.before.startswith(family.bos):
        assert [at for at, token in enumerate(ids) if token == model.tokenizer.bos_token_id] == [0]
    else:
        assert model.tokenizer.bos_token_id not in ids
    # The gate warns where the tokenizer would add one and the template does not, as in Zephyr.
    assert bos_count(model, [ids]) == (0 if name == "zephyr" else 1)


@every_family
@pytest.mark.parametrize("mode", MODES)
def test_marks_are_single_ids_wherever_they_stand(name: str, mode: Any, model_of: Callable[[str], Any]) -> None:
    model, family = model_of(name), FAMILIES[name]
    run = (
        replay(model, [QUESTION], [" 12 + 30 is 42."])[0]
        if mode == "cot"
        else generate(model, [QUESTION], mode, max_answer_tokens=2)[0]
    )
    stop = run.spans["cue"][1]
    text = (
        family.before + QUESTION.prompt + (family.cot if mode == "cot" else family.direct) + model.format.cue_of(mode)
    )
    for mark in family.marks:
        token = model.tokenizer.convert_tokens_to_ids(mark)
        assert run.ids[:stop].count(token) == text.count(mark)
        assert tokenize(model.tokenizer, [Piece(mark)]).ids == (token,)


@every_family
def test_the_parts_of_a_run_follow_each_other(name: str, model_of: Callable[[str], Any]) -> None:
    model = model_of(name)
    problems = [QUESTION, *ModularSum().problems(3)]
    runs = [
        *generate(model, problems, max_new_tokens=5, max_answer_tokens=3),
        *generate(model, problems, "answer-only", max_answer_tokens=3),
        *replay(model, problems, [" 6 8 42."] * 4, max_answer_tokens=3),
    ]
    for run in runs:
        parts = [run.spans[part] for part in ("prompt", "open", "cot", "cue", "answer") if part in run.spans]
        assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
        assert parts[-1][1] == len(run.ids)
        cue = decode(model.tokenizer, run.tokens("cue"))
        assert cue == model.format.cue_of(run.mode)


@every_family
def test_a_saved_folder_loads_in_bfloat16(name: str, model_of: Callable[[str], Any], tmp_path: Path) -> None:
    model = model_of(name)
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    attention = "eager" if FAMILIES[name].kind in WITHOUT_SDPA else "sdpa"
    again = load(tmp_path, dtype="bfloat16", device_map="cpu", attention=attention)
    assert (again.identity()["dtype"], again.identity()["attention"]) == ("bfloat16", attention)
    assert again.format == model.format
    run = generate(again, [QUESTION], max_new_tokens=4, max_answer_tokens=2)[0]
    assert run.ids[: run.spans["open"][1]] == render_prompt(model.tokenizer, model.format, QUESTION, "cot").ids


@pytest.mark.parametrize("name", ["mistral", "phi-3", "zephyr"])
@pytest.mark.parametrize("text", ["\nAnswer:", " 8 42", "8 42", "\n"])
def test_a_text_that_goes_on_begins_with_no_space_of_the_tokenizers_own(
    name: str, text: str, model_of: Callable[[str], Any]
) -> None:
    tokenizer = model_of(name).tokenizer
    alone = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert alone != tokenizer("12" + text, add_special_tokens=False)["input_ids"][-len(alone) :] or text == " 8 42"
    ids = tokenize(tokenizer, [Piece(text)]).ids
    whole = tokenizer("\n" + text, add_special_tokens=False)["input_ids"]
    assert list(ids) == whole[-len(ids) :] and decode(tokenizer, whole[: -len(ids)]) == "\n"


class TestReasoning:
    @pytest.mark.parametrize("name", ["r1-qwen", "r1-llama", "qwen3"])
    def test_an_answer_only_run_holds_one_empty_thought(self, name: str, model_of: Callable[[str], Any]) -> None:
        model = model_of(name)
        run = generate(model, [QUESTION], "answer-only", max_answer_tokens=2)[0]
        shown = decode(model.tokenizer, run.ids[: run.spans["cue"][1]])
        assert shown.endswith("<think>\n\n</think>\n\nAnswer:") and shown.count("<think>") == 1

    def test_harmony_goes_from_the_analysis_to_the_final_channel(self, model_of: Callable[[str], Any]) -> None:
        model = model_of("gpt-oss")
        run = replay(model, [QUESTION], [" 12 + 30 is 42."])[0]
        assert decode(model.tokenizer, run.ids[: run.spans["cue"][1]]).endswith(
            "<|start|>assistant<|channel|>analysis<|message|> 12 + 30 is 42."
            "<|end|><|start|>assistant<|channel|>final<|message|>Answer:"
        )
        direct = generate(model, [QUESTION], "answer-only", max_answer_tokens=2)[0]
        assert decode(model.tokenizer, direct.ids[: direct.spans["cue"][1]]).endswith(
            "12 + 30?<|end|><|start|>assistant<|channel|>final<|message|>Answer:"
        )

    def test_a_thought_ends_at_its_mark(self, model_of: Callable[[str], Any]) -> None:
        for name, mark in (("gpt-oss", "<|end|>"), ("qwen3", "</think>"), ("r1-llama", "</think>")):
            model = model_of(name)
            written = model.tokenizer(f" 12 is 42.{mark} 30", add_special_tokens=False)["input_ids"]
            [ids] = until_stop(model, [written], model.format.close)
            assert decode(model.tokenizer, ids) == " 12 is 42."

    def test_a_template_that_closes_the_thought_is_no_thinking_format(self, model_of: Callable[[str], Any]) -> None:
        silent = {"enable_thinking": False}
        model = model_of("qwen3").with_format(template=silent)
        for mode in MODES:
            with pytest.raises(InputError) as error:
                render_prompt(model.tokenizer, model.format, QUESTION, mode)
            for part in ("closes the reasoning itself", "'</think>'", "format='chat'"):
                assert part in str(error.value)
        chat = render_prompt(model.tokenizer, replace(FORMATS["chat"], template=silent), QUESTION, "cot")
        assert decode(model.tokenizer, chat.ids).endswith("<think>\n\n</think>\n\nLet's think step by step.\n")

    def test_a_template_may_open_the_thought_without_a_line_break(self, model_of: Callable[[str], Any]) -> None:
        model = model_of("r1-qwen")
        tokenizer = tokenizer_of(FAMILIES["r1-qwen"])
        tokenizer.chat_template = R1.replace("<think>\\n", "<think>")
        for mode in MODES:
            ids = render_prompt(tokenizer, model.format, QUESTION, mode).ids
            assert ids == render_prompt(model.tokenizer, model.format, QUESTION, mode).ids


class TestArguments:
    def test_arguments_reach_the_template(self, model_of: Callable[[str], Any]) -> None:
        low = model_of("gpt-oss").with_format(template={"reasoning_effort": "low"})
        assert "Reasoning: low\n" in decode(
            low.tokenizer, render_prompt(low.tokenizer, low.format, QUESTION, "cot").ids
        )
        assert low.identity()["format"]["template"] == {"reasoning_effort": "low"}

    def test_an_argument_that_the_template_does_not_know_is_refused(self, model_of: Callable[[str], Any]) -> None:
        model = model_of("qwen3").with_format(template={"enable_thinkin": False})
        with pytest.raises(InputError, match=r"^template: the chat template does not know 'enable_thinkin'$"):
            generate(model, [QUESTION])

    def test_an_argument_of_the_wrong_kind_is_refused(self, model_of: Callable[[str], Any]) -> None:
        model = model_of("gpt-oss").with_format(template={"reasoning_effort": 3})
        with pytest.raises(InputError, match=r"the chat template refuses what it is given \(.*\): change `template`"):
            generate(model, [QUESTION])

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("llama-3", "2024\n\nBe brief.<|eot_id|>"),
            ("qwen2.5", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"),
            ("qwen3", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"),
            ("gemma-3", "<bos><start_of_turn>user\nBe brief.\n\nWhat is 12"),
            ("phi-3", "<|system|>\nBe brief.<|end|>\n<|user|>\n"),
            ("olmo-2", "<|endoftext|><|system|>\nBe brief.\n<|user|>\n"),
            ("gpt-oss", "<|start|>developer<|message|># Instructions\n\nBe brief.\n\n<|end|>"),
            ("r1-qwen", R1_BOS + "Be brief.<\uff5cUser\uff5c>"),
            ("zephyr", "<|system|>\nBe brief.</s>\n<|user|>\n"),
        ],
    )
    def test_a_system_message_stands_where_the_template_puts_it(
        self, name: str, shown: str, model_of: Callable[[str], Any]
    ) -> None:
        model = model_of(name).with_format(system="Be brief.")
        segment = render_prompt(model.tokenizer, model.format, QUESTION, "cot")
        text = decode(model.tokenizer, segment.ids)
        assert shown in text and "created by Alibaba" not in text
        assert segment.spans["prompt"][0] == 0

    @pytest.mark.parametrize("name", ["gemma-2", "mistral"])
    def test_a_template_without_a_system_role_says_so(self, name: str, model_of: Callable[[str], Any]) -> None:
        model = model_of(name).with_format(system="Be brief.")
        with pytest.raises(InputError) as error:
            generate(model, [QUESTION])
        assert "the chat template refuses what it is given" in str(error.value)
        assert "begin the question with the system message instead" in str(error.value)

    def test_a_system_message_that_is_left_out_is_an_error(self) -> None:
        tokenizer = tokenizer_of(FAMILIES["qwen3"])
        tokenizer.chat_template = (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
        )
        with pytest.raises(InputError, match="leaves out the system message"):
            render_prompt(tokenizer, Format(chat=True, system="Be brief."), QUESTION, "cot")

    def test_the_clock_of_a_template_stands_still(self, model_of: Callable[[str], Any]) -> None:
        for name, day in (("llama-3", "Today Date: 02 Jan 2031\n"), ("gpt-oss", "Current date: 2031-01-02\n")):
            model = model_of(name).with_format(date="2031-01-02")
            assert day in decode(model.tokenizer, render_prompt(model.tokenizer, model.format, QUESTION, "cot").ids)
        model = model_of("llama-3").with_format(template={"date_string": "1 May"})
        assert "Date: 1 May\n" in decode(
            model.tokenizer, render_prompt(model.tokenizer, model.format, QUESTION, "cot").ids
        )

    def test_a_prompt_keeps_the_space_that_a_template_would_trim(self, model_of: Callable[[str], Any]) -> None:
        task = Questions()
        task.add("q", [Piece("  12 ", "a"), Piece("+ 30  ", "b")], "42")
        for name in ("llama-3", "gemma-2"):
            model = model_of(name)
            segment = render_prompt(model.tokenizer, model.format, task.problems(1)[0], "cot")
            assert "\n  12 + 30  <" in decode(model.tokenizer, segment.ids)

    def test_a_chat_needs_a_template(self, word_tokenizer: Any) -> None:
        with pytest.raises(InputError) as error:
            render_prompt(word_tokenizer, FORMATS["chat"], ModularSum().problems(1)[0], "cot")
        assert "this tokenizer has no chat template: give format='plain'" in str(error.value)
