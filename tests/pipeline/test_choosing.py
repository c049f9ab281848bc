"""Which traces of a problem are good, and which come first."""

import pytest

from pipeline.choosing import Prefer, hear_best, in_band, over_cap, pass_rates, ranks, revive
from tests.candidates import kept, repeats, trace


def test_a_duplicate_takes_the_place_of_a_dropped_survivor_and_the_shortest_does() -> None:
    dropped = trace(0, right=False)
    heirs = [repeats(1, "t0", completion_tokens=12), repeats(2, "t0", completion_tokens=9)]
    assert kept(revive([dropped, *heirs])) == ["t2"]
    assert kept(revive([trace(0), *heirs])) == ["t0"]
    other = repeats(3, "t0", completion_tokens=1)
    worse = trace(3, reasons=(("filter", "truncated"), *other.reasons), survivor="t0", completion_tokens=1)
    assert kept(revive([dropped, *heirs, worse])) == ["t2"]


@pytest.mark.parametrize(
    ("prefer", "expected"), [("shortest", {"t0", "t2"}), ("first", {"t1", "t2"})], ids=["shortest", "first"]
)
def test_a_cap_leaves_out_the_rest_of_a_problems_passing_traces(prefer: Prefer, expected: set[str]) -> None:
    lengths = {0: 30, 1: 10, 2: 20, 3: 5}
    some = [trace(number, completion_tokens=tokens) for number, tokens in lengths.items()]
    some[3] = trace(3, right=False, completion_tokens=5)
    assert over_cap(ranks(some, prefer), 1) == expected
    assert over_cap(ranks(some, prefer), None) == set()
    assert over_cap(ranks([*some, trace(4, problem_id="other")], prefer), 3) == set()


def test_a_cap_may_count_for_each_teacher() -> None:
    some = [trace(0), trace(1), trace(2, "two"), trace(3, "two")]
    assert over_cap(ranks(some, "first"), 1) == {"t1", "t2", "t3"}
    assert over_cap(ranks(some, "first", each=True), 1) == {"t1", "t3"}


def test_the_best_teacher_of_a_problem_is_the_one_most_often_right() -> None:
    weaker = [trace(0, "one"), trace(1, "one", right=False)]
    better = [trace(2, "two"), trace(3, "two", right=None, reasons=(("verify", "verifier_timeout"),))]
    assert kept(hear_best([*weaker, *better])) == ["t2"]
    assert hear_best([*weaker, *better])[0].reasons == (("mix", "weaker_teacher"),)


def test_of_equal_teachers_the_briefer_is_heard_and_one_without_a_good_trace_never() -> None:
    assert kept(hear_best([trace(0, "one", completion_tokens=30), trace(1, "two")])) == ["t1"]
    assert kept(hear_best([trace(0, "two"), trace(1, "one")])) == ["t1"]
    truncated = trace(0, "one", reasons=(("filter", "truncated"),))
    assert kept(hear_best([truncated, trace(1, "two"), trace(2, "two", right=False)])) == ["t1"]
    assert kept(hear_best([trace(0, "one"), trace(1, "two", problem_id="other")])) == ["t0", "t1"]


def test_a_trace_of_the_best_teacher_that_repeats_one_of_a_weaker_stays() -> None:
    weaker = [trace(0, "one"), trace(1, "one", right=False)]
    assert kept(revive(hear_best([*weaker, repeats(2, "t0", teacher="two")]))) == ["t2"]


def test_the_best_rated_come_first_and_those_without_a_rating_last() -> None:
    ratings = [2.0, None, 9.0, 9.0]
    some = [trace(n, rating=rating, completion_tokens=20 - n) for n, rating in enumerate(ratings)]
    assert ranks(some, "judge") == {"t3": 0, "t2": 1, "t0": 2, "t1": 3}


def test_the_most_diverse_come_first_and_copies_last() -> None:
    texts = {
        "t0": "we add three to five and that makes eight in all",
        "t1": "we add three to five and that makes eight in total",
        "t2": "count on from five: six, seven, eight",
        "t3": "half of sixteen is eight, which is what is asked",
    }
    some = [trace(n, completion_tokens=10 + n) for n in range(4)]
    places = ranks(some, "diverse", texts=texts)
    assert places["t0"] == 0
    assert places["t1"] == 3
    assert over_cap(places, 3) == {"t1"}


@pytest.mark.parametrize(
    ("rights", "band", "reason"),
    [
        ([True, True], (0.2, 0.8), "too_easy"),
        ([False, False, True, False, False, False], (0.2, 0.8), "too_hard"),
        ([True, False], (0.2, 0.8), None),
        ([True, False, None, None], (0.5, 0.5), None),
        ([None, None], (0.0, 1.0), "pass_rate_unknown"),
        ([False], (0.0, 0.0), None),
        ([True], (1.0, 1.0), None),
        ([True, False], None, None),
    ],
)
def test_a_band_of_pass_rates_holds_its_ends(
    rights: list[bool | None], band: tuple[float, float] | None, reason: str | None
) -> None:
    some = [trace(n, right=right, reasons=()) for n, right in enumerate(rights)]
    found = {one.reasons for one in in_band([*some, trace(99, problem_id="other", right=True)], band)[:-1]}
    assert found == {(("mix", reason),) if reason else ()}


def test_a_pass_rate_counts_what_was_decided_whatever_else_speaks_against_it() -> None:
    some = [trace(0), trace(1, right=False), trace(2, right=None), trace(3, reasons=(("filter", "truncated"),))]
    assert pass_rates([*some, trace(4, problem_id="q", right=None)]) == {"p": 2 / 3, "q": None}
