"""Records of one width that begin with a 16-byte key, packed in one block, and which of them each key stands for.

It does not know what a record holds behind its key, and forgets none. A key's first half is taken for its hash, which
is right for content ids (`records.content_id`) and for nothing that counts up.
"""

from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

KEY_BYTES = 16
SLOTS = 1 << 10  # of an empty index
ROWS = 8192  # entered at once: what numpy needs for so many is below a megabyte


class KeyIndex:
    """A set of keys or, where records are wider, what is known by them; a row is the number of a record.

    It takes 6 to 12 bytes a key and the record itself, where a set of `bytes` takes more than a hundred. Growing, it
    holds no second copy of the records.
    """

    def __init__(self, record_bytes: int = KEY_BYTES) -> None:
        self.records = bytearray()  # one after the other; to be read, not to be written
        self._width = record_bytes
        self._halves = np.dtype(
            {"names": ["low", "high"], "formats": ["<u8", "<u8"], "offsets": [0, 8], "itemsize": record_bytes}
        )
        # Open addressing with linear probing: row + 1 of the record that a key stands for, 0 where a slot is free.
        self._slots = array("I", [0]) * SLOTS
        self._keys = 0

    def __len__(self) -> int:
        """How many keys there are: fewer than rows, where several records have the same."""
        return self._keys

    def __contains__(self, key: bytes) -> bool:
        return self._slots[self._slot(key)] > 0

    def __iter__(self) -> Iterator[bytes]:
        """The keys, in the order of the rows they stand for."""
        return map(self.key, self.standing().tolist())

    @property
    def rows(self) -> int:
        return len(self.records) // self._width

    def key(self, row: int) -> bytes:
        start = row * self._width
        return bytes(self.records[start : start + KEY_BYTES])

    def find(self, key: bytes) -> int:
        """The row that a key stands for, -1 where it is unknown."""
        return self._slots[self._slot(key)] - 1

    def standing(self) -> Rows:
        """The rows that keys stand for, in their order."""
        slots = np.frombuffer(self._slots, self._slots.typecode)
        return np.sort(slots[slots > 0]).astype(np.int64) - 1

    def add(self, record: bytes) -> bool:
        """Append a record whose key is unknown, and let the key stand for it; returns whether it was unknown."""
        place = self._slot(record[:KEY_BYTES])
        if self._slots[place]:
            return False
        self._slots[place] = self.append(record) + 1
        self._keys += 1
        self._reserve(self._keys)
        return True

    def append(self, record: bytes) -> int:
        """Append a record for which no key stands; returns its row."""
        if len(record) != self._width:
            raise ValueError(f"a record of this index has {self._width} bytes; found {len(record)}")
        self.records += record
        return self.rows - 1

    def point(self, row: int) -> None:
        """Let the key of a row, which is known, stand for that row from now on."""
        self._slots[self._slot(self.key(row))] = row + 1

    def extend(self, records: bytes | bytearray | memoryview) -> list[int]:
        """Append many records. A key that was unknown stands for the first of them that has it; returns the other rows.

        It takes a tenth of the time that as many calls of `add` take.
        """
        if len(records) % self._width:
            raise ValueError(f"records of this index have {self._width} bytes each; found {len(records)} bytes of them")
        start = self.rows
        self.records += records
        self._reserve(self._keys + self.rows - start)
        others = []
        for first in range(start, self.rows, ROWS):
            others += self._enter(np.arange(first, min(first + ROWS, self.rows), dtype=np.int64)).tolist()
        self._keys += self.rows - start - len(others)
        return others

    def _slot(self, key: bytes) -> int:
        """The slot of a key: the one that has its row, or the free one where that would go."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes; found {len(key)}")
        slots, known, width = self._slots, self.records.startswith, self._width
        last = len(slots) - 1
        slot = int.from_bytes(key[:8], "little") & last
        while (after := slots[slot]) and not known(key, (after - 1) * width):
            slot = (slot + 1) & last
        return slot

    def _reserve(self, keys: int) -> None:
        """Have slots enough for so many keys: at most two thirds of them are ever taken."""
        size = len(self._slots)
        while 3 * keys > 2 * size:
            size *= 2
        if size > len(self._slots):
            old = np.frombuffer(self._slots, self._slots.typecode)
            self._slots = array("I", [0]) * size
            for start in range(0, len(old), ROWS):
                taken = old[start : start + ROWS]
                self._enter(taken[taken > 0].astype(np.int64) - 1)

    def _enter(self, rows: Rows) -> Rows:
        """Let keys stand for these rows, all in step; returns the rows whose keys stand for another one already."""
        slots = np.frombuffer(self._slots, self._slots.typecode)
        halves = np.frombuffer(self.records, self._halves)
        low, high = halves["low"], halves["high"]
        last = len(slots) - 1
        place = (low[rows] & np.uint64(last)).astype(np.int64)
        others = [rows[:0]]
        while len(rows):
            free = np.flatnonzero(slots[place] == 0)[::-1]  # of several that want one slot the first, written last
            slots[place[free]] = rows[free] + 1
            found = slots[place].astype(np.int64) - 1
            met = (low[found] == low[rows]) & (high[found] == high[rows])
            others.append(rows[met & (found != rows)])
            rows, place = rows[~met], (place[~met] + 1) & last
        return np.sort(np.concatenate(others))
