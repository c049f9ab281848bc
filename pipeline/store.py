"""The completion store: append-only journals, one folder per weights, that outlive every run and are looked up by id.

It knows nothing of engines, prompts or runs, and never moves, rewrites or deletes a journal.

A record is one line, `<crc32 of the JSON in 8 hex digits> <JSON>`, and its JSON starts with HEAD, so that the index
needs no JSON parser. Every writer opens a journal of its own: nothing is ever appended behind a torn tail.
"""

import json
import os
import re
import secrets
import threading
import time
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import lock
from pipeline.manifest import sync_folder
from pipeline.records import content_id

SYNC_S = 0.5  # a record reaches the disk at most this long after it was appended, and the operating system at once
HEAD = ("id", "finish", "completion_tokens", "limit")
FINISHES = ("error", "length", "stop")  # from worst to best

_HEAD = re.compile(
    rb'([0-9a-f]{8}) \{"id":"([0-9a-f]{32})","finish":"(stop|length|error)","completion_tokens":(\d+),"limit":(\d+)[,}]'
)
_BODY = 9  # where the JSON of a line starts


class Entry(NamedTuple):
    """What the index knows of an id's best record: finish, tokens, and the limit of tokens it was asked with."""

    finish: str
    tokens: int
    limit: int


class Store:
    """The completions of one model, as they were when it was opened, and what was appended through it since."""

    def __init__(self, root: Path, weights: str) -> None:
        """Index the journals that `root` holds for `weights` (the identity of a model's weights).

        Raises ValueError that names file and line where a record does not match its checksum.
        """
        self.folder = partition(root, weights)
        self.torn = 0  # last lines cut short by a kill, which are ignored
        self._journals: list[Path] = []
        self._rows: dict[bytes, int] = {}
        # Columns in place of a million small objects.
        self._journal, self._offset = array("I"), array("Q")
        self._rank, self._tokens, self._limit = array("B"), array("I"), array("I")
        self._writer: _Journal | None = None
        for path in sorted(self.folder.glob("journal-*.log")):
            self._index(path)

    def _index(self, path: Path) -> None:
        self._journals.append(path)
        offset = 0
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                head = _HEAD.match(line)
                if head is not None and _whole(line):
                    rank = FINISHES.index(head[3].decode())
                    self._take(bytes.fromhex(head[2].decode()), rank, int(head[4]), int(head[5]), offset)
                elif line.endswith(b"\n"):
                    raise ValueError(_damaged(path, number))
                else:
                    self.torn += 1
                offset += len(line)

    def _take(self, key: bytes, rank: int, tokens: int, limit: int, offset: int) -> None:
        """Enter a record of the newest journal, unless the id has a better one, or as good a one, already."""
        row = self._rows.setdefault(key, len(self._offset))
        if row == len(self._offset):
            for column in (self._journal, self._offset, self._rank, self._tokens, self._limit):
                column.append(0)
        elif (rank, tokens, limit) <= (self._rank[row], self._tokens[row], self._limit[row]):
            return
        self._journal[row], self._offset[row] = len(self._journals) - 1, offset
        self._rank[row], self._tokens[row], self._limit[row] = rank, tokens, limit

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self) -> Iterator[str]:
        """Every id with a record, errors too."""
        return (key.hex() for key in self._rows)

    def entry(self, trace_id: str) -> Entry | None:
        """What the index knows of an id, without reading a journal."""
        row = self._rows.get(bytes.fromhex(trace_id))
        return None if row is None else Entry(FINISHES[self._rank[row]], self._tokens[row], self._limit[row])

    def mean_tokens(self) -> float | None:
        """The mean length of the completions, in tokens; None where there is none."""
        lengths = [tokens for rank, tokens in zip(self._rank, self._tokens, strict=True) if FINISHES[rank] != "error"]
        return sum(lengths) / len(lengths) if lengths else None

    def get(self, trace_id: str) -> dict[str, Any] | None:
        """The best record of an id: stop before length before error, then more tokens, then the first."""
        return next(self.rows([trace_id]), None)

    def rows(self, trace_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The best records of those ids that have one, in the order they lie on the disk."""
        known = (self._rows.get(bytes.fromhex(trace_id)) for trace_id in trace_ids)
        places = sorted((self._journal[row], self._offset[row]) for row in known if row is not None)
        number, file = -1, None
        try:
            for journal, offset in places:
                if file is None or journal != number:
                    if file is not None:
                        file.close()
                    number, file = journal, open(self._journals[journal], "rb")  # noqa: SIM115 - one file at a time
                file.seek(offset)
                line = file.readline()
                if not _whole(line):
                    raise ValueError(_damaged(self._journals[journal], None))
                yield json.loads(line[_BODY:])
        finally:
            if file is not None:
                file.close()

    def append(self, record: dict[str, Any]) -> None:
        """Add a record with the keys of HEAD and any others. It survives a kill at once and a power cut SYNC_S later.

        Raises ValueError where the disk refuses it; what was appended before stays.
        """
        if self._writer is None:
            raise RuntimeError("this store was opened for reading; open it with store.writing()")
        head = {key: record[key] for key in HEAD}
        text = json.dumps({**head, **record}, ensure_ascii=False, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        if _HEAD.match(line) is None:
            raise ValueError(f"a record needs a content id, a finish of {FINISHES} and counts; found {head}")
        fresh = not self._writer.length
        offset = self._writer.append(line)
        if fresh:
            self._journals.append(self._writer.path)
        rank = FINISHES.index(head["finish"])
        self._take(bytes.fromhex(head["id"]), rank, head["completion_tokens"], head["limit"], offset)


def partition(root: Path, weights: str) -> Path:
    """The folder of one model's completions."""
    return root / content_id("weights", weights)


@contextmanager
def writing(root: Path, weights: str) -> Iterator[Store]:
    """The store of `weights`, open for appending by this process alone; all appended is on the disk when it closes.

    Raises lock.Locked where another process writes to it.
    """
    folder = partition(root, weights)
    with lock.hold(folder / "lock", f"the completion store {folder}"):
        store = Store(root, weights)  # indexed under the lock: no record of another writer is missed and bought again
        store._writer = _Journal(folder)
        try:
            yield store
        finally:
            writer, store._writer = store._writer, None
            writer.close()


class _Journal:
    """One writer's file, made with its first record, synced in the background."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"journal-{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}.log"
        self.length = 0
        self._handle: int | None = None
        self._failure: OSError | None = None
        self._dirty, self._ended = threading.Event(), threading.Event()
        self._syncer = threading.Thread(target=self._keep_synced, name="journal-sync", daemon=True)

    def append(self, line: bytes) -> int:
        """Write a line; returns the offset it starts at."""
        self._raise_failure()
        offset = self.length
        try:
            if self._handle is None:
                self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
                self._syncer.start()
                sync_folder(self.path.parent)
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            # The tail may be torn now: this journal takes nothing more.
            self._failure = error
            self._raise_failure()
        self.length += len(line)
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

    def close(self) -> None:
        if self._handle is None:
            return
        self._ended.set()
        self._syncer.join()
        self._sync()
        os.close(self._handle)
        self._handle = None
        self._raise_failure()


def _whole(line: bytes) -> bool:
    """Whether a line is a record as it was written. A record that lost only its newline is whole."""
    body = line[_BODY:-1] if line.endswith(b"\n") else line[_BODY:]
    try:
        return int(line[: _BODY - 1], 16) == zlib.crc32(body)
    except ValueError:
        return False


def _damaged(path: Path, number: int | None) -> str:
    where = "" if number is None else f", line {number},"
    remedy = "restore the file" if number is None else f"restore the file, or delete that line (sed -i {number}d FILE)"
    return (
        f"{path}{where} holds a record that does not match its checksum: it was altered after it was written. To mend "
        f"it, {remedy}; a deleted record's completion is asked for again, and all others are kept."
    )
