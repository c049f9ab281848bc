"""The bars of what traces take on the disk: a journal, and a journal with its Parquet shards, per serialised byte.

Run: python -m tests.bench.store_bytes [--rows 1000 10000 100000]. Made-up traces of some 300 tokens with their ids,
four samples a prompt (tests/traces.py), are appended to a store, read back from it and written as a stage's shards. The
unit is compact JSON in UTF-8 of each row of the traces (the columns of records.TRACE), one row a line; a journal's
index counts as a part of it. The last line is JSON; exit code 1 where a bar is missed at one of the sizes.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.records import TRACE
from pipeline.shards import as_table, write_shard
from pipeline.store import Store, partition, writing
from tests import bars, traces

JOURNAL_BAR, BOTH_BAR = 1.2, 1.8
WEIGHTS = traces.WEIGHTS
SHARD_ROWS = 50_000


def serialised(row: dict[str, Any]) -> Counter[str]:
    """The bytes of a row as a line of compact JSON, by column; their sum is the line's length."""
    sizes = Counter({"(braces)": 2})  # a brace and the newline; the other brace counts as the last column's comma
    for name in TRACE.names:
        text = json.dumps({name: row[name]}, ensure_ascii=False, separators=(",", ":"))
        sizes[name] = len(text.encode()) - 1
    return sizes


def batches(root: Path) -> Iterator[list[dict[str, Any]]]:
    """All rows of the store, a shard's at a time."""
    store = Store(root, WEIGHTS)
    rows = store.rows(list(store.ids()))
    while some := list(islice(rows, SHARD_ROWS)):
        yield [{name: row[name] for name in TRACE.names} for row in some]


def measure(count: int, folder: Path) -> dict[str, Any]:
    """Store and shard so many traces; returns their bytes, and the share of each column."""
    sizes: Counter[str] = Counter()
    with writing(folder / "store", WEIGHTS) as store:
        for record in traces.records(count):
            store.append(record)
            sizes.update(serialised(record))
    shards = [
        write_shard(folder / f"shards/traces-{number:05d}.parquet", as_table(rows, TRACE), folder)
        for number, rows in enumerate(batches(folder / "store"))
    ]
    assert sum(shard.rows for shard in shards) == count
    return {
        "rows": count,
        "serialised": sizes.total(),
        "journals": sum(path.stat().st_size for path in partition(folder / "store", WEIGHTS).iterdir()),
        "shards": sum(shard.bytes for shard in shards),
        "columns": {name: round(size / sizes.total(), 3) for name, size in sizes.most_common()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="sizes to measure")
    chosen = parser.parse_args()
    journal, both = [], []
    for count in chosen.rows:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(count, Path(folder))
        journal.append(found["journals"] / found["serialised"])
        both.append((found["journals"] + found["shards"]) / found["serialised"])
        bars.show(
            f"{count:,} rows: {found['serialised'] / count:,.0f} serialised bytes a row; journals {journal[-1]:.3f}, "
            f"with shards {both[-1]:.3f}; by column: {json.dumps(found['columns'])}"
        )
    return bars.end(
        bars.below_always("journal bytes over serialised bytes", journal, JOURNAL_BAR, rows=chosen.rows),
        bars.below_always("journal and shard bytes over serialised bytes", both, BOTH_BAR, rows=chosen.rows),
    )


if __name__ == "__main__":
    sys.exit(main())
