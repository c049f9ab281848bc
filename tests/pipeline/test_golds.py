import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.ballots import LONGEST
from pipeline.golds import Attempts, Doubt, PseudoGolds
from pipeline.verifiers.pool import Pool

DOUBT = Doubt(votes=3, agreement_share=0.6)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1, 60.0, 256) as pool:
        yield pool


def verdict(id: str, outcome: str, answer: str | None, reasons: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"id": id, "outcome": outcome, "reasons": list(reasons), "detail": json.dumps({"answer": answer})}


def wrongly(*answers: str | None) -> list[dict[str, Any]]:
    return [verdict(str(n), "fail", answer) for n, answer in enumerate(answers)]


def doubts(pool: Pool, verdicts: list[dict[str, Any]], verifier: str = "math") -> dict[str, tuple[str, int]]:
    attempts = Attempts(DOUBT, None)
    assert not any(attempts.take("p", verifier, row) for row in verdicts)
    return {key: (agreed.answer, agreed.count) for key, agreed in attempts.suspected(pool).items()}


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (wrongly("7", "7", "7"), {"p": ("7", 3)}),
        (wrongly("7", "14/2", "8", "7"), {"p": ("7", 3)}),
        (wrongly("7", "7", None, None, "7"), {"p": ("7", 3)}),
        (wrongly("7", "7"), {}),
        (wrongly("7", "7", None), {}),
        (wrongly("7", "8", "9"), {}),
        (wrongly("7", "7", "8", "9"), {}),
        ([*wrongly("7", "7", "7"), verdict("r", "pass", "5")], {}),
        ([verdict("r", "pass", "5"), *wrongly("7", "7", "7")], {}),
        ([verdict(str(n), "undecided", "7", ("verifier_timeout",)) for n in range(5)], {}),
        (wrongly(*["7" * (LONGEST + 1)] * 3), {}),
        ([], {}),
    ],
)
def test_a_reference_is_doubted_where_wrong_answers_agree_and_none_is_right(
    pool: Pool, verdicts: list[dict[str, Any]], expected: dict[str, tuple[str, int]]
) -> None:
    assert doubts(pool, verdicts) == expected


def test_answers_agree_as_their_verifier_says(pool: Pool) -> None:
    assert doubts(pool, wrongly("Oslo", "OSLO", "oslo."), "exact") == {"p": ("OSLO", 3)}
    assert doubts(pool, wrongly("1/2", "0.5", "2/4"), "exact") == {}


def held(attempts: Attempts, *answers: str) -> None:
    for n, answer in enumerate(answers):
        assert attempts.take("p", "unverifiable", verdict(str(n), "undecided", answer, ("unverifiable",)))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (("7", "7.0", "7", "8"), ["pass", "pass", "pass", "minority_answer"]),
        (("7", "7", "8", "8"), ["no_majority"] * 4),
        (("7", "7", "7"), ["no_majority"] * 3),
        (("7", "7", "7", "7", "???"), ["pass"] * 4 + ["answer_unparseable"]),
        ((), []),
    ],
)
def test_a_majority_stands_in_for_a_reference(pool: Pool, answers: tuple[str, ...], expected: list[str]) -> None:
    attempts = Attempts(DOUBT, PseudoGolds(votes=4, agreement_share=0.6))
    held(attempts, *answers)
    rows = {row["id"]: row for problem, row, _ in attempts.decided(pool) if problem == "p"}
    assert [(rows[str(n)]["reasons"] or ["pass"])[0] for n in range(len(answers))] == expected
    assert attempts.suspected(pool) == {}


def test_nothing_is_held_where_the_recipe_wants_no_pseudo_golds(pool: Pool) -> None:
    attempts = Attempts(DOUBT, None)
    assert not attempts.take("p", "unverifiable", verdict("0", "undecided", "7", ("unverifiable",)))
    assert list(attempts.decided(pool)) == []


@pytest.mark.parametrize("verifier", ["maths", "unverifiable"])
def test_a_verifier_that_compares_nothing_is_refused(verifier: str) -> None:
    with pytest.raises(ValidationError, match="expected one that compares"):
        PseudoGolds(verifier=verifier)
