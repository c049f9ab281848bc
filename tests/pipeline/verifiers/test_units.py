from fractions import Fraction

import pytest

from pipeline.verifiers.units import beside, counted, split


@pytest.mark.parametrize(
    ("answer", "before", "name"),
    [
        ("5 cm", "5", "cm"),
        (r"5\text{ cm}", "5", "cm"),
        (r"5\,\mathrm{m}", "5", "m"),
        ("3 hours", "3", "hour"),
        ("3 hrs.", "3", "hour"),
        ("6 feet", "6", "foot"),
        ("$5", "5", "dollar"),
        (r"\$5.00", "5.00", "dollar"),
        (r"\frac{1}{2} km", r"\frac{1}{2}", "km"),
        ("x = 5 kg", "x = 5", "kg"),
        ("60 km/h", "60", "km/hour"),
        ("60 miles per hour", "60", "mile/hour"),
        ("60 mph", "60", "mile/hour"),
        (r"9.8\text{ m/s}^2", "9.8", "m/second^2"),
        ("25 cm^2", "25", "cm^2"),
        (r"25\text{ cm}^{2}", "25", "cm^2"),
        ("25 cm²", "25", "cm^2"),
        ("25 square centimeters", "25", "cm^2"),
        ("3 cubic feet", "3", "foot^3"),
        ("2 hours 30 minutes", "5/2", "hour"),
        ("2 hours and 30 minutes", "5/2", "hour"),
        ("5 dollars, 25 cents", "21/4", "dollar"),
        ("5m", "5", "m"),
        ("5 million dollars", r"5 \cdot 10^{6}", "dollar"),
        ("$5 million", r"5 \cdot 10^{6}", "dollar"),
        ("36 units^2", "36", "unit^2"),
        ("25π cm²", "25π", "cm^2"),
        ("3:30 PM", "3:30", "pm"),
        ("10 a.m.", "10", "am"),
        ("a. m.", "a. m.", None),
        ("a + m", "a + m", None),
        ("2a + m", "2a + m", None),
        ("m", "m", None),
        ("5 pears", "5 pears", None),
        ("5 M", "5 M", None),
        ("2 hours 3 pears", "2 hours 3 pears", None),
        ("2 hours 3 meters", "2 hours 3 meters", None),
        ("5", "5", None),
        ("$x$", "$x$", None),
    ],
)
def test_known_units_after_a_number_are_found(answer: str, before: str, name: str | None) -> None:
    found, unit = split(answer)
    assert (found, unit.name if unit else None) == (before, name)


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    [
        ("1 m", "1 cm", Fraction(100)),
        ("1 hour", "1 minute", Fraction(60)),
        ("1 foot", "1 inch", Fraction(12)),
        ("1 km/h", "1 m/s", Fraction(5, 18)),
        ("1 m^2", "1 cm^2", Fraction(10_000)),
        ("1 liter", "1 cm^3", Fraction(1000)),
        ("1 year", "1 month", Fraction(12)),
        ("1 dollar", "1 cent", Fraction(100)),
        ("1 pound", "1 ounce", Fraction(16)),
    ],
)
def test_units_of_one_kind_convert(one: str, other: str, ratio: Fraction) -> None:
    (_, first), (_, second) = split(one), split(other)
    assert first is not None
    assert second is not None
    assert first.dimension == second.dimension
    assert first.factor / second.factor == ratio


@pytest.mark.parametrize(("one", "other"), [("1 m", "1 s"), ("1 m", "1 m^2"), ("1 year", "1 day"), ("$1", "€1")])
def test_units_of_two_kinds_do_not(one: str, other: str) -> None:
    (_, first), (_, second) = split(one), split(other)
    assert first is not None
    assert second is not None
    assert first.dimension != second.dimension


@pytest.mark.parametrize(
    ("answer", "other", "name"),
    [
        ("5 pounds", "£5", "gbp"),
        ("5 pounds", "$5", "pound"),
        ("5 lb", "£5", "pound"),
        ("5 pounds 8 ounces", "£5", "pound"),
        ("5 square pounds", "£5", "pound^2"),
        ("£5", "5 pounds", "gbp"),
        ("36 square units", "36 cm^2", "cm^2"),
        ("36 units", "36 cm^2", "unit"),
        ("36 square units", "36 pounds", "unit^2"),
        ("6 units per hour", "6 cm", "unit/hour"),
        ("5 L/cm^3", "5 m", "liter/cm^3"),
    ],
)
def test_a_unit_is_read_as_the_one_beside_it_allows(answer: str, other: str, name: str) -> None:
    (_, unit), (_, another) = split(answer), split(other)
    assert unit is not None
    assert another is not None
    assert beside(unit, another).name == name


@pytest.mark.parametrize(
    ("answer", "number", "words"),
    [
        ("12 dogs", "12", {"dog"}),
        (r"12\text{ Red marbles}", "12", {"red", "marble"}),
        ("18 a day", "18", {"a", "day"}),
        ("3 glasses", "3", {"glass"}),
        ("3 glass", "3", {"glass"}),
        ("1/2 cup", "1/2", {"cup"}),
        ("7 blobs^2", "7", {"blob", "2"}),
        ("x = 5 dogs", "x = 5", {"dog"}),
        (r"\frac{1}{2} cup", r"\frac{1}{2}", {"cup"}),
        ("3.5 million people", r"3.5 \cdot 10^{6}", {"people"}),
        ("5 dozen eggs", "5 dozen eggs", set()),
        ("5 halves", "5 halves", set()),
        ("7 blobs²", "7", {"blob", "2"}),
        ("2 sin", "2 sin", set()),
        ("2 cos", "2 cos", set()),
        ("2 plus", "2 plus", set()),
        ("2 pi", "2 pi", set()),
        ("a + 5 dogs", "a + 5 dogs", set()),
        ("2ab", "2ab", set()),
        ("2 ab", "2 ab", set()),
        ("3 dogs and 4 cats", "3 dogs and 4 cats", set()),
        ("dogs", "dogs", set()),
    ],
)
def test_words_for_what_is_counted_are_told_from_those_for_how_much(answer: str, number: str, words: set[str]) -> None:
    assert counted(answer) == (number, words)


def test_a_lone_letter_at_a_number_is_doubtful() -> None:
    doubtful = {answer: unit.doubtful for answer in ("5m", "5 m", r"5\text{m}", "5cm") if (unit := split(answer)[1])}
    assert doubtful == {"5m": True, "5 m": False, r"5\text{m}": False, "5cm": False}
