"""Code fences and talk about itself."""

import pytest

from pipeline.rules.content import code_block, meta_talk
from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace


def trace(raw: str, domain: str = "math") -> Trace:
    return Trace(raw, "stop", 10, False, domain)


@pytest.mark.parametrize("raw", ["```python\nprint(4)\n```", "So:\n   ```\n4\n```", "~~~\n4\n~~~"])
def test_a_code_fence_in_maths_fails(raw: str) -> None:
    assert code_block(trace(raw), Limits()) == {"at": 0 if raw[0] in "`~" else 4}


@pytest.mark.parametrize(
    "one",
    [trace("use `x` here"), trace("a ``` b"), trace("```python\n4\n```", "code"), trace("```\n4\n```", "general")],
)
def test_other_code_passes(one: Trace) -> None:
    assert code_block(one, Limits()) is None


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("As an AI language model, I count 4.", "As an AI"),
        ("I'm sorry, but no.", "I'm sorry"),
        ("I\u2019m unable to draw.", "I\u2019m unable to"),
        ("I cannot assist with that.", "I cannot assist"),
        ("Since I am a language model, 4.", "I am a language model"),
        ("My training data says 4.", "My training data"),
    ],
)
def test_talk_about_itself_fails(raw: str, text: str) -> None:
    assert meta_talk(trace(raw), Limits()) == {"at": raw.index(text), "text": text}


@pytest.mark.parametrize(
    "raw",
    ["As an aid, we draw a line.", "I cannot divide by 0, so x = 4.", "The model train is 4 m long.", "Hawaii am an"],
)
def test_talk_about_the_problem_passes(raw: str) -> None:
    assert meta_talk(trace(raw), Limits()) is None
