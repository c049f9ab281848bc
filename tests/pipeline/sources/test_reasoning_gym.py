"""reasoning-gym: items by seed, entries that survive JSON, wrong gold answers found, clear errors."""

import json
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.sources import Candidate, ReasoningGymSource, SourceError, canonical_json
from pipeline.sources.reasoning_gym import candidates, true_answer

TASKS: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
    "basic_arithmetic": {
        "min_terms": 2,
        "max_terms": 3,
        "min_digits": 1,
        "max_digits": 1,
        "allow_parentheses": False,
    },
    "simple_equations": {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 10},
    "gcd": {"max_value": 100},
    "lcm": {},
    "products": {"max_digits": 2},
    "decimal_chain_sum": {},
}


def source(task: str, **values: Any) -> ReasoningGymSource:
    return ReasoningGymSource.model_validate({"kind": "reasoning_gym", "task": task, "count": 10, **values})


def draw(task: str, count: int, **values: Any) -> list[Candidate]:
    return list(islice(candidates(source(task, **values), Path()), count))


@pytest.mark.parametrize("task", TASKS)
def test_the_gold_answer_scores_one_after_json_and_another_does_not(task: str) -> None:
    from reasoning_gym.factory import create_dataset

    usable = [row for row in draw(task, 60, config=TASKS[task]) if row.fault is None]
    assert len(usable) >= 30
    for row in usable:
        data = json.loads(row.verifier_data)
        scorer = create_dataset(data["task"])
        assert scorer.score_answer(row.answer, data["entry"]) == 1.0
        assert scorer.score_answer(str(Fraction(row.answer) + 1), data["entry"]) < 1.0
        assert (data["entry"]["question"], data["entry"]["answer"]) == (row.text, row.answer)
        assert (row.verifier, row.license) == ("reasoning_gym", "Apache-2.0")


def test_item_i_is_made_from_seed_plus_i_across_blocks() -> None:
    early, late = draw("chain_sum", 1010, seed=5), draw("chain_sum", 5, seed=1005)
    assert [row.text for row in early[1000:1005]] == [row.text for row in late]
    assert (
        [row.place for row in late] == [row.place for row in early[1000:1005]] == [f"item {1005 + i}" for i in range(5)]
    )


def test_the_count_asked_for_changes_no_item() -> None:
    few, many = (list(islice(candidates(source("acre", count=count), Path()), 5)) for count in (5, 500))
    assert [row.text for row in few] == [row.text for row in many]


def test_wrong_gold_answers_are_faults_and_right_ones_are_not() -> None:
    rows = draw("basic_arithmetic", 400, config=TASKS["basic_arithmetic"])
    for row in rows:
        expression = row.metadata["expression"]
        right = "/ 0" not in expression and eval(expression) == int(row.answer)
        assert row.fault == (None if right else "answer_wrong"), row.text
    assert {row.fault for row in rows} == {None, "answer_wrong"}


@pytest.mark.parametrize(
    ("task", "metadata", "answer", "right"),
    [
        ("chain_sum", {"expression": "4 + 17 - 2"}, "18", Fraction(19)),
        ("basic_arithmetic", {"expression": "8 / 3"}, "2", Fraction(8, 3)),
        ("gcd", {"numbers": [12, 18, 9]}, "6", Fraction(3)),
        ("lcm", {"numbers": [4, 6]}, "24", Fraction(12)),
        ("simple_equations", {"equation": "5 - 8*e = -51", "variable": "e"}, "6", Fraction(7)),
        ("simple_equations", {"equation": "5*e*e = 20", "variable": "e"}, "-2", Fraction(-2)),
        ("simple_equations", {"equation": "5*e*e = 20", "variable": "e"}, "3", None),
        ("simple_equations", {"equation": "5 = 5", "variable": "e"}, "3", Fraction(3)),
        ("chain_sum", {}, "18", None),
        ("chain_sum", {"expression": "1 + 1"}, "two", None),
        ("letter_counting", {"span": ["a"]}, "18", None),
    ],
)
def test_right_answers(task: str, metadata: dict[str, Any], answer: str, right: Fraction | None) -> None:
    assert true_answer(task, metadata, answer) == right


def test_an_item_that_divides_by_zero_has_no_right_answer() -> None:
    with pytest.raises(ZeroDivisionError):
        true_answer("basic_arithmetic", {"expression": "8 / ( 2 - 2 )"}, "0")
    dividing = [row for row in draw("basic_arithmetic", 400, config=TASKS["basic_arithmetic"]) if "/ 0" in row.text]
    assert {(row.fault, "divides by zero" in row.detail) for row in dividing} == {("answer_wrong", True)}


def test_metadata_becomes_what_json_can_hold() -> None:
    import numpy

    value = {1: (1, 2), "b": {3, 1}, "c": numpy.int64(4), "d": numpy.array([1.5]), "e": Fraction(1, 2), "f": None}
    assert canonical_json(value) == '{"1":[1,2],"b":[1,3],"c":4,"d":[1.5],"e":"1/2","f":null}'


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"task": "chain_sums"}, "no task 'chain_sums' (did you mean 'chain_sum'?)"),
        ({"task": "chain_sum", "config": {"max_term": 3}}, "no config field 'max_term' (did you mean 'max_terms'?)"),
        ({"task": "chain_sum", "config": {"max_terms": 1}}, "max_terms must be >= min_terms"),
    ],
)
def test_a_task_or_config_that_is_none_is_one_clear_error(values: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceError) as caught:
        draw(values.pop("task"), 1, **values)
    assert says in str(caught.value)


@pytest.mark.parametrize(("key", "field"), [("seed", "seed"), ("size", "count")])
def test_seed_and_size_belong_to_the_source(key: str, field: str) -> None:
    with pytest.raises(ValidationError, match=f"set the source's own `{field}` instead"):
        source("chain_sum", config={key: 3})
