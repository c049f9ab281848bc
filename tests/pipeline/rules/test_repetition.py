"""Loops and repeats are found; working that is only regular is not."""

import pytest

from pipeline.rules.limits import Limits
from pipeline.rules.repetition import looping_tail, repeated_line_share, repeated_ngram_share, repetition
from pipeline.rules.trace import Trace

LONG = " ".join(f"{number} is a number and {number + 7} is another one of them." for number in range(20))
STEP = "We look at the number of apples once more, because the basket might hold more of them than we thought before."
FAILS = [
    ("the same equation to the end", "8 - 7 = 1\n" * 20, "looping_tail"),
    ("a word to the end", "So it is " + "no " * 30, "looping_tail"),
    ("a loop cut in its middle", LONG + " wait, let me see" * 8 + " wait, let", "looping_tail"),
    ("a paragraph said again and again, with an end", f"{STEP}\n\n" * 5 + "\\boxed{4}", "repeated_ngrams"),
    ("lines that come back", "\n".join(f"a + {letter} = c" for letter in "bcdefghgfedcbdfhceg"), "repeated_lines"),
]
PASSES = [
    ("plain working", LONG),
    ("a long sum", " ".join(f"{number} + {number} = {2 * number}." for number in range(40))),
    ("counting up", ", ".join(str(number) for number in range(200))),
    ("Euclid's steps", "\n".join(f"{9 * k} = 1 * {8 * k} + {k}" for k in range(30, 1, -1))),
    ("one line said twice", f"{STEP}\n{LONG}\n{STEP}"),
    ("a short text said twice", "4 + 4 = 8\n4 + 4 = 8\n\\boxed{8}"),
    ("a rule of dashes", "Table\n--------------------\n" + LONG),
    ("displayed formulas", "\n".join(f"\\[\n{number} + 1 = {number + 1}\n\\]" for number in range(30))),
    ("nothing", ""),
]


@pytest.mark.parametrize(("raw", "measure"), [case[1:] for case in FAILS], ids=[case[0] for case in FAILS])
def test_a_trace_that_repeats_itself_fails(raw: str, measure: str) -> None:
    found = repetition(Trace(raw, "stop", 100, False), Limits())
    assert found is not None
    assert found["measure"] == measure


@pytest.mark.parametrize("raw", [case[1] for case in PASSES], ids=[case[0] for case in PASSES])
def test_regular_working_passes(raw: str) -> None:
    assert repetition(Trace(raw, "stop", 100, False), Limits()) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("x a b a b a b a b", (2, 4)),
        ("a b a b a b a", (0, 0)),  # three and a half times
        ("x x a b", (0, 0)),
        ("a a a a", (1, 4)),
        ("", (0, 0)),
    ],
)
def test_the_tail_s_period_and_times_are_counted_in_words(words: str, expected: tuple[int, int]) -> None:
    assert looping_tail(words.split(), Limits(loop_times=4, loop_min_words=4)) == expected


@pytest.mark.parametrize(
    ("words", "share"), [("a b c a b c", 0.5), ("a b c d", 0.0), ("a b a b a b", 4 / 6), ("", 0.0)]
)
def test_the_share_of_repeated_ngrams_is_in_words(words: str, share: float) -> None:
    assert repeated_ngram_share(words.split(), 2) == share


@pytest.mark.parametrize(("raw", "share"), [("ab\n AB\ncd", 2 / 6), ("ab\n---\n---\n", 0.0), ("", 0.0)])
def test_the_share_of_repeated_lines_is_in_characters(raw: str, share: float) -> None:
    assert repeated_line_share(raw) == share
