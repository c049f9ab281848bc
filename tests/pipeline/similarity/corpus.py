"""Texts with near copies for the tests of similarity, and the plain definition of what they are compared by."""

import random

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


def jaccard(one: str, other: str, size: int = 5) -> float:
    """The Jaccard index of the sets of word shingles, as it is defined."""
    sets = []
    for text in (one, other):
        found = words(text)
        sets.append({tuple(found[at : at + size]) for at in range(max(1, len(found) - size + 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])
