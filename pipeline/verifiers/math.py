"""The verifier `math`: numbers, expressions, sets, intervals and equations, compared by math-verify, and words.

It sets no time limit (math-verify's own works only on a main thread): the pool kills what hangs. It converts no units.
"""

import re
import unicodedata
from typing import Any

from pipeline.text import fold, squeeze
from pipeline.verifiers import Judgement, right, undecided, wrong
from pipeline.verifiers.plain import numbers, plain

# Words a reader takes as text. Letters alone would be read as a product, in which "dog" equals "god".
_TEXT = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")
_LONG_WORD = re.compile(r"[^\W\d_]{3,}")
_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "arcsin", "arccos", "arctan", "infinity"}
_HEDGE = re.compile(r"^(?:about|approximately|approx\.?|roughly|exactly|≈|~|\\approx|\\sim)\s*", re.IGNORECASE)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?: |\\,|\\ |\{,\}|\\!,)\d{3})+(?!\d)")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\d])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![A-Za-z\d])")
_ROOT = re.compile(r"√\s*(\d+(?:\.\d+)?|[A-Za-z])")
_RAISED = re.compile("[⁰¹²³⁴-⁹]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_WHOLE = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,1000})")
_LATEX_NAME = re.compile(r"\\[A-Za-z]+")
_UNIT = re.compile(r"([^\W\d_]+)$")
# Sums, differences, products and quotients of numbers, except a power of ten: 12 + 7 is a question, not its answer.
_UNFINISHED = re.compile(r"[\d)}]\s*(?:[-+*÷]|\\div|(?:[\u00d7\u00b7]|\\times|\\cdot)(?!\s*10\s*\^))\s*[\d({\\]")
NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
# Spellings of common units; others are left to math-verify, which drops them.
_UNITS = {
    spelling: names[0]
    for names in (
        ("mm", "millimeter", "millimetre"), ("cm", "centimeter", "centimetre"), ("m", "meter", "metre"),
        ("km", "kilometer", "kilometre"), ("inch", "inche"), ("foot", "feet", "ft"), ("mile", "mi"), ("yard", "yd"),
        ("mg", "milligram"), ("g", "gram"), ("kg", "kilogram"), ("pound", "lb"), ("ounce", "oz"),
        ("second", "sec", "s"), ("minute", "min"), ("hour", "hr", "h"), ("day",), ("week",), ("month",), ("year",),
        ("ml", "milliliter", "millilitre"), ("liter", "litre", "l"), ("dollar",), ("cent",), ("euro",),
    )
    for spelling in names
}  # fmt: skip


def prepare() -> None:
    """Import math-verify and sympy, and what they import at their first comparison."""
    _equal(parse("x = \\frac{1}{2}"), parse("0.5"))


def judge(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """Right where both mean the same: 1/2, 0.5 and 50 %; x = 5 and 5; sets in any order; words whatever their case.

    A unit that only one of the two has does not count; two different known units do. A sum or product left undone is
    not an answer where the reference is a number. Undecided where one of the two cannot be parsed, or where the
    comparison breaks. `data` is not used.
    """
    expected, found = _digits(plain(gold)), _digits(plain(given))
    if not expected:
        return undecided("gold_unparseable", error="the reference answer is empty")
    if squeeze(expected) == squeeze(found):
        return right()
    if _WHOLE.fullmatch(expected) and _WHOLE.fullmatch(found):
        return right() if whole(expected) == whole(found) else wrong()  # a thousand times faster than parsing
    if is_text(expected):
        return right() if fold(expected) == fold(found) else wrong()
    parsed_gold = parse(expected)
    if not parsed_gold:
        return undecided("gold_unparseable")
    parsed = parse(found)
    if not parsed:
        return undecided("answer_unparseable")
    if numbers(expected) == [expected] and all(_UNFINISHED.search(side) for side in found.split("=")):
        return wrong(error="the answer is left as a calculation")
    return _compared(parsed_gold, parsed, unit(expected), unit(found))


def _compared(gold: list[Any], given: list[Any], gold_unit: str | None, given_unit: str | None) -> Judgement:
    try:
        equal = _equal(gold, given)
    except MemoryError:
        raise
    except Exception as error:
        return undecided(_to_blame(gold), error=f"{type(error).__name__}: {error}"[:500])
    if equal and gold_unit and given_unit and gold_unit != given_unit:
        return wrong(units=[gold_unit, given_unit])
    return right() if equal else wrong()


def _equal(gold: list[Any], given: list[Any]) -> bool:
    from math_verify import verify

    # Relations and sets are compared too: 1 < x < 2 is the interval (1, 2), whichever of the two is the reference.
    return bool(verify(gold, given, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True))


def _to_blame(gold: list[Any]) -> str:
    """Which of the two breaks the comparison: a reference that cannot be compared with itself is the one."""
    try:
        return "answer_unparseable" if _equal(gold, gold) else "gold_unparseable"
    except MemoryError:
        raise
    except Exception:
        return "gold_unparseable"


def is_text(answer: str) -> bool:
    """Whether an answer is words, not a formula: "Monday", "no solution", not "ab" or "sin x"."""
    return (
        _TEXT.fullmatch(answer) is not None
        and _LONG_WORD.search(answer) is not None
        and not any(word in _FUNCTIONS for word in answer.casefold().split())
    )


def whole(answer: str) -> int:
    """A whole number, with or without commas between its thousands."""
    return int(answer.replace(",", ""))


def parse(answer: str) -> list[Any]:
    """The answer as math-verify reads the content of a box; empty where it cannot."""
    from math_verify import LatexExtractionConfig
    from math_verify import parse as parse_all

    return list(
        parse_all(
            f"\\boxed{{{spelled(answer)}}}",
            [LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
    )


def spelled(answer: str) -> str:
    """The answer in the LaTeX that math-verify reads well: no hedge before it, no unit of the table after it, no
    spaces within numbers, powers of ten, roots and fractions written out."""
    answer = _HEDGE.sub("", answer)
    if unit(answer) is not None:
        answer = _UNIT.sub("", _without_commands(answer)).rstrip()
    answer = _GROUPED.sub(lambda match: re.sub(r"\D", "", match[0]), answer)
    answer = _SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", answer)
    answer = _ROOT.sub(r"\\sqrt{\1}", answer)
    answer = _RAISED.sub(lambda match: "^{" + unicodedata.normalize("NFKC", match[0]) + "}", answer)
    return _VULGAR.sub(lambda match: _fraction(unicodedata.normalize("NFKC", match[0])), answer)


def unit(answer: str) -> str | None:
    """The unit after a number that an answer ends in, by one spelling, where it is in the table."""
    bare = _without_commands(answer)
    if bare.startswith(("\\$", "$")):
        return "dollar" if numbers(bare) else None
    match = _UNIT.search(bare)
    before = _LATEX_NAME.sub("", bare[: match.start()]) if match is not None else ""
    if match is None or not numbers(before) or any(sign.isalpha() for sign in before):
        return None  # the letter of a formula
    name = match[1]
    return _UNITS.get(name) or _UNITS.get(name.casefold()) or _UNITS.get(name.casefold().removesuffix("s"))


def _without_commands(answer: str) -> str:
    r"""Without \text{...} or \mathrm{...} around a unit at the end, and LaTeX spaces before it."""
    return re.sub(r"(?:\\[,; ]|~|\s)*\\(?:text|mathrm)\s*\{\s*([^{}]*?)\s*\}$", r" \1", answer).strip()


def _digits(answer: str) -> str:
    """A small number written as a word, in digits; any other answer as it is."""
    folded = fold(answer)
    return str(NUMBER_WORDS.index(folded)) if folded in NUMBER_WORDS else answer


def _fraction(written: str) -> str:
    upper, _, lower = written.partition("\N{FRACTION SLASH}")
    return rf"\frac{{{upper}}}{{{lower}}}"
