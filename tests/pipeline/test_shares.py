"""Which traces shares leave no room for."""

from collections import Counter
from dataclasses import replace

import pytest

from pipeline.blending import Shortage
from pipeline.choosing import Candidate
from pipeline.shares import Shares, blended
from tests.candidates import trace


def mixed(wishes: Shares, some: list[Candidate], domains: dict[str, str]) -> dict[str, str]:
    """What became of each trace: kept, or its first reason."""
    decision = blended(wishes, some, {one.id: one.sample for one in some}, domains)
    return {one.id: one.reasons[0][1] if one.reasons else "kept" for one in decision.candidates}


def test_shares_of_domains_hold_and_what_is_over_says_so() -> None:
    some = [trace(n, problem_id=f"p{n}", sample=0) for n in range(12)]
    domains = {f"p{n}": "math" if n < 8 else "code" if n < 11 else "art" for n in range(12)}
    shares = {"math": 0.5, "code": 0.5}
    found = Counter(mixed(Shares(domain_shares=shares), some, domains).values())
    assert found == {"kept": 6, "over_share": 5, "no_share": 1}
    with pytest.raises(Shortage, match=r"in rows: too few examples of code: 3 of 4. Lower size"):
        blended(Shares(domain_shares=shares, size=8), some, dict.fromkeys((one.id for one in some), 0), domains)


def test_a_domain_that_is_not_there_is_an_error_or_left_out() -> None:
    some = [trace(n, problem_id=f"p{n}", sample=0) for n in range(4)]
    domains = {f"p{n}": "math" for n in range(4)}
    shares = {"math": 0.5, "code": 0.5}
    with pytest.raises(Shortage, match="nothing passed of code"):
        mixed(Shares(domain_shares=shares), some, domains)
    assert set(mixed(Shares(domain_shares=shares, short="take_less"), some, domains).values()) == {"kept"}


def test_a_domain_without_a_teacher_that_has_a_share_is_an_error_or_told() -> None:
    some = [trace(n, "one" if n < 4 else "two", problem_id=f"p{n}", sample=0) for n in range(8)]
    domains = {f"p{n}": "math" if n < 4 else "code" for n in range(8)}
    places = dict.fromkeys((one.id for one in some), 0)
    wishes = Shares(domain_shares={"math": 0.5, "code": 0.4, "art": 0.1}, teacher_shares={"one": 1.0}, size=4)
    with pytest.raises(Shortage, match="too few examples of code: 0 of 2; art: 0 of 1"):
        blended(wishes, some, places, domains)
    less = wishes.model_copy(update={"short": "take_less"})
    rows = blended(less, some, places, domains).blend
    assert [(row["domain"], row["available"], row["taken"], row["share_asked"]) for row in rows] == [
        ("code", 4, 0, 0.0),
        ("math", 4, 2, 0.5),
        ("art", 0, 0, 0.1),
        ("code", 0, 0, 0.4),
    ]


def test_teachers_and_lengths_have_shares_within_their_domain() -> None:
    some = [trace(n, "one" if n < 10 else "two", problem_id=f"p{n}", sample=0) for n in range(20)]
    domains = {f"p{n}": "math" for n in range(20)}
    fate = mixed(Shares(teacher_shares={"one": 0.2, "two": 0.8}), some, domains)
    assert Counter(fate[f"t{n}"] for n in range(10)) == {"kept": 3, "over_share": 7}
    assert {fate[f"t{n}"] for n in range(10, 20)} == {"kept"}
    long = [replace(one, completion_tokens=5000 if n < 2 else 100) for n, one in enumerate(some)]
    fate = mixed(Shares(long_share=0.2), long, domains)
    assert Counter(fate[f"t{n}"] for n in range(2, 20)) == {"kept": 8, "over_share": 10}
    assert fate["t0"] == fate["t1"] == "kept"
