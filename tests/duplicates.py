"""Made-up traces as long as reasoning is, and copies of them that were edited in ways that a copy is, or is not.

What a copy should count as is decided by the plain definition of the Jaccard index, not here.
"""

import random
import re
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise

import numpy as np

LETTERS = "etaoinshrdlucmfwypvbgk"
WORDS = 20_000
STEP_WORDS = 14  # of a sentence, on average
FORMULA_SHARE = 0.5  # of the sentences end in a formula
BOILERPLATE = (
    "Let me think about this problem step by step and check every step before I go on to the next one.\n"
    "First I will restate what is given, then I will say what is asked, and then I will work out the answer.\n"
    "If anything is unclear I will write down the assumption that I make and come back to it at the end.\n"
)


class Writer:
    """Draws sentences: words by Zipf's law, and sums of numbers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._draw = np.random.default_rng(seed)
        names = ["".join(self.random.choices(LETTERS, k=self.random.randint(2, 9))) for _ in range(WORDS)]
        self._names = np.array(names, dtype=object)
        weights = np.array(list(accumulate(1 / (rank + 2.7) for rank in range(WORDS))))
        self._shares = weights / weights[-1]

    def words(self, count: int) -> list[str]:
        """So many words."""
        found: list[str] = self._names[np.searchsorted(self._shares, self._draw.random(count))].tolist()
        return found

    def length(self, mean_words: int) -> int:
        """Log-normal, as lengths of reasoning are."""
        return max(24, round(mean_words * self.random.lognormvariate(-0.125, 0.5)))

    def sentences(self, words: int) -> list[str]:
        """Sentences of so many words in all; every other one ends in a sum."""
        drawn, made, at = self.words(words), [], 0
        draw = self._draw.random((words // 4 + 2, 4))
        for row in draw:
            size = 6 + int(row[0] * 2 * (STEP_WORDS - 6))
            part = drawn[at : at + size]
            at += size
            if row[1] < FORMULA_SHARE:
                one, two = int(row[2] * 997) + 2, int(row[3] * 997) + 2
                part.append(f"so {one} + {two} = {one + two}")
            made.append(" ".join(part).capitalize() + ("." if row[2] < 0.7 else ".\n"))
            if at >= words:
                break
        return made

    def traces(self, count: int, mean_words: int, copied_share: float = 0.1) -> Iterator[str]:
        """Traces of which a share are copies of the one before, with few words changed, or none."""
        last: list[str] = []
        for _ in range(count):
            if last and self.random.random() < copied_share:
                yield " ".join(changed_words(self, last) if self.random.random() < 0.7 else last)
                last = []
            else:
                last = self.sentences(self.length(mean_words))
                yield " ".join(last)


Edit = Callable[[Writer, list[str]], list[str]]


def changed_words(writer: Writer, sentences: list[str]) -> list[str]:
    """Some words replaced, left out or put in, at a rate that keeps the Jaccard index between .65 and 1."""
    rate = writer.random.uniform(0.0, 0.04)
    new = writer.words(1 + sum(map(len, sentences)) // 10)
    edited = []
    for sentence in sentences:
        words = []
        for word in sentence.split(" "):
            kind = writer.random.random() / rate if rate and word.isalpha() else 9
            if kind >= 2 / 3:
                words.append(word if kind >= 1 else writer.random.choice(new))
            elif kind >= 1 / 3:
                words += [word, writer.random.choice(new)]
        edited.append(" ".join(words))
    return edited


def moved_sentences(writer: Writer, sentences: list[str]) -> list[str]:
    """A block of sentences in another place."""
    size = writer.random.randint(1, max(1, len(sentences) // 4))
    start = writer.random.randrange(max(1, len(sentences) - size))
    block, rest = sentences[start : start + size], sentences[:start] + sentences[start + size :]
    place = writer.random.randrange(len(rest) + 1)
    return rest[:place] + block + rest[place:]


def dropped_sentences(writer: Writer, sentences: list[str]) -> list[str]:
    """Up to a fifth of the sentences left out, with their numbers."""
    left_out = set(writer.random.sample(range(len(sentences)), writer.random.randint(1, max(1, len(sentences) // 5))))
    return [sentence for place, sentence in enumerate(sentences) if place not in left_out]


def with_boilerplate(writer: Writer, sentences: list[str]) -> list[str]:
    """The same in a frame that many traces have."""
    return [BOILERPLATE, *sentences]


def in_other_dress(writer: Writer, sentences: list[str]) -> list[str]:
    """Other case, other white space."""
    text = " ".join(sentences)
    return [re.sub(r"\s+", lambda _: writer.random.choice([" ", "  ", "\n"]), text).swapcase()]


def changed_numbers(writer: Writer, sentences: list[str]) -> list[str]:
    """One to three numbers replaced by others."""
    text = " ".join(sentences)
    places = [match.span() for match in re.finditer(r"\d+", text)]
    for start, end in sorted(writer.random.sample(places, min(len(places), writer.random.randint(1, 3))), reverse=True):
        text = f"{text[:start]}{int(text[start:end]) + writer.random.randint(1, 9)}{text[end:]}"
    return [text]


def swapped_numbers(writer: Writer, sentences: list[str]) -> list[str]:
    """Two different numbers in each other's place."""
    text = " ".join(sentences)
    places = [match.span() for match in re.finditer(r"\d+", text)]
    pairs = [(one, other) for one, other in pairwise(places) if text[slice(*one)] != text[slice(*other)]]
    (start, end), (later, last) = writer.random.choice(pairs)
    return [text[:start] + text[later:last] + text[end:later] + text[start:end] + text[last:]]


# Whether a copy that was edited so may count as a copy.
EDITS: dict[Edit, bool] = {
    changed_words: True,
    moved_sentences: True,
    dropped_sentences: True,
    with_boilerplate: True,
    in_other_dress: True,
    changed_numbers: False,
    swapped_numbers: False,
}
