"""Rules about what a trace says: code where none is wanted, and talk about itself instead of the problem.

They know English phrases only.
"""

import re
from typing import Any

from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace

_FENCE = re.compile(r"^[ \t]{0,12}(?:```|~~~)", re.MULTILINE)
_META = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi(?: am|['\u2019]m)(?: just)? an? (?:ai|(?:large )?language model)\b"
    r"|\bi(?: am|['\u2019]m) (?:sorry|unable to|not able to)\b"
    r"|\bi (?:cannot|can['\u2019]t|can not) (?:assist|help|answer|provide|comply)\b"
    r"|\bmy (?:training data|knowledge cutoff)\b",
    re.IGNORECASE,
)


def code_block(trace: Trace, limits: Limits) -> dict[str, Any] | None:
    """A code fence opens a line, in a domain that wants none."""
    found = _FENCE.search(trace.raw) if trace.domain in limits.code_free_domains else None
    return None if found is None else {"at": found.start()}


def meta_talk(trace: Trace, limits: Limits) -> dict[str, Any] | None:
    """A refusal, an excuse, or talk of being a model."""
    found = _META.search(trace.raw)
    return None if found is None else {"at": found.start(), "text": found[0]}
