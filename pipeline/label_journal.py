"""The journals of one model's soft labels: packed, by trace id and by the tokens they are of, written as they come.

It knows nothing of completions: a label belongs to a stored completion where both the id and the hash of the tokens
agree, so that no crash, and no completion made a second time, ever pairs tokens with another's labels.

A record is a head and packed labels, which have a head and a checksum of their own (`soft_labels.py`). Every writer
opens a journal of its own, so that nothing is appended behind a torn tail.
"""

import os
import struct
import zlib
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from pipeline import soft_labels
from pipeline.journal import AppendFile

_MARK, _OLD_MARKS = b"SDL2", (b"SDL1",)
_HEAD = struct.Struct("<4s16sI")  # mark, id, length of the packed labels
_CHECK = struct.Struct("<I")  # crc32 of this head and of that of the labels
_START = _HEAD.size + _CHECK.size


class Place(NamedTuple):
    """Where packed labels stand, how many candidates of a token they hold, and their checksum."""

    path: Path
    offset: int
    length: int
    k: int
    check: int


class Labels:
    """The soft labels of one model's completions: those of every journal in its folder, and what is appended here."""

    def __init__(self, folder: Path, writable: bool = False) -> None:
        self.torn = 0  # last records cut short by a kill, which are ignored
        self._folder = folder
        self._file = AppendFile(folder, "labels") if writable else None
        self._places: dict[tuple[str, bytes], list[Place]] | None = None  # read when first asked for

    def k(self, trace_id: str, token_hash: bytes) -> int:
        """How many candidates of each token are known for a completion; 0 where it has no labels."""
        place = self._place(trace_id, token_hash)
        return 0 if place is None else place.k

    def check(self, trace_id: str, token_hash: bytes) -> int | None:
        """The checksum of the labels that `get` returns, without reading them; None where there are none."""
        place = self._place(trace_id, token_hash)
        return None if place is None else place.check

    def get(self, trace_id: str, token_hash: bytes, check: int | None = None) -> bytes | None:
        """The packed labels of a completion with the most candidates, or those with a checksum; None without any.

        Raises ValueError that names the file and the place where they are not as they were written.
        """
        place = self._place(trace_id, token_hash, check)
        if place is None:
            return None
        with open(place.path, "rb") as file:
            file.seek(place.offset)
            packed = file.read(place.length)
        if not soft_labels.whole(packed):
            raise ValueError(_damaged(place.path, place.offset))
        return packed

    def _place(self, trace_id: str, token_hash: bytes, check: int | None = None) -> Place | None:
        places = self._index().get((trace_id, token_hash), [])
        fitting = [place for place in places if check is None or place.check == check]
        return max(fitting, key=attrgetter("k"), default=None)

    def append(self, trace_id: str, packed: bytes) -> None:
        """Add labels. They survive a kill at once and a power cut journal.SYNC_S later.

        Raises ValueError where the disk refuses them.
        """
        if self._file is None:
            raise RuntimeError("these labels are open for reading; append to them within their store's appending()")
        index = self._index()
        head = _HEAD.pack(_MARK, bytes.fromhex(trace_id), len(packed))
        offset = self._file.append(head + _checked(head, packed) + packed)
        _enter(index, trace_id, self._file.path, offset + _START, packed, len(packed))

    def close(self) -> None:
        """Bring all that was appended to the disk. Raises ValueError where the disk refuses."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _index(self) -> dict[tuple[str, bytes], list[Place]]:
        if self._places is None:
            self._places = {}
            for path in sorted(self._folder.glob("labels-*.log")):
                self.torn += _scan(path, self._places)
        return self._places


def _scan(path: Path, places: dict[tuple[str, bytes], list[Place]]) -> bool:
    """Enter every whole record of a journal; returns whether its last one is torn. Payloads are not read.

    Raises ValueError that names the file and the place where a head is not as it was written.
    """
    wanted = _START + soft_labels.HEAD_BYTES
    size, offset = path.stat().st_size, 0
    with open(path, "rb") as file:
        while offset < size:
            heads = os.pread(file.fileno(), wanted, offset)
            if len(heads) < wanted:
                return True
            mark, key, length = _HEAD.unpack_from(heads)
            if mark in _OLD_MARKS and offset == 0:
                raise ValueError(_old(path, mark))
            if mark != _MARK or heads[_HEAD.size : _START] != _checked(heads[: _HEAD.size], heads[_START:]):
                raise ValueError(_damaged(path, offset))
            if offset + _START + length > size:
                return True
            _enter(places, key.hex(), path, offset + _START, heads[_START:], length)
            offset += _START + length
    return False


def _checked(head: bytes, packed: bytes) -> bytes:
    return _CHECK.pack(zlib.crc32(head + packed[: soft_labels.HEAD_BYTES]))


def _enter(
    places: dict[tuple[str, bytes], list[Place]], trace_id: str, path: Path, offset: int, packed: bytes, length: int
) -> None:
    head = soft_labels.head(packed)
    known = places.setdefault((trace_id, head.token_hash), [])
    known.append(Place(path, offset, length, head.k, head.check))


def _old(path: Path, mark: bytes) -> str:
    return (
        f"{path} holds soft labels in format {mark.decode()}; this program reads {_MARK.decode()} alone. Delete the "
        f"file: its completions are kept, and their labels are scored again."
    )


def _damaged(path: Path, offset: int) -> str:
    return (
        f"{path}, byte {offset}, holds soft labels that do not match their checksum: they were altered after they were "
        f"written. Restore the file, or delete it: its completions are kept, and their labels are scored again."
    )
