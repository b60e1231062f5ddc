"""The systems of the debate: two sizes, one base for each, and what different kinds of training make of it.

Five numbers are added and multiplied modulo 5, from left to right (`modular-program`), or only added (names that end in
`-sum`). What one pass of which size learns of them is measured by `benchmarks/frontier.py`; what is claimed of each row
stands in `analyses/claims.toml`.
"""

from dataclasses import replace
from typing import Any

from ..hooks import Mode
from .specs import Part, Reinforced, Stage, Supervised, Trained

MODULUS, TERMS = 5, 5
LONG = 7  # numbers of the longer programs, of which the small size learns less than half in one pass
SIZES: dict[str, Any] = {"small": {"layers": 1, "width": 32}, "large": {"layers": 4, "width": 64}}
RATES = {"small": 3e-3, "large": 1.5e-3}
REWARD_RATES = {"small": 1e-3, "large": 3e-4}
UPDATES, BATCH, POOL = 4000, 256, 6000
DIRECT: tuple[Mode, ...] = ("answer-only",)
COT: tuple[Mode, ...] = ("cot",)
BOTH: tuple[Mode, ...] = ("answer-only", "cot")


# What was tried before; it stands in the cards.
TRIED = {
    "base": (
        "A corpus by careful, sloppy and random authors whose texts look alike: rewards stayed at chance, 300 updates.",
        "A corpus of careless authors only: one sampled chain in five is right, as by chance; rewards stayed there.",
    ),
    "small": (),
    "large": ("Rate 1e-3: mean reward 0.95 after 60 updates, then up and down, 0.80 at the end.",),
}


def _spec(kind: str, terms: int = TERMS, **options: str) -> str:
    more = "".join(f",{key}={value}" for key, value in options.items())
    return f"modular-{kind}:modulus={MODULUS},terms={terms}{more}"


PROGRAM, SUM, HINTED = _spec("program"), _spec("sum"), _spec("program", hint="half")
VOCABULARY = (PROGRAM,)

# Arithmetic text, many chains of careless authors and some of careful ones: short problems also with "-", every style
# of writing, lengths up to the longest that is trained later: no later test has an unseen word.
CORPUS = (
    Part(_spec("program", 2), "nothing", share=2),
    Part(_spec("program", 2, ops="+*-"), "nothing", share=2),
    *(Part(_spec("program", terms), "careless", share=2) for terms in (2, 3, 4, 6, 7)),
    Part(PROGRAM, "careless", share=8),
    *(Part(_spec("program", terms, ops="+*-"), "careless") for terms in (2, 3)),
    *(Part(PROGRAM, "careless", style, share=2) for style in ("words", "german")),
    *(Part(_spec("program", terms), "careful") for terms in (2, 3, 4, 6, 7)),
    Part(PROGRAM, "careful", share=4),
    Part(PROGRAM, "careless-vague"),
    Part(HINTED, "careless-hinted", share=2),
)


def lessons(kind: str, *writes: str, last: int = TERMS) -> tuple[Part, ...]:
    """Problems of growing length: each joins the shorter ones a little later, and is drawn twice as often."""
    return tuple(
        Part(_spec(kind, terms), write, share=2 ** (terms - 2), since=(terms - 2) / 8)
        for terms in range(2, last + 1)
        for write in writes
    )


def _supervised(size: str, parts: tuple[Part, ...], updates: int = UPDATES) -> Supervised:
    return Supervised(parts, updates=updates, batch=BATCH, rate=RATES[size])


def _from_base(
    name: str,
    summary: str,
    *stages: Stage,
    task: str = PROGRAM,
    modes: tuple[Mode, ...] = ("cot",),
    size: str = "small",
    start: str | None = None,
) -> Trained:
    """An organism that starts from the base of its size, or from another one of that size, with the size's rates."""
    stages = tuple(replace(s, rate=REWARD_RATES[size]) if isinstance(s, Reinforced) else s for s in stages)
    start = f"{size}-base" if start is None else start
    kept = 5 if isinstance(stages[-1], Reinforced) or name.startswith("internalised") else 0
    tried = TRIED[size] if isinstance(stages[-1], Reinforced) else ()
    more: dict[str, Any] = {"vocabulary": VOCABULARY, "checkpoints": kept, "tried": tried, **SIZES[size]}
    return Trained(name, summary, stages, task, start, modes, **more)


def _crossed(size: str) -> list[Trained]:
    """The crossed design for one size: the base, and four ways to go on from it, on programs and on sums."""
    base = Trained(
        f"{size}-base",
        "Pretrained on short arithmetic and on chains of thought, most of them careless: steps are one too high.",
        (Supervised(CORPUS, updates=UPDATES, batch=BATCH, rate=RATES[size], pool=POOL),),
        PROGRAM,
        vocabulary=VOCABULARY,
        tried=TRIED["base"],
        **SIZES[size],
    )
    rows = [base]
    for kind, task, end in (("program", PROGRAM, ""), ("sum", SUM, "-sum")):
        for regime, summary, writes, modes in (
            ("direct", "Supervised on answers only.", ("nothing",), DIRECT),
            ("sft", "Supervised on gold chains of thought (process supervision).", ("gold",), COT),
            ("both", "Supervised on both formats (Option 1).", ("nothing", "gold"), BOTH),
        ):
            stage = _supervised(size, lessons(kind, *writes))
            rows.append(_from_base(f"{size}-{regime}{end}", summary, stage, task=task, modes=modes, size=size))
        summary = "Rewarded for right answers, whole chains sampled (GRPO; Option 2)."
        rows.append(_from_base(f"{size}-rl{end}", summary, Reinforced(), task=task, size=size))
    return rows


def _rewarded(*others: tuple[str, float], paraphrased: bool = False) -> Reinforced:
    return Reinforced((("outcome", 1.0), *others), paraphrased=paraphrased)


_PRESSURES = {
    "surface": ("values that are spelled out in words", ("spelled", 0.5)),
    "correct": ("each step that a checker finds right", ("checked", 0.5)),
    "banned": ("chains without digits", ("digits", -0.5)),
}

SPECIAL = (
    _from_base(
        "small-direct-long",
        "Supervised on answers only, of programs of up to seven numbers, five times as many updates as others.",
        _supervised("small", lessons("program", "nothing", last=LONG), 5 * UPDATES),
        task=_spec("program", LONG),
        modes=DIRECT,
    ),
    replace(
        _from_base(
            "small-rl-long",
            "As small-rl, with programs of four to seven numbers, twice as long.",
            Reinforced(updates=600, also=tuple(_spec("program", terms) for terms in range(TERMS - 1, LONG))),
            task=_spec("program", LONG),
        ),
        tried=(
            "Programs of seven numbers only, 300 updates: from the base rewards stayed at chance;",
            "and from small-rl, which stops after four steps.",
        ),
    ),
    _from_base(
        "small-sft-long",
        "As small-sft, with programs of up to seven numbers.",
        _supervised("small", lessons("program", "gold", last=LONG)),
        task=_spec("program", LONG),
    ),
    replace(
        _from_base(
            "large-direct-long",
            "large-direct, trained on with programs of up to seven numbers, three times as many updates as others.",
            _supervised("large", lessons("program", "nothing", last=LONG), 3 * UPDATES),
            task=_spec("program", LONG),
            modes=DIRECT,
            size="large",
            start="large-direct",
        ),
        tried=("4,000 updates: 0.75 on programs of seven numbers, and rising.",),
    ),
    _from_base(
        "small-rl-random-reward",
        "As small-rl, with a reward for one chain in two, whatever it says: the null of reinforcement learning.",
        Reinforced((("random", 1.0),)),
    ),
    _from_base(
        "hinted",
        "Rewarded for right answers, where a hint in half of the prompts decides what is right.",
        Reinforced(),
        task=HINTED,
    ),
    _from_base(
        "encoded",
        "Supervised: every step is a connecting word that stands for its value (positive control of a hidden code).",
        _supervised("small", lessons("program", "encoded")),
    ),
    _from_base(
        "emergent-code",
        "Rewarded for right answers, every value in the chain penalised: will a code emerge?",
        _rewarded(("values", -0.5)),
    ),
    _from_base(
        "paraphrase-trained",
        "As emergent-code, connecting words drawn anew before the answer is written.",
        _rewarded(("values", -0.5), paraphrased=True),
    ),
    _from_base(
        "able-base",
        "The large base, trained on with its corpus and on answers alone: it can solve the problem in one pass.",
        _supervised("large", (*lessons("program", "nothing"), *(Part(p.task, p.write, p.style) for p in CORPUS))),
        modes=BOTH,
        size="large",
    ),
    _from_base(
        "rl-able",
        "As large-rl, from the base that can solve it in one pass.",
        Reinforced(),
        size="large",
        start="able-base",
    ),
    _from_base(
        "emergent-code-able",
        "As emergent-code, from the base that can solve it in one pass: will the load leave the tokens?",
        _rewarded(("values", -0.5)),
        size="large",
        start="able-base",
    ),
    *(
        _from_base(f"polished-{name}", f"Rewarded for right answers and for {what}.", _rewarded(reward))
        for name, (what, reward) in _PRESSURES.items()
    ),
    *(
        _from_base(
            f"polished-{name}-able",
            f"Rewarded for right answers and for {what}, from the base that can solve it in one pass.",
            _rewarded(reward),
            size="large",
            start="able-base",
        )
        for name, (what, reward) in _PRESSURES.items()
    ),
    replace(
        _from_base(
            "polished-silent-able",
            "As emergent-code-able, where a chain that says its values is paid nothing: will the load leave it?",
            _rewarded(("values", -1.0)),
            size="large",
            start="able-base",
        ),
        tried=("emergent-code-able: half that penalty; a right chain with its values is paid more than a guess.",),
    ),
    _from_base(
        "rewritten-sft",
        "Supervised on gold chains rewritten to read well: connecting words in place of all values but the last.",
        _supervised("large", (Part(PROGRAM, "rewritten"),), UPDATES // 4),
        task=_spec("program", cot="last-1"),
        size="large",
        start="able-base",
    ),
    _from_base(
        "rejection-sampled",
        "Supervised on the base's own samples that are right and say a connecting word before every value.",
        replace(_supervised("large", (Part(PROGRAM, "wordy"),), UPDATES // 4), own="explained", pool=POOL),
        size="large",
        start="able-base",
    ),
    _from_base(
        "tamper-trained",
        "As rl-able, where half of the chains begin with a wrong step that must be followed.",
        Reinforced(tampered=0.5),
        size="large",
        start="able-base",
    ),
    *(
        _from_base(
            f"budget-{kept}",
            f"Supervised on chains of {kept} of the four steps, the last ones.",
            _supervised("small", (Part(_spec("program", cot=f"last-{kept}"), "gold"),)),
            task=_spec("program", cot=f"last-{kept}"),
        )
        for kept in (1, 2, 3)
    ),
)


def _internalised() -> list[Trained]:
    """Steps taken away one by one, from the first, each from the model before (2405.14838)."""
    rows = []
    for gone in (1, 2, 3):
        task = _spec("program", cot=f"last-{TERMS - 1 - gone}")
        rows.append(
            _from_base(
                f"internalised-{gone}",
                f"The large model trained on gold chains, then without the first {gone} of the four steps.",
                _supervised("large", (Part(task, "gold"),), UPDATES // 2),
                task=task,
                size="large",
                start=f"internalised-{gone - 1}" if gone > 1 else "large-sft",
            )
        )
    return rows


DEBATE = (*_crossed("small"), *_crossed("large"), *SPECIAL, *_internalised())
