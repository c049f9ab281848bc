from typing import Any

import pytest

from pipeline.verifiers.math import is_text, judge, prepare

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

# Kind -> (reference, answer) pairs that mean the same.
SAME = {
    "sets": [
        (r"\{1, \frac{1}{2}\}", r"\{0.5, 1\}"), (r"\{1,2\}", "1 and 2"), (r"\{1,2\}", r"x=1 \text{ or } x=2"),
        (r"\emptyset", r"\varnothing"), ("-2, 5", r"x = 5 \text{ or } x = -2"), ("1, 2, 3", "1, 2, and 3"),
        (r"\{-1, 1\}", r"\pm 1"), (r"\{(1,2)\}", "(1,2)"),
    ],
    "intervals": [
        ("[0, 1]", r"0 \le x \le 1"), (r"(2, \infty)", "x > 2"), (r"(-\infty, 3]", "x ≤ 3"),
        ("[0.5, 1]", r"[\frac12, 1]"),
        (r"(-\infty,-1)\cup(1,\infty)", r"(1,\infty)\cup(-\infty,-1)"), (r"(-\infty, ∞)", r"\mathbb{R}"),
        (r"[2,5)", r"\left[2, 5\right)"), (r"(-\infty,2)\cup(2,\infty)", r"\mathbb{R} \setminus \{2\}"),
    ],
    "units": [
        ("5 m", "500 cm"), ("5 m", r"500\text{ cm}"), ("2 hours", "120 minutes"), ("150 minutes", "2 hours 30 minutes"),
        ("2.5 km", "2,500 metres"), ("$5", "500 cents"), ("60 km/h", r"60\text{ kilometers per hour}"),
        ("36 km/h", "10 m/s"), (r"25\text{ cm}^2", "25 square centimeters"), ("1 m^2", "10000 cm²"),
        ("1 L", "1000 cm^3"),
        (r"x = 5\text{ cm}", "5"), ("1/2 hour", "30 min"), ("12 apples", "12"), ("90 degrees", r"90^\circ"),
        ("5 feet 6 inches", "66 inches"), ("5 dollars", r"\$5"), ("3 years", "36 months"), ("5m", "5 meters"),
        ("3.5 million", "3,500,000"), ("2 thousand", "2000"),
    ],
    "percent": [
        ("12.5%", "1/8"), (r"\frac{1}{4}", "25%"), ("50 percent", "50%"), ("0.5%", "0.5"), (r"12.5\%", "12.5"),
        ("33.3333%", "1/3"), (r"20\text{ percent}", "0.2"), (r"\frac{1}{3}\%", r"\frac{1}{300}"),
    ],
    "mixed numbers": [
        ("2 1/2", "5/2"), (r"2\frac{1}{2}", "2.5"), (r"\frac{7}{4}", "1 3/4"), (r"-1\frac{1}{2}", "-1.5"),
        ("3 1/3", "10/3"),
        ("-2 1/4", r"-\frac{9}{4}"),
    ],
    "text in LaTeX": [
        (r"\text{Tuesday}", "Tuesday"), (r"\textbf{East}", "east"), (r"\mathrm{Evelyn}", "Evelyn"),
        (r"\text{(C)}", "(C)"),
        (r"\text{No real solutions}", "no real solutions."), (r"\text{red, blue}", "Red, Blue"), ("no", "No"),
        (r"\text{red}, \text{blue}", "red and blue"), ("C", r"\text{C}"),
    ],
    "matrices": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}"),
        (r"\begin{pmatrix}1/2\\1\end{pmatrix}", r"\begin{pmatrix}0.5\\1\end{pmatrix}"),
        (r"\begin{pmatrix}x+x\\1\end{pmatrix}", r"\begin{pmatrix}2x\\1\end{pmatrix}"),
        (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", r"\left[\begin{matrix}1&0\\0&1\end{matrix}\right]"),
    ],
    "expressions": [
        (r"\sin^2 x + \cos^2 x", "1"), (r"2\sqrt{3}", r"\sqrt{12}"), (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        (r"\ln 8", r"3\ln 2"), (r"\log_2 8", "3"), ("2^{10}", "1024"), (r"\binom{5}{2}", "10"), ("3+2i", "2i+3"),
        ("x(x-1)", "x^2-x"), (r"\frac{\pi}{4}", r"0.25\pi"), (r"\frac{x^2-1}{x-1}", "x+1"), ("2.5 × 10^{-3}", "0.0025"),
        (r"\frac{2}{4}", r"\frac{1}{2}"), (r"|-5|", "5"), (r"e^{\ln 3}", "3"), ("10^6", "1,000,000"), ("6x^2", "6x²"),
        (r"\frac{a+b}{2}", "(a+b)/2"), ("1 + 2i", "1+2i"), (r"\sqrt[3]{8}", "2"), ("-x-1", "-(x+1)"),
        ("π/2", r"\frac{\pi}{2}"),
    ],
    "equations and tuples": [
        ("y = 2x + 3", "y = 3 + 2x"), ("x = 5", "5 = x"), ("(3, 4)", "(3,4)"), ("x=3, y=4", "y=4, x=3"),
        (r"\left(\frac{1}{2}, 3\right)", "(0.5, 3)"), ("2x - y + 3 = 0", "y = 2x + 3"), ("(1, 2, 3)", r"(1,\ 2,\ 3)"),
    ],
}  # fmt: skip

WRONG = [
    ("1234", "12,34"), ("0", "-1"),
    ("5", "6"), ("-7", "7"), ("1,234", "1.234"), ("1234", "1 235"), ("x=5", "y=5"), ("5", "5 or 6"), ("5", "2+3"),
    ("6", r"2 \times 3"), ("5", "not obvious"), ("0.33", "1/3"), ("3.14", r"\pi"), ("[1,2)", "(1,2)"),
    ("(1,2)", "(2,1)"), (r"\{1,2\}", r"\{1,2,3\}"), ("5 cm", "5 m"), ("5 hours", "5 minutes"), ("god", "dog"),
    ("Monday", "Tuesday"), ("yes", "no"), (r"\infty", r"-\infty"), ("10", "10 million"), ("50", "0.5"), ("5", "5!"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"), ("100!", "5"), ("5", "1/0"),
]  # fmt: skip

# Kind -> (reference, answer) pairs that look the same, and are not.
LOOKALIKES = {
    "sets": [
        (r"\{1,2\}", "(1,2)"), ("(1,2)", r"\{1,2\}"), (r"\{1,2,3\}", r"\{1,2\}"), (r"\{1,2\}", "1"),
        (r"\emptyset", r"\{0\}"),
        (r"\{1,2\}", r"\{1,-2\}"), ("5", "5, 5, 6"),
    ],
    "intervals": [
        ("(0, 1]", "[0, 1)"), (r"(2, \infty)", r"x \ge 2"), (r"(2, \infty)", "x < 2"), ("[0, 1]", r"\{0, 1\}"),
        (r"(-\infty,-1)\cup(1,\infty)", "(-1,1)"),
    ],
    "units": [
        ("5 m", "500 mm"), ("5 m", "500 m"), ("5 m^2", "5 m"), ("5 km/h", "5 km"), ("5 feet 6 inches", "56 inches"),
        ("$5", "5 cents"), ("$5", "€5"), ("3 years", "3 months"), ("3.5 million", "3.5"),
        ("1 hour", "1 minute"), ("2 hours 30 minutes", "2.3 hours"),
    ],
    "percent": [
        ("0.5", "0.5%"), ("50%", "5%"), ("50%", "0.05"), (r"\frac{1}{2}", r"\frac{1}{2}\%"), ("1", "1%"), ("5%", "500"),
    ],
    "mixed numbers": [
        ("2 1/2", "1"), (r"1\frac{3}{4}", r"\frac{3}{4}"), ("2 1/2", "21/2"), (r"-1\frac{1}{2}", "-0.5"),
        ("1 3/4", "13/4"),
    ],
    "text in LaTeX": [
        (r"\text{red, blue}", "der, blue"), (r"\text{Tuesday}", "Thursday"), ("no", "on"),
        ("Monday", "Monday or Tuesday"),
        ("no solution", "solution"), (r"\text{even}", r"\text{odd}"),
    ],
    "matrices": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(2,1)"),
    ],
    "numbers": [
        ("0.0000001", "0.0000002"), ("1", "1.0000001"), ("1/3000000", "0.0000003"), ("10^{-20}", r"2 \times 10^{-20}"),
        (r"\pi", "3.14159"), ("2/3", "0.67"), (r"\sqrt{2}", "1.414"), ("12345678901234567890", "12345678901234567891"),
        ("0.1", "0.1000001"), ("1,234", "1,23"), ("5", "6 = 5"), ("1e-7", "1e-8"),
    ],
    "expressions": [
        ("(x+1)^2", "x^2+1"), (r"\frac{1}{x+1}", r"\frac{1}{x} + 1"), ("2^{10}", "2 \\cdot 10"),
        (r"\sqrt{12}", r"2\sqrt{6}"),
        ("x^2", "2x"), ("sin x", "cos x"), ("3+2i", "3-2i"), ("ab", "a+b"), (r"\log_2 8", r"\log_{10} 8"),
        (r"|x|", "x"), ("-x^2", "(-x)^2"), ("x_1", "x_2"),
    ],
    "equations and tuples": [
        ("y = 2x + 3", "y = 3x + 2"), ("(3, 4)", "(4, 3)"), ("x=3, y=4", "x=4, y=3"), ("(1,2,3)", "(1,2)"),
        ("x > 2", "x < 2"),
        ("3:4", "4:3"),
    ],
}  # fmt: skip

UNDECIDED = [
    ("   ", "5", "gold_unparseable"),
    (r"\sqrt{", "5", "gold_unparseable"),
    (r"\frac{1}{2", "0.5", "gold_unparseable"),
    (r"x}", "x", "gold_unparseable"),
    ("0/0", "5", "gold_unparseable"),
    (r"\begin{pmatrix} 1 & 2", "5", "gold_unparseable"),
    ("???", "5", "gold_unparseable"),
    ("=", "5", "gold_unparseable"),
    (r"\frac{}{}", "5", "gold_unparseable"),
    (r"5 \text{ or", "5", "gold_unparseable"),
    ("5", r"6} and \boxed{5", "answer_unparseable"),
    ("Ann, Bob, Cid", "Cid, Bob, Ann", "answer_unparseable"),
    ("", "5", "gold_unparseable"),
    (r"\frac{1}{", "5", "gold_unparseable"),
    ("1/0", "5", "gold_unparseable"),
    ("5", "", "answer_unparseable"),
    ("5", r"\frac{1}{", "answer_unparseable"),
    ("5", "???", "answer_unparseable"),
]


def pairs(table: dict[str, list[tuple[str, str]]]) -> list[Any]:
    return [pytest.param(*pair, id=f"{kind} {n}") for kind, found in table.items() for n, pair in enumerate(found)]


@pytest.mark.parametrize(("gold", "given"), [*RIGHT, *pairs(SAME)])
def test_answers_that_mean_the_same_are_right(gold: str, given: str) -> None:
    assert judge(given, gold, {}).outcome == "right"


@pytest.mark.parametrize(("gold", "given"), [*WRONG, *pairs(LOOKALIKES)])
def test_answers_that_differ_are_wrong(gold: str, given: str) -> None:
    judgement = judge(given, gold, {})
    assert (judgement.outcome, judgement.reason, judgement.score) == ("wrong", "wrong_answer", 0.0)


@pytest.mark.parametrize(("gold", "given", "reason"), UNDECIDED)
def test_what_cannot_be_parsed_is_undecided(gold: str, given: str, reason: str) -> None:
    judgement = judge(given, gold, {})
    assert (judgement.outcome, judgement.reason, judgement.score) == ("undecided", reason, None)


def test_a_comparison_that_breaks_inside_the_library_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    from math_verify import grader

    def fail(*given: object, **named: object) -> object:
        raise RecursionError("too deep")

    monkeypatch.setattr(grader, "simplify", fail)
    prepare()
    judgement = judge("y+2", "x+1", {})
    assert (judgement.outcome, judgement.reason) == ("undecided", "answer_unparseable")
    assert judgement.detail["error"] == "RecursionError: too deep"
    assert judge("1+x", "x+1", {}).outcome == "right"


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
