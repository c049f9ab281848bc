import pytest

from pipeline.verifiers.spelling import balanced, parts, spelled, unexplained, unfinished


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("1 234 567", "1234567"),
        ("12 34", "12 34"),
        ("1, 234", "1, 234"),
        ("approximately 5", "5"),
        ("2½", r"2\frac{1}{2}"),
        ("2 1/2", r"2\frac{1}{2}"),
        ("x^2 1/2", "x^2 1/2"),
        ("1.5e3", r"1.5 \cdot 10^{3}"),
        ("3.5 million", r"3.5 \cdot 10^{6}"),
        (r"3\text{ billion}", r"3 \cdot 10^{9}"),
        ("x ≤ 3", r"x \leq  3"),
        ("1.5 × 10⁻⁴", r"1.5 \times  10^{-4}"),
        ("1.5 x 10^-4", r"1.5 \times  10^{-4}"),
        ("2 x 3", "2 x 3"),
        ("x 10", "x 10"),
        ("2**3", "2^3"),
        ("x**-2", "x^{-2}"),
    ],
)
def test_answers_are_spelled_as_latex(answer: str, expected: str) -> None:
    assert spelled(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("a, b and c", ["a", "b", "c"]),
        ("a, b, and c", ["a", "b", "c"]),
        (r"a \text{ or } b", ["a", "b"]),
        ("a; b", ["a", "b"]),
        ("sand", ["sand"]),
        ("", []),
    ],
)
def test_lists_fall_into_their_items(answer: str, expected: list[str]) -> None:
    assert parts(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(r"\frac{1}{2}", True), (r"\{1, 2\}", True), ("}{", False), (r"\frac{1}{2", False), ("5}", False), ("5", True)],
)
def test_braces_match_or_not(answer: str, expected: bool) -> None:
    assert balanced(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("12 + 7", True),
        ("2 * 3", True),
        ("10*10", True),
        (r"2 \times 3", True),
        ("2 * 3 * 10^2", True),
        ("5", False),
        ("2 + 3 = 5", False),
        ("1.5 * 10^3", False),
        ("1.5 × 10³", False),
        ("1.5*10**3", False),
        (r"1.5 \cdot 10^{-3}", False),
    ],
)
def test_a_calculation_is_told_from_a_power_of_ten(answer: str, expected: bool) -> None:
    assert unfinished(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("6, since 2 + 4 = 6", "6"),
        ("5 km because it is so", "5 km"),
        ("7 (since 3 + 4 = 7)", "7"),
        ("it rains because of 2 clouds", "it rains because of 2 clouds"),
        ("5 sincere men", "5 sincere men"),
    ],
)
def test_a_reason_after_a_number_is_left_out(answer: str, expected: str) -> None:
    assert unexplained(answer) == expected
