"""The opinions of a judge model on free answers: what it is asked, in either order of the two answers, and what comes
of it.

It decides nothing by an opinion alone (`verifiers/judge.py` says what else it takes).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline import orders, sampling
from pipeline.orders import Order
from pipeline.records import content_id
from pipeline.roles import Judge
from pipeline.stage import Inputs, Output, Progress
from pipeline.think import split
from pipeline.verifiers import Judgement, undecided
from pipeline.verifiers.judge import UNASKED, decided, fenced, verdict
from pipeline.verifiers.judging import Answered, verdict_row

JUDGE = "judge"  # the verifier whose answers need an opinion, and the role that gives it
ERROR_SHARE_LIMIT = 0.05  # more failed opinions than this are an error
FAILED = "judge_failed"  # the judge's own completion failed
UNTRUSTED = "judge_untrusted"  # it calls answers the same that say nothing
DECOYS = (":", "Let's solve this step by step.")
PROBES_LIMIT = 16  # questions that the judge is tried with
FOOLED_LIMIT = 0  # decoys that it may take for an answer

Row = Mapping[str, Any]
Ask = Callable[[Order], Iterable[Row]]  # the stored rows of an order: problem_id, raw, finish


@dataclass
class JudgeModel:
    """The recipe's judge model as a stage asks it, through the store like any other."""

    inputs: Inputs
    output: Output
    unit: str = "opinions"  # what is counted while it is asked
    prompt: str | None = None  # a template in place of the one that the recipe names
    figures: dict[str, Any] = field(default_factory=dict)  # of the asking, once it was asked

    @property
    def role(self) -> Judge:
        judge = self.inputs.judge
        assert judge is not None, "a recipe without a judge model asks none"
        return judge if self.prompt is None else judge.model_copy(update={"prompt": self.prompt})

    @property
    def order(self) -> Order:
        """What it is asked, yet without questions."""
        texts = {name: self.inputs.prompt(name) for name in orders.prompt_names(self.role)}
        return Order(
            role=self.role,
            weights=self.inputs.weights(JUDGE),
            problems=list,
            texts=texts,
            tokenizer=orders.open_tokenizer(self.role, lambda: self.inputs.model(JUDGE), texts),
            sampling=self.role.sampling,
            samples=1,
            max_tokens=self.role.max_tokens,
        )

    def ask(self, order: Order) -> list["Row"]:
        """Its answers; those that the store lacks are asked for, and are in it as soon as they are there."""
        store, figures, _ = sampling.buy(
            [order],
            self.inputs.store,
            lambda: orders.engine_files(self.role, lambda: self.inputs.model(JUDGE)),
            self.output.work / "judge.log",
            lambda done, total, note: self.output.progress(Progress(done, total, self.unit, note)),
            ERROR_SHARE_LIMIT,
        )
        self.figures = figures.facts()
        found = orders.completions(order, store)
        return [{key: row[key] for key in ("problem_id", "raw", "finish")} for row in found]


@dataclass(frozen=True)
class Question:
    """An answer that needs an opinion."""

    problem: str
    gold: str
    given: str

    @property
    def orders(self) -> tuple[str, str]:
        """The two texts that ask for it."""
        return fenced(self.problem, self.gold, self.given), fenced(self.problem, self.given, self.gold)


@dataclass
class Panel:
    """The traces whose verdict waits for an opinion."""

    _waiting: list[tuple[str, str, Question]] = field(default_factory=list)  # problem and trace id

    def take(self, problem_id: str, problem: str, gold: str, verdict: Row) -> bool:
        """Look at a verdict row; True where it must not be written yet: `decided` gives another in its place."""
        if verdict["reasons"] != [UNASKED]:
            return False
        answer = str(json.loads(verdict["detail"])["answer"])
        self._waiting.append((problem_id, verdict["id"], Question(problem, gold, answer)))
        return True

    def decided(self, model: JudgeModel) -> Iterator[tuple[str, dict[str, Any]]]:
        """(problem id, VERDICT row) of every trace that waited."""
        if not self._waiting:
            return
        questions = [question for *_, question in self._waiting]
        judgements = dict(judged(questions, model.order, model.role.thinking, model.ask))
        for problem_id, trace_id, one in self._waiting:
            row = Answered(trace_id, "", "stop", False, one.gold, "judge")
            yield problem_id, verdict_row(row, one.given, judgements[one])


def judged(
    questions: Sequence[Question], base: Order, thinking: bool, ask: Ask
) -> Iterator[tuple[Question, Judgement]]:
    """A judgement of each different question. `base` is the judge's order without problems; `thinking` says that its
    verdict stands after its reasoning.

    With the questions go decoys: answers that say nothing, to some of the same problems. A judge that calls one of them
    the same as the reference is not trusted with any.
    """
    wanted = list(dict.fromkeys(questions))
    if not wanted:
        return
    decoys = [replace(one, given=decoy) for one in wanted[:PROBES_LIMIT] for decoy in DECOYS]
    texts = {content_id("opinion", text): text for one in (*wanted, *decoys) for text in one.orders}
    rows = [{"id": key, "text": text, "task": ""} for key, text in texts.items()]
    said: dict[str, Row] = {texts[row["problem_id"]]: row for row in ask(replace(base, problems=lambda: rows))}
    fooled = sum(any(_opinion(said.get(text), thinking) for text in one.orders) for one in decoys)
    for one in wanted:
        yield one, _judgement(one, said, thinking, fooled, len(decoys))


def _judgement(one: Question, said: Mapping[str, Row], thinking: bool, fooled: int, decoys: int) -> Judgement:
    answers = [said.get(text) for text in one.orders]
    if any(row is None or row["finish"] == "error" for row in answers):
        return undecided(FAILED)
    if fooled > FOOLED_LIMIT:
        return undecided(UNTRUSTED, error=f"it took {fooled} of {decoys} empty answers for the reference")
    return decided(one.given, one.gold, [_opinion(row, thinking) for row in answers])


def _opinion(row: Row | None, thinking: bool) -> bool | None:
    """The verdict of a completion; None where it gives none."""
    said = words(row, thinking)
    return None if said is None else verdict(said)


def words(row: Row | None, thinking: bool) -> str | None:
    """What a completion says, after its reasoning where it has some; None where it was cut off or failed."""
    if row is None or row["finish"] != "stop":
        return None
    raw: str = row["raw"] or ""
    return raw[slice(*split(raw, thinking=True).answer)] if thinking else raw
