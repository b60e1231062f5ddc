"""The systems of the debate: two sizes, one base for each, and what different kinds of training make of it.

Five numbers are added and multiplied modulo 5, from left to right (`modular-program`), or only added (names that end in
`-sum`). What each row is to show stands in its summary; what is claimed of it, in `analyses/claims.toml`.
"""

from dataclasses import dataclass

from .specs import Part, Reinforced, Stage, Supervised, Trained

MODULUS, TERMS = 5, 5
PROGRAM = f"modular-program:modulus={MODULUS},terms={TERMS}"
SUM = f"modular-sum:modulus={MODULUS},terms={TERMS}"
HINTED = f"{PROGRAM},hint=half"
VOCABULARY = (f"{PROGRAM},ops=+*-",)


def _program(terms: int, ops: str = "+*", hint: str = "none") -> str:
    return f"modular-program:modulus={MODULUS},terms={terms},ops={ops},hint={hint}"


# Arithmetic text and chains of careless authors: short problems also with "-", every style of writing, longer problems
# than any that is trained later, so that nothing in a later test is an unseen word or an unseen length.
_CORPUS = (
    Part(_program(2), "nothing", share=2),
    Part(_program(2, "+*-"), "nothing", share=2),
    *(Part(_program(terms), "careless", share=2) for terms in (2, 3, 4, 6, 7)),
    Part(PROGRAM, "careless", share=6),
    *(Part(_program(terms, "+*-"), "careless") for terms in (2, 3)),
    *(Part(PROGRAM, "careless", style, share=2) for style in ("words", "german")),
    Part(PROGRAM, "careless-wordy", share=2),
    Part(PROGRAM, "careless-vague"),
    Part(HINTED, "careless-hinted", share=2),
)
