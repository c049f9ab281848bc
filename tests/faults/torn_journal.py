"""Journals cut short and journals with a flipped bit: what is lost, what is noticed, and what is named.

Run: python -m tests.faults.torn_journal [--records 40] [--bits 1] [--seed 1]. A journal is cut at every byte of its
last three records: all records before the cut must be read unchanged, and a writer that goes on must lose none of them
nor of its own. Then a bit is flipped in every byte, once as an editor would (the file's time changes) and once as a bad
disk would (it does not): reading all ids must fail, and name the file and the line. The last line is JSON; exit code 1
where a bar is missed.
"""

import argparse
import os
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.journal import index_path
from pipeline.store import Store, partition, writing
from tests import bars, traces

WEIGHTS = "weights"
Records = list[dict[str, Any]]


@dataclass
class Tally:
    """What a number of faults did."""

    tried: int = 0
    lost: int = 0  # whole records that were not found, or not unchanged
    unnoticed: int = 0  # flipped bits with which all ids were read without an error
    unnamed: int = 0  # errors without the file and the line
    wrong: int = 0  # rows that were returned and are not as they were written


def fill(root: Path, records: Records) -> None:
    """Append records in one writing session."""
    with writing(root, WEIGHTS) as store:
        for each in records:
            store.append(each)


def found(root: Path) -> dict[str, dict[str, Any]]:
    """All rows of a store."""
    store = Store(root, WEIGHTS)
    return {row["id"]: row for row in store.rows(list(store.ids()))}


def journals(root: Path) -> list[Path]:
    return sorted(partition(root, WEIGHTS).glob("journal-*.log"))


def cut(root: Path, records: Records, step: int = 1) -> Tally:
    """Cut the journal of `records` at every step-th byte of its last three; then a writer appends what is missing."""
    fill(root, records)
    path = journals(root)[0]
    whole, index = path.read_bytes(), index_path(path).read_bytes()
    stamp = path.stat().st_mtime_ns
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    by_id = {each["id"]: each for each in records}
    tally = Tally()
    for length in range(ends[-4], len(whole), step):
        path.write_bytes(whole[:length])
        index_path(path).write_bytes(index)  # what was written of the journal when it was whole
        os.utime(path, ns=(stamp, stamp))
        # A record that lost only its newline is whole.
        kept = records[: sum(end <= length + 1 for end in ends)]
        now = found(root)
        tally.tried += 1
        tally.lost += sum(now.get(each["id"]) != each for each in kept)
        tally.wrong += sum(by_id.get(key) != row for key, row in now.items())
        fill(root, records[len(kept) :])
        after = found(root)
        tally.lost += sum(after.get(each["id"]) != each for each in records)
        for later in journals(root)[1:]:
            later.unlink()
    return tally


def flip(root: Path, records: Records, bits: int, seed: int, quietly: bool) -> Tally:
    """Flip some bits of every byte, one at a time, and read all ids; quietly: the file's time of change stays."""
    fill(root, records)
    path = journals(root)[0]
    whole, stamp = path.read_bytes(), path.stat().st_mtime_ns
    by_id = {each["id"]: each for each in records}
    draw, tally, line = random.Random(seed), Tally(), 1
    for place, byte in enumerate(whole):
        for bit in draw.sample(range(8), bits):
            put(path, place, byte ^ 1 << bit)
            if quietly:
                os.utime(path, ns=(stamp, stamp))
            tally.tried += 1
            try:
                store = Store(root, WEIGHTS)
                for row in store.rows(list(store.ids())):
                    tally.wrong += by_id.get(row["id"]) != row
                tally.unnoticed += 1
            except ValueError as error:
                tally.unnamed += f"{path}, line {line}," not in str(error)
            put(path, place, byte)
        line += byte == 10
    return tally


def put(path: Path, place: int, byte: int) -> None:
    """Change one byte of a file; to write all of it anew would have some file systems sync it each time."""
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(bytes([byte]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=40, help="in the journal")
    parser.add_argument("--bits", type=int, default=1, help="flipped in each byte, one at a time")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    records = list(traces.records(chosen.records, mean_tokens=24, seed=chosen.seed))
    with tempfile.TemporaryDirectory() as folder:
        cuts = cut(Path(folder) / "cut", records)
        bars.show(f"cuts: {cuts}")
        flips = [
            flip(Path(folder) / f"flip-{quietly}", records, chosen.bits, chosen.seed, quietly)
            for quietly in (False, True)
        ]
        bars.show(f"flips: {flips}")
    tried = sum(each.tried for each in flips)
    return bars.end(
        bars.none("whole records lost to a cut journal", cuts.lost, cuts.tried),
        bars.none("wrong rows from a cut journal", cuts.wrong, cuts.tried),
        bars.none("flipped bits that went unnoticed", sum(each.unnoticed for each in flips), tried),
        bars.none("flipped bits without file and line in the error", sum(each.unnamed for each in flips), tried),
        bars.none("wrong rows from flipped bits", sum(each.wrong for each in flips), tried),
    )


if __name__ == "__main__":
    sys.exit(main())
