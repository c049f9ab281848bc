import pytest

from pipeline.verifiers.math import is_text, judge, spelled, unit

RIGHT = [
    ("1234567", "+1,234,567"), ("7", "007"),
    ("5", "5"), ("1,234", "1234"), ("1234", "1 234"), ("1234", "1{,}234"), ("1234", r"1\,234"), ("-7", "−7"),
    ("5", r"\boxed{x = 5}"), ("5", "x = 5"), ("x=5", "5"), ("5", "2+3=5"), ("5", "5 = 2+3"),
    ("1/2", "0.5"), ("1/2", r"\frac{1}{2}"), (r"\frac{3}{4}", r"\frac34"), ("-1/2", r"\frac{-1}{2}"), ("5/2", "2½"),
    ("50%", "0.5"), ("0.5", r"50\%"), ("50", "50%"), ("0.333333", "1/3"), ("7", "7.0"), ("1500", "1.5e3"),
    ("1500", r"1.5 \times 10^{3}"), ("0.1", "10^{-1}"), ("120", "5!"), (r"\sqrt{2}", "√2"), ("x^2", "x²"),
    ("5", "5 cm"), ("5 cm", "5"), ("5 cm", "5 centimeters"), (r"25\text{ cm}^2", "25"), ("1000", "1,000 dollars"),
    ("5", "$5"), (r"\$5.00", "5"), ("12", "12 apples"), ("90", r"90^\circ"), ("5", "about 5"), ("2", "two"),
    ("Monday", "monday."), (r"\text{Monday}", "Monday"), ("no solution", r"\text{No solution}"), ("yes", '"Yes"'),
    ("[1,2)", "[1, 2)"), ("(1,2)", "1 < x < 2"), ("1 < x < 2", "(1,2)"), (r"x \in [1,2]", "[1,2]"),
    (r"(-\infty, 3]", r"\left(-\infty, 3\right]"), (r"\{1,2,3\}", "3, 2, 1"), ("(1,2)", r"\left( 1, 2 \right)"),
    (r"3 \pm \sqrt{2}", r"3+\sqrt{2}, 3-\sqrt{2}"), ("(x+1)^2", "x^2+2x+1"), ("2x+3", "y = 2x+3"), ("2a + b", "b + 2a"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"), ("A", r"\text{A}"),
]  # fmt: skip

WRONG = [
    ("1234", "12,34"), ("0", "-1"),
    ("5", "6"), ("-7", "7"), ("1,234", "1.234"), ("1234", "1 235"), ("x=5", "y=5"), ("5", "5 or 6"), ("5", "2+3"),
    ("6", r"2 \times 3"), ("5", "not obvious"), ("0.33", "1/3"), ("3.14", r"\pi"), ("[1,2)", "(1,2)"),
    ("(1,2)", "(2,1)"), (r"\{1,2\}", r"\{1,2,3\}"), ("5 cm", "5 m"), ("5 hours", "5 minutes"), ("god", "dog"),
    ("Monday", "Tuesday"), ("yes", "no"), (r"\infty", r"-\infty"), ("10", "10 million"), ("50", "0.5"), ("5", "5!"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"), ("100!", "5"), ("5", "1/0"),
]  # fmt: skip

UNDECIDED = [
    ("", "5", "gold_unparseable"),
    (r"\frac{1}{", "5", "gold_unparseable"),
    ("1/0", "5", "gold_unparseable"),
    ("5", "", "answer_unparseable"),
    ("5", r"\frac{1}{", "answer_unparseable"),
    ("5", "???", "answer_unparseable"),
]


@pytest.mark.parametrize(("gold", "given"), RIGHT)
def test_answers_that_mean_the_same_are_right(gold: str, given: str) -> None:
    assert judge(given, gold, {}).outcome == "right"


@pytest.mark.parametrize(("gold", "given"), WRONG)
def test_answers_that_differ_are_wrong(gold: str, given: str) -> None:
    judgement = judge(given, gold, {})
    assert (judgement.outcome, judgement.reason, judgement.score) == ("wrong", "wrong_answer", 0.0)


@pytest.mark.parametrize(("gold", "given", "reason"), UNDECIDED)
def test_what_cannot_be_parsed_is_undecided(gold: str, given: str, reason: str) -> None:
    judgement = judge(given, gold, {})
    assert (judgement.outcome, judgement.reason, judgement.score) == ("undecided", reason, None)


def test_a_failing_comparison_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **named: object) -> bool:
        raise RecursionError("too deep")

    monkeypatch.setattr("math_verify.verify", fail)
    assert judge("1/2", "5/2", {}).reason == "gold_unparseable"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("Monday", True), ("no solution", True), ("ab", False), ("sin x", False), ("x", False), ("5 apples", False)],
)
def test_words_are_told_from_formulas(answer: str, expected: bool) -> None:
    assert is_text(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("5 cm", "cm"),
        (r"5\text{ cm}", "cm"),
        (r"5\,\mathrm{m}", "m"),
        ("3 hours", "hour"),
        ("6 feet", "foot"),
        ("$5", "dollar"),
        (r"\frac{1}{2} km", "km"),
        ("a + m", None),
        ("m", None),
        ("5 pears", None),
        ("5", None),
    ],
)
def test_known_units_after_a_number_are_found(answer: str, expected: str | None) -> None:
    assert unit(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("1 234 567", "1234567"),
        ("12 34", "12 34"),
        ("1, 234", "1, 234"),
        ("approximately 5 km", "5"),
        ("2½", r"2\frac{1}{2}"),
    ],
)
def test_answers_are_spelled_as_latex(answer: str, expected: str) -> None:
    assert spelled(answer) == expected
