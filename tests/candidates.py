"""Made-up candidates for tests of what becomes of traces."""

from typing import Any

from pipeline.choosing import Candidate


def trace(number: int, teacher: str = "one", right: bool | None = True, **changes: Any) -> Candidate:
    values: dict[str, Any] = {
        "id": f"t{number}",
        "problem_id": "p",
        "sample": number,
        "completion_tokens": 10,
        "reasons": (),
        "survivor": None,
        "teacher": teacher,
        "right": right,
    }
    if right is False:
        values["reasons"] = (("verify", "wrong_answer"),)
    return Candidate(**values | changes)


def repeats(number: int, survivor: str, **changes: Any) -> Candidate:
    return trace(number, reasons=(("dedupe", "exact_duplicate"),), survivor=survivor, **changes)


def kept(candidates: list[Candidate]) -> list[str]:
    return [one.id for one in candidates if not one.reasons]
