from typing import Any

import pytest

from pipeline.verifiers.choice import judge

FRUIT = {"choices": ["apple", "a pear", "12", "1.2"]}
LETTERS = {"choices": ["B", "A", "C"]}


@pytest.mark.parametrize(
    ("gold", "given", "data", "outcome"),
    [
        ("B", "B", FRUIT, "right"),
        ("B", "(b)", FRUIT, "right"),
        ("B", "b.", FRUIT, "right"),
        ("B", r"\text{B}", FRUIT, "right"),
        ("B", "Option B", FRUIT, "right"),
        ("B", "B) a pear", FRUIT, "right"),
        ("B", "B because pears are green", FRUIT, "right"),
        ("B", "B) a pear, since it is green", FRUIT, "right"),
        ("B", "B, which is a pear", FRUIT, "right"),
        ("B", "B. This is because it is green.", FRUIT, "right"),
        ("B", "option B (a pear)", FRUIT, "right"),
        ("B", "B because pears are green", {}, "right"),
        ("A", "B because an apple is red", FRUIT, "wrong"),
        ("B", "(B) A pear.", FRUIT, "right"),
        ("B", "**B: a pear**", FRUIT, "right"),
        ("B", "B)** a pear", FRUIT, "right"),
        ("B", "B**: a pear", FRUIT, "right"),
        ("B", "(B)** a pear", FRUIT, "right"),
        ("B", "B** a pear", FRUIT, "right"),
        ("C", "C** 12", FRUIT, "right"),
        ("B", "Option B:** a pear", FRUIT, "right"),
        ("B", "B, a pear", FRUIT, "right"),
        ("B", r"\textbf{(B)}\ a pear", FRUIT, "right"),
        ("B", r"\textbf{(B)}\ a \text{ pear}", FRUIT, "right"),
        ("C", r"\mathrm{(C)}\ 12", FRUIT, "right"),
        ("D", "p", {"choices": ["x", "y", "~p", "p"]}, "right"),
        ("B", "a pear", FRUIT, "right"),
        ("a pear", "B", FRUIT, "right"),
        ("apple", "Apple", FRUIT, "right"),
        ("C", "12", FRUIT, "right"),
        ("B", "A", FRUIT, "wrong"),
        ("B", "B) apple", FRUIT, "wrong"),
        ("B", "A or B", FRUIT, "wrong"),
        ("B", "B** apple", FRUIT, "wrong"),
        ("B", "B, apple", FRUIT, "wrong"),
        ("B", r"\textbf{(B)}\ \text{apple}", FRUIT, "wrong"),
        ("B", r"\textbf{(A)}\ \text{apple}", FRUIT, "wrong"),
        ("B", "A** or **B", FRUIT, "wrong"),
        ("A", "A, B", {}, "wrong"),
        ("A", "A** or **B", {}, "wrong"),
        ("C", "1.2", FRUIT, "wrong"),
        ("C", "21", FRUIT, "wrong"),
        ("B", "Z", FRUIT, "wrong"),
        ("B", "none of them", FRUIT, "wrong"),
        ("B", "B", {}, "right"),
        ("B", "b) whatever", {}, "right"),
        ("A", "a dog", {}, "wrong"),
        ("A", "(A) or (B)", {}, "wrong"),
        ("Z", "A", FRUIT, "undecided"),
        ("plum", "A", FRUIT, "undecided"),
        ("A", "A", LETTERS, "undecided"),
        ("C", "A", LETTERS, "undecided"),
        ("C", "C", LETTERS, "right"),
    ],
)
def test_an_option_is_named_by_letter_or_text(gold: str, given: str, data: dict[str, Any], outcome: str) -> None:
    assert judge(given, gold, data).outcome == outcome


def test_the_cause_of_indecision_is_told() -> None:
    assert judge("A", "plum", FRUIT).reason == "gold_unparseable"
    assert judge("A", "C", LETTERS).reason == "answer_unparseable"
