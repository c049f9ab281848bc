from typing import Any

import pytest

from pipeline.verifiers.label import classes, judge

MOOD = {
    "labels": ["positive", "negative", "neutral"],
    "synonyms": {"positive": ["good", "pos"], "negative": ["neg", 0]},
}
ENTAILMENT = {"labels": ["entailment", "not entailment"]}


@pytest.mark.parametrize(
    ("gold", "given", "data", "outcome"),
    [
        ("positive", "positive", MOOD, "right"),
        ("positive", "Positive.", MOOD, "right"),
        ("positive", r"\text{POSITIVE}", MOOD, "right"),
        ("positive", "**good**", MOOD, "right"),
        ("positive", "**Label:** positive", MOOD, "right"),
        ("positive", "The label is** positive", MOOD, "right"),
        ("pos", "good", MOOD, "right"),
        ("negative", "0", MOOD, "right"),
        ("positive", "Label: positive", MOOD, "right"),
        ("positive", "the class is 'positive'", MOOD, "right"),
        ("not entailment", "not entailment", ENTAILMENT, "right"),
        ("spam", "Spam", {}, "right"),
        ("spam", "junk", {"synonyms": {"spam": ["junk"]}}, "right"),
        ("Sci/Tech", "sci/tech", {"labels": ["World", "Sci/Tech"]}, "right"),
        ("positive", "negative", MOOD, "wrong"),
        ("positive", "neg", MOOD, "wrong"),
        ("positive", "**Label:** negative", MOOD, "wrong"),
        ("entailment", "not entailment", ENTAILMENT, "wrong"),
        ("positive", "happy", MOOD, "wrong"),
        ("positive", "positively", MOOD, "wrong"),
        ("positive", "", MOOD, "wrong"),
        ("spam", "ham", {}, "wrong"),
        ("positive", "not negative", MOOD, "undecided"),
        ("positive", "positive or negative", MOOD, "undecided"),
        ("positive", "it is rather positive", MOOD, "undecided"),
        ("spam", "not spam", {}, "undecided"),
        ("happy", "positive", MOOD, "undecided"),
        ("", "positive", MOOD, "undecided"),
        ("", "spam", {}, "undecided"),
        ("a", "a", {"synonyms": {"a": ["x"], "b": ["x"]}}, "undecided"),
        ("a", "a", {"labels": "a, b"}, "undecided"),
    ],
)
def test_a_label_is_named_or_not(gold: str, given: str, data: dict[str, Any], outcome: str) -> None:
    assert judge(given, gold, data).outcome == outcome


def test_the_cause_of_indecision_is_told() -> None:
    assert judge("positive", "happy", MOOD).reason == "gold_unparseable"
    assert judge("not negative", "positive", MOOD).reason == "answer_unparseable"
    twice = judge("a", "a", {"synonyms": {"a": ["x"], "b": ["x"]}})
    assert twice.detail["error"] == "found 'x' for both 'a' and 'b'; expected each name once"


def test_a_wrong_label_is_told() -> None:
    assert judge("neg", "positive", MOOD).detail == {"label": "negative"}


@pytest.mark.parametrize(
    ("given", "gold", "data", "found"),
    [
        ("Label: neg", "good", MOOD, ("positive", "negative")),
        ("positive.", "positive", MOOD, ("positive", "positive")),
        ("not negative", "positive", MOOD, ("positive", None)),
        (None, "neutral", MOOD, ("neutral", None)),
        ("Spam", "spam", {}, ("spam", "spam")),
        ("positive", "happy", MOOD, None),
        ("a", "a", {"labels": "a, b"}, None),
    ],
)
def test_the_classes_of_a_pair_are_the_labels_and_none_where_none_is_named(
    given: str | None, gold: str, data: dict[str, Any], found: tuple[str, str | None] | None
) -> None:
    assert classes(given, gold, data) == found


@pytest.mark.parametrize(
    ("given", "data", "said"),
    [
        ("Positive.", {}, "positive"),
        ("the label is negative", {}, "negative"),
        ("neutral", {}, None),
        ("positive", {"labels": ["negative", "neutral"]}, None),
        ("positive", {"synonyms": {"negative": ["positive"]}}, "negative"),
    ],
)
def test_without_labels_the_classes_are_the_references_of_the_task(
    given: str, data: dict[str, Any], said: str | None
) -> None:
    assert classes(given, "negative", data, {"negative", "Positive"}) == ("negative", said)
