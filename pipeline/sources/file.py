"""Problems from a local file: JSONL, CSV or Parquet, with a mapping of columns.

It keeps unusable rows as faulty candidates; a file that is missing or malformed is one SourceError with its line.
"""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import field_validator

from pipeline.digests import Digests
from pipeline.sources.candidate import Candidate, SourceError
from pipeline.sources.columns import RowSource, candidate, check_columns, nearest, undecodable

_ENDINGS = (".jsonl", ".csv", ".parquet")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A row and its place, "line 3"; the row is bytes where it is not UTF-8.
Row = tuple[str, dict[str, Any] | bytes]


class FileSource(RowSource):
    """A file with a problem a row."""

    unhashed: ClassVar[frozenset[str]] = frozenset({"path"})

    kind: Literal["file"]
    path: str  # .jsonl, .csv or .parquet; relative paths start at the project's folder
    name: str | None = None  # how the source is called in the data; null: the file's name

    @property
    def label(self) -> str:
        """How the source is called in the data."""
        return self.name or Path(self.path).name

    @field_validator("path")
    @classmethod
    def _has_a_known_ending(cls, path: str) -> str:
        if Path(path).suffix.lower() not in _ENDINGS:
            raise ValueError(f"{path!r} ends in none of {', '.join(_ENDINGS)}; convert it to one of them")
        return path


def candidates(source: FileSource, root: Path) -> Iterator[Candidate]:
    """A candidate a row, in the file's order. Raises SourceError where the file cannot be read as what it is."""
    path = existing(source, root)
    mapped = {column for column in source.columns.model_dump().values() if column is not None}
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".jsonl": _jsonl,
        ".csv": partial(_csv, mapped=mapped),
        ".parquet": partial(_parquet, mapped=mapped),
    }
    # Columns are looked for in every row: a JSONL row may leave out what it has no value for.
    rows = list(readers[path.suffix.lower()](path))
    readable = {place: row for place, row in rows if isinstance(row, dict)}
    if readable:
        first = "line 1" if path.suffix.lower() == ".csv" else next(iter(readable))
        found = {column for row in readable.values() for column in row}
        check_columns(source, found, readable.values(), f"{path}, {first}")
    elif not rows:
        raise SourceError(f"{path} holds no rows; expected a problem a row")
    for place, row in rows:
        if isinstance(row, bytes):
            yield undecodable(row, source, source.label, place)
        else:
            yield candidate(row, source, source.label, str(path), place)


def digest(source: FileSource, root: Path, known: Digests) -> str:
    """What decides the candidates: the file's content; "missing" where there is none."""
    path = _place(source, root)
    return known.of(path) if path.is_file() else "missing"


def existing(source: FileSource, root: Path) -> Path:
    """Where the file lies. Raises SourceError where there is none."""
    path = _place(source, root)
    if not path.is_file():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        what = "is not a file" if path.exists() else f"does not exist{nearest(path.name, beside)}"
        raise SourceError(f"{path} {what}. Give the problem file's path, absolute or relative to {root}")
    return path


def _place(source: FileSource, root: Path) -> Path:
    return root / Path(source.path).expanduser()


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_bytes().removeprefix(_BYTE_ORDER_MARK).split(b"\n"), start=1):
        place = f"line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield place, line
            continue
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"{path}, {place}: not JSON ({error}): {line[:80].decode('utf-8', 'replace')!r}. Expected one object a "
                "line; mend or delete the line"
            ) from error
        if not isinstance(row, dict):
            raise SourceError(
                f"{path}, {place}: a {type(row).__name__}; expected an object with a value for each column, such as "
                '{"text": "...", "answer": "..."}'
            )
        yield place, row


def _csv(path: Path, mapped: Collection[str]) -> Iterator[Row]:
    # Bad bytes pass through as lone surrogates, so that the other rows can be read around them.
    csv.field_size_limit(sys.maxsize)  # the module's own is 128 KiB, which a long document passes
    text = path.read_bytes().removeprefix(_BYTE_ORDER_MARK).decode("utf-8", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for row in reader:
            place, start = f"line {start}", reader.line_num + 1
            if not row:
                continue
            raw = ",".join(row).encode("utf-8", "surrogateescape")
            if header is None:
                header = row
                doubled = [name for name, count in Counter(header).items() if count > 1 and name in mapped]
                if doubled:
                    raise SourceError(
                        f"{path}, {place}: the column {doubled[0]!r} stands twice in the header; expected it once. "
                        f"Give one of them another name, or map another column"
                    )
                continue
            if len(row) != len(header):
                raise SourceError(
                    f"{path}, {place}: {len(row)} fields; the header has {len(header)}. Quote values that hold commas "
                    'or line ends: "..."'
                )
            broken = any("\udc80" <= sign <= "\udcff" for value in row for sign in value)
            yield place, raw if broken else dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise SourceError(
            f"{path}, line {start}: not CSV ({error}). Quote values with double quotes, doubled inside"
        ) from error
    if header is None:
        raise SourceError(f"{path} holds no rows; expected a header and a problem a row")


def _parquet(path: Path, mapped: Collection[str]) -> Iterator[Row]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{path} cannot be read as Parquet: {error}. Write the file again") from error
    # Parquet promises UTF-8 and pyarrow does not look: read text as bytes and decode it row by row. Other columns may
    # hold images or embeddings, and are nobody's text.
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(pa.large_binary()))
    for number, row in enumerate(table.to_pylist(), start=1):
        place = f"row {number}"
        try:
            yield (
                place,
                {
                    key: value.decode() if key in mapped and isinstance(value, bytes) else value
                    for key, value in row.items()
                },
            )
        except UnicodeDecodeError as error:
            yield place, error.object
