"""Tables of traces that a rule must fail or pass, and how they are judged."""

from typing import Any, NamedTuple

from pipeline.rules import load
from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace, Traces

PLAIN = Limits()


class Case(NamedTuple):
    """A trace, what it shows, and the limits it is judged with."""

    shows: str
    trace: Trace
    limits: Limits = PLAIN


Table = dict[str, list[Case]]
"""The cases of each rule, by its name."""


def trace(raw: str, **changes: Any) -> Trace:
    """A sound trace of a maths problem but for what is given."""
    values: dict[str, Any] = {"finish": "stop", "completion_tokens": 10, "thinking": False, "domain": "math"}
    return Trace(raw, **values | changes)


def thinking(reasoning: str, answer: str = "\\boxed{4}", **changes: Any) -> Trace:
    """A sound trace of a teacher that thinks by itself."""
    return trace(f"<think>\n{reasoning}\n</think>\n\n{answer}", thinking=True, **changes)


def figures(rule: str, one: Trace, limits: Limits = PLAIN) -> dict[str, Any] | None:
    """What a rule says of a trace between two sound ones; None where it passes."""
    sound = trace("So 2 + 2 = 4.\n\\boxed{4}")
    found = load(rule)(Traces([sound, one, sound]), limits)
    assert set(found) <= {1}, "a sound trace fails"
    return found.get(1)


def listed(table: Table) -> list[Any]:
    """Every (rule, case) of a table, for parametrize."""
    return [(rule, case) for rule, cases in table.items() for case in cases]


def named(value: Any) -> str:
    return value.shows if isinstance(value, Case) else str(value)
