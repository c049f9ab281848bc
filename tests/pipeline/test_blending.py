"""Shares, quotas and what fills them."""

import random
from collections import Counter

import pytest

from pipeline.blending import Item, Shortage, jaccard, kind_shares, quotas, rounded, sketch, taken, unlike_first

MATHS, CODE = ("math",), ("code",)


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        (None, "error", {MATHS: 75.0, CODE: 25.0}),
        (None, "take_less", {MATHS: 75.0, CODE: 25.0}),
        (None, "repeat", {MATHS: 300.0, CODE: 100.0}),
        (80, "error", {MATHS: 60.0, CODE: 20.0}),
        (80, "repeat", {MATHS: 60.0, CODE: 20.0}),
        (200, "take_less", {MATHS: 75.0, CODE: 25.0}),
        (200, "repeat", {MATHS: 150.0, CODE: 50.0}),
        (4000, "repeat", {MATHS: 300.0, CODE: 100.0}),  # no example more than four times
    ],
)
def test_a_quota_is_a_share_of_what_the_policy_allows(
    size: int | None, short: str, expected: dict[object, float]
) -> None:
    assert quotas({MATHS: 300, CODE: 25}, {MATHS: 0.75, CODE: 0.25}, size, short, 4) == expected  # type: ignore[arg-type]


def test_running_short_is_an_error_that_says_of_what_and_how_much() -> None:
    with pytest.raises(Shortage, match="too few examples of code: 25 of 50"):
        quotas({MATHS: 300, CODE: 25}, {MATHS: 0.75, CODE: 0.25}, 200, "error", 4)
    with pytest.raises(Shortage, match="no example is of a kind that has a share"):
        quotas({MATHS: 300}, {MATHS: 0.0}, None, "error", 4)


def test_exactly_enough_is_enough_whatever_floating_point_makes_of_the_shares() -> None:
    for per_cent in range(1, 100):
        for size in range(100, 5100, 100):
            there = {MATHS: per_cent * size // 100, CODE: size - per_cent * size // 100}
            found = quotas(there, {MATHS: per_cent / 100, CODE: 1 - per_cent / 100}, size, "error", 1)
            assert rounded(found) == there
    with pytest.raises(Shortage, match="too few examples of code: 6 of 7"):
        quotas({MATHS: 50, CODE: 6}, {MATHS: 0.86, CODE: 0.14}, 50, "error", 4)


@pytest.mark.parametrize(
    ("shares", "size"), [([1 / 8] * 8, 20), ([1 / 8] * 8, 100), ([1 / 3] * 3, 100), ([0.5, 0.3, 0.2], 1)]
)
def test_rounded_quotas_sum_to_the_size_and_are_within_one_of_their_shares(shares: list[float], size: int) -> None:
    quota = {(str(number),): share * size for number, share in enumerate(shares)}
    found = rounded(quota)
    assert sum(found.values()) == size
    assert all(abs(found[kind] - amount) < 1 and found[kind].is_integer() for kind, amount in quota.items())
    assert found == rounded(dict(reversed(quota.items())))


def test_an_example_that_does_not_fit_is_passed_over() -> None:
    items = [Item("large", MATHS, 30_000), *(Item(f"{number}", MATHS, 100) for number in range(200))]
    times = taken(items, {MATHS: 10_000.0})
    assert ("large" in times, len(times)) == (False, 100)


def test_shares_of_a_further_dimension_divide_what_is_there() -> None:
    kinds = [("math", "one"), ("math", "two"), ("code", "two"), ("art", "one"), ("general", None)]
    shares = [{"math": 0.5, "code": 0.3, "general": 0.2}, {"one": 0.75, "two": 0.25}]
    assert kind_shares(kinds, shares) == {
        ("math", "one"): 0.375,
        ("math", "two"): 0.125,
        ("code", "two"): 0.3,
        ("general", None): 0.2,
        ("art", "one"): 0.0,
    }


def test_without_shares_in_the_first_dimension_the_others_hold_for_all() -> None:
    assert kind_shares([(None, "one"), (None, "two")], [{}, {"one": 0.9, "two": 0.1}]) == {
        (None, "one"): 0.9,
        (None, "two"): 0.1,
    }


def test_the_best_of_each_problem_are_taken_before_the_second_ones_whatever_the_order_of_rows() -> None:
    items = [Item(f"{problem}{rank}", MATHS, 1, rank) for problem in "abcdef" for rank in range(3)]
    random.Random(5).shuffle(items)
    times = taken(items, {MATHS: 8})
    assert {key for key in times if key[1] == "0"} == {f"{problem}0" for problem in "abcdef"}
    assert sum(key[1] == "1" for key in times) == 2
    assert taken(sorted(items, key=lambda item: item.id), {MATHS: 8}) == times


def test_repeats_come_after_everything_was_taken_once() -> None:
    items = [Item(key, CODE, 1) for key in "abc"]
    assert sorted(taken(items, {CODE: 7}, 4).values()) == [2, 2, 3]
    assert taken(items, {CODE: 7}, 1) == Counter("abc")
    assert taken(items, {}, 4) == {}


@pytest.mark.parametrize(("quota", "count"), [(100, 10), (104, 10), (105, 11), (106, 11), (4, 0), (0, 0)])
def test_tokens_are_taken_to_the_nearest_example(quota: float, count: int) -> None:
    assert len(taken([Item(f"{n}", MATHS, 10) for n in range(20)], {MATHS: quota})) == count


def test_a_quota_of_random_kinds_is_met_within_half_an_example_each() -> None:
    draw = random.Random(11)
    for _ in range(200):
        items = [Item(f"{n}", (draw.choice("xyz"),), draw.randrange(1, 50)) for n in range(draw.randrange(5, 60))]
        there = Counter(dict.fromkeys([("x",), ("y",), ("z",)], 0))
        for item in items:
            there[item.kind] += item.amount
        parts = [draw.random() for _ in "xyz"]
        asked = {kind: part / sum(parts) for kind, part in zip(there, parts, strict=True)}
        short = draw.choice(["take_less", "repeat"])
        size = draw.choice([None, draw.randrange(1, 1500)])
        found = quotas(there, asked, size, short, 3)  # type: ignore[arg-type]
        times = taken(items, found, 3 if short == "repeat" else 1)
        amounts = {item.id: item for item in items}
        for kind, quota in found.items():
            got = sum(amounts[key].amount * count for key, count in times.items() if amounts[key].kind == kind)
            largest = max((item.amount for item in items if item.kind == kind), default=0)
            assert abs(got - quota) <= largest / 2 + 1e-6
        assert max(times.values(), default=0) <= (3 if short == "repeat" else 1)


def test_the_first_of_equals_wins_and_each_is_unlike_those_before() -> None:
    texts = {
        "a": "one two three four",
        "b": "one two three four",
        "c": "five six seven eight",
        "d": "one two three nine",
    }
    assert unlike_first(texts, ["a", "b", "c", "d"]) == ["a", "c", "d", "b"]
    assert unlike_first(texts, ["b"]) == ["b"]
    assert unlike_first(texts, []) == []


def test_a_sketch_estimates_the_share_of_common_shingles() -> None:
    draw = random.Random(2)
    one = [str(draw.randrange(10**6)) for _ in range(4000)]
    other = one[:2000] + [str(draw.randrange(10**6)) for _ in range(2000)]
    assert abs(jaccard(sketch(" ".join(one)), sketch(" ".join(other))) - 1 / 3) < 0.1
    assert jaccard(sketch("a b c d"), sketch("a b c d")) == 1.0
    assert jaccard(sketch(""), sketch("")) == 1.0
