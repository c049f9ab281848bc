"""Rules about the form of a trace: how it ended, its think tags, whether it answers. None looks at what it says."""

from typing import Any

from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace
from pipeline.text import final_answer, final_code


def truncated(trace: Trace, limits: Limits) -> dict[str, Any] | None:
    """It ran into the token limit."""
    return {"tokens": trace.completion_tokens} if trace.finish == "length" else None


def generation_error(trace: Trace, limits: Limits) -> dict[str, Any] | None:
    """It ended neither by itself nor at the token limit."""
    return None if trace.finish in ("stop", "length") else {"finish": trace.finish}


def answer_missing(trace: Trace, limits: Limits) -> dict[str, Any] | None:
    """Neither a final answer (see `pipeline.text.answer_span`) nor a program stands after the reasoning."""
    start, end = trace.parts.answer
    answer = trace.raw[start:end]
    return {} if final_answer(answer) is None and final_code(answer) is None else None


def think_missing(trace: Trace, limits: Limits) -> dict[str, Any] | None:
    """A thinking teacher wrote no think tag at all."""
    return _fault(trace, "think_missing")


def think_doubled(trace: Trace, limits: Limits) -> dict[str, Any] | None:
    """More than one think tag of a kind, or any from a teacher that does not think natively."""
    return _fault(trace, "think_doubled")


def think_unclosed(trace: Trace, limits: Limits) -> dict[str, Any] | None:
    """The reasoning was opened and never closed."""
    return _fault(trace, "think_unclosed")


def think_empty(trace: Trace, limits: Limits) -> dict[str, Any] | None:
    """The tags are there and nothing stands between them."""
    return _fault(trace, "think_empty")


def _fault(trace: Trace, name: str) -> dict[str, Any] | None:
    return {} if name in trace.parts.faults else None
