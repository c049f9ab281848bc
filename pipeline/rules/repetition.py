"""Rules about traces that repeat themselves: a looping tail, repeated n-grams, repeated lines.

They compare a trace with itself only; traces that repeat each other are for `stages/dedupe.py`.
"""

from collections.abc import Sequence

from pipeline.rules.limits import Limits
from pipeline.rules.trace import Broken, Trace, Traces

_SHORT_GRAM = 3
_LAST_WORDS = 6  # a tail that loops says its last words twice: of one that does not, nothing else is computed


def looping_tail(traces: Traces, limits: Limits) -> Broken:
    """It ends on the same words again and again."""
    found: Broken = {}
    for place, one in traces:
        period, times = tail_period(one.words, limits)
        if times:
            found[place] = {"period_words": period, "times": times}
    return found


def repeated_ngrams(traces: Traces, limits: Limits) -> Broken:
    """Too large a share of its words stands in n-grams that stood before (Rae et al. 2021, Gopher, table A1, with
    n-grams over words so that numbers count).
    """
    found: Broken = {}
    for place, one in traces:
        if len(one.words) >= limits.repetition_min_words and may_repeat(one.words, limits):
            share = repeated_ngram_share(one.words, limits.ngram_words)
            if share > limits.repeated_ngram_share:
                found[place] = {"share": round(share, 4), "limit": limits.repeated_ngram_share}
    return found


def repeated_lines(traces: Traces, limits: Limits) -> Broken:
    """Too large a share of its characters stands in lines that stood before."""
    found: Broken = {}
    for place, one in traces:
        if len(one.words) >= limits.repetition_min_words:
            share = repeated_line_share(one)
            if share > limits.repeated_line_share:
                found[place] = {"share": round(share, 4), "limit": limits.repeated_line_share}
    return found


def tail_period(words: Sequence[str], limits: Limits) -> tuple[int, int]:
    """(period in words, times) of the shortest unit that the words end on again and again; (0, 0) where none is.

    Linear in the words: `agreements` gives every period of the tail at once.
    """
    shortest = max(limits.loop_min_words, limits.loop_times)
    if len(words) < shortest or not _says_its_end_twice(words, min(_LAST_WORDS, shortest // 2)):
        return 0, 0
    same = agreements(words[::-1])
    for period in range(1, min(limits.loop_max_period, len(words) // limits.loop_times) + 1):
        length = same[period] + period
        if length >= max(limits.loop_min_words, limits.loop_times * period):
            return period, length // period
    return 0, 0


def _says_its_end_twice(words: Sequence[str], size: int) -> bool:
    text = " ".join(words)
    last = text[1 - 2 * size :]  # within the last `size` words, however short they are
    return text.rfind(last, 0, len(text) - 1) >= 0


def agreements(words: Sequence[str]) -> list[int]:
    """For each place, how many words from there on equal the words from the start on (Gusfield 1997, Z algorithm):
    2 n comparisons for n words.
    """
    count = len(words)
    found = [count] + [0] * (count - 1)
    left = right = 0  # the stretch that reaches furthest among those known to equal the start
    for place in range(1, count):
        same = min(right - place, found[place - left]) if place < right else 0
        while place + same < count and words[same] == words[place + same]:
            same += 1
        found[place] = same
        if place + same > right:
            left, right = place, place + same
    return found


def may_repeat(words: Sequence[str], limits: Limits) -> bool:
    """False where the share of words in repeated n-grams is certainly within its limit, at a fraction of its cost.

    Within an n-gram that stood before, every k-gram stood before: n - k + 1 of them for n words at most.
    """
    size, least = limits.ngram_words, limits.repeated_ngram_share * len(words)
    if len(words) - len(set(words)) < least:
        return False
    short = min(_SHORT_GRAM, size)
    grams = max(0, len(words) - short + 1)
    repeated = grams - len(set(zip(*(words[start:] for start in range(short)), strict=False)))
    return repeated >= least * (size - short + 1) / size


def repeated_ngram_share(words: Sequence[str], size: int) -> float:
    """The share of words that stand in an n-gram of `size` words which stood before."""
    if not words:
        return 0.0
    grams = list(zip(*(words[start:] for start in range(size)), strict=False))
    if len(set(grams)) == len(grams):
        return 0.0
    seen: set[tuple[str, ...]] = set()
    covered = bytearray(len(words))
    for start, gram in enumerate(grams):
        if gram in seen:
            covered[start : start + size] = b"\1" * size
        seen.add(gram)
    return sum(covered) / len(words)


def repeated_line_share(trace: Trace) -> float:
    """The share of characters in lines that stood before, white space around them aside. Lines without a letter or a
    digit (rules, brackets of displayed formulas) count as none.
    """
    lines = [stripped for line in trace.folded.splitlines() if (stripped := line.strip())]
    if len(set(lines)) == len(lines):
        return 0.0
    seen: set[str] = set()
    total = repeated = 0
    for line in lines:
        if any(character.isalnum() for character in line):
            total += len(line)
            repeated += len(line) if line in seen else 0
            seen.add(line)
    return repeated / total if total else 0.0
