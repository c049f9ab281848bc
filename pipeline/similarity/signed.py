"""Signatures by the content of texts, so that a text that was signed before is not read again.

It stores nothing itself: its caller brings rows of an earlier run, and takes the new ones.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.similarity.minhash import Shingling, Signatures

Rows = npt.NDArray[np.int64]


def text_key(version: str, text: str) -> bytes:
    """What a signature is stored by: a digest of the text, and of what else it depends on."""
    known = hashlib.blake2b(digest_size=16, person=b"signature")
    known.update(f"{version}\0".encode())
    known.update(text.encode("utf-8", "surrogatepass"))
    return known.digest()


class Signed:
    """The signatures of the texts that were asked for, each made or taken over once."""

    def __init__(self, shingling: Shingling) -> None:
        self._shingling = shingling
        self._version = shingling.version
        self._known: dict[bytes, int] = {}  # key -> row
        self._records: list[Signatures] = []
        self._count = 0
        self._asked = np.zeros(0, dtype=bool)  # of the rows that were taken over
        self.made = 0

    def take_over(self, keys: Sequence[bytes], packed: Sequence[bytes]) -> tuple[int, int]:
        """Know signatures of an earlier run. Returns their rows, first and past the last; all of them before `of`."""
        size = self._shingling.record.itemsize
        first = self._count
        usable = b"".join(bytes(one) if len(one) == size else bytes(size) for one in packed)
        self._known.update(
            (key, first + place)
            for place, (key, one) in enumerate(zip(keys, packed, strict=True))
            if len(one) == size  # of another version: no text will ask for it
        )
        self._add(np.frombuffer(usable, dtype=self._shingling.record))
        self._asked = np.zeros(self._count, dtype=bool)
        return first, self._count

    @property
    def reused(self) -> int:
        """How many signatures that were taken over have been asked for."""
        return int(self._asked.sum())

    def asked(self, first: int, end: int) -> npt.NDArray[np.bool_]:
        """Which of the rows that were taken over have been asked for."""
        return self._asked[first:end]

    def of(self, texts: Sequence[str]) -> tuple[Rows, dict[bytes, bytes]]:
        """The rows of texts, in order; and the signatures that had to be made, packed, by their keys."""
        keys = [text_key(self._version, text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        made = self._shingling.sign(missing.values())
        self._known.update((key, self._count + place) for place, key in enumerate(missing))
        self._add(made)
        self.made += len(made)
        rows = np.fromiter((self._known[key] for key in keys), dtype=np.int64, count=len(keys))
        self._asked[rows[rows < len(self._asked)]] = True
        return rows, dict(zip(missing, (one.tobytes() for one in made), strict=True))

    def signatures(self, rows: Rows) -> Signatures:
        """The signatures in some rows, in the order of these."""
        starts = np.cumsum([0, *map(len, self._records)])
        part = np.searchsorted(starts, rows, side="right") - 1
        found = np.empty(len(rows), dtype=self._shingling.record)
        for number in np.unique(part).tolist():
            here = part == number
            found[here] = self._records[number][rows[here] - starts[number]]
        return found

    def _add(self, records: Signatures) -> None:
        self._records.append(records)
        self._count += len(records)
