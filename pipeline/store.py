"""The completion store: append-only journals, one folder per weights, that outlive every run and are looked up by id.

It knows nothing of engines, prompts or runs, and never moves, rewrites or deletes a journal (`journal.py` has their
format).
"""

from bisect import bisect
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import journal, lock
from pipeline.journal import FINISHES, Head, Writer
from pipeline.key_index import KeyIndex
from pipeline.label_journal import Labels
from pipeline.records import content_id


class Entry(NamedTuple):
    """What the index knows of an id's best record: finish, tokens, and the limit of tokens it was asked with."""

    finish: str
    tokens: int
    limit: int


class Store:
    """The completions of one model, as they were when it was opened, and what was appended through it since.

    It is opened to be read, which needs no lock, and takes records only within `appending`.
    """

    def __init__(self, root: Path, weights: str) -> None:
        """Index the journals that `root` holds for `weights` (the identity of a model's weights), to be read.

        Raises ValueError that names file and line where a record does not match its checksum.
        """
        self.folder = partition(root, weights)
        self._writer: Writer | None = None
        self._read()

    def _read(self) -> None:
        """Index all journals, those of other writers included."""
        self.torn = 0  # last lines cut short by a kill, which are ignored
        self.labels = Labels(self.folder)
        # The heads of all records, journal by journal; an id stands for its best one.
        self._heads = KeyIndex(journal.HEAD_BYTES)
        self._journals: list[Path] = []
        self._starts: list[int] = []  # the row of each journal's first head
        self._sizes = self._sizes_now()
        self._lacks_index = False  # a journal has none, and was read whole
        for path in self._sizes:
            self._enter(path)

    def _sizes_now(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in sorted(self.folder.glob("journal-*.log"))}

    def _enter(self, path: Path) -> None:
        heads = journal.heads(path)
        self._begin(path)
        for row in self._heads.extend(heads.packed):
            self._prefer(row)
        self.torn += heads.torn
        # One who holds the lock knows that nobody writes to this journal any more.
        if self._writer is not None and not heads.indexed:
            journal.save_index(path, heads.packed, heads.torn)
        self._lacks_index = self._lacks_index or not heads.indexed

    def _begin(self, path: Path) -> None:
        self._journals.append(path)
        self._starts.append(self._heads.rows)

    def _head(self, row: int) -> Head:
        return journal.head_at(self._heads.records, row)

    def _prefer(self, row: int) -> None:
        """Let an id stand for a later record of it where that is better; where it is as good, the earlier one stays.

        Of failures the later one stands: its cause is the one to mend.
        """
        new = self._head(row)
        known = self._head(self._heads.find(new.key))
        failed_again = FINISHES[new.rank] == FINISHES[known.rank] == "error"
        if failed_again or (new.rank, new.tokens, new.limit) > (known.rank, known.tokens, known.limit):
            self._heads.point(row)

    def __len__(self) -> int:
        return len(self._heads)

    def ids(self) -> Iterator[str]:
        """Every id with a record, errors too."""
        return (key.hex() for key in self._heads)

    def entry(self, trace_id: str) -> Entry | None:
        """What the index knows of an id, without reading a journal."""
        row = self._heads.find(bytes.fromhex(trace_id))
        if row < 0:
            return None
        head = self._head(row)
        return Entry(FINISHES[head.rank], head.tokens, head.limit)

    def mean_tokens(self) -> float | None:
        """The mean length of the completions, in tokens; None where there is none."""
        count = total = 0
        for head in map(self._head, self._heads.standing().tolist()):
            if FINISHES[head.rank] != "error":
                count += 1
                total += head.tokens
        return total / count if count else None

    def get(self, trace_id: str) -> dict[str, Any] | None:
        """The best record of an id: stop before length before error, then more tokens, then the first; the
        last of errors.
        """
        return next(self.rows([trace_id]), None)

    def rows(self, trace_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The best records of those ids that have one, in the order they lie on the disk.

        Raises ValueError that names file and line where one does not match its checksum.
        """
        places = []
        for key in map(bytes.fromhex, trace_ids):
            row = self._heads.find(key)
            if row >= 0:
                places.append((bisect(self._starts, row) - 1, self._head(row).offset, key))
        for number, some in groupby(sorted(places), key=itemgetter(0)):
            with open(self._journals[number], "rb") as file:
                for _, offset, key in some:
                    yield journal.record(file, offset, key)

    def append(self, record: dict[str, Any]) -> None:
        """Add a record with the keys of HEAD and any others. It survives a kill at once and a power cut SYNC_S later.

        Raises ValueError where the disk refuses it; what was appended before stays.
        """
        if self._writer is None:
            raise RuntimeError("this store is open for reading; append to it within its appending()")
        head = self._writer.append(record)
        if head.offset == 0:
            self._begin(self._writer.path)
        packed = head.packed()
        if not self._heads.add(packed):
            self._prefer(self._heads.append(packed))

    @contextmanager
    def appending(self) -> Iterator[None]:
        """Let this process alone append; all that was appended is on the disk at its end. Entered twice, it is once.

        Under the lock it looks again, so that no record is missed that another process appended since the store was
        opened. Raises lock.Locked where another process writes to it.
        """
        if self._writer is not None:
            yield
            return
        with lock.hold(self.folder / "lock", f"the completion store {self.folder}"):
            self._writer = Writer(self.folder)
            try:
                if self._lacks_index or self._sizes != self._sizes_now():
                    self._read()
                with closing(Labels(self.folder, writable=True)) as self.labels:
                    yield
            finally:
                self._close()

    def _close(self) -> None:
        """Bring all that was appended to the disk. Raises ValueError where the disk refuses."""
        writer, self._writer = self._writer, None
        if writer is not None:
            start = self._starts[-1] if self._journals[-1:] == [writer.path] else self._heads.rows
            writer.close(memoryview(self._heads.records)[start * journal.HEAD_BYTES :])


def partition(root: Path, weights: str) -> Path:
    """The folder of one model's completions."""
    return root / content_id("weights", weights)


@contextmanager
def writing(root: Path, weights: str) -> Iterator[Store]:
    """The store of `weights`, open for appending from the start (see `Store.appending`)."""
    store = Store(root, weights)
    with store.appending():
        yield store
