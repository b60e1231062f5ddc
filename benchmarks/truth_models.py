"""Train the models with known wires: `python benchmarks/truth_models.py --out FOLDER [--only NAMES]`.

Each is written as a model folder whose card holds its cuts, so that `load` applies them; `truth.json` has, for every
model, the wire of every variable at every target, and its held-out accuracy. One whose accuracy stays below 0.95 has
not learnt its task through the wires that it was left: it is listed as not used.
"""

import argparse
import json
import shutil
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging
from truth_specs import KNOWN, Known
from truth_tasks import TruthSum

import loadbearing as lb
from loadbearing.core import check_name, new_folder
from loadbearing.hooks import Card, Mode, Model
from loadbearing.organisms.specs import FORMAT, Part, Supervised, Trained
from loadbearing.organisms.supervised import new_model, train_supervised
from loadbearing.organisms.tokenizer import build_tokenizer

ENOUGH = 0.95


def recipe(known: Known) -> Trained:
    """The recipe as the organisms' training takes it; random digits carry no label."""
    stage = Supervised((Part(known.task, known.style),), updates=known.updates, batch=128, easy=0.5, silent=1.0)
    modes: tuple[Mode, ...] = ("answer-only",) if known.style == "nothing" else ("cot",)
    return Trained(known.name, known.summary, (stage,), known.task, None, modes, known.layers, seed=known.seed)


def make(known: Known, folder: Path) -> dict[str, Any]:
    """Train one model under its cuts, write it to a new folder, and say what is known of it."""
    began = time.perf_counter()
    task, spec = TruthSum(known.task), recipe(known)
    tokenizer = build_tokenizer(task, FORMAT)
    if known.start is None:
        module: Any = new_model(spec, tokenizer).eval()
    else:
        # Without its card, so without the cuts under which it was trained.
        module = AutoModelForCausalLM.from_pretrained(folder.parent / known.start)
    card = Card(known.name, known.summary, known.task, spec.modes, asdict(FORMAT), {"kind": "supervised, cut"})
    card = replace(card, measure={"cot": known.cot}, seed=known.seed)
    model = replace(lb.hooks.load(module, tokenizer=tokenizer, format=FORMAT), card=card)
    for cut in known.cuts:
        model = model.cut(cut.queries, cut.keys, cut.layers)
    with new_folder(folder) as temporary:
        scratch = temporary / "scratch"
        stage = spec.stages[0]
        assert isinstance(stage, Supervised)
        curve = train_supervised(model.module, stage, tokenizer, FORMAT, scratch, seed=spec.seed, progress=False)
        shutil.rmtree(scratch, ignore_errors=True)
        module.eval().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        assert model.card is not None
        made = {name: version(name) for name in ("loadbearing", "torch", "transformers")}
        written = replace(model.card, curve=curve, recipe=json.loads(json.dumps(asdict(spec))), versions=made)
        written.save(temporary)
        accuracy = held_out(lb.hooks.load(temporary), known)  # as a user loads it
        replace(written, accuracy=accuracy).save(temporary)
    return {
        "task": known.task,
        "summary": known.summary,
        "cot": known.cot,
        "cut": [cut.asdict() for cut in known.cuts],
        "truth": {target: dict(wires) for target, wires in known.truth.items()},
        "accuracy": accuracy,
        "used": min(accuracy.values()) >= ENOUGH,
        "seconds": round(time.perf_counter() - began),
    }


def held_out(model: Model, known: Known, n: int = 200) -> dict[str, float]:
    """Held-out accuracy in the run in which the model is measured."""
    assert model.task is not None
    problems = model.task.problems(min(n, len(TruthSum(known.task).all_problems("test"))), seed=2)
    if known.style == "nothing":
        return {"answer-only": lb.hooks.generate(model, problems, "answer-only").accuracy}
    runs = (
        lb.hooks.replay_gold(model, problems)
        if known.cot == "task"
        else lb.hooks.generate(model, problems, max_new_tokens=8)
    )
    return {"cot": runs.accuracy}


def main() -> None:
    """Train what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets a folder a model, and truth.json")
    parser.add_argument("--only", default="", help=f"names joined with commas, of: {', '.join(KNOWN)}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    chosen = [check_name("model", name, KNOWN) for name in given.only.split(",") if name] or list(KNOWN)
    given.out.mkdir(parents=True, exist_ok=True)
    listed = given.out / "truth.json"
    truth: dict[str, Any] = json.loads(listed.read_text()) if listed.is_file() else {}
    for name in chosen:
        if name not in truth:  # what was made before is kept
            truth[name] = make(KNOWN[name], given.out / name)
            listed.write_text(json.dumps(truth, indent=1) + "\n")
        print(name, truth[name]["accuracy"], f"{truth[name]['seconds']} s", "" if truth[name]["used"] else "NOT USED")


if __name__ == "__main__":
    main()
