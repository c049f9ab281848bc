"""The completion store: append-only journals, one folder per weights, that outlive every run and are looked up by id.

It knows nothing of engines, prompts or runs, and never moves, rewrites or deletes a journal (`journal.py` has their
format).
"""

from array import array
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import journal, lock
from pipeline.journal import FINISHES, Head, Writer
from pipeline.label_journal import Labels
from pipeline.records import content_id


class Entry(NamedTuple):
    """What the index knows of an id's best record: finish, tokens, and the limit of tokens it was asked with."""

    finish: str
    tokens: int
    limit: int


class Store:
    """The completions of one model, as they were when it was opened, and what was appended through it since."""

    def __init__(self, root: Path, weights: str, writer: Writer | None = None, labels: Labels | None = None) -> None:
        """Index the journals that `root` holds for `weights` (the identity of a model's weights).

        Open it with `writing` to append: a writer holds the partition's lock. Raises ValueError that names file and
        line where a record does not match its checksum.
        """
        self.folder = partition(root, weights)
        self.torn = 0  # last lines cut short by a kill, which are ignored
        self.labels = labels or Labels(self.folder)
        self._writer = writer
        self._journals: list[Path] = []
        self._rows: dict[bytes, int] = {}
        # Columns in place of a million small objects.
        self._journal, self._offset = array("I"), array("Q")
        self._rank, self._tokens, self._limit = array("B"), array("I"), array("I")
        for path in sorted(self.folder.glob("journal-*.log")):
            self._enter(path)

    def _enter(self, path: Path) -> None:
        self._journals.append(path)
        heads = journal.heads(path)
        for head in heads:
            self._take(head)
        self.torn += heads.torn
        # One who holds the lock knows that nobody writes to this journal any more.
        if self._writer is not None and not heads.indexed:
            journal.save_index(path, heads.packed, heads.torn)

    def _take(self, head: Head) -> None:
        """Enter a record of the newest journal, unless the id has a better one, or as good a one, already."""
        row = self._rows.setdefault(head.key, len(self._offset))
        number = len(self._journals) - 1
        if row == len(self._offset):
            self._journal.append(number)
            self._offset.append(head.offset)
            self._rank.append(head.rank)
            self._tokens.append(head.tokens)
            self._limit.append(head.limit)
        elif (head.rank, head.tokens, head.limit) > (self._rank[row], self._tokens[row], self._limit[row]):
            self._journal[row], self._offset[row] = number, head.offset
            self._rank[row], self._tokens[row], self._limit[row] = head.rank, head.tokens, head.limit

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
        """The best records of those ids that have one, in the order they lie on the disk.

        Raises ValueError that names file and line where one does not match its checksum.
        """
        places = []
        for key in map(bytes.fromhex, trace_ids):
            row = self._rows.get(key)
            if row is not None:
                places.append((self._journal[row], self._offset[row], key))
        for number, some in groupby(sorted(places), key=itemgetter(0)):
            with open(self._journals[number], "rb") as file:
                for _, offset, key in some:
                    yield journal.record(file, offset, key)

    def append(self, record: dict[str, Any]) -> None:
        """Add a record with the keys of HEAD and any others. It survives a kill at once and a power cut SYNC_S later.

        Raises ValueError where the disk refuses it; what was appended before stays.
        """
        if self._writer is None:
            raise RuntimeError("this store was opened for reading; open it with store.writing()")
        head = self._writer.append(record)
        if head.offset == 0:
            self._journals.append(self._writer.path)
        self._take(head)


def partition(root: Path, weights: str) -> Path:
    """The folder of one model's completions."""
    return root / content_id("weights", weights)


@contextmanager
def writing(root: Path, weights: str) -> Iterator[Store]:
    """The store of `weights`, open for appending by this process alone; all appended is on the disk when it closes.

    Raises lock.Locked where another process writes to it.
    """
    folder = partition(root, weights)
    named = f"the completion store {folder}"
    with (
        lock.hold(folder / "lock", named),
        closing(Writer(folder)) as writer,
        closing(Labels(folder, writable=True)) as labels,
    ):
        store = Store(root, weights, writer, labels)  # indexed under the lock: no other writer's record is missed
        try:
            yield store
        finally:
            store._writer = None
