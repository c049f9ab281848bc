"""Code, refusals and talk about itself."""

import pytest

from pipeline.rules.limits import Limits
from tests.pipeline.rules.cases import Case, Table, figures, listed, named, thinking, trace


def said(*texts: str) -> list[Case]:
    return [Case(text, trace(text)) for text in texts]


FAILS: Table = {
    "code_block": [
        *said("```python\nprint(4)\n```", "So:\n   ```\n4\n```", "~~~\n4\n~~~", "a\n\t```\nb", "```"),
        *said("\\begin{verbatim}\nx = 4\n\\end{verbatim}", "so \\begin{lstlisting}x\\end{lstlisting}"),
        Case("in a reasoning", thinking("We run\n```\nprint(4)\n```")),
        Case("in another domain", trace("```\n4\n```", domain="logic"), Limits(code_free_domains=("logic",))),
    ],
    "refusal": said(
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t do this.",
        "I am sorry but as an assistant I have no eyes.",
        "I'm sorry, but no.",
        "I cannot assist with that.",
        "I can't provide an answer.",
        "Unfortunately I am unable to help here.",
        "I'm not able to comply with the request.",
        "I apologize, but I cannot solve it.",
        "i cannot answer this question",
        "I won't help you cheat.",
    ),
    "meta_talk": said(
        "As an AI language model, I count 4.",
        "Since I am a language model, 4.",
        "My training data says 4.",
        "I'm just an AI.",
        "as a large language model",
        "I\u2019m an artificial intelligence",
        "My knowledge cutoff is 2023.",
        "I am Qwen, and it is 4.",
        "My system prompt says to be brief.",
    ),
}
PASSES: Table = {
    "code_block": [
        *said("use `x` here", "a ``` b", "x ~ y ~~ z", "\\begin{align}x\\end{align}", "print(4)", "    x = 4", "``x``"),
        Case("of a problem about code", trace("```python\n4\n```", domain="code")),
        Case("of any other problem", trace("```\n4\n```", domain="general")),
    ],
    "refusal": said(
        "I cannot divide by 0, so x = 4.",
        "I'm sorry, I made a mistake: it is 4.",
        "I am unable to find an integer root, so I try 1/2.",
        "I can't use both. Let me help myself with a table.",
        "It cannot provide more than 4.",
        "Sorry, that is wrong: 4.",
        "He said he could not help them.",
        "I won't assume x > 0.",
        "I can't tell which is larger yet.",
        "The machine is unable to comply, so 3 of 4 remain.",
    ),
    "meta_talk": said(
        "As an aid, we draw a line.",
        "The model train is 4 m long.",
        "Hawaii am an",
        "Hawaii: as an airport has 4 gates",
        "An AI beats a player in 4 of 5 games.",
        "The language model has 7 billion weights; how many bytes?",
        "I am an optimist, so 4.",
        "Claude has 4 apples, and I am Claude's friend.",
        "The training data of the table has 4 rows.",
        "The system prompts her 4 times.",
    ),
}


@pytest.mark.parametrize(("rule", "case"), listed(FAILS), ids=named)
def test_what_is_not_wanted_fails(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is not None


@pytest.mark.parametrize(("rule", "case"), listed(PASSES), ids=named)
def test_talk_about_the_problem_passes(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is None


def test_the_figures_say_where_in_characters() -> None:
    assert figures("code_block", trace("\u6211\u00e9:\n```\n4")) == {"at": 4}
    assert figures("meta_talk", trace("\u6211: As an AI, 4.")) == {"at": 3, "text": "As an AI"}
