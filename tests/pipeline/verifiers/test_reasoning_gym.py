import json
from typing import Any

import pytest

from pipeline.verifiers.reasoning_gym import judge, readings


def made(task: str, index: int = 0, **settings: Any) -> dict[str, Any]:
    """A problem's verifier_data as it comes back from a table: through JSON."""
    import reasoning_gym

    entry = reasoning_gym.create_dataset(task, size=index + 1, seed=7, **settings)[index]
    data: dict[str, Any] = json.loads(json.dumps({"task": task, "entry": entry}))
    return data


@pytest.mark.parametrize("task", ["chain_sum", "basic_arithmetic", "simple_equations", "gcd", "lcm", "products"])
def test_the_scorer_decides_and_only_a_score_of_one_is_right(task: str) -> None:
    data = made(task)
    gold = data["entry"]["answer"]
    off = str(int(gold) + 1)
    for given, outcome in [
        (gold, "right"),
        (f"${gold}$", "right"),
        (f"x = {gold}", "right"),
        (rf"\text{{{gold}}}", "right"),
        (off, "wrong"),
        (f"{gold}{gold}1", "wrong"),
        (f"{gold} or {off}", "wrong"),
        (f"{gold} = {off}", "wrong"),
        ("zzz", "wrong"),
        ("", "wrong"),
    ]:
        assert (given, judge(given, gold, data).outcome) == (given, outcome)


def test_partial_credit_is_wrong_and_keeps_its_score() -> None:
    data = {"task": "gcd", "entry": {"question": "", "answer": "12", "metadata": {}}}
    judgement = judge("123", "12", data)
    assert (judgement.outcome, judgement.reason, judgement.score) == ("wrong", "wrong_answer", 2 / 3)


def test_a_number_may_carry_signs_between_its_thousands() -> None:
    data = {"task": "gcd", "entry": {"question": "", "answer": "1234", "metadata": {}}}
    assert [judge(given, "1234", data).outcome for given in ("1,234", "1234", "1,235")] == ["right", "right", "wrong"]


def test_a_scorer_that_looks_for_the_number_anywhere_is_not_fooled_by_two() -> None:
    data = made("gsm_symbolic")
    gold = data["entry"]["answer"]
    assert [judge(given, gold, data).outcome for given in (gold, f"{gold} or 9990")] == ["right", "wrong"]


def test_tuples_that_json_made_lists_are_restored() -> None:
    data = made("rearc")
    gold = data["entry"]["answer"]
    assert [judge(given, gold, data).outcome for given in (gold, "1 2\n3 4")] == ["right", "wrong"]


def test_a_scorer_that_accepts_anything_decides_only_the_same_text() -> None:
    data = made("game_of_life_halting")
    assert data["entry"]["answer"] == "True"
    assert [judge(given, "True", data).outcome for given in ("True", "zebra")] == ["right", "wrong"]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"task": "no such task", "entry": {"answer": "5"}},
        {"task": "number_sorting", "entry": {"question": "", "answer": "not a list", "metadata": {}}},
    ],
)
def test_a_scorer_that_is_missing_or_fails_on_its_own_answer_is_undecided(data: dict[str, Any]) -> None:
    judgement = judge("5", "5", data)
    assert (judgement.outcome, judgement.reason) == ("undecided", "gold_unparseable")


def test_readings_never_choose_between_numbers() -> None:
    assert readings("5", "5") == ["5"]
    assert readings("$x = 5$", "5") == ["$x = 5$", "x = 5", "5"]
    assert readings("3 or 5", "5") == [""]
    assert readings("a b", "c") == ["a b"]
