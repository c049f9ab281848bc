import pytest

from pipeline.verifiers.spelling import balanced, parts, spelled


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
