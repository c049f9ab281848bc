"""Words for comparing: what is folded, and what stays different."""

import random
from itertools import pairwise

import pytest

from pipeline.similarity.normal import normal, normal_each, normal_words, numbers

SAME = [
    ("What is 1/2 of 8?", r"what is $\frac{1}{2}$ of $8$"),
    ("1/2", r"\dfrac12"),
    ("(x + 1)/2", r"\left( x+1 \right) / 2"),
    ("(x+1)/(x-1)", r"\frac{x+1}{x-1}"),
    ("((1/2)/3)", r"(\frac{\frac{1}{2}}{3})"),
    ("3 * 4", r"3 \times 4"),
    ("3 * 4", "3 × 4"),
    ("12 / 4", r"12 \div 4"),
    ("5 - 3", "5 − 3"),
    ("x^2", r"\(x^{2}\)"),
    ("x^2", "x²"),
    ("x^2", "x**2"),
    ("x <= 3", r"x \leq 3"),
    ("1,000 apples", r"1{,}000 apples"),
    ("1000 apples", "1,000 apples"),
    ("25, 15", "25,15"),
    ("Janet's ducks.", "JANET\u2019S  ducks"),
    ("Calculate 4 / 1.", "**Calculate** 4 / 1"),
    ("a well-known rule", "a well known rule"),
    (r"\text{area} = 3", "area = 3"),
    ("Find π", "find Π"),
    ("Who wrote it? Say so.", "Who wrote it \u2014 say so"),
    ("an angle of 90°", r"an angle of $90^\circ$"),
    ("√2 + π", r"$\sqrt{2} + \pi$"),
    ("1000 km", r"1\,000 km"),
    ("4 * 5", "4×5"),
    ("**4** + 3", "4 + 3"),
]
DIFFERENT = [
    ("4 - 1", "4 + 1"),
    ("12", "1 2"),
    ("25, 15", "15, 25"),
    ("2 * (3 + 4)", "2 * 3 + 4"),
    ("5!", "5"),
    ("a - b", "a b"),
    ("x^2", "x 2"),
    ("x = -3", "x = 3"),
    ("1.5", "1 5"),
    ("2 ** 3", "2 * 3"),
    ("12 000", "12000"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_dress_is_folded(one: str, other: str) -> None:
    assert normal_words(one) == normal_words(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_changes_a_problem_stays(one: str, other: str) -> None:
    assert normal_words(one) != normal_words(other)


def test_texts_read_together_give_what_each_gives_alone() -> None:
    """Whatever stands at the end of one and at the start of the next."""
    draw = random.Random(6)
    edges = ["", "!", "5", "! 5", "5!", "-", "a -", "- b", "a", "b-c", "*", "**"]
    edges += ["x*", "**y", "1,", "000", ",000", ".5", "\n"]
    texts = [*edges, *(text for pair in (*SAME, *DIFFERENT) for text in pair), "北京", "\ud800"]
    for _ in range(60):
        some = draw.sample(texts, draw.randint(1, 12))
        found = normal_each(some)
        bounds = found.bounds.tolist()
        assert [found.words(start, end) for start, end in pairwise(bounds)] == [normal_words(text) for text in some]
        alone = [normal(text).hashes.tolist() for text in some]
        assert [found.hashes[start:end].tolist() for start, end in pairwise(bounds)] == alone


def test_a_text_of_punctuation_has_no_words() -> None:
    assert normal_words("... ?! \\[ \\]") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 apples and 2 pears", ("3", "2")),
        ("x = -3", ("-3",)),
        ("5 - 3", ("5", "3")),
        ("(5) - 3", ("5", "3")),
        ("y - 3", ("3",)),
        ("minus - 3", ("-3",)),
        ("-1.5 + 2", ("-1.5", "2")),
        ("none", ()),
    ],
)
def test_numbers_carry_the_sign_that_is_theirs(text: str, expected: tuple[str, ...]) -> None:
    assert numbers(normal_words(text)) == expected
