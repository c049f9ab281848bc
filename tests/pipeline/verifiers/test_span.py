from typing import Any

import pytest

from pipeline.verifiers.span import f1, judge, tokens

HALF = {"f1_threshold": 0.5}


@pytest.mark.parametrize(
    ("gold", "given", "data", "outcome", "score"),
    [
        ("Denver Broncos", "Denver Broncos", {}, "right", 1.0),
        ("Denver Broncos", "the denver broncos.", {}, "right", 1.0),
        ("Denver Broncos", r"\text{Denver Broncos}", {}, "right", 1.0),
        ("Denver Broncos", "Broncos", {"answers": ["Broncos", "Denver"]}, "right", 1.0),
        ("Beyoncé's", "Beyonce\u0301’s", {}, "right", 1.0),
        ("1,000 people", "1000 people", {}, "right", 1.0),
        ("covid-19", "Covid 19", {}, "right", 1.0),
        ("A", "A", {}, "right", 1.0),
        ("北京大学", "北京 大学", {}, "right", 1.0),
        ("Denver Broncos", "Broncos", HALF, "right", 2 / 3),
        ("Denver Broncos", "Broncos of Denver", HALF, "right", 0.8),
        ("北京大学", "北京", HALF, "right", 2 / 3),
        ("Denver Broncos", "Broncos", {}, "wrong", 2 / 3),
        ("Denver Broncos", "Broncos", {"f1_threshold": 0.7}, "wrong", 2 / 3),
        ("dog bites man", "man bites dog", {}, "wrong", 1.0),
        ("Denver Broncos", "Carolina Panthers", HALF, "wrong", 0.0),
        ("Denver Broncos", "Denver Denver Denver Denver", HALF, "wrong", 1 / 3),
        ("Denver Broncos", "", HALF, "wrong", 0.0),
        ("1.5", "15", {}, "wrong", 0.0),
        ("-3", "3", {}, "wrong", 0.0),
        ("5%", "5", {}, "wrong", 2 / 3),
        ("A", "the", {}, "wrong", 0.0),
        ("10²", "102", {}, "wrong", 0.0),
        ("", "Denver", {}, "undecided", None),
        ("?!", "Denver", {}, "undecided", None),
        ("Denver", "Denver", {"f1_threshold": 0}, "undecided", None),
        ("Denver", "Denver", {"f1_threshold": 80}, "undecided", None),
        ("Denver", "Denver", {"f1_threshold": "half"}, "undecided", None),
    ],
)
def test_a_span_is_matched_exactly_or_by_its_words(
    gold: str, given: str, data: dict[str, Any], outcome: str, score: float | None
) -> None:
    judgement = judge(given, gold, data)
    assert (judgement.outcome, judgement.score) == (outcome, None if score is None else pytest.approx(score))
    assert judgement.reason == {"right": None, "wrong": "wrong_answer", "undecided": "gold_unparseable"}[outcome]


def test_words_are_counted_as_often_as_they_stand_there() -> None:
    assert f1(["a", "a", "b"], ["a", "b", "b"]) == pytest.approx(2 / 3)
    assert f1([], ["a"]) == 0.0


def test_articles_fall_unless_they_are_all_there_is() -> None:
    assert tokens("The end of an era") == ["end", "of", "era"]
    assert tokens("The") == ["the"]
    assert tokens("1914-1918, about -3.5 °C") == ["1914", "1918", "about", "-3.5", "°", "c"]
