"""Words as arrays: the same words as in text, and one hash for each of them wherever it stands."""

import random
from itertools import pairwise

import numpy as np
import pytest

from pipeline.similarity.tokens import characters, plain, span_hashes, windows
from pipeline.text import fold, words

SIGNS = [
    *"ab1290_.,,..-+ \n\t\\{}$!x",
    "é",
    "ß",
    "²",
    "½",
    "₂",
    "٣",
    "Ⅷ",
    "漢",
    "字",
    "×",
    "−",
    "\ud800",
    "\0",
    "\U0001d7d9",
    "ﬁ",
]


def made_up(seed: int, length: int = 60) -> str:
    rng = random.Random(seed)
    return "".join(rng.choices(SIGNS, k=rng.randint(0, length)))


def test_the_words_are_those_of_the_text() -> None:
    texts = [
        "",
        " ",
        "x",
        "1,5",
        "1.",
        ".5",
        "A well-known RULE: 3.14, 1,000 and 2½ apples_",
        *map(made_up, range(400)),
    ]
    found = plain(texts)
    assert [found.words(start, end) for start, end in pairwise(found.bounds)] == [words(text) for text in texts]
    assert [plain([text]).words() for text in texts] == [words(text) for text in texts]


def test_a_word_has_one_hash_wherever_it_stands_and_no_other_word_has_it() -> None:
    texts = [made_up(seed) for seed in range(400)]
    batch = plain(texts)
    known = dict(zip(batch.words(), batch.hashes.tolist(), strict=True))
    assert len(set(known.values())) == len(known) > 200
    for text in texts:
        assert [known[word] for word in words(text)] == plain([text]).hashes.tolist()


def test_long_words_and_long_texts_have_hashes_of_their_own() -> None:
    texts = ["ab" * 5000, "ba" * 5000, "ab" * 4999, "a", "7" * 9999, "7" * 10_000]
    hashes = plain(["word " * 3000, *texts]).hashes[3000:]
    assert len(set(hashes.tolist())) == len(texts)
    assert plain(texts).hashes.tolist() == hashes.tolist()


@pytest.mark.parametrize("width", [1, 2, 5])
def test_windows_are_equal_where_their_words_are(width: int) -> None:
    hashes = plain(["a b c d e f a b c d e x"]).hashes
    runs = [tuple(hashes[at : at + width].tolist()) for at in range(len(hashes) - width + 1)]
    found = windows(hashes, width).tolist()
    assert len(found) == len(runs)
    assert len(dict(zip(runs, found, strict=True))) == len(set(runs)) == len(set(found))
    starts = np.arange(len(runs))
    assert len(set(span_hashes(hashes, starts, starts + width).tolist())) == len(set(runs))


def test_a_window_is_longer_than_its_text_is_none() -> None:
    assert len(windows(plain(["a b"]).hashes, 3)) == 0


def test_characters_are_those_of_the_folded_text() -> None:
    texts = ["A  b", "", "漢字 é", "a b"]
    hashes, bounds = characters(texts)
    spelled = dict(zip("".join(map(fold, texts)), hashes.tolist(), strict=True))
    assert len(set(spelled.values())) == len(spelled)
    assert [end - start for start, end in pairwise(bounds)] == [len(fold(text)) for text in texts]
    assert hashes[:3].tolist() == hashes[bounds[3] :].tolist()
