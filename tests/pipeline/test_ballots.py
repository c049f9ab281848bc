"""Which answers of several attempts are one, and which is given most often."""

from collections.abc import Iterator

import pytest

from pipeline.ballots import Agreement, Ballot, agreements, alike
from pipeline.verifiers.pool import Pool


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1, 60.0, 1024) as opened:
        yield opened


@pytest.mark.parametrize(
    ("votes", "agreement"),
    [
        (["5", "5", "6"], Agreement("5", 2)),
        (["0.5", "1/2", "\\frac{1}{2}", "3", "3"], Agreement("0.5", 3)),
        (["x = 4", "4", "5", "5", None], Agreement("5", 2)),  # as often as 4: any of the two
        (["**7**", "7", "$7$"], Agreement("7", 3)),
        (["7", "$7$", "$7$"], Agreement("$7$", 3)),
        ([None, None], None),
        ([None, "1"], Agreement("1", 1)),
        ([], None),
    ],
)
def test_votes_are_one_where_the_verifier_says_so(
    votes: list[str | None], agreement: Agreement | None, pool: Pool
) -> None:
    assert agreements([Ballot(votes)], pool) == [agreement]
    assert agreements([Ballot(votes[::-1])], pool) == [agreement], "the order of votes decides nothing"


def test_ballots_do_not_mix(pool: Pool) -> None:
    ballots = [Ballot(["1", "1.0"]), Ballot(["2", "3"]), Ballot(["1,0", "10"], "exact")]
    assert [found and found.count for found in agreements(ballots, pool)] == [2, 1, 1]


def test_votes_are_numbered_by_their_answers_in_the_order_they_came(pool: Pool) -> None:
    votes = ["x = 4", None, "0.5", "5", "$\\frac{1}{2}$", "4", "1/2", None]
    (found,) = alike([Ballot(votes)], pool)
    half, four, five = found[2], found[0], found[3]
    assert len({half, four, five, None}) == 4
    assert found == [four, None, half, five, half, four, half, None]
