"""Text of the prompt, and tokens of its template."""

import json

import pytest

from pipeline.rules.limits import Limits
from tests.pipeline.rules.cases import Case, Table, figures, listed, named, thinking, trace

PROBLEM = "What is 2 + 2? Give the number of apples that the two of them have now."
TASK = "Think step by step, keep it short and write the final answer in a box."
SYSTEM = "You are a patient teacher of mathematics who never skips a step."
SHOWN = "Tom has 3 apples and gets 5 more.\n3 + 5 = 8\n\\boxed{8}"
CHAT = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nA first one.<|im_end|>\n<|im_start|>assistant\n{SHOWN}"
    f"<|im_end|>\n<|im_start|>user\n{TASK} Be brief.\n\n{PROBLEM}<|im_end|>\n<|im_start|>assistant\n"
)
MESSAGES = json.dumps([{"role": "system", "content": SYSTEM}, {"role": "user", "content": f'"{TASK}"\n{PROBLEM}'}])


def asked(raw: str, prompt: str = CHAT, problem: str = PROBLEM) -> Case:
    return Case(raw[:40] or "nothing", trace(raw, prompt=prompt, problem=problem))


def said(*texts: str) -> list[Case]:
    return [Case(text, trace(text)) for text in texts]


FAILS: Table = {
    "chat_token": said(
        "4<|im_end|>",
        "<|im_start|>assistant\n4",
        "4<|endoftext|>Next",
        "4 <|eot_id|>",
        "[INST] and now? [/INST]",
        "<<SYS>> be brief <</SYS>>",
        "4</s>",
        "4<\uff5cend\u2581of\u2581sentence\uff5c>",
        "4<end_of_turn>",
        "4\n### Instruction:\nAdd.",
        "4\n\nHuman: and 5?",
    ),
    "prompt_leaked": [
        asked(f"So. {TASK}"),
        asked(f"The system says: {SYSTEM.upper()}"),
        asked(TASK.replace(" ", "\n")),
        asked("Tom has 3 apples and gets 5 more.\n4"),
        asked("tom has 3 apples and  gets 5 more. 3 + 5 = 8"),
        asked(f"4\n\n{TASK} Be brief.\n\nNext"),
        asked(f"{SYSTEM} 4", MESSAGES),
        asked(f"I was told: {TASK}", MESSAGES),
        Case("in a reasoning", thinking(f"They want: {TASK} Fine.", prompt=CHAT, problem=PROBLEM)),
        Case("with fewer words", trace("Now keep it short.", prompt=f"Keep it short.\n{PROBLEM}", problem=PROBLEM),
             Limits(leaked_words=3)),
    ],
}  # fmt: skip
PASSES: Table = {
    "chat_token": said(
        "a <| b |> c",
        "|im_end|",
        "<s>struck out</s2>",
        "x <end> y",
        "### Result:\n4",
        "[inst] 4",
        "f <| x",
        "The Human: a study",
        "a < b | c > d",
        "\\langle x | y \\rangle",
        "User: 4",
    ),
    "prompt_leaked": [
        asked(PROBLEM),
        asked("Give the number of apples that the two of them have now. So 4."),
        asked("They want it short and in a box, step by step."),
        asked("Be brief."),
        asked("3 + 5 = 8"),
        asked("Think step by step, keep it short and write the final answer on a card."),
        asked("Tom has 3 apples and gets 6 more."),
        asked(""),
        asked(TASK, "", PROBLEM),
        asked(TASK, CHAT, ""),
        asked(TASK, CHAT, "A problem that the prompt holds in other words."),
        asked(TASK, f"{TASK} {PROBLEM}", f"{TASK} {PROBLEM}"),
        asked(f"{TASK} {PROBLEM}", f"{TASK} One and one?\n2\n{TASK} {PROBLEM}", f"{TASK} {PROBLEM}"),
        asked("4", MESSAGES),
        asked("So \\boxed{4}", PROBLEM),
    ],
}


@pytest.mark.parametrize(("rule", "case"), listed(FAILS), ids=named)
def test_text_of_the_prompt_fails(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is not None


@pytest.mark.parametrize(("rule", "case"), listed(PASSES), ids=named)
def test_own_text_and_the_problem_itself_pass(rule: str, case: Case) -> None:
    assert figures(rule, case.trace, case.limits) is None


def test_the_figures_show_what_leaked() -> None:
    assert figures("prompt_leaked", asked(f"So. {TASK}").trace) == {"text": TASK.lower()[:-1]}
    assert figures("chat_token", trace("4<|im_end|>")) == {"at": 1, "text": "<|im_end|>"}
