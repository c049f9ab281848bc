"""Length bounds include their limits."""

import pytest

from pipeline.rules.limits import Limits
from tests.pipeline.rules.cases import Case, Table, figures, listed, named, thinking, trace

FIVE, TWICE, WALL = Limits(min_tokens=5, max_tokens=50), Limits(length_ratio=2.0), Limits(paragraph_chars=80)
WORDS = "a word and another one "


def lengths(*tokens: int) -> list[Case]:
    return [Case(f"{count} tokens", trace("x", completion_tokens=count), FIVE) for count in tokens]


def against(*pairs: tuple[int, float | None]) -> list[Case]:
    return [
        Case(f"{count} against {others}", trace("x", completion_tokens=count, others_tokens=others), TWICE)
        for count, others in pairs
    ]


FAILS: Table = {
    "too_short": [
        *lengths(0, 1, 2, 3, 4),
        *(Case("empty", trace(raw, completion_tokens=0)) for raw in ("", " ", "\n")),
    ],
    "too_long": lengths(51, 52, 100, 1000, 4096, 32768, 10**6, 10**9),
    "short_for_problem": against(
        (49, 100.0), (1, 3.0), (0, 1.0), (10, 20.5), (100, 1000), (499, 999.0), (2, 5), (7, 15)
    ),
    "long_for_problem": against((201, 100.0), (7, 3.0), (1, 0.0), (42, 20.5), (5000, 1000), (11, 5), (3, 1), (31, 15)),
    "long_paragraph": [
        Case("one more than the limit", trace("x" * 81), WALL),
        Case("words", trace(WORDS * 5), WALL),
        Case("after short lines", trace("a\n" * 50 + WORDS * 4), WALL),
        Case("before short lines", trace(WORDS * 4 + "\nb" * 50), WALL),
        Case("in a reasoning", thinking(WORDS * 4), WALL),
        Case("in an answer", thinking("4", WORDS * 4 + "\\boxed{4}"), WALL),
        Case("of signs that take three bytes", trace("\u6211" * 81), WALL),
        Case("a digit that never ends", trace("0." + "3" * 4000), Limits()),
        Case("a list in one line", trace(", ".join(map(str, range(40)))), WALL),
    ],
}
PASSES: Table = {
    "too_short": [
        *lengths(5, 6, 7, 50, 1000),
        *(Case("one token", trace(raw, completion_tokens=1)) for raw in ("4", "", "a b c")),
    ],
    "too_long": [
        *lengths(0, 1, 5, 48, 49, 50),
        *(Case("no limit", trace("x", completion_tokens=n)) for n in (10, 10**9)),
    ],
    "short_for_problem": [
        *against((50, 100.0), (51, 100.0), (100, 100.0), (1000, 100.0), (0, None), (0, 0.0), (10, 20.0)),
        Case("no limit", trace("x", completion_tokens=1, others_tokens=10.0**6)),
    ],
    "long_for_problem": [
        *against((200, 100.0), (199, 100.0), (100, 100.0), (1, 100.0), (10**6, None), (0, 0.0), (40, 20.0)),
        Case("no limit", trace("x", completion_tokens=10**6, others_tokens=1.0)),
    ],
    "long_paragraph": [
        Case("the limit", trace("x" * 80), WALL),
        Case("the limit and white space", trace("  " + "x" * 80 + "   \n  "), WALL),
        Case("of signs that take three bytes", trace("\u6211" * 80), WALL),
        Case("many lines", trace((WORDS * 3 + "\n") * 50), WALL),
        Case("many paragraphs", trace((WORDS * 3 + "\n\n") * 50), WALL),
        Case("carriage returns", trace((WORDS * 3 + "\r\n") * 50), WALL),
        Case("nothing", trace(""), WALL),
        Case("no limit", trace("x" * 10**5), Limits(paragraph_chars=None)),
        Case("under the limit of a plain recipe", trace("x" * 4000)),
    ],
}


@pytest.mark.parametrize(("rule", "case"), listed(FAILS), ids=named)
def test_a_trace_beyond_its_limit_fails(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is not None


@pytest.mark.parametrize(("rule", "case"), listed(PASSES), ids=named)
def test_a_trace_within_its_limits_passes(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is None


def test_the_figures_say_why() -> None:
    assert figures("too_short", trace("x", completion_tokens=0)) == {"tokens": 0, "limit": 1}
    assert figures("too_long", trace("x", completion_tokens=51), FIVE) == {"tokens": 51, "limit": 50}
    far = trace("x", completion_tokens=90, others_tokens=20.0)
    assert figures("long_for_problem", far, TWICE) == {"tokens": 90, "others_median": 20.0}
    assert figures("long_paragraph", trace("a\n" + "x" * 90), WALL) == {"chars": 90, "limit": 80}
