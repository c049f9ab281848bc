"""Programs are judged by what they print or return, and by nothing that they say of themselves.

These tests need bubblewrap and fail with the fix where it is missing.
"""

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import sandbox
from pipeline.sandbox import Limits, SandboxError
from pipeline.verifiers import Judgement, code, lacking, load
from pipeline.verifiers.code import judge, same_output
from pipeline.verifiers.judging import Answered, judge_rows
from pipeline.verifiers.pool import Item, Pool, PoolError
from tests import isolated
from tests.pipeline.hostile import CHEATS, GREED, LOOT

ROOT = Path(__file__).resolve().parents[3]
SUM = {"cases": [{"input": "1 2\n", "output": "3\n"}, {"input": "10 -4", "output": "6"}], "time_limit_s": 20}
DOUBLE = {"asserts": ["assert double(2) == 4", "assert double('ab') == 'abab'"], "time_limit_s": 20}


@pytest.fixture(scope="module", autouse=True)
def _isolated() -> None:
    isolated.required()


@pytest.mark.parametrize(
    ("data", "program", "outcome", "reason"),
    [
        (SUM, "print(sum(map(int, input().split())))", "right", None),
        (SUM, "a, b = input().split()\nprint(f' {int(a) + int(b)}  \\n\\n')", "right", None),
        (SUM, "import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)", "right", None),
        (SUM, "print(3)", "wrong", "wrong_answer"),
        (SUM, "pass", "wrong", "wrong_answer"),
        (SUM, "print(sum(map(int, input().split())))\n1 / 0", "wrong", "program_failed"),
        (SUM, "print(sum(map(int, input().split())))\nraise SystemExit(1)", "wrong", "program_failed"),
        (SUM, "def f(:\n", "wrong", "program_failed"),
        (SUM, "input()\ninput()", "wrong", "program_failed"),
        (SUM | {"time_limit_s": 0.5}, "while True: pass", "wrong", "time_limit"),
        (SUM | {"time_limit_s": 0.5}, "import time\ntime.sleep(60)", "wrong", "time_limit"),
        (SUM, "x = 'x' * (1 << 40)", "wrong", "memory_limit"),
        (SUM, "print('3' * (1 << 24))", "wrong", "output_limit"),
        (DOUBLE, "def double(x):\n    return x * 2", "right", None),
        (
            DOUBLE,
            "def double(x):\n    print('noise' * 100)\n    return x + x\nif __name__ == '__main__':\n    input()",
            "right",
            None,
        ),
        (DOUBLE, "def double(x):\n    return 4", "wrong", "wrong_answer"),
        (DOUBLE, "def double(x):\n    return [x]", "wrong", "wrong_answer"),
        (DOUBLE, "def double(x):\n    return object()", "wrong", "program_failed"),
        (DOUBLE, "def double(x):\n    return x / 0", "wrong", "program_failed"),
        (DOUBLE, "def twice(x):\n    return x * 2", "wrong", "program_failed"),
        (DOUBLE, "def double(x) return", "wrong", "program_failed"),
        (DOUBLE | {"time_limit_s": 0.5}, "def double(x):\n    while True: pass", "wrong", "time_limit"),
        (DOUBLE, "def double(x):\n    return bytearray(1 << 40)", "wrong", "memory_limit"),
        ({}, "print(1)", "undecided", "gold_unparseable"),
        (SUM | DOUBLE, "print(1)", "undecided", "gold_unparseable"),
        (SUM | {"time_limit": 3}, "print(1)", "undecided", "gold_unparseable"),
        ({"cases": [{"input": "1"}]}, "print(1)", "undecided", "gold_unparseable"),
        ({"cases": []}, "print(1)", "undecided", "gold_unparseable"),
        ({"asserts": ["double(2) == 4"]}, "print(1)", "undecided", "gold_unparseable"),
        ({"asserts": ["assert f(1) == 1 / 0"]}, "f = int", "undecided", "gold_unparseable"),
        ({"asserts": ["assert f(1) == 1"], "setup": "import ("}, "f = int", "undecided", "gold_unparseable"),
    ],
)
def test_a_program_gets_the_outcome_it_deserves(
    data: dict[str, Any], program: str, outcome: str, reason: str | None
) -> None:
    found = judge(program, "", data)
    assert (found.outcome, found.reason) == (outcome, reason), found


def test_a_verdict_says_which_case_and_what_was_wrong() -> None:
    program = "a, b = map(int, input().split())\nprint(abs(a) + abs(b))"
    expected = {"case": 2, "printed": "14\n", "expected": "6"}
    assert judge(program, "", SUM) == Judgement("wrong", "wrong_answer", 0.0, expected)
    found = judge("def double(x):\n    return 2 * x + 1", "", DOUBLE)
    assert found.detail == {"assertion": "assert double(2) == 4", "value": "5"}
    assert judge("1 / 0", "", SUM).detail == {"case": 1, "error": "ZeroDivisionError: division by zero"}
    assert "misspelt" in str(judge("", "", SUM | {"misspelt": 1}).detail)


def test_what_is_expected_may_be_an_expression() -> None:
    data = {
        "asserts": [
            "assert power(10) == 10 ** 10 + 7",
            "assert 2 * math.pi == circle(1)",
            "assert half(1) == Fraction(1, 2).numerator / 2",
        ],
        "setup": "from fractions import Fraction",
        "time_limit_s": 20,
    }
    program = "import math\ndef power(n): return 10 ** n + 7\ndef circle(r): return 2 * math.pi * r\n"
    program += "def half(n): return n / 2"
    assert judge(program, "", data).outcome == "right"
    assert judge(program.replace("+ 7", "+ 8"), "", data).reason == "wrong_answer"


def secret_tests() -> tuple[dict[str, Any], list[str]]:
    """Tests that nobody can know the answers to, and the answers."""
    number, text, root = secrets.randbelow(10**12) + 10**12, secrets.token_hex(12), secrets.randbelow(10**6) / 7 + 2
    found = [
        f"assert answer(21) == {number}",
        f"assert word('x') == {text!r}",
        "assert is_odd(3)",
        "assert not is_odd(4)",
        "assert is_odd(5) is True",
        f"assert abs(root(2) - {root!r}) < 1e-6",
        f"assert math.isclose(root(2), {root!r})",
        f"assert answer(21) in [{number}]",
    ]
    return {"asserts": found, "time_limit_s": 1}, [str(number), text, repr(root)]


@pytest.mark.parametrize("name", CHEATS)
@pytest.mark.parametrize("kind", range(3))
def test_no_program_passes_without_the_answers(name: str, kind: int) -> None:
    """All asserts together, those of one kind alone, and those that a truth value could meet."""
    data, _ = secret_tests()
    parts = {0: data["asserts"], 1: data["asserts"][5:], 2: data["asserts"][2:5]}
    found = judge(CHEATS[name], "", data | {"asserts": parts[kind]})
    assert found.outcome == "wrong", found


@pytest.mark.parametrize("index", [0, 1, 5, 6, 7])
def test_no_program_passes_a_single_assert_without_its_answer(index: int) -> None:
    data, _ = secret_tests()
    one = data | {"asserts": data["asserts"][index : index + 1]}
    names = (
        "equal to everything",
        "a float equal to everything",
        "patched built-ins",
        "patched math",
        "printed verdicts",
        "forged lines",
        "a patched evaluator",
        "always true",
        "not a number",
        "infinite",
    )
    assert {judge(CHEATS[name], "", one).outcome for name in names} == {"wrong"}


@pytest.mark.parametrize("name", GREED)
def test_no_greedy_program_is_judged_right(name: str) -> None:
    program, reasons = GREED[name]
    data = {"cases": [{"input": "", "output": secrets.token_hex(8)}], "time_limit_s": 1, "memory_mib": 256}
    found = judge(program, "", data)
    assert found.outcome == "wrong"
    assert found.reason in reasons


def test_the_answers_are_nowhere_in_the_sandbox() -> None:
    data, answers = secret_tests()
    settled = code._settled(tuple(data["asserts"]), "")
    expressions = [check.expression for check, _ in settled]
    limits = Limits(cpu_s=30.0, wall_s=120.0, memory_mib=2048, output_bytes=1 << 28)
    ending = code._evaluated(LOOT, "", ["loot()"], limits)
    ((_, packed),) = [line for line in code._lines(ending.output) if line[0] == "value"]
    loot = bytes.fromhex(packed["bytes"])
    assert b"loot" in loot
    assert not any(answer.encode() in loot for answer in answers)
    assert not any(answer in expression for answer in answers for expression in expressions)


def test_the_outputs_are_nowhere_in_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from where a program is started: nothing that is handed over holds what is expected."""
    secret = secrets.token_hex(12)
    given: list[Any] = []

    def watched(*arguments: Any) -> sandbox.Ending:
        given.append(arguments)
        return sandbox.Ending(0, None, b"", "", 0.1)

    monkeypatch.setattr(sandbox, "run", watched)
    assert judge("print(1)", secret, {"cases": [{"input": "1", "output": secret}]}).reason == "wrong_answer"
    assert given
    assert secret not in repr(given)


@pytest.mark.parametrize(
    ("printed", "expected", "tolerance", "layout", "same"),
    [
        ("1 2\n", "1 2", None, False, True),
        ("1  2 \r\n3\n\n", " 1 2\n3", None, False, True),
        ("1 2 3", "1 2\n3", None, False, False),
        ("1\n\n2", "1\n2", None, False, False),
        ("1.0", "1", None, False, False),
        ("Yes", "yes", None, False, False),
        ("", "\n", None, False, True),
        ("", "0", None, False, False),
        ("1.0", "1", 1e-9, False, True),
        ("1.0000001", "1", 1e-6, False, True),
        ("1.01", "1", 1e-6, False, False),
        ("1e300", "1.0000001e300", 1e-6, False, True),
        ("nan", "1", 1e-6, False, False),
        ("inf", "1e400", 1e-6, False, False),
        ("1_0", "10", 1e-6, False, False),
        ("a 1.0", "b 1", 1e-6, False, False),
        ("1 2", "1", 1e-6, False, False),
        (" *\n***\n", " *  \n***", None, True, True),
        ("*\n***\n", " *\n***", None, True, False),
        ("a  b", "a b", None, True, False),
    ],
)
def test_outputs_are_compared_line_by_line(
    printed: str, expected: str, tolerance: float | None, layout: bool, same: bool
) -> None:
    assert same_output(printed, expected, tolerance, layout) is same


def problems() -> list[dict[str, Any]]:
    lines = (ROOT / "data/problems/python_functions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("place", range(10))
def test_the_shipped_problems_accept_their_reference_and_nothing_else(place: int) -> None:
    problem = problems()[place]
    data = problem["verifier_data"] | {"time_limit_s": 20}
    assert judge(problem["answer"], "", data).outcome == "right"
    assert judge("pass", "", data).outcome == "wrong"


def test_the_answer_of_a_completion_is_its_last_python_block() -> None:
    good, bad = "print(sum(map(int, input().split())))", "print(0)"
    raws = {
        "one": (f"So:\n```python\n{good}\n```\nIt prints\n```\n3\n```\n", "pass", []),
        "last": (f"```python\n{good}\n```\nor\n```py\n{bad}\n```", "fail", ["wrong_answer"]),
        "no language": (f"```\n{good}\n```", "pass", []),
        "none": (good, "fail", ["answer_missing"]),
        "cut": (f"```python\n{good}", "fail", ["answer_missing"]),
        "boxed": (f"```python\n{good}\n```\n\\boxed{{7}}", "pass", []),
        "thought": (f"<think>```python\n{bad}\n```</think>```python\n{good}\n```", "pass", []),
        "only thought": (f"<think>```python\n{good}\n```</think>done", "fail", ["answer_missing"]),
    }
    rows = [Answered(id, raw, "stop", "think>" in raw, "", "code", json.dumps(SUM)) for id, (raw, _, _) in raws.items()]
    with Pool(1, 120.0, 512) as pool:
        found = {row["id"]: (row["outcome"], row["reasons"]) for row in judge_rows(rows, pool)}
    assert found == {id: (outcome, reasons) for id, (_, outcome, reasons) in raws.items()}


def test_a_pool_that_loses_patience_leaves_no_program_behind() -> None:
    slow = json.dumps(SUM | {"time_limit_s": 100})
    items = [Item("code", "import time\ntime.sleep(300)", "", slow), Item("code", "print(1)", "", json.dumps(SUM))]
    before = set(psutil.Process().children(recursive=True))
    with Pool(1, 5.0, 512) as pool:
        found = dict(pool.judge(items))
        left = [one for one in psutil.Process().children(recursive=True) if "bwrap" in one.name()]
        _, alive = psutil.wait_procs(left, timeout=30)
    assert [(found[n].outcome, found[n].reason) for n in range(2)] == [
        ("undecided", "verifier_timeout"),
        ("wrong", "wrong_answer"),
    ]
    assert alive == []
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_sandbox_that_breaks_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_interpreter", lambda: "/no/such/python")
    with pytest.raises(SandboxError):
        judge("print(1)", "", SUM)


def test_without_a_sandbox_the_verifier_is_refused_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox.lacking.cache_clear()
    try:
        assert shutil.which("bwrap") is None
        assert "apt-get install bubblewrap" in lacking(["math", "code"])
        assert lacking(["math", "exact"]) == ""
        with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
            load("code")
        with Pool(1, 60.0, 512) as pool, pytest.raises(PoolError, match="apt-get install bubblewrap"):
            list(pool.judge([Item("code", "print(1)", "", json.dumps(SUM))]))
    finally:
        sandbox.lacking.cache_clear()
