"""Your own problems, as a list: prompt, answer, and where you have one a counterfactual partner."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from ..core import InputError, check_name
from .partners import changed_numbers, number_places, same_length
from .problem import Pair, Pairs, Piece, Problem, Split, Step, Task, count_of
from .rules import NUMBER, AnswerRule, StepRule, answer_rule, canonical_number, step_rule

PARTNERS = ("made", "given")
GIVEN = "question"


class Questions(Task):
    """A task made of given questions; all of them are test problems.

    steps, answer: the rules by which steps and answers are read (`loadbearing.tasks.step_rule`, `answer_rule`)
    partners: "made" makes a counterfactual partner for a question that is in no given pair: the same prompt with one
        number changed. Its gold answer is not known. "given" leaves such questions out and counts them.

    >>> task = Questions(answer="number")
    >>> task.add("q1", "What is 12 + 30?", "42", partner="q2")
    >>> task.add("q2", "What is 12 + 40?", "52", partner="q1")
    >>> task.add("q3", "What is 16 + 35?", "51")
    >>> task.add("q4", "What is nothing?", "0.0")
    >>> pairs = task.pairs(2)
    >>> [(pair.recipient.key, pair.donor.key) for pair in pairs], dict(pairs.left_out)
    ([('q1', 'q2'), ('q3', 'q3 [16 -> 35]')], {'no counterfactual partner and no number to change': 1})
    """

    name: ClassVar[str] = "questions"

    def __init__(
        self,
        name: str = "questions",
        *,
        steps: str | StepRule = "none",
        answer: str | AnswerRule = "text",
        partners: str = "made",
    ) -> None:
        self.spec = name
        self.inputs = (GIVEN,)
        self.intermediates = ()
        self.partners = check_name("partners", partners, PARTNERS)
        self.rules = (steps, answer)
        self._parse_steps, self._parse_answer = step_rule(steps), answer_rule(answer)
        self._problems: dict[str, Problem] = {}
        self._transcripts: dict[str, tuple[str, ...]] = {}

    def add(
        self,
        key: str,
        prompt: str | Iterable[Piece],
        answer: str = "",
        cot: str | Iterable[str] = "",
        partner: str | None = None,
        *,
        values: Mapping[str, str] | None = None,
        transcripts: Iterable[str] = (),
    ) -> None:
        """Add a question.

        answer: the gold answer, read by the rule; "" where it is not known
        cot: a gold chain of thought; several texts are its steps, a line each
        partner: the key of the question that it is paired with; it may be added later
        values: gold values by variable, for probes; transcripts: chains of thought that models wrote

        Raises InputError for a key that is there already, a question that is its own partner, and a gold answer in
        which the rule finds none.
        """
        if key in self._problems:
            raise InputError(f"question {key!r} is there already: keys must be unique")
        if partner == key:
            raise InputError(f"question {key!r} is named as its own partner: pair it with another one")
        pieces = (Piece(prompt),) if isinstance(prompt, str) else tuple(prompt)
        gold = self._gold(key, answer)
        known = values or ({"v_1": gold} if gold else {})
        self._problems[key] = Problem(key, pieces, gold, _steps(cot), dict(known), self, partner)
        if written := tuple(transcripts):
            self._transcripts[key] = written
        if self.partners == "made":
            self.inputs = tuple(dict.fromkeys([*self.inputs, *(place.variable for place in number_places(pieces))]))

    @property
    def transcripts(self) -> Mapping[str, tuple[str, ...]]:
        """The chains of thought that models wrote, by the question's key, for those that have any."""
        return dict(self._transcripts)

    def counts(self) -> dict[str, int]:
        """How many questions there are and what is known of them; of transcripts, in how many the rules find nothing.

        >>> task = Questions(steps="line", answer="last-number")
        >>> task.add("q1", "What is 1 + 1?", "2", transcripts=["1 + 1 is 2", "who knows"])
        >>> counts = task.counts()
        >>> counts["questions"], counts["transcripts"], counts["transcripts without an answer"]
        (1, 2, 1)
        """
        problems = self._problems.values()
        texts = [text for written in self._transcripts.values() for text in written]
        return {
            "questions": len(problems),
            "without a gold answer": sum(not problem.answer for problem in problems),
            "with a gold chain of thought": sum(bool(problem.steps) for problem in problems),
            "naming a partner": sum(problem.partner is not None for problem in problems),
            "with a transcript": len(self._transcripts),
            "transcripts": len(texts),
            "transcripts without steps": sum(not self.parse_steps(text) for text in texts),
            "transcripts without an answer": sum(self.parse_answer(text) is None for text in texts),
        }

    def problems(self, n: int, seed: int = 0, split: Split = "test") -> list[Problem]:
        if check_name("split", split, ["train", "test"]) == "train":
            raise InputError(f"task {self.spec!r} has no train split: all of its questions are test problems")
        found = list(self._problems.values())
        if count_of(n) > len(found):
            raise InputError(f"task {self.spec!r} has {len(found)} questions, {n} were asked for")
        return [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:n]]

    def pairs(self, n: int, seed: int = 0, vary: str | None = None, tokenizer: Any = None) -> Pairs:
        """`n` pairs, first the given ones ("question"), then those that were made: of the questions in no given pair,
        or, where `vary` names a number (`inputs` tells which can be), of all.

        With a tokenizer only pairs whose prompts have the same number of tokens; a made prompt has its tokens at the
        same characters. What was left out is counted by reason, over all questions.
        """
        if vary is not None:
            check_name("variable", vary, self.inputs)
        rng = np.random.default_rng(seed)
        left_out: Counter[str] = Counter()
        given = self._given() if vary in (None, GIVEN) else []
        paired = {problem.key for pair in given for problem in (pair.recipient, pair.donor)}
        usable = [pair for pair in given if same_length(tokenizer, pair.recipient.prompt, pair.donor.prompt)]
        left_out["the partner's prompt has another number of tokens"] = len(given) - len(usable)
        pairs = [usable[i] for i in rng.permutation(len(usable))]
        others = [problem for problem in self._problems.values() if problem.key not in paired]
        if self.partners == "made" and vary != GIVEN:
            made = list(self._made(others, rng, vary, tokenizer, left_out))
            pairs += [made[i] for i in rng.permutation(len(made))]
        else:
            left_out["no counterfactual partner"] = len(others)
        told = {reason: count for reason, count in left_out.items() if count}
        if count_of(n) > len(pairs):
            reasons = "; ".join(f"{count} left out: {reason}" for reason, count in told.items())
            because = f" ({reasons})" if reasons else ""
            raise InputError(f"task {self.spec!r} has {len(pairs)} pairs, {n} were asked for{because}")
        return Pairs(tuple(pairs[:n]), self, told)

    def _given(self) -> list[Pair]:
        """The pairs that partners name, each once."""
        items: dict[frozenset[str], Pair] = {}
        for problem in self._problems.values():
            if problem.partner is not None:
                check_name(f"partner of question {problem.key!r}", problem.partner, self._problems)
                donor = self._problems[problem.partner]
                items.setdefault(frozenset((problem.key, donor.key)), Pair(problem, donor, GIVEN))
        return list(items.values())

    def _made(
        self,
        problems: Iterable[Problem],
        rng: np.random.Generator,
        vary: str | None,
        tokenizer: Any,
        left_out: Counter[str],
    ) -> Iterator[Pair]:
        """Each problem with a copy of it in which one number is another."""
        for problem in problems:
            places = [place for place in number_places(problem.pieces) if vary in (None, place.variable)]
            if not places:
                reason = "no counterfactual partner and no number to change"
                left_out[reason if vary is None else f"no number to change in {vary!r}"] += 1
                continue
            found = next(changed_numbers(problem.pieces, places, rng, tokenizer), None)
            if found is None:
                left_out["no other number keeps the tokens where they are"] += 1
                continue
            place, text, pieces = found
            donor = Problem(f"{problem.key} [{place.text} -> {text}]", pieces, "", (), {}, self)
            yield Pair(problem, donor, place.variable)

    def parse_steps(self, text: str) -> list[Step]:
        return self._parse_steps(text)

    def parse_answer(self, text: str) -> str | None:
        return self._parse_answer(text)

    def onset(self, text: str, answer: str) -> tuple[int, int] | None:
        """The first whole match of an answer; of a number, however it is written, where the rule reads numbers."""
        if self.rules[1] not in ("number", "last-number"):
            return super().onset(text, answer)
        return next((m.span() for m in NUMBER.finditer(text) if canonical_number(m[0]) == answer), None)

    def _gold(self, key: str, answer: str) -> str:
        """A gold answer as the rule reads it."""
        rule = self.rules[1]
        if not answer:
            return ""
        # Sets of questions whose solutions are boxed give the answer by itself.
        boxed = f"\\boxed{{{answer}}}" if rule == "boxed" and "\\boxed" not in answer else answer
        found = self.parse_answer(boxed)
        if found is None:
            raise InputError(
                f"question {key!r}: the rule {rule!r} finds no answer in the gold answer {answer!r}; "
                "change the answer, or choose another rule"
            )
        return found


def _steps(cot: str | Iterable[str]) -> tuple[Piece, ...]:
    """A gold chain of thought in pieces."""
    if isinstance(cot, str):
        return (Piece(cot),) if cot else ()
    return tuple(Piece(("\n" if k > 1 else "") + text, f"step.{k}") for k, text in enumerate(cot, start=1))
