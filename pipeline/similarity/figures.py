"""Whether two near-equal texts give the same numbers, or one gives others in the same place.

It does not ask how alike the words are (`repeats.py` does).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.similarity.tokens import DIGIT, SIGN, Hashes, Places, Tokens, mix, plain, span_hashes, windows

_FORMULA = np.uint64(0xA24BAED4963EE407)  # stands for any formula among words
_WINDOW = 5  # words; a formula counts as one
_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_TENS = ("thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WRITTEN = {
    **{word: str(value) for value, word in enumerate(_NUMBER_WORDS)},
    **{word: str(value) for value, word in zip(range(30, 100, 10), _TENS, strict=True)},
    "hundred": "100",
    "thousand": "1000",
    "million": "1000000",
    "half": "0.5",
}
_OPERATORS = {**{sign: sign for sign in "+-*/^=<>≤≥≠±%"}, **{"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/"}}


@dataclass(frozen=True)
class Figures:
    """The numbers of a text and what stands around them. A formula is a run of numbers and operators."""

    words: Hashes  # everything but formulas, in order
    formulas: Hashes  # in order
    values: Hashes  # the numbers, sorted, as often as they stand there
    contexts: Hashes  # for each window of words with a formula in it: its words
    readings: Hashes  # likewise: its words and its formulas


def figures(text: str) -> Figures:
    """Read a text. Windows end with the sentence or the line, so that sentences may change places."""
    found = plain([text])
    hashes = _translated(found)
    is_number = (found.kinds == DIGIT) | np.isin(found.hashes, _WRITTEN_AS[0])
    first, last = _formulas(found, hashes, is_number)
    spelled = span_hashes(hashes, first, last + 1)
    depth = np.zeros(len(hashes) + 1, dtype=np.int64)
    depth[first] += 1
    depth[last + 1] -= 1
    in_formula = np.cumsum(depth[:-1]) > 0
    opens = np.zeros(len(hashes), dtype=bool)
    opens[first] = True
    stays = ~in_formula | opens
    skeleton = np.where(opens, _FORMULA, hashes)
    said = np.zeros(len(hashes), dtype=np.uint64)
    said[first] = spelled
    contexts, readings = _windows(skeleton[stays], said[stays], _segments(found)[stays])
    return Figures(hashes[~in_formula], spelled, np.sort(hashes[is_number]), contexts, readings)


def in_order(text: str) -> Hashes:
    """The numbers of a text, each as often as it stands there; three and 3 are the same."""
    found = plain([text])
    hashes = _translated(found)
    numbers: Hashes = hashes[(found.kinds == DIGIT) | np.isin(found.hashes, _WRITTEN_AS[0])]
    return numbers


def agree(one: Figures, other: Figures) -> bool:
    """Whether no number of one text was replaced by another number in the other.

    False where the texts differ in nothing but formulas; where each has a number that the other lacks; and where the
    same words stand around a formula that the other lacks, in both. So a sentence may be left out, said twice or moved
    with its numbers, and 3 apples and 4 pears are not 4 apples and 3 pears.
    """
    if np.array_equal(one.formulas, other.formulas):
        return True
    if np.array_equal(one.words, other.words):
        return False
    if len(_beyond(one.values, other.values)) and len(_beyond(other.values, one.values)):
        return False
    ours = one.contexts[~np.isin(one.readings, other.readings)]
    theirs = other.contexts[~np.isin(other.readings, one.readings)]
    return not np.isin(ours, theirs).any()


def _beyond(one: Hashes, other: Hashes) -> Hashes:
    """The distinct values that stand in a sorted array more often than in another one."""
    values, counts = np.unique(one, return_counts=True)
    there = np.searchsorted(other, values, side="right") - np.searchsorted(other, values)
    return values[counts > there]


def _translated(found: Tokens) -> Hashes:
    """Words with a number's name as the number, and operators as programs write them."""
    hashes = found.hashes.copy()
    for names, meant in (_WRITTEN_AS, _OPERATORS_AS):
        named = np.flatnonzero(np.isin(hashes, names))
        hashes[named] = meant[np.searchsorted(names, hashes[named])]
    return hashes


def _formulas(found: Tokens, hashes: Hashes, is_number: npt.NDArray[np.bool_]) -> tuple[Places, Places]:
    """The first and the last word of each formula: numbers with only operators between them, and a sign before."""
    is_operator = (found.kinds == SIGN) & np.isin(hashes, _SIGNS)
    places = np.flatnonzero(is_number)
    others = np.cumsum(~(is_number | is_operator)) + _segments(found)  # grows with either
    apart = others[places[1:]] != others[places[:-1]]
    first = places[np.concatenate([np.ones(min(1, len(places)), dtype=bool), apart])]
    last = places[np.concatenate([apart, np.ones(min(1, len(places)), dtype=bool)])]
    # "- 3" at the start of a line, or after another sign of its kind, is a list or bold type.
    before = np.maximum(first - 1, 0)
    twice = (before > 0) & (hashes[before] == hashes[np.maximum(before - 1, 0)])
    touching = found.ends[before] == found.starts[first]
    begins = _segments(found)
    alone = (before == 0) | (begins[before] != begins[np.maximum(before - 1, 0)])
    signed = (first > 0) & np.isin(hashes[before], _LEADING) & is_operator[before] & ~twice & (touching | ~alone)
    return np.where(signed, before, first), last


def _segments(found: Tokens) -> Places:
    """The number of the sentence or line that each word stands in."""
    newlines = np.cumsum(found.codes == ord("\n"))
    lines = newlines[found.starts] if len(newlines) else np.zeros(0, dtype=np.int64)
    stops = np.isin(found.hashes, _STOPS)
    after = np.concatenate([[0], np.cumsum(stops)[:-1]]) if len(stops) else np.zeros(0, dtype=np.int64)
    return np.asarray(lines + after, dtype=np.int64)


def _windows(skeleton: Hashes, said: Hashes, segments: Places) -> tuple[Hashes, Hashes]:
    """Of each window within a segment that holds a formula, and of each shorter segment: its words, and all it says."""
    contexts, readings = [], []
    lengths = np.bincount(np.unique(segments, return_inverse=True)[1])
    of_segment = np.repeat(lengths, lengths)
    starts_segment = np.concatenate([[True], segments[1:] != segments[:-1]]) if len(segments) else segments > 0
    for width in range(1, _WINDOW + 1):
        count = max(0, len(skeleton) - width + 1)
        if width == _WINDOW:
            fits = segments[:count] == segments[width - 1 :]
        else:
            fits = starts_segment[:count] & (of_segment[:count] == width)
        formulas = np.concatenate([[0], np.cumsum(said != 0)])
        fits = fits & (formulas[width:] - formulas[:count] > 0)
        context = windows(skeleton, width)[fits]
        contexts.append(context)
        readings.append(mix(context ^ windows(said, width)[fits]))
    return np.concatenate(contexts), np.concatenate(readings)


def _named(names: dict[str, str]) -> tuple[Hashes, Hashes]:
    """Names as sorted hashes, with the hashes of what they mean."""
    keys, values = (plain(list(words)).hashes for words in (names.keys(), names.values()))
    order = np.argsort(keys)
    return keys[order], values[order]


_WRITTEN_AS = _named(_WRITTEN)
_OPERATORS_AS = _named(_OPERATORS)
_SIGNS = plain(list(_OPERATORS.values())).hashes
_LEADING = plain(list("+-*/^±<>≤≥≠")).hashes
_STOPS = plain(list(".!?;")).hashes
