"""Make the small results that the page of the figures draws: `python docs/saved_results.py`.

They show what figures look like: few problems, fixed seeds. `make study` measures enough to say something.
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from tqdm import tqdm

import loadbearing as lb
from loadbearing.analyses.claims import judge, load_claims, verdicts
from loadbearing.analyses.reading import MEASURES, Measurement
from loadbearing.core import Result, atomic_write

FOLDER = Path(__file__).parent / "results"
LAST = {"variables": ["v_3"]}
# Each file: the organism, the analysis, how many problems or pairs it is given (None: the task), and options.
RESULTS: dict[str, tuple[str, str, int | None, dict[str, Any]]] = {
    "channels": ("sft", "channels", 8, {}),
    "channels-post-hoc": ("post-hoc", "channels", 8, {}),
    "by-layer": ("sft", "by_layer", 8, {"target": "answer"}),
    "by-layer-post-hoc": ("post-hoc", "by_layer", 8, {"target": "answer"}),
    "relay-by-position": ("large-rl", "relay_by_position", 8, {}),
    "ablation": ("sft", "ablation", 24, {}),
    "ablation-post-hoc": ("post-hoc", "ablation", 24, {}),
    "ledger": ("sft", "ledger", 24, {}),
    "ledger-post-hoc": ("post-hoc", "ledger", 24, {}),
    "patch": ("both", "patch", 4, {}),
    "patch-cot": ("both", "patch", 4, {"mode": "cot"}),
    "patch-heads": ("both", "patch", 4, {"site": "z", "positions": ["cue[-1]"]}),
    "paths": ("copy-direct", "paths", 4, {"mode": "cot", "target": "answer", "cot": "task"}),
    "attribution": ("both", "attribution", 8, {}),
    "knockout": ("sft", "knockout", 16, {"queries": "cue", "keys": "cot", "each": "layer"}),
    "across": ("both", "across", 24, {}),
    "subspace": ("direct", "subspace", 4, {"fit": 200, "draws": 4}),
    "decodability": ("both", "decodability", 40, {"shuffles": 2}),
    "beyond": ("both", "beyond", 60, {"shuffles": 2, "readers": ["linear"], **LAST}),
    "circularity": ("direct", "circularity", 60, {"shuffles": 2, **LAST}),
    "commitment": ("both", "commitment", 60, {"shuffles": 2, "twin": False}),
    "behaviour": ("sft", "behaviour", 24, {}),
    "behaviour-post-hoc": ("post-hoc", "behaviour", 24, {}),
    "errors": ("small-rl", "errors", None, {"n": 24}),
    "errors-large-direct": ("large-direct", "errors", None, {"n": 24}),
    "monitor": ("hinted", "monitor", 128, {}),
}
CLAIMS = ("a", "a2", "d", "g", "k", "l")  # those of the debate whose endpoints need few analyses of few models


@cache
def organism(name: str) -> Any:
    """A shipped model."""
    return lb.hooks.load(f"organism:{name}")


def run(analysis: str, of: str, size: int | None, **options: Any) -> Any:
    """What an analysis says of an organism, given pairs, problems, their runs, or its task."""
    function, model = getattr(lb.analyses, analysis), organism(of)
    wanted = list(inspect.signature(function).parameters)[1]
    given = model.task if size is None else model.task.pairs(size) if wanted == "pairs" else model.task.problems(size)
    return function(model, lb.hooks.generate(model, given) if wanted == "runs" else given, **options)


def measure(name: str) -> Result:
    """The result of one of `RESULTS`."""
    of, analysis, size, options = RESULTS[name]
    found: Result = run(analysis, of, size, **options)
    return found


def judged(path: Path, size: int = 24) -> None:
    """Write verdicts of some claims of the debate, from few problems."""
    found = cache(partial(run, size=size))

    def find(of: str, name: str) -> Sequence[Measurement] | str:
        needs, read = MEASURES[name]
        return [read({need: found(need, of) for need in needs})]

    chosen = [replace(claim, secondary=()) for claim in load_claims()[0] if claim.id in CLAIMS]
    frame = verdicts(judge(find, chosen))
    atomic_write(path, lambda temporary: frame.to_csv(temporary, index=False))


def watched(path: Path) -> None:
    """Write the history of a training: a model whose steps are one too high learns right ones."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    model = lb.hooks.load("organism:large-base")  # its own copy: it is trained
    assert model.task is not None
    texts = [
        {"prompt": one.prompt + model.format.open, "completion": f"{one.cot}{model.format.cue} {one.answer} <eos>"}
        for one in model.task.problems(512, split="train")
    ]
    path.unlink(missing_ok=True)  # a callback goes on with no other training's history
    with TemporaryDirectory() as folder:
        options = SFTConfig(
            output_dir=folder,
            max_steps=24,
            per_device_train_batch_size=64,
            learning_rate=3e-4,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = SFTTrainer(
            model=model.module,
            args=options,
            train_dataset=Dataset.from_list(texts),
            processing_class=model.tokenizer,
        )
        lb.organisms.ChannelCallback(
            model.task, format=model.format, every=4, budget=None, pairs=8, problems=32, history=path
        ).attach(trainer)
        trainer.train()


def main(out: Annotated[Path, typer.Option(help="the folder")] = FOLDER) -> None:
    """Write every result."""
    out.mkdir(exist_ok=True)
    for name in tqdm(RESULTS, unit="result"):
        measure(name).save(out / f"{name}.safetensors")
    judged(out / "claims.csv")
    watched(out / "history.jsonl")


if __name__ == "__main__":
    typer.run(main)
