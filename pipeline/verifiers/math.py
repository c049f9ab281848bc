"""The verifier `math`: numbers, expressions, sets, intervals, matrices and equations, compared by math-verify;
quantities with units, percentages, and words.

It sets no time limit (math-verify's own works only on a main thread): the pool kills what hangs. Where math-verify is
laxer than a reader (it rounds to six decimals), its "equal" is checked once more; its "different" stands.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import wraps
from typing import Any

from pipeline.text import fold, squeeze
from pipeline.verifiers import Judgement, ranges, right, undecided, wrong
from pipeline.verifiers.plain import numbers, plain, undelimited
from pipeline.verifiers.ranges import Written
from pipeline.verifiers.spelling import FUNCTIONS, balanced, parts, spelled, unexplained, unfinished, unhedged
from pipeline.verifiers.units import HALVES, TEMPERATURES, Unit, beside, counted, split

# Words a reader takes as text. Letters alone would be read as a product, in which "dog" equals "god".
_TEXT = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")
_LONG_WORD = re.compile(r"[^\W\d_]{3,}")
_SHORT_WORDS = {"no"}
_LETTER = re.compile(r"[^\W\d_]")
_TIME = re.compile(r"([01]?\d|2[0-4])(?::([0-5]\d))?")
_WHOLE = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,1000})")
_DECIMAL = re.compile(r"[+-]?(?:(?:\d{1,3}(?:,\d{3})+|\d{1,1000})(?:\.\d{0,1000})?|\.\d{1,1000})")
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\{\s*(?:percent|\\?%)\s*\}|\bpercent\b)$", re.IGNORECASE)
_SAME_DIGITS = 6  # a decimal with as many significant ones may stand for a fraction: 0.333333 for 1/3
_APART_SHARE = 2e-6  # by which two numbers differ that are not rounded forms of each other
_BRACED = re.compile(r"\s*(?:\\left\s*)?\\\{.*", re.DOTALL)
_ONE_PAIR = re.compile(r"(?:\\left\s*)?\\\{\s*(\([^()]*\))\s*(?:\\right\s*)?\\\}")
_PAIRED = re.compile(r"\s*(?:\\left\s*)?\(.*", re.DOTALL)
# What makes an answer no plain list of items: brackets, a sign that stands for several, and commas that may be within
# a number.
_NO_LIST = re.compile(r"[()\[\]]|\\[{}]|\\pm|±|\\cup|\.\.\.|\\[lc]?dots|\d,\d{3}(?!\d)")
NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip


@dataclass(frozen=True)
class Side:
    """An answer, taken apart: the number or formula, whether a percent sign follows it, and its unit."""

    text: str
    percent: bool
    unit: Unit | None


_SWALLOWED: list[Exception] = []  # what went wrong within the comparison at hand


def prepare() -> None:
    """Import math-verify and sympy, and what they import at their first comparison."""
    from math_verify import grader

    # It takes any error of sympy's simplify for "different"; here a comparison that breaks is undecided.
    if not hasattr(grader.simplify, "__wrapped__"):
        grader.simplify = _listened_to(grader.simplify)
    _equal(parse("x = \\frac{1}{2}"), parse("0.5"))


def judge(given: str, gold: str, data: dict[str, Any]) -> Judgement:
    """Right where both mean the same: 1/2, 0.5 and 50 %; x = 5 and 5; 5 m and 500 cm; sets in any order; words whatever
    their case.

    A unit, or a word for what is counted, that only one of the two has does not count, and a percent sign that only the
    reference has need not be written. A sum or product left undone is not an answer where the reference is a number. A
    range, a score, a date or a number with the prefix of its base is no calculation: it is compared as it is written.
    Items of a list count as often as they stand there; those of a set once. Undecided where one of the two cannot be
    parsed, where the comparison breaks, where words or letters are the same in another order, or where a range or its
    like may be said in another way. Times of day are compared as such. `data` is not used.
    """
    expected, found = _digits(undelimited(plain(gold))), undelimited(plain(given))
    if not expected or not balanced(expected):
        return undecided("gold_unparseable", error=f"the reference answer is {'cut off' if expected else 'empty'}")
    if squeeze(expected) == squeeze(found):
        return right()
    found = _digits(unexplained(found))
    if _WHOLE.fullmatch(expected) and _WHOLE.fullmatch(found):
        return right() if whole(expected) == whole(found) else wrong()  # a thousand times faster than parsing
    words = listed_words(expected)
    if words is not None:
        return _judge_words(words, [fold(plain(part)) for part in parts(found)])
    letters, found_letters = _listed_letters(expected), _listed_letters(found)
    if letters and found_letters:
        return _judge_words(letters, found_letters)
    if not balanced(found):
        return undecided("answer_unparseable", error="its braces do not match")
    return _judge_sides(*sides(expected, found))


def sides(gold: str, given: str) -> tuple[Side, Side]:
    """Reference and answer taken apart. A lone letter right after a number (5m) is a unit only beside another unit.
    Words for what is counted are left out, unless the two differ in them."""
    one, other = _side(gold), _side(given)
    if one.unit and one.unit.doubtful and not other.unit:
        one = Side(gold, False, None)
    if other.unit and other.unit.doubtful and not one.unit:
        other = Side(given, False, None)
    if one.unit and other.unit:
        units = beside(one.unit, other.unit), beside(other.unit, one.unit)
        one, other = replace(one, unit=units[0]), replace(other, unit=units[1])
    (number, counts), (other_number, other_counts) = counted(one.text), counted(other.text)
    apart = (other.unit and not one.unit and counts) or (one.unit and not other.unit and other_counts)  # 12 cm, 12 men
    if not apart and (counts <= other_counts or other_counts <= counts):
        one, other = replace(one, text=number), replace(other, text=other_number)
    return one, other


def _side(answer: str) -> Side:
    answer = _ONE_PAIR.sub(r"\1", unhedged(answer))  # the set of one pair is that pair
    bare = _PERCENT.sub("", answer)
    if bare != answer and bare:
        return Side(bare, True, None)
    text, unit = split(answer)
    return Side(unhedged(text), False, unit)


def _judge_words(expected: list[str], found: list[str]) -> Judgement:
    if expected == found:
        return right()
    if sorted(expected) == sorted(found):
        return undecided("answer_unparseable", error="the same words in another order")
    return wrong()


def _judge_sides(gold: Side, given: Side) -> Judgement:
    times, told = (_times(gold), _times(given)), HALVES & {side.unit.name for side in (gold, given) if side.unit}
    if all(times) and (told or ":00" in (gold.text[-3:], given.text[-3:])):  # 9:30 may be a ratio, 9:00 is none
        one, other = times if told else (times[0][:1], times[1][:1])
        return right() if {*one} & {*other} else wrong()
    if gold.unit and given.unit and gold.unit.dimension != given.unit.dimension:
        if {gold.unit.name, given.unit.name} == TEMPERATURES:
            return undecided("answer_unparseable", error="temperatures are not converted")
        return wrong(units=[gold.unit.name, given.unit.name])
    judgements = []
    for factor in _factors(gold, given):
        judgements.append(_judge_scaled(gold.text, given.text, factor))
        if judgements[-1].outcome == "right":
            return judgements[-1]
    return judgements[0]


def _times(side: Side) -> tuple[int, ...]:
    """The minutes since midnight that a side may mean as a time of day; none where it is no time. Without AM or PM it
    is of a clock of 24 hours first, and else of either half of the day.
    """
    match = _TIME.fullmatch(side.text.strip())
    if match is None or (side.unit is not None and side.unit.name not in HALVES):
        return ()
    hour, minute = int(match[1]), int(match[2] or 0)
    halves = [60 * (hour % 12 + 12 * half) + minute for half in (0, 1)] if hour <= 12 else []
    if side.unit is None:
        return (60 * hour + minute, *halves)
    return tuple(halves[side.unit.name == "pm" :][:1])


def _factors(gold: Side, given: Side) -> list[Fraction]:
    """By what the answer's number may be multiplied to be the reference's."""
    if gold.unit and given.unit:
        return [given.unit.factor / gold.unit.factor]
    if gold.percent == given.percent:
        return [Fraction(1)]
    if gold.percent:
        return [Fraction(1), Fraction(100)]
    # The reference may leave the sign out: 50 for 50 %. A share (0.5, 1) does not.
    in_percent = _WHOLE.fullmatch(gold.text) is not None and abs(whole(gold.text)) > 1
    return [Fraction(1, 100), *([Fraction(1)] if in_percent else [])]


def _judge_scaled(gold: str, given: str, factor: Fraction) -> Judgement:
    if _DECIMAL.fullmatch(gold) and _DECIMAL.fullmatch(given):
        return right() if _same_decimals(gold, given, factor) else wrong()
    expected = ranges.read(gold)
    if expected is not None:
        return _judge_ranges(expected, given, factor)
    parsed_gold = parse(spelled(gold))
    if not parsed_gold:
        return undecided("gold_unparseable")
    parsed = parse(spelled(_multiplied(given, factor)))
    if not parsed:
        return undecided("answer_unparseable")
    if numbers(gold) == [gold] and unfinished(given):
        return wrong(error="the answer is left as a calculation")
    return _compared(parsed_gold, parsed, gold, given)


def _judge_ranges(expected: list[Written], given: str, factor: Fraction) -> Judgement:
    found = ranges.read(given)
    if found is None:
        if ranges.may_mean(given, expected):
            return undecided("gold_unparseable", error="a range, a score, a date or a code, said in another way")
        return wrong()
    if factor == 1 and [item.text for item in found] == [item.text for item in expected]:
        return right()
    values = sorted(tuple(value * factor for value in item.values) for item in found)
    if values == sorted(item.values for item in expected):
        return undecided("answer_unparseable", error="the same numbers, written in another way")
    return wrong()


def _multiplied(answer: str, factor: Fraction) -> str:
    if factor == 1:
        return answer
    value = spelled(answer.rpartition("=")[2].strip())
    if _DECIMAL.fullmatch(value):
        exact = _fraction(value) * factor
        return rf"\frac{{{exact.numerator}}}{{{exact.denominator}}}"
    return rf"\left({value}\right) \cdot \frac{{{factor.numerator}}}{{{factor.denominator}}}"


def _same_decimals(gold: str, given: str, factor: Fraction) -> bool:
    """Whether two decimals are one number, or one is the other rounded and has digits enough to say so."""
    expected, found = _fraction(gold), _fraction(given) * factor
    if expected == found:
        return True
    places = min(len(text.partition(".")[2]) for text in (gold, given))
    digits = min(_significant(gold), _significant(given))
    return factor == 1 and digits >= _SAME_DIGITS and abs(expected - found) <= Fraction(1, 2 * 10**places)


def _fraction(decimal: str) -> Fraction:
    return Fraction(decimal.replace(",", ""))


def _significant(decimal: str) -> int:
    return len(re.sub(r"\D", "", decimal).lstrip("0"))


def _compared(gold: list[Any], given: list[Any], gold_text: str, given_text: str) -> Judgement:
    _SWALLOWED.clear()
    try:
        equal = _equal(gold, given)
        if _SWALLOWED and not equal:
            raise _SWALLOWED[-1]
        fault = (_difference(gold_text, given_text) or _miscounted(gold_text, given_text)) if equal else None
    except MemoryError:
        raise
    except Exception as error:
        return undecided(_to_blame(gold), error=f"{type(error).__name__}: {error}"[:500])
    if not equal:
        return right() if _rounded(gold_text, given[0]) or _rounded(given_text, gold[0]) else wrong()
    if fault is None and _apart(gold[0], given[0]):
        fault = "the numbers are alike only when rounded"
    return right() if fault is None else wrong(error=fault)


def _difference(gold: str, given: str) -> str | None:
    """What a reader sees and math-verify does not."""
    one_set = _BRACED.match(gold) if _PAIRED.match(given) else _BRACED.match(given) if _PAIRED.match(gold) else None
    if one_set is not None and "(" not in one_set[0]:
        return "one is a set, the other a pair or an interval"
    values = [side.strip() for side in given.split("=")]
    if len(values) > 1 and all(_DECIMAL.fullmatch(value) for value in values):
        return None if len({_fraction(value) for value in values}) == 1 else "the answer is a false equation"
    return None


def _miscounted(gold: str, given: str) -> str | None:
    """What differs where two plain lists are one set: 2, 3 for 2, 2, 3. One value in several forms is no list."""
    expected, found = _items(gold), _items(given)
    longest = max(len(expected), len(found))
    if not expected or not found or longest == 1 or sorted(expected) == sorted(found):
        return None
    if min(len(expected), len(found)) == 1 and len({*expected, *found}) >= longest:
        return None
    parsed = {item: parse(spelled(item)) for item in {*expected, *found}}
    if not all(parsed.values()):
        return None
    for item in expected:
        same = next((other for other in found if other == item or _equal(parsed[item], parsed[other])), None)
        if same is None:
            return "an item stands there more often than in the answer"
        found.remove(same)
    return "an item stands there less often than in the answer" if found else None


def _items(answer: str) -> list[str]:
    return [] if _NO_LIST.search(answer) else parts(answer)


def _rounded(decimal: str, other: Any) -> bool:
    """Whether a decimal is a fraction rounded, with digits enough to say so: 33.3333 is 100/3."""
    if not _DECIMAL.fullmatch(decimal) or "." not in decimal or _significant(decimal) < _SAME_DIGITS:
        return False
    try:
        if not other.doit().is_rational:
            return False
        error = abs(other.doit().evalf(30) - Decimal(decimal.replace(",", "")))
        return bool(error <= Fraction(1, 2 * 10 ** len(decimal.partition(".")[2])))
    except (AttributeError, TypeError, ValueError):
        return False  # no number


def _apart(gold: Any, given: Any) -> bool:
    """Whether two numbers differ by more than rounding; math-verify compares to so many decimals, however small."""
    from sympy import Basic, Eq

    try:
        if isinstance(gold, Eq) and isinstance(given, Eq) and gold.lhs != given.lhs:
            return False  # x = 2 and x - 2 = 0
        one, other = ((side.rhs if isinstance(side, Eq) else side) for side in (gold, given))
        if not (isinstance(one, Basic) and isinstance(other, Basic) and one.is_number and other.is_number):
            return False
        exact, near = one.doit().evalf(30), other.doit().evalf(30)
        return bool(abs(exact - near) > _APART_SHARE * max(abs(exact), abs(near)))
    except (AttributeError, TypeError, ValueError):
        return False  # no numbers after all


def _equal(gold: list[Any], given: list[Any]) -> bool:
    from math_verify import verify

    # Relations and sets are compared too: 1 < x < 2 is the interval (1, 2), whichever of the two is the reference.
    return bool(verify(gold, given, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True))


def _listened_to(simplify: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(simplify)
    def listened_to(*given: Any, **named: Any) -> Any:
        try:
            return simplify(*given, **named)
        except Exception as error:
            _SWALLOWED.append(error)
            raise

    return listened_to


def _to_blame(gold: list[Any]) -> str:
    """Which of the two breaks the comparison: a reference that cannot be compared with itself is the one."""
    try:
        return "answer_unparseable" if _equal(gold, gold) else "gold_unparseable"
    except MemoryError:
        raise
    except Exception:
        return "gold_unparseable"


def listed_words(answer: str) -> list[str] | None:
    """The folded items of an answer that is words alone, one or a list of them; None for any other."""
    items = [plain(part) for part in parts(answer)]
    return [fold(item) for item in items] if items and all(map(is_text, items)) else None


def _listed_letters(answer: str) -> list[str]:
    """The folded items of a list of single letters; empty for any other answer."""
    items = [plain(part) for part in parts(answer)]
    return [fold(item) for item in items] if len(items) > 1 and all(map(_LETTER.fullmatch, items)) else []


def is_text(answer: str) -> bool:
    """Whether an answer is words, not a formula: "Monday", "no solution", not "ab" or "sin x"."""
    folded = answer.casefold()
    return folded in _SHORT_WORDS or (
        _TEXT.fullmatch(answer) is not None
        and _LONG_WORD.search(answer) is not None
        and not any(word in FUNCTIONS for word in folded.split())
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
            f"\\boxed{{{answer}}}",
            [LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
    )


def _digits(answer: str) -> str:
    """A small number written as a word, in digits; any other answer as it is."""
    folded = fold(answer)
    return str(NUMBER_WORDS.index(folded)) if folded in NUMBER_WORDS else answer
