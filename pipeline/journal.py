"""The journal of one writer: a file of records, one a line, and the index beside it that spares reading it whole.

It knows of no other journal, and not which record of an id is the best.

A record is one line, `<crc32 of the JSON in 8 hex digits> <JSON>`, and its JSON starts with HEAD, so that finding it
needs no JSON parser. Every writer opens a journal of its own: nothing is ever appended behind a torn tail.

The index is a cache of what reading the journal would find. It is believed only while the journal has the size and the
time of change that it names; so a journal that somebody altered is read whole, and its damage named. A bit that flips
on the disk changes neither: it is found when its record is read, since no record is believed without its checksum.
"""

import contextlib
import json
import os
import re
import secrets
import struct
import threading
import time
import zlib
from binascii import unhexlify
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pipeline.manifest import sync_folder

SYNC_S = 0.5  # a record reaches the disk at most this long after it was appended, and the operating system at once
HEAD = ("id", "finish", "completion_tokens", "limit")
FINISHES = ("error", "length", "stop")  # from worst to best

_LINE = re.compile(
    rb'[0-9a-f]{8} \{"id":"([0-9a-f]{32})","finish":"(stop|length|error)","completion_tokens":(\d{1,9}),'
    rb'"limit":(\d{1,9})[,}]'
)
_BODY = 9  # where the JSON of a line starts
_RANKS = {name.encode(): rank for rank, name in enumerate(FINISHES)}

_TITLE = b"seqdistill journal index 1\n"
_CHECK = struct.Struct("<I")  # crc32 of all that follows it
_STATE = struct.Struct("<qq?")  # the journal's size and time of change in ns, and whether its last line is torn
_HEAD = struct.Struct("<16sQIIB")
HEAD_BYTES = _HEAD.size

Packed = bytes | bytearray | memoryview


class Head(NamedTuple):
    """Where a record stands in its journal, and what is known of it without reading it."""

    key: bytes  # the id, 16 bytes
    offset: int
    tokens: int
    limit: int
    rank: int  # of its finish in FINISHES

    def packed(self) -> bytes:
        """As HEAD_BYTES bytes, the key first."""
        return _HEAD.pack(*self)


def head_at(packed: Packed, row: int) -> Head:
    """One of many packed heads, by its number."""
    return Head._make(_HEAD.unpack_from(packed, row * HEAD_BYTES))


@dataclass(frozen=True)
class Heads:
    """The packed heads of a journal's records, in their order, and whether a kill cut its last line short."""

    packed: Packed
    torn: bool
    indexed: bool  # they come from the index: the journal itself was not read


def heads(path: Path) -> Heads:
    """What a journal holds, from its index where that may be believed, else from its lines.

    Raises ValueError that names file and line where a record does not match its checksum.
    """
    return _indexed(path) or read(path)


def read(path: Path) -> Heads:
    """What a journal holds, every record checked against its checksum. Raises as `heads` does."""
    packed, torn, offset = bytearray(), False, 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            match = _LINE.match(line)
            if match is not None and _whole(line):
                key, finish, tokens, limit = match.groups()
                packed += Head(unhexlify(key), offset, int(tokens), int(limit), _RANKS[finish]).packed()
            elif line.endswith(b"\n") or _whole(line[:-1]):  # the end of a line may be what was altered
                raise ValueError(_damaged(path, number))
            else:
                torn = True
            offset += len(line)
    return Heads(packed, torn, False)


def record(file: BinaryIO, offset: int, key: bytes) -> dict[str, Any]:
    """The record of an id that stands at an offset of an open journal.

    Raises ValueError that names file and line where it does not match its checksum.
    """
    file.seek(offset)
    line = file.readline()
    match = _LINE.match(line)
    if match is None or not _whole(line) or unhexlify(match[1]) != key:
        path = Path(file.name)
        read(path)  # names the line
        raise ValueError(_damaged(path, None))
    found: dict[str, Any] = json.loads(line[_BODY:])
    return found


def index_path(path: Path) -> Path:
    """The place of a journal's index."""
    return path.with_suffix(".index")


def save_index(path: Path, packed: Packed, torn: bool) -> None:
    """Write the index of a journal that nobody writes to any more. Where the disk refuses, it has none: no matter."""
    partial = path.with_name(f".{path.name}.index.tmp")
    with contextlib.suppress(OSError):
        try:
            # Files are stamped by a clock that stands still for milliseconds: another change within them would go
            # unseen if this one were not stamped by a finer clock.
            now = time.time_ns()
            os.utime(path, ns=(now, now))
            state = _state(path, torn)
            check = _CHECK.pack(zlib.crc32(packed, zlib.crc32(state)))
            with open(partial, "wb") as file:
                file.writelines((_TITLE, check, state, packed))
            os.replace(partial, index_path(path))
        finally:
            partial.unlink(missing_ok=True)


def _state(path: Path, torn: bool) -> bytes:
    now = path.stat()
    return _STATE.pack(now.st_size, now.st_mtime_ns, torn)


def _indexed(path: Path) -> Heads | None:
    try:
        content = memoryview(index_path(path).read_bytes())
    except OSError:
        return None
    start = len(_TITLE) + _CHECK.size
    state, packed = bytes(content[start : start + _STATE.size]), content[start + _STATE.size :]
    if content[:start] != _TITLE + _CHECK.pack(zlib.crc32(content[start:])) or len(packed) % HEAD_BYTES:
        return None
    torn = state[-1:] == b"\x01"
    return Heads(packed, torn, True) if state == _state(path, torn) else None


class AppendFile:
    """A file of one writer's own that only grows: made with its first bytes, synced in the background."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.path = folder / f"{kind}-{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}.log"
        self.length = 0
        self._handle: int | None = None
        self._failure: OSError | None = None
        self._dirty, self._ended = threading.Event(), threading.Event()
        self._syncer = threading.Thread(target=self._keep_synced, name=f"{kind}-sync", daemon=True)

    def append(self, content: bytes) -> int:
        """Write some bytes; returns where they start. They survive a kill at once and a power cut SYNC_S later.

        Raises ValueError where the disk refuses them, now or before.
        """
        self._raise_failure()
        offset = self.length
        try:
            if self._handle is None:
                self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
                self._syncer.start()
                sync_folder(self.path.parent)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            # The tail may be torn now: this file takes nothing more.
            self._failure = error
            self._raise_failure()
        self.length += len(content)
        self._dirty.set()
        return offset

    def _keep_synced(self) -> None:
        while not self._ended.wait(SYNC_S):
            if self._dirty.is_set():
                self._sync()

    def _sync(self) -> None:
        assert self._handle is not None
        self._dirty.clear()
        try:
            os.fsync(self._handle)
        except OSError as error:
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise ValueError(
                f"{self.path} cannot be written: {self._failure.strerror}. Completions already stored are kept; mend "
                f"the disk (free some space) and run again: only what is missing is asked for."
            ) from self._failure

    def close(self) -> bool:
        """Bring all that was appended to the disk. Returns whether there is a file, closed only now.

        Raises ValueError where the disk refuses.
        """
        if self._handle is None:
            return False
        self._ended.set()
        self._syncer.join()
        self._sync()
        try:
            os.close(self._handle)
        except OSError as error:  # a network file system may refuse only now
            self._failure = error
        self._handle = None
        self._raise_failure()
        return True


class Writer:
    """One writer's journal."""

    def __init__(self, folder: Path) -> None:
        self._file = AppendFile(folder, "journal")
        self.begun = 0  # records: where one was interrupted, more than were appended

    @property
    def path(self) -> Path:
        return self._file.path

    def append(self, row: dict[str, Any]) -> Head:
        """Write a record with the keys of HEAD and any others; returns its head.

        Raises ValueError for one without a proper head, and where the disk refuses it.
        """
        line = _line(row)
        self.begun += 1
        key, rank = bytes.fromhex(row["id"]), FINISHES.index(row["finish"])
        return Head(key, self._file.append(line), row["completion_tokens"], row["limit"], rank)

    def close(self, packed: Packed) -> None:
        """Bring all that was appended to the disk, then its index, made of the heads that `append` returned.

        Raises ValueError where the disk refuses what was appended.
        """
        # A record whose writing was interrupted may be whole and yet have no head here: then the journal is to be read.
        if self._file.close() and len(packed) == self.begun * HEAD_BYTES:
            save_index(self.path, packed, torn=False)


def _line(row: dict[str, Any]) -> bytes:
    head = {key: row[key] for key in HEAD}
    text = json.dumps({**head, **row}, ensure_ascii=False, separators=(",", ":")).encode()
    line = b"%08x %s\n" % (zlib.crc32(text), text)
    if _LINE.match(line) is None:
        raise ValueError(f"a record needs a content id, a finish of {FINISHES} and counts; found {head}")
    return line


def _whole(line: bytes) -> bool:
    """Whether a line is a record as it was written. A record that lost only its newline is whole."""
    body = line[_BODY:-1] if line.endswith(b"\n") else line[_BODY:]
    return line[:_BODY] == b"%08x " % zlib.crc32(body)


def _damaged(path: Path, number: int | None) -> str:
    where = "" if number is None else f", line {number},"
    remedy = "restore the file" if number is None else f"restore the file, or delete that line (sed -i {number}d FILE)"
    return (
        f"{path}{where} holds a record that does not match its checksum: it was altered after it was written. To mend "
        f"it, {remedy}; a deleted record's completion is asked for again, and all others are kept."
    )
