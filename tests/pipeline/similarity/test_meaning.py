"""Texts that say the same by their vectors, and never with other numbers."""

import itertools
from typing import Any

import numpy as np
import pytest

from pipeline.similarity.meaning import numbers_of, same_meaning


def unit(*degrees: float) -> Any:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_a_text_repeats_the_kept_one_most_like_it() -> None:
    found = same_meaning(unit(0, 40, 25, 5), ["k"] * 4, threshold=float(np.cos(np.radians(20))))
    assert found == {2: (1, 0.9659), 3: (0, 0.9962)}


def test_a_chain_of_small_steps_does_not_swallow_its_far_end() -> None:
    assert same_meaning(unit(0, 10, 20, 30), ["k"] * 4, 0.98) == {1: (0, 0.9848), 3: (2, 0.9848)}


def test_texts_with_other_keys_are_not_compared_and_those_that_stand_repeat_nothing() -> None:
    vectors = unit(0, 0, 0)
    assert same_meaning(vectors, ["a", "b", "a"], 0.9) == {2: (0, 1.0)}
    assert same_meaning(vectors, ["a"] * 3, 0.9, standing=2) == {2: (0, 1.0)}
    assert same_meaning(vectors, ["a"] * 3, 0.9, may_repeat=lambda better, other: better == 1) == {2: (1, 1.0)}
    assert same_meaning(vectors[:0], [], 0.9) == {}


def test_what_is_found_depends_on_the_ranks_alone() -> None:
    vectors, ranks = unit(0, 8, 9, 50, 57), [3, 0, 4, 1, 2]
    wanted = None
    for order in itertools.permutations(range(5)):
        ranked = sorted(order, key=lambda row: ranks[row])
        found = same_meaning(vectors[ranked], ["k"] * 5, 0.98)
        named = {ranked[at]: ranked[kept] for at, (kept, _) in found.items()}
        wanted = wanted or named
        assert named == wanted == {0: 1, 2: 1, 4: 3}


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("Add 3 to 4.", "Three and 4 more are put together.", True),
        ("3 apples and 4 pears", "4 apples and 3 pears", False),
        ("What is 12 + 30?", "How much do 12 and 31 make?", False),
        ("Which town is larger?", "Of both towns, name the larger.", True),
        ("Half of 10", "0.5 times 10", True),
        ("It is 7.", "It is 7, I say 7.", False),
    ],
)
def test_numbers_are_significant(one: str, other: str, equal: bool) -> None:
    assert (numbers_of(one) == numbers_of(other)) == equal
