"""Problems, pairs and words stay what they were: models are shipped that were trained and are judged on them."""

import hashlib
import json
from typing import Any

import pytest

from loadbearing.tasks import Problem, load

# Digests of the problems (both splits, two seeds), the pairs (of every variable, and "all") and the words, recorded
# when the first models were trained.
RECORDED = {
    "modular-sum": ("b348c7416b7bc5ce", "24149a4444553f5e", "7045aa62fc458191"),
    "modular-sum:terms=2,modulus=7,signs=+-": ("e5d6a14348e14a8e", "4b6f687fde6656eb", "c705b08db2b6eccf"),
    "modular-sum:terms=3,modulus=12,signs=-": ("0e597695f179759d", "dd41e0978b6ddc0e", "fd4fab8c246392cc"),
    "modular-sum:terms=4,cot=short": ("de11f99b493c5722", "44292cdf5e7ef2c2", "7045aa62fc458191"),
    "modular-sum:terms=4,modulus=4,signs=+-,cot=short": ("b13b1bb6afcf6859", "175723b3c9930eb4", "3352022247ffcbf2"),
    "modular-sum:terms=6,modulus=13,signs=+-": ("26c9d2e00b17aaea", "9ff18e56cfcd3677", "f4f6dd0a32ef745e"),
    "modular-sum:modulus=10,terms=5": ("e44b9ee968a03128", "31a94bec88eee39f", "7045aa62fc458191"),
    "copy": ("71946896f1b9e9e5", "49dcf6a61646dc1c", "7a51b2d4b4093f06"),
    "copy:cot=independent,answer=sum,values=8": ("63cd5bcb5763ade8", "97eb415e6c1859dc", "941f0474fbe4d5fb"),
    "copy:cot=independent": ("29eee35c8c088b40", "c5ce16ba9a291198", "7a51b2d4b4093f06"),
}


def digest(data: Any) -> str:
    return hashlib.blake2b(json.dumps(data).encode(), digest_size=8).hexdigest()


def shown(problem: Problem) -> list[Any]:
    pieces = [[[piece.text, piece.name] for piece in part] for part in (problem.pieces, problem.steps)]
    return [problem.key, pieces[0], problem.answer, pieces[1], list(problem.values.items()), problem.partner]


@pytest.mark.parametrize("spec", RECORDED)
def test_a_task_is_what_it_was_when_models_were_trained_on_it(spec: str) -> None:
    task = load(spec)
    splits: tuple[Any, ...] = ("test",) if task.name == "copy" else ("train", "test")
    n = 8 if task.name == "copy" else 4 if "terms=2" in spec else 20
    problems = [shown(p) for split in splits for seed in (0, 7) for p in task.problems(n, seed=seed, split=split)]
    pairs = [
        [shown(pair.recipient), shown(pair.donor), pair.variable]
        for vary in (None, "all")
        for seed in (0, 7)
        for pair in task.pairs(2, seed=seed, vary=vary)
    ]
    assert (digest(problems), digest(pairs), digest(task.words())) == RECORDED[spec]
