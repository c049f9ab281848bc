import random
import re

import pytest

from pipeline.text import _trimmed, answer_span, boxed, final_answer, fold, words

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
    ("<answer>5</answer> and <answer> again", "5"),
    ("<ANSWER>5</Answer>", "5"),
    ("<answer>5", None),
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


@pytest.mark.parametrize("run", [".", "*", " ", ". ", "\\)", "\\boxed{}", "\\] ."])
def test_what_follows_an_answer_is_dropped_in_one_pass_however_long(run: str) -> None:
    assert final_answer("The answer is 5" + run * (1_000_000 // len(run))) == "5"
    assert final_answer("The answer is " + "*" * 1_000_000) is None


def test_tags_that_never_close_are_looked_at_once() -> None:
    assert final_answer("<answer>" * 200_000) is None
    assert final_answer("<answer>5</answer>" + "<answer>" * 200_000) == "5"


def trimmed_step_by_step(text: str, start: int, end: int) -> tuple[int, int] | None:
    """What `_trimmed` does, plainly: one character or pair a step, each step on a copy of what is left."""
    while start < end:
        part = text[start:end]
        head, tail = 0, 0
        full_stop = part[-1] == "." and len(part) > 1 and not part.endswith("\\right.")
        if part[0].isspace() or part[0] in "*`":
            head = 1
        elif part[-1].isspace() or part[-1] in "*`" or full_stop:
            tail = 1
        elif part.endswith("\\boxed{}"):
            tail = len("\\boxed{}")
        elif "$" in (part[0], part[-1]):
            inner = part.strip("$")
            whole = re.search(r"(?<!\\)\$", inner) is None and not inner.endswith("\\")
            head, tail = (len(part) - len(part.lstrip("$")), len(part) - len(part.rstrip("$"))) if whole else (0, 0)
        else:
            for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
                if part.endswith(closing) and part.count(opening) <= 1:
                    head = len(opening) if part.startswith(opening) else 0
                    tail = len(closing) if head or opening not in part else 0
        if not head and not tail:
            return start, end
        start, end = start + head, end - tail
    return None


def test_trimming_many_at_once_is_trimming_one_by_one() -> None:
    draw = random.Random(0)
    pieces = [" ", "\n", "*", "`", ".", "$", "\\", "\\(", "\\)", "\\[", "\\]", "\\boxed{}", "\\right.", "(", ")", "5"]
    different = set()
    for _ in range(50_000):
        text = "".join(draw.choices(pieces, k=draw.randrange(12)))
        start, end = sorted(draw.choices(range(len(text) + 1), k=2))
        expected = trimmed_step_by_step(text, start, end)
        assert _trimmed(text, start, end) == expected, (text, start, end)
        different.add(None if expected is None else (expected[0] - start, end - expected[1]))
    assert len(different) > 60


def test_raised_digits_and_fractions_are_not_the_plain_ones() -> None:
    assert fold("10²") != fold("102")
    assert fold("H₂O") != fold("H2O")
    assert fold("2½") != fold("21\u20442")
    assert fold("10²³") == "10^23"
    assert words("10²") == ["10", "^", "2"]


def test_folding_joins_what_looks_the_same() -> None:
    assert fold(" \uff21bc\u00a0 D\n") == "abc d"
