"""Near-duplicates: recall at the threshold, no false pair, numbers kept apart, and no cost in the square of copies."""

import random
import subprocess
import sys

import pytest

from pipeline.similarity.minhash import banding, near_duplicates
from pipeline.text import words

VOCABULARY = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "prstvwxz"]


def edited_pairs(count: int, length: int = 120) -> list[str]:
    """Texts two by two, the second with a few words changed."""
    rng = random.Random(11)
    texts = []
    for _ in range(count):
        base = [rng.choice(VOCABULARY) for _ in range(length)]
        other = list(base)
        for place in rng.sample(range(length), rng.choice([1, 2, 3, 4])):
            other[place] = "changed"
        texts += [" ".join(base), " ".join(other)]
    return texts


def clusters(pairs: list[tuple[int, int, float]], count: int) -> list[int]:
    """A label for each of `count` texts, equal for those that pairs link."""
    labels = list(range(count))
    for left, right, _ in pairs:
        old, new = labels[right], labels[left]
        labels = [new if label == old else label for label in labels]
    return labels


def jaccard(one: str, other: str, size: int = 5) -> float:
    sets = []
    for text in (one, other):
        found = words(text)
        sets.append({tuple(found[at : at + size]) for at in range(max(1, len(found) - size + 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_pairs_are_those_with_the_true_jaccard() -> None:
    texts = edited_pairs(400)
    wanted = {
        (at, at + 1): jaccard(texts[at], texts[at + 1])
        for at in range(0, len(texts), 2)
        if jaccard(texts[at], texts[at + 1]) >= 0.8
    }
    assert 100 < len(wanted) < 350  # pairs on both sides of the threshold
    assert {(left, right): value for left, right, value in near_duplicates(texts)} == wanted


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75, 0.8, 0.9, 0.97])
def test_banding_loses_at_most_one_pair_in_a_thousand_at_the_threshold(threshold: float) -> None:
    bands, rows = banding(threshold)
    assert (1 - threshold**rows) ** bands <= 0.001


SENTENCE = "we add the apples of the first basket to the apples of the second basket and count {} of them in all"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SENTENCE.format(12) * 9, SENTENCE.format(12) * 8 + SENTENCE.format(13)),
        (SENTENCE.format("x = 3") * 9, SENTENCE.format("x = 3") * 8 + SENTENCE.format("x = -3")),
        ("4 + 5", "5 + 4"),
        ("short one", "short two"),
        ("", "x"),
    ],
)
def test_texts_with_other_numbers_or_other_few_words_never_pair(one: str, other: str) -> None:
    assert near_duplicates([one, other], threshold=0.1) == []


def test_numbers_part_near_texts_into_groups() -> None:
    base, near = edited_pairs(1)[:2]
    texts = [f"{text} so {number} apples" for number in (1, 2) for text in (base, near)]
    assert [(left, right) for left, right, _ in near_duplicates(texts)] == [(0, 1), (2, 3)]


@pytest.mark.parametrize(("one", "other"), [("Short ONE", "short  one"), ("", " \n"), ("4 + 5", "4+5")])
def test_texts_shorter_than_a_shingle_pair_with_their_equals(one: str, other: str) -> None:
    assert near_duplicates([one, other]) == [(0, 1, 1.0)]


def test_equal_texts_cost_one_pair_each() -> None:
    base, near = edited_pairs(1)
    texts = [base, near, *[base] * 500]
    pairs = near_duplicates(texts, threshold=0.5)
    near_value = jaccard(base, near)
    assert len(pairs) == 1 + 500 + 500
    assert {(0, 1, near_value), (1, 501, near_value), (0, 501, 1.0)} <= set(pairs)
    assert len(set(clusters(pairs, len(texts)))) == 1


def test_the_order_of_texts_changes_no_cluster() -> None:
    texts = [*edited_pairs(60), *edited_pairs(10)[:10]]
    order = list(range(len(texts)))
    random.Random(2).shuffle(order)
    shuffled = near_duplicates([texts[at] for at in order])

    def groups(labels: list[int], names: list[int]) -> set[frozenset[int]]:
        return {frozenset(name for name, own in zip(names, labels, strict=True) if own == label) for label in labels}

    straight = clusters(near_duplicates(texts), len(texts))
    assert groups(straight, list(range(len(texts)))) == groups(clusters(shuffled, len(texts)), order)


def test_two_processes_find_the_same_pairs() -> None:
    code = (
        "from tests.pipeline.similarity.test_minhash import edited_pairs\n"
        "from pipeline.similarity.minhash import near_duplicates\n"
        "print(near_duplicates(edited_pairs(40), 0.7))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(near_duplicates(edited_pairs(40), 0.7))


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"threshold": 1.1}, {"shingle_words": 0}])
def test_values_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 < threshold"):
        near_duplicates(["a"], **wrong)  # type: ignore[arg-type]
