"""Each rule about form: what passes, what fails."""

import pytest

from pipeline.rules import load
from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace


def trace(raw: str, finish: str = "stop", thinking: bool = False) -> Trace:
    return Trace(raw, finish, 10, thinking, "math")


GOOD = trace("2 + 2 = 4\n\\boxed{4}")
GOOD_THINKING = trace("<think>2 + 2 = 4</think>\\boxed{4}", thinking=True)
FAILS = [
    ("truncated", trace("2 + 2", "length"), {"tokens": 10}),
    ("generation_error", trace("", "error"), {"finish": "error"}),
    ("generation_error", trace("4", "abort"), {"finish": "abort"}),
    ("answer_missing", trace("2 + 2 is left to the reader"), {}),
    ("answer_missing", trace(""), {}),
    ("answer_missing", trace("so \\boxed{"), {}),
    ("answer_missing", trace("<think>it is \\boxed{4}</think> Done.", thinking=True), {}),
    ("answer_missing", trace("<think>it is \\boxed{4}", thinking=True), {}),
    ("think_missing", trace("\\boxed{4}", thinking=True), {}),
    ("think_doubled", trace("<think>a</think><think>b</think>\\boxed{4}", thinking=True), {}),
    ("think_doubled", trace("<think>2 + 2</think>\\boxed{4}"), {}),
    ("think_unclosed", trace("<think>2 + 2", thinking=True), {}),
    ("think_empty", trace("<think>\n</think>\\boxed{4}", thinking=True), {}),
]
PASSES = [
    ("truncated", trace("", "error")),
    ("generation_error", trace("2 + 2", "length")),
    ("answer_missing", trace("Answer: 4")),
    ("answer_missing", trace("So:\n```python\nprint(4)\n```")),
    ("think_missing", trace("2 + 2 = 4</think>\\boxed{4}", thinking=True)),  # the prompt opened the tag
    ("think_missing", trace("\\boxed{4}")),
    ("think_empty", trace("<think>4</think>\\boxed{4}", thinking=True)),
]
NAMES = sorted({name for name, _, _ in FAILS})


@pytest.mark.parametrize(("name", "broken", "figures"), FAILS)
def test_a_trace_that_breaks_the_rule_fails(name: str, broken: Trace, figures: dict[str, object]) -> None:
    assert load(name)(broken, Limits()) == figures


@pytest.mark.parametrize(
    ("name", "sound"), [*PASSES, *((name, one) for name in NAMES for one in (GOOD, GOOD_THINKING))]
)
def test_a_trace_that_keeps_the_rule_passes(name: str, sound: Trace) -> None:
    assert load(name)(sound, Limits()) is None
