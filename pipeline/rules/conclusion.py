r"""The rule about an answer that is not what its reasoning arrived at.

It compares numbers and letters of choices only, and a conclusion counts only near the end of the reasoning: what was
said earlier may have been thought over. Whether either is right is for `verify`.
"""

import re
from fractions import Fraction

from pipeline.rules.limits import Limits
from pipeline.rules.trace import Broken, Traces
from pipeline.text import answer_span
from pipeline.verifiers.plain import plain

_LONGEST = 60  # characters of an answer that is compared
_NUMBER = re.compile(r"([+-]?)\s?(\d{1,3}(?:,\d{3}){1,9}|\d{1,40})(?:\.(\d{1,40}))?")
_RATIO = re.compile(r"([+-]?)(?:\\[dt]?frac\{(\d{1,20})\}\{(\d{1,20})\}|(\d{1,20})\s?/\s?(\d{1,20}))")
_WRAPPING = re.compile(r"\\(?:text|mathrm|[,;])|[{}\s\\]")  # of a unit
_CHOICE = re.compile(r"\(?([A-Z])\)?\.?")
# What stands before a conclusion, and what takes it back.
_SAID = ("boxed", "answer")
_SIGN_CHARS = 60
_TAKEN_BACK = re.compile(r"\b(?:wait|but|however|actually|hmm|mistake|wrong|incorrect|check|instead|unless|no)\b")


def answer_differs(traces: Traces, limits: Limits) -> Broken:
    """Its answer is another number, or another letter, than its reasoning last boxed or called the answer."""
    found: Broken = {}
    for place, one in traces:
        reasoning = one.reasoning[-limits.conclusion_chars :]
        folded = reasoning.lower()
        if not any(sign in folded for sign in _SAID):
            continue
        given = one.final
        concluded = None if given is None else conclusion(reasoning)
        if given is not None and concluded is not None and given != concluded and differ(concluded, given):
            found[place] = {"reasoning": concluded, "answer": given[:_LONGEST]}
    return found


def conclusion(reasoning: str) -> str | None:
    """What the end of a reasoning boxes or calls the answer; None where it does neither, or takes it back."""
    span = answer_span(reasoning)
    if span is None:
        return None
    before, after = reasoning[max(0, span[0] - _SIGN_CHARS) : span[0]].lower(), reasoning[span[1] :].lower()
    if not any(sign in before for sign in _SAID) or _TAKEN_BACK.search(after):
        return None
    return reasoning[slice(*span)]


def differ(one: str, other: str) -> bool:
    """Whether two answers are certainly not the same: two numbers of the same kind, or two letters. A decimal and its
    rounding are the same; of numbers with different units, or of which one has none, nothing is certain.
    """
    if max(len(one), len(other)) > _LONGEST:
        return False
    one, other = plain(one), plain(other)
    choices = _CHOICE.fullmatch(one), _CHOICE.fullmatch(other)
    if choices[0] and choices[1]:
        return choices[0][1] != choices[1][1]
    number, other_number = _number(one), _number(other)
    if number is None or other_number is None:
        return False
    (value, decimals, unit), (other_value, other_decimals, other_unit) = number, other_number
    if unit != other_unit and "%" not in (unit, other_unit):
        return False  # 1 m and 100 cm, 5 million and 5000000, 2pi and 6.28
    coarse = min(decimals, other_decimals)
    near = Fraction(1, 10**coarse) if decimals != other_decimals else Fraction(0)
    scales = (1, 100, Fraction(1, 100)) if "%" in (unit, other_unit) else (1,)
    return all(abs(value - scale * other_value) > near for scale in scales)


def _number(text: str) -> tuple[Fraction, int, str] | None:
    """Value, digits after the point (a great many for a fraction, which is exact) and what stands after it."""
    text = text.rpartition("=")[2].strip()
    money = text.startswith(("$", "\\$"))
    text = text.removeprefix("\\$").removeprefix("$").strip()
    match = _RATIO.match(text)
    if match is not None:
        upper, lower = int(match[2] or match[4]), int(match[3] or match[5])
        if not lower:
            return None
        value, decimals = Fraction(upper, lower), 40
    else:
        match = _NUMBER.match(text)
        if match is None:
            return None
        whole, after = match[2].replace(",", ""), match[3] or ""
        value, decimals = Fraction(int(whole + after), 10 ** len(after)), len(after)
    unit = _WRAPPING.sub("", text[match.end() :]) or ("dollars" if money else "")
    if unit and unit != "%" and not unit.isalpha():
        return None  # a formula, a pair, a list
    return (-value if match[1] == "-" else value), decimals, unit
