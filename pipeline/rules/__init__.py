"""The shelf of trace filters: the table of those that ship, in the order in which a verdict lists their reasons.

It imports none of them (`load` does, by name) and holds no thresholds (`limits.py` does). A rule's name is the slug of
its reason.

A trace is listed under every rule that it breaks, and the funnel shows the first. So causes stand before what follows
from them: an engine's failure, the token limit, a loop that ran into it, the form that either destroys, then what the
trace says, and last what is a matter of taste. Patterns over whole completions are RE2's (`Traces.search`), which
cannot backtrack.
"""

from collections.abc import Callable
from importlib import import_module

from pipeline.rules.limits import Limits
from pipeline.rules.trace import Broken, Traces

Rule = Callable[[Traces, Limits], Broken]
"""A rule takes a batch of traces and the thresholds, and gives those that break it with the figures behind that."""

# name -> the module and the function in it that is the rule
RULES = {
    "generation_error": ("pipeline.rules.structure", "generation_error"),
    "truncated": ("pipeline.rules.structure", "truncated"),
    "looping_tail": ("pipeline.rules.repetition", "looping_tail"),
    "repeated_ngrams": ("pipeline.rules.repetition", "repeated_ngrams"),
    "repeated_lines": ("pipeline.rules.repetition", "repeated_lines"),
    "think_missing": ("pipeline.rules.structure", "think_missing"),
    "think_doubled": ("pipeline.rules.structure", "think_doubled"),
    "think_unclosed": ("pipeline.rules.structure", "think_unclosed"),
    "think_empty": ("pipeline.rules.structure", "think_empty"),
    "chat_token": ("pipeline.rules.leaks", "chat_token"),
    "prompt_leaked": ("pipeline.rules.leaks", "prompt_leaked"),
    "refusal": ("pipeline.rules.content", "refusal"),
    "answer_missing": ("pipeline.rules.structure", "answer_missing"),
    "answer_differs": ("pipeline.rules.conclusion", "answer_differs"),
    "meta_talk": ("pipeline.rules.content", "meta_talk"),
    "languages_mixed": ("pipeline.rules.languages", "languages_mixed"),
    "language_differs": ("pipeline.rules.languages", "language_differs"),
    "code_block": ("pipeline.rules.content", "code_block"),
    "long_paragraph": ("pipeline.rules.length", "long_paragraph"),
    "too_short": ("pipeline.rules.length", "too_short"),
    "too_long": ("pipeline.rules.length", "too_long"),
    "short_for_problem": ("pipeline.rules.length", "short_for_problem"),
    "long_for_problem": ("pipeline.rules.length", "long_for_problem"),
}


def load(name: str) -> Rule:
    """The rule of a name in RULES, imported now. Raises ValueError for any other name."""
    if name not in RULES:
        raise ValueError(f"there is no rule named {name!r}: use one of {', '.join(RULES)}")
    module, function = RULES[name]
    rule: Rule = getattr(import_module(module), function)
    return rule
