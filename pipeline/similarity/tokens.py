"""Texts as arrays of 64-bit hashes, a word each: what `pipeline.text.words` finds, without a Python object a word.

It compares nothing. A hash depends on the word alone, so every process gives the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.text import compatible, fold

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.uint8] | npt.NDArray[np.uint32]

# What a character is. Runs of letters and runs of digits are words; from SIGN on, each character is one by itself.
SPACE, LETTER, DIGIT, SIGN, IDEOGRAM = range(5)
_UNKNOWN = 255

_BASE = 0x9E3779B97F4A7C15  # odd: it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_STEP = np.uint64(0xD6E8FEB86659FD93)


class Alphabet:
    """The kind of each character, found once and then looked up."""

    def __init__(self, kind: Callable[[str], int]) -> None:
        self._kind = kind
        self._table = np.full(0x110000, _UNKNOWN, dtype=np.uint8)

    def kinds(self, codes: Codes) -> Kinds:
        """The kind of each code point, as an array that the caller may change."""
        found = self._table[codes]
        if len(found) and found.max() == _UNKNOWN:
            for code in np.unique(codes[found == _UNKNOWN]).tolist():
                self._table[code] = self._kind(chr(code))
            found = self._table[codes]
        return found


@dataclass(frozen=True)
class Tokens:
    """The words of some texts, one text after the other."""

    codes: Codes  # code points of the texts as they were read: folded
    starts: Places  # of each word in `codes`
    ends: Places
    kinds: Kinds  # of each word
    hashes: Hashes
    bounds: Places  # text i has the words bounds[i]..bounds[i + 1]

    def words(self, start: int = 0, end: int | None = None) -> list[str]:
        """The words start..end as text."""
        encoding = "latin-1" if self.codes.dtype == np.uint8 else "utf-32-le"
        places = zip(self.starts[start:end].tolist(), self.ends[start:end].tolist(), strict=True)
        return [self.codes[low:high].tobytes().decode(encoding, "surrogatepass") for low, high in places]


def plain(texts: Sequence[str]) -> Tokens:
    """The words of texts, as `pipeline.text.words` finds them."""
    folded = [compatible(text).casefold() for text in texts]
    codes = code_points("\n".join(folded))
    kinds = _PLAIN.kinds(codes)
    marks = np.flatnonzero((codes == ord(".")) | (codes == ord(",")))
    kinds[marks[between(kinds, marks, DIGIT)]] = DIGIT
    return tokens(codes, kinds, np.cumsum([0, *(len(text) + 1 for text in folded)]))


def characters(texts: Sequence[str]) -> tuple[Hashes, Places]:
    """A hash for each character of the folded texts, white space squeezed, and where each text begins and ends."""
    folded = [fold(text) for text in texts]
    bounds = np.cumsum([0, *map(len, folded)])
    return mix(code_points("".join(folded)).astype(np.uint64)), bounds


def code_points(text: str) -> Codes:
    """The code points of a text; of eight bits where all fit, which is faster."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def between(kinds: Kinds, places: Places, kind: int) -> npt.NDArray[np.bool_]:
    """Which of some places have a character of a kind on both sides."""
    inside = (places > 0) & (places < len(kinds) - 1)
    there = places[inside]
    inside[inside] = (kinds[there - 1] == kind) & (kinds[there + 1] == kind)
    return inside


def tokens(codes: Codes, kinds: Kinds, text_starts: npt.ArrayLike) -> Tokens:
    """Cut code points into words by their kinds. `text_starts` says where texts begin, and where the last one ends."""
    count = len(kinds)
    boundary = np.ones(count + 1, dtype=bool)
    if count > 1:
        np.not_equal(kinds[1:], kinds[:-1], out=boundary[1:count])
    single = kinds >= SIGN
    boundary[:count] |= single
    boundary[1:] |= single
    solid = kinds != SPACE
    starts = np.flatnonzero(solid & boundary[:count])
    ends = np.flatnonzero(solid & boundary[1:]) + 1
    bounds = np.searchsorted(starts, np.asarray(text_starts))
    return Tokens(codes, starts, ends, kinds[starts], mix(_POWERS.spans(codes, starts, ends)), bounds)


def mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    mixed = values + np.uint64(_BASE)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def windows(hashes: Hashes, width: int) -> Hashes:
    """A hash for each run of `width` words, in order; none where there are fewer words."""
    count = max(0, len(hashes) - width + 1)
    total = hashes[:count] * _STEP
    for offset in range(1, width):
        total += hashes[offset : offset + count]
        total *= _STEP
    total += np.uint64(width)
    return mix(total)


def span_hashes(hashes: Hashes, starts: Places, ends: Places) -> Hashes:
    """A hash for each run starts..ends of words, whatever its length."""
    return mix(_POWERS.spans(hashes, starts, ends) + (ends - starts).astype(np.uint64))


class _Powers:
    """Polynomial hashes modulo 2^64 of spans of an array: differences of one running sum."""

    def __init__(self) -> None:
        self._powers = self._inverses = np.ones(1, dtype=np.uint64)

    def spans(self, values: Codes | Hashes, starts: Places, ends: Places) -> Hashes:
        """The sum of values[i] * base^(i - start) over each span."""
        count = len(values)
        if count > len(self._powers):
            size = max(count, 2 * len(self._powers))
            self._powers, self._inverses = _progression(_BASE, size), _progression(_INVERSE, size)
        sums = np.zeros(count + 1, dtype=np.uint64)
        weighed = values.astype(np.uint64)
        weighed *= self._powers[:count]
        np.cumsum(weighed, out=sums[1:])
        found: Hashes = (sums[ends] - sums[starts]) * self._inverses[starts] if count else sums[:0]
        return found


def _progression(factor: int, size: int) -> Hashes:
    """1, factor, factor^2, ... modulo 2^64."""
    factors = np.full(size, factor, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def _plain_kind(sign: str) -> int:
    # As the classes \s, \d and \w of a regular expression.
    if sign.isspace():
        return SPACE
    if sign.isdecimal():
        return DIGIT
    return LETTER if sign.isalnum() else SIGN


_PLAIN = Alphabet(_plain_kind)
_POWERS = _Powers()
