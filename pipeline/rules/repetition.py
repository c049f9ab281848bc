"""The rule about traces that repeat themselves: a looping tail, repeated n-grams, repeated lines.

It compares a trace with itself only; traces that repeat each other are for `stages/dedupe.py`.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace
from pipeline.text import fold


def repetition(trace: Trace, limits: Limits) -> dict[str, Any] | None:
    """The first of the three measures that is over its limit: the tail, then n-grams, then lines.

    The shares follow Rae et al. 2021 (Gopher, table A1), with n-grams over words so that numbers count.
    """
    period, times = looping_tail(trace.words, limits)
    if times:
        return {"measure": "looping_tail", "period_words": period, "times": times}
    if len(trace.words) < limits.repetition_min_words:
        return None
    share = repeated_ngram_share(trace.words, limits.ngram_words)
    if share > limits.repeated_ngram_share:
        return {"measure": "repeated_ngrams", "share": round(share, 4), "limit": limits.repeated_ngram_share}
    share = repeated_line_share(trace.raw)
    if share > limits.repeated_line_share:
        return {"measure": "repeated_lines", "share": round(share, 4), "limit": limits.repeated_line_share}
    return None


def looping_tail(words: Sequence[str], limits: Limits) -> tuple[int, int]:
    """(period in words, times) of the shortest unit that the words end on again and again; (0, 0) where none is."""
    for period in range(1, min(limits.loop_max_period, len(words) // limits.loop_times) + 1):
        same = 0
        while same + period < len(words) and words[-1 - same] == words[-1 - same - period]:
            same += 1
        length = same + period
        if length >= max(limits.loop_min_words, limits.loop_times * period):
            return period, length // period
    return 0, 0


def repeated_ngram_share(words: Sequence[str], size: int) -> float:
    """The share of words that stand in an n-gram of `size` words which stood before."""
    seen: set[tuple[str, ...]] = set()
    covered = bytearray(len(words))
    for start in range(len(words) - size + 1):
        gram = tuple(words[start : start + size])
        if gram in seen:
            covered[start : start + size] = b"\1" * size
        seen.add(gram)
    return sum(covered) / len(words) if words else 0.0


def repeated_line_share(raw: str) -> float:
    """The share of characters in lines that stood before, white space aside. Lines without a letter or a digit (rules,
    brackets of displayed formulas) count as none.
    """
    seen: set[str] = set()
    total = repeated = 0
    for line in raw.splitlines():
        folded = fold(line)
        if any(character.isalnum() for character in folded):
            total += len(folded)
            repeated += len(folded) if folded in seen else 0
            seen.add(folded)
    return repeated / total if total else 0.0
