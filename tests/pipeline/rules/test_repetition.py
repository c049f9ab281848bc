"""Loops and repeats are found; working that is only regular is not."""

# ruff: noqa: RUF001 - letters and signs of other scripts are what it is about
import random

import pytest

from pipeline.rules.limits import Limits
from pipeline.rules.repetition import agreements, may_repeat, repeated_line_share, repeated_ngram_share, tail_period
from tests.pipeline.rules.cases import Case, Table, figures, listed, named, thinking, trace

LONG = " ".join(f"{number} is a number and {number + 7} is another one of them." for number in range(20))
STEP = "We look at the number of apples once more, because the basket might hold more of them than we thought before."
PARAGRAPH = " ".join(f"word{number}" for number in range(100)) + "."
CHINESE = "我们再检查一遍这个结果是否正确。"


def lines(letters: str) -> str:
    return "\n".join(f"a + {letter} = c" for letter in letters)


FAILS: Table = {
    "looping_tail": [
        Case("the same equation to the end", trace("8 - 7 = 1\n" * 20)),
        Case("a word to the end", trace("So it is " + "no " * 30)),
        Case("a loop cut in its middle", trace(LONG + " wait, let me see" * 8 + " wait, let")),
        Case("a paragraph of a hundred words, after many others", trace(LONG * 9 + f"\n{PARAGRAPH}" * 5)),
        Case("two words in turn", trace(LONG + " yes no" * 14)),
        Case("case and white space aside", trace("Wait, no.\n" * 7 + "wait,  no. " * 7)),
        Case("dots", trace(LONG + " ." * 30)),
        Case("in a reasoning that never ends", trace("<think>" + "hmm, so " * 14, thinking=True)),
        Case("without spaces between words", trace(CHINESE * 5)),
        Case("the same digits", trace("0 1 " * 20)),
    ],
    "repeated_ngrams": [
        Case("a paragraph said again and again, with an end", trace(f"{STEP}\n\n" * 5 + "\\boxed{4}")),
        Case("twice the same, and again half of it", trace(f"{LONG} {LONG} {LONG[:400]} end")),
        Case("numbered lines that say the same", trace("".join(f"{n}. {STEP}\n" for n in range(9)))),
        Case("two sentences in turn", trace(f"{STEP} {PARAGRAPH}" * 4)),
        Case("in a reasoning", thinking(f"{STEP} " * 6)),
        Case("line breaks elsewhere", trace(f"{STEP} " * 3 + STEP.replace(" ", "\n") * 3 + " end")),
        Case("case aside", trace(f"{STEP} {STEP.upper()} {STEP} end")),
        Case("without spaces between words", trace((CHINESE + "好") * 6 + "\\boxed{4}")),
        Case("a sum again and again", trace("1 + 2 + 3 + 4 + 5 = 15, so " * 9 + "done")),
    ],
    "repeated_lines": [
        Case("lines that come back", trace(lines("bcdefghgfedcbdfhceg"))),
        Case("each line twice", trace("\n".join(f"line {n // 2} says {n // 2} and more of it" for n in range(40)))),
        Case("one line between others", trace("\n".join(f"{STEP}\nshort {n}" for n in range(8)))),
        Case("indented differently", trace("\n".join(" " * (n % 4) + f"x = {n % 6} + y or so" for n in range(30)))),
        Case("case aside", trace("\n".join(("Check IT now" if n % 2 else "check it NOW") + "!" * n for n in range(2)) +
             "\n" + "\n".join(["Then check it", "then CHECK it"] * 20))),
        Case("blank lines between", trace("\n\n".join(["Let me see.", "Is it 4?", "No, is it?"] * 8))),
        Case("in a reasoning", thinking(lines("bcdbcdebcdfbcdgbcd"))),
        Case("without spaces between words", trace(f"{CHINESE}\n好\n" * 8 + "\\boxed{4}")),
        Case("carriage returns", trace(lines("bcdefghgfedcbdfhceg").replace("\n", "\r\n"))),
    ],
}  # fmt: skip
REGULAR = [
    Case("plain working", trace(LONG)),
    Case("a long sum", trace(" ".join(f"{number} + {number} = {2 * number}." for number in range(40)))),
    Case("counting up", trace(", ".join(str(number) for number in range(200)))),
    Case("Euclid's steps", trace("\n".join(f"{9 * k} = 1 * {8 * k} + {k}" for k in range(30, 1, -1)))),
    Case("one line said twice", trace(f"{STEP}\n{LONG}\n{STEP}")),
    Case("a short text said twice", trace("4 + 4 = 8\n4 + 4 = 8\n\\boxed{8}")),
    Case("a rule of dashes", trace("Table\n--------------------\n" + LONG)),
    Case("displayed formulas", trace("\n".join(f"\\[\n{number} + 1 = {number + 1}\n\\]" for number in range(30)))),
    Case("a loop that it got out of", trace("wait, no " * 6 + LONG)),
    Case("three times the same at its end", trace(LONG + " wait, let me see now" * 3)),
    Case("without spaces between words", trace("首先计算三加五等于八，然后减去二得到六，所以答案是六。" * 1)),
    Case("nothing", trace("")),
    Case("one word", trace("4")),
]
PASSES: Table = dict.fromkeys(FAILS, REGULAR)


@pytest.mark.parametrize(("rule", "case"), listed(FAILS), ids=named)
def test_a_trace_that_repeats_itself_fails(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is not None


@pytest.mark.parametrize(("rule", "case"), listed(PASSES), ids=named)
def test_regular_working_passes(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is None


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
    assert tail_period(words.split(), Limits(loop_times=4, loop_min_words=4)) == expected


def test_every_period_of_a_tail_is_what_counting_word_by_word_gives() -> None:
    draw = random.Random(7)
    limits = Limits(loop_times=2, loop_min_words=3, loop_max_period=50)
    for _ in range(2000):
        words = draw.choices("ab", k=draw.randrange(30)) + draw.choices("abc", k=3) * draw.randrange(4)
        expected = (0, 0)
        for period in range(1, len(words) // 2 + 1):
            length = period
            while length < len(words) and words[-1 - length] == words[-1 - length + period]:
                length += 1
            if length >= max(3, 2 * period):
                expected = (period, length // period)
                break
        assert tail_period(words, limits) == expected, words


def test_agreements_with_the_start_are_found_in_twice_as_many_comparisons_as_words() -> None:
    compared = 0

    class Word(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    for text in ("a" * 500, "ab" * 250, "a" * 499 + "b", "aab" * 150 + "aac" * 20):
        compared = 0
        found = agreements([Word(letter) for letter in text])
        assert compared <= 2 * len(text)
        same = [next((n for n in range(len(text) - place) if text[n] != text[place + n]), len(text) - place)
                for place in range(len(text))]  # fmt: skip
        assert found == same


def test_no_share_over_its_limit_escapes_the_cheap_look() -> None:
    draw = random.Random(3)
    over = 0
    for _ in range(3000):
        limits = Limits(ngram_words=draw.randrange(2, 7), repeated_ngram_share=draw.choice([0.1, 0.3, 0.5, 0.9]))
        piece = draw.choices("abcdefgh", k=draw.randrange(1, 15))
        words = [word for _ in range(6) for word in draw.choice([piece, draw.choices("abcdefghij", k=6)])]
        if repeated_ngram_share(words, limits.ngram_words) > limits.repeated_ngram_share:
            over += 1
            assert may_repeat(words, limits), (words, limits)
    assert over > 300


@pytest.mark.parametrize(
    ("words", "share"), [("a b c a b c", 0.5), ("a b c d", 0.0), ("a b a b a b", 4 / 6), ("", 0.0)]
)
def test_the_share_of_repeated_ngrams_is_in_words(words: str, share: float) -> None:
    assert repeated_ngram_share(words.split(), 2) == share


@pytest.mark.parametrize(("raw", "share"), [("ab\n AB\ncd", 2 / 6), ("ab\n---\n---\n", 0.0), ("", 0.0)])
def test_the_share_of_repeated_lines_is_in_characters(raw: str, share: float) -> None:
    assert repeated_line_share(trace(raw)) == share
