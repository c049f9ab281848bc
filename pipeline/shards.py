"""The only file that opens Parquet for writing; it also reads shards back and fingerprints their columns.

It does not know which stage writes, and decides nothing about names of datasets.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.digests import sha256
from pipeline.manifest import File, Shard, sync_folder, written

ROWS = 256  # made Python's at once: the ids of 10,000 tokens take 100 times the room there that they take in a table
_MODULUS = 1 << 128


def column_sums(table: pa.Table) -> dict[str, int]:
    """A fingerprint per column that no order, shard layout or worker count changes.

    For each column: the sum over rows of blake2b-128(id, value), modulo 2^128 (a multiset hash in the style of
    Bellare and Micciancio's AdHash), so that shards add up and new shards cost only themselves.
    """
    sums = dict.fromkeys(table.column_names, 0)
    for batch in table.to_batches(max_chunksize=ROWS):
        ids = batch.column("id").to_pylist()
        for name in sums:
            for row_id, value in zip(ids, batch.column(name).to_pylist(), strict=True):
                text = f"s{value}" if isinstance(value, str) else f"j{_canonical(value)}"
                digest = hashlib.blake2b(f"{row_id}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
                sums[name] += int.from_bytes(digest, "big")
    return {name: total % _MODULUS for name, total in sums.items()}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


def add_sums(shards: Sequence[Shard]) -> dict[str, str]:
    """The column fingerprints of the dataset that these shards make up."""
    totals: dict[str, int] = {}
    for shard in shards:
        for name, value in shard.columns.items():
            totals[name] = (totals.get(name, 0) + int(value, 16)) % _MODULUS
    return {name: f"{value:032x}" for name, value in totals.items()}


def same_sums(shard: Shard, sums: Mapping[str, int]) -> bool:
    """Whether the columns of a shard that are named here have these sums."""
    return all(shard.columns.get(name) == f"{value % _MODULUS:032x}" for name, value in sums.items())


def write_shard(path: Path, table: pa.Table, root: Path) -> Shard:
    """Write a table as one Parquet file: temporary file, fsync, rename, directory fsync. Returns its entry.

    `path` must be new; the entry's path is relative to `root`.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; a written shard never changes")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with written(path, partial):
        with open(partial, "wb") as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    entry = file_entry(path, root)
    return Shard(
        **entry.model_dump(),
        rows=table.num_rows,
        columns={name: f"{value:032x}" for name, value in column_sums(table).items()},
    )


def file_entry(path: Path, root: Path) -> File:
    """Path relative to root, size in bytes and sha256 of a file."""
    return File(path=str(path.relative_to(root)), bytes=path.stat().st_size, sha256=sha256(path))


def read_shard(root: Path, shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
    """A shard's rows. Raises ValueError where the file is missing, torn or of another length than its entry says."""
    path = root / shard.path
    fix = "Restore the file, or delete the stage's folder to rebuild it (completions in the store are kept)."
    if not path.exists():
        raise ValueError(f"{path} is missing; the manifest names it with {shard.rows} rows. {fix}")
    try:
        table = pq.read_table(path, columns=None if columns is None else list(columns), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}. {fix}") from error
    if table.num_rows != shard.rows or path.stat().st_size != shard.bytes:
        raise ValueError(
            f"{path} has {table.num_rows} rows in {path.stat().st_size} bytes; the manifest says {shard.rows} rows in "
            f"{shard.bytes} bytes. {fix}"
        )
    return table


def read_shards(root: Path, shards: Sequence[Shard], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The shards' tables, one after the other."""
    for shard in shards:
        yield read_shard(root, shard, columns)


def picked(tables: Iterable[pa.Table], ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The rows with these ids, by id; no other row becomes Python's."""
    wanted = pa.array(sorted(ids), pa.string())
    found: dict[str, dict[str, Any]] = {}
    for table in tables:
        rows = table.filter(pc.is_in(table.column("id"), value_set=wanted)).to_pylist()
        found |= {row["id"]: row for row in rows}
    return found


def as_table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows (dicts with the schema's keys) as a table of that schema."""
    return pa.Table.from_pylist(list(rows), schema=schema)
