"""Rules about the form of a trace: how it ended, its think tags, whether it answers. None looks at what it says."""

from pipeline.rules.limits import Limits
from pipeline.rules.trace import Broken, Traces
from pipeline.text import final_code
from pipeline.think import OPEN


def truncated(traces: Traces, limits: Limits) -> Broken:
    """It ran into the token limit."""
    return {place: {"tokens": one.completion_tokens} for place, one in traces if one.finish == "length"}


def generation_error(traces: Traces, limits: Limits) -> Broken:
    """It ended neither by itself nor at the token limit."""
    return {place: {"finish": one.finish} for place, one in traces if one.finish not in ("stop", "length")}


def answer_missing(traces: Traces, limits: Limits) -> Broken:
    """Neither a final answer (see `pipeline.text.answer_span`) nor a program stands after the reasoning."""
    return {place: {} for place, one in traces if one.final is None and final_code(one.answer) is None}


def think_missing(traces: Traces, limits: Limits) -> Broken:
    """A thinking teacher wrote no think tag at all."""
    return _faulty(traces, "think_missing")


def think_doubled(traces: Traces, limits: Limits) -> Broken:
    """More than one think tag of a kind, one opened after the reasoning was closed, or any from a teacher that does not
    think natively.
    """
    return _faulty(traces, "think_doubled") | {
        place: {} for place, one in traces if one.thinking and OPEN in one.answer
    }


def think_unclosed(traces: Traces, limits: Limits) -> Broken:
    """The reasoning was opened and never closed."""
    return _faulty(traces, "think_unclosed")


def think_empty(traces: Traces, limits: Limits) -> Broken:
    """The tags are there and nothing stands between them."""
    return _faulty(traces, "think_empty")


def _faulty(traces: Traces, name: str) -> Broken:
    return {place: {} for place, one in traces if name in one.parts.faults}
