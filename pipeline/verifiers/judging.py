"""Completions in, verdict rows out: the one function that `verify` and `eval` judge with.

It knows no kind of answer (the shelf does) and no process (`pool.py` does).
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.text import final_answer, final_code
from pipeline.think import split
from pipeline.verifiers import VERIFIERS, Judgement, undecided
from pipeline.verifiers.pool import Item, Pool

OUTCOMES = {"right": "pass", "wrong": "fail", "undecided": "undecided"}
DETAIL_LIMIT = 2000  # characters of an answer kept in a verdict
# How the final answer of a completion is found, for verifiers whose answers are no line of text.
FINDERS: dict[str, Callable[[str], str | None]] = {"code": final_code}


@dataclass(frozen=True)
class Answered:
    """A completion and what it is judged against."""

    id: str  # of the trace; the verdict takes it over
    raw: str  # the completion's text
    finish: str  # stop | length | error
    thinking: bool  # it is in the think format: its answer stands after the closing tag
    answer: str  # the reference answer
    verifier: str  # a name in VERIFIERS
    verifier_data: str = "{}"  # JSON


def judge_rows(rows: Iterable[Answered], pool: Pool) -> Iterator[dict[str, Any]]:
    """One VERDICT row for each completion, as they are decided, in any order; at most a few hundred are held at once.

    right is `pass`; wrong is `fail` with wrong_answer, or for a program with program_failed, time_limit, memory_limit
    or output_limit; no final answer is `fail` with answer_missing; what could not be judged is `undecided` with its
    cause: gold_unparseable, answer_unparseable, unverifiable, verifier_timeout, verifier_memory, verifier_crash, or
    generation_error where the completion itself failed. A completion in the think
    format without a closing tag never reached its answer: answer_missing. A completion cut off by its limit that still
    gives a final answer is judged by what it says; a filter, not a judge, drops it.

    Raises ValueError for a verifier that is not on the shelf, PoolError (a ValueError) for one that cannot be loaded.
    """
    waiting: dict[int, tuple[Answered, str | None]] = {}

    def items() -> Iterator[Item | Judgement]:
        for index, row in enumerate(rows):
            answer = answer_of(row)
            waiting[index] = (row, answer)
            yield _item(row, answer)

    for index, judgement in pool.judge(items()):
        yield verdict_row(*waiting.pop(index), judgement)


def answer_of(row: Answered) -> str | None:
    """The final answer of a completion as written, or None. In the think format only what follows the reasoning
    counts."""
    if row.finish == "error":
        return None
    find = FINDERS.get(row.verifier, final_answer)
    if not row.thinking:
        return find(row.raw)
    start, end = split(row.raw, thinking=True).answer
    return find(row.raw[start:end])


def verdict_row(row: Answered, answer: str | None, judgement: Judgement) -> dict[str, Any]:
    """A VERDICT row of a judgement."""
    detail = {"answer": _short(answer), "gold": _short(row.answer)} | judgement.detail
    return {
        "id": row.id,
        "outcome": OUTCOMES[judgement.outcome],
        "reasons": [] if judgement.reason is None else [judgement.reason],
        "score": judgement.score,
        "detail": json.dumps(detail, ensure_ascii=False, sort_keys=True),
    }


def _item(row: Answered, answer: str | None) -> Item | Judgement:
    if row.verifier not in VERIFIERS:
        known = ", ".join(sorted(VERIFIERS))
        raise ValueError(f"trace {row.id} asks for the verifier {row.verifier!r}, which does not exist: use {known}")
    if row.finish == "error":
        return undecided("generation_error")
    if answer is None:
        return Judgement("wrong", "answer_missing", 0.0)
    return Item(row.verifier, answer, row.answer, row.verifier_data)


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= DETAIL_LIMIT else text[:DETAIL_LIMIT] + "…"
