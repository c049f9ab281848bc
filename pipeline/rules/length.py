"""Rules about the length of a trace in the teacher's tokens. Running into the token limit is not theirs."""

from typing import Any

from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace


def too_short(trace: Trace, limits: Limits) -> dict[str, Any] | None:
    """Fewer completion tokens than `min_tokens`."""
    if trace.completion_tokens >= limits.min_tokens:
        return None
    return {"tokens": trace.completion_tokens, "limit": limits.min_tokens}


def too_long(trace: Trace, limits: Limits) -> dict[str, Any] | None:
    """More completion tokens than `max_tokens`."""
    if limits.max_tokens is None or trace.completion_tokens <= limits.max_tokens:
        return None
    return {"tokens": trace.completion_tokens, "limit": limits.max_tokens}
