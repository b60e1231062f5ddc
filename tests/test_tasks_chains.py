"""Every chain against oracles that read the prompt's text alone, and the theorems that hold for all of them."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from loadbearing.core import InputError, UnknownNameError
from loadbearing.hooks import Format
from loadbearing.hooks.format import render_prompt
from loadbearing.hooks.spans import resolve
from loadbearing.tasks import TASKS, Addition, Chain, Copy, ModularProgram, Permutations, Pointers, Problem, load
from loadbearing.tasks.problem import in_test_split

SPECS = [
    "modular-sum",
    "modular-sum:modulus=23,terms=3,signs=+-,style=german",
    "modular-program",
    "modular-program:modulus=11,terms=5,ops=+*-,cot=short,style=words",
    "permutations",
    "permutations:group=S5,length=3,style=letters",
    "permutations:group=S5,length=14,elements=generators,cot=short,style=cycles",
    "pointers",
    "pointers:nodes=5,hops=4,cot=short,style=upper",
    "addition",
    "addition:digits=2,cot=short,style=words",
]


def arithmetic(problem: Problem, k: int, value: str) -> str:
    text, _, modulus = problem.prompt.partition(" mod ")
    operator, operand = text.split()[2 * k - 1 : 2 * k + 1]
    return str(eval(f"({value}) {operator} {operand}") % int(modulus))


def product(problem: Problem, k: int, value: str) -> str:
    factor = problem.prompt.split()[2 * k]
    return "".join(factor[int(image) - 1] for image in value)  # where the image of each thing is sent


def successor(problem: Problem, k: int, value: str) -> str:
    words = problem.prompt.partition(" from ")[0].split()
    return dict(zip(words[::2], words[1::2], strict=True))[value]


def column(problem: Problem, k: int, value: str) -> str:
    a, b = problem.prompt.replace(" ", "").split("+")
    return str(int(a[-k]) + int(b[-k]) + (int(value) >= 10))


# What step k is, by the prompt and step k-1; where the chain begins.
AFTER: dict[str, Callable[[Problem, int, str], str]] = {
    "modular-sum": arithmetic,
    "modular-program": arithmetic,
    "permutations": product,
    "pointers": successor,
    "addition": column,
}


def begin(problem: Problem) -> str:
    words = problem.prompt.split()
    return {"pointers": words[-1], "addition": "0"}.get(problem.task.name, words[0])


def chain(problem: Problem, length: int) -> list[str]:
    values = [begin(problem)]
    for k in range(1, length + 1):
        values.append(AFTER[problem.task.name](problem, k, values[-1]))
    return values[1:]


def answer(problem: Problem, last: str) -> str:
    if problem.task.name != "addition":
        return last
    a, b = problem.prompt.replace(" ", "").split("+")
    return " ".join(f"{int(a) + int(b):0{len(a) + 1}}")


def length(task: Any) -> int:
    given = {"pointers": "hops", "addition": "digits", "permutations": "length"}.get(task.name, "terms")
    return int(task.options[given]) - (given in ("length", "terms"))


def possible(task: Any) -> list[str]:
    """Every value that a step can have."""
    if task.name == "permutations":
        return ["".join(p) for p in itertools.permutations("12345"[: 5 if "S5" in task.spec else 3])]
    if task.name == "pointers":
        return list("abcdefghijklmnopqrst"[: task.options["nodes"]])
    return [str(number) for number in range(20 if task.name == "addition" else task.options["modulus"])]


def chain_of(spec: str) -> Chain:
    task = load(spec)
    assert isinstance(task, Chain)
    return task


@pytest.mark.parametrize("spec", SPECS)
class TestEveryChain:
    def test_gold_values_are_what_the_oracle_reads_in_the_prompt(self, spec: str) -> None:
        task = chain_of(spec)
        for problem in task.problems(12):
            expected = chain(problem, length(task))
            assert [problem.values[name] for name in task.intermediates] == expected
            assert problem.answer == answer(problem, expected[-1])
            assert problem.key == problem.prompt
            kept = expected[:-1] if "short" in spec else expected
            assert [(step.item, step.value) for step in task.parse_steps(problem.cot)] == list(enumerate(kept, start=1))
            assert [piece.name for piece in problem.steps] == [f"step.{k}" for k in range(1, len(kept) + 1)]

    def test_the_program_continues_from_what_is_written(self, spec: str) -> None:
        task = chain_of(spec)
        for problem in task.problems(3):
            gold = dict(enumerate(chain(problem, length(task)), start=1))
            for k in gold:
                before = {item: value for item, value in gold.items() if item < k}
                assert task.program(problem, before, k) == task.program(problem, {}, k) == gold[k]
                assert task.program(problem, gold, k) == gold[k]
                for wrong in possible(task)[::7] if k > 1 else []:
                    assert task.program(problem, {**before, k - 1: wrong}, k) == AFTER[task.name](problem, k, wrong)
                    later = {item: wrong for item in gold if item > k}
                    assert task.program(problem, {**gold, **later}, k) == gold[k]  # what stands later does not count
            assert task.program(problem, gold, "answer") == task.program(problem, {}, "answer") == problem.answer

    def test_a_variable_replaced_is_the_only_one_that_changes(self, spec: str) -> None:
        task = chain_of(spec)
        for problem in task.problems(2):
            assert task.replace(problem, task.inputs[0], problem.values[task.inputs[0]]) == problem
            for name in task.inputs:
                for value in {p.values[name] for p in task.problems(12, seed=1)}:
                    other = task.replace(problem, name, value)
                    assert other.values[name] == value
                    assert {n for n in task.inputs if other.values[n] != problem.values[n]} <= {name}
                    expected = chain(other, length(task))
                    assert [other.values[n] for n in task.intermediates] == expected
                    texts = [[piece.text for piece in p.pieces if piece.name is None] for p in (problem, other)]
                    assert texts[0] == texts[1]  # operators and words stay

    def test_nothing_changes_before_a_variable_is_first_used(self, spec: str) -> None:
        task = chain_of(spec)
        for name in task.inputs:
            first = task.first_use(name)
            assert first is None or isinstance(first, int)
            moved = set()
            for problem in task.problems(12):
                for value in {p.values[name] for p in task.problems(5, seed=1)} - {problem.values[name]}:
                    other = task.replace(problem, name, value)
                    moved |= {k for k, v in enumerate(task.intermediates, 1) if other.values[v] != problem.values[v]}
            assert first is None or min(moved) == first  # and there it does change, in some problem
        assert task.first_use("all") is None
        with pytest.raises(UnknownNameError, match="unknown variable 'nothing'"):
            task.first_use("nothing")

    def test_what_is_stated_has_the_value_that_it_says(self, spec: str) -> None:
        task = chain_of(spec)
        problem = task.problems(1)[0]
        for k, value in enumerate(chain(problem, length(task)), start=1):
            assert problem.values[str(task.states(k))] == value
        stated = task.states("answer")
        assert stated is None or problem.values[stated] == problem.answer
        assert (stated is None) == (task.name == "addition")
        for item in task.answer_steps or ():
            assert task.parse_steps(problem.cot)[item - 1].value == problem.answer

    @pytest.mark.parametrize("seed", [0, 5])
    def test_pairs_differ_as_asked_and_in_the_answer_are_held_out_and_of_one_length(self, spec: str, seed: int) -> None:
        from loadbearing.organisms.tokenizer import build_tokenizer

        task = chain_of(spec)
        form = Format(open=" think", close=" answer", cue=" answer")
        tokenizer = build_tokenizer(task, form)
        held_out = {problem.key for problem in task.problems(20, seed=seed)}
        assert not held_out & {problem.key for problem in task.problems(200, seed=seed, split="train")}
        # Of words of two generators hardly any two differ everywhere.
        everywhere = [*task.pairs(2, seed=seed, vary="all")] if "generators" not in spec else []
        pairs = [*task.pairs(2, seed=seed), *everywhere]
        assert len(pairs) == 2 * len(task.inputs) + len(everywhere)
        for pair in pairs:
            sides = pair.recipient, pair.donor
            differ = {name for name in task.inputs if sides[0].values[name] != sides[1].values[name]}
            assert differ == ({*task.inputs} if pair.variable == "all" else {pair.variable})
            assert sides[0].answer != sides[1].answer
            assert all(p.answer == answer(p, chain(p, length(task))[-1]) for p in sides)
            assert all(in_test_split(p.key) for p in sides)
            first, second = (render_prompt(tokenizer, form, p, "cot") for p in sides)
            assert len(first.ids) == len(second.ids)
            for name in task.inputs:
                assert first.spans[name] == second.spans[name]
                assert len(resolve(first.spans, name)) == 1

    def test_words_hold_every_text_of_the_task(self, spec: str) -> None:
        task = chain_of(spec)
        for problem in task.problems(12):
            spoken = [*problem.prompt.split(), *problem.cot.split(), *task.say(problem.answer).split()]
            assert {*spoken} <= {*task.words()} <= {*task.all_words()}
            assert task.parse_answer(task.say(problem.answer)) == problem.answer
        for harder in task.out_of_distribution().values():
            for problem in harder.problems(12):
                assert {*problem.prompt.split(), *problem.cot.split()} <= {*task.all_words()}
        for style in task.styles:  # one list for all models of the task
            assert task.changed(style=style).all_words() == task.all_words()

    def test_the_same_seed_gives_the_same_and_another_seed_another(self, spec: str) -> None:
        one, other = load(spec), load(spec)
        for split in ("train", "test"):
            assert one.problems(9, seed=3, split=split) == other.problems(9, seed=3, split=split)
            assert one.problems(9, seed=3, split=split) != one.problems(9, seed=4, split=split)
            assert len({problem.key for problem in one.problems(9, split=split)}) == 9
        assert [*one.pairs(2, seed=3)] == [*other.pairs(2, seed=3)] != [*one.pairs(2, seed=4)]

    def test_a_spec_is_canonical_and_read_back(self, spec: str) -> None:
        task = load(spec)
        assert load(task.spec).spec == task.spec == spec
        assert load(task.spec).problems(3) == task.problems(3)
        name, _, options = spec.partition(":")
        turned = ",".join(reversed(options.split(",")))
        assert load(f"{name}:{turned}" if turned else name).spec == spec
        everything = ",".join(f"{key}={value}" for key, value in {**task.defaults}.items())
        assert load(f"{name}:{everything}").spec == name
        assert task.changed().spec == spec


@pytest.mark.parametrize("name", TASKS)
def test_options_that_are_unknown_get_the_nearest(name: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"unknown option of task '{name}' 'colour': expected one of "):
        load(f"{name}:colour=red")
    with pytest.raises(UnknownNameError, match=rf"unknown option of task '{name}' 'colour': expected one of "):
        load(name).changed(colour="red")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("modular-program:ops=*", r"unknown ops '\*': expected one of \+\*, \+\*-"),
        ("modular-program:terms=1", "expected terms >= 2 and modulus >= 2"),
        ("modular-sum:style=french", "unknown style 'french': expected one of digits, words, german"),
        ("modular-sum:modulus=101,style=words", "unknown style 'words': expected one of digits;"),
        ("modular-sum:hint=some", "unknown hint 'some': expected one of none, half, always, ignored"),
        ("permutations:group=S4", "unknown group 'S4': expected one of S3, S5"),
        ("permutations:elements=some", "unknown elements 'some': expected one of all, generators"),
        ("permutations:length=1", "task 'permutations:length=1': expected length >= 2"),
        ("pointers:nodes=27", "expected hops >= 1 and nodes from 2 to 26"),
        ("pointers:hops=0", "expected hops >= 1 and nodes from 2 to 26"),
        ("addition:digits=1", "task 'addition:digits=1': expected digits >= 2"),
        ("addition:cot=shrt", "unknown cot 'shrt': expected one of full, short, last-N, every-N; nearest: 'short'"),
        (
            "modular-program:cot=last-4",
            "task 'modular-program:cot=last-4', cot='last-4': expected a number from 1 to 3",
        ),
        ("modular-program:factors=all", "unknown factors 'all': expected one of units, any"),
    ],
)
def test_a_spec_that_is_wrong(spec: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load(spec)


def test_a_problem_that_is_wrong() -> None:
    with pytest.raises(InputError, match=r"expected 4 numbers from 0 to 6 and an operator between any two, got \(1, 7"):
        ModularProgram().problem((1, 7, 1, 1), "+++")
    with pytest.raises(InputError, match=r"got .* with 2 operators"):
        ModularProgram().problem((1, 1, 1, 1), "++")
    with pytest.raises(UnknownNameError, match="unknown operator '-'"):
        ModularProgram().problem((1, 1, 1, 1), "++-")
    with pytest.raises(InputError, match="expected 4 permutations, got 1"):
        Permutations().problem(["123"])
    with pytest.raises(UnknownNameError, match="unknown element '124'"):
        Permutations().problem(["124"] * 4)
    with pytest.raises(InputError, match="expected 8 successors, got 1"):
        Pointers().problem("a", "b")
    with pytest.raises(UnknownNameError, match="unknown node 'x'"):
        Pointers().problem("abcdefgh", "x")
    with pytest.raises(InputError, match="expected two numbers from 0 to 999, got 1000, 2"):
        Addition().problem(1000, 2)
    with pytest.raises(UnknownNameError, match=r"unknown value of operand\.1 '7'"):
        ModularProgram().replace(ModularProgram().problems(1)[0], "operand.1", "7")


def test_problems_by_hand() -> None:
    program = load("modular-program:ops=+*-").problem((3, 2, 4, 5), "+*-")  # type: ignore[attr-defined]
    assert (program.prompt, program.cot, program.answer) == ("3 + 2 * 4 - 5 mod 7", " 5 6 1", "1")
    word = load("permutations:group=S5,length=2").problem(["21345", "23451"])  # type: ignore[attr-defined]
    assert (word.prompt, word.cot) == ("21345 * 23451", " 32451")  # 1 -> 2 -> 3, 2 -> 1 -> 2
    map_ = load("pointers:nodes=4,hops=3").problem("bcda", "c")  # type: ignore[attr-defined]
    assert (map_.prompt, map_.cot, map_.answer) == ("a b b c c d d a from c", " d a b", "b")
    sum_ = Addition().problem(99, 901)
    assert (sum_.prompt, sum_.cot, sum_.answer) == ("0 9 9 + 9 0 1", " 10 10 10", "1 0 0 0")
    assert [sum_.values[name] for name in ("a.1", "a.2", "a.3", "b.1", "b.2", "b.3")] == ["9", "9", "0", "1", "0", "9"]


def test_the_answer_of_an_addition_takes_every_column_as_written() -> None:
    task, problem = Addition(), Addition().problem(472, 539)
    assert task.program(problem, {2: "3"}, "answer") == "0 9 3 1"  # column 2 is "3": no carry into column 3
    assert task.program(problem, {1: "0", 2: "10", 3: "19"}, "answer") == "1 9 0 0"
    assert task.program(problem, {1: "37"}, 2) is task.program(problem, {1: "37"}, "answer") is None  # no column sum
    assert [task.parse_answer(text) for text in (" 1 0 1 1", "1011", "0 9", " x", "10x")] == [
        "1 0 1 1",
        "1 0 1 1",
        "0 0 0 9",
        None,
        None,
    ]


def test_a_space_that_no_machine_word_can_count() -> None:
    task = Pointers("pointers:nodes=20,hops=2")
    assert task._space() == 20**21 > 2**64
    problems = task.problems(200, seed=1)
    assert problems[:9] == Pointers("pointers:nodes=20,hops=2").problems(9, seed=1) != task.problems(9, seed=2)
    assert {problem.values[name] for problem in problems for name in task.inputs} == set("abcdefghijklmnopqrst")
    assert all([problem.values["v_1"], problem.values["v_2"]] == chain(problem, 2) for problem in problems)


def test_values_that_no_step_can_have_imply_nothing() -> None:
    for task, value in ((Permutations(), "12345"), (Pointers(), "z")):
        problem = task.problems(1)[0]
        assert task.program(problem, {1: value}, 2) is None
        assert task.program(problem, {1: value}, "answer") is None


def test_a_product_by_zero_hides_what_stands_before_it() -> None:
    task = ModularProgram()
    problem = task.problem((3, 2, 0, 5), "+*+")
    assert {task.replace(problem, "operand.1", str(value)).answer for value in range(7)} == {"5"}
    assert all(pair.recipient.values["v_3"] != pair.donor.values["v_3"] for pair in task.pairs(40, vary="operand.1"))


def test_pairs_that_hardly_exist_are_not_searched_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadbearing.tasks.chain.PATIENCE", 50)
    with pytest.raises(InputError, match="has 0 pairs that differ in 'all', 1 were asked for"):
        load("permutations:length=40,elements=generators").pairs(1, vary="all")


def test_generators_reach_the_whole_group() -> None:
    for group, size, factors in (("S3", 6, 6), ("S5", 120, 14)):
        task = load(f"permutations:group={group},elements=generators,length={factors}")
        drawn = task.problems(4, split="train")
        assert len({p.values[name] for p in drawn for name in task.inputs}) == 2
        found = {"".join(p) for p in [tuple("12345"[: int(group[1])])]}
        swap, turn = sorted({p.values[name] for p in drawn for name in task.inputs})
        for _ in range(factors):
            found |= {"".join(g[int(i) - 1] for i in element) for element in found for g in (swap, turn)}
        assert len(found) == size


def test_what_theory_expects() -> None:
    expected = {
        "modular-sum": False,
        "modular-program": True,
        "permutations:group=S3": False,
        "permutations:group=S5": True,
        "pointers": True,
        "addition": False,
        "copy": None,
    }
    assert {spec: load(spec).serial for spec in expected} == expected


@pytest.mark.parametrize(
    ("spec", "harder"),
    [
        ("modular-sum", {"longer": "modular-sum:terms=7", "negative": "modular-sum:signs=+-"}),
        ("modular-sum:signs=+-", {"longer": "modular-sum:terms=7,signs=+-"}),
        ("modular-program", {"longer": "modular-program:terms=7", "negative": "modular-program:ops=+*-"}),
        ("permutations:group=S5", {"longer": "permutations:group=S5,length=6"}),
        ("pointers:style=upper", {"longer": "pointers:hops=5,style=upper"}),
        ("addition", {"longer": "addition:digits=5"}),
        ("copy", {}),
    ],
)
def test_harder_tasks_of_the_same_kind(spec: str, harder: dict[str, str]) -> None:
    found = load(spec).out_of_distribution()
    assert {name: task.spec for name, task in found.items()} == harder
    if "negative" in found:
        assert any(" - " in problem.prompt for problem in found["negative"].problems(9))


def test_a_task_with_options_replaced() -> None:
    assert load("modular-sum:terms=3").changed(modulus=7).spec == "modular-sum:modulus=7,terms=3"
    assert load("modular-sum:terms=3").changed(terms=4).spec == "modular-sum"
    assert isinstance(load("copy").changed(values=3), Copy)
    from loadbearing.tasks import Questions

    with pytest.raises(InputError, match="task 'mine' has no options to change"):
        Questions("mine").changed(terms=3)
    assert Questions().out_of_distribution() == {} and Questions().styles == ()


def test_a_chain_of_some_steps_keeps_their_numbers() -> None:
    for cot, written in {"last-2": (3, 4), "every-2": (2, 4), "every-3": (1, 4), "short": (1, 2, 3)}.items():
        task = load(f"modular-program:terms=5,cot={cot}")
        for problem in task.problems(5):
            steps = task.parse_steps(problem.cot)
            assert tuple(step.item for step in steps) == written
            assert [step.value for step in steps] == [problem.values[f"v_{k}"] for k in written]
            assert tuple(piece.name for piece in problem.steps) == tuple(f"step.{k}" for k in written)
        assert task.answer_steps == ((4,) if 4 in written else ())


def test_no_step_of_a_program_forgets_the_one_before_unless_asked() -> None:
    """With factors prime to the modulus every operand moves the answer; a factor of 0 hides what came before it."""

    def stays(spec: str) -> list[bool]:
        task = load(spec)
        changed = [
            (problem, task.replace(problem, "operand.1", str((int(problem.values["operand.1"]) + shift) % 7)))
            for problem in task.problems(100)
            for shift in range(1, 7)
        ]
        return [one.answer == other.answer for one, other in changed]

    assert not any(stays("modular-program"))
    assert any(stays("modular-program:factors=any"))
