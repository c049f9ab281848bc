"""MinHash signatures of texts: what each text has in common with others, in some 200 bytes, whatever its length.

It finds texts that may be alike; whether they are, `pipeline.similarity.repeats` decides.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.similarity.tokens import DIGIT, Hashes, Places, Tokens, characters, mix, plain, windows

Signatures = npt.NDArray[Any]  # of Shingling.record, a record a text

_VERSION = 1  # raised by hand when the same text would give another signature
_MISS_SHARE = 0.001  # of the pairs exactly at the threshold, how many banding may lose
_MAX_HASHES = 160
_BATCH_CHARACTERS = 1 << 17  # of one vectorised step
_BATCH_TEXTS = 4096
_NUMBER_SEED = np.uint64(0x2545F4914F6CDD1D)


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


@dataclass(frozen=True)
class Shingling:
    """What texts are compared by: the sets of their runs of so many words, or characters, and from which Jaccard on."""

    threshold: float = 0.8
    size: int = 5
    unit: str = "word"  # or "character": of the folded text, white space squeezed

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or self.size < 1 or self.unit not in ("word", "character"):
            raise ValueError(
                f"threshold is {self.threshold}, shingle size {self.size}, unit {self.unit!r}; expected 0 < threshold "
                f"<= 1, a size of at least 1, and word or character"
            )

    @property
    def version(self) -> str:
        """What a signature depends on beside the text: two of different versions cannot be compared."""
        bands, rows = banding(self.threshold)
        return f"{_VERSION} {self.unit} {self.size} {bands}x{rows}"

    @cached_property
    def record(self) -> np.dtype[Any]:
        """A signature: a digest of the words, their numbers as a sum and a count, and a hash for each band."""
        bands, _ = banding(self.threshold)
        return np.dtype([("words", "<u8", 2), ("numbers", "<u8"), ("count", "<u4"), ("bands", "<u8", bands)])

    def sign(self, texts: Iterable[str]) -> Signatures:
        """The signatures of texts, in order."""
        signed = [self._signed(batch) for batch in _batches(texts)]
        return np.concatenate(signed) if signed else np.empty(0, dtype=self.record)

    def shingles(self, text: str) -> Hashes:
        """The sorted distinct shingle hashes of a text; one where it is shorter than a shingle, also where empty."""
        return distinct(self._sets(plain([text]) if self.unit == "word" else None, [text])[0])

    def _sets(self, found: Tokens | None, texts: Sequence[str]) -> tuple[Hashes, Places]:
        """The shingle hashes of texts, one text after the other, and where each begins; repeated ones stay."""
        hashes, bounds = (found.hashes, found.bounds) if found is not None else characters(texts)
        return _shingles(hashes, bounds, self.size)

    def _signed(self, texts: Sequence[str]) -> Signatures:
        found = plain(texts)
        signatures = np.empty(len(texts), dtype=self.record)
        for row, (start, end) in enumerate(zip(found.bounds[:-1].tolist(), found.bounds[1:].tolist(), strict=True)):
            digest = hashlib.blake2b(found.hashes[start:end].tobytes(), digest_size=16).digest()
            signatures["words"][row] = np.frombuffer(digest, dtype="<u8")
        is_number = found.kinds == DIGIT
        values = np.where(is_number, mix(found.hashes ^ _NUMBER_SEED), np.uint64(0))
        signatures["numbers"] = _totals(values, found.bounds)
        signatures["count"] = _totals(is_number.astype(np.uint64), found.bounds)
        signatures["bands"] = self._bands(*self._sets(found if self.unit == "word" else None, texts))
        return signatures

    def _bands(self, hashes: Hashes, starts: Places) -> Hashes:
        """A hash per text and band, [texts, bands]: of the smallest of the text's shingles under some hash functions.

        The shingles are hashed once, and a function is a multiplication by an odd number modulo 2^32: of random
        values, the least under it is as likely to be any of them.
        """
        bands, rows = banding(self.threshold)
        short = (hashes >> np.uint64(32)).astype(np.uint32)
        product = np.empty_like(short)
        least = np.empty((len(self._factors), len(starts)), dtype=np.uint32)
        for factor, row in zip(self._factors, least, strict=True):
            np.multiply(short, factor, out=product)
            np.minimum.reduceat(product, starts, out=row)
        keys = np.repeat(np.arange(bands, dtype=np.uint64)[:, None], len(starts), axis=1)
        for row_of_band in range(rows):
            keys = mix(keys + least[row_of_band::rows])
        return keys.T

    @cached_property
    def _factors(self) -> npt.NDArray[np.uint32]:
        bands, rows = banding(self.threshold)
        generator = np.random.default_rng(0)
        return generator.integers(1, 1 << 31, size=bands * rows, dtype=np.uint32) * np.uint32(2) + np.uint32(1)


def distinct(hashes: Hashes) -> Hashes:
    """The sorted distinct values."""
    ordered = np.sort(hashes)
    new = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    kept: Hashes = ordered[new]
    return kept


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (size + len(text) > _BATCH_CHARACTERS or len(batch) == _BATCH_TEXTS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def _totals(values: Hashes, bounds: Places) -> Hashes:
    """The sum of each text's values, modulo 2^64."""
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values, out=sums[1:])
    return sums[bounds[1:]] - sums[bounds[:-1]]


def _shingles(hashes: Hashes, bounds: Places, size: int) -> tuple[Hashes, Places]:
    """The shingles of texts whose words' hashes lie one text after the other; a text shorter than one is one."""
    lengths = np.diff(bounds)
    counts = np.maximum(lengths - size + 1, 1)
    starts = np.concatenate([[0], np.cumsum(counts)])
    made = np.zeros(starts[-1], dtype=np.uint64)
    if len(bounds) == 2 and lengths[0] >= size:
        return windows(hashes, size), starts[:-1]
    long = np.repeat(lengths >= size, counts)
    inside = np.arange(len(hashes)) + size <= np.repeat(bounds[1:], lengths)
    every = windows(hashes, size)
    made[long] = every[inside[: len(every)]]
    for width in range(1, size):
        of_width = np.flatnonzero(lengths == width)
        if len(of_width):
            words = hashes[bounds[of_width][:, None] + np.arange(width)]
            made[starts[of_width]] = windows(words.ravel(), width)[::width]
    return made, starts[:-1]
