"""Each rule about form: what passes, what fails."""

import pytest

from pipeline.rules.trace import Trace
from tests.pipeline.rules.cases import Case, Table, figures, listed, named, thinking, trace

FAILS: Table = {
    "truncated": [
        Case("a sentence", trace("2 + 2", finish="length")),
        Case("an answer all the same", trace("\\boxed{4}", finish="length")),
        Case("nothing", trace("", finish="length")),
        Case("one token", trace("2", finish="length", completion_tokens=1)),
        Case("in its reasoning", trace("<think>2 + 2", finish="length", thinking=True)),
        Case("after its reasoning", thinking("2 + 2", "The", finish="length")),
        Case("a loop", trace("so " * 40, finish="length")),
        Case("a whole sentence", trace("It is 4.", finish="length")),
    ],
    "generation_error": [
        Case("error", trace("", finish="error")),
        Case("abort", trace("\\boxed{4}", finish="abort")),
        Case("cancelled", trace("4", finish="cancelled")),
        Case("content filter", trace("4", finish="content_filter")),
        Case("tool call", trace("4", finish="tool_calls")),
        Case("no reason", trace("\\boxed{4}", finish="")),
        Case("other case", trace("4", finish="Stop")),
        Case("of a thinking teacher", thinking("4", finish="error")),
    ],
    "think_missing": [
        Case("an answer alone", trace("\\boxed{4}", thinking=True)),
        Case("nothing", trace("", thinking=True)),
        Case("another tag", trace("<thought>4</thought>\\boxed{4}", thinking=True)),
        Case("capitals", trace("<THINK>4</THINK>\\boxed{4}", thinking=True)),
        Case("a longer tag", trace("<thinking>4</thinking>\\boxed{4}", thinking=True)),
        Case("a space in the tag", trace("< think>4</ think>\\boxed{4}", thinking=True)),
        Case("escaped", trace("&lt;think&gt;4&lt;/think&gt;\\boxed{4}", thinking=True)),
        Case("the word", trace("Let me think about it: \\boxed{4}", thinking=True)),
    ],
    "think_doubled": [
        Case("two blocks", trace("<think>a</think><think>b</think>\\boxed{4}", thinking=True)),
        Case("opened twice", trace("<think>a<think>b</think>\\boxed{4}", thinking=True)),
        Case("closed twice", trace("<think>a</think>b</think>\\boxed{4}", thinking=True)),
        Case("closed twice, the prompt opened it", trace("a</think>b</think>\\boxed{4}", thinking=True)),
        Case("opened again at the end", trace("<think>a</think>\\boxed{4}<think>", thinking=True)),
        Case("opened after closing", trace("a</think>\\boxed{4}<think>b", thinking=True)),
        Case("of a teacher that writes none", trace("<think>2 + 2</think>\\boxed{4}")),
        Case("a closing tag of a teacher that writes none", trace("2 + 2</think>\\boxed{4}")),
        Case("an opening tag of a teacher that writes none", trace("<think>2 + 2\n\\boxed{4}")),
    ],
    "think_unclosed": [
        Case("with a boxed answer", trace("<think>2 + 2 is \\boxed{4}", thinking=True)),
        Case("cut off", trace("<think>2 + 2", thinking=True, finish="length")),
        Case("nothing in it", trace("<think>", thinking=True)),
        Case("white space in it", trace("<think>\n\n", thinking=True)),
        Case("text before it", trace("Well.<think>2 + 2", thinking=True)),
        Case("a broken closing tag", trace("<think>4<think/>\\boxed{4}", thinking=True)),
        Case("half a closing tag", trace("<think>4</thin", thinking=True)),
        Case("opened twice", trace("<think>4<think>\\boxed{4}", thinking=True)),
    ],
    "think_empty": [
        Case("nothing", trace("<think></think>\\boxed{4}", thinking=True)),
        Case("a line break", trace("<think>\n</think>\\boxed{4}", thinking=True)),
        Case("blank lines", trace("<think>\n\n</think>\n\n\\boxed{4}", thinking=True)),
        Case("spaces and tabs", trace("<think> \t </think>\\boxed{4}", thinking=True)),
        Case("a space that does not break", trace("<think>\u00a0</think>\\boxed{4}", thinking=True)),
        Case("the prompt opened it", trace("</think>\\boxed{4}", thinking=True)),
        Case("the prompt opened it and a line follows", trace("\n</think>\\boxed{4}", thinking=True)),
        Case("text before the tag", trace("So 4.<think></think>\\boxed{4}", thinking=True)),
        Case("a full-width space", trace("<think>\u3000</think>\\boxed{4}", thinking=True)),
    ],
    "answer_missing": [
        Case("none", trace("2 + 2 is left to the reader")),
        Case("nothing at all", trace("")),
        Case("an unclosed box", trace("so \\boxed{")),
        Case("an empty box", trace("so \\boxed{}")),
        Case("a box of white space", trace("so \\boxed{  }")),
        Case("in the reasoning only", thinking("it is \\boxed{4}", "Done.")),
        Case("in a reasoning that is never closed", trace("<think>it is \\boxed{4}", thinking=True)),
        Case("a sign with nothing after it", trace("The answer is")),
        Case("empty tags", trace("<answer></answer>")),
        Case("a sign and emphasis", trace("Answer: **")),
        Case("a program in the reasoning only", thinking("```python\nprint(4)\n```", "Done.")),
        Case("an empty program", trace("```python\n```")),
    ],
}
PASSES: Table = {
    "truncated": [
        Case("failed", trace("", finish="error")),
        Case("ended", trace("\\boxed{4}")),
        Case("ended in the middle of a word", trace("it is fo")),
        Case("says length", trace("the length is 4")),
        Case("ended by itself after a great many tokens", trace("4", completion_tokens=10**6)),
        Case("an empty completion", trace("")),
        Case("dots at its end", trace("and so on...")),
        Case("thinking", thinking("2 + 2")),
    ],
    "generation_error": [
        Case("cut off", trace("2 + 2", finish="length")),
        Case("cut off at once", trace("", finish="length")),
        Case("ended", trace("\\boxed{4}")),
        Case("says error", trace("The error is 4.")),
        Case("an empty completion", trace("")),
        Case("thinking", thinking("2 + 2")),
        Case("without an answer", trace("Hmm.")),
        Case("talks of failing", trace("generation_error")),
    ],
    "think_missing": [
        Case("the prompt opened the tag", trace("2 + 2 = 4</think>\\boxed{4}", thinking=True)),
        Case("both tags", thinking("4")),
        Case("unclosed", trace("<think>4", thinking=True)),
        Case("a teacher that writes none", trace("\\boxed{4}")),
        Case("doubled", trace("<think>a</think><think>b</think>\\boxed{4}", thinking=True)),
        Case("empty", trace("<think></think>\\boxed{4}", thinking=True)),
        Case("text before the tag", trace("Well.<think>a</think>\\boxed{4}", thinking=True)),
        Case("nothing, of a teacher that writes none", trace("")),
    ],
    "think_doubled": [
        Case("both tags", thinking("4")),
        Case("the prompt opened it", trace("4</think>\\boxed{4}", thinking=True)),
        Case("unclosed", trace("<think>4", thinking=True)),
        Case("a longer tag inside", thinking("<thinking>4</thinking>")),
        Case("the word twice", thinking("think, think again")),
        Case("none, none expected", trace("think</b>\\boxed{4}")),
        Case("none", trace("\\boxed{4}", thinking=True)),
        Case("empty", trace("<think></think>\\boxed{4}", thinking=True)),
    ],
    "think_unclosed": [
        Case("both tags", thinking("4")),
        Case("the prompt opened it", trace("4</think>\\boxed{4}", thinking=True)),
        Case("none", trace("\\boxed{4}", thinking=True)),
        Case("none expected", trace("<think>\\boxed{4}")),
        Case("cut off after closing", thinking("4", "So", finish="length")),
        Case("closed at the very end", trace("<think>4</think>", thinking=True)),
        Case("empty", trace("<think></think>", thinking=True)),
        Case("doubled", trace("<think>a</think><think>b</think>", thinking=True)),
    ],
    "think_empty": [
        Case("a digit", trace("<think>4</think>\\boxed{4}", thinking=True)),
        Case("a full stop", trace("<think>.</think>\\boxed{4}", thinking=True)),
        Case("one line between blank ones", trace("<think>\n\n4\n\n</think>\\boxed{4}", thinking=True)),
        Case("no tags", trace("\\boxed{4}", thinking=True)),
        Case("no tags expected", trace("\\boxed{4}")),
        Case("unclosed", trace("<think>", thinking=True)),
        Case("the prompt opened it", trace("4</think>\\boxed{4}", thinking=True)),
        Case("an empty answer", trace("<think>4</think>", thinking=True)),
    ],
    "answer_missing": [
        Case("a box", trace("\\boxed{4}")),
        Case("said", trace("The answer is 4")),
        Case("a heading", trace("Answer: 4")),
        Case("bold", trace("**Final answer:** 4")),
        Case("tags", trace("<answer>4</answer>")),
        Case("after the reasoning", thinking("4", "So \\boxed{4}.")),
        Case("a box in a box", trace("\\boxed{\\boxed{4}}")),
        Case("a formula", trace("Answer: $\\frac{1}{2}$")),
        Case("a program", trace("So:\n```python\nprint(4)\n```")),
    ],
}
WHY = [
    ("truncated", trace("2 + 2", finish="length"), {"tokens": 10}),
    ("generation_error", trace("4", finish="abort"), {"finish": "abort"}),
    ("think_unclosed", trace("<think>2 + 2", thinking=True), {}),
]


@pytest.mark.parametrize(("rule", "case"), listed(FAILS), ids=named)
def test_a_trace_that_breaks_the_rule_fails(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is not None


@pytest.mark.parametrize(("rule", "case"), listed(PASSES), ids=named)
def test_a_trace_that_keeps_the_rule_passes(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is None


@pytest.mark.parametrize(("rule", "one", "why"), WHY)
def test_the_figures_say_why(rule: str, one: Trace, why: dict[str, object]) -> None:
    assert figures(rule, one) == why
