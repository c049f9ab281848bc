import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from pipeline.records import VERDICT
from pipeline.verifiers import VERIFIERS, load
from pipeline.verifiers.judging import DETAIL_LIMIT, Answered, judge_rows
from pipeline.verifiers.pool import Pool

BAD = "tests.pipeline.verifiers.bad"


def row(
    id: str,
    raw: str,
    *,
    finish: str = "stop",
    thinking: bool = False,
    answer: str = "5",
    verifier: str = "exact",
    data: str = "{}",
) -> Answered:
    return Answered(id, raw, finish, thinking, answer, verifier, data)


def verdicts(rows: Iterable[Answered], workers: int, timeout_s: float, memory_mib: int) -> Iterator[dict[str, Any]]:
    """The verdicts of a pool that is opened for them alone."""
    with Pool(workers, timeout_s, memory_mib) as pool:
        yield from judge_rows(rows, pool)


def judged(rows: list[Answered], timeout_s: float = 60.0) -> dict[str, tuple[str, list[str]]]:
    found = list(verdicts(rows, workers=1, timeout_s=timeout_s, memory_mib=64))
    assert sorted(verdict["id"] for verdict in found) == sorted(row.id for row in rows)
    return {verdict["id"]: (verdict["outcome"], verdict["reasons"]) for verdict in found}


def test_every_completion_gets_the_outcome_it_deserves() -> None:
    cases = {
        "right": (row("right", r"2+3 is \boxed{5}"), ("pass", [])),
        "wrong": (row("wrong", r"\boxed{6}"), ("fail", ["wrong_answer"])),
        "none": (row("none", "I do not know"), ("fail", ["answer_missing"])),
        "empty": (row("empty", ""), ("fail", ["answer_missing"])),
        "error": (row("error", r"\boxed{5}", finish="error"), ("undecided", ["generation_error"])),
        "cut": (row("cut", "so let us see", finish="length"), ("fail", ["answer_missing"])),
        "cut late": (row("cut late", r"\boxed{5} and", finish="length"), ("pass", [])),
        "gold": (row("gold", r"\boxed{5}", answer=""), ("undecided", ["gold_unparseable"])),
        "data": (row("data", r"\boxed{5}", data="{broken"), ("undecided", ["verifier_crash"])),
        "thought": (
            row("thought", "<think>Answer: 6</think>\n\\boxed{5}", thinking=True),
            ("pass", []),
        ),
        "opened by the prompt": (
            row("opened by the prompt", "Answer: 6</think>Answer: 5", thinking=True),
            ("pass", []),
        ),
        "answered in thought only": (
            row("answered in thought only", r"<think>\boxed{5}</think>", thinking=True),
            ("fail", ["answer_missing"]),
        ),
        "still thinking": (
            row("still thinking", r"<think>it is \boxed{5}", finish="length", thinking=True),
            ("fail", ["answer_missing"]),
        ),
        "no tags": (row("no tags", r"it is \boxed{5}", thinking=True), ("fail", ["answer_missing"])),
    }
    assert judged([case for case, _ in cases.values()]) == {name: outcome for name, (_, outcome) in cases.items()}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("sleep", "verifier_timeout"),
        ("abort", "verifier_crash"),
        ("raise", "verifier_crash"),
        ("eat and hide it", "verifier_memory"),
    ],
)
def test_a_broken_verifier_never_counts_as_wrong(monkeypatch: pytest.MonkeyPatch, given: str, reason: str) -> None:
    monkeypatch.setitem(VERIFIERS, f"{BAD}:judge", BAD)
    rows = [row(str(n), rf"\boxed{{{given}}}", verifier=f"{BAD}:judge") for n in range(2)]
    timeout_s = 1.0 if given == "sleep" else 60.0
    assert judged(rows, timeout_s) == {str(n): ("undecided", [reason]) for n in range(2)}


def test_a_verdict_says_what_was_compared() -> None:
    (verdict,) = verdicts([row("a", r"\boxed{6}")], workers=1, timeout_s=60.0, memory_mib=256)
    assert list(verdict) == VERDICT.names
    assert json.loads(verdict["detail"]) == {"answer": "6", "gold": "5"}
    assert verdict["score"] == 0.0


def test_a_long_answer_is_cut_in_the_detail_only() -> None:
    text = "x" * (2 * DETAIL_LIMIT)
    (verdict,) = verdicts([row("a", rf"\boxed{{{text}}}", answer=text)], workers=1, timeout_s=60.0, memory_mib=256)
    assert verdict["outcome"] == "pass"
    assert json.loads(verdict["detail"])["answer"] == "x" * DETAIL_LIMIT + "…"


def test_one_pool_judges_for_several_callers_in_turn() -> None:
    rows = [row(str(n), r"\boxed{5}" if n % 2 else "") for n in range(10)]
    with Pool(1, 60.0, 256) as pool:
        found = [sorted(verdict["id"] for verdict in judge_rows(part, pool)) for part in (rows[:4], rows[4:], [])]
    assert found == [["0", "1", "2", "3"], ["4", "5", "6", "7", "8", "9"], []]


def test_completions_are_taken_as_they_are_needed() -> None:
    taken = 0

    def rows() -> Iterator[Answered]:
        nonlocal taken
        for n in range(100_000):
            taken += 1
            yield row(str(n), r"\boxed{5}")

    stream = verdicts(rows(), 1, 60.0, 256)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert taken <= 300


def test_an_unknown_verifier_is_an_error() -> None:
    with pytest.raises(ValueError, match="'maths', which does not exist: use choice, code"):
        list(verdicts([row("a", r"\boxed{5}", verifier="maths")], 1, 60.0, 256))


@pytest.mark.parametrize("name", sorted(VERIFIERS))
def test_every_verifier_of_the_shelf_loads(name: str) -> None:
    assert callable(load(name))


@pytest.mark.parametrize("verifier", ["math", "reasoning_gym"])
def test_importing_a_library_is_not_charged_to_the_first_item(verifier: str) -> None:
    # It would take more than the 64 MiB that an item has here.
    data = json.dumps({"task": "gcd", "entry": {"question": "", "answer": "1/2", "metadata": {}}})
    case = row("first", r"\boxed{$1/2$}", answer="1/2", verifier=verifier, data=data)
    assert judged([case]) == {"first": ("pass", [])}


# Expressions that hang or swell sympy: whatever becomes of them, they are never wrong by accident of a limit.
BOMBS = [r"10^{10^{10^{10}}}", r"(10^{9})!"]


def test_expressions_that_blow_up_are_bounded_and_spare_their_neighbours() -> None:
    rows = [row(f"bomb {n}", rf"\boxed{{{bomb}}}", verifier="math") for n, bomb in enumerate(BOMBS)]
    rows += [row(f"plain {n}", r"\boxed{x = 5}", verifier="math") for n in range(5)]
    found = judged(rows, timeout_s=3.0)
    assert [found[f"plain {n}"] for n in range(5)] == [("pass", [])] * 5
    assert all(found[f"bomb {n}"][0] != "pass" for n in range(len(BOMBS)))
