"""Near-duplicates of texts: MinHash signatures and banding find candidates, the true Jaccard index decides.

It chooses no survivor (the stages do), and a candidate never counts before it was verified.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.similarity.normal import numbers
from pipeline.text import words

Hashes = npt.NDArray[np.uint64]

_MISS_SHARE = 0.001  # of the pairs exactly at the threshold, how many banding may lose
_MAX_HASHES = 160
_BATCH_WORDS = 1 << 16  # of one vectorised step: 16 bytes each times the hashes
_CACHED_TEXTS = 4096


def banding(threshold: float) -> tuple[int, int]:
    """(bands, rows a band) that lose at most one in a thousand pairs at the threshold.

    A pair with Jaccard s shares a band with probability 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman: Mining of
    Massive Datasets, 3.4). More rows mean fewer false candidates, so the most rows that fit are taken.
    """
    best = (1, 1)
    for rows in range(1, _MAX_HASHES):
        agree = threshold**rows
        bands = 1 if agree >= 1 else math.ceil(math.log(_MISS_SHARE) / math.log1p(-agree))
        if bands * rows > _MAX_HASHES and rows > 1:
            break
        best = (bands, rows)
    return best


def near_duplicates(
    texts: Sequence[str], threshold: float = 0.8, shingle_words: int = 5
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, Jaccard), i < j, of texts whose sets of word shingles have Jaccard >= threshold, sorted.

    The Jaccard index is the true one (over 64-bit hashes of shingles). Texts whose sequences of numbers differ are
    never a pair; a text shorter than a shingle is one shingle, so it pairs with its equals only. Of texts with the
    same words only the first stands for the others: each other text is paired with it, and no two of the others with
    each other, so m equal texts cost m. Raises ValueError for a threshold outside (0, 1] or a shingle below one word.
    """
    if not 0 < threshold <= 1 or shingle_words < 1:
        raise ValueError(
            f"threshold is {threshold} and shingle_words {shingle_words}; expected 0 < threshold <= 1 and at least 1"
        )
    shingler = _Shingler(shingle_words)
    first_of: dict[bytes, int] = {}
    number_keys: dict[tuple[str, ...], int] = {}
    copies: list[tuple[int, int]] = []  # (the first text with the same words, text)
    rows: list[int] = []  # the other texts
    keys: list[int] = []  # their sequence of numbers, as a small integer
    for index, text in enumerate(texts):
        text_words = words(text)
        digest = hashlib.blake2b(" ".join(text_words).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        first = first_of.setdefault(digest, index)
        if first != index:
            copies.append((first, index))
            continue
        rows.append(index)
        keys.append(number_keys.setdefault(numbers(text_words), len(number_keys)))
    verifier = _Verifier(texts, shingler)
    pairs: list[tuple[int, int, float]] = []
    near: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for left, right in _candidates(texts, rows, keys, shingler, threshold):
        jaccard = verifier.jaccard(left, right, threshold)
        if jaccard >= threshold:
            pairs.append((left, right, jaccard))
            near[left].append((right, jaccard))
            near[right].append((left, jaccard))
    for first, copy in copies:
        pairs.append((first, copy, 1.0))
        pairs += [(min(copy, other), max(copy, other), jaccard) for other, jaccard in near[first]]
    return sorted(pairs)


class _Shingler:
    """Texts to sets of shingle hashes; words are hashed once, by content, so every process gets the same."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._words: dict[str, int] = {}

    def hashes(self, text: str) -> Hashes:
        """The sorted distinct shingle hashes of a text; one where it is shorter than a shingle, also where empty."""
        ids = np.fromiter((self._word(word) for word in words(text)), dtype=np.uint64)
        width = min(self._size, len(ids))
        if width == 0:
            return np.zeros(1, dtype=np.uint64)
        total = np.full(len(ids) - width + 1, width, dtype=np.uint64)
        for offset in range(width):
            total = _mix(total + ids[offset : offset + len(total)])
        return np.unique(total)

    def _word(self, word: str) -> int:
        known = self._words.get(word)
        if known is None:
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            known = self._words[word] = int.from_bytes(digest, "little")
        return known


class _Verifier:
    """The true Jaccard index of two texts. Shingles are computed again for it: keeping all would dwarf signatures."""

    def __init__(self, texts: Sequence[str], shingler: _Shingler) -> None:
        self._texts, self._shingler = texts, shingler
        self._known: dict[int, Hashes] = {}

    def jaccard(self, left: int, right: int, threshold: float) -> float:
        """The true Jaccard index, or 0.0 where the sizes alone keep it below the threshold."""
        a, b = self._of(left), self._of(right)
        if min(len(a), len(b)) < threshold * max(len(a), len(b)):
            return 0.0
        common = len(np.intersect1d(a, b, assume_unique=True))
        return common / (len(a) + len(b) - common)

    def _of(self, row: int) -> Hashes:
        found = self._known.get(row)
        if found is None:
            if len(self._known) >= _CACHED_TEXTS:
                self._known.clear()
            found = self._known[row] = self._shingler.hashes(self._texts[row])
        return found


def _mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    values = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _candidates(
    texts: Sequence[str], rows: Sequence[int], keys: Sequence[int], shingler: _Shingler, threshold: float
) -> list[tuple[int, int]]:
    """Distinct pairs of rows with the same numbers that share a band, in order."""
    bands, width = banding(threshold)
    shared = Counter(keys)
    chosen = [place for place, key in enumerate(keys) if shared[key] > 1]
    if not chosen:
        return []
    rows, keys = [rows[place] for place in chosen], [keys[place] for place in chosen]
    band_keys = _band_keys(texts, rows, shingler, bands, width)
    number_keys = _mix(np.asarray(keys, dtype=np.uint64))
    found: set[tuple[int, int]] = set()
    for band in range(bands):
        column = band_keys[:, band] ^ number_keys
        order = np.argsort(column, kind="stable")
        edges = np.flatnonzero(np.diff(column[order])) + 1
        for bucket in np.split(order, edges):
            if len(bucket) > 1:
                members = sorted(int(member) for member in bucket)
                found.update(
                    (rows[left], rows[right])
                    for place, left in enumerate(members)
                    for right in members[place + 1 :]
                    if keys[left] == keys[right]
                )
    return sorted(found)


def _band_keys(texts: Sequence[str], rows: Sequence[int], shingler: _Shingler, bands: int, width: int) -> Hashes:
    """A hash per text and band, [texts, bands]."""
    generator = np.random.default_rng(0)
    factors = generator.integers(1, 1 << 63, size=bands * width, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.empty((len(rows), bands), dtype=np.uint64)
    batch: list[Hashes] = []
    start = size = 0
    for place, row in enumerate(rows):
        batch.append(shingler.hashes(texts[row]))
        size += len(batch[-1])
        if size >= _BATCH_WORDS or place + 1 == len(rows):
            signatures = _signatures(batch, factors)
            for band in range(bands):
                key = np.full(len(batch), band, dtype=np.uint64)
                for row_of_band in range(band * width, (band + 1) * width):
                    key = _mix(key + signatures[row_of_band])
                keys[start : place + 1, band] = key
            batch, start, size = [], place + 1, 0
    return keys


def _signatures(batch: Sequence[Hashes], factors: Hashes) -> Hashes:
    """The smallest value of each text's shingles under each hash function, [functions, texts] (Broder 1997)."""
    joined = np.concatenate(list(batch))
    starts = np.cumsum([0, *(len(hashes) for hashes in batch[:-1])])
    return np.stack([np.minimum.reduceat(joined * factor, starts) for factor in factors])
