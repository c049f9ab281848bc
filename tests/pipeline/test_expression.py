"""Expressions: what parses, what is the same after sorting, and exact values."""

from fractions import Fraction

import pytest

from pipeline import expression


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("5 + 3", "+*3+*5"),
        ("5 - (2 - 3)", "+*3+*5-*2"),
        ("-(2 + x)", "-*2-*x"),
        ("6 \u00d7 2 \u00f7 3 \u2212 1", "+*2*6/3-*1"),
        ("2 * (3 + 1)", "+*(+*1+*3)*2"),
        ("-3 * 5", "-*3*5"),
        ("2 - -3 * -(4 - x)", "+*2-*(+*4-*x)*3"),
    ],
)
def test_normal_forms(text: str, form: str) -> None:
    tree = expression.parse(text)
    assert tree is not None
    assert expression.normal(tree) == form


@pytest.mark.parametrize(
    "text", ["", "4 +", "f(2)", "2 ** 3", "True + 1", "'a' + 'b'", "[1][0]", "1 if 2 else 3", "x.y + 1", "1j + 1"]
)
def test_anything_but_plain_arithmetic_is_not_parsed(text: str) -> None:
    assert expression.parse(text) is None


def test_a_text_built_to_exhaust_the_parser_is_not_parsed() -> None:
    assert expression.parse("(" * 10_000 + "1" + ")" * 10_000) is None
    assert expression.parse("9" * 5_000) is None


def test_the_longest_expressions_have_values_and_forms() -> None:
    tree = expression.parse("-" * (expression.LIMIT - 1) + "1")
    assert tree is not None
    assert expression.value(tree) == -1
    assert expression.normal(tree) == "-*1"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4 + 2 * 2", Fraction(8)),
        ("7 - 4 / 6", Fraction(19, 3)),
        ("-(3 - 5) * +2", Fraction(4)),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("2 * x", Fraction(6)),
    ],
)
def test_values_are_exact(text: str, value: Fraction) -> None:
    tree = expression.parse(text)
    assert tree is not None
    assert expression.value(tree, {"x": Fraction(3)}) == value


def test_division_by_zero_has_no_value() -> None:
    tree = expression.parse("1 / (2 - 2)")
    assert tree is not None
    with pytest.raises(ZeroDivisionError):
        expression.value(tree)
