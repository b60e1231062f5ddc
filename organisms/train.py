"""One entry that makes any organism from its spec, and one that makes many, going on where it stopped."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..core import check_name, new_folder
from ..hooks import Card, Model, generate, load, organism_folder, organism_names, replay_gold
from ..tasks import Copy
from ..tasks import load as load_task
from .data import Stream
from .registry import ORGANISMS, spec_of
from .specs import FORMAT, HandSet, Supervised, Trained
from .tokenizer import build_tokenizer

CHECKPOINTS = "checkpoints"
SAMPLED = 64  # chains drawn of each of the problems whose best is counted


def cache_folder() -> Path:
    """Where trained organisms are kept: `$LOADBEARING_CACHE`, or `~/.cache/loadbearing`."""
    given = os.environ.get("LOADBEARING_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "loadbearing"


def organism_path(name: str, seed: int = 0, cache: Path | None = None, *, shipped: bool = True) -> Path:
    """The folder of an organism: as it is shipped for seed 0, else in the cache, whether it was trained or not."""
    check_name("organism", name, ORGANISMS)
    if shipped and seed == 0 and name in organism_names():
        return organism_folder(name)
    return (cache or cache_folder()) / "organisms" / f"{name}-{seed}"


def train(
    name: str, folder: str | Path, *, seed: int | None = None, cache: Path | None = None, progress: bool = True
) -> Card:
    """Make an organism and write it to a new folder: weights, tokenizer, card. Refuses to overwrite.

    An organism that starts from another one takes that of the same seed, which is trained into the cache if it is not
    there. On the same machine with the same number of threads the weights are the same; elsewhere the held-out accuracy
    agrees within 0.5 points. Raises UnknownNameError for a name that is no organism, InputError for a folder that is
    not empty.
    """
    spec = spec_of(name)
    if seed is not None and isinstance(spec, Trained):
        spec = replace(spec, seed=seed)
    with new_folder(folder) as temporary:
        if isinstance(spec, HandSet):
            from .handset import set_weights

            task = load_task(spec.task)
            tokenizer: Any = build_tokenizer(task, FORMAT)
            model: Any = set_weights(spec, tokenizer, task)
            curve: tuple[Mapping[str, Any], ...] = ()
        else:
            model, tokenizer, curve = _train(spec, temporary, cache, progress)
        model.half().save_pretrained(temporary)  # half the bytes; `load` computes with them in single precision
        tokenizer.save_pretrained(temporary)
        card = replace(_card(spec), curve=curve)
        card.save(temporary)
        # Measured with the saved model as a user loads it, not with the one in memory.
        card = replace(card, **measured(load(temporary), spec, _twin_of(spec, cache), progress))
        card.save(temporary)
        shutil.rmtree(temporary / "scratch", ignore_errors=True)
    return card


def _train(spec: Trained, folder: Path, cache: Path | None, progress: bool) -> tuple[Any, Any, tuple[Any, ...]]:
    """The trained model, its tokenizer and its curve."""
    from .reinforced import train_reinforced
    from .rejection import own_examples
    from .supervised import new_model, saving, train_supervised

    task = load_task(spec.task)
    if spec.start is None:
        tokenizer: Any = build_tokenizer(task, FORMAT, [load_task(other) for other in spec.vocabulary])
        model: Any = new_model(spec, tokenizer)
    else:
        start = organism_path(spec.start, spec.seed, cache)
        if not start.is_dir():
            train(spec.start, start, seed=spec.seed, cache=cache, progress=progress)
        begun = load(start)
        model, tokenizer = begun.module, begun.tokenizer
    curve: list[Mapping[str, Any]] = []
    for number, stage in enumerate(spec.stages):
        scratch = folder / "scratch"
        saved: list[Any] = []
        if spec.checkpoints and (number == len(spec.stages) - 1):
            every = stage.updates // spec.checkpoints
            saved = [saving(tokenizer, _card(spec), folder / CHECKPOINTS, every)]
        given: dict[str, Any] = {"seed": spec.seed, "callbacks": saved, "progress": progress}
        if isinstance(stage, Supervised):
            if stage.own is not None:
                current = replace(load(model, tokenizer=tokenizer, format=FORMAT), card=_card(spec))
                given["stream"] = Stream(stage, tokenizer, FORMAT, spec.seed, [own_examples(current, stage, spec.seed)])
            made = train_supervised(model, stage, tokenizer, FORMAT, scratch, **given)
        else:
            made = train_reinforced(model, stage, tokenizer, FORMAT, task, scratch, **given)
        stages = {"stage": number + 1} if len(spec.stages) > 1 else {}
        curve += [{**stages, **row} for row in made]
    return model, tokenizer, tuple(curve)


def _card(spec: Trained | HandSet) -> Card:
    described = {"name", "summary", "task", "modes", "measure", "known", "seed", "start"}
    recipe = json.loads(json.dumps({key: value for key, value in asdict(spec).items() if key not in described}))
    trained = isinstance(spec, Trained)
    if isinstance(spec, Trained):
        kinds = ["supervised" if isinstance(stage, Supervised) else "reinforced" for stage in spec.stages]
        recipe["stages"] = [{"kind": kind, **stage} for kind, stage in zip(kinds, recipe["stages"], strict=True)]
    return Card(
        name=spec.name,
        summary=spec.summary,
        task=spec.task,
        modes=spec.modes,
        format=FORMAT.asdict(),
        recipe={"kind": "trained" if trained else "set by hand", **recipe},
        seed=spec.seed if isinstance(spec, Trained) else 0,
        measure=spec.measure,
        known=spec.known if isinstance(spec, HandSet) else {},
        start=spec.start if isinstance(spec, Trained) else None,
        versions={name: version(name) for name in ("loadbearing", "torch", "transformers")},
    )


def _twin_of(spec: Trained | HandSet, cache: Path | None) -> float | None:
    """What the organism that one started from says of the twin, which is the same for both."""
    if isinstance(spec, HandSet) or spec.start is None:
        return None
    start = Card.load(organism_path(spec.start, spec.seed, cache))
    return start.elicited.get("twin") if start is not None and start.task == spec.task else None


def measured(
    model: Model, spec: Trained | HandSet, twin: float | None = None, progress: bool = False, n: int = 900
) -> dict[str, Any]:
    """What the card says of a saved model: held-out accuracy in its modes, when it writes everything itself.

    For hand-set weights: all problems, over the task's chain of thought where the card says `cot="task"`. For the
    organisms of the debate also the accuracy of sampled chains (one, and the best of 64), and the elicited one-pass
    accuracy.
    """
    from .elicit import elicit
    from .supervised import held_out_problems

    task = model.task
    assert task is not None
    if isinstance(spec, HandSet):
        assert isinstance(task, Copy)
        every = task.all_problems()
        runs = replay_gold(model, every) if spec.measure["cot"] == "task" else generate(model, every)
        return {"accuracy": {"cot": runs.accuracy}}
    problems = held_out_problems(task, n, seed=2)
    length = 2 * max(len(problem.steps) for problem in problems) + 8
    modes = spec.modes if spec.start is None and not spec.vocabulary else ("answer-only", "cot")
    accuracy: dict[str, float] = {
        mode: generate(model, problems, mode, max_new_tokens=length).accuracy for mode in modes
    }
    if spec.start is None and not spec.vocabulary:
        return {"accuracy": accuracy}
    drawn = generate(model, problems[:100], "cot", samples=SAMPLED, temperature=1.0, max_new_tokens=length)
    right = [run.correct for run in drawn]
    best = [any(right[i : i + SAMPLED]) for i in range(0, len(right), SAMPLED)]
    accuracy |= {"sampled": sum(right) / len(right), f"best of {SAMPLED}": sum(best) / len(best)}
    return {"accuracy": accuracy, "elicited": elicit(model, twin=twin, seed=spec.seed, progress=progress)}


def train_all(
    names: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    *,
    cache: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[tuple[str, int], Path]:
    """Train organisms with every seed into the cache, side by side; what is there already is kept.

    names: None for all that are trained. An organism waits for the one that it starts from. A killed run leaves whole
    organisms only, and the next call goes on with the others.
    """
    from tqdm import tqdm

    chosen = list(names) if names is not None else [n for n, spec in ORGANISMS.items() if isinstance(spec, Trained)]
    wanted: dict[tuple[str, int], Path] = {}
    for name in chosen:
        for seed in seeds:
            _add(wanted, name, seed, cache)
    left = {key: path for key, path in wanted.items() if not path.is_dir()}
    running: dict[Any, tuple[str, int]] = {}
    with (
        ProcessPoolExecutor(
            workers or os.cpu_count(), mp_context=get_context("spawn"), initializer=_one_thread
        ) as pool,
        tqdm(total=len(left), disable=not progress, unit="organism") as bar,
    ):
        waiting = dict(left)
        while waiting or running:
            for key in [key for key in waiting if _start_of(key, wanted) is None]:
                path = waiting.pop(key)
                running[pool.submit(train, key[0], path, seed=key[1], cache=cache, progress=False)] = key
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for job in done:
                name, seed = running.pop(job)
                card = job.result()
                bar.set_postfix_str(f"{name} {seed}: {card.accuracy}")
                bar.update()
    return wanted


def _add(wanted: dict[tuple[str, int], Path], name: str, seed: int, cache: Path | None) -> None:
    """Put an organism on the list, after the one that it starts from."""
    spec = spec_of(name)
    if isinstance(spec, Trained) and spec.start is not None:
        _add(wanted, spec.start, seed, cache)
    wanted.setdefault((name, seed), organism_path(name, seed, cache))


def _start_of(key: tuple[str, int], wanted: Mapping[tuple[str, int], Path]) -> tuple[str, int] | None:
    """The organism that one waits for; None if it can be trained now."""
    spec = spec_of(key[0])
    if isinstance(spec, HandSet) or spec.start is None or wanted[spec.start, key[1]].is_dir():
        return None
    return spec.start, key[1]


def _one_thread() -> None:
    import torch

    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
