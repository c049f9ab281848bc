"""The shelf of trace filters: the table of those that ship, in the order in which a verdict lists their reasons.

It imports none of them (`load` does, by name) and holds no thresholds (`limits.py` does). A rule's name is the slug of
its reason.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace

Rule = Callable[[Trace, Limits], dict[str, Any] | None]
"""A rule takes a trace and the thresholds. It gives None where the trace passes, else the figures that broke it, as
JSON values."""

# name -> the module and the function in it that is the rule
RULES = {
    "generation_error": ("pipeline.rules.structure", "generation_error"),
    "truncated": ("pipeline.rules.structure", "truncated"),
    "repetition": ("pipeline.rules.repetition", "repetition"),
    "think_missing": ("pipeline.rules.structure", "think_missing"),
    "think_doubled": ("pipeline.rules.structure", "think_doubled"),
    "think_unclosed": ("pipeline.rules.structure", "think_unclosed"),
    "think_empty": ("pipeline.rules.structure", "think_empty"),
    "answer_missing": ("pipeline.rules.structure", "answer_missing"),
    "too_short": ("pipeline.rules.length", "too_short"),
    "too_long": ("pipeline.rules.length", "too_long"),
    "code_block": ("pipeline.rules.content", "code_block"),
    "meta_talk": ("pipeline.rules.content", "meta_talk"),
}


def load(name: str) -> Rule:
    """The rule of a name in RULES, imported now. Raises ValueError for any other name."""
    if name not in RULES:
        raise ValueError(f"there is no rule named {name!r}: use one of {', '.join(RULES)}")
    module, function = RULES[name]
    rule: Rule = getattr(import_module(module), function)
    return rule
