"""The commands that list, show and make organisms."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .choices import joined
from .choices import organisms as names_of_organisms
from .options import JsonOption, QuietOption, names_of, print_json, print_table

NameArgument = Annotated[str, typer.Argument(help="an organism's name", autocompletion=names_of_organisms)]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="default: $LOADBEARING_CACHE, or ~/.cache/loadbearing")
]


def list_organisms(as_json: JsonOption = False) -> None:
    """Every organism: where it is, its held-out accuracy, what it is."""
    import pandas as pd

    from .. import hooks, organisms

    rows: list[dict[str, Any]] = []
    for name, spec in organisms.ORGANISMS.items():
        folder = organisms.organism_path(name)
        card = hooks.Card.load(folder) if folder.is_dir() else None
        accuracy = dict(card.accuracy) if card else {}
        where = "shipped" if name in hooks.organism_names() else "in the cache" if card else "not trained"
        rows.append({"name": name, "where": where, "accuracy": accuracy, "summary": spec.summary})
    if as_json:
        print_json({"table": rows})
    else:
        print_table(pd.DataFrame([{**row, "accuracy": _told(row["accuracy"])} for row in rows]))


def show_organism(name: NameArgument, cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """The card of an organism: recipe, seed, curve, held-out accuracy. It is JSON in any case."""
    from .. import organisms
    from ..core import InputError

    card = organisms.organism_path(name, cache=cache) / "card.json"
    if not card.is_file():
        raise InputError(f"{name} is neither shipped nor in the cache: loadbearing organisms train {name}")
    if as_json:
        print_json(json.loads(card.read_text()))
    else:
        typer.echo(card.read_text(), nl=False)


def draw_history(
    name: NameArgument,
    out: Annotated[Path, typer.Option("--out", help="figure files of this name, and a .jsonl with the rows")],
    seed: Annotated[int, typer.Option("--seed", help="of the training")] = 0,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Channel shares, serial share and accuracies of an organism along its training, from its checkpoints."""
    from .. import figures, organisms
    from ..core import atomic_write

    rows = organisms.along(name, seed, cache)
    atomic_write(out.with_suffix(".jsonl"), lambda path: rows.to_json(path, orient="records", lines=True))
    paths = figures.save(figures.history({name: rows}), out)
    if as_json:
        print_json({"table": rows, "figures": list(paths)})
    else:
        typer.echo("\n".join(map(str, paths)))


def train_organism(
    name: NameArgument,
    out: Annotated[Path | None, typer.Option("--out", help="a new folder; default: ./NAME")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="default: that of the shipped one")] = None,
    cache: CacheOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make an organism from its recipe: weights, tokenizer, card in a new folder; what it starts from is made too."""
    from .. import organisms

    folder = out or Path(name)
    card = organisms.train(name, folder, seed=seed, cache=cache, progress=not quiet)
    if as_json:
        print_json({"name": name, "out": folder, "accuracy": card.accuracy})
    else:
        typer.echo(f"held-out accuracy: {_told(card.accuracy)}\n{folder}")


def train_organisms(
    names: Annotated[
        str | None,
        typer.Option("--names", help="joined with commas; default: all", autocompletion=joined(names_of_organisms)),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help='such as "0", "1,2" or "0-4"')] = "0",
    cache: CacheOption = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="default: one a core")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make many organisms, with many seeds, into the cache, going on where the last call stopped."""
    from .. import organisms

    chosen = names_of("--names", names)
    made = organisms.train_all(chosen, _numbers(seeds), cache=cache, workers=workers, progress=not quiet)
    if as_json:
        rows = [{"name": name, "seed": seed, "folder": folder} for (name, seed), folder in made.items()]
        print_json({"table": rows})
    else:
        typer.echo(f"{len(made)} organisms in {(cache or organisms.cache_folder()) / 'organisms'}")


def _told(accuracy: Mapping[str, float]) -> str:
    return ", ".join(f"{mode} {value:.3f}" for mode, value in accuracy.items()) or "-"


def _numbers(text: str) -> list[int]:
    """The numbers of "0-2,5".

    >>> _numbers("0-2,5")
    [0, 1, 2, 5]
    """
    from ..core import InputError

    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(f"--seeds {text!r}: expected numbers such as 0, 1,2 or 0-4")
        found += range(int(first), int(last if dash else first) + 1)
    return found
