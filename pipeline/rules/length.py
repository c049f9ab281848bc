"""Rules about the length of a trace in the teacher's tokens, and of its paragraphs. Running into the token limit is not
theirs.
"""

from collections.abc import Callable

import pyarrow.compute as pc

from pipeline.rules.limits import Limits
from pipeline.rules.trace import Broken, Traces


def too_short(traces: Traces, limits: Limits) -> Broken:
    """Fewer completion tokens than `min_tokens`."""
    return {
        place: {"tokens": one.completion_tokens, "limit": limits.min_tokens}
        for place, one in traces
        if one.completion_tokens < limits.min_tokens
    }


def too_long(traces: Traces, limits: Limits) -> Broken:
    """More completion tokens than `max_tokens`."""
    if limits.max_tokens is None:
        return {}
    return {
        place: {"tokens": one.completion_tokens, "limit": limits.max_tokens}
        for place, one in traces
        if one.completion_tokens > limits.max_tokens
    }


def short_for_problem(traces: Traces, limits: Limits) -> Broken:
    """More than `length_ratio` times shorter than the median of its problem's other traces."""
    return _beside_others(traces, limits, lambda tokens, others, ratio: tokens * ratio < others)


def long_for_problem(traces: Traces, limits: Limits) -> Broken:
    """More than `length_ratio` times longer than the median of its problem's other traces."""
    return _beside_others(traces, limits, lambda tokens, others, ratio: tokens > others * ratio)


def _beside_others(traces: Traces, limits: Limits, breaks: Callable[[int, float, float], bool]) -> Broken:
    ratio = limits.length_ratio
    if ratio is None:
        return {}
    return {
        place: {"tokens": one.completion_tokens, "others_median": one.others_tokens}
        for place, one in traces
        if one.others_tokens is not None and breaks(one.completion_tokens, one.others_tokens, ratio)
    }


def long_paragraph(traces: Traces, limits: Limits) -> Broken:
    """More than `paragraph_chars` characters without a line break."""
    limit = limits.paragraph_chars
    if limit is None:
        return {}
    found: Broken = {}
    for place in pc.indices_nonzero(pc.greater(pc.utf8_length(traces.raw), limit)).to_pylist():
        longest = max(len(line.strip()) for line in traces.rows[place].raw.splitlines())
        if longest > limit:
            found[place] = {"chars": longest, "limit": limit}
    return found
