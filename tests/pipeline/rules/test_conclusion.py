"""An answer that is not what the reasoning arrived at."""

import pytest

from pipeline.rules.conclusion import differ
from tests.pipeline.rules.cases import Case, Table, figures, listed, named, thinking, trace


def ends(*pairs: tuple[str, str]) -> list[Case]:
    return [Case(f"{reasoning[-40:]} | {answer}", thinking(reasoning, answer)) for reasoning, answer in pairs]


FAILS: Table = {
    "answer_differs": [
        *ends(
            ("So the answer is 5.", "\\boxed{4}"),
            ("Thus \\boxed{12}.", "The answer is 21."),
            ("The final answer is $\\frac{1}{2}$", "\\boxed{\\frac{1}{3}}"),
            ("The answer is (B).", "\\boxed{C}"),
            ("Therefore the answer is -3", "\\boxed{3}"),
            ("The answer: 1,234", "**Answer:** 1,243"),
            ("the answer is x = 7", "\\boxed{x = 8}"),
            ("So the answer is 0.25.", "\\boxed{1/5}"),
            ("I had 4, but the answer is 5.", "\\boxed{4}"),
            ("the answer is 12 cm", "\\boxed{13 cm}"),
        ),
        Case("without think tags", trace("2 + 3 = 5\nThe answer is 5.\n\\boxed{4}")),
    ]
}
PASSES: Table = {
    "answer_differs": [
        *ends(
            ("So the answer is 4.", "\\boxed{4}"),
            ("The answer is 5. Wait, that is one too many: 4.", "\\boxed{4}"),
            ("Is the answer 5? No.", "\\boxed{4}"),
            ("the answer is 5, but I should check: 2 + 2 = 4", "\\boxed{4}"),
            ("The answer is 1/3.", "\\boxed{0.333}"),
            ("The answer is 50%.", "\\boxed{0.5}"),
            ("The answer is 1,000.", "\\boxed{1000}"),
            ("The answer is 12 cm.", "\\boxed{12}"),
            ("The answer is 1 m.", "\\boxed{100 cm}"),
            ("The answer is four.", "\\boxed{4}"),
            ("The answer is x + 1.", "\\boxed{1 + x}"),
            ("The answer is 3 or 4.", "\\boxed{4}"),
            ("2 + 3 = 5 and the result is 5.", "\\boxed{10}"),
            ("The answer is (a, b).", "\\boxed{(A)}"),
            ("The answer is 5. " + "But then more is said about it. " * 12, "\\boxed{4}"),
            ("The answer is 5.", "Nothing."),
            ("The answer is 007.", "\\boxed{7}"),
            ("", "\\boxed{4}"),
        ),
        Case("an equation on the line before", trace("x + 2 = 6\n\\boxed{4}")),
        Case("a result on the way", trace("The result is 5.\nAnd 5 - 1 = 4.\n\\boxed{4}")),
        Case("no tag is closed", trace("<think>the answer is 4", thinking=True)),
    ]
}


@pytest.mark.parametrize(("rule", "case"), listed(FAILS), ids=named)
def test_an_answer_that_contradicts_its_reasoning_fails(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is not None


@pytest.mark.parametrize(("rule", "case"), listed(PASSES), ids=named)
def test_what_may_be_the_same_passes(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is None


def test_the_figures_say_both() -> None:
    assert figures("answer_differs", thinking("So the answer is 5.")) == {"reasoning": "5", "answer": "4"}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("3.14", "3.1416", False),
        ("3.14", "3.15", True),
        ("3.1", "3.3", True),
        ("\\$5", "$5$", False),
        ("\\$5", "\\$6", True),
        ("\\$0.50", "50 cents", False),
        ("5 million", "5000000", False),
        ("3 hours", "180", False),
        ("2\\pi", "6.28", False),
        ("\\dfrac{2}{4}", "1/2", False),
        ("1/0", "2", False),
        ("20\\%", "30", True),
        ("20\\%", "0.2", False),
        ("5 \\text{ km}", "6 km", True),
        ("9" * 80, "8", False),
        ("(2, 3)", "2", False),
        ("A", "a", False),
    ],
)
def test_only_what_is_certainly_not_the_same_differs(one: str, other: str, expected: bool) -> None:
    assert differ(one, other) is expected
    assert differ(other, one) is expected
