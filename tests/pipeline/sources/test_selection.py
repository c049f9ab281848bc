"""The selection of candidates: how many are drawn, and what is taken back."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from pipeline.similarity.meaning import same_meaning
from pipeline.sources import TRAIN, Candidate
from pipeline.sources import candidate as module
from pipeline.sources.selection import Selection


def candidate(text: str, answer: str) -> Candidate:
    return Candidate(text, answer, "math", "sums", "exact", "{}", "made up", "CC0-1.0", TRAIN, text)


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


def test_a_problem_that_is_taken_back_is_drawn_for_again() -> None:
    selection = Selection(8, 0.01, 0.8, {})
    disputed = [candidate("What is 1 + 1?", answer) for answer in ("2", "3", "2")]
    drawn = iter([*disputed, *(candidate(f"What is {number} + 9?", str(number + 9)) for number in range(5))])
    assert selection.train_on_draws(0, drawn, 2) == 5
    assert [row.text for _, row in selection.accepted.values()] == ["What is 0 + 9?", "What is 1 + 9?"]
    assert [row["reason"] for row in selection.rejected] == ["conflicting_answer"] * 3


def test_of_problems_that_ask_the_same_the_better_one_stays_if_their_answers_are_the_same() -> None:
    def paraphrased(
        texts: Sequence[str], standing: int, may_repeat: Callable[[int, int], bool]
    ) -> dict[int, tuple[int, float]]:
        asked = [text.startswith(("How old", "What age")) for text in texts]
        return same_meaning(
            np.array([[one, not one] for one in asked], np.float32), [0] * len(texts), 0.9, standing, may_repeat
        )

    rows = [
        ("How old is the Earth?", "a"),
        ("What age has the Earth?", "a"),
        ("How old is Mars?", "b"),
        ("Where is Mars?", "c"),
    ]
    selection = Selection(8, 0.01, 0.8, {}, "shortest", paraphrased=paraphrased)
    selection.train_on_rows([(0, candidate(text, answer)) for text, answer in rows])
    assert {row.text for _, row in selection.accepted.values()} == {rows[0][0], rows[2][0], rows[3][0]}
    (refused,) = selection.rejected
    assert (refused["text"], refused["reason"]) == (rows[1][0], "same_meaning")
    assert candidate(*rows[0]).id in refused["detail"]
