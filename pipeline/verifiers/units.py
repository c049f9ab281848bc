r"""Quantities with units as answers write them: "5 cm", "5\text{ km/h}", "$3", "2 hours 30 minutes". It knows the units
of school problems, and that any other words after a number say what is counted; temperatures are not converted.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from pipeline.text import fold, squeeze
from pipeline.verifiers.plain import numbers, untypeset
from pipeline.verifiers.spelling import FUNCTIONS, scaled

Dimension = tuple[tuple[str, int], ...]  # (base quantity, power), sorted


@dataclass(frozen=True)
class Unit:
    """A unit: what it measures, in how many base units, and what else it may be: a variable ("5m"), or money."""

    name: str
    dimension: Dimension
    factor: Fraction
    doubtful: bool = False
    money: bool = False  # "5 pounds" are a mass, and £5


# Base quantity -> (spellings of a unit, base units in it). Names are compared without a plural's s.
_BASES: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "length": (
        (("m", "meter", "metre"), "1"), (("mm", "millimeter", "millimetre"), "0.001"),
        (("cm", "centimeter", "centimetre"), "0.01"), (("dm", "decimeter", "decimetre"), "0.1"),
        (("km", "kilometer", "kilometre"), "1000"), (("inch", "inche", "in"), "0.0254"),
        (("foot", "feet", "ft"), "0.3048"), (("yard", "yd"), "0.9144"), (("mile", "mi"), "1609.344"),
    ),
    "mass": (
        (("g", "gram"), "1"), (("mg", "milligram"), "0.001"), (("kg", "kilogram"), "1000"),
        (("pound", "lb"), "453.59237"), (("ounce", "oz"), "28.349523125"),
    ),
    "time": (
        (("second", "sec", "s"), "1"), (("minute", "min"), "60"), (("hour", "hr", "h"), "3600"), (("day",), "86400"),
        (("week",), "604800"),
    ),
    "months": ((("month",), "1"), (("year", "yr"), "12")),
    "dollars": ((("dollar", "usd"), "1"), (("cent", "¢"), "0.01")),
    "euros": ((("euro", "eur"), "1"),),
    "sterling": ((("gbp",), "1"),),
    "morning": ((("am",), "1"),),  # of a time of day, which no other unit is
    "afternoon": ((("pm",), "1"),),
    "celsius": ((("celsius",), "1"),),
    "fahrenheit": ((("fahrenheit",), "1"),),
    "unit": ((("unit",), "1"),),  # of a drawing: of no known length
}  # fmt: skip
_VOLUMES = ((("ml", "milliliter", "millilitre"), "0.000001"), (("liter", "litre", "l", "L"), "0.001"))
HALVES = frozenset({"am", "pm"})  # of the day
TEMPERATURES = frozenset({"celsius", "fahrenheit"})
_CURRENCIES = {"\\$": "dollar", "$": "dollar", "€": "euro", "£": "gbp"}


def _units() -> dict[str, Unit]:
    found: dict[str, Unit] = {}
    for base, units in _BASES.items():
        for spellings, factor in units:
            found |= {name: Unit(spellings[0], ((base, 1),), Fraction(factor)) for name in spellings}
    for spellings, factor in _VOLUMES:
        found |= {name: Unit(spellings[0], (("length", 3),), Fraction(factor)) for name in spellings}
    for name, one, other in (("mph", "mile", "hour"), ("kph", "km", "h"), ("kmh", "km", "h")):
        found[name] = _per(found[one], found[other])
    found["pound"] = replace(found["pound"], money=True)
    return found


def _per(one: Unit, other: Unit) -> Unit:
    powers = dict(one.dimension)
    for base, power in other.dimension:
        powers[base] = powers.get(base, 0) - power
    dimension = tuple(sorted((base, power) for base, power in powers.items() if power))
    return Unit(f"{one.name}/{other.name}", dimension, one.factor / other.factor)


_UNITS = _units()
_POWERS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3, "2": 2, "²": 2, "3": 3, "³": 3}
_HALF_OF_DAY = re.compile(r"(?<=[\d ])([ap])\.\s?m\b\.?", re.IGNORECASE)
_DEGREES = re.compile(
    r"(?:\s*\^\s*\{?\s*\\circ\s*\}?|\s*°|\s+degrees?)\s*(?:(?P<celsius>c(?:elsius)?)|f(?:ahrenheit)?)\b\.?",
    re.IGNORECASE,
)
_LATEX_NAME = re.compile(r"\\[A-Za-z]+")
_ASSIGNED = re.compile(r"^\s*[A-Za-z]\s*=")
_NAME = r"(?:(?:square|cubic|sq\.?|cu\.?)\s+)?[^\W\d_²³]+\.?(?:\s*\^\s*\{?\s*[23]\s*\}?|[²³])?|¢"
_TAIL = re.compile(rf"(?P<unit>{_NAME})(?:\s*(?:/|\bper\b)\s*(?P<per>{_NAME}))?$", re.IGNORECASE)
_ONE = re.compile(
    r"(?:(square|cubic|sq\.?|cu\.?)\s+)?([^\W\d_²³]+|¢)\.?(?:\s*\^\s*\{?\s*([23])\s*\}?|([²³]))?", re.IGNORECASE
)
_COUNTED = re.compile(
    r"\s(?P<words>(?:(?:an?|per|each|every)\s)?[^\W\d_²³]{3,}(?:[ -][^\W\d_²³]+){0,3})"
    r"(?P<power>\s?\^\s?\{?[23]\}?|[²³])?$"
)
_PLURAL = re.compile(r"(?:(?<=[xz])es|(?<=ss)es|(?<=[cs]h)es|(?<!s)s)$")
# Words after a number that say how much it is, or are a formula's; without a plural's s.
_TELLING = FUNCTIONS | {
    "hundred", "thousand", "million", "billion", "trillion", "dozen", "score", "ten", "half", "halve", "third",
    "quarter", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "hundredth", "thousandth",
    "millionth", "percent", "percentage", "squared", "cubed", "square", "cubic", "cube", "root", "power",
    "factorial", "plus", "minus", "time", "divided", "multiplied", "over", "modulo", "mod", "choose", "remainder",
    "negative", "below", "under", "less", "more", "than", "not", "and", "nor", "but", "or", "to", "point",
    "double", "twice", "triple", "repeating", "recurring", "repeated", "base", "binary", "octal", "decimal",
    "hexadecimal", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "through",
    "until", "versus", "pi", "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota",
    "kappa", "lambda", "sigma", "phi", "psi", "omega", "rho", "tau", "abc", "xyz",
}  # fmt: skip
_PART = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s*([^\W\d_²³]+)\.?(?:\s*,?\s*(?:and\s+)?|$)")


def split(answer: str) -> tuple[str, Unit | None]:
    """An answer as what stands before its unit, and the unit; as it is, and None, where it ends in no unit known here.

    The unit has to follow a number: the m of a + m is a variable.
    """
    bare = scaled(_HALF_OF_DAY.sub(r"\1m", _DEGREES.sub(_temperature, untypeset(answer)).strip()))
    for sign, name in _CURRENCIES.items():
        if bare.startswith(sign) and numbers(bare):
            return bare[len(sign) :].strip(), _UNITS[name]
        if bare.endswith(sign) and _is_number(bare.removesuffix(sign)):
            return bare.removesuffix(sign).strip(), _UNITS[name]
    total = _total(bare)
    if total is not None:
        return total
    for match in _tails(bare):
        before = bare[: match.start()]
        unit = _named(match)
        if unit is None or not _is_number(before):
            continue
        attached = len(match["unit"]) == 1 and not before.endswith(" ") and answer == bare
        return before.strip(), replace(unit, doubtful=attached)
    return answer, None


def _temperature(match: re.Match[str]) -> str:
    return " celsius" if match["celsius"] else " fahrenheit"


def beside(unit: Unit, other: Unit) -> Unit:
    """A unit as it is meant next to another one: pounds next to £ are money, square units next to cm² may be those."""
    if unit.money and other.dimension == _UNITS["gbp"].dimension:
        return _UNITS["gbp"]
    (base, power), *rest = unit.dimension or (("", 0),)
    return other if base == "unit" and not rest and other.dimension == (("length", power),) else unit


def counted(answer: str) -> tuple[str, frozenset[str]]:
    """An answer as the number and the words after it that say what is counted, folded and without a plural's s: 12 and
    {"red", "marble"}. As it is, and no words, where no number stands before them, or they say how much it is.
    """
    bare = scaled(squeeze(untypeset(answer)))
    match = _COUNTED.search(bare)
    if match is None or not _is_number(bare[: match.start()]):
        return answer, frozenset()
    words = re.split("[ -]", fold(match["words"]))
    singular = {_PLURAL.sub("", word) for word in words}
    if not _TELLING.isdisjoint({*words, *singular}):
        return answer, frozenset()
    return bare[: match.start()].strip(), frozenset(singular | set(re.findall(r"\d", fold(match["power"] or ""))))


def _tails(bare: str) -> list[re.Match[str]]:
    """The ends of an answer that may be a unit, the longest first: "5 square meters" ends in "meters" too."""
    starts = [match.start() for match in re.finditer(r"(?<![^\W\d_²³])[^\W\d_²³]|¢", bare)]
    return [match for start in starts[-4:] if (match := _TAIL.match(bare, start)) is not None]


def _named(match: re.Match[str]) -> Unit | None:
    unit = _one(match["unit"])
    if unit is None or not match["per"]:
        return unit
    other = _one(match["per"])
    return None if other is None else _per(unit, other)


def _one(text: str) -> Unit | None:
    match = _ONE.fullmatch(text.strip())
    if match is None:
        return None
    before, name, after, raised = match.groups()
    unit = _UNITS.get(name)
    if unit is None and len(name) > 1:  # a lone capital is a variable
        unit = _UNITS.get(name.casefold()) or _UNITS.get(name.casefold().removesuffix("s"))
    power = _POWERS.get((before or after or raised or "").casefold(), 1)
    if unit is None or power == 1:
        return unit
    dimension = tuple((base, times * power) for base, times in unit.dimension)
    return Unit(f"{unit.name}^{power}", dimension, unit.factor**power)


def _is_number(before: str) -> bool:
    """Whether what stands before a unit is a number, maybe a named one (x = 5): no letters but those of LaTeX."""
    rest = _LATEX_NAME.sub("", _ASSIGNED.sub("", before))
    return bool(numbers(rest)) and not any(sign.isalpha() and sign != "π" for sign in rest)


def _total(bare: str) -> tuple[str, Unit] | None:
    """Several quantities of one kind, as one in the first one's unit: 2 hours 30 minutes are 5/2 hours."""
    parts, end = [], 0
    for match in _PART.finditer(bare):
        unit = _one(match[2])
        if match.start() != end or unit is None:
            return None
        parts.append((Fraction(match[1].replace(",", "")), unit))
        end = match.end()
    if len(parts) < 2 or end != len(bare) or len({unit.dimension for _, unit in parts}) > 1:
        return None
    first = parts[0][1]
    total = sum((value * unit.factor for value, unit in parts), Fraction(0)) / first.factor
    return f"{total.numerator}/{total.denominator}", replace(first, money=False)
