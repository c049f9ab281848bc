"""A run's dataset of traces: what the completion stores hold of its samples, in the shards of before where they say
just that.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import pyarrow as pa

from pipeline import orders
from pipeline.key_index import KeyIndex
from pipeline.manifest import Shard
from pipeline.orders import Order, Sample
from pipeline.records import TRACE
from pipeline.shards import as_table, column_sums, same_sums
from pipeline.store import Store

# Columns known without reading a journal; of failed completions, which are few, what they failed of is read.
INDEXED = ("id", "problem_id", "teacher", "finish", "completion_tokens", "cause")


def enter(index: KeyIndex, table: pa.Table) -> None:
    """Add the ids of a table to an index."""
    for batch in table.to_batches(max_chunksize=4096):
        index.extend(bytes.fromhex("".join(batch.column("id").to_pylist())))


def _held(made: Iterable[tuple[Order, Store]]) -> Iterator[tuple[Order, Store, dict[str, Sample]]]:
    """What the stores hold of the orders' samples by their last ids, each once, some at a time.

    Of two problems with one prompt the first has its traces.
    """
    seen = KeyIndex()
    for order, store in made:
        rest = iter(orders.samples(order))
        while some := list(islice(rest, orders.ROWS)):
            named = ((orders.last_id(order, sample, store), sample) for sample in some)
            there = ((key, sample) for key, sample in named if store.entry(key) is not None)
            yield order, store, {key: sample for key, sample in there if seen.add(bytes.fromhex(key))}


def _indexed(order: Order, store: Store, some: Mapping[str, Sample]) -> pa.Table:
    """The columns INDEXED of the rows that `orders.stored` would read from a journal."""
    entries = [store.entry(key) for key in some]
    failed = [key for key, entry in zip(some, entries, strict=True) if entry and entry.finish == "error"]
    causes = {row["id"]: row["cause"] for row in store.rows(failed)}
    return pa.table(
        {
            "id": list(some),
            "problem_id": [sample.problem_id for sample in some.values()],
            "teacher": [order.role.label] * len(some),
            "finish": [entry and entry.finish for entry in entries],
            "completion_tokens": [entry and entry.tokens for entry in entries],
            "cause": [causes.get(key) for key in some],
        }
    )


def write(
    made: Sequence[tuple[Order, Store]],
    previous: Sequence[tuple[Shard, pa.Table]],
    keep: Callable[[Shard], None],
    put: Callable[[pa.Table], None],
) -> Counter[str]:
    """Hand on the traces of some orders: shards of before that hold what would be written now, then rows from the
    stores. Returns how many there are, by their finish.
    """
    kept = _keep(made, previous, keep)
    finishes: Counter[str] = Counter()
    for order, store, some in _held(made):
        finishes.update(entry.finish for entry in map(store.entry, some) if entry is not None)
        new = {key: sample for key, sample in some.items() if bytes.fromhex(key) not in kept}
        put(as_table(orders.stored(order, store, new), TRACE))
    return finishes


def _keep(
    made: Sequence[tuple[Order, Store]], previous: Sequence[tuple[Shard, pa.Table]], keep: Callable[[Shard], None]
) -> KeyIndex:
    """Take over the shards of before that are still right; returns the ids in them.

    Right is one that holds exactly the rows that would be written for its ids now, by its own fingerprints of the
    columns INDEXED.
    """
    before, kept = KeyIndex(), KeyIndex()
    starts = []
    for _, table in previous:
        starts.append(before.rows)
        enter(before, table)
    sums = [Counter(dict.fromkeys(INDEXED, 0)) for _ in previous]
    for order, store, some in _held(made) if previous else ():
        parts: dict[int, dict[str, Sample]] = {}
        for key, sample in some.items():
            row = before.find(bytes.fromhex(key))
            if row >= 0:
                parts.setdefault(bisect(starts, row) - 1, {})[key] = sample
        for number, part in parts.items():
            sums[number].update(column_sums(_indexed(order, store, part)))
    for (shard, table), found in zip(previous, sums, strict=True):
        if same_sums(shard, found):
            keep(shard)
            enter(kept, table)
    return kept
