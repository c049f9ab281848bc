"""How well a judge model finds right traces reasoned and written, as a number from 1 to 10, so that the best of a
problem can be preferred.

It keeps and drops nothing (`stages/mix.py` does), and never asks about a wrong trace: a rating says nothing of whether
an answer is right.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.opinions import DECOYS, PROBES_LIMIT, JudgeModel, words
from pipeline.records import content_id
from pipeline.verifiers.judge import fence

PROMPT = "rate"  # the template, in place of the judge's own
BEST = 10
DECOY_LIMIT = 3  # a judge that rates a text which says nothing higher than this is trusted with no rating
_RATING = re.compile(r"[*_`]*rating\s*:\s*[*_`]*\s*(\d{1,2})(?:\s*/\s*10)?[*_`]*\.?[*_`]*", re.IGNORECASE)


@dataclass(frozen=True)
class Work:
    """A right trace."""

    trace_id: str
    problem: str
    raw: str

    @property
    def question(self) -> str:
        """The text that asks for a rating."""
        return fence({"QUESTION": self.problem, "SOLUTION": self.raw})


def rated(works: Sequence[Work], model: JudgeModel) -> Iterator[tuple[str, float | None]]:
    """(trace id, rating from 1 to 10) of each trace: None where the judge gave none in the form it is asked for, or the
    trace itself holds one.

    With the traces go decoys, texts that say nothing. A judge that rates one of them above DECOY_LIMIT is not trusted.
    """
    if not works:
        return
    asked = [one for one in works if not _RATING.search(one.raw)]
    decoys = [replace(one, raw=decoy) for one in asked[:PROBES_LIMIT] for decoy in DECOYS]
    keys = {one.question: content_id("rating", one.question) for one in (*asked, *decoys)}
    rows = [{"id": key, "text": text, "task": ""} for text, key in keys.items()]
    said = {row["problem_id"]: row for row in model.ask(replace(model.order, problems=lambda: rows))}
    thinking = model.role.thinking
    found = {text: _rating(said.get(key), thinking) for text, key in keys.items()}
    trusted = all((found[one.question] or 0) <= DECOY_LIMIT for one in decoys)
    for one in works:
        yield one.trace_id, found.get(one.question) if trusted else None


def _rating(row: Mapping[str, Any] | None, thinking: bool) -> float | None:
    said = words(row, thinking)
    return None if said is None else rating(said)


def rating(said: str) -> float | None:
    """What a judge says: None for anything but exactly one rating from 1 to 10, on the last line."""
    lines = [line.strip() for line in said.strip().splitlines()]
    found = _RATING.fullmatch(lines[-1]) if lines else None
    if found is None or len(_RATING.findall(said)) != 1 or not 1 <= int(found[1]) <= BEST:
        return None
    return float(found[1])
