"""The selection of candidates: how many are drawn, and what is taken back."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from pipeline.similarity.meaning import same_meaning
from pipeline.sources import TRAIN, Candidate
from pipeline.sources import candidate as module
from pipeline.sources.selection import Selection
from pipeline.verifiers import UNVERIFIABLE


def candidate(text: str, answer: str | None) -> Candidate:
    verifier = UNVERIFIABLE if answer is None else "exact"
    return Candidate(text, answer or "", "math", "sums", verifier, "{}", "made up", "CC0-1.0", TRAIN, text)


def test_keys_and_id_of_a_candidate_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []
    for name in ("canonical_keys", "content_id"):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, real=real, name=name: computed.append(name) or real(*given))
    selection = Selection(8, 0.01, 0.8, {})
    selection.hold_out_rows([(0, replace(candidate("What is 1 + 1?", "2"), split="eval"))])
    selection.train_on_draws(1, iter([candidate("What is 2 + 2?", "4")]), 1)
    assert len(selection.accepted) == 2
    assert sorted(computed) == ["canonical_keys"] * 2 + ["content_id"] * 2


def test_a_training_problem_with_a_held_out_expression_is_rejected_only_where_it_asks_for_its_value() -> None:
    held_out = [
        ("What is the reciprocal of 1/2?", "2"),
        ("Who won the league in the 2010-2011 season?", "Dortmund"),
        ("What is the greatest common factor of 12 and 18?", "6"),
        ("State the sum: 4 + 17", "21"),
    ]
    others = [
        ("John painted 1/2 of a fence. What percentage is that?", "50"),
        ("Which coach left the club in the 2010-2011 season?", "X"),
        ("Which primes divide the greatest common divisor of 12 and 18?", "2 and 3"),
        ("Implement the knapsack of 4 + 17 items.", ""),
    ]
    copies = [("Tell me the gcd of 18 and 12", "6"), ("17 + 4 makes?", "21"), ("How much is 4 + 17?", "")]
    verifiers = {others[-1]: "code", copies[-1]: "unverifiable"}
    selection = Selection(8, 0.01, 0.8, {})
    selection.hold_out_rows((0, replace(candidate(*row), task="own", split="eval")) for row in held_out)
    rows = [replace(candidate(*row), task="own", verifier=verifiers.get(row, "exact")) for row in others + copies]
    selection.train_on_rows((1, row) for row in rows)
    assert {row.text for _, row in selection.accepted.values() if row.split == TRAIN} == {text for text, _ in others}
    assert [row["reason"] for row in selection.rejected] == ["held_out_match"] * len(copies)


@pytest.mark.parametrize(
    ("verifier", "answers", "reasons"),
    [
        ("code", ("def f(x): return x", "def f(y): return y"), ["duplicate"]),
        ("unverifiable", ("a reply", "another"), ["duplicate"]),
        ("math", ("1/2", "$1/2$"), ["duplicate"]),
        ("math", ("1,000", "1000.0"), ["duplicate"]),
        ("math", ("1/2", "1/3"), ["conflicting_answer"] * 2),
        ("exact", ("yes", "no"), ["conflicting_answer"] * 2),
    ],
)
def test_one_answer_in_two_forms_and_answers_that_nobody_reads_are_no_conflict(
    verifier: str, answers: tuple[str, str], reasons: list[str]
) -> None:
    rows = [(0, replace(candidate("Write or say it.", answer), verifier=verifier)) for answer in answers]
    for take in ("train_on_rows", "hold_out_rows"):
        selection = Selection(8, 0.01, 0.8, {})
        split = "train" if take == "train_on_rows" else "eval"
        getattr(selection, take)((place, replace(row, split=split)) for place, row in rows)
        assert [row["reason"] for row in selection.rejected] == reasons
        assert len(selection.accepted) == 2 - len(reasons)


def test_a_problem_that_is_taken_back_is_drawn_for_again() -> None:
    selection = Selection(8, 0.01, 0.8, {})
    disputed = [candidate("What is 1 + 1?", answer) for answer in ("2", "3", "2")]
    drawn = iter([*disputed, *(candidate(f"What is {number} + 9?", str(number + 9)) for number in range(5))])
    assert selection.train_on_draws(0, drawn, 2) == 5
    assert [row.text for _, row in selection.accepted.values()] == ["What is 0 + 9?", "What is 1 + 9?"]
    assert [row["reason"] for row in selection.rejected] == ["conflicting_answer"] * 3


def asks_age(
    texts: Sequence[str], standing: int, may_repeat: Callable[[int, int], bool]
) -> dict[int, tuple[int, float]]:
    """A model that sees no more of a text than whether it asks how old something is."""
    asked = [text.startswith(("How old", "What age")) for text in texts]
    vectors = np.array([[one, not one] for one in asked], np.float32)
    return same_meaning(vectors, [0] * len(texts), 0.9, standing, may_repeat)


def test_of_problems_that_ask_the_same_the_better_one_stays_if_their_answers_are_the_same() -> None:
    rows = [
        ("How old is the Earth?", "a"),
        ("What age has the Earth?", "a"),
        ("How old is Mars?", "b"),
        ("Where is Mars?", "c"),
    ]
    selection = Selection(8, 0.01, 0.8, {}, "shortest", paraphrased=asks_age)
    selection.train_on_rows([(0, candidate(text, answer)) for text, answer in rows])
    assert {row.text for _, row in selection.accepted.values()} == {rows[0][0], rows[2][0], rows[3][0]}
    (refused,) = selection.rejected
    assert (refused["text"], refused["reason"]) == (rows[1][0], "same_meaning")
    assert candidate(*rows[0]).id in refused["detail"]


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ((("How old is Ann in 3 years?", "12"), ("What age has Ann in 3 years?", "12")), 1),
        ((("How old is Ann in 3 years?", None), ("What age had Ann 3 years ago?", None)), 2),
        ((("How old is Ann in 3 years?", "12"), ("What age had Ann 3 years ago?", None)), 2),
        ((("How old is the Earth?", None), ("What age has the Earth?", None)), 1),
    ],
)
def test_of_problems_with_numbers_a_model_is_believed_only_where_both_answers_are_known(
    rows: tuple[tuple[str, str | None], ...], kept: int
) -> None:
    selection = Selection(8, 0.01, 0.8, {}, "shortest", paraphrased=asks_age)
    selection.train_on_rows([(0, candidate(text, answer)) for text, answer in rows])
    assert len(selection.accepted) == kept
