"""What counts as right, wrong, and not judged; and what is said of several samples a question."""

from dataclasses import replace

import pytest

from pipeline.scoring import Answer, better, class_line, compare, figures, shares

RIGHT = Answer("q1", "sum", "pass", (), "stop", 10, "7")
WRONG = replace(RIGHT, outcome="fail", reasons=("wrong_answer",), vote="8")
CUT = replace(RIGHT, outcome="fail", reasons=("answer_missing",), finish="length", completion_tokens=30, vote=None)
GARBLED = replace(RIGHT, outcome="undecided", reasons=("answer_unparseable",), vote="{")
TIMEOUT = replace(RIGHT, outcome="undecided", reasons=("verifier_timeout",))
ERROR = replace(RIGHT, outcome="undecided", reasons=("generation_error",), finish="error", completion_tokens=0)


@pytest.mark.parametrize(
    ("answers", "share"),
    [
        ([RIGHT], 1.0),
        ([WRONG], 0.0),
        ([CUT], 0.0),
        ([GARBLED], 0.0),
        ([RIGHT, WRONG], 0.5),
        ([RIGHT, CUT, GARBLED, RIGHT], 0.5),
        ([RIGHT, TIMEOUT], 1.0),
        ([WRONG, ERROR], 0.0),
    ],
)
def test_a_failure_of_the_judge_is_not_the_models_and_its_own_failure_is(answers: list[Answer], share: float) -> None:
    assert shares(answers) == {"q1": share}


@pytest.mark.parametrize("answers", [[TIMEOUT], [ERROR], []])
def test_a_question_without_a_judged_answer_is_left_out(answers: list[Answer]) -> None:
    assert shares(answers) == {}
    assert figures(answers, 1)["pass_at_1"] is None


def test_rates_are_apart_from_accuracy() -> None:
    second = [replace(one, problem_id="q2", task="gcd") for one in (RIGHT, TIMEOUT, WRONG, WRONG)]
    found = figures([RIGHT, CUT, GARBLED, ERROR, *second], 4)
    assert found["pass_at_1"] == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert (found["questions"], found["answers"]) == (2, 8)
    assert found["mean_tokens"] == pytest.approx(90 / 7)
    assert found["truncated_share"] == pytest.approx(1 / 7)
    assert found["no_answer_share"] == pytest.approx(1 / 7)
    assert found["unparseable_share"] == pytest.approx(1 / 7)
    assert found["undecided_share"] == pytest.approx(1 / 7)
    assert found["error_share"] == pytest.approx(1 / 8)
    assert {task: row["questions"] for task, row in found["tasks"].items()} == {"gcd": 1, "sum": 1}


def test_more_samples_of_the_same_kind_leave_pass_at_1_as_it_is() -> None:
    assert figures([RIGHT, WRONG], 2)["pass_at_1"] == figures([RIGHT, WRONG] * 8, 16)["pass_at_1"] == 0.5


def test_whichever_answer_is_judged_first_the_earliest_sample_breaks_a_tie() -> None:
    first, second = replace(WRONG, sample=0, vote="3"), replace(RIGHT, sample=1, vote="4")
    assert [figures(order, 2)["cons_at_k"] for order in ([first, second], [second, first])] == [{"2": 0.0}] * 2


def test_consensus_and_pass_at_k_are_over_questions_with_all_their_answers() -> None:
    first = [RIGHT, WRONG, RIGHT]
    second = [replace(one, problem_id="q2") for one in (RIGHT, WRONG, WRONG)]
    third = [replace(one, problem_id="q3") for one in (CUT, CUT, CUT)]
    fourth = [replace(one, problem_id="q4") for one in (RIGHT, RIGHT, TIMEOUT)]
    found = figures([*first, *second, *third, *fourth], 3)
    assert found["cons_at_k"] == {"3": pytest.approx(1 / 3)}
    assert found["pass_at_k"] == {"3": pytest.approx(2 / 3)}
    assert found["questions_at_k"] == 3
    assert "cons_at_k" not in figures([RIGHT], 1)


def test_the_better_prompt_is_the_one_with_more_right_and_the_first_of_equals() -> None:
    one, other = figures([WRONG], 1), figures([RIGHT], 1)
    assert better({"a": one, "b": other}) == "b"
    assert better({"a": one, "b": one}) == "a"
    assert better({"a": figures([], 1), "b": one}) == "a"


def test_models_are_compared_on_the_questions_they_share() -> None:
    def many(pattern: str) -> list[Answer]:
        kinds = {"1": RIGHT, "0": WRONG, "?": TIMEOUT}
        return [replace(kinds[sign], problem_id=f"q{number}") for number, sign in enumerate(pattern)]

    found = compare(teacher=many("11111100??"), base=many("10000000?1"), student=many("11110000?1"))
    assert found["paired"]["student_minus_base"]["questions"] == 9
    assert found["paired"]["student_minus_base"]["difference"] == pytest.approx(3 / 9)
    assert found["gap_recovered"]["questions"] == 8
    assert found["gap_recovered"]["value"] == pytest.approx(3 / 5)


def named(expected: str, said: str | None, **changes: object) -> Answer:
    return replace(RIGHT if said == expected else WRONG, expected=expected, said=said, **changes)


def test_each_class_has_precision_recall_and_f1() -> None:
    pairs = [("good", "good")] * 3 + [("good", "bad")] + [("bad", "bad")] * 2 + [("bad", "good"), ("bad", None)]
    found = figures([named(*pair) for pair in pairs], 1)
    assert found["classes"] == {
        "bad": {"answers": 4, "precision": 2 / 3, "recall": 2 / 4, "f1": pytest.approx(2 * 2 / (4 + 3))},
        "good": {"answers": 4, "precision": 3 / 4, "recall": 3 / 4, "f1": pytest.approx(3 / 4)},
    }
    assert found["macro_f1"] == pytest.approx((4 / 7 + 3 / 4) / 2)
    precision, recall = found["classes"]["bad"]["precision"], found["classes"]["bad"]["recall"]
    assert found["classes"]["bad"]["f1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_a_class_that_nobody_names_or_asks_for_has_nothing_to_divide_by() -> None:
    found = figures([named("good", None), named("good", "rare")], 1)
    assert found["classes"]["good"] == {"answers": 2, "precision": None, "recall": 0.0, "f1": 0.0}
    assert found["classes"]["rare"] == {"answers": 0, "precision": 0.0, "recall": None, "f1": 0.0}
    assert found["macro_f1"] == 0.0  # of the classes that are asked for
    assert class_line(found["classes"]["good"]) == "precision -, recall 0.000, F1 0.000"


def test_a_failure_of_the_judge_counts_for_no_class_and_other_answers_have_none() -> None:
    timeout = replace(TIMEOUT, expected="good")
    assert figures([named("good", "good"), timeout], 1)["classes"]["good"]["answers"] == 1
    assert "classes" not in figures([RIGHT, WRONG], 1)
