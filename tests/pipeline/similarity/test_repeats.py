"""Repeats: the true Jaccard decides, numbers are kept apart, the best survives, and no cost in the square of copies."""

import random

import pytest

from pipeline.similarity.minhash import Shingling
from pipeline.similarity.repeats import Finder, Repeat, repeats
from tests.pipeline.similarity.corpus import edited_pairs, jaccard


def found(texts: list[str], threshold: float = 0.8) -> dict[int, Repeat]:
    return repeats(texts, Shingling(threshold))


@pytest.mark.parametrize("threshold", [0.75, 0.8])
def test_pairs_are_those_with_the_true_jaccard(threshold: float) -> None:
    texts = edited_pairs(400)
    wanted = {
        at + 1: Repeat(at, jaccard(texts[at], texts[at + 1]), False)
        for at in range(0, len(texts), 2)
        if jaccard(texts[at], texts[at + 1]) >= threshold
    }
    assert 100 < len(wanted) < 390  # pairs on both sides of the threshold
    assert found(texts, threshold) == wanted


def test_characters_are_compared_where_they_are_asked_for() -> None:
    one = "我们先把第一个篮子里的苹果加到第二个篮子里的苹果上然后数一数一共有多少个苹果放在桌子上面"
    other = one.replace("先", "就")
    shingling = Shingling(0.7, 4, "character")
    sets = [{text[at : at + 4] for at in range(len(text) - 3)} for text in (one, other)]
    assert repeats([one, other], shingling) == {1: Repeat(0, len(sets[0] & sets[1]) / len(sets[0] | sets[1]), False)}
    assert found([one, other], 0.7) == {}  # a single word each


SENTENCE = "we add the apples of the first basket to the apples of the second basket and count {} of them in all. "
STORY = (
    "A farmer keeps 12 hens and 7 geese behind the old barn at the end of the lane.\nEvery hen lays 5 eggs a week and "
    "every goose lays 2 of them.\nOn Monday he sells 30 eggs at the market in the small town beside the river.\nHis "
    "daughter takes another 8 eggs to the baker who lives across the wooden bridge.\nAll other eggs are kept in a cool "
    "room until the weekend, when more people come to buy them.\nSo the eggs that are left make 60 + 14 - 38 = 36.\n"
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SENTENCE.format(12) * 9, SENTENCE.format(12) * 8 + SENTENCE.format(13)),
        (SENTENCE.format("x = 3") * 9, SENTENCE.format("x = 3") * 8 + SENTENCE.format("x = -3")),
        (STORY, STORY.replace("7 geese", "9 geese")),
        (STORY, STORY.replace("12 hens and 7 geese", "7 hens and 12 geese")),
        (STORY, STORY.replace("5 eggs", "2 eggs").replace("lays 2 of", "lays 5 of")),
        (STORY, STORY.replace("60 + 14 - 38", "60 - 14 + 38")),
        (STORY, STORY.replace("another 8 eggs", "another eggs")),
        (STORY, STORY.replace("another 8 eggs", "another eight eggs").replace("30 eggs", "31 eggs")),
        (STORY.replace("8 eggs", "eight eggs"), STORY.replace("8 eggs", "nine eggs")),
        (STORY, STORY.replace("7 geese", "9 geese").replace("barn", "house")),
        ("4 + 5", "5 + 4"),
        ("short one", "short two"),
        ("", "x"),
    ],
)
def test_texts_with_other_numbers_or_other_few_words_are_no_repeats(one: str, other: str) -> None:
    assert found([one, other], threshold=0.1) == {}
    assert found([other, one], threshold=0.1) == {}


LINES = STORY.splitlines(keepends=True)


@pytest.mark.parametrize(
    "other",
    [
        STORY.replace("barn", "house"),
        STORY.replace("30 eggs", "thirty eggs"),
        STORY + "So the answer is 36.\n",
        STORY.replace(LINES[3], ""),
        "".join([LINES[1], LINES[0], *LINES[2:]]),
        "".join([*LINES[:3], LINES[4], LINES[3], LINES[5]]),
        STORY.replace("-", "−"),
        "Let us look at this with care, step by step.\n" + STORY,
    ],
)
def test_a_copy_with_a_sentence_more_or_less_or_moved_or_some_other_words_is_a_repeat(other: str) -> None:
    assert jaccard(STORY, other) >= 0.6
    assert set(found([STORY, other], threshold=0.6)) == {1}
    assert set(found([other, STORY], threshold=0.6)) == {1}


def test_where_numbers_are_to_be_the_same_none_may_be_left_out() -> None:
    texts = [STORY, STORY + "So the answer is 36.\n"]
    assert set(repeats(texts, Shingling(0.6))) == {1}
    assert repeats(texts, Shingling(0.6), same_numbers=True) == {}


def test_numbers_part_near_texts_into_groups() -> None:
    base, near = edited_pairs(1)[:2]
    texts = [f"{text} so {number} apples" for number in (1, 2) for text in (base, near)]
    assert {place: repeat.of for place, repeat in found(texts).items()} == {1: 0, 3: 2}


@pytest.mark.parametrize(("one", "other"), [("Short ONE", "short  one"), ("", " \n"), ("4 + 5", "4+5")])
def test_texts_shorter_than_a_shingle_repeat_their_equals(one: str, other: str) -> None:
    assert found([one, other]) == {1: Repeat(0, 1.0, True)}


def test_equal_texts_cost_one_comparison_each_and_name_one_that_is_kept() -> None:
    base, near = edited_pairs(1)
    result = found([near, base, *[base] * 500], threshold=0.5)
    value = jaccard(base, near)
    assert result == {1: Repeat(0, value, False)} | {place: Repeat(0, value, True) for place in range(2, 502)}


class Counted:
    """Hands out texts and counts how often."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.asked = texts, 0

    def __call__(self, place: int) -> str:
        self.asked += 1
        return self.texts[place]


def test_near_equal_texts_are_compared_with_the_kept_one_alone() -> None:
    base = edited_pairs(1, 400)[0].split()
    texts = [" ".join([*base[:at], "changed", *base[at + 1 :]]) for at in range(400)]
    counted = Counted(texts)
    finder = Finder(Shingling(), Shingling().sign(texts))
    assert set(finder.find(counted)) == set(range(1, 400))
    assert counted.asked <= 3 * len(texts)  # shingles and numbers of each, once


def test_problems_of_one_template_are_not_compared_with_each_other() -> None:
    text = " ".join(edited_pairs(1, 200)[0].split())
    texts = [f"{text} with {number} and {number + 1}" for number in range(300)]
    counted = Counted(texts)
    assert Finder(Shingling(), Shingling().sign(texts)).find(counted) == {}
    assert counted.asked == 0


def test_what_is_kept_does_not_depend_on_chance_but_on_the_rank() -> None:
    base, near = edited_pairs(1)
    assert set(found([base, near])) == set(found([near, base])) == {1}


def test_a_chain_of_small_steps_does_not_swallow_its_far_end() -> None:
    base = edited_pairs(1)[0].split()
    steps = [" ".join(["other"] * (4 * step) + base[4 * step :]) for step in range(6)]
    result = found(steps, 0.85)
    assert {repeat.of for repeat in result.values()} & set(result) == set()
    assert all(jaccard(steps[place], steps[repeat.of]) == repeat.jaccard >= 0.85 for place, repeat in result.items())
    assert 0 < len(result) < 5


def test_texts_of_different_groups_are_not_compared() -> None:
    base, near = edited_pairs(1)
    texts = [base, base, near, near]
    assert set(repeats(texts, Shingling(0.7), groups=[0, 1, 0, 1])) == {2, 3}
    assert repeats(texts, Shingling(0.7), groups=[0, 1, 2, 3]) == {}


def test_what_stands_is_kept_and_what_may_not_repeat_does_not() -> None:
    base, near = edited_pairs(1)
    texts = [base, base, near, near, base]
    assert set(repeats(texts, Shingling(0.7), standing=3)) == {3, 4}
    answers = "aabbc"
    other = repeats(texts, Shingling(0.7), may_repeat=lambda one, other: answers[one] == answers[other])
    assert {place: repeat.of for place, repeat in other.items()} == {1: 0, 3: 2}


def test_pairs_are_found_in_any_order() -> None:
    texts = edited_pairs(60)
    order = list(range(len(texts)))
    random.Random(2).shuffle(order)
    shuffled = repeats([texts[at] for at in order], Shingling())
    straight = found(texts)

    def groups(result: dict[int, Repeat], names: list[int]) -> set[frozenset[str]]:
        return {frozenset((texts[names[place]], texts[names[repeat.of]])) for place, repeat in result.items()}

    assert groups(straight, list(range(len(texts)))) == groups(shuffled, order)
