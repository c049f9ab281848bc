import pytest

from pipeline.text import boxed, cut, final_answer, fold, squeeze, words


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{a} {b}}", r"\text{a} {b}"),
        (r"cut off \boxed{4", None),
        (r"first \boxed{3}, then cut \boxed{4", "3"),
        ("Answer: 7", "7"),
        ("The final answer is: **7**.", "7"),
        ("the answer is $x = 5$.", "x = 5"),
        ("answer: 3\nanswer: -4.5", "-4.5"),
        ("Answer:", None),
        (r"\boxed{}", None),
        ("nothing here", None),
        ("", None),
    ],
)
def test_the_final_answer_is_the_last_box_or_the_last_answer_line(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_a_box_knows_where_its_content_stands() -> None:
    text = r"x \boxed{12} y"
    assert boxed(text) == (9, 11)
    assert text[9:11] == "12"


def test_numbers_and_signs_are_words_and_case_is_folded() -> None:
    assert words("What is 1,234 + 5.5?") == ["what", "is", "1,234", "+", "5.5", "?"]
    assert words("ABC 12") == words("abc 12") != words("abc 21")


def test_normal_forms_keep_what_matters() -> None:
    assert squeeze(" A\n\tb ") == "A b"
    assert fold("\uff21 B") == "a b"


@pytest.mark.parametrize("text", ["", " " * 500, " " * 500 + "out of memory", "word " * 200, "x" * 500, "short"])
def test_a_text_cut_for_a_message_is_a_beginning_of_it_and_no_longer_than_allowed(text: str) -> None:
    found = cut(text, 40)
    assert len(found) <= 40
    assert text.strip().startswith(found.removesuffix("…"))
    assert found or not text.strip()
