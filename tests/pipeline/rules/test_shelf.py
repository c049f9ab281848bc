"""The shelf's table: its rules, their tables of cases, and that no text makes them slow."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.rules import RULES, load
from tests.pipeline.rules import (
    test_conclusion,
    test_content,
    test_languages,
    test_leaks,
    test_length,
    test_repetition,
    test_structure,
)

ROOT = Path(__file__).resolve().parents[3]
TABLES = (test_conclusion, test_content, test_languages, test_leaks, test_length, test_repetition, test_structure)
# Signs and words that patterns start with or wait for.
PIECES = (
    "a", " ", "\n", "\\", "`", "```", "$", "{", "}", "(", '"', "1", "1,", ".", "<", "<|", "[", "<answer>", "</answer>",
    "<think>", "</think>", "\\boxed{", "\\boxed", "the answer is ", "answer", "result ", "i am ", "i'm sorry", "as an ",
    "\u6211", "\u6211\u4eec", "\u201c", "\u00ab", "\uff08", "\u0430", "\u03b1", "und ", "und nicht ", "is not ", "*",
    "\n\n", "\\[", "\\(", "$$", "- ", "=", "\u00b2", "\u00e9", "we have the ", "a\u0301", "\ufdfa", "\0",
)  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_every_name_is_a_rule_called_like_its_slug(name: str) -> None:
    rule = load(name)
    assert (rule.__name__, list(inspect.signature(rule).parameters)) == (name, ["traces", "limits"])


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_a_table_of_traces_that_fail_and_of_traces_that_pass(name: str) -> None:
    fails = [case for module in TABLES for case in module.FAILS.get(name, [])]
    passes = [case for module in TABLES for case in module.PASSES.get(name, [])]
    assert len({id(case) for case in fails}) >= 8
    assert len({id(case) for case in passes}) >= 8


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no rule named 'too_wide': use one of generation_error, truncated"):
        load("too_wide")


CPU_S = 15  # what takes less than one is killed after so many
BOMBS = f"""
import signal
from pipeline.rules import RULES, load
from pipeline.rules.limits import Limits
from pipeline.rules.trace import Trace, Traces
pieces = {PIECES!r}
limits = Limits(reasoning_language="problem", length_ratio=2.0, foreign_words=10**9)
def judge(raw, thinking):
    trace = Trace(raw, "stop", 10, thinking, "math", "Why?", "Think step by step and then say it well. Why?", 5.0)
    for name in RULES:
        load(name)(Traces([trace]), limits)
for piece in pieces:
    print(repr(piece), flush=True)
    signal.setitimer(signal.ITIMER_VIRTUAL, {CPU_S})
    judge(piece * (200_000 // len(piece)), False)
    judge("The answer is 4. " + piece * (200_000 // len(piece)) + "</think>", True)
"""


def test_no_text_makes_a_rule_take_more_than_linear_time() -> None:
    """200,000 characters of each piece, alone and within a reasoning: half a second of the processor each. A pattern
    that takes the square of a text's length takes far more than the CPU_S that it is given.
    """
    done = subprocess.run([sys.executable, "-c", BOMBS], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"the last piece is what it stopped at: {done.stdout[-200:]} {done.stderr[-2000:]}"
