"""The commands that list, show and make organisms."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from ..core import InputError, atomic_write
from .options import QuietOption, names_of, print_table

NameArgument = Annotated[str, typer.Argument(help="an organism's name")]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="default: $LOADBEARING_CACHE, or ~/.cache/loadbearing")
]


def list_organisms() -> None:
    """Every organism: where it is, its held-out accuracy, what it is."""
    from .. import hooks, organisms

    rows = []
    for name, spec in organisms.ORGANISMS.items():
        folder = organisms.organism_path(name)
        card = hooks.Card.load(folder) if folder.is_dir() else None
        accuracy = ", ".join(f"{mode} {value:.3f}" for mode, value in card.accuracy.items()) if card else "-"
        where = "shipped" if name in hooks.organism_names() else "in the cache" if card else "not trained"
        rows.append({"name": name, "where": where, "accuracy": accuracy, "summary": spec.summary})
    print_table(pd.DataFrame(rows))


def show_organism(name: NameArgument, cache: CacheOption = None) -> None:
    """The card of an organism: recipe, seed, curve, held-out accuracy."""
    from .. import organisms

    card = organisms.organism_path(name, cache=cache) / "card.json"
    if not card.is_file():
        raise InputError(f"{name} is neither shipped nor in the cache: loadbearing organisms train {name}")
    typer.echo(card.read_text(), nl=False)


def draw_history(
    name: NameArgument,
    out: Annotated[Path, typer.Option("--out", help="figure files of this name, and a .jsonl with the rows")],
    seed: Annotated[int, typer.Option("--seed")] = 0,
    cache: CacheOption = None,
) -> None:
    """Channel shares, serial share and accuracies of an organism along its training, from its checkpoints."""
    from .. import figures, organisms

    rows = organisms.along(name, seed, cache)
    atomic_write(out.with_suffix(".jsonl"), lambda path: rows.to_json(path, orient="records", lines=True))
    for path in figures.save(figures.history({name: rows}), out):
        typer.echo(path)


def train_organism(
    name: NameArgument,
    out: Annotated[Path | None, typer.Option("--out", help="a new folder; default: ./NAME")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="default: that of the shipped one")] = None,
    cache: CacheOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make an organism from its recipe: weights, tokenizer, card in a new folder; what it starts from is made too."""
    from .. import organisms

    folder = out or Path(name)
    card = organisms.train(name, folder, seed=seed, cache=cache, progress=not quiet)
    accuracy = ", ".join(f"{mode} {value:.3f}" for mode, value in card.accuracy.items())
    typer.echo(f"held-out accuracy: {accuracy}\n{folder}")


def train_organisms(
    names: Annotated[str | None, typer.Option("--names", help="joined with commas; default: all")] = None,
    seeds: Annotated[str, typer.Option("--seeds", help='"0", "1,2", "0-4"')] = "0",
    cache: CacheOption = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="default: one a core")] = None,
    quiet: QuietOption = False,
) -> None:
    """Make many organisms, with many seeds, into the cache, going on where the last call stopped."""
    from .. import organisms

    chosen = names_of("--names", names)
    made = organisms.train_all(chosen, _numbers(seeds), cache=cache, workers=workers, progress=not quiet)
    typer.echo(f"{len(made)} organisms in {(cache or organisms.cache_folder()) / 'organisms'}")


def _numbers(text: str) -> list[int]:
    """The numbers of "0-2,5".

    >>> _numbers("0-2,5")
    [0, 1, 2, 5]
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(f"--seeds {text!r}: expected numbers such as 0, 1,2 or 0-4")
        found += range(int(first), int(last if dash else first) + 1)
    return found


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("list")(list_organisms)
    app.command("show")(show_organism)
    app.command("train")(train_organism)
    app.command("train-all")(train_organisms)
    app.command("history")(draw_history)
