"""Rules about what a trace says: code where none is wanted, refusals, and talk about itself instead of the problem.

They know English phrases only. The patterns are RE2's, which has no backtracking.
"""

from pipeline.rules.limits import Limits
from pipeline.rules.trace import Broken, Traces

_FENCE = r"(?m)^[ \t]{0,12}(?:```|~~~)|\\begin\{(?:lstlisting|minted|verbatim)\}"
_I_AM = r"\bi(?: am|['\x{2019}]m)"
_NOT = r"cannot|can['\x{2019}]t|can not|won['\x{2019}]t|will not|must decline to"
_CANNOT = rf"(?:\bi (?:{_NOT})|{_I_AM} (?:unable|not able) to)"
_REFUSED = (
    r"(?:assist|help|comply|fulfill?|provide (?:that|this|you|an? answer|assistance)|answer (?:that|this|your))\b"
)
_REFUSAL = (
    rf"{_CANNOT} {_REFUSED}"
    rf"|{_I_AM} sorry,? but (?:no\b|as an?\b|{_CANNOT})"
    r"|\bi (?:apologi[sz]e|regret),? but (?:i cannot|i can['\x{2019}]t|i am unable|i['\x{2019}]m unable)"
)
_META = (
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    rf"|{_I_AM}(?: just| only)? an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bmy (?:training data|knowledge cut-?off|system prompt)\b"
    rf"|{_I_AM} (?:chatgpt|deepseek|qwen)\b"
)


def code_block(traces: Traces, limits: Limits) -> Broken:
    """A code fence opens a line, or a LaTeX listing begins, in a domain that wants none."""
    found = traces.find(_FENCE)
    return {
        place: {"at": figures["at"]}
        for place, figures in found.items()
        if traces.rows[place].domain in limits.code_free_domains
    }


def refusal(traces: Traces, limits: Limits) -> Broken:
    """It declines to answer."""
    return traces.find(_REFUSAL, ignore_case=True)


def meta_talk(traces: Traces, limits: Limits) -> Broken:
    """It talks of being a model."""
    return traces.find(_META, ignore_case=True)
