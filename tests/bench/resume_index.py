"""The bars of a resumed run's start: how long a store of a million finished completions takes to open, in what memory.

Run: python -m tests.bench.resume_index [--ids 1000000] [--opens 5] [--mean-tokens 300]. It needs about 3 KB of disk a
completion. Ten writers in turn append traces of some 300 tokens with their ids (tests/traces.py); the last one's
journal has no index, as after a kill. Each measurement is a process of its own that opens the store as a resumed run
does, and compares its peak resident memory with what it had before. `every_journal_read` are the same figures where no
journal has an index, which has no bar. Files lie in the page cache where memory allows. The last line is JSON; exit
code 1 where a bar is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from pipeline.records import content_id
from pipeline.store import Store, partition, writing
from tests import bars, traces

TIME_BAR_S, MEMORY_BAR_MB = 5.0, 250.0
ROOT = Path(__file__).resolve().parents[2]
WRITERS = 10
BODIES = 2000  # different texts, which the ids share in turn: the index sees only the ids


def fill(root: Path, count: int, mean_tokens: int) -> None:
    """A store of so many ids, written by WRITERS in turn."""
    bodies = cycle(list(traces.records(min(BODIES, count), mean_tokens=mean_tokens)))
    ids = (content_id("trace", number) for number in range(count))
    for _ in range(WRITERS):
        with writing(root, traces.WEIGHTS) as store:
            for trace_id in islice(ids, count // WRITERS):
                store.append({**next(bodies), "id": trace_id})


def opened(root: Path) -> dict[str, float]:
    """Open the store; returns the ids it has, the seconds it took and the MB by which peak memory rose."""
    before = memory_mb("VmRSS")
    begun = time.perf_counter()
    store = Store(root, traces.WEIGHTS)
    seconds = time.perf_counter() - begun
    return {"ids": len(store), "seconds": seconds, "mb": memory_mb("VmHWM") - before}


def memory_mb(key: str) -> float:
    """This process's resident memory (VmRSS), or the most it ever was (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024 / 1e6


def measure(root: Path, opens: int) -> list[dict[str, float]]:
    """What so many processes found, one after the other."""
    command = [sys.executable, "-m", "tests.bench.resume_index", "--open", str(root)]
    found = []
    for _ in range(opens):
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        bars.show(answer.stdout.strip())
        found.append(json.loads(answer.stdout))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=1_000_000, help="a multiple of ten")
    parser.add_argument("--opens", type=int, default=5)
    parser.add_argument("--mean-tokens", type=int, default=300, help="of a completion")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)  # a measuring process: open this store
    chosen = parser.parse_args()
    if chosen.open is not None:
        bars.show(json.dumps(opened(chosen.open)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fill(root, chosen.ids, chosen.mean_tokens)
        size = sum(path.stat().st_size for path in partition(root, traces.WEIGHTS).iterdir())
        bars.show(f"{chosen.ids:,} completions in {size / 1e9:.2f} GB")
        indexes = sorted(partition(root, traces.WEIGHTS).glob("*.index"))
        indexes.pop().unlink()
        resumed = measure(root, chosen.opens)
        for path in indexes:
            path.unlink()
        whole = measure(root, chosen.opens)
    assert {each["ids"] for each in resumed + whole} == {chosen.ids}

    def bar(name: str, key: str, limit: float) -> dict[str, Any]:
        unindexed = bars.below(name, [each[key] for each in whole], limit)
        more = {"ids": chosen.ids, "every_journal_read": [unindexed["value"], unindexed["spread"]]}
        return bars.below(name, [each[key] for each in resumed], limit, **more)

    return bars.end(
        bar("seconds to open the store", "seconds", TIME_BAR_S),
        bar("MB of memory that opening takes", "mb", MEMORY_BAR_MB),
    )


if __name__ == "__main__":
    sys.exit(main())
