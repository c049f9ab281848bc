"""The audit: it finds each thing that is broken, and lets what is whole pass."""

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.training.audit import Audit, Limits, audit, faults, lines
from pipeline.training.encode import encode
from tests import tiny

Rows = list[dict[str, Any]]


def look(rows: Rows, max_length: int = 200, template: str = tiny.CHAT_TEMPLATE, system: str | None = None) -> Audit:
    tokenizer = tiny.tokenizer(template)
    fitting, longer, _ = encode(tokenizer, rows, max_length)
    return audit(tokenizer, fitting, longer, max_length, system)


def reply(rows: Rows, change: Callable[[str], str]) -> Rows:
    text = rows[0]["completion"][0]["content"]
    rows[0]["completion"] = [{"role": "assistant", "content": change(text)}]
    return rows


def test_whole_examples_pass() -> None:
    found = look(tiny.examples(10))
    assert faults(found, Limits()) == []
    assert (found.examples, found.reasoned, found.too_long, found.broken) == (10, 10, 0, 0)
    assert (found.closing_tag_share, found.answer_share, found.end_token_in_loss_share) == (1.0, 1.0, 1.0)
    assert len(lines(found)) == 4


def test_the_shares_within_the_limit_fall_one_after_the_other() -> None:
    """A limit that cuts the end token only, the answer too, and the closing tag too."""
    rows = tiny.examples(1)
    tokenizer = tiny.tokenizer()
    (example,) = encode(tokenizer, rows, 200)[0]
    text = rows[0]["completion"][0]["content"]
    closing = len(example.prompt) + len(tokenizer(text[: text.find("</think>") + 8])["input_ids"])
    shares = [
        (one.closing_tag_share, one.answer_share, one.end_token_share)
        for one in (look(rows, limit) for limit in (example.length, example.length - 1, closing, closing - 1))
    ]
    assert shares == [(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)]


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (lambda: look(tiny.examples(10), max_length=50), "longer than max_length"),
        (lambda: look(reply(tiny.examples(10), lambda text: text.partition("</think>")[0])), "no closing think tag"),
        (
            lambda: look(reply(tiny.examples(10), lambda text: text.partition("</think>")[0] + "</think>\n")),
            "no answer",
        ),
        (lambda: look(tiny.examples(10), template=tiny.DROPPING_TEMPLATE), "drops or rewrites reasoning"),
        (lambda: look(tiny.examples(10), system="Be brief."), "system message"),
        (lambda: look([]), "no token would be learnt"),
    ],
)
def test_what_is_broken_is_refused(found: Callable[[], Audit], fault: str) -> None:
    messages = faults(found(), Limits())
    assert len(messages) == 1
    assert fault in messages[0]


def test_limits_allow_what_they_say() -> None:
    cut = look(reply(tiny.examples(10), lambda text: text.partition("</think>")[0]))
    assert faults(cut, Limits(max_broken_share=0.1)) == []
    dropping = look(tiny.examples(10), template=tiny.DROPPING_TEMPLATE)
    assert faults(dropping, Limits(template_keeps_reasoning=False)) == []
    rows = tiny.examples(10)
    long = look(reply(rows, lambda text: text + " It is." * 60))
    assert long.too_long == 1
    assert faults(long, Limits(max_too_long_share=0.1)) == []


def test_plain_examples_need_no_tags() -> None:
    rows = [
        row | {"completion": [{"role": "assistant", "content": "The answer is \\boxed{4}."}]}
        for row in tiny.examples(4)
    ]
    found = look(rows)
    assert found.reasoned == 0
    assert faults(found, Limits()) == []


def test_a_generation_prompt_that_no_evaluation_sees_is_found() -> None:
    """The prompt of an example is compared as tokens, whatever made it."""
    tokenizer = tiny.tokenizer()
    (example,) = encode(tokenizer, tiny.examples(1), 200)[0]
    example.prompt.append(tokenizer("\n")["input_ids"][0])
    found = audit(tokenizer, [example], [], 200, None)
    assert found.prompt_parity_share == 0.0
    assert ["tokens an evaluation would send" in message for message in faults(found, Limits())] == [True]
