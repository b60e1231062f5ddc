"""The commands: each is a thin layer over one function of the library, with a line of help and an example here."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from . import makers
from .carrying import ablation, behaviour, channels, ledger
from .reading import beyond, circularity, commitment, decodability, errors, monitor
from .record import record
from .report import report
from .studying import doctor, study
from .where import across, attribution, knockout, patch, paths, subspace

SFT, DIRECT, COPY = (f"--model organism:{name}" for name in ("sft", "direct", "copy-direct"))
# Panels of the help: in each the commands, a line that fits the screen, and an example that runs in seconds.
COMMANDS: dict[str, list[tuple[Callable[..., None], str, str]]] = {
    "What carries the answer": [
        (channels, "How much goes direct, by relay, and by tokens", f"{SFT} --pairs 8"),
        (ablation, "What is lost when a wire is set to nothing", f"{SFT} --problems 16"),
        (ledger, "Who computed each step", f"{SFT} --problems 16"),
        (behaviour, "What becomes of the answer when the text is altered", f"{SFT} --tamperings mistake"),
    ],
    "What can be read": [
        (decodability, "What a linear probe reads, where, in bits", f"{DIRECT} --problems 100"),
        (beyond, "What the state knows that the text does not say yet", f"{SFT} --problems 40"),
        (commitment, "When the answer is settled", f"{SFT} --problems 40 --parts 2"),
        (circularity, "Whether a number is held on a line or on circles", f"{COPY} --problems 12"),
        (errors, "Where errors show, on easy and on harder problems", f"{SFT} --problems 32"),
        (monitor, "Whether the text alone tells the answer and its cause", "--model organism:hinted --problems 32"),
    ],
    "Where it is": [
        (patch, "The layer x position map of a site, or of each head", f"{DIRECT} --pairs 4"),
        (knockout, "What is lost when positions cannot read others", f"{SFT} --each layer --problems 8"),
        (subspace, "Whether the answer moves with what a probe reads", f"{DIRECT} --pairs 4"),
        (across, "Whether a state that reasoned answers in another run", f"{SFT} --problems 8"),
        (paths, "Which part speaks to which directly", f"{DIRECT} --from mlp --pairs 4"),
        (attribution, "What each part adds to the logits directly", f"{DIRECT} --pairs 4"),
    ],
    "Studies, stores, models": [
        (study, "Measure a model of yours, or those of the debate", f"{SFT} --only errors --out my-study"),
        (report, "One HTML page of a study, with single problems", "my-study"),
        (record, "Let a model write, and keep its runs and states", f"{SFT} --problems 16 --out store"),
        (doctor, "Every gate on a model: measured, limit, verdict", SFT),
    ],
}
ORGANISMS: list[tuple[str, Callable[..., None], str, str]] = [
    ("list", makers.list_organisms, "Every organism: where it is, its accuracy, what it is", ""),
    ("show", makers.show_organism, "The card of an organism", "sft"),
    ("train", makers.train_organism, "Make an organism from its recipe", "copy-tokens --out my-organism"),
    ("train-all", makers.train_organisms, "Make many, with many seeds, into the cache", "--names sft --seeds 1-4"),
    ("history", makers.draw_history, "Shares and accuracies along a training", "small-rl --seed 1 --out history"),
]


class Contents(TyperGroup):
    """The group of all commands, with shorter words for typer's own options: its help is to fit a screen."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options, as typer has them, in our words."""
        ours = {"install_completion": "Let the tab key complete words.", "show_completion": "Print what would do that."}
        found: list[Any] = super().get_params(ctx)
        for option in found:
            option.help = ours.get(option.name, option.help)
        return found


class Command(TyperCommand):
    """One command; the bars of transformers are turned off when it runs, since its help is to load nothing."""

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        from transformers.utils import logging

        logging.disable_progress_bar()
        return super().invoke(ctx)


app = typer.Typer(cls=Contents, no_args_is_help=True, pretty_exceptions_enable=False)
organisms = typer.Typer(no_args_is_help=True, help="The small models whose mechanism is known.")


@app.callback()
def loadbearing() -> None:
    """How much of the answer is computed in one pass, how much do tokens carry?"""


def _add(to: typer.Typer, words: str, command: Callable[..., None], short: str, example: str, **options: Any) -> None:
    epilog = f"Example: loadbearing {words} {example}".rstrip()
    to.command(words.split()[-1], cls=Command, short_help=short, epilog=epilog, **options)(command)


for panel, commands in COMMANDS.items():
    for command, short, example in commands:
        _add(app, command.__name__, command, short, example, rich_help_panel=panel)
for name, command, short, example in ORGANISMS:
    _add(organisms, f"organisms {name}", command, short, example)
app.add_typer(
    organisms, name="organisms", short_help="List, show and make the models that come along", rich_help_panel=panel
)
