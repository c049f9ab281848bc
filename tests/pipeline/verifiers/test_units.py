from fractions import Fraction

import pytest

from pipeline.verifiers.units import split


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


def test_a_lone_letter_at_a_number_is_doubtful() -> None:
    doubtful = {answer: unit.doubtful for answer in ("5m", "5 m", r"5\text{m}", "5cm") if (unit := split(answer)[1])}
    assert doubtful == {"5m": True, "5 m": False, r"5\text{m}": False, "5cm": False}
