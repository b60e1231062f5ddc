"""Word-level tokenizers over a task's closed vocabulary."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..hooks import Format
from ..tasks import Task
from .chains import CONNECTIVES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


def build_tokenizer(task: Task, form: Format, others: Sequence[Task] = ()) -> "PreTrainedTokenizerFast":
    """A tokenizer that knows the words of a task and of a format, one token a word, and puts `<bos>` first.

    others: tasks whose words it knows too, in every style, with the words that connect steps

    >>> from loadbearing.organisms.specs import FORMAT
    >>> from loadbearing.tasks import load
    >>> tokenizer = build_tokenizer(load("modular-sum"), FORMAT)
    >>> tokenizer.tokenize("6 + 2 mod 10 think 8", add_special_tokens=True)
    ['<bos>', '6', '+', '2', 'mod', '10', 'think', '8']
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys([*SPECIAL, *task.words(), *form.open.split(), *form.cue.split(), "."])
    if others:
        words |= dict.fromkeys([*(word for other in others for word in other.all_words()), *CONNECTIVES])
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    names = {f"{word[1:-1]}_token": word for word in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)
