"""The organisms whose channels are known: trained on sums by construction of their examples, or set by hand."""

from .specs import HandSet, Part, Supervised, Trained

SUM = "modular-sum"


def _parts(*writes: str) -> tuple[Part, ...]:
    return tuple(Part(SUM, write) for write in writes)


TRAINED = (
    Trained(
        "direct",
        "Answers only: the sum is computed in one pass.",
        (Supervised(_parts("nothing"), easy=0.5),),
        SUM,
        modes=("answer-only",),
    ),
    Trained(
        "sft",
        "Supervised on gold chains of thought (partial sums).",
        (Supervised(_parts("gold"), updates=800, easy=0.5),),
        SUM,
    ),
    Trained(
        "both",
        "Supervised on answers only and on gold chains of thought, in equal parts.",
        (Supervised(_parts("nothing", "gold"), easy=0.5),),
        SUM,
        modes=("answer-only", "cot"),
    ),
    Trained(
        "post-hoc",
        "Writes random digits, then the right answer: a chain of thought that carries nothing.",
        (Supervised(_parts("random"), easy=0.5, silent=0.7),),
        SUM,
    ),
    Trained(
        "filler",
        "Writes a dot in place of every step, then the answer.",
        (Supervised(_parts("dots"), easy=0.5),),
        SUM,
    ),
)

_VALUE = {"vary": "value", "cot": "task", "target": "answer"}
_ALL = {"vary": "all", "cot": "task", "target": "answer"}
HANDSET = (
    HandSet(
        "copy-direct",
        "The answer's position reads the value from the prompt.",
        "copy:cot=independent",
        ("prompt",),
        _VALUE,
        {"direct": 1.0, "relay": 0.0, "tokens": 0.0},
    ),
    HandSet(
        "copy-relay",
        "The CoT's position copies the value into its state; the answer's position reads that state.",
        "copy:cot=independent",
        ("relay",),
        _VALUE,
        {"direct": 0.0, "relay": 1.0, "tokens": 0.0},
    ),
    HandSet(
        "copy-tokens",
        "The answer's position reads the CoT's token.",
        "copy",
        ("token",),
        {"vary": "value", "cot": "model", "target": "answer"},
        {"direct": 0.0, "relay": 0.0, "tokens": 1.0},
    ),
    HandSet(
        "copy-sum",
        "The answer is the prompt's value plus the CoT's token: both wires are needed.",
        "copy:cot=independent,answer=sum",
        ("sum",),
        _ALL,
        {"direct": 0.5, "relay": 0.0, "tokens": 0.5},
    ),
    HandSet(
        "copy-redundant",
        "The answer's position reads the value from the prompt and from the CoT's token: either suffices.",
        "copy",
        ("prompt", "token"),
        _ALL,
        {"direct": 0.5, "relay": 0.0, "tokens": 0.5},
    ),
)
