"""What a pilot says of the whole, and how it is told."""

import random
from typing import Any

import pytest

from pipeline.pilot import DISK_FACTOR, LEAST_PROBLEMS, Sampled, beside, chosen, lines, predict


def ids(count: int) -> list[str]:
    return [f"p{number}" for number in range(count)]


@pytest.mark.parametrize(("problems", "share", "expected"), [(10, 0.01, 10), (1000, 0.01, 32), (10_000, 0.01, 100)])
def test_a_pilot_is_a_share_of_the_problems_but_no_fewer_than_say_something(
    problems: int, share: float, expected: int
) -> None:
    assert len(chosen(ids(problems), share)) == expected
    assert LEAST_PROBLEMS == 32


def test_the_order_of_problems_does_not_matter_and_a_grown_set_keeps_most_of_its_pilot() -> None:
    some = ids(4000)
    assert chosen(some, 0.05) == chosen(some[::-1], 0.05)
    assert len(chosen(some, 0.05) & chosen(ids(5000), 0.05)) > 120


def drawn(problems: int, samples: int, seed: int) -> list[Sampled]:
    rng = random.Random(seed)
    found = []
    for number in range(problems):
        mean = rng.lognormvariate(5, 0.7)
        for _ in range(samples):
            tokens = max(1, round(rng.gauss(mean, mean / 5)))
            found.append(Sampled(f"p{number}", tokens, tokens * 5, tokens > 400, rng.random() < 0.6))
    return found


def test_the_interval_holds_the_whole_in_about_95_of_100_pilots() -> None:
    inside = {"completion_tokens": 0, "truncated_share": 0, "right_share": 0}
    for seed in range(100):
        whole = drawn(1000, 2, seed)
        actual = {
            "completion_tokens": sum(one.tokens for one in whole),
            "truncated_share": sum(one.truncated for one in whole) / len(whole),
            "right_share": sum(bool(one.right) for one in whole) / len(whole),
        }
        part = chosen(ids(1000), 0.08)
        found = predict([one for one in whole if one.problem_id in part], 1000, 100.0)
        for key in inside:
            low, high = found[key]["interval"]
            inside[key] += low <= actual[key] <= high
    assert min(inside.values()) >= 86


def test_hours_and_disk_follow_the_tokens_and_the_speed() -> None:
    found = predict([Sampled("a", 100, 500, False, True), Sampled("b", 300, 1500, True, None)], 10, 200.0)
    assert found["completion_tokens"]["value"] == 2000
    assert found["hours"]["value"] == pytest.approx(2000 / 200 / 3600)
    assert found["disk_bytes"]["value"] == pytest.approx(10_000 * DISK_FACTOR)
    labelled = predict([Sampled("a", 100, 500, False, True), Sampled("b", 300, 1500, True, None)], 10, 200.0, 65.0)
    assert labelled["disk_bytes"]["value"] == pytest.approx(10_000 * DISK_FACTOR + 2000 * 65)
    assert found["truncated_share"]["value"] == 0.5
    assert found["right_share"]["value"] == 1.0  # an undecided answer is neither right nor wrong
    assert predict([], 10, 0.0)["hours"] is None


def test_it_is_told_with_intervals_and_beside_what_came() -> None:
    predicted: dict[str, Any] = predict(drawn(40, 2, 1), 1000, 100.0)
    found = {"completions": 80, "problems": 40, "of_problems": 1000, "predicted": predicted}
    told = lines(found)
    assert told[0].startswith("Pilot: 80 completions of 40 problems, kept in the store; predicted for all 1,000")
    assert [line.split(":")[0].strip() for line in told[1:]] == ["tokens", "hours", "disk, MB", "truncated", "right"]
    (row,) = beside(found, {"completion_tokens": 123456.0})
    assert (row["figure"], row["actual"]) == ("tokens", "123,456")
    assert row["predicted"] == told[1].split(": ")[1]
    assert beside(None, {"hours": None}) == []
    assert beside(found, {"hours": None})[0]["actual"] == "unknown"
