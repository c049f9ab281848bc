"""What is read from a teacher's rewriting, what speaks against it, and which answer several attempts agree on."""

import json
from collections import Counter
from typing import Any

import pytest

from pipeline.augment import Paraphrase
from pipeline.section import declared
from pipeline.sources.candidate import Candidate
from pipeline.variants import flaw, quantities, rewritten

TALE = "Ann has 12 apples and eats 3. How many are left?"


def parent(text: str = TALE, answer: str = "9", **values: Any) -> Candidate:
    made: dict[str, Any] = dict.fromkeys(("domain", "task", "source", "license", "place"), "")
    made |= {"verifier": "math", "verifier_data": "{}", "split": "train"}
    return Candidate(text=text, answer=answer, **(made | values))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("<problem>Add 2 and 3.</problem>", "Add 2 and 3."),
        ("Sure!\n<problem>\nAdd 2\n\nand 3.\n</problem>\nHope it helps.", "Add 2\n\nand 3."),
        ("I write it between <problem> and </problem>: <Problem>Add 2 and 3.</PROBLEM>", "Add 2 and 3."),
        ('<problem>"Add 2 and 3."</problem>', "Add 2 and 3."),
        ("<problem>**Add 2 and 3.**</problem>", "Add 2 and 3."),
        ('<problem>"Two" and "three"</problem>', '"Two" and "three"'),
        ("<problem>Add 2 and 3.", "Add 2 and 3."),  # a stop string ended it
        ("<think>a <problem>draft</problem></think><problem>Add 2 and 3.</problem>", "Add 2 and 3."),
        ("a <problem>draft</problem></think><problem>Add 2 and 3.</problem>", "Add 2 and 3."),
        ("<think>a <problem>draft</problem>", None),
        ("<think>a <problem>draft</problem></think>Add 2 and 3.", None),
        ("Add 2 and 3.", None),
        ("<problem> \n </problem>", None),
        ('<problem>""</problem>', None),
        ("", None),
    ],
)
def test_a_rewriting_is_what_stands_between_the_last_tags(raw: str, text: str | None) -> None:
    assert rewritten(raw) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Of her 12 apples Ann ate 3. What number of apples remains?", None),
        ("After 3 of 12 apples were eaten, how many are there?", None),
        ("Ann has twelve apples and eats three. How many remain?", None),
        ("ann has 12 apples, and eats 3; how many are left", "same_text"),
        ("  ANN has 12 apples and eats 3.\nHow many are left!?", "same_text"),
        ("Ann has 12 apples and eats 3. Why are 9 left?", "answer_leaked"),
        ("Ann has 12 apples and eats 3. How many are left? \\boxed{9}", "answer_leaked"),
        ("Ann has 12 apples and eats 4. How many are left?", "numbers_changed"),
        ("Ann has a dozen apples and eats 3. How many are left?", "numbers_changed"),
        ("Ann has 12 apples, eats 3, then eats three. How many remain?", "numbers_changed"),
        ("Ann has 12 apples and eats -3. How many remain?", "numbers_changed"),
    ],
)
def test_a_rewriting_that_keeps_the_answer_keeps_the_numbers_and_hides_the_answer(
    text: str, reason: str | None
) -> None:
    found = flaw(parent(), text, keeps_answer=True)
    assert (found and found[0]) == reason


def test_what_changed_is_said() -> None:
    found = flaw(parent(), "Ann has 12 apples and eats 4. How many are left?", keeps_answer=True)
    assert found == ("numbers_changed", "lost: 3; new: 4")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Ann has 12 apples, eats 3 and gives half of the rest away. How many are left?", None),
        ("Ann has 9 apples and eats 4. How many are left?", None),
        ("Ann has 12 apples and eats 3. How many are left", "same_text"),
        ("Ann has 24 apples and eats 3. How many are left? \\boxed{21}", "answer_leaked"),
    ],
)
def test_a_harder_problem_may_change_numbers_but_not_repeat_its_parent(text: str, reason: str | None) -> None:
    found = flaw(parent(), text, keeps_answer=False)
    assert (found and found[0]) == reason


def test_another_share_is_another_problem() -> None:
    half = parent("Of 12 girls a third and of 8 boys half are here. How many children are here?", "7")
    assert flaw(half, "Half of 8 boys and a third of 12 girls are here. How many are that?", keeps_answer=True) is None
    found = flaw(half, "A quarter of 12 girls and half of 8 boys are here. How many?", keeps_answer=True)
    assert found == ("numbers_changed", "lost: third; new: quarter")


def test_an_answer_that_the_parent_says_as_often_is_no_leak() -> None:
    told = parent("A box of 8 apples is full. How many apples does it hold?", "8")
    assert flaw(told, "How many apples are in a full box of 8 apples?", keeps_answer=True) is None
    assert flaw(parent("Which is first?", "B"), "What comes first, be it a or b?", keeps_answer=True) is None
    said = flaw(parent("Which city is the capital?", "Paris"), "Is Paris the capital?", keeps_answer=True)
    assert said == ("answer_leaked", "it says 'Paris'")


def test_options_stay_in_their_order() -> None:
    question = "Which is a bird? A) cat B) owl C) dog"
    data = json.dumps({"choices": ["cat", "owl", "dog"]})
    row = parent(question, "B", verifier="choice", verifier_data=data)
    assert flaw(row, "Name the bird. A) Cat B) Owl C) Dog", keeps_answer=True) is None
    for text in ("Name the bird. A) owl B) cat C) dog", "Name the bird."):
        assert flaw(row, text, keeps_answer=True) == ("choices_changed", "expected, in this order: cat, owl, dog")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,000 and 1000", {"1000": 2}),
        ("two of 2", {"2": 2}),
        ("Which one is it?", {}),
        ("from -3 to 4 - 3", {"-3": 1, "4": 1, "3": 1}),
        ("\\frac{1}{2} of 0.5", {"1": 1, "2": 1, "0.5": 1}),
        ("twice a third, double the half of 2 halves", {"twice": 2, "third": 1, "half": 2, "2": 1}),
    ],
)
def test_numbers_count_in_digits_and_words(text: str, found: dict[str, int]) -> None:
    assert quantities(text) == Counter(found)


def test_numbers_may_change_where_the_answer_does_not_hang_on_them() -> None:
    text = "Ben has 5 pears and eats 2. How many are left?"
    assert flaw(parent(), text, keeps_answer=True) is not None
    assert flaw(parent(), text, keeps_answer=True, keeps_numbers=False) is None
    leaked = flaw(parent(), "Ben had 9 pears.", keeps_answer=True, keeps_numbers=False)
    assert leaked is not None
    assert leaked[0] == "answer_leaked"
    wish = Paraphrase(kind="paraphrase", keeps_numbers=False)
    assert (wish.numbers_stay, Paraphrase(kind="paraphrase").numbers_stay) == (False, True)
    assert "keeps_numbers" not in declared(Paraphrase(kind="paraphrase"))
