"""The one place that knows the think tags: it splits a completion, and lays out the traces a student is trained on.

A laid-out trace is a list of spans over the raw completion, copied or inserted, so that every character the student
learns maps back to the teacher's. It renders no chat (`templates.py`).
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from pipeline.text import answer_mark, code_span

OPEN = "<think>"
CLOSE = "</think>"

# A display formula that opens on a line before the mark of an answer in it.
_DISPLAY = re.compile(r"(?:\$\$|\\\[)[ \t]*\n\s*\Z")
_DISPLAY_LENGTH = 20

TraceFormat = Literal["think", "plain", "answer"]


class Span(TypedDict):
    """raw[start:end] where text is None; the inserted text otherwise, with start and end None."""

    start: int | None
    end: int | None
    text: str | None


@dataclass(frozen=True)
class Split:
    """A completion in two: reasoning and answer as (start, end) in characters, and what is wrong with its tags."""

    reasoning: tuple[int, int]
    answer: tuple[int, int]
    faults: tuple[str, ...]  # think_missing | think_doubled | think_unclosed | think_empty


def copied(start: int, end: int) -> Span:
    return Span(start=start, end=end, text=None)


def inserted(text: str) -> Span:
    return Span(start=None, end=None, text=text)


def split(raw: str, thinking: bool, code: bool = False) -> Split:
    """Reasoning and answer of a raw completion. `code`: the answer is a program, in a code block.

    A teacher that thinks natively (`thinking`) writes tags, or its prompt already opened one; the reasoning is what
    stands before the closing tag. Any other teacher writes no tags: its reasoning is all before the line of its final
    answer, or of its last code block, and the answer is the rest; without either all of it is reasoning. Tags that a
    teacher without thinking writes all the same are a fault.
    """
    opens, closes = raw.count(OPEN), raw.count(CLOSE)
    if not thinking:
        doubled: tuple[str, ...] = ("think_doubled",) if opens or closes else ()
        line = _answer_line(raw, code)
        return Split((0, line), (line, len(raw)), doubled)
    if closes == 0:
        start = raw.find(OPEN) + len(OPEN) if opens else 0
        fault = "think_unclosed" if opens else "think_missing"
        return Split((start, len(raw)), (len(raw), len(raw)), (fault,))
    close = raw.find(CLOSE)
    start = raw.find(OPEN) + len(OPEN) if OPEN in raw[:close] else 0
    faults = tuple(
        name
        for name, broken in (
            ("think_doubled", opens > 1 or closes > 1),
            ("think_empty", not raw[start:close].strip()),
        )
        if broken
    )
    return Split((start, close), (close + len(CLOSE), len(raw)), faults)


def _answer_line(raw: str, code: bool) -> int:
    """Where the line begins that marks the final answer, with a display formula that it stands in; or the line that
    opens the last code block; else the end.
    """
    mark = None if code else answer_mark(raw)
    if mark is not None:
        display = _DISPLAY.search(raw, max(0, mark[0] - _DISPLAY_LENGTH), mark[0])
        return raw.rfind("\n", 0, mark[0] if display is None else display.start()) + 1
    block = code_span(raw)
    return len(raw) if block is None else raw.rfind("\n", 0, block[0] - 1) + 1


def lay_out(raw: str, thinking: bool, trace_format: TraceFormat, code: bool = False, ended: bool = True) -> list[Span]:
    r"""The spans of a training completion. `code`: the answer is a program, in a code block.

    `plain` copies the raw text. `think` copies the reasoning between think tags and the answer after them; where a
    teacher without thinking wrote its answer within its only line, the line is the reasoning and the answer is copied
    again after it with what marks it (`text.answer_mark`), so that whoever reads the student finds it. Reasoning that
    was cut off (not `ended`) is not closed for it.
    `answer` copies the answer alone: what follows the reasoning of a teacher that thinks, a program, or else
    the answer with its mark; nothing where there is no answer.
    """
    first, last = _trimmed(raw, (0, len(raw)))
    if trace_format == "plain":
        return [copied(first, last)]
    parts = split(raw, thinking, code)
    reasoning, answer = _trimmed(raw, parts.reasoning), _trimmed(raw, parts.answer)
    if not thinking and (trace_format == "answer" or reasoning[0] == reasoning[1]):
        reasoning, answer = (first, last), answer if code else answer_mark(raw) or (len(raw), len(raw))
    if trace_format == "answer":
        return [copied(*answer)] if answer[0] < answer[1] else []
    unclosed = not ended and answer[0] == answer[1] and CLOSE not in raw
    spans = [inserted(f"{OPEN}\n"), copied(*reasoning)]
    if not unclosed:
        spans += [inserted(f"\n{CLOSE}\n\n"), copied(*answer)]
    return [span for span in spans if span["text"] is not None or span["start"] != span["end"]]


def writes_tags(trace_format: TraceFormat, teachers: Collection[bool]) -> bool | None:
    """Whether a student of such traces writes think tags; None: now and then. teachers: for each of them, whether it
    thinks natively.
    """
    if trace_format == "plain":
        return None if len(set(teachers)) > 1 else any(teachers)
    return trace_format == "think"


def has_tags(raw: str) -> bool:
    """Whether a completion has any think tag."""
    return OPEN in raw or CLOSE in raw


def _trimmed(raw: str, span: tuple[int, int]) -> tuple[int, int]:
    start, end = span
    while start < end and raw[start].isspace():
        start += 1
    while end > start and raw[end - 1].isspace():
        end -= 1
    return (start, end)


def assemble(raw: str, spans: Sequence[Span | dict[str, Any]]) -> str:
    """The text that spans make of a raw completion."""
    return "".join(raw[span["start"] : span["end"]] if span["text"] is None else span["text"] for span in spans)
