"""Adaptive sampling: who says that a problem has right answers enough, and what is remembered of it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from pipeline.orders import Order, Row
from pipeline.records import content_id
from pipeline.schedule import Decision
from pipeline.section import Section
from pipeline.verifiers.judging import Answered, judge_rows
from pipeline.verifiers.pool import Pool

References = Mapping[str, tuple[str, str, str]]  # problem id -> (reference answer, verifier, verifier_data)
Judge = Callable[[str, Row], str]  # problem id and stored row -> pass, fail or undecided

REFERENCE = ("id", "answer", "verifier", "verifier_data")  # columns of seed's problems
DECIDED = ("first_trace_id", "asked", "samples", "right_wanted")  # columns of the decisions of an earlier run


class Adaptive(Section):
    """When a problem has samples enough. Judging is `verify`'s, with these limits of one answer."""

    right: int = Field(ge=1)  # right answers to a problem after which it gets no more samples
    # What becomes of problems decided earlier whose answers are judged otherwise today: their missing samples are
    # listed, or bought.
    decisions: Literal["keep", "renew"] = "keep"
    timeout_s: float = Field(10.0, gt=0)
    memory_mib: int = Field(1024, ge=64)


def references(table: pa.Table) -> References:
    """What completions are judged against, from a table of the columns REFERENCE."""
    columns = (table.column(name).to_pylist() for name in REFERENCE)
    return {id: (answer, verifier, data or "{}") for id, answer, verifier, data in zip(*columns, strict=True)}


def judging(known: References, pool: Pool, thinking: bool) -> Judge:
    """The judge of a teacher's completions while they come; thinking: whether they begin with a think block."""

    def judge(problem_id: str, row: Row) -> str:
        answer, verifier, data = known[problem_id]
        one = Answered(row["id"], row["raw"] or "", row["finish"], thinking, answer, verifier, data)
        return str(next(judge_rows([one], pool))["outcome"])

    return judge


def settled(rule: Adaptive | None, samples: int, earlier: Iterable[Row]) -> dict[str, int]:
    """The id of a problem's first sample -> how many it was given, for problems decided earlier by the same rule."""
    if rule is None or rule.decisions == "renew":
        return {}
    return {
        row["first_trace_id"]: row["asked"]
        for row in earlier
        if (row["samples"], row["right_wanted"]) == (samples, rule.right)
    }


def decision_row(rule: Adaptive, order: Order, decision: Decision) -> dict[str, Any]:
    """A row of the decisions (`records.DECISION`)."""
    return {
        "id": content_id("decision", decision.first_trace_id),
        "problem_id": decision.problem_id,
        "teacher": order.role.label,
        "first_trace_id": decision.first_trace_id,
        "asked": decision.asked,
        "right": decision.outcomes["pass"],
        "wrong": decision.outcomes["fail"],
        "undecided": decision.outcomes["undecided"],
        "samples": order.samples,
        "right_wanted": rule.right,
        "would_add": decision.would_add,
    }
