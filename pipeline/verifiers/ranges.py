"""Answers of digits that read as calculations and are none: ranges, scores, years, dates, versions, telephone numbers,
and numbers with the prefix of their base. It evaluates no formula.
"""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from pipeline.verifiers.spelling import parts

_NUMBER = r"(?:\\?[$€£])?\d+(?:,\d+)*(?:[.:]\d+)*"  # the comma of "3, -5" is a list's
_DASH = re.compile(r"\s*(?:-{1,3}|[\u2013\u2014])\s*")
_RANGE = re.compile(rf"[+-]?{_NUMBER}(?:{_DASH.pattern}{_NUMBER})+")
_STEPPED = re.compile(r"\d+(?:\s?/\s?\d+){2,}|\d+(?:\.\d+){2,}")
_PREFIXED = re.compile(r"0[xbo][0-9a-f]+", re.IGNORECASE)
_VALUE = re.compile(r"\d[\d,]{0,1000}(?:\.\d{1,1000})?")
_BASES = {"x": 16, "b": 2, "o": 8}


@dataclass(frozen=True)
class Written:
    """An answer that is compared as it is written: its text, but for spaces, dashes, case and signs of money, and the
    numbers in it."""

    text: str
    values: tuple[Fraction, ...]


def read(answer: str) -> list[Written] | None:
    """An answer of such digits, one or a list of them in the order of their texts; None for any other answer."""
    one = _written(answer)
    if one is not None:
        return [one]
    items = [_written(part) for part in parts(answer)]
    found = [item for item in items if item is not None]
    return sorted(found, key=lambda item: item.text) if found and len(found) == len(items) else None


def may_mean(answer: str, wanted: list[Written]) -> bool:
    """Whether an answer of another form may say the same: "10 to 15" for 10-15, "January 5, 2024" for 2024-01-05 (of
    three numbers one may be a name), 31 or 1F for 0x1F."""
    if any(_PREFIXED.fullmatch(item.text) and item.text[2:] == answer.casefold().strip() for item in wanted):
        return True
    values = Counter(value for item in wanted for value in item.values)
    missing = values - Counter(_values(answer))
    return missing.total() <= (1 if values.total() > 2 else 0)


def _written(text: str) -> Written | None:
    text = text.strip()
    if _PREFIXED.fullmatch(text):
        folded = text.casefold()
        try:
            return Written(folded, (Fraction(int(folded[2:], _BASES[folded[1]])),))
        except ValueError:  # digits that its base lacks
            return Written(folded, ())
    if not _RANGE.fullmatch(text) and not _STEPPED.fullmatch(text):
        return None
    return Written(re.sub(r"[\s\\$€£]", "", _DASH.sub("-", text)), tuple(_values(text)))


def _values(text: str) -> list[Fraction]:
    return [Fraction(found.replace(",", "")) for found in _VALUE.findall(text)]
