import pytest

from pipeline.text import answer_span, boxed, final_answer, fold, words

ANSWERS = [
    (r"So \boxed{5}.", "5"),
    (r"\boxed{x = 5}", "x = 5"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed {7}", "7"),
    (r"First \boxed{3}, then \boxed{4}.", "4"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"\boxed{12 and then \boxed{5}", "5"),
    (r"\boxed{\left\{ 1, 2 \right.}", r"\left\{ 1, 2 \right."),
    (r"\\boxed{5}", "5"),
    (r"a \\\boxed{5}", "5"),
    (r"I will put it in \boxed{}. The answer is 5.", "5"),
    (r"The answer is 5 \boxed{}", "5"),
    (r"\boxed{$5$}", "5"),
    (r"\boxed{}", None),
    (r"\boxed{5", None),
    (r"\boxed{\$5}", r"\$5"),
    ("Answer: 12", "12"),
    ("**Answer:** 12", "12"),
    ("**Answer**: 12", "12"),
    ("**Final Answer:**\n\n12", "12"),
    ("The answer is: $5$.", "5"),
    (r"The answer is \(5\).", "5"),
    ("The answer is $5$ and $6$.", "$5$ and $6$"),
    ("The final answer is:\n\\[\n5\n\\]", "5"),
    ("The final answer is:\n$$\n5\n$$", "5"),
    (r"The answer is \[5\]", "5"),
    ("The answer is **5**.", "5"),
    ("The answer is 3.14.", "3.14"),
    ("The answer is 5 apples. I hope this helps.", "5 apples"),
    ("The answer is 42. I hope it is right.", "42"),
    ("The answer is Dr. Smith.", "Dr. Smith"),
    ("The answers are 3 and 5.", "3 and 5"),
    ("The final answer to this question is 9.", "9"),
    ("The answer is not obvious.\nAnswer: 4\nDone.", "4"),
    ("Answer: 4\nBut the answer is not certain.", "4"),
    ("The result is 12. Then the answer is 15.", "15"),
    ("The answer is 15. The result: verified", "15"),
    ("The result is 12.", "12"),
    ("<answer> 5 </answer>", "5"),
    ("Answer: 3 <answer>5</answer>", "5"),
    ("Answer: 3\nAnswer:", "3"),
    ("Answer: -7", "-7"),
    ("Answer: 1,234", "1,234"),
    ("It was unanswered: no", None),
    ("There is none here.", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "answer"), ANSWERS)
def test_the_final_answer_is_found_as_it_was_written(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer
    span = answer_span(text)
    assert (None if span is None else text[span[0] : span[1]]) == answer


def test_boxes_are_found_in_one_pass_however_deep() -> None:
    depth = 50_000
    assert boxed("\\boxed{" * depth + "5" + "}" * depth) == (7 * depth, 7 * depth + 1)


def test_raised_digits_and_fractions_are_not_the_plain_ones() -> None:
    assert fold("10²") != fold("102")
    assert fold("H₂O") != fold("H2O")
    assert fold("2½") != fold("21\u20442")
    assert fold("10²³") == "10^23"
    assert words("10²") == ["10", "^", "2"]


def test_folding_joins_what_looks_the_same() -> None:
    assert fold(" \uff21bc\u00a0 D\n") == "abc d"
