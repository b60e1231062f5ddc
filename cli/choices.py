"""The values that options take, by name, and how a shell completes them: without loading what torch stands behind.

Tests hold every list against the library's own.
"""

from collections.abc import Callable, Iterable
from importlib.resources import files

ATTENTION = ("eager", "sdpa")
BASELINES = ("neutral", "mean", "zero")
COTS = ("model", "task")
STUDY_COTS = (*COTS, "given")
DIRECTIONS = ("denoising", "noising")
ACROSS = ("into-answer-only", "into-cot")
DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")
EACH = ("all", "layer", "head")
ENGINES = ("local", "ray")
FINDS = ("leace", "means", "das")
FORMATS = ("auto", "plain", "chat", "think", "harmony")
HOW = ("renormalise", "zero")
KEEP = ("all", "correct")
METHODS = ("exact", "gradient", "auto")
METRICS = ("log-odds", "logit-difference", "log-probability", "kl")
MODES = ("answer-only", "cot")
RECEIVERS = ("logits", "q", "k", "v", "mlp")
SENDERS = ("head", "attn", "mlp", "embed")
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
PATCHED = (*SITES, "z", "q", "k", "v", "pattern", "neurons")
STEPS = (
    "doctor",
    "channels",
    "copies",
    "ablation",
    "errors",
    "ledger",
    "behaviour",
    "decodability",
    "beyond",
    "commitment",
    "patch",
)
TAMPERINGS = ("truncated", "content-free", "filler", "mistake", "shuffled", "repeated")
TARGETS = ("onset", "answer", "step.1")  # and so on
TASKS = ("modular-sum", "modular-program", "permutations", "pointers", "addition", "copy", "word-problems")
FILES = ("jsonl:", "dataset:", "inspect:")  # and a path
TEXTS = ("filler", "shuffled", "repeated")
UNITS = ("component", "head", "neuron")

Completion = Callable[[str], list[str]]


def among(names: Iterable[str]) -> Completion:
    """What completes one of the names.

    >>> among(MODES)("a")
    ['answer-only']
    """

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def joined(names: Completion) -> Completion:
    """What completes the last of names that are joined with commas, each at most once.

    >>> joined(among(MODES))("cot,")
    ['cot,answer-only']
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names(last) if name not in before.split(",")]

    return complete


def organisms(incomplete: str) -> list[str]:
    """Names of organisms: those of the folders that come with the package."""
    shipped = files("loadbearing") / "organisms" / "shipped"
    return among(sorted(folder.name for folder in shipped.iterdir() if folder.is_dir()))(incomplete)


def models(incomplete: str) -> list[str]:
    """`organism:NAME`; where that is not meant there is nothing, and shells go on with folders."""
    return among(f"organism:{name}" for name in organisms(""))(incomplete)
